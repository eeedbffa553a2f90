//! The product in a cluster that is up: the chart by helm, a policy by kubectl.

use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use dynamicswap_cli::interrupt::Interrupt;

use crate::client::{Client, printed};

/// Where it is installed.
pub const NAMESPACE: &str = "dynamicswap-system";
/// The release's name.
pub(crate) const RELEASE: &str = "dynamicswap";
/// What lends memory and what borrows it.
const LABELS: [&str; 2] = ["dynamicswap.io/borrower=true", "dynamicswap.io/donor=true"];
/// The controller answers within it; its pods are the last that a busy node starts.
const WHOLE_TIME_MAX: Duration = Duration::from_secs(600);
/// Time between two looks.
const LOOK_EVERY: Duration = Duration::from_secs(2);

/// The label of the node with this number: the first borrows, the others lend.
#[must_use]
pub fn label(number: u8) -> &'static str {
    LABELS[usize::from(number > 1)]
}

/// A file of the sources.
pub(crate) fn source(path: &str) -> String {
    format!("{}/../../{path}", env!("CARGO_MANIFEST_DIR"))
}

/// Installs the chart, applies the example's policy, and waits until no agent, donor, device or
/// copy is missing.
///
/// # Errors
/// With the step that failed and what it said.
pub fn install(client: &Client, interrupt: &Interrupt) -> Result<()> {
    let begun = Instant::now();
    client.kubectl(&["create", "namespace", NAMESPACE])?;
    let privileged = "pod-security.kubernetes.io/enforce=privileged";
    client.kubectl(&["label", "namespace", NAMESPACE, privileged])?;
    let chart = source("charts/dynamicswap");
    let values = source("tests/cluster/values.yaml");
    let install = [
        "install",
        RELEASE,
        &chart,
        "--namespace",
        NAMESPACE,
        "--values",
        &values,
    ];
    printed("helm", &install, client.helm(&install)?)?;
    apply_policy(client)?;
    eprintln!(
        "the chart is installed and a policy applied after {} s",
        begun.elapsed().as_secs()
    );
    wait_whole(client, interrupt)?;
    eprintln!(
        "every donor and every device is ready after {} s",
        begun.elapsed().as_secs()
    );
    Ok(())
}

/// Applies the policy that lets pods with `app: verify` swap.
///
/// # Errors
/// If the API server refuses it, with what it said.
pub(crate) fn apply_policy(client: &Client) -> Result<()> {
    let file = source("crds/examples/verify.yaml");
    let policy = std::fs::read_to_string(&file).with_context(|| format!("cannot read {file}"))?;
    client.apply(&policy).map(drop)
}

/// Waits until each labelled node's memory server or swap device is shown as ready, and each device
/// as attached.
fn wait_whole(client: &Client, interrupt: &Interrupt) -> Result<()> {
    let begun = Instant::now();
    let wanted = LABELS.map(|label| count(client, &["get", "nodes", "--selector", label]));
    let ready = "{range .items[*]}{.status.conditions[?(@.type=='Ready')].status} {end}";
    let attached = "{range .items[*]}{.status.attached} {end}";
    let says = |kind: &str, path: &str, word: &str| {
        let path = format!("jsonpath={path}");
        let said = client.kubectl(&["get", kind, "--output", &path]);
        let said = said.unwrap_or_default();
        said.split_whitespace().filter(|it| *it == word).count()
    };
    loop {
        let devices = says("swapdevices", attached, "true");
        let donors = says("memoryservers", ready, "True");
        if [devices, donors] == wanted {
            return Ok(());
        }
        ensure!(
            begun.elapsed() < WHOLE_TIME_MAX,
            "after {WHOLE_TIME_MAX:?} there are {devices} of {} devices attached and {donors} of {} \
             donors ready",
            wanted[0],
            wanted[1]
        );
        interrupt.wait(LOOK_EVERY)?;
    }
}

/// How many objects kubectl lists; none if it fails.
fn count(client: &Client, arguments: &[&str]) -> usize {
    let names = [arguments, &["--output", "name"]].concat();
    client
        .kubectl(&names)
        .map_or(0, |said| said.lines().count())
}
