//! Bad input: one clear sentence, exit code 2, and the machine as it was.

use std::net::TcpListener;
use std::process::{Command, Stdio};

use anyhow::{Context as _, Result, bail, ensure};
use dynamicswap_native_tests::cluster::{Cluster, dynamicswap};
use dynamicswap_native_tests::host;
use rustix::process::{Pid, Signal, kill_process};

/// A race with a cluster that is being started is won in this many attempts.
const ATTEMPTS_MAX: u32 = 5;

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

/// Hosts that lack something, and set-ups that are spoilt on the way.
pub fn spoilt_host() -> Result<()> {
    let before = machine()?;
    let up = format!(
        "{} up --name native-spoilt --donor-capacity 64Mi",
        host::program("dynamicswap")?.display()
    );
    // A root who may not mount, as in a container without privileges.
    refused_by_shell(
        &format!("setpriv --bounding-set=-sys_admin --inh-caps=-sys_admin {up}"),
        "root has no CAP_SYS_ADMIN here",
    )?;
    // Hosts without FUSE, in a mount namespace of their own.
    refused_by_shell(
        &format!("unshare -m sh -c 'mount --bind /dev/null /dev/fuse; exec {up}'"),
        "/dev/fuse is not the FUSE device",
    )?;
    refused_by_shell(
        &format!("unshare -m sh -c 'mount -t tmpfs none /dev; exec {up}'"),
        "this host has no FUSE",
    )?;
    donor_that_vanishes()?;
    stale_memory_files()?;
    ensure!(
        machine()? == before,
        "a refused command has changed the machine"
    );
    Ok(())
}

fn refused_by_shell(script: &str, cause: &str) -> Result<()> {
    let output = Command::new("sh")
        .args(["-c", script])
        .stdin(Stdio::null())
        .output()
        .context("cannot run sh")?;
    let said = String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned();
    let code = output.status.code();
    ensure!(code == Some(2), "{script}: exit code {code:?}: {said}");
    ensure!(
        said.contains(cause),
        "{script}: '{cause}' is not in: {said}"
    );
    ensure!(
        said.trim().lines().count() == 1,
        "more than one sentence: {said}"
    );
    Ok(())
}

/// A memory server is killed before the cluster is up.
fn donor_that_vanishes() -> Result<()> {
    const NAME: &str = "native-vanish";
    for _ in 0..ATTEMPTS_MAX {
        let mut up = Command::new(host::program("dynamicswap")?)
            .args(["up", "--name", NAME, "--donor-capacity", "256Mi"])
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .context("cannot run dynamicswap")?;
        // A look takes about a millisecond.
        while up.try_wait()?.is_none() {
            if kill_one("dynamicswap-memory-server", NAME, "donor-2") {
                break;
            }
        }
        let output = up.wait_with_output()?;
        let said = String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned();
        match output.status.code() {
            Some(2) => {
                let last = said.trim().lines().next_back().unwrap_or_default();
                let expected = "donor-2/memory-server was killed (signal: 9 (SIGKILL))";
                ensure!(last.contains(expected), "no word of it: {said}");
                return Ok(());
            }
            // It was up before the signal came.
            Some(0) => dynamicswap(&["down", "--name", NAME]).map(drop)?,
            other => bail!("exit code {other:?}: {said}"),
        }
    }
    bail!("the cluster was up before its donor was killed, {ATTEMPTS_MAX} times")
}

/// Kills one process of a cluster; whether there was one.
fn kill_one(program: &str, cluster: &str, node: &str) -> bool {
    let entries = std::fs::read_dir("/proc").into_iter().flatten().flatten();
    let pids = entries.filter_map(|entry| entry.file_name().to_str()?.parse::<i32>().ok());
    let found = pids.into_iter().find(|pid| {
        let line = host::command_line(*pid).unwrap_or_default();
        let is_program = line.first().is_some_and(|path| path.ends_with(program));
        is_program
            && line
                .iter()
                .any(|word| word.contains(&format!("/{cluster}/nodes/{node}/")))
    });
    let pid = found.and_then(Pid::from_raw);
    pid.is_some_and(|pid| kill_process(pid, Signal::KILL).is_ok())
}

/// What a reboot or a kill of everything leaves: the next start says so, and how to go on.
fn stale_memory_files() -> Result<()> {
    const NAME: &str = "native-stale";
    let mut cluster = Cluster::up(NAME, &["--donor-capacity", "64Mi"])?;
    cluster.kill_all()?;
    refused(
        &["up", "--name", NAME],
        "dynamicswap down --name native-stale",
    )?;
    cluster.down()
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
