//! The controller in a Kubernetes cluster: who leads, what users wrote, what they are shown.
//!
//! Owns every request to the API server but the store's ([`crate::store::KubernetesStore`]).
//! Decides nothing about slabs.

mod elect;
mod endpoint;
mod error;
mod lease;
mod publish;
mod resources;
mod status;
mod tell;
mod watch;

pub use endpoint::lead_here;
pub use error::{ApiError, within};
pub use lease::{Leadership, acquire};
pub use publish::publish;
pub use resources::{FIELD_MANAGER, config_maps, group_objects};
pub use tell::tell;
pub use watch::{memory_servers, policies, policy_of};
