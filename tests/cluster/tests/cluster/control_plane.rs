//! A control plane alone: it comes up, works, and goes without a trace.

use std::io::{BufRead as _, BufReader};
use std::net::TcpStream;
use std::path::PathBuf;
use std::process::{Command, ExitCode, Stdio};
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use dynamicswap_cli::process::ProcessRecord;
use dynamicswap_cluster::control_plane::{ControlPlane, Options};

/// Set for the process that a test kills: this program once more.
const OWNER: &str = "DYNAMICSWAP_CLUSTER_OWNER";
/// What that process is to put its control plane into.
const OWNER_FOLDER: &str = "DYNAMICSWAP_CLUSTER_OWNER_FOLDER";
/// A process whose owner was killed ends within it.
const END_TIME_MAX: Duration = Duration::from_secs(10);

pub fn object_is_read_back(plane: &ControlPlane) -> Result<()> {
    let client = plane.client();
    client.apply(
        r#"{"apiVersion": "v1", "kind": "ConfigMap",
            "metadata": {"name": "read-back"}, "data": {"word": "kept"}}"#,
    )?;
    let read = [
        "get",
        "configmap",
        "read-back",
        "-o",
        "jsonpath={.data.word}",
    ];
    let word = client.kubectl(&read)?;
    ensure!(word == "kept", "read back: '{word}'");
    client.kubectl(&["delete", "configmap", "read-back"])?;
    let gone = client.kubectl(&read).err().context("it is still there")?;
    ensure!(format!("{gone:#}").contains("NotFound"), "{gone:#}");
    // From this host's own network, by the kubeconfig alone, as any client library does.
    let version = Command::new(client.program("kubectl"))
        .arg("--kubeconfig")
        .arg(plane.kubeconfig())
        .args(["version", "--cache-dir"])
        .arg(client.file("cache"))
        .output()
        .context("cannot start kubectl")?;
    let said = String::from_utf8_lossy(&version.stdout);
    ensure!(said.contains("Server Version: v1.36"), "{said}");
    Ok(())
}

pub fn dropped_leaves_nothing() -> Result<()> {
    let plane = ControlPlane::start(&Options::default())?;
    object_is_read_back(&plane)?;
    let processes = plane.processes();
    ensure!(processes.len() == 4, "{} processes", processes.len());
    let folder = plane.client().folder.clone();
    let address = address(plane.endpoint())?;
    TcpStream::connect(&address).context("nobody listens")?;
    drop(plane);
    for process in &processes {
        ensure!(!process.is_alive(), "{} still lives", process.name);
    }
    ensure!(!folder.exists(), "{} is still there", folder.display());
    ensure!(
        TcpStream::connect(&address).is_err(),
        "somebody still listens at {address}"
    );
    Ok(())
}

pub fn killed_owner() -> Result<()> {
    let folder = tempfile::tempdir().context("cannot make a folder")?;
    let mut owner = Command::new(std::env::current_exe().context("no program")?)
        .env(OWNER, "1")
        .env(OWNER_FOLDER, folder.path().join("plane"))
        .stdout(Stdio::piped())
        .spawn()
        .context("cannot start this program")?;
    let output = owner
        .stdout
        .take()
        .context("standard output is not piped")?;
    let mut line = String::new();
    let read = BufReader::new(output).read_line(&mut line);
    let killed = owner.kill().and_then(|()| owner.wait());
    read.context("the owner said nothing")?;
    killed.context("the owner could not be killed")?;
    let processes: Vec<ProcessRecord> =
        serde_json::from_str(&line).with_context(|| format!("the owner said '{line}'"))?;
    ensure!(processes.len() == 4, "{} processes", processes.len());
    for process in &processes {
        ensure!(
            process.wait_end(END_TIME_MAX),
            "{} outlives its owner",
            process.name
        );
    }
    Ok(())
}

/// Whether this process is the one that [`killed_owner`] kills.
pub fn is_owner_to_kill() -> bool {
    std::env::var_os(OWNER).is_some()
}

/// Starts a control plane, tells its processes, and waits to be killed.
pub fn be_owner_to_kill() -> ExitCode {
    let options = Options {
        folder: std::env::var_os(OWNER_FOLDER).map(PathBuf::from),
        ..Options::default()
    };
    match ControlPlane::start(&options) {
        Ok(plane) => {
            let records = serde_json::to_string(&plane.processes()).unwrap_or_default();
            println!("{records}");
            // Not for ever: whoever was to kill it may have been killed.
            std::thread::park_timeout(Duration::from_secs(60));
            ExitCode::FAILURE
        }
        Err(error) => {
            println!("{error:#}");
            ExitCode::FAILURE
        }
    }
}

/// The address of an endpoint.
fn address(endpoint: &str) -> Result<String> {
    let address = endpoint.strip_prefix("https://");
    Ok(address.context("no endpoint")?.to_owned())
}
