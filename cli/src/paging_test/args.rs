//! The options of `test`, their defaults and their words.

use clap::Args;
use dynamicswap_crds::PolicyDuration;
use dynamicswap_types::Bytes;

use crate::args::{PlaceArgs, parse_label};

/// Options of `test`.
#[derive(Debug, Clone, Args)]
pub struct TestArgs {
    /// Where DynamicSwap is.
    #[command(flatten)]
    pub place: PlaceArgs,
    /// The borrower; without it, the first whose swap device is attached and has room.
    #[arg(long, value_name = "NODE")]
    pub node: Option<String>,
    /// Where the job is made, and whose policies count.
    #[arg(short, long, default_value = "default")]
    pub namespace: String,
    /// Label of the pod, by which policies select it; may be given several times. Without one, the pod
    /// gets what the first policy in force asks for.
    #[arg(long = "label", value_name = "KEY=VALUE", value_parser = parse_label)]
    pub labels: Vec<(String, String)>,
    /// Memory that it needs, 64Mi to 64Gi; its container gets half of it.
    #[arg(long, value_name = "SIZE", default_value = "192Mi")]
    pub memory: Bytes,
    /// Time of random reads and rewrites, between the fill and the check of every page.
    #[arg(long = "for", value_name = "TIME", default_value = "20s")]
    pub churn: PolicyDuration,
    /// Longest time for all of it.
    #[arg(long, value_name = "TIME", default_value = "5m")]
    pub timeout: PolicyDuration,
    /// Its image; by default dynamicswap-workload from where the controller's image comes.
    #[arg(long, value_name = "IMAGE")]
    pub image: Option<String>,
}
