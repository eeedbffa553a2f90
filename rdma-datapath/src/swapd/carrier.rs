//! The transport that this engine uses, whichever it is.

use dynamicswap_types::ServerIndex;

use super::local::LocalTransport;
use crate::transport::remote::{Endpoint, RemoteTransport, Way};
use crate::transport::{LinkError, Transport};

/// One of the transports.
pub enum Carrier {
    /// To memory servers, by RDMA or TCP.
    Remote(Box<RemoteTransport>),
    /// To memory of this machine.
    Local(Box<LocalTransport>),
}

impl Carrier {
    /// As the trait.
    pub fn transport(&mut self) -> &mut dyn Transport {
        match self {
            Self::Remote(transport) => transport.as_mut(),
            Self::Local(transport) => transport.as_mut(),
        }
    }

    /// As the trait, to look at.
    #[must_use]
    pub fn as_transport(&self) -> &dyn Transport {
        match self {
            Self::Remote(transport) => transport.as_ref(),
            Self::Local(transport) => transport.as_ref(),
        }
    }

    /// Says where a server is, or that it is no longer used.
    pub fn set_endpoint(&mut self, server: ServerIndex, endpoint: Option<Endpoint>) {
        match self {
            Self::Remote(transport) => transport.set_endpoint(server, endpoint),
            Self::Local(transport) => {
                transport.set_server(server, endpoint.map(|endpoint| endpoint.tcp));
            }
        }
    }

    /// Why the link to a server last went down.
    #[must_use]
    pub fn last_error(&self, server: ServerIndex) -> Option<LinkError> {
        match self {
            Self::Remote(transport) => transport.last_error(server),
            Self::Local(_) => None,
        }
    }

    /// Which way leads to a server.
    #[must_use]
    pub fn way(&self, server: ServerIndex) -> Option<Way> {
        match self {
            Self::Remote(transport) => transport.way(server),
            Self::Local(_) => None,
        }
    }
}
