//! The command line, and the configuration that it is checked into.

use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::{ArgGroup, Parser, Subcommand};
use dynamicswap_types::{Bytes, FailureDomain, NameError, NodeName};
use thiserror::Error;
use tonic::transport::Endpoint;

use crate::cgroup::{CgroupError, Layout};
use crate::credentials::Credentials;
use crate::kubernetes::Station;
use crate::limits::{LOOK_EVERY_MS_MAX, REPORT_SPACING, SOCKET_PATH_MAX};

/// The node agent of DynamicSwap: watches the pressure of a node and its containers, decides who
/// may swap, reports to the controller, and brings the controller's documents to the node's
/// daemons.
#[derive(Debug, Parser)]
#[command(
    version,
    name = "dynamicswap-agent",
    args_conflicts_with_subcommands = true,
    subcommand_negates_reqs = true
)]
pub struct Cli {
    /// What to do instead of running.
    #[command(subcommand)]
    pub command: Option<Task>,
    /// What to run with.
    #[command(flatten)]
    pub run: Option<Args>,
}

/// What is done and over.
#[derive(Debug, Subcommand)]
pub enum Task {
    /// Puts back every memory.swap.max that the agent has changed. For when it will not run again:
    /// detach the swap device and stop the agent first.
    Restore(RestoreArgs),
}

/// Where the agent kept what limits were.
#[derive(Debug, clap::Args)]
pub struct RestoreArgs {
    /// The agent's directory.
    #[arg(long, value_name = "DIR")]
    pub state_dir: PathBuf,
    /// Where the host's cgroups are mounted: cgroup v2.
    #[arg(long, value_name = "DIR", default_value = "/sys/fs/cgroup")]
    pub cgroup_root: PathBuf,
}

/// The command line of an agent that runs.
#[derive(Debug, clap::Args)]
#[command(group = ArgGroup::new("cgroups").multiple(true))]
pub struct Args {
    /// Name of this node.
    #[arg(long, value_name = "NAME")]
    node: NodeName,
    /// What fails together with this node, such as its rack.
    #[arg(
        long,
        value_name = "NAME",
        required_unless_present = "kubernetes",
        conflicts_with = "kubernetes"
    )]
    failure_domain: Option<FailureDomain>,
    /// The controller: http:// on this machine, https:// elsewhere.
    #[arg(long, value_name = "http[s]://HOST:PORT")]
    controller: String,
    /// Who has signed the controller's certificate, PEM; for --controller https://. Read anew for each
    /// connection: it may come later, and change.
    #[arg(long, value_name = "FILE")]
    tls_ca: Option<PathBuf>,
    /// This pod's service account token for the audience dynamicswap-controller: the controller signs a
    /// certificate for the node on which the pod runs.
    #[arg(
        long,
        value_name = "FILE",
        requires = "tls_ca",
        conflicts_with = "tls_cert"
    )]
    enroll_token: Option<PathBuf>,
    /// This agent's certificate, with the URI dynamicswap://node/NAME; PEM.
    #[arg(long, value_name = "FILE", requires_all = ["tls_ca", "tls_key"])]
    tls_cert: Option<PathBuf>,
    /// Its key.
    #[arg(long, value_name = "FILE", requires = "tls_cert")]
    tls_key: Option<PathBuf>,
    /// Directory for the kept document. Made if it does not exist.
    #[arg(long, value_name = "DIR")]
    state_dir: PathBuf,
    /// The node is one of a Kubernetes cluster: its pods' containers are watched and may swap as
    /// policies say, and its labels choose roles (dynamicswap.io/borrower=true,
    /// dynamicswap.io/donor=true) and failure domain (dynamicswap.io/failure-domain, else the
    /// node's name). The sockets then say where the daemons would be.
    #[arg(long, group = "cgroups", conflicts_with = "containers_dir")]
    kubernetes: bool,
    /// Attach the swap device even if the kubelet's failSwapOn cannot be read.
    #[arg(long, requires = "kubernetes", conflicts_with = "failure_domain")]
    allow_unknown_kubelet: bool,
    /// Address of this node, where its kubelet is asked for its configuration if the API server
    /// does not pass the question on.
    #[arg(long, value_name = "IP", env = "NODE_IP")]
    kubelet_address: Option<IpAddr>,
    /// Keep memory.swap.max of system.slice, user.slice, init.scope and runtime.slice at 0 from
    /// before the swap device is attached. --kubernetes does so in any case.
    #[arg(long, group = "cgroups")]
    keep_system_slices_off: bool,
    /// Put back every memory.swap.max that was changed when told to stop. Without it, a restarted
    /// agent goes on where this one stopped.
    #[arg(long)]
    restore_on_stop: bool,
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
    #[arg(long, value_name = "DIR", group = "cgroups")]
    containers_dir: Option<PathBuf>,
    /// Where the host's cgroups are mounted: cgroup v2, or v1 with 'memory' and 'unified' below.
    #[arg(
        long,
        value_name = "DIR",
        default_value = "/sys/fs/cgroup",
        requires = "cgroups"
    )]
    cgroup_root: PathBuf,
    /// Where Prometheus may ask: GET /metrics. Without it nobody may.
    #[arg(long, value_name = "IP:PORT")]
    metrics_listen: Option<SocketAddr>,
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
    #[error("--controller '{0}' is no address: write http://HOST:PORT or https://HOST:PORT")]
    Controller(String),
    /// TLS without what it needs.
    #[error(
        "--controller https:// needs --tls-ca with who has signed the controller's certificate, and \
         what this agent shows: --enroll-token on Kubernetes, else --tls-cert and --tls-key"
    )]
    NoCredentials,
    /// What TLS needs, without TLS.
    #[error("--tls-ca is of no use with http://: write --controller https://HOST:PORT")]
    PlainController,
    /// A node whose labels want a daemon that no flag names.
    #[error(
        "node {node} is a {role} by its labels, and {flag} does not say where its daemon would \
         be: name it, or take the label away"
    )]
    NoSocket {
        /// The node.
        node: NodeName,
        /// What its labels say.
        role: &'static str,
        /// The flag.
        flag: &'static str,
    },
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
    /// A node's name that is no failure domain's.
    #[error("--node cannot stand for its failure domain")]
    FailureDomain(#[source] NameError),
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
    /// Its zone, if it is in one.
    pub zone: Option<FailureDomain>,
    /// The controller.
    pub controller: Endpoint,
    /// How it and the agent know each other.
    pub credentials: Credentials,
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
    /// Where the host's cgroups are, if anything is looked at there.
    pub layout: Option<Layout>,
    /// Directory of descriptors, if it has the containers.
    pub containers_dir: Option<PathBuf>,
    /// How it is part of a Kubernetes cluster, if it is.
    pub kubernetes: Option<KubernetesConfig>,
    /// Whether the system's own cgroups are kept off the device.
    pub keep_system_off: bool,
    /// Whether limits are put back at the end.
    pub restore_on_stop: bool,
    /// Where metrics are served, if they are.
    pub metrics_listen: Option<SocketAddr>,
    /// Time between two looks at pressure.
    pub look_every: Duration,
}

/// A node of a Kubernetes cluster.
#[derive(Debug, Clone)]
pub struct KubernetesConfig {
    /// Whether the device is attached though nobody knows what the kubelet makes of it.
    pub allow_unknown_kubelet: bool,
    /// Where the kubelet may be asked.
    pub kubelet_address: Option<IpAddr>,
}

impl Config {
    /// Takes roles and failure domain of the node's labels.
    ///
    /// # Errors
    /// [`Refusal::NoSocket`] if a role has no socket.
    pub fn settle(&mut self, station: &Station) -> Result<(), Refusal> {
        self.failure_domain = station.failure_domain.clone();
        self.zone.clone_from(&station.zone);
        for (has_role, socket, role, flag) in [
            (
                station.borrower,
                &mut self.swapd,
                "borrower",
                "--swapd-socket",
            ),
            (
                station.donor,
                &mut self.memory_server,
                "donor",
                "--memory-server-socket",
            ),
        ] {
            if !has_role {
                *socket = None;
            } else if socket.is_none() {
                let node = self.node.clone();
                return Err(Refusal::NoSocket { node, role, flag });
            }
        }
        Ok(())
    }
}

impl TryFrom<Args> for Config {
    type Error = Refusal;
    fn try_from(args: Args) -> Result<Self, Refusal> {
        if args.swapd_socket.is_none() && args.memory_server_socket.is_none() {
            return Err(Refusal::NoRole);
        }
        let controller = controller(&args.controller)?;
        let is_https = controller.uri().scheme_str() == Some("https");
        let certificate = args.tls_cert.zip(args.tls_key);
        let credentials = credentials(is_https, args.tls_ca, args.enroll_token, certificate)?;
        let spacing_ms = u64::try_from(REPORT_SPACING.as_millis()).unwrap_or(u64::MAX);
        if !(spacing_ms..=LOOK_EVERY_MS_MAX).contains(&args.look_every_ms) {
            return Err(Refusal::LookEvery(args.look_every_ms));
        }
        check_socket("--swapd-socket", args.swapd_socket.as_deref())?;
        check_socket(
            "--memory-server-socket",
            args.memory_server_socket.as_deref(),
        )?;
        let wants_cgroups =
            args.kubernetes || args.keep_system_slices_off || args.containers_dir.is_some();
        let layout = layout(
            wants_cgroups,
            args.containers_dir.as_deref(),
            &args.cgroup_root,
        )?;
        // A Kubernetes node's labels say another one before it matters.
        let of_its_own = || FailureDomain::try_from(String::from(args.node.clone()));
        let failure_domain = match args.failure_domain {
            Some(domain) => domain,
            None => of_its_own().map_err(Refusal::FailureDomain)?,
        };
        usable(&args.state_dir).map_err(|source| Refusal::StateDir {
            path: args.state_dir.clone(),
            source,
        })?;
        Ok(Self {
            node: args.node,
            failure_domain,
            zone: None,
            controller,
            credentials,
            controller_name: args.controller,
            state_dir: args.state_dir,
            swapd: args.swapd_socket,
            memory_server: args.memory_server_socket,
            lend_max: args.lend_max,
            layout,
            containers_dir: args.containers_dir,
            keep_system_off: args.kubernetes || args.keep_system_slices_off,
            kubernetes: args.kubernetes.then_some(KubernetesConfig {
                allow_unknown_kubelet: args.allow_unknown_kubelet,
                kubelet_address: args.kubelet_address,
            }),
            restore_on_stop: args.restore_on_stop,
            metrics_listen: args.metrics_listen,
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
    let is_http = matches!(uri.scheme_str(), Some("http" | "https"));
    if is_http && is_whole && is_plain {
        Ok(endpoint)
    } else {
        Err(refusal())
    }
}

/// How agent and controller know each other, by the flags and the controller's address.
fn credentials(
    is_https: bool,
    authorities: Option<PathBuf>,
    token: Option<PathBuf>,
    certificate: Option<(PathBuf, PathBuf)>,
) -> Result<Credentials, Refusal> {
    match (is_https, authorities, token, certificate) {
        (false, None, ..) => Ok(Credentials::None),
        (true, Some(authorities), Some(token), _) => {
            Ok(Credentials::Enrolled { authorities, token })
        }
        (true, Some(authorities), None, Some((certificate, key))) => Ok(Credentials::Given {
            authorities,
            certificate,
            key,
        }),
        (true, ..) => Err(Refusal::NoCredentials),
        (false, Some(_), ..) => Err(Refusal::PlainController),
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

fn layout(
    wanted: bool,
    containers_dir: Option<&Path>,
    cgroup_root: &Path,
) -> Result<Option<Layout>, Refusal> {
    if !wanted {
        return Ok(None);
    }
    let no_directory = |flag, path: &Path, remedy| Refusal::NoDirectory {
        flag,
        path: path.to_owned(),
        remedy,
    };
    if let Some(directory) = containers_dir.filter(|directory| !directory.is_dir()) {
        let remedy = "make it, or leave the flag out if no container shall be watched";
        return Err(no_directory("--containers-dir", directory, remedy));
    }
    if !cgroup_root.is_dir() {
        let remedy = "name the directory where the host's cgroups are mounted";
        return Err(no_directory("--cgroup-root", cgroup_root, remedy));
    }
    Ok(Some(Layout::probe(cgroup_root)?))
}

/// Makes the directory and tries to write in it.
fn usable(directory: &Path) -> std::io::Result<()> {
    std::fs::create_dir_all(directory)?;
    let probe = directory.join("probe");
    std::fs::write(&probe, b"")?;
    std::fs::remove_file(&probe)
}

#[cfg(test)]
mod tests;
