//! What this host can do, and whether that is enough.

use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, ensure};
use dynamicswap_workload::layer;

/// Name of this layer in `DYNAMICSWAP_REQUIRE`.
const LAYER: &str = "native";

/// Set by `cargo xtask test`, which has built every program and counts what ran.
const ASKED: &str = "DYNAMICSWAP_NATIVE";

/// Whether they are run by a step of their own, and not by this one.
#[must_use]
pub fn is_run_apart() -> bool {
    layer::is_run_apart(ASKED)
}

/// Why the native tests cannot run here; none if they can.
#[must_use]
pub fn missing() -> Option<String> {
    if std::env::var_os(ASKED).is_none() {
        return Some(format!(
            "they take over this machine's swap, which a plain 'cargo test' does not: \
             run 'cargo xtask test --only native', or set {ASKED}=1"
        ));
    }
    if !rustix::process::geteuid().is_root() {
        return Some("they need root, for swapon and cgroups".to_owned());
    }
    if !Path::new("/dev/fuse").exists() {
        return Some("this host has no /dev/fuse".to_owned());
    }
    let swaps = std::fs::read_to_string("/proc/swaps").unwrap_or_default();
    if swaps.lines().count() > 1 {
        return Some("swap is on already: pages would go there ('swapoff -a' first)".to_owned());
    }
    None
}

/// Whether the environment says that this layer must run.
#[must_use]
pub fn is_required() -> bool {
    layer::is_required(LAYER)
}

/// A program of the product, built in the same profile as this test.
///
/// # Errors
/// If it is not there.
pub fn program(name: &str) -> Result<PathBuf> {
    let own = std::env::current_exe().context("cannot tell where this test is")?;
    let directory = own
        .ancestors()
        .nth(2)
        .context("the test lies in no target directory")?;
    let path = directory.join(name);
    ensure!(
        path.exists(),
        "{} is missing: 'cargo build --workspace --all-targets' makes it",
        path.display()
    );
    Ok(path)
}

/// Command line of a living process.
///
/// # Errors
/// If there is no such process.
pub fn command_line(pid: i32) -> Result<Vec<String>> {
    let path = format!("/proc/{pid}/cmdline");
    let bytes = std::fs::read(&path).with_context(|| format!("cannot read {path}"))?;
    let words = bytes
        .split(|byte| *byte == 0)
        .filter(|word| !word.is_empty());
    Ok(words
        .map(|word| String::from_utf8_lossy(word).into_owned())
        .collect())
}
