//! The gRPC services: they check messages and hand them to the owner; they hold no state.

mod operator;
mod session;

pub use operator::OperatorService;
pub use session::SessionService;

use tonic::Status;

/// The answer when the owner is gone, which happens only while the controller stops.
fn stopping() -> Status {
    Status::unavailable("the controller stops: try again later")
}
