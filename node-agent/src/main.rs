//! `dynamicswap-agent`: command line, start and end of the node agent.

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Context as _, Result, ensure};
use clap::Parser;
use dynamicswap_agent::document::KeptDocument;
use dynamicswap_agent::session::{Agent, Settings};
use dynamicswap_types::{FailureDomain, NodeName};
use tokio::signal::unix::{SignalKind, signal};
use tracing_subscriber::EnvFilter;

/// Watches a node's containers and daemons, and brings the controller's documents to them.
#[derive(Parser)]
#[command(version)]
struct Args {
    /// Name of this node.
    #[arg(long)]
    node: NodeName,
    /// What fails together with this node.
    #[arg(long)]
    failure_domain: FailureDomain,
    /// The controller, as http://IP:PORT.
    #[arg(long)]
    controller: String,
    /// Directory for the kept document.
    #[arg(long)]
    state_dir: PathBuf,
    /// Socket of swapd: this node borrows.
    #[arg(long)]
    swapd_socket: Option<PathBuf>,
    /// Socket of the memory server: this node lends.
    #[arg(long)]
    memory_server_socket: Option<PathBuf>,
    /// Directory with a JSON file for each container.
    #[arg(long)]
    containers_dir: Option<PathBuf>,
    /// Root of the memory controller's hierarchy.
    #[arg(long, default_value = "/sys/fs/cgroup/memory")]
    memory_cgroup_root: PathBuf,
    /// Root of the unified hierarchy, where PSI is.
    #[arg(long, default_value = "/sys/fs/cgroup/unified")]
    unified_cgroup_root: PathBuf,
}

async fn run(args: Args) -> Result<()> {
    ensure!(
        args.controller.starts_with("http://"),
        "--controller '{}' is no address: write http://IP:PORT",
        args.controller
    );
    std::fs::create_dir_all(&args.state_dir).with_context(|| {
        format!(
            "cannot make --state-dir {}: choose a writable one",
            args.state_dir.display()
        )
    })?;
    let kept = KeptDocument::load(&args.state_dir)?;
    let settings = Settings {
        node: args.node.to_string(),
        failure_domain: args.failure_domain.to_string(),
        controller: args.controller,
        swapd: args.swapd_socket,
        memory_server: args.memory_server_socket,
        containers: args.containers_dir,
    };
    let mut terminate = signal(SignalKind::terminate()).context("cannot wait for SIGTERM")?;
    let mut interrupt = signal(SignalKind::interrupt()).context("cannot wait for SIGINT")?;
    tokio::select! {
        () = Agent::new(settings, kept).run() => {}
        _ = terminate.recv() => {}
        _ = interrupt.recv() => {}
    }
    Ok(())
}

fn main() -> ExitCode {
    let args = Args::parse();
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new("info"));
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .init();
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build();
    let result = runtime
        .context("cannot start the runtime")
        .and_then(|r| r.block_on(run(args)));
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("dynamicswap-agent: {error:#}");
            ExitCode::from(2)
        }
    }
}
