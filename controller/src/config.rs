//! The command line, and the configuration that it is checked into.

use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

use clap::{Parser, ValueEnum};
use dynamicswap_crds::ObjectName;
use dynamicswap_planner::Rebalance;

use crate::kubernetes::Source;
use crate::limits::REPLACE_AFTER_MS_MAX;
use crate::serve::Refusal;
use crate::tls::{GivenAuthority, GivenFiles};

/// The cluster controller of DynamicSwap: plans which memory server holds which slab, persists
/// the plan and serves agents and operators.
#[derive(Debug, Parser)]
#[command(version, name = "dynamicswap-controller")]
pub struct Args {
    /// Address to serve on, as IP:PORT. Port 0 takes a free one; --ready-file says which.
    #[arg(long, default_value = "127.0.0.1:7700", value_name = "IP:PORT")]
    listen: SocketAddr,
    /// File that keeps policies, grants and generations, made if it does not exist; or
    /// `kubernetes:NAMESPACE` to keep them in the cluster that this runs in (or KUBECONFIG names).
    #[arg(long, value_name = "PATH|kubernetes:NAMESPACE")]
    store: String,
    /// Name of this controller among those that may lead; with --store kubernetes: only. The
    /// pod's name, or the host's, if not said.
    #[arg(long, env = "POD_NAME", value_name = "NAME")]
    identity: Option<String>,
    /// Address under which agents reach this controller; with --store kubernetes: only. The leader
    /// has the Service dynamicswap-controller lead there. Without it, the Service is yours.
    #[arg(long, env = "POD_IP", value_name = "IP")]
    advertise: Option<IpAddr>,
    /// Serve over TLS, as the authority that signs the agents' certificates: agents enroll with their
    /// service account tokens, operators call with theirs. With --store kubernetes: only.
    #[arg(long, conflicts_with = "tls_cert")]
    tls_issue: bool,
    /// Sign with the authority in this directory (tls.crt, tls.key; ca.crt is trusted besides), as
    /// cert-manager writes it, instead of one of this controller's own.
    #[arg(long, value_name = "DIR", requires = "tls_issue")]
    tls_authority: Option<PathBuf>,
    /// Serve over TLS with this certificate, which must name 'dynamicswap-controller'; PEM.
    #[arg(long, value_name = "FILE", requires_all = ["tls_key", "tls_client_ca"])]
    tls_cert: Option<PathBuf>,
    /// Its key.
    #[arg(long, value_name = "FILE", requires = "tls_cert")]
    tls_key: Option<PathBuf>,
    /// Who has signed the certificates of agents (URI dynamicswap://node/NAME) and operators (URI
    /// dynamicswap://operator).
    #[arg(long, value_name = "FILE", requires = "tls_cert")]
    tls_client_ca: Option<PathBuf>,
    /// Time from the loss of a memory server to the replacement of its copies, in milliseconds.
    #[arg(long, default_value_t = 300, value_name = "MS")]
    replace_after_ms: u64,
    /// Whether copies move by themselves from fuller donors to emptier ones: auto or never. An operator's
    /// 'dynamicswap rebalance' works either way.
    #[arg(long, value_enum, default_value_t = RebalanceChoice::Auto)]
    rebalance: RebalanceChoice,
    /// File to write the address to once the controller serves.
    #[arg(long, value_name = "PATH")]
    ready_file: Option<PathBuf>,
}

/// Whether donors are evened out.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum RebalanceChoice {
    /// When they leave the dead band.
    Auto,
    /// Only when an operator asks.
    Never,
}

impl From<RebalanceChoice> for Rebalance {
    fn from(choice: RebalanceChoice) -> Self {
        match choice {
            RebalanceChoice::Auto => Self::Auto,
            RebalanceChoice::Never => Self::Off,
        }
    }
}

/// Where the controller's state is kept.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum StoreChoice {
    /// In this file.
    File(PathBuf),
    /// In the Kubernetes cluster.
    Kubernetes {
        /// The controller's namespace.
        namespace: String,
        /// Its name among those that may lead.
        identity: String,
    },
}

impl std::fmt::Display for StoreChoice {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::File(path) => path.display().fmt(f),
            Self::Kubernetes { namespace, .. } => write!(f, "kubernetes:{namespace}"),
        }
    }
}

/// The store that `text` names.
fn store(text: &str, identity: Option<String>) -> Result<StoreChoice, Refusal> {
    let Some(namespace) = text.strip_prefix("kubernetes:") else {
        return Ok(StoreChoice::File(PathBuf::from(text)));
    };
    let name: Result<ObjectName, _> = namespace.parse();
    let name = name.map_err(|error| Refusal::new(format!("--store {text}: {error}")))?;
    let host = || std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
    let identity = identity.unwrap_or_else(host).trim().to_owned();
    if identity.is_empty() {
        let sentence = "this host has no name: write --identity with one that is unique";
        return Err(Refusal::new(sentence.to_owned()));
    }
    Ok(StoreChoice::Kubernetes {
        namespace: name.as_str().to_owned(),
        identity,
    })
}

/// What protects the controller's address.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum TlsChoice {
    /// Nothing.
    Off,
    /// Certificates that somebody else makes.
    Given(GivenFiles),
    /// Certificates that this controller signs.
    Issued(Source),
}

fn tls(args: &Args, store: &StoreChoice) -> Result<TlsChoice, Refusal> {
    if let (Some(certificate), Some(key), Some(peers)) =
        (&args.tls_cert, &args.tls_key, &args.tls_client_ca)
    {
        return Ok(TlsChoice::Given(GivenFiles {
            certificate: certificate.clone(),
            key: key.clone(),
            peers: peers.clone(),
        }));
    }
    if !args.tls_issue {
        return Ok(TlsChoice::Off);
    }
    if matches!(store, StoreChoice::File(_)) {
        let sentence = "--tls-issue needs Kubernetes, which says whose a token is: with a store in a \
                        file, write --tls-cert, --tls-key and --tls-client-ca";
        return Err(Refusal::new(sentence.to_owned()));
    }
    Ok(TlsChoice::Issued(match &args.tls_authority {
        Some(directory) => Source::Given(GivenAuthority(directory.clone())),
        None => Source::Own,
    }))
}

/// What the controller runs with.
#[derive(Debug, Clone)]
pub struct Config {
    /// Address to serve on.
    pub listen: SocketAddr,
    /// Where its state is kept.
    pub store: StoreChoice,
    /// What protects its address.
    pub tls: TlsChoice,
    /// Where agents reach it, if it shall have a Service lead there.
    pub advertise: Option<IpAddr>,
    /// Time from the loss of a memory server to the replacement of its copies.
    pub replace_after: Duration,
    /// Whether donors are evened out.
    pub rebalance: Rebalance,
    /// File to write the address to once the controller serves.
    pub ready_file: Option<PathBuf>,
}

impl TryFrom<Args> for Config {
    type Error = Refusal;
    fn try_from(args: Args) -> Result<Self, Refusal> {
        if args.replace_after_ms > REPLACE_AFTER_MS_MAX {
            return Err(Refusal::new(format!(
                "--replace-after-ms {} is over an hour: write at most {REPLACE_AFTER_MS_MAX}",
                args.replace_after_ms
            )));
        }
        let store = store(&args.store, args.identity.clone())?;
        Ok(Self {
            listen: args.listen,
            tls: tls(&args, &store)?,
            store,
            advertise: args.advertise,
            replace_after: Duration::from_millis(args.replace_after_ms),
            rebalance: args.rebalance.into(),
            ready_file: args.ready_file,
        })
    }
}
