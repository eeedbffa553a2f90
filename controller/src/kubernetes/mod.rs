//! The controller in a Kubernetes cluster: who leads, what users wrote, what they are shown, who
//! may speak to it.
//!
//! Owns every request to the API server but the store's ([`crate::store::KubernetesStore`]).
//! Decides nothing about slabs.

mod certificates;
mod connect;
mod elect;
mod endpoint;
mod error;
mod lease;
mod publish;
mod resources;
mod review;
mod status;
mod tell;
mod watch;

pub use certificates::{Certificates, CertificatesError, Source};
pub use connect::{ConnectError, connect};
pub use endpoint::lead_here;
pub use error::{ApiError, with_cause, within};
pub use lease::{Leadership, acquire};
pub use publish::publish;
pub use resources::{FIELD_MANAGER, config_maps, group_objects};
pub use review::TokenReviewer;
pub use tell::tell;
pub use watch::{memory_servers, policies, policy_of};
