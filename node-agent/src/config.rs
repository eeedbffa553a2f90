//! The command line, and the configuration that it is checked into.

use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::Parser;
use dynamicswap_types::{Bytes, FailureDomain, NodeName};
use thiserror::Error;
use tonic::transport::Endpoint;

use crate::cgroup::{CgroupError, Layout};
use crate::limits::{LOOK_EVERY_MS_MAX, REPORT_SPACING, SOCKET_PATH_MAX};
use crate::pressure::ContainerSource;

/// The node agent of DynamicSwap: watches the pressure of a node and its containers, reports to
/// the controller, and brings the controller's documents to the node's daemons.
#[derive(Debug, Parser)]
#[command(version, name = "dynamicswap-agent")]
pub struct Args {
    /// Name of this node.
    #[arg(long, value_name = "NAME")]
    node: NodeName,
    /// What fails together with this node, such as its rack.
    #[arg(long, value_name = "NAME")]
    failure_domain: FailureDomain,
    /// The controller.
    #[arg(long, value_name = "http://HOST:PORT")]
    controller: String,
    /// Directory for the kept document. Made if it does not exist.
    #[arg(long, value_name = "DIR")]
    state_dir: PathBuf,
    /// Control socket of swapd: this node borrows. One of the two sockets is needed.
    #[arg(long, value_name = "SOCKET")]
    swapd_socket: Option<PathBuf>,
    /// Control socket of the memory server: this node lends.
    #[arg(long, value_name = "SOCKET")]
    memory_server_socket: Option<PathBuf>,
    /// Memory that this node lends at the most, in all; without it, whatever the memory server has.
    ///
    /// Started again with less, the agent has what is lent beyond it moved elsewhere.
    #[arg(long, value_name = "SIZE", requires = "memory_server_socket")]
    lend_max: Option<Bytes>,
    /// Directory with a JSON file for each container to watch.
    #[arg(long, value_name = "DIR")]
    containers_dir: Option<PathBuf>,
    /// Where the host's cgroups are mounted: cgroup v2, or v1 with 'memory' and 'unified' below.
    #[arg(
        long,
        value_name = "DIR",
        default_value = "/sys/fs/cgroup",
        requires = "containers_dir"
    )]
    cgroup_root: PathBuf,
    /// Time between two looks at pressure in milliseconds; triggers come on top.
    #[arg(long, value_name = "MS", default_value_t = 1000)]
    look_every_ms: u64,
}

/// Why a command line is refused: what, to what, what next.
#[derive(Debug, Error)]
pub enum Refusal {
    /// Neither daemon is named.
    #[error(
        "this node has no role: name --swapd-socket if it borrows, --memory-server-socket if it \
         lends, or both"
    )]
    NoRole,
    /// The controller's address.
    #[error("--controller '{0}' is no address: write http://HOST:PORT")]
    Controller(String),
    /// A directory that must be there.
    #[error("{flag} {} is no directory: {remedy}", path.display())]
    NoDirectory {
        /// The flag.
        flag: &'static str,
        /// Its value.
        path: PathBuf,
        /// What next.
        remedy: &'static str,
    },
    /// The state directory.
    #[error("--state-dir {} cannot be used, choose a directory that can be written", path.display())]
    StateDir {
        /// Its value.
        path: PathBuf,
        /// What the host says.
        #[source]
        source: std::io::Error,
    },
    /// A path that no unix socket can have.
    #[error("{flag} {} is over {SOCKET_PATH_MAX} bytes long, which no unix socket can have: choose a shorter path", path.display())]
    SocketPath {
        /// The flag.
        flag: &'static str,
        /// Its value.
        path: PathBuf,
    },
    /// The look period.
    #[error("--look-every-ms {0} is out of range: write {min} to {LOOK_EVERY_MS_MAX}", min = REPORT_SPACING.as_millis())]
    LookEvery(u64),
    /// The cgroup root.
    #[error("--cgroup-root is of no use")]
    Cgroup(#[from] CgroupError),
}

/// What the agent runs with.
#[derive(Debug)]
pub struct Config {
    /// This node.
    pub node: NodeName,
    /// What fails together with it.
    pub failure_domain: FailureDomain,
    /// The controller.
    pub controller: Endpoint,
    /// The controller as it was written, for sentences.
    pub controller_name: String,
    /// Directory for the kept document; it exists.
    pub state_dir: PathBuf,
    /// Socket of swapd, on a borrower.
    pub swapd: Option<PathBuf>,
    /// Socket of the memory server, on a donor.
    pub memory_server: Option<PathBuf>,
    /// Memory that it lends at the most.
    pub lend_max: Option<Bytes>,
    /// Where containers are found, if any are watched.
    pub containers: Option<ContainerSource>,
    /// Time between two looks at pressure.
    pub look_every: Duration,
}

impl TryFrom<Args> for Config {
    type Error = Refusal;
    fn try_from(args: Args) -> Result<Self, Refusal> {
        if args.swapd_socket.is_none() && args.memory_server_socket.is_none() {
            return Err(Refusal::NoRole);
        }
        let controller = controller(&args.controller)?;
        let spacing_ms = u64::try_from(REPORT_SPACING.as_millis()).unwrap_or(u64::MAX);
        if !(spacing_ms..=LOOK_EVERY_MS_MAX).contains(&args.look_every_ms) {
            return Err(Refusal::LookEvery(args.look_every_ms));
        }
        check_socket("--swapd-socket", args.swapd_socket.as_deref())?;
        check_socket(
            "--memory-server-socket",
            args.memory_server_socket.as_deref(),
        )?;
        let containers = containers(args.containers_dir, &args.cgroup_root)?;
        usable(&args.state_dir).map_err(|source| Refusal::StateDir {
            path: args.state_dir.clone(),
            source,
        })?;
        Ok(Self {
            node: args.node,
            failure_domain: args.failure_domain,
            controller,
            controller_name: args.controller,
            state_dir: args.state_dir,
            swapd: args.swapd_socket,
            memory_server: args.memory_server_socket,
            lend_max: args.lend_max,
            containers,
            look_every: Duration::from_millis(args.look_every_ms),
        })
    }
}

fn controller(address: &str) -> Result<Endpoint, Refusal> {
    let refusal = || Refusal::Controller(address.to_owned());
    let endpoint = Endpoint::from_shared(address.to_owned()).map_err(|_| refusal())?;
    let uri = endpoint.uri();
    let is_plain = uri.path() == "/" && uri.query().is_none();
    let is_whole = uri.host().is_some_and(|host| !host.is_empty()) && uri.port_u16().is_some();
    if uri.scheme_str() == Some("http") && is_whole && is_plain {
        Ok(endpoint)
    } else {
        Err(refusal())
    }
}

fn check_socket(flag: &'static str, path: Option<&Path>) -> Result<(), Refusal> {
    match path {
        Some(path) if path.as_os_str().len() > SOCKET_PATH_MAX => Err(Refusal::SocketPath {
            flag,
            path: path.to_owned(),
        }),
        Some(_) | None => Ok(()),
    }
}

fn containers(
    directory: Option<PathBuf>,
    cgroup_root: &Path,
) -> Result<Option<ContainerSource>, Refusal> {
    let Some(directory) = directory else {
        return Ok(None);
    };
    let no_directory = |flag, path: &Path, remedy| Refusal::NoDirectory {
        flag,
        path: path.to_owned(),
        remedy,
    };
    if !directory.is_dir() {
        let remedy = "make it, or leave the flag out if no container shall be watched";
        return Err(no_directory("--containers-dir", &directory, remedy));
    }
    if !cgroup_root.is_dir() {
        let remedy = "name the directory where the host's cgroups are mounted";
        return Err(no_directory("--cgroup-root", cgroup_root, remedy));
    }
    let layout = Layout::probe(cgroup_root)?;
    Ok(Some(ContainerSource { directory, layout }))
}

/// Makes the directory and tries to write in it.
fn usable(directory: &Path) -> std::io::Result<()> {
    std::fs::create_dir_all(directory)?;
    let probe = directory.join("probe");
    std::fs::write(&probe, b"")?;
    std::fs::remove_file(&probe)
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory as _;

    use super::*;

    fn config(more: &[&str]) -> Result<Config, String> {
        let directory = tempfile::tempdir().expect("a directory");
        let state = directory.path().join("state").display().to_string();
        let mut line = vec!["agent", "--node", "n1", "--failure-domain", "r1"];
        line.extend(["--state-dir", &state]);
        let has = |flag: &str| more.contains(&flag);
        if !has("--controller") {
            line.extend(["--controller", "http://127.0.0.1:7700"]);
        }
        line.extend(more);
        let args = Args::try_parse_from(line).map_err(|error| error.to_string())?;
        Config::try_from(args).map_err(|error| format!("{:#}", anyhow::Error::from(error)))
    }

    const DONOR: [&str; 2] = ["--memory-server-socket", "/run/m.sock"];

    #[test]
    fn command_line_is_well_formed_and_shows_its_defaults() {
        Args::command().debug_assert();
        let help = Args::command().render_long_help().to_string();
        for default in ["[default: /sys/fs/cgroup]", "[default: 1000]"] {
            assert!(help.contains(default), "{help}");
        }
    }

    #[test]
    fn donor_needs_no_cgroups() {
        let config = config(&DONOR).expect("enough");
        assert!(config.containers.is_none() && config.swapd.is_none());
        assert_eq!(config.look_every, Duration::from_secs(1));
    }

    #[test]
    fn bad_input_is_refused_with_one_sentence_that_names_it() {
        let long = format!("/{}", "x".repeat(108));
        let cases: [(&[&str], &str); 10] = [
            (&[], "no role"),
            (&["--controller", "127.0.0.1:7700"], "'127.0.0.1:7700'"),
            (&["--controller", "https://c:7700"], "'https://c:7700'"),
            (&["--controller", "http://c"], "'http://c'"),
            (&["--controller", "http://c:1/path"], "http://HOST:PORT"),
            (&["--look-every-ms", "0"], "--look-every-ms 0"),
            (&["--look-every-ms", "60001"], "50 to 60000"),
            (&["--swapd-socket", &long], "--swapd-socket"),
            (&["--containers-dir", "/nonexistent"], "--containers-dir"),
            (
                &["--containers-dir", "/", "--cgroup-root", "/nonexistent"],
                "--cgroup-root /nonexistent",
            ),
        ];
        for (more, cause) in cases {
            let mut line = more.to_vec();
            if !more.is_empty() {
                line.extend(DONOR);
            }
            let sentence = config(&line).expect_err("bad input");
            assert!(sentence.contains(cause), "{more:?}: {sentence}");
            assert_eq!(sentence.lines().count(), 1, "{sentence}");
        }
    }

    #[test]
    fn cgroup_root_without_a_memory_controller_says_what_to_mount() {
        let directory = tempfile::tempdir().expect("a directory");
        let root = directory.path().display().to_string();
        let mut line = DONOR.to_vec();
        line.extend(["--containers-dir", &root, "--cgroup-root", &root]);
        let sentence = config(&line).expect_err("nothing there");
        assert!(sentence.contains("mount cgroup2"), "{sentence}");
    }

    #[test]
    fn cgroup_root_without_containers_is_refused() {
        let mut line = DONOR.to_vec();
        line.extend(["--cgroup-root", "/sys/fs/cgroup"]);
        let sentence = config(&line).expect_err("it would be ignored");
        assert!(sentence.contains("--containers-dir"), "{sentence}");
    }
}
