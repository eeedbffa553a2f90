//! `dynamicswap-workload`: the workloads, the container launcher and the watchdog as one command.
//!
//! Owns the command line only. Exit codes: 0 all right, 1 a wrong page or a failure, 2 bad input.

use std::hash::{BuildHasher, RandomState};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use clap::{Args, Parser, Subcommand};
use dynamicswap_types::Bytes;
use dynamicswap_workload::allowance::AllowanceError;
use dynamicswap_workload::container::{self, Container, Layout};
use dynamicswap_workload::control::{Budget, Control};
use dynamicswap_workload::region::{HugePages, lock_everything};
use dynamicswap_workload::{allowance, redis, verify, watchdog};
use rustix::process::Pid;

/// Workloads that verify every byte they own, and the watchdog that stands beside them.
#[derive(Debug, Parser)]
#[command(version)]
struct Cli {
    #[command(subcommand)]
    command: Subcommands,
}

#[derive(Debug, Subcommand)]
enum Subcommands {
    /// Write, rewrite and read memory at random and check every page.
    Verify(VerifyArgs),
    /// Put load on a real redis-server, check every answer and compare the data set's digests.
    Redis(RedisArgs),
    /// Run a command in a memory cgroup of its own, which is removed afterwards.
    Contain(ContainArgs),
    /// Abort the FUSE connection of a swap device that nobody serves, and swap it off.
    Watchdog(WatchdogArgs),
}

#[derive(Debug, Args)]
struct VerifyArgs {
    /// Memory to own and check.
    #[arg(long, default_value = "512Mi")]
    size: Bytes,
    /// Threads, each with its part of the memory.
    #[arg(long, default_value_t = 2)]
    threads: usize,
    /// How many of a hundred accesses rewrite the page.
    #[arg(long, default_value_t = 30)]
    write_percent: u64,
    /// When to end.
    #[command(flatten)]
    budget: BudgetArgs,
    /// Let the kernel use huge pages as the host is set up.
    #[arg(long)]
    huge_pages: bool,
    /// Milliseconds between two progress lines.
    #[arg(long, default_value_t = 100)]
    progress_ms: u64,
    /// Seed of the accesses; without it, another one each time.
    #[arg(long)]
    seed: Option<u64>,
    /// Wait for so many seconds at the most until the own container may swap (cgroup v2).
    #[arg(long)]
    wait_swap: Option<f64>,
}

#[derive(Debug, Args)]
struct BudgetArgs {
    /// End the random accesses after this many seconds.
    #[arg(long)]
    seconds: Option<f64>,
    /// End the random accesses after this many of them.
    #[arg(long)]
    ops: Option<u64>,
    /// Take the commands `finish` and `abort` on standard input, whose end aborts.
    #[arg(long)]
    commands: bool,
}

impl BudgetArgs {
    /// The control, which obeys standard input if commands are asked for.
    fn control(&self) -> Result<Arc<Control>> {
        let time = self.seconds.map(Duration::try_from_secs_f64).transpose();
        let budget = Budget {
            time: time.context("--seconds is no time: give a positive number")?,
            ops: self.ops,
        };
        if budget.time.is_none() && budget.ops.is_none() && !self.commands {
            bail!("nothing would end the run: give --seconds, --ops or --commands");
        }
        let control = Arc::new(Control::new(budget));
        if self.commands {
            let control = Arc::clone(&control);
            std::thread::spawn(move || control.obey(io::stdin().lock()));
        }
        Ok(control)
    }
}

#[derive(Debug, Args)]
struct RedisArgs {
    /// Memory that the server shall need.
    #[arg(long, default_value = "512Mi")]
    size: Bytes,
    /// Clients, each with a connection.
    #[arg(long, default_value_t = 4)]
    clients: usize,
    /// How many of a hundred requests rewrite a value.
    #[arg(long, default_value_t = 20)]
    write_percent: u64,
    /// When to end.
    #[command(flatten)]
    budget: BudgetArgs,
    /// Directory of a cgroup that the server enters; may be given more than once.
    #[arg(long = "cgroup")]
    cgroups: Vec<PathBuf>,
    /// The server's program.
    #[arg(long, default_value = "redis-server")]
    program: PathBuf,
    /// Milliseconds between two progress lines.
    #[arg(long, default_value_t = 100)]
    progress_ms: u64,
    /// Seed of requests and values; without it, another one each time.
    #[arg(long)]
    seed: Option<u64>,
}

#[derive(Debug, Args)]
struct ContainArgs {
    /// Memory limit of the cgroup.
    #[arg(long)]
    limit: Bytes,
    /// Its name below the cgroup roots.
    #[arg(long, default_value = "dynamicswap-workload")]
    name: String,
    /// The command and its arguments.
    #[arg(last = true, required = true)]
    command: Vec<String>,
}

#[derive(Debug, Args)]
struct WatchdogArgs {
    /// Watch the swap devices of swapds below this directory.
    #[arg(long)]
    below: PathBuf,
    /// Seconds without a completed request after which a device counts as not served.
    #[arg(long, default_value_t = 30)]
    unserved_s: u64,
    /// End with this process, once its devices are no swap any more.
    #[arg(long)]
    parent: Option<i32>,
}

fn main() -> ExitCode {
    let result = match Cli::parse().command {
        Subcommands::Verify(args) => run_verify(&args),
        Subcommands::Redis(args) => run_redis(args),
        Subcommands::Contain(args) => run_contained(&args),
        Subcommands::Watchdog(args) => run_watchdog(args),
    };
    result.unwrap_or_else(|error| {
        eprintln!("dynamicswap-workload: {error:#}");
        ExitCode::from(2)
    })
}

fn run_verify(args: &VerifyArgs) -> Result<ExitCode> {
    ensure!(
        args.size >= Bytes::new(4096),
        "--size {} holds no page: give at least 4Ki",
        args.size
    );
    ensure!(
        args.write_percent <= 100,
        "--write-percent {} is over 100",
        args.write_percent
    );
    let settings = verify::Settings {
        size: args.size,
        threads: args.threads,
        write_percent: args.write_percent,
        huge_pages: if args.huge_pages {
            HugePages::AsHost
        } else {
            HugePages::Never
        },
        progress_every: Duration::from_millis(args.progress_ms.max(10)),
        seed: args.seed.unwrap_or_else(random_seed),
    };
    if let Some(seconds) = args.wait_swap {
        wait_swap(seconds)?;
    }
    let control = args.budget.control()?;
    let end = verify::run(&settings, &control, &mut io::stdout())?;
    Ok(ExitCode::from(u8::from(
        end.wrong_pages > 0 || control.is_aborted(),
    )))
}

/// Where nobody can say whether the container may swap, it begins at once.
fn wait_swap(seconds: f64) -> Result<()> {
    let time = Duration::try_from_secs_f64(seconds);
    let time = time.context("--wait-swap is no time: give a positive number")?;
    match allowance::wait(Path::new(allowance::OWN_LIMIT), time) {
        Err(error @ AllowanceError::Unknown { .. }) => {
            eprintln!("dynamicswap-workload: {:#}", anyhow::Error::from(error));
            Ok(())
        }
        other => Ok(other?),
    }
}

fn run_redis(args: RedisArgs) -> Result<ExitCode> {
    ensure!(
        args.size >= Bytes::from_mib(1),
        "--size {} is too small for a data set: give at least 1Mi",
        args.size
    );
    let settings = redis::Settings {
        size: args.size,
        clients: args.clients,
        write_percent: args.write_percent.min(100),
        cgroups: args.cgroups,
        program: args.program,
        progress_every: Duration::from_millis(args.progress_ms.max(10)),
        seed: args.seed.unwrap_or_else(random_seed),
    };
    let control = args.budget.control()?;
    match redis::run(&settings, &control, &mut io::stdout()) {
        Ok(end) => Ok(ExitCode::from(u8::from(
            end.wrong_pages > 0 || control.is_aborted(),
        ))),
        Err(error) => {
            eprintln!("dynamicswap-workload: {error:#}");
            Ok(ExitCode::from(1))
        }
    }
}

/// A number that no other run has: the standard library's hasher keys are random.
fn random_seed() -> u64 {
    RandomState::new().hash_one(std::process::id())
}

fn run_contained(args: &ContainArgs) -> Result<ExitCode> {
    let container = Container::create(&Layout::probe()?, &args.name, args.limit)?;
    let (program, arguments) = args.command.split_first().context("no command is given")?;
    let mut command = Command::new(program);
    command.args(arguments);
    container.enter(&mut command)?;
    let status = command
        .status()
        .with_context(|| format!("cannot start {program}"))?;
    container.remove()?;
    Ok(ExitCode::from(container::exit_code(status)))
}

fn run_watchdog(args: WatchdogArgs) -> Result<ExitCode> {
    let parent = args
        .parent
        .map(|pid| Pid::from_raw(pid).with_context(|| format!("--parent {pid} is no process id")));
    let settings = watchdog::Settings {
        below: args.below,
        unserved_after: Duration::from_secs(args.unserved_s),
        parent: parent.transpose()?,
    };
    lock_everything().context("cannot lock the watchdog in memory: run it as root")?;
    if let Err(error) = std::fs::write("/proc/self/oom_score_adj", "-1000") {
        eprintln!("watchdog: not protected from the OOM killer: {error}");
    }
    let mut stdout = io::stdout();
    writeln!(stdout, "watching")?;
    stdout.flush()?;
    match watchdog::watch(&settings)? {
        watchdog::Outcome::ParentEnded => Ok(ExitCode::SUCCESS),
        watchdog::Outcome::Aborted(told) => {
            eprintln!("watchdog: {told}");
            Ok(ExitCode::from(1))
        }
    }
}
