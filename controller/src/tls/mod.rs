//! Who is whom on a connection: authorities, the certificates that they sign, and the listener that
//! takes them.
//!
//! [`plan`] decides and is pure; the rest makes keys, reads files and shakes hands. Where the
//! authorities are kept is not its business.

mod authority;
mod error;
mod files;
mod listener;
mod peer;
pub mod plan;
mod service;

pub use authority::Authority;
pub use error::TlsError;
pub use files::{GivenAuthority, GivenFiles, bundle, certificates_in};
pub use listener::accept;
pub use peer::{Peer, address_of};
pub use service::{Credentials, Serving};
