//! One API server for all tests of this program that want one.

use std::sync::{Arc, Mutex, PoisonError};

use dynamicswap_cluster::control_plane::{ControlPlane, Options};

/// A control plane that starts when it is first asked for.
#[derive(Default)]
pub struct ApiServer(Mutex<Option<Result<Arc<ControlPlane>, String>>>);

impl ApiServer {
    /// The control plane; what went wrong if it could not be started.
    pub fn get(&self) -> Result<Arc<ControlPlane>, String> {
        let mut plane = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let start = || match ControlPlane::start(&Options::default()) {
            Ok(plane) => Ok(Arc::new(plane)),
            Err(error) => Err(format!("{error:#}")),
        };
        plane.get_or_insert_with(start).clone()
    }

    /// Ends it, once no test has it any more.
    pub fn stop(&self) {
        let mut plane = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        *plane = None;
    }
}
