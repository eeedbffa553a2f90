//! `cordon`, `uncordon`, `drain`: what a donor takes.

use anyhow::Result;
use dynamicswap_proto::control::v1::{Admission, AdmitRequest};

use crate::args::{DonorArgs, DrainArgs};
use crate::client::Client;

/// Closes a donor, or opens it.
///
/// # Errors
/// A refusal if there is no such donor.
pub fn set(args: &DonorArgs, admission: Admission, client: &mut Client) -> Result<()> {
    admit(&args.object, admission, 0, client)
}

/// Empties a donor.
///
/// # Errors
/// A refusal if there is no such donor.
pub fn drain(args: &DrainArgs, client: &mut Client) -> Result<()> {
    let within = args.within.as_duration().as_millis();
    let within = u64::try_from(within).unwrap_or(u64::MAX);
    admit(&args.donor.object, Admission::Draining, within, client)
}

fn admit(node: &str, admission: Admission, within_ms: u64, client: &mut Client) -> Result<()> {
    let request = AdmitRequest {
        node: node.to_owned(),
        admission: admission.into(),
        within_ms,
    };
    println!("{}", client.admit(request)?);
    Ok(())
}
