//! `dynamicswap-cluster`: a whole Kubernetes on one machine, up and down. `cargo xtask cluster`
//! builds and starts it.
#![forbid(unsafe_code)]

use std::os::unix::process::CommandExt as _;
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Context as _, Result};
use clap::{Args, Parser, Subcommand};
use dynamicswap_cli::cluster::paths::ClusterName;
use dynamicswap_cli::failure::{self, Refusal};
use dynamicswap_cli::interrupt::Interrupt;
use dynamicswap_cluster::down::down;
use dynamicswap_cluster::install::{self, install};
use dynamicswap_cluster::node::{self, NODES_MAX, Node};
use dynamicswap_cluster::record::{Paths, Record};
use dynamicswap_cluster::scenarios;
use dynamicswap_cluster::up::{Plan, up};

/// A whole Kubernetes on one machine: its control plane in a network namespace, its nodes as
/// virtual machines.
#[derive(Debug, Parser)]
#[command(name = "cargo xtask cluster", disable_version_flag = true)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Brings a cluster up and leaves it running.
    Up(Up),
    /// Removes a cluster: processes, shells in its network, network, folder.
    Down(Target),
    /// Plays the scenarios on a cluster that was brought up with --install; the last one takes the
    /// product away.
    Scenarios(Scenarios),
    /// Opens a shell in a cluster's network, with kubectl and helm.
    Shell(Target),
    /// Runs one command in a cluster's network, with kubectl and helm: `run -- kubectl get nodes`.
    Run(Run),
}

#[derive(Debug, Args)]
struct Target {
    /// The cluster's name.
    #[arg(long, default_value = "local")]
    name: ClusterName,
}

#[derive(Debug, Args)]
struct Up {
    #[command(flatten)]
    target: Target,
    /// How many nodes; 0 for a control plane alone.
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u8).range(..=i64::from(NODES_MAX)))]
    nodes: u8,
    /// Memory of each node, in MiB.
    #[arg(long, default_value_t = 2048, value_parser = clap::value_parser!(u32).range(512..))]
    memory_mib: u32,
    /// Folder with image archives (OCI or docker, *.tar), which every node imports when it boots.
    #[arg(long, value_name = "DIR")]
    images: Option<PathBuf>,
    /// Zones that nodes are given in turn, separated by commas.
    #[arg(long, value_name = "ZONES", value_delimiter = ',')]
    zones: Vec<String>,
    /// A label for every node, or for one; may be given more than once.
    #[arg(long, value_name = "[NODE:]KEY=VALUE")]
    label: Vec<NodeLabel>,
    /// Installs the chart and applies crds/examples/verify.yaml: the first node borrows, the others
    /// lend. The images are built first, unless --images gives them.
    #[arg(long)]
    install: bool,
}

#[derive(Debug, Args)]
struct Run {
    #[command(flatten)]
    target: Target,
    /// The command and its arguments.
    #[arg(trailing_var_arg = true, required = true)]
    command: Vec<String>,
}

#[derive(Debug, Args)]
struct Scenarios {
    #[command(flatten)]
    target: Target,
    /// Only this one; may be given more than once.
    #[arg(long)]
    scenario: Vec<String>,
    /// Where cluster.json goes.
    #[arg(long, default_value = "target/cluster")]
    out: PathBuf,
}

/// A label, for one node or for all.
#[derive(Debug, Clone, PartialEq, Eq)]
struct NodeLabel {
    node: Option<String>,
    label: String,
}

impl std::str::FromStr for NodeLabel {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, String> {
        let (node, label) = match text.split_once(':') {
            Some((node, label)) => (Some(node.to_owned()), label),
            None => (None, text),
        };
        let plain = |part: &str| {
            let is_plain = |c: char| c.is_ascii_alphanumeric() || "-._/".contains(c);
            !part.is_empty() && part.chars().all(is_plain)
        };
        match label.split_once('=') {
            Some((key, value)) if plain(key) && (value.is_empty() || plain(value)) => Ok(Self {
                node,
                label: label.to_owned(),
            }),
            _ => Err("a label is KEY=VALUE, or NODE:KEY=VALUE for one node".to_owned()),
        }
    }
}

fn main() -> ExitCode {
    let result = match Cli::parse().command {
        Command::Up(options) => bring_up(&options),
        Command::Down(target) => take_down(&target),
        Command::Scenarios(scenarios) => play(&scenarios),
        Command::Shell(target) => shell(&target),
        Command::Run(run) => run_one(&run),
    };
    result.unwrap_or_else(|error| {
        eprintln!("cluster: {error:#}");
        failure::exit_code(&error)
    })
}

fn check_root() -> Result<()> {
    if rustix::process::geteuid().is_root() {
        return Ok(());
    }
    Err(Refusal::error(
        "a cluster has a network namespace of its own, which needs root",
    ))
}

fn bring_up(options: &Up) -> Result<ExitCode> {
    check_root()?;
    let paths = Paths::of(&options.target.name);
    let plan = Plan {
        nodes: nodes(options)?,
        images: options.images.clone(),
        paths: paths.clone(),
    };
    if options.install && (plan.images.is_none() || options.nodes < 2) {
        return Err(Refusal::error(
            "--install needs --images, as `cargo xtask cluster` gives it, and two nodes at least",
        ));
    }
    let interrupt = Interrupt::listen()?;
    let record = up(&plan, &interrupt)?;
    let option = paths.option();
    let folder = paths.folder.display();
    println!("logs and consoles are in {folder}/logs; from here on:");
    println!("  cargo xtask cluster shell{option}");
    println!("  cargo xtask cluster run{option} -- kubectl get nodes");
    println!("  cargo xtask cluster down{option}");
    println!("or, without them:");
    println!("  export KUBECONFIG={folder}/kubeconfig");
    println!(
        "  ip netns exec {} {}/kubectl get nodes",
        paths.namespace.name(),
        record.programs.display()
    );
    if options.install {
        let client = record.client(&paths);
        install(&client, &interrupt).context("the cluster is up, and this is not installed")?;
    }
    Ok(ExitCode::SUCCESS)
}

/// The nodes that were asked for.
fn nodes(options: &Up) -> Result<Vec<Node>> {
    let names: Vec<String> = (1..=options.nodes).map(node::name).collect();
    for NodeLabel { node, label } in &options.label {
        if let Some(node) = node
            && !names.contains(node)
        {
            return Err(Refusal::error(format!(
                "--label {node}:{label}: there is no node '{node}' among {}",
                names.join(", ")
            )));
        }
    }
    let zones = options.zones.iter().cycle();
    let mut zones = zones.map(|zone| format!("topology.kubernetes.io/zone={zone}"));
    let nodes = (1..=options.nodes).map(|number| {
        let name = node::name(number);
        let wanted = options
            .label
            .iter()
            .filter(|it| it.node.as_ref().is_none_or(|node| *node == name));
        let labels: Vec<String> = zones
            .next()
            .into_iter()
            .chain(wanted.map(|it| it.label.clone()))
            .chain(options.install.then(|| install::label(number).to_owned()))
            .collect();
        Node {
            number,
            labels: labels.join(","),
            memory_mib: options.memory_mib,
        }
    });
    Ok(nodes.collect())
}

fn take_down(target: &Target) -> Result<ExitCode> {
    check_root()?;
    let left = down(&Paths::of(&target.name))?;
    for left in &left {
        eprintln!("left behind: {left}");
    }
    if left.is_empty() {
        println!("the cluster '{}' is gone, nothing is left", target.name);
    }
    Ok(ExitCode::from(u8::from(!left.is_empty())))
}

fn play(options: &Scenarios) -> Result<ExitCode> {
    check_root()?;
    let paths = Paths::of(&options.target.name);
    let interrupt = Interrupt::listen()?;
    let failed = scenarios::play(&paths, &options.scenario, &options.out, &interrupt)?;
    Ok(ExitCode::from(u8::from(failed > 0)))
}

fn shell(target: &Target) -> Result<ExitCode> {
    let shell = std::env::var_os("SHELL").unwrap_or_else(|| "/bin/bash".into());
    become_inside(target, &shell, &[])
}

fn run_one(run: &Run) -> Result<ExitCode> {
    let Some((program, arguments)) = run.command.split_first() else {
        return Err(Refusal::error("there is no command to run"));
    };
    become_inside(&run.target, program.as_ref(), arguments)
}

/// Becomes a program in the cluster's network; returns only on failure to start it.
fn become_inside(
    target: &Target,
    program: &std::ffi::OsStr,
    arguments: &[String],
) -> Result<ExitCode> {
    check_root()?;
    let paths = Paths::of(&target.name);
    let client = Record::load(&paths)?.client(&paths);
    let error = client.command(program).args(arguments).exec();
    Err(error).with_context(|| format!("cannot start {}", program.to_string_lossy()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn options(arguments: &[&str]) -> Up {
        let line = ["cluster", "up"].iter().chain(arguments);
        match Cli::try_parse_from(line).expect("a command line").command {
            Command::Up(options) => options,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn zones_go_round_and_labels_to_whom_they_are_for() {
        let asked = options(&["--zones", "a,b", "--label", "x=1", "--label", "node-2:y=2"]);
        let nodes = nodes(&asked).expect("nodes");
        let labels: Vec<&str> = nodes.iter().map(|node| node.labels.as_str()).collect();
        let zone = "topology.kubernetes.io/zone";
        let expected = [
            format!("{zone}=a,x=1"),
            format!("{zone}=b,x=1,y=2"),
            format!("{zone}=a,x=1"),
        ];
        assert_eq!(labels, expected);
    }

    #[test]
    fn label_of_a_node_that_is_not_there_is_refused() {
        let asked = options(&["--nodes", "1", "--label", "node-2:y=2"]);
        let refused = nodes(&asked).expect_err("no such node");
        assert!(refused.to_string().contains("no node 'node-2'"));
        assert!("x".parse::<NodeLabel>().is_err());
        assert!("x=a b".parse::<NodeLabel>().is_err());
    }
}
