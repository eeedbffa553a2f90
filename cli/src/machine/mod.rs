//! Two plain machines without Kubernetes: one lends memory, the other borrows it, under systemd.
//!
//! Owns `lend`, `borrow` and `leave`: one command on each machine. A failed attempt leaves
//! nothing; `leave` takes away what they have made.

pub mod args;
mod leave;
mod paths;
mod systemd;
mod units;

use std::net::{IpAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use dynamicswap_proto::control::v1 as pb;
use dynamicswap_types::{Bytes, Integrity, NodeName, SlabSize};

use crate::client::Client;
use crate::cluster::{caution, host};
use crate::failure::Refusal;
use crate::interrupt::Interrupt;
use crate::objects::read_objects;
use crate::refuse_unless;
use crate::ui::Ui;
use args::{BorrowArgs, LendArgs};
use units::{AGENT, Borrower, Lender, MEMORY_SERVER, SWAPD, Unit, controller_of};

pub use leave::leave;

/// Copy with the lender, disk behind it.
const POLICY: &str = include_str!("../../policies/two-machines.yaml");
/// Copy with the lender only.
const POLICY_NO_SPILL: &str = include_str!("../../policies/two-machines-no-spill.yaml");
/// Zeroing and locking memory takes a second per GiB, and a spill file must be written once.
const START_LIMIT: Duration = Duration::from_secs(300);
/// Time between two looks at what is being waited for.
const LOOK_EVERY: Duration = Duration::from_millis(200);

/// Lends this machine's memory.
///
/// # Errors
/// A refusal that says what is missing or what failed; nothing is left of the attempt.
pub fn lend(args: &LendArgs) -> Result<ExitCode> {
    let node = node_name()?;
    let programs = programs()?;
    let lender = Lender {
        programs: &programs,
        node: &node,
        address: args.address,
        capacity: args.capacity,
        slab: args.slab,
    };
    if args.print_units {
        return Ok(print(&lender.units()));
    }
    check_machine()?;
    check_address(args.address)?;
    check_capacity(args.capacity, args.slab)?;
    let controller = controller_of(args.address);
    let (interrupt, mut ui) = (Interrupt::listen()?, Ui::new());
    ui.headline(&format!("lending {} of {node}", args.capacity));
    attempt(&lender.units(), &mut ui, |ui| {
        ui.done("units", "controller, memory server and agent are started");
        let mut client = Client::new(&format!("http://{controller}"))?;
        let ready = |status: &pb::ClusterStatus| server_of(status, &node).is_some();
        wait(
            &mut client,
            &interrupt,
            ui,
            (MEMORY_SERVER, "memory server"),
            ready,
        )
    })?;
    ui.done("memory server", &format!("{} locked", args.capacity));
    ui.warn(
        "warning",
        "whoever reaches this address controls the cluster, policies and drains included: use a \
         network of your own. Pages are encrypted before they leave their machine, the control \
         connection is neither that nor authenticated",
    );
    ui.line(&format!(
        "Next, on the other machine: dynamicswap borrow --from {} --size SIZE",
        args.address
    ));
    Ok(ExitCode::SUCCESS)
}

/// Makes a swap device of a lender's memory.
///
/// # Errors
/// A refusal that says what is missing or what failed; nothing is left of the attempt.
pub fn borrow(args: &BorrowArgs) -> Result<ExitCode> {
    let node = node_name()?;
    let programs = programs()?;
    let mut borrower = Borrower {
        programs: &programs,
        node: &node,
        controller: args.from,
        size: args.size,
        slab: SlabSize::DEFAULT,
        spill: !args.no_spill,
        integrity: args.integrity,
    };
    if args.print_units {
        return Ok(print(&borrower.units()));
    }
    check_machine()?;
    if borrower.spill {
        host::check_spill(Path::new(paths::STATE), args.size)?;
    }
    let policy = policy_of(args)?;
    let mut client = Client::new(&format!("http://{}", args.from))?;
    let status = client.status(0).map_err(|error| {
        Refusal::error(format!(
            "no lender answers at {} ({error:#}): run 'dynamicswap lend' there first",
            args.from
        ))
    })?;
    borrower.slab = slab_of(&status, args.size, &node)?;
    // Asked now: later the device itself is swap that is on.
    let cautions = caution::all();
    let (interrupt, mut ui) = (Interrupt::listen()?, Ui::new());
    ui.headline(&format!("borrowing {} for {node}", args.size));
    attempt(&borrower.units(), &mut ui, |ui| {
        ui.done("units", "swap device and agent are started");
        let there = |status: &pb::ClusterStatus| device_of(status, &node).is_some();
        wait(&mut client, &interrupt, ui, (SWAPD, "swap device"), there)?;
        for line in client.apply(policy.clone())? {
            ui.done("policy", &line);
        }
        let on =
            |status: &pb::ClusterStatus| device_of(status, &node).is_some_and(|it| it.attached);
        wait(&mut client, &interrupt, ui, (SWAPD, "swap on"), on)
    })?;
    let status = client.status(0)?;
    ui.done("swap on", &device_sentence(&status, &node));
    for caution in cautions {
        ui.warn("warning", &caution);
    }
    ui.line(&format!(
        "Next: dynamicswap status --controller http://{}, and a container with a memory limit",
        args.from
    ));
    Ok(ExitCode::SUCCESS)
}

fn policy_of(args: &BorrowArgs) -> Result<String> {
    let Some(file) = &args.policy else {
        return Ok(built_in(args.no_spill, args.integrity));
    };
    let text = read_objects(file)?;
    // What is not understood is the controller's to refuse.
    let policies = dynamicswap_crds::parse_policies(&text).unwrap_or_default();
    let in_force = policies.iter().filter(|policy| policy.in_force());
    let wanted = in_force.map(|policy| policy.spec.integrity).max();
    if let Some(wanted) = wanted.filter(|wanted| *wanted > args.integrity) {
        return Err(Refusal::error(format!(
            "{} asks for integrity {wanted}, and the device would have {}: give --integrity \
             {wanted}, or write less in spec.integrity",
            file.display(),
            args.integrity
        )));
    }
    Ok(text)
}

/// The built-in policy. It asks for what policies ask for by default, and for less only where the
/// device has less: other borrowers of the same lender may have devices of their own.
fn built_in(no_spill: bool, integrity: Integrity) -> String {
    let text = if no_spill { POLICY_NO_SPILL } else { POLICY };
    if integrity >= Integrity::default() {
        return text.to_owned();
    }
    format!("{text}  integrity: {integrity}\n")
}

/// Starts units and carries on; on failure, takes everything away again.
fn attempt(units: &[Unit], ui: &mut Ui, go_on: impl FnOnce(&mut Ui) -> Result<()>) -> Result<()> {
    let result = systemd::install(units).and_then(|()| go_on(ui));
    ui.clear_live();
    result.map_err(|error| match leave::take_away(ui) {
        Ok(()) => error,
        Err(left) => error.context(format!("left behind: {left:#}")),
    })
}

/// Waits until the cluster's state fits, as long as the unit runs.
fn wait(
    client: &mut Client,
    interrupt: &Interrupt,
    ui: &mut Ui,
    (unit, what): (&str, &str),
    fits: impl Fn(&pb::ClusterStatus) -> bool,
) -> Result<()> {
    let deadline = Instant::now() + START_LIMIT;
    loop {
        // The controller may be one that is just being started.
        if client.status(0).is_ok_and(|status| fits(&status)) {
            return Ok(());
        }
        refuse_unless!(
            Instant::now() < deadline,
            "{what}: not ready after {} s. {}",
            START_LIMIT.as_secs(),
            systemd::log_of(unit)
        );
        let failed = [unit, AGENT]
            .into_iter()
            .find(|unit| systemd::is_failing(unit));
        if let Some(unit) = failed {
            return Err(Refusal::error(format!("{what}: {}", systemd::log_of(unit))));
        }
        ui.live(&format!("waiting: {what}"));
        interrupt.wait(LOOK_EVERY)?;
    }
}

fn report_of<'s>(status: &'s pb::ClusterStatus, node: &NodeName) -> Option<&'s pb::NodeReport> {
    let mut nodes = status.nodes.iter().filter(|seen| seen.connected);
    let seen = nodes.find(|seen| seen.node == node.as_str())?;
    seen.report.as_ref()
}

fn server_of<'s>(
    status: &'s pb::ClusterStatus,
    node: &NodeName,
) -> Option<&'s dynamicswap_proto::common::v1::MemoryServerReport> {
    report_of(status, node)?.memory_server.as_ref()
}

fn device_of<'s>(
    status: &'s pb::ClusterStatus,
    node: &NodeName,
) -> Option<&'s dynamicswap_proto::common::v1::SwapDeviceReport> {
    report_of(status, node)?.swap_device.as_ref()
}

/// The lender's slab size, which the device must have too. Refuses a device that finds no room.
fn slab_of(status: &pb::ClusterStatus, size: Bytes, own: &NodeName) -> Result<SlabSize> {
    let reports = status.nodes.iter().filter(|node| node.connected);
    let servers = reports.filter_map(|node| node.report.as_ref()?.memory_server.as_ref());
    let servers: Vec<_> = servers.collect();
    let Some(first) = servers.first() else {
        return Err(Refusal::error(
            "the lender's memory server has not reported: look at it there with 'dynamicswap \
             status', then try again",
        ));
    };
    let slab = SlabSize::try_from(Bytes::new(first.slot_bytes))
        .context("the lender's slots have an impossible size")?;
    let free = servers.iter().map(|server| {
        let taken = u32::try_from(server.grants.len()).unwrap_or(u32::MAX);
        u64::from(server.slots_total.saturating_sub(taken))
    });
    let free = Bytes::new(slab.bytes().get().saturating_mul(free.sum()));
    refuse_unless!(
        size >= slab.bytes(),
        "a device of {size} holds no slab of {slab}: give at least --size {slab}"
    );
    refuse_unless!(
        free >= size,
        "the lender has {free} left, and a device of {size} wants as much: choose a smaller --size, \
         or lend more"
    );
    let taken = status
        .nodes
        .iter()
        .any(|node| node.connected && node.node == own.as_str());
    refuse_unless!(
        !taken,
        "a node named {own} is connected to the lender already: give this machine another host name"
    );
    Ok(slab)
}

fn device_sentence(status: &pb::ClusterStatus, node: &NodeName) -> String {
    let Some(device) = device_of(status, node) else {
        return "attached".to_owned();
    };
    let ways = device.links.iter().map(|link| link.transport.as_str());
    let ways: Vec<&str> = ways.filter(|way| !way.is_empty()).collect();
    format!(
        "{} by {}, {} over {}",
        Bytes::new(device.size_bytes),
        device.device_path,
        device.front_end,
        if ways.is_empty() {
            "the network".to_owned()
        } else {
            ways.join(" and ")
        }
    )
}

fn print(units: &[Unit]) -> ExitCode {
    for unit in units {
        println!("# {}/{}\n{}", paths::UNITS, unit.name, unit.text);
    }
    ExitCode::SUCCESS
}

fn check_machine() -> Result<()> {
    host::check_root()?;
    systemd::check()?;
    let present = systemd::present();
    refuse_unless!(
        present.is_empty(),
        "this machine lends or borrows already ({} is there): end that with 'dynamicswap leave'",
        present.join(", ")
    );
    Ok(())
}

/// Refuses an address that no other machine could reach here.
fn check_address(address: IpAddr) -> Result<()> {
    refuse_unless!(
        !(address.is_unspecified() || address.is_loopback() || address.is_multicast()),
        "{address} is no address that another machine can reach: give this machine's own in the \
         network of the borrowers ('ip address' lists them)"
    );
    refuse_unless!(
        TcpListener::bind((address, 0)).is_ok(),
        "{address} is not an address of this machine: 'ip address' lists them"
    );
    Ok(())
}

fn check_capacity(capacity: Bytes, slab: SlabSize) -> Result<()> {
    refuse_unless!(
        capacity >= slab.bytes(),
        "{capacity} hold no slab of {slab}: lend at least {slab}"
    );
    let available = host::memory_available()?;
    let most = Bytes::new(available.get().saturating_sub(host::RESERVE.get() / 2));
    refuse_unless!(
        capacity <= most,
        "{capacity} cannot be lent: this machine has {:.0} MiB available, and needs some itself; \
         lend at most {:.0}Mi",
        available.as_mib_f64(),
        most.as_mib_f64().floor()
    );
    Ok(())
}

/// This machine's host name, which names the node.
fn node_name() -> Result<NodeName> {
    let system = rustix::system::uname();
    let name = system.nodename().to_string_lossy().to_lowercase();
    name.parse::<NodeName>().map_err(|error| {
        Refusal::error(format!(
            "this machine's host name cannot name a node: {error}. Change it with hostnamectl"
        ))
    })
}

/// The directory of the programs, which units name.
fn programs() -> Result<PathBuf> {
    let own = std::env::current_exe().context("cannot find this program")?;
    let directory = own.parent().context("this program is in no directory")?;
    for program in [
        "agent",
        "controller",
        "memory-server",
        "swapd",
        "swapd-engine",
    ] {
        let path = directory.join(format!("dynamicswap-{program}"));
        refuse_unless!(
            path.exists(),
            "{} is not there: install all programs in one directory, such as /usr/local/bin",
            path.display()
        );
    }
    Ok(directory.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;
    use dynamicswap_proto::common::v1::{MemoryServerReport, SlotReport};

    fn lender(slots: u32, taken: usize) -> pb::ClusterStatus {
        let server = MemoryServerReport {
            slot_bytes: 16 << 20,
            slots_total: slots,
            grants: vec![SlotReport::default(); taken],
            ..MemoryServerReport::default()
        };
        let node = pb::NodeStatus {
            node: "lender".to_owned(),
            connected: true,
            report: Some(pb::NodeReport {
                memory_server: Some(server),
                ..pb::NodeReport::default()
            }),
            ..pb::NodeStatus::default()
        };
        pb::ClusterStatus {
            nodes: vec![node],
            ..pb::ClusterStatus::default()
        }
    }

    #[test]
    fn device_has_the_lender_s_slabs_and_fits() {
        let own = "borrower".parse().expect("a name");
        let size = Bytes::from_mib(64);
        let slab = slab_of(&lender(8, 4), size, &own).expect("fits");
        assert_eq!(slab.bytes(), Bytes::from_mib(16));
        let refused = |status, size, own: &NodeName| {
            slab_of(&status, size, own)
                .expect_err("refused")
                .to_string()
        };
        assert!(refused(lender(8, 5), size, &own).contains("has 48Mi left"));
        assert!(refused(lender(8, 0), Bytes::from_mib(8), &own).contains("no slab"));
        let twin = "lender".parse().expect("a name");
        assert!(refused(lender(8, 0), size, &twin).contains("another host name"));
        assert!(refused(pb::ClusterStatus::default(), size, &own).contains("not reported"));
    }

    #[test]
    fn addresses_that_nobody_reaches_are_refused() {
        for address in ["0.0.0.0", "127.0.0.1", "::1", "224.0.0.1", "203.0.113.77"] {
            let address = address.parse().expect("an address");
            let refused = check_address(address).expect_err("refused").to_string();
            assert!(refused.contains("'ip address'"), "{refused}");
        }
    }

    #[test]
    fn built_in_policies_are_valid_and_differ_in_the_disk() {
        let spill = |yaml: &str| {
            let policies = dynamicswap_crds::parse_policies(yaml).expect("valid");
            policies[0].spec.durability.spill.to_string()
        };
        assert_eq!(
            (spill(POLICY), spill(POLICY_NO_SPILL)),
            ("Async".to_owned(), "None".to_owned())
        );
    }

    #[test]
    fn built_in_policy_never_asks_for_more_than_the_device_has() {
        for (no_spill, has) in [false, true]
            .into_iter()
            .flat_map(|no_spill| Integrity::ALL.map(|has| (no_spill, has)))
        {
            let text = built_in(no_spill, has);
            let policies = dynamicswap_crds::parse_policies(&text).expect("valid");
            let asked = policies[0].spec.integrity;
            assert_eq!(asked, has.min(Integrity::Tag64));
        }
    }

    #[test]
    fn policy_that_would_not_attach_the_device_is_refused_with_the_option() {
        let file = tempfile::NamedTempFile::new().expect("a file");
        let text = format!("{POLICY}  integrity: full\n");
        std::fs::write(file.path(), text).expect("written");
        let args = |integrity| BorrowArgs {
            from: "10.0.0.1:7700".parse().expect("an address"),
            size: Bytes::from_mib(64),
            no_spill: false,
            integrity,
            policy: Some(file.path().to_owned()),
            print_units: false,
        };
        let error = policy_of(&args(Integrity::Tag64)).expect_err("too weak");
        assert!(
            error.to_string().contains("give --integrity full"),
            "{error}"
        );
        assert!(policy_of(&args(Integrity::Full)).is_ok());
    }
}
