//! `dynamicswap-agent`: start and end of the node agent.
#![forbid(unsafe_code)]

use std::process::ExitCode;

use anyhow::{Context as _, Result, bail};
use clap::Parser as _;
use dynamicswap_agent::agent::Agent;
use dynamicswap_agent::attachment::is_system;
use dynamicswap_agent::cgroup::Layout;
use dynamicswap_agent::config::{Args, Cli, Config, Refusal, RestoreArgs, Task};
use dynamicswap_agent::document::{DocumentError, KeptDocument};
use dynamicswap_agent::kubernetes::Cluster;
use dynamicswap_agent::metrics;
use dynamicswap_agent::node;
use dynamicswap_agent::originals::{Originals, OriginalsError};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use tokio::signal::unix::{SignalKind, signal};
use tracing::warn;
use tracing_subscriber::EnvFilter;

/// Exit code for bad input, as for a wrong command line.
const EXIT_REFUSED: u8 = 2;
/// Exit code for what is nobody's input.
const EXIT_FAILED: u8 = 1;

fn main() -> ExitCode {
    let cli = Cli::parse();
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new("info"));
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .init();
    let outcome = match (cli.command, cli.run) {
        (Some(Task::Restore(args)), _) => restore(&args),
        (None, Some(args)) => run(args),
        // Its required arguments are missing, which the parser has said.
        (None, None) => Ok(()),
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("dynamicswap-agent: {error:#}");
            let refused = error.is::<Refusal>()
                || error.is::<DocumentError>()
                || error.is::<OriginalsError>();
            ExitCode::from(if refused { EXIT_REFUSED } else { EXIT_FAILED })
        }
    }
}

/// Has this process have as many files open as its host lets it: a trigger and three kernel files for each
/// container are more than the 1024 that many begin with.
fn raise_open_files() {
    let limit = getrlimit(Resource::Nofile);
    let most = Rlimit {
        current: limit.maximum,
        ..limit
    };
    if let Err(error) = setrlimit(Resource::Nofile, most) {
        warn!(
            "no more than {:?} files can be open: {error}",
            limit.current
        );
    }
}

fn run(args: Args) -> Result<()> {
    let config = Config::try_from(args)?;
    let kept = KeptDocument::load(&config.state_dir)?;
    let originals = Originals::load(&config.state_dir)?;
    raise_open_files();
    // One thread does: nothing here computes, and a small agent leaves the node to its work.
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .context("cannot start the runtime")?;
    runtime.block_on(serve(config, kept, originals))
}

/// Runs the agent until it is told to stop, or its node has become another one.
async fn serve(mut config: Config, kept: KeptDocument, originals: Originals) -> Result<()> {
    let mut terminate = signal(SignalKind::terminate()).context("cannot wait for SIGTERM")?;
    let mut interrupt = signal(SignalKind::interrupt()).context("cannot wait for SIGINT")?;
    let scrapes = match config.metrics_listen {
        Some(address) => Some(metrics::serve::start(address).await?),
        None => None,
    };
    let mut cluster = None;
    if let Some(kubernetes) = &config.kubernetes {
        let address = kubernetes.kubelet_address;
        let joined = tokio::select! {
            joined = Cluster::join(&config.node, address, &config.state_dir) => joined?,
            _ = terminate.recv() => return Ok(()),
            _ = interrupt.recv() => return Ok(()),
        };
        config.settle(&joined.station)?;
        cluster = Some(joined);
    }
    let mut agent = Agent::new(config, kept, originals, cluster.as_ref());
    if let Some(scrapes) = scrapes {
        agent.answer(scrapes);
    }
    let changed = tokio::select! {
        () = agent.run() => None,
        sentence = other_station(cluster.as_mut()) => Some(sentence),
        _ = terminate.recv() => None,
        _ = interrupt.recv() => None,
    };
    // Whoever takes the label off ends this process with it: the order of the two is not known.
    let borrows_no_more = cluster.is_some_and(|cluster| cluster.borrows_no_more());
    agent.stop(borrows_no_more)?;
    match changed {
        Some(sentence) => bail!(sentence),
        None => Ok(()),
    }
}

/// What has become of the node's labels, once they have changed.
async fn other_station(cluster: Option<&mut Cluster>) -> String {
    match cluster {
        Some(cluster) => {
            let now = cluster.moved().await;
            let before = &cluster.station;
            format!("the node's labels have changed, from {before} to {now}: to be started again")
        }
        None => std::future::pending().await,
    }
}

/// Puts back what an agent has changed. While a device that may be ours is attached, the system's
/// own cgroups are kept off it.
fn restore(args: &RestoreArgs) -> Result<()> {
    let layout = Layout::probe(&args.cgroup_root).map_err(Refusal::from)?;
    let mut originals = Originals::load(&args.state_dir)?;
    let Some(cgroups) = layout.swap_limits() else {
        println!("nothing to put back: this host has no cgroup v2");
        return Ok(());
    };
    let attached = node::swap_device_that_may_be_ours();
    let which = |cgroup: &std::path::Path| attached.is_none() || !is_system(cgroup);
    let restored = originals.restore(&cgroups, which)?;
    println!("limits put back: {restored}");
    match attached.filter(|_| !originals.is_empty()) {
        Some(device) => bail!(
            "the system's own cgroups are kept off swap while {device} is attached: detach it, \
             and run this again"
        ),
        None => Ok(()),
    }
}
