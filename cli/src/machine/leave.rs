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
use super::units::{CONTROLLER, MEMORY_SERVER, SWAPD};
use crate::client::Client;
use crate::cluster::host;
use crate::refuse_unless;
use crate::ui::{Ui, human_bytes};

/// Longest time in which no page comes home before this command gives up waiting.
const PATIENCE: Duration = Duration::from_secs(30);
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

/// Who has pages with the lender, and how many bytes.
fn users(status: &pb::ClusterStatus) -> Vec<String> {
    let device = |node: &pb::NodeStatus| {
        let device = node.report.as_ref()?.swap_device.as_ref()?;
        let used = device.pages_used.saturating_mul(4096);
        (used > 0).then(|| format!("{} ({})", node.node, human_bytes(used)))
    };
    status.nodes.iter().filter_map(device).collect()
}

/// The address in the controller's unit.
fn controller_address() -> Option<String> {
    let unit = fs::read_to_string(Path::new(super::paths::UNITS).join(CONTROLLER)).ok()?;
    let (_, rest) = unit.split_once("--listen ")?;
    let address = rest.split_whitespace().next()?;
    Some(format!("http://{address}"))
}

/// Stops and removes every unit of ours, and what they have left.
///
/// # Errors
/// What is still there, and why.
pub(super) fn take_away(ui: &mut Ui) -> Result<()> {
    for unit in systemd::present() {
        systemd::begin_stop(unit)?;
        wait_stopped(unit, ui)?;
        systemd::remove(unit)?;
        ui.clear_live();
        ui.done("removed", unit);
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
        if now != used {
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

/// Bytes that the kernel has swapped out, everywhere.
fn swap_used() -> u64 {
    let table = fs::read_to_string("/proc/swaps").unwrap_or_default();
    let used = table.lines().skip(1).filter_map(|line| {
        let kib = line.split_whitespace().nth(3)?;
        kib.parse::<u64>().ok()
    });
    used.sum::<u64>().saturating_mul(1024)
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
    fn borrowers_with_pages_are_named() {
        let node = |name: &str, pages_used| pb::NodeStatus {
            node: name.to_owned(),
            report: Some(pb::NodeReport {
                swap_device: Some(SwapDeviceReport {
                    pages_used,
                    ..SwapDeviceReport::default()
                }),
                ..pb::NodeReport::default()
            }),
            ..pb::NodeStatus::default()
        };
        let status = pb::ClusterStatus {
            nodes: vec![node("idle", 0), node("busy", 512)],
            ..pb::ClusterStatus::default()
        };
        assert_eq!(users(&status), ["busy (2.00 MiB)"]);
    }
}
