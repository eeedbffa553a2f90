//! Asking a memory server on its control socket, and granting the measuring device a slot of it.

use std::os::unix::net::UnixStream;
use std::path::Path;

use anyhow::{Context as _, Result, bail};
use dynamicswap_proto::common::v1::{MemoryServerDocument, MemoryServerReport, SlotGrant};
use dynamicswap_proto::daemon::v1::response::Kind;
use dynamicswap_proto::daemon::v1::{ReportRequest, report, request};
use dynamicswap_proto::exchange::exchange;

use crate::borrower::{DEVICE, SET};

fn ask(socket: &Path, kind: request::Kind) -> Result<Kind> {
    let mut stream = UnixStream::connect(socket)
        .with_context(|| format!("cannot reach {}", socket.display()))?;
    exchange(&mut stream, kind)?.context("an empty answer")
}

/// What the server says of itself.
pub fn report(socket: &Path) -> Result<MemoryServerReport> {
    let wanted = ReportRequest {
        known_change: 0,
        wait_ms: 0,
    };
    let Kind::Report(answer) = ask(socket, request::Kind::Report(wanted))? else {
        bail!("no report");
    };
    match answer.kind {
        Some(report::Kind::MemoryServer(server)) => Ok(server),
        _ => bail!("another daemon's report"),
    }
}

/// Grants its first slot to the device that measures, and nothing to anybody else.
pub fn grant(socket: &Path, report: &MemoryServerReport) -> Result<()> {
    let grant = SlotGrant {
        slot: 0,
        device_id: DEVICE.to_bytes().to_vec(),
        set_id: SET.get(),
    };
    let document = MemoryServerDocument {
        generation: report.generation + 1,
        incarnation: report.incarnation.clone(),
        grants: vec![grant],
        emptied: false,
    };
    match ask(socket, request::Kind::ApplyMemoryServer(document))? {
        Kind::Applied(_) => Ok(()),
        other => bail!("the memory server refused the grant: {other:?}"),
    }
}
