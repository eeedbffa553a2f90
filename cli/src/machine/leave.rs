//! `leave`: takes this machine out again. Pages come home first; borrowers' pages are not thrown
//! away unasked.

use std::fs;
use std::path::Path;
use std::process::{Command, ExitCode};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use dynamicswap_proto::control::v1 as pb;

use super::args::LeaveArgs;
use super::paths::{RUN, STATE};
use super::systemd;
use super::units::{AGENT, CONTROLLER, MEMORY_SERVER, SWAPD};
use crate::client::Client;
use crate::cluster::down::swap_used;
use crate::cluster::host;
use crate::refuse_unless;
use crate::ui::{Ui, human_bytes};

/// Longest time in which no page comes home before this command gives up waiting.
const PATIENCE: Duration = Duration::from_secs(30);
/// Time that the lender is given to notice that this machine's agent is gone.
const GOODBYE: Duration = Duration::from_secs(10);
/// Time between two looks.
const LOOK_EVERY: Duration = Duration::from_millis(200);

/// Ends lending or borrowing on this machine.
///
/// # Errors
/// A refusal if borrowers have pages here, or an error if pages do not come home.
pub fn leave(args: &LeaveArgs) -> Result<ExitCode> {
    host::check_root()?;
    let present = systemd::present();
    refuse_unless!(
        !present.is_empty(),
        "this machine neither lends nor borrows: there is nothing to end"
    );
    if present.contains(&MEMORY_SERVER) && !args.force {
        refuse_lent_pages()?;
    }
    let mut ui = Ui::new();
    take_away(&mut ui)?;
    ui.done("left", "nothing is left on this machine");
    Ok(ExitCode::SUCCESS)
}

/// Refuses while any borrower of this machine's controller has pages out.
fn refuse_lent_pages() -> Result<()> {
    let Some(address) = controller_address() else {
        return Ok(());
    };
    let Ok(status) = Client::new(&address).and_then(|mut client| client.status(0)) else {
        // Without its controller, what it lends cannot be known: --force says that it may go.
        bail!(
            "the controller at {address} does not answer, so that nobody knows whose pages are \
             here: start it with 'systemctl start {CONTROLLER}', or use --force"
        );
    };
    let users = users(&status);
    refuse_unless!(
        users.is_empty(),
        "borrowers have pages here: {}. Run 'dynamicswap leave' there first, or use --force",
        users.join(", ")
    );
    Ok(())
}

/// Borrowers that have pages with the lender, or of whom nobody knows.
fn users(status: &pb::ClusterStatus) -> Vec<String> {
    let user = |node: &pb::NodeStatus| {
        let report = node.report.as_ref().filter(|_| node.connected);
        let Some(report) = report else {
            return Some(format!("{} (not connected, so nobody knows)", node.node));
        };
        let Some(device) = &report.swap_device else {
            return Some(format!("{} (its swapd does not answer)", node.node));
        };
        let used = device.pages_used.saturating_mul(4096);
        (used > 0).then(|| format!("{} ({})", node.node, human_bytes(used)))
    };
    let borrowers = status.nodes.iter().filter(|node| node.borrower);
    borrowers.filter_map(user).collect()
}

/// The word behind an option in a unit of this machine.
fn option_of(unit: &str, option: &str) -> Option<String> {
    let unit = fs::read_to_string(Path::new(super::paths::UNITS).join(unit)).ok()?;
    let (_, rest) = unit.split_once(option)?;
    rest.split_whitespace().next().map(str::to_owned)
}

/// The address in the controller's unit.
fn controller_address() -> Option<String> {
    option_of(CONTROLLER, "--listen ").map(|address| format!("http://{address}"))
}

/// Tells the lender that this machine's device is gone, so that its slots are lent to others. A
/// lender that cannot be told keeps them, which harms nobody.
fn say_goodbye(controller: &str, node: &str, ui: &mut Ui) {
    let deadline = Instant::now() + GOODBYE;
    loop {
        let told = Client::new(controller).and_then(|mut it| it.forget(node.to_owned()));
        match told {
            Ok(_) => return,
            // The end of the agent's session may still be on its way.
            Err(_) if Instant::now() < deadline => std::thread::park_timeout(LOOK_EVERY),
            Err(error) => {
                let detail = format!("it keeps what it lent to {node}: {error:#}");
                return ui.warn("lender not told", &detail);
            }
        }
    }
}

/// Refuses while the kernel still uses what would be removed: a served swap device, or memory that
/// is mounted.
fn refuse_what_is_in_use() -> Result<()> {
    let mounts = fs::read_to_string("/proc/mounts").context("cannot read /proc/mounts")?;
    let swaps = fs::read_to_string("/proc/swaps").context("cannot read /proc/swaps")?;
    let left = in_use(&mounts, &swaps);
    refuse_unless!(
        left.is_empty(),
        "still in use: {}. Nothing of it was removed; start the unit again ('systemctl start \
         {SWAPD}') and run this again, or 'dynamicswap-swapd abort --state-dir {RUN}/swapd', which \
         gives its pages up",
        left.join(", ")
    );
    Ok(())
}

/// Mounts below our directory, and swap while one of them or a ublk device of ours is there.
fn in_use(mounts: &str, swaps: &str) -> Vec<String> {
    let places = mounts.lines().filter_map(|line| line.split(' ').nth(1));
    let swapd = format!("{RUN}/swapd");
    let mut left: Vec<String> = places
        .filter(|place| place.starts_with(&swapd))
        .map(|place| format!("mount {place}"))
        .collect();
    let ublk = swaps
        .lines()
        .filter_map(|line| line.split_whitespace().next());
    let ublk = ublk.filter(|device| device.starts_with("/dev/ublkb"));
    left.extend(ublk.map(|device| format!("swap {device}")));
    left
}

/// Stops and removes every unit of ours, and what they have left.
///
/// # Errors
/// What is still there, and why.
pub(super) fn take_away(ui: &mut Ui) -> Result<()> {
    let borrowed = option_of(SWAPD, "--node ");
    let lender = option_of(AGENT, "--controller ").zip(borrowed);
    for unit in systemd::present() {
        systemd::begin_stop(unit)?;
        wait_stopped(unit, ui)?;
        ui.clear_live();
        if unit == SWAPD {
            // Before its unit goes: with it gone, nobody could serve the device again.
            refuse_what_is_in_use()?;
        }
        systemd::remove(unit)?;
        ui.done("removed", unit);
    }
    if let Some((controller, node)) = lender {
        say_goodbye(&controller, &node, ui);
    }
    discard_memory()?;
    for directory in [RUN, STATE] {
        match fs::remove_dir_all(directory) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                return Err(error).with_context(|| format!("cannot remove {directory}"));
            }
            _ => {}
        }
    }
    Ok(())
}

fn wait_stopped(unit: &str, ui: &mut Ui) -> Result<()> {
    let mut used = swap_used();
    let mut moved = Instant::now();
    while systemd::is_active(unit) {
        let now = swap_used();
        if now < used {
            (used, moved) = (now, Instant::now());
        }
        if moved.elapsed() > PATIENCE {
            let hint = if unit == SWAPD {
                "no page has come home for 30 s: free memory here, or end the programs that are \
                 swapped out, and run this again; until then the device is served"
            } else {
                "it does not stop"
            };
            bail!("{unit}: {hint}. {}", systemd::log_of(unit));
        }
        ui.live(&format!(
            "stopping {unit}, {} swapped out",
            human_bytes(used)
        ));
        std::thread::park_timeout(LOOK_EVERY);
    }
    Ok(())
}

/// The lent memory is a mount of its own, which outlives its server.
fn discard_memory() -> Result<()> {
    let directory = Path::new(RUN).join("memory-server");
    if !directory.exists() {
        return Ok(());
    }
    let program = super::programs()?.join("dynamicswap-memory-server");
    let socket = directory.join("control.sock");
    let output = Command::new(program)
        .args(["--discard", "--node", "lender", "--listen", "127.0.0.1:0"])
        .arg("--state-dir")
        .arg(&directory)
        .arg("--control-socket")
        .arg(socket)
        .output()
        .context("cannot run dynamicswap-memory-server")?;
    refuse_unless!(
        output.status.success(),
        "the lent memory at {} is still there: {}",
        directory.display(),
        String::from_utf8_lossy(&output.stderr).trim()
    );
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use dynamicswap_proto::common::v1::SwapDeviceReport;

    #[test]
    fn borrowers_with_pages_or_without_news_are_named() {
        let node = |name: &str, pages_used: Option<u64>| pb::NodeStatus {
            node: name.to_owned(),
            connected: pages_used.is_some(),
            borrower: true,
            report: Some(pb::NodeReport {
                swap_device: Some(SwapDeviceReport {
                    pages_used: pages_used.unwrap_or_default(),
                    ..SwapDeviceReport::default()
                }),
                ..pb::NodeReport::default()
            }),
            ..pb::NodeStatus::default()
        };
        let gone = pb::NodeStatus {
            borrower: false,
            ..node("gone", None)
        };
        let status = pb::ClusterStatus {
            nodes: vec![
                node("idle", Some(0)),
                node("busy", Some(512)),
                node("silent", None),
                gone,
            ],
            ..pb::ClusterStatus::default()
        };
        let silent = "silent (not connected, so nobody knows)";
        assert_eq!(users(&status), ["busy (2.0 MiB)", silent]);
    }

    #[test]
    fn device_in_use_is_seen() {
        let mounts = format!("tmpfs {RUN}/swapd/memory tmpfs rw 0 0\ntmpfs /run tmpfs rw 0 0\n");
        let head = "Filename Type Size Used Priority\n";
        assert_eq!(in_use("tmpfs /run tmpfs rw 0 0\n", head), [""; 0]);
        assert_eq!(in_use(&mounts, head), [format!("mount {RUN}/swapd/memory")]);
        let swaps = format!("{head}/dev/ublkb0 partition 8 4 -2\n/dev/sda2 partition 8 4 -2\n");
        assert_eq!(in_use("", &swaps), ["swap /dev/ublkb0"]);
    }
}
