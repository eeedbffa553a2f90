//! `cordon`, `uncordon`, `drain`: what a donor takes.
//!
//! On Kubernetes the MemoryServer's `spec` says so, and is changed; elsewhere the controller is told.

use anyhow::Result;
use dynamicswap_crds::PolicyDuration;
use dynamicswap_proto::control::v1::{Admission, AdmitRequest};
use dynamicswap_proto::identity::Right;
use serde_json::json;

use crate::args::{DonorArgs, DrainArgs};
use crate::connect;

/// Kind of the object, as kubectl finds it whatever else is installed.
const KIND: &str = "memoryservers.dynamicswap.io";

/// Closes a donor, or opens it.
///
/// # Errors
/// A refusal if there is no such donor.
pub fn set(args: &DonorArgs, admission: Admission) -> Result<()> {
    admit(args, admission, None)
}

/// Empties a donor.
///
/// # Errors
/// A refusal if there is no such donor.
pub fn drain(args: &DrainArgs) -> Result<()> {
    admit(&args.donor, Admission::Draining, Some(args.within))
}

fn admit(args: &DonorArgs, admission: Admission, within: Option<PolicyDuration>) -> Result<()> {
    let node = args.object.as_str();
    if args.connect.kubernetes {
        let patch = patch(admission, within);
        let patched = ["patch", KIND, node, "--type=merge", "--patch", &patch];
        print!("{}", args.connect.place.place().ask(&patched)?);
        return Ok(());
    }
    let within = within.map_or(0, |within| within.as_duration().as_millis());
    let request = AdmitRequest {
        node: node.to_owned(),
        admission: admission.into(),
        within_ms: u64::try_from(within).unwrap_or(u64::MAX),
    };
    let (mut client, _) = connect(&args.connect, Right::Order)?;
    println!("{}", client.admit(request)?);
    Ok(())
}

/// What is changed of the object: null takes a drain back.
fn patch(admission: Admission, within: Option<PolicyDuration>) -> String {
    let drain = within.map(|within| json!({"within": within}));
    let spec = json!({"cordoned": admission != Admission::Open, "drain": drain});
    json!({ "spec": spec }).to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn object_says_what_was_decided_and_nothing_of_before() {
        let cordoned = r#"{"spec":{"cordoned":true,"drain":null}}"#;
        assert_eq!(patch(Admission::Cordoned, None), cordoned);
        let open = r#"{"spec":{"cordoned":false,"drain":null}}"#;
        assert_eq!(patch(Admission::Open, None), open);
        let drained = r#"{"spec":{"cordoned":true,"drain":{"within":"90s"}}}"#;
        let within = "90s".parse().expect("a duration");
        assert_eq!(patch(Admission::Draining, Some(within)), drained);
    }
}
