//! The command line.
//!
//! Owns options, their defaults and their words; does nothing.

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand, ValueEnum};
use dynamicswap_crds::PolicyDuration;
use dynamicswap_proto::identity::Right;
use dynamicswap_types::{Bytes, Integrity, SlabSize};

use crate::cluster::down::{Manner, PagesAway};
use crate::cluster::paths::ClusterName;
use crate::cluster::record::Shape;
use crate::credentials::Credentials;
use crate::drain::args::DrainArgs;
use crate::kubectl::Place;
use crate::machine::args::{BorrowArgs, LeaveArgs, LendArgs};
use crate::paging_test::args::TestArgs;

/// What a new user wants to know next.
const AFTER_HELP: &str = "\
A first tour, as root:
  dynamicswap up
  dynamicswap apply -f POLICY.yaml        (crds/examples/verify.yaml is one)
  dynamicswap status --wait
  dynamicswap run --memory 128Mi --label app=verify -- COMMAND
  dynamicswap down

Sizes are quantities as Kubernetes writes them: 512Mi, 2Gi.
Exit codes: 0 done; 1 something failed or was left behind; 2 refused, with the reason; 130 Ctrl-C.";

/// Cluster memory: a node that runs short of RAM pages to the idle RAM of other nodes.
///
/// `demo` shows it on this machine in a minute. `up` starts a small cluster to play with.
#[derive(Debug, Parser)]
#[command(
    name = "dynamicswap",
    version,
    propagate_version = true,
    after_help = AFTER_HELP
)]
pub struct Cli {
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// What to do.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Show the whole story: real swap to remote memory, servers killed, every page checked.
    Demo(DemoArgs),
    /// Say what this host can do and what it lacks, one line each with the cure.
    ///
    /// Exit code 1 if it could not both lend and borrow memory.
    Check(CheckArgs),
    /// Start a small cluster on this machine: a controller, donors and one borrower.
    ///
    /// Its swap device is attached once a policy is applied.
    Up(UpArgs),
    /// End a local cluster and leave nothing behind.
    ///
    /// Its pages come home first, so there must be room for them. Works without any record, after a
    /// crash too.
    Down(DownArgs),
    /// Lend this machine's memory to other machines, under systemd and without Kubernetes.
    ///
    /// docs/two-machines.md takes two machines from here to a container that swaps.
    Lend(LendArgs),
    /// Make a swap device of a lending machine's memory, under systemd and without Kubernetes.
    Borrow(BorrowArgs),
    /// End lending or borrowing on this machine: pages come home, then nothing is left.
    Leave(LeaveArgs),
    /// Show a cluster on one screen.
    Status(StatusArgs),
    /// Watch a cluster live; q ends.
    Top(ConnectArgs),
    /// Say why a container, a donor, a node or a slab is as it is.
    ///
    /// What was decided of late, from which figures, by which rule, and what would change it.
    Explain(ExplainArgs),
    /// Store objects, such as a RemoteMemoryPolicy, from a YAML file.
    Apply(ApplyArgs),
    /// Take policies away.
    ///
    /// Without any policy in force, the device is detached once its pages have come home.
    Delete(DeleteArgs),
    /// Show objects: policies, memory servers, swap devices, slab maps.
    Get(GetArgs),
    /// Close a donor for new slabs; what it holds stays.
    Cordon(DonorArgs),
    /// Open a donor for new slabs again, and end its draining.
    Uncordon(DonorArgs),
    /// Give up a node that is gone for good: what it was lent goes back, and it is no longer waited for.
    ///
    /// Refused while its agent is connected, and, without --pages-are-gone, while anybody might still read
    /// pages of its device. What others have on it is made elsewhere first; then it is forgotten as a donor
    /// too, by the same command.
    Forget(ForgetArgs),
    /// Close a donor, move what it holds elsewhere, the coldest slabs first, and follow that to its end.
    ///
    /// 'server' and 'node' close the same memory server. 'node' also takes a node that lends nothing,
    /// and says whether the node's own swap device stays attached: one device cannot be detached
    /// alone, because policies attach all of them, and no pod is moved.
    ///
    /// No page is given up: a slab that nobody else holds stays until another donor has room. Where that
    /// is clear from the start, nothing is begun. Exit codes: 0 nothing lies there any more; 1 not in
    /// time, or somebody ended the drain; 2 refused; 130 Ctrl-C. After 1 and 130 the drain goes on.
    Drain(DrainArgs),
    /// Prove that paging works: a job that fills twice the memory it may keep, and checks every page.
    ///
    /// In the cluster that kubectl is set up for, on one borrower. The pages beyond the limit are swapped
    /// out; each comes back and is compared. Prints pages checked, wrong pages, swap-ins and how long they
    /// took, then removes the job. Its pod gets the labels that a policy in force of the namespace selects,
    /// is never Ready, so that no Service leads to it, and has an owner, so that no controller takes it for
    /// its own. Exit codes: 0 all right; 1 a page was wrong, the job died or nothing was swapped; 2 refused:
    /// no policy selects the pod, no device is attached, no image; 130 Ctrl-C.
    Test(TestArgs),
    /// Write what somebody needs who helps from afar: objects, events and logs, without secrets.
    ///
    /// Of the cluster that kubectl is set up for.
    Dump(DumpArgs),
    /// Even out donors that are unevenly full: the coldest copies move from the fullest to the emptiest.
    ///
    /// The controller does so by itself when they leave the dead band, unless it runs with
    /// --rebalance never. This begins inside of the band too, a few copies at a time, and does not wait
    /// for the end: 'status' says how far it is.
    Rebalance(RebalanceArgs),
    /// Run a command with a memory limit, as a container that policies can select.
    ///
    /// What it needs beyond the limit is swapped out. Its exit code is the command's.
    Run(RunArgs),
}

impl Command {
    /// Which controller it asks, if it asks one.
    pub fn connect_mut(&mut self) -> Option<&mut ConnectArgs> {
        match self {
            Self::Top(connect) => Some(connect),
            Self::Status(args) => Some(&mut args.connect),
            Self::Explain(args) => Some(&mut args.connect),
            Self::Apply(args) => Some(&mut args.connect),
            Self::Delete(args) => Some(&mut args.connect),
            Self::Get(args) => Some(&mut args.connect),
            Self::Cordon(args) | Self::Uncordon(args) => Some(&mut args.connect),
            Self::Forget(args) => Some(&mut args.connect),
            Self::Drain(args) => Some(&mut args.connect),
            Self::Rebalance(args) => Some(&mut args.connect),
            Self::Demo(_)
            | Self::Check(_)
            | Self::Up(_)
            | Self::Down(_)
            | Self::Lend(_)
            | Self::Borrow(_)
            | Self::Leave(_)
            | Self::Test(_)
            | Self::Dump(_)
            | Self::Run(_) => None,
        }
    }
}

/// Which local cluster.
#[derive(Debug, Clone, Args)]
pub struct Target {
    /// Name of the local cluster.
    #[arg(long, default_value = "local")]
    pub name: ClusterName,
}

/// Options of `down`.
#[derive(Debug, Clone, Args)]
pub struct DownArgs {
    /// Which local cluster.
    #[command(flatten)]
    pub target: Target,
    /// Give up pages that do not come home: the programs that own them die.
    ///
    /// Without it, a device that cannot be swapped off is kept and served.
    #[arg(long)]
    pub force: bool,
    /// Longest time in which no page comes home before that is decided.
    #[arg(long, value_name = "TIME", default_value = "30s")]
    pub patience: PolicyDuration,
}

impl DownArgs {
    /// How to take the cluster down.
    #[must_use]
    pub fn manner(&self) -> Manner {
        Manner {
            away: if self.force {
                PagesAway::GiveUp
            } else {
                PagesAway::Keep
            },
            patience: self.patience.as_duration(),
        }
    }
}

/// Which controller.
#[derive(Debug, Clone, Args)]
pub struct ConnectArgs {
    /// The local cluster to look at.
    #[command(flatten)]
    pub target: Target,
    /// Address of a controller, http://IP:PORT or https://IP:PORT, instead of a local cluster's.
    #[arg(long, env = "DYNAMICSWAP_CONTROLLER", value_name = "URL")]
    pub controller: Option<String>,
    /// What to show it.
    #[command(flatten)]
    pub credentials: Credentials,
    /// The controller of the cluster that kubectl is set up for; 'kubectl dynamicswap' asks no other.
    ///
    /// What you may do is what you may there: kubectl forwards a port to the controller, and makes a
    /// token of the account dynamicswap-status, or dynamicswap-operator where something is changed.
    #[arg(long, conflicts_with = "controller")]
    pub kubernetes: bool,
    /// Where it is there.
    #[command(flatten)]
    pub place: PlaceArgs,
}

/// Where DynamicSwap is in the cluster that kubectl is set up for.
#[derive(Debug, Clone, Default, Args)]
pub struct PlaceArgs {
    /// With --kubernetes: the namespace of the release, dynamicswap-system if not given.
    #[arg(long, value_name = "NAMESPACE")]
    pub system_namespace: Option<String>,
    /// With --kubernetes: a context of the kubeconfig instead of the current one.
    #[arg(long, value_name = "CONTEXT")]
    pub context: Option<String>,
}

impl PlaceArgs {
    /// The place.
    #[must_use]
    pub fn place(&self) -> Place {
        let namespace = self.system_namespace.clone();
        Place {
            context: self.context.clone(),
            namespace: namespace.unwrap_or_else(|| "dynamicswap-system".to_owned()),
        }
    }

    /// Whether anything was said.
    #[must_use]
    pub const fn is_given(&self) -> bool {
        self.system_namespace.is_some() || self.context.is_some()
    }
}

/// Options of `dump`.
#[derive(Debug, Clone, Args)]
pub struct DumpArgs {
    /// Where it is.
    #[command(flatten)]
    pub place: PlaceArgs,
    /// The folder to be made.
    #[arg(long, value_name = "DIR", default_value = "dynamicswap-dump")]
    pub out: PathBuf,
}

/// Options of `status`.
#[derive(Debug, Clone, Args)]
pub struct StatusArgs {
    /// Which controller.
    #[command(flatten)]
    pub connect: ConnectArgs,
    /// Wait until every node is ready, the device is attached if a policy wants it, and every page
    /// has its copies.
    #[arg(long, group = "waits")]
    pub wait: bool,
    /// Wait until nothing swaps any more, and so nothing would be lost if everything were removed; exit
    /// code 1 at once while a policy is in force.
    #[arg(long, group = "waits")]
    pub unused: bool,
    /// Longest wait, such as 30s or 5m; exit code 1 when it is over.
    #[arg(long, requires = "waits", value_name = "TIME", default_value = "1m")]
    pub timeout: PolicyDuration,
}

/// Options of `explain`.
#[derive(Debug, Clone, Args)]
pub struct ExplainArgs {
    /// Which controller.
    #[command(flatten)]
    pub connect: ConnectArgs,
    /// What kind of thing.
    #[arg(value_enum)]
    pub kind: ExplainKind,
    /// A container as NAMESPACE/NAME, NAME or its pod; a server or node by the node's name; a slab as
    /// NODE/NUMBER.
    #[arg(value_name = "NAME")]
    pub object: String,
}

/// What can be explained.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum ExplainKind {
    /// A container, or the containers of a pod.
    #[value(alias = "pod")]
    Container,
    /// A donor's memory server.
    #[value(alias = "donor")]
    Server,
    /// A node.
    Node,
    /// A slab of a swap device.
    Slab,
}

/// Options of `up`.
#[derive(Debug, Clone, Args)]
pub struct UpArgs {
    /// Which local cluster.
    #[command(flatten)]
    pub target: Target,
    /// Number of donors, each with an agent and a memory server: 1 to 16.
    #[arg(long, value_name = "NUMBER", default_value_t = 3)]
    pub donors: u32,
    /// Memory that each donor locks and lends.
    #[arg(long, value_name = "SIZE", default_value = "1Gi")]
    pub donor_capacity: Bytes,
    /// Size of the borrower's swap device. Two copies of 1Gi fit on three donors of 1Gi.
    #[arg(long, value_name = "SIZE", default_value = "1Gi")]
    pub device_size: Bytes,
    /// Size of a slab, the unit of placement: a power of two from 1Mi to 1Gi.
    #[arg(long, value_name = "SIZE", default_value = "16Mi", value_parser = parse_slab)]
    pub slab: SlabSize,
    /// Port of the controller on 127.0.0.1; without it, any free one.
    #[arg(long, value_name = "PORT", value_parser = clap::value_parser!(u16).range(1..))]
    pub controller_port: Option<u16>,
    /// Give the device a spill file, for policies with spill: Async or Only.
    ///
    /// It is as large as the device and lies in /var/lib/dynamicswap/NAME.
    #[arg(long)]
    pub spill: bool,
    /// What protects the device's pages outside its node: full, tag64 or none.
    ///
    /// A policy that asks for more does not attach the device.
    #[arg(long, default_value_t)]
    pub integrity: Integrity,
    /// What becomes of the swap device when no engine has served it for 30 s.
    #[arg(long, value_enum, default_value_t = WhenUnserved::Abort)]
    pub when_unserved: WhenUnserved,
}

/// The last resort for a swap device that nobody serves.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum WhenUnserved {
    /// Abort it: the machine lives, processes whose pages it holds are killed when they touch them.
    Abort,
    /// Wait: processes whose pages it holds stand still until an engine serves it.
    Wait,
}

impl WhenUnserved {
    /// The word, which swapd knows too.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Abort => "abort",
            Self::Wait => "wait",
        }
    }
}

impl UpArgs {
    /// The sizes.
    #[must_use]
    pub fn shape(&self) -> Shape {
        Shape {
            donors: self.donors,
            donor_capacity: self.donor_capacity,
            device_size: self.device_size,
            slab: self.slab,
        }
    }
}

/// Options of `apply`.
#[derive(Debug, Clone, Args)]
pub struct ApplyArgs {
    /// Which controller.
    #[command(flatten)]
    pub connect: ConnectArgs,
    /// A YAML file with one or more objects; - reads standard input.
    #[arg(short, long = "filename", value_name = "FILE")]
    pub filename: PathBuf,
}

/// Options of `cordon` and `uncordon`.
#[derive(Debug, Clone, Args)]
pub struct DonorArgs {
    /// Which controller.
    #[command(flatten)]
    pub connect: ConnectArgs,
    /// What is closed or opened.
    #[arg(value_enum, value_name = "KIND")]
    pub kind: DonorKind,
    /// Name of the donor's node, as 'get memoryservers' shows it.
    #[arg(value_name = "NAME")]
    pub object: String,
}

/// Options of `forget`.
#[derive(Debug, Clone, Args)]
pub struct ForgetArgs {
    /// Which controller.
    #[command(flatten)]
    pub connect: ConnectArgs,
    /// Name of the node, as 'status' shows it.
    #[arg(value_name = "NODE")]
    pub node: String,
    /// The node is switched off for good or was installed anew: pages of its device are nobody's.
    #[arg(long)]
    pub pages_are_gone: bool,
}

/// What can be cordoned.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum DonorKind {
    /// A donor's memory server.
    #[value(alias = "memoryserver", alias = "msrv")]
    Server,
}

/// Options of `rebalance`.
#[derive(Debug, Clone, Args)]
pub struct RebalanceArgs {
    /// Which controller.
    #[command(flatten)]
    pub connect: ConnectArgs,
    /// Only show which copies would move, why, and what each donor would lend then.
    #[arg(long)]
    pub dry_run: bool,
    /// Form of the answer.
    #[arg(short, long, value_enum, default_value_t = RebalanceOutput::Table)]
    pub output: RebalanceOutput,
}

impl RebalanceArgs {
    /// What the caller must be allowed to do.
    #[must_use]
    pub const fn right(&self) -> Right {
        if self.dry_run {
            Right::Look
        } else {
            Right::Order
        }
    }
}

/// Form of what `rebalance` says.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum RebalanceOutput {
    /// Columns for people.
    Table,
    /// JSON, for programs.
    Json,
}

/// Options of `delete`.
#[derive(Debug, Clone, Args)]
pub struct DeleteArgs {
    /// Which controller.
    #[command(flatten)]
    pub connect: ConnectArgs,
    /// Kind: remotememorypolicies (rmp); the controller makes the others itself.
    pub kind: String,
    /// Names of the policies; all go or none.
    #[arg(value_name = "NAME", required = true)]
    pub names: Vec<String>,
    /// Namespace of the policies.
    #[arg(short, long, default_value = "default")]
    pub namespace: String,
}

/// Options of `get`.
#[derive(Debug, Clone, Args)]
pub struct GetArgs {
    /// Which controller.
    #[command(flatten)]
    pub connect: ConnectArgs,
    /// Kind: remotememorypolicies (rmp), memoryservers (msrv), swapdevices (swd), slabmaps, or slabs
    /// for a line each; all if left out.
    pub kind: Option<String>,
    /// Name of one object; all of the kind if left out.
    #[arg(value_name = "NAME")]
    pub object: Option<String>,
    /// Namespace of policies; the other kinds have none.
    #[arg(short, long, default_value = "default")]
    pub namespace: String,
    /// Form of the output.
    #[arg(short, long, value_enum, default_value_t = Output::Table)]
    pub output: Output,
}

/// Form of an output.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Output {
    /// Columns for people.
    Table,
    /// JSON, as kubectl prints it.
    Json,
    /// YAML, as kubectl prints it.
    Yaml,
}

/// Options of `check`.
#[derive(Debug, Clone, Args)]
pub struct CheckArgs {
    /// Form of the answer.
    #[arg(short, long, value_enum, default_value_t = CheckOutput::Text)]
    pub output: CheckOutput,
}

/// Form of what `check` says.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum CheckOutput {
    /// A line each, for people.
    Text,
    /// JSON, for programs.
    Json,
}

/// Options of `run`.
#[derive(Debug, Clone, Args)]
pub struct RunArgs {
    /// Which local cluster.
    #[command(flatten)]
    pub target: Target,
    /// Memory limit of the container, such as 256Mi.
    #[arg(long, value_name = "SIZE")]
    pub memory: Bytes,
    /// Name of the container; the command's by default.
    #[arg(long = "container", value_name = "NAME")]
    pub container: Option<String>,
    /// Label of the container, by which policies select it; may be given several times.
    #[arg(long = "label", value_name = "KEY=VALUE", value_parser = parse_label)]
    pub labels: Vec<(String, String)>,
    /// The command and its arguments, behind --.
    #[arg(last = true, required = true)]
    pub command: Vec<String>,
}

/// Options of `demo`.
#[derive(Debug, Clone, Args)]
pub struct DemoArgs {
    /// What swaps.
    #[arg(long, value_enum, default_value_t = Workload::Verify)]
    pub workload: Workload,
    /// Memory that the workload needs, 64Mi to 64Gi; it gets half of it.
    #[arg(long, value_name = "SIZE", default_value = "512Mi")]
    pub memory: Bytes,
    /// Where report.json and report.html go.
    #[arg(long, value_name = "DIR", default_value = "demo-report")]
    pub out: PathBuf,
    /// Another policy file than the demo's own, which asks for two copies.
    #[arg(long, value_name = "FILE")]
    pub policy: Option<PathBuf>,
    /// Number of donors, 3 to 16: one is killed on the way.
    #[arg(long, value_name = "NUMBER", default_value_t = 3)]
    pub donors: u32,
    /// Seconds of load before and after each failure.
    #[arg(long, value_name = "SECONDS", default_value_t = 5.0)]
    pub calm: f64,
}

/// What a demo runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Workload {
    /// Memory whose every page is checked.
    Verify,
    /// A real redis-server under load.
    Redis,
}

impl Workload {
    /// The word.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Verify => "verify",
            Self::Redis => "redis",
        }
    }
}

/// A slab's size on the command line.
///
/// # Errors
/// The sentence that says what is wrong with it.
pub fn parse_slab(text: &str) -> Result<SlabSize, String> {
    let size: Bytes = text.parse().map_err(|error| format!("{error}"))?;
    SlabSize::try_from(size).map_err(|error| error.to_string())
}

/// A label on the command line.
///
/// # Errors
/// The sentence that says what is wrong with it.
pub fn parse_label(text: &str) -> Result<(String, String), String> {
    match text.split_once('=') {
        Some((key, value)) if !key.is_empty() => Ok((key.to_owned(), value.to_owned())),
        _ => Err(format!("'{text}' is no label: write KEY=VALUE")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    #[test]
    fn command_line_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn defaults_are_the_promised_ones() {
        let cli = Cli::try_parse_from(["dynamicswap", "up"]).expect("valid");
        let Command::Up(up) = cli.command else {
            panic!("not up");
        };
        assert_eq!(up.target.name.to_string(), "local");
        let shape = up.shape();
        assert_eq!((shape.donors, shape.slab.bytes()), (3, Bytes::from_mib(16)));
        assert_eq!(shape.donor_capacity, Bytes::from_mib(1024));
        assert_eq!(shape.device_size, Bytes::from_mib(1024));
    }

    #[test]
    fn local_cluster_aborts_an_unserved_device_and_has_no_spill_file_unless_told() {
        let up = |words: &[&str]| {
            let words = ["dynamicswap", "up"].iter().chain(words);
            let Command::Up(up) = Cli::try_parse_from(words).expect("valid").command else {
                panic!("not up");
            };
            (up.when_unserved, up.spill)
        };
        assert_eq!(up(&[]), (WhenUnserved::Abort, false));
        let told = up(&["--when-unserved", "wait", "--spill"]);
        assert_eq!(told, (WhenUnserved::Wait, true));
    }

    #[test]
    fn wait_has_a_time_limit() {
        let status = |words: &[&str]| {
            let words = ["dynamicswap", "status"].iter().chain(words);
            Cli::try_parse_from(words).map(|cli| match cli.command {
                Command::Status(status) => status.timeout,
                _ => panic!("not status"),
            })
        };
        let limit = status(&["--wait"]).expect("valid");
        assert_eq!(limit, PolicyDuration::from_secs(60));
        let limit = status(&["--wait", "--timeout", "90s"]).expect("valid");
        assert_eq!(limit, PolicyDuration::from_secs(90));
        assert!(status(&["--timeout", "90s"]).is_err(), "waits for nothing");
        assert!(status(&["--unused", "--timeout", "90s"]).is_ok());
        assert!(status(&["--unused", "--wait"]).is_err(), "one or the other");
        assert!(status(&["--wait", "--timeout", "soon"]).is_err());
    }

    #[test]
    fn rebalance_acts_unless_told_to_show_only() {
        let rebalance = |words: &[&str]| {
            let words = ["dynamicswap", "rebalance"].iter().chain(words);
            match Cli::try_parse_from(words).expect("valid").command {
                Command::Rebalance(it) => (it.dry_run, it.output),
                _ => panic!("not rebalance"),
            }
        };
        assert_eq!(rebalance(&[]), (false, RebalanceOutput::Table));
        let shown = rebalance(&["--dry-run", "-o", "json"]);
        assert_eq!(shown, (true, RebalanceOutput::Json));
    }

    #[test]
    fn bad_values_are_refused_with_a_reason() {
        for (arguments, reason) in [
            (&["up", "--slab", "3Mi"][..], "is not a slab size"),
            (&["up", "--donor-capacity", "1.5Gi"], "is not a quantity"),
            (&["up", "--name", "A"], "is no cluster name"),
            (
                &["run", "--memory", "1Mi", "--label", "x", "--", "true"],
                "is no label",
            ),
        ] {
            let command = ["dynamicswap"].iter().chain(arguments);
            let error = Cli::try_parse_from(command).expect_err("bad");
            assert!(error.to_string().contains(reason), "{error}");
            assert_eq!(error.exit_code(), 2);
        }
    }
}
