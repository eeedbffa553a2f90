//! Asking a node's daemons by hand, for the examples beside.
#![allow(dead_code, reason = "each example uses a part of it")]

use std::os::unix::net::UnixStream;
use std::path::Path;

use anyhow::Context;
use dynamicswap_proto::common::v1 as pb;
use dynamicswap_proto::daemon::v1::{ReportRequest, report, request, response};
use dynamicswap_proto::exchange::exchange;

/// Asks a daemon one thing; what it refuses is an error.
pub fn ask(socket: &Path, kind: request::Kind) -> anyhow::Result<response::Kind> {
    let mut stream =
        UnixStream::connect(socket).with_context(|| format!("connect to {}", socket.display()))?;
    match exchange(&mut stream, kind)?.context("an answer without content")? {
        response::Kind::Refused(refused) => {
            anyhow::bail!("{}: {}: {}", socket.display(), refused.code, refused.reason)
        }
        kind => Ok(kind),
    }
}

fn report(socket: &Path) -> anyhow::Result<report::Kind> {
    let wanted = ReportRequest {
        known_change: 0,
        wait_ms: 0,
    };
    match ask(socket, request::Kind::Report(wanted))? {
        response::Kind::Report(report) => report.kind.context("an empty report"),
        _ => anyhow::bail!("{} answered something else", socket.display()),
    }
}

/// What a swapd says of its device now.
pub fn device_report(socket: &Path) -> anyhow::Result<pb::SwapDeviceReport> {
    match report(socket)? {
        report::Kind::SwapDevice(report) => Ok(report),
        report::Kind::MemoryServer(_) => anyhow::bail!("{} is no swapd", socket.display()),
    }
}

/// What a memory server says of itself now.
pub fn server_report(socket: &Path) -> anyhow::Result<pb::MemoryServerReport> {
    match report(socket)? {
        report::Kind::MemoryServer(report) => Ok(report),
        report::Kind::SwapDevice(_) => anyhow::bail!("{} is no memory server", socket.display()),
    }
}
