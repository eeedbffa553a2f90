//! The transport that this engine uses, whichever it is.

use dynamicswap_types::ServerIndex;

use super::local::LocalTransport;
use crate::transport::Transport;
use crate::transport::tcp::{LinkError, TcpTransport};

/// One of the transports.
pub enum Carrier {
    /// To memory servers over TCP.
    Tcp(Box<TcpTransport>),
    /// To memory of this machine.
    Local(Box<LocalTransport>),
}

impl Carrier {
    /// As the trait.
    pub fn transport(&mut self) -> &mut dyn Transport {
        match self {
            Self::Tcp(transport) => transport.as_mut(),
            Self::Local(transport) => transport.as_mut(),
        }
    }

    /// As the trait, to look at.
    #[must_use]
    pub fn as_transport(&self) -> &dyn Transport {
        match self {
            Self::Tcp(transport) => transport.as_ref(),
            Self::Local(transport) => transport.as_ref(),
        }
    }

    /// Why the link to a server last went down.
    #[must_use]
    pub fn last_error(&self, server: ServerIndex) -> Option<LinkError> {
        match self {
            Self::Tcp(transport) => transport.link_stats(server)?.last_error,
            Self::Local(_) => None,
        }
    }
}
