//! What this host can do, and whether the tests of this layer are to run.

use dynamicswap_workload::layer;

/// Name of this layer in `DYNAMICSWAP_REQUIRE`.
const LAYER: &str = "cluster";

/// Set by `cargo xtask test`, which counts what ran.
const ASKED: &str = "DYNAMICSWAP_CLUSTER";

/// Whether they are run by a step of their own, and not by this one.
#[must_use]
pub fn is_run_apart() -> bool {
    layer::is_run_apart(ASKED)
}

/// Why the cluster's tests cannot run here; none if they can.
#[must_use]
pub fn missing() -> Option<String> {
    if std::env::var_os(ASKED).is_none() {
        return Some(format!(
            "they build Kubernetes the first time, which a plain 'cargo test' does not: run \
             'cargo xtask test --only cluster', or set {ASKED}=1"
        ));
    }
    if !rustix::process::geteuid().is_root() {
        return Some("they need root, for network namespaces".to_owned());
    }
    None
}

/// Whether the environment says that this layer must run.
#[must_use]
pub fn is_required() -> bool {
    layer::is_required(LAYER)
}
