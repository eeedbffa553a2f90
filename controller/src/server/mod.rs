//! The gRPC services: they check messages and hand them to the owner; they hold no state.

mod access;
mod door;
mod enrollment;
mod operator;
mod session;
mod token;

#[cfg(test)]
mod tests;

pub use access::Access;
pub use door::{Lock, serve};
pub use enrollment::EnrollmentService;
pub use operator::OperatorService;
pub use session::SessionService;
pub use token::{OPERATIONS, Reviewed, Reviewer};

use tonic::Status;

/// The answer when the owner is gone, which happens only while the controller stops.
fn stopping() -> Status {
    Status::unavailable("the controller stops: try again later")
}
