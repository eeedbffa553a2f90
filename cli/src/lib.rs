//! The `dynamicswap` command: the demo, the local cluster, and a look at any cluster.
//!
//! Owns everything that a person types and sees. Speaks to the controller only, except where it
//! starts and ends the processes of a local cluster itself.

pub mod admission;
pub mod args;
pub mod check;
pub mod client;
pub mod cluster;
pub mod credentials;
pub mod demo;
pub mod drain;
pub mod dump;
pub mod explain;
pub mod failure;
pub mod forget;
pub mod interrupt;
pub mod kubectl;
pub mod machine;
pub mod objects;
pub mod paging_test;
pub mod process;
pub mod rebalance;
pub mod report;
pub mod run_container;
pub mod status;
pub mod table;
pub mod ui;
pub mod view;

use std::io::{self, Write};
use std::process::ExitCode;

use anyhow::Result;
use dynamicswap_proto::control::v1::Admission;
use dynamicswap_proto::identity::Right;

use crate::args::{Cli, Command, ConnectArgs, DownArgs, UpArgs, WhenUnserved};
use crate::client::Client;
use crate::cluster::leftovers::Leftovers;
use crate::cluster::paths::{ClusterPaths, Programs};
use crate::cluster::record::{ClusterRecord, name_option};
use crate::cluster::up::{Cluster, Settings, watchdog_command};
use crate::cluster::{caution, down, host};
use crate::interrupt::Interrupt;
use crate::ui::Ui;

/// Does what the command line says.
#[must_use]
pub fn run(cli: Cli) -> ExitCode {
    let result = match cli.command {
        Command::Demo(args) => demo::run(&args),
        Command::Check(args) => check::run(&args),
        Command::Up(args) => up(&args),
        Command::Down(args) => down_cluster(&args),
        Command::Lend(args) => machine::lend(&args),
        Command::Borrow(args) => machine::borrow(&args),
        Command::Leave(args) => machine::leave(&args),
        Command::Status(args) => status::run(&args),
        Command::Top(connect) => top(&connect),
        Command::Explain(args) => explain::run(&args),
        Command::Apply(args) => connect(&args.connect, Right::Order)
            .and_then(|(mut client, _)| objects::apply(&args, &mut client))
            .map(success),
        Command::Delete(args) => connect(&args.connect, Right::Order)
            .and_then(|(mut client, _)| objects::delete(&args, &mut client))
            .map(success),
        Command::Get(args) => connect(&args.connect, Right::Look)
            .and_then(|(mut client, _)| objects::get(&args, &mut client))
            .map(success),
        Command::Cordon(args) => admission::set(&args, Admission::Cordoned).map(success),
        Command::Uncordon(args) => admission::set(&args, Admission::Open).map(success),
        Command::Forget(args) => connect(&args.connect, Right::Order)
            .and_then(|(mut client, _)| forget::run(&args, &mut client))
            .map(success),
        Command::Drain(args) => drain::run(&args),
        Command::Test(args) => paging_test::run(&args),
        Command::Dump(args) => dump::run(&args),
        Command::Rebalance(args) => connect(&args.connect, args.right())
            .and_then(|(mut client, _)| rebalance::run(&args, &mut client))
            .map(success),
        Command::Run(args) => run_container::run(&args),
    };
    result.unwrap_or_else(|error| {
        // Nobody may read it any more; the exit code says it all the same.
        let _closed = writeln!(io::stderr(), "dynamicswap: {error:#}");
        failure::exit_code(&error)
    })
}

fn success((): ()) -> ExitCode {
    ExitCode::SUCCESS
}

fn up(args: &UpArgs) -> Result<ExitCode> {
    let interrupt = Interrupt::listen()?;
    let mut ui = Ui::new();
    let settings = Settings {
        name: args.target.name.clone(),
        shape: args.shape(),
        controller_port: args.controller_port,
        spill: args.spill,
        integrity: args.integrity,
        when_unserved: args.when_unserved,
    };
    host::check(&settings.shape)?;
    // Asked now: once a policy is applied, the cluster's own device is swap that is on.
    let cautions = caution::all();
    ui.headline(&format!("starting the local cluster '{}'", settings.name));
    let mut cluster = Cluster::start(&settings, &interrupt, &mut ui)?;
    if settings.when_unserved == WhenUnserved::Abort {
        // Before any policy attaches the device: the last resort that is left when the holder,
        // which has one of its own, is the process that hangs.
        let mut watchdog = watchdog_command(&Programs::find()?, &cluster.paths, None);
        cluster.spawn("watchdog", &mut watchdog)?;
    }
    for caution in cautions {
        ui.warn("warning", &caution);
    }
    let option = name_option(&settings.name);
    let place = cluster.paths.root().display().to_string();
    cluster.keep();
    ui.note(&format!("logs and state are in {place}"));
    ui.line(&format!("Next: dynamicswap apply{option} -f POLICY.yaml, dynamicswap status{option}, dynamicswap down{option}"));
    Ok(ExitCode::SUCCESS)
}

fn down_cluster(args: &DownArgs) -> Result<ExitCode> {
    host::check_root()?;
    let mut ui = Ui::new();
    let name = &args.target.name;
    let paths = ClusterPaths::new(name);
    let there = Leftovers::find(&paths);
    refuse_unless!(
        !there.list().is_empty(),
        "no local cluster '{}' is up: there is nothing to end",
        name
    );
    // A record that cannot be read hides nothing: leftovers are found without it.
    let record = ClusterRecord::read(&paths.record()).ok().flatten();
    let mut processes = record.map_or_else(Vec::new, |record| record.processes);
    processes.retain(process::ProcessRecord::is_alive);
    let left = down::take_down(&paths, &processes, args.manner(), &mut ui)?.list();
    for left in &left {
        ui.bad("left behind", left);
    }
    if left.is_empty() {
        ui.done("down", "nothing is left");
    }
    Ok(ExitCode::from(u8::from(!left.is_empty())))
}

/// The controller to speak to, and what to call its cluster.
fn connect(args: &ConnectArgs, right: Right) -> Result<(Client, String)> {
    if args.kubernetes {
        let place = args.place.place();
        let title = place.context.clone();
        let title = title.map_or_else(
            || "cluster of kubectl's current context".to_owned(),
            |context| format!("cluster {context}"),
        );
        return Ok((Client::through(place, right)?, title));
    }
    refuse_unless!(
        !args.place.is_given(),
        "--system-namespace and --context say where in Kubernetes: write --kubernetes as well"
    );
    if let Some(address) = &args.controller {
        let client = Client::with(address, &args.credentials)?;
        return Ok((client, format!("cluster at {address}")));
    }
    let record = ClusterRecord::load(&args.target.name)?;
    let title = format!("cluster {}", record.name);
    Ok((Client::new(&record.controller)?, title))
}

fn top(args: &ConnectArgs) -> Result<ExitCode> {
    let (mut client, title) = connect(args, Right::Look)?;
    let interrupt = Interrupt::listen()?;
    view::top::run(&mut client, &title, &interrupt)?;
    Ok(ExitCode::SUCCESS)
}
