//! Bad input: one clear sentence, exit code 2, and the machine as it was.

use std::net::TcpListener;

use anyhow::{Context as _, Result, ensure};
use dynamicswap_native_tests::cluster::{Cluster, dynamicswap};

/// Runs a command that must be refused with exit code 2 and one sentence that names the cause.
fn refused(args: &[&str], cause: &str) -> Result<()> {
    let (code, said) = dynamicswap(args)?;
    let sentence = said.trim();
    ensure!(
        code == 2,
        "dynamicswap {}: exit code {code}: {sentence}",
        args.join(" ")
    );
    ensure!(
        sentence.contains(cause),
        "dynamicswap {}: '{cause}' is not in: {sentence}",
        args.join(" ")
    );
    ensure!(!sentence.contains("panicked"), "{sentence}");
    Ok(())
}

fn machine() -> Result<(String, usize)> {
    let swaps = std::fs::read_to_string("/proc/swaps").context("cannot read /proc/swaps")?;
    let mounts = std::fs::read_to_string("/proc/mounts").context("cannot read /proc/mounts")?;
    Ok((
        swaps,
        mounts
            .lines()
            .filter(|line| line.contains("dynamicswap"))
            .count(),
    ))
}

pub fn bad_input() -> Result<()> {
    let before = machine()?;
    refused(&["up", "--name", "native-bad", "--device-size", "12"], "12")?;
    refused(&["up", "--name", "native-bad", "--slab", "3Mi"], "3Mi")?;
    refused(
        &["up", "--name", "native-bad", "--donor-capacity", "900Gi"],
        "900Gi",
    )?;
    refused(&["up", "--name", "Bad Name"], "Bad Name")?;
    refused(&["status", "--name", "native-none"], "native-none")?;
    refused(&["down", "--name", "native-none"], "native-none")?;
    let taken = TcpListener::bind("127.0.0.1:0").context("cannot listen")?;
    let port = taken.local_addr()?.port().to_string();
    refused(
        &["up", "--name", "native-bad", "--controller-port", &port],
        &port,
    )?;
    ensure!(
        machine()? == before,
        "a refused command has changed the machine"
    );

    bad_documents()?;
    ensure!(machine()? == before, "the cluster has left something");
    Ok(())
}

/// What a running cluster refuses.
fn bad_documents() -> Result<()> {
    let cluster = Cluster::up("native-input", &["--donor-capacity", "64Mi"])?;
    refused(&["up", "--name", "native-input"], "native-input")?;
    let directory = cluster.paths.root().join("bad");
    std::fs::create_dir_all(&directory)?;
    let policy = |spec: &str| {
        format!(
            "apiVersion: dynamicswap.io/v1alpha1\nkind: RemoteMemoryPolicy\nmetadata:\n  name: bad\nspec:\n{spec}\n"
        )
    };
    let files = [
        (
            "unknown.yaml",
            policy("  podSelector: {}\n  copis: 2"),
            "copis",
        ),
        (
            "copies.yaml",
            policy("  podSelector: {}\n  durability: {copies: 9, spill: None}"),
            "9",
        ),
        (
            "kind.yaml",
            "apiVersion: dynamicswap.io/v1alpha1\nkind: Pod\nmetadata: {name: x}\n".to_owned(),
            "Pod",
        ),
        (
            "version.yaml",
            "apiVersion: v1\nkind: Pod\nmetadata: {name: x}\n".to_owned(),
            "write dynamicswap.io/v1alpha1",
        ),
        ("text.yaml", "{ not yaml".to_owned(), "line"),
    ];
    for (name, content, cause) in files {
        let path = directory.join(name);
        std::fs::write(&path, content)?;
        refused(
            &[
                "apply",
                "--name",
                "native-input",
                "-f",
                &path.display().to_string(),
            ],
            cause,
        )?;
    }
    refused(
        &["apply", "--name", "native-input", "-f", "/nonexistent.yaml"],
        "/nonexistent.yaml",
    )?;
    refused(&["get", "nonsense", "--name", "native-input"], "nonsense")?;
    cluster.down()
}
