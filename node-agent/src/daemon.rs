//! A local daemon on its unix socket: reports by long poll, documents as whole requests.

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use dynamicswap_proto::daemon::v1::response::Kind;
use dynamicswap_proto::daemon::v1::{Report, ReportRequest, Request, Response, request};
use dynamicswap_proto::frame;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::UnixStream;
use tokio::sync::watch;

/// Longest wait for a change: a report at least this often keeps the counters fresh.
const LONG_POLL: Duration = Duration::from_millis(1000);
/// A daemon that takes longer to answer than this is as good as gone.
const ANSWER_LIMIT: Duration = Duration::from_secs(5);
/// Pause before a daemon that is gone is looked for again.
const RETRY: Duration = Duration::from_millis(100);

/// What is known of a daemon.
#[derive(Debug, Clone, Default)]
pub enum Known {
    /// Not asked yet.
    #[default]
    Unknown,
    /// Its last report.
    Report(Box<Report>),
    /// Why there is none.
    Gone(String),
}

/// One request and its answer.
///
/// # Errors
/// If the daemon is gone, slow, or answers with something else.
pub async fn ask(stream: &mut UnixStream, kind: request::Kind) -> Result<Kind> {
    let frame = frame::encode(&Request { kind: Some(kind) })?;
    let exchange = async {
        stream.write_all(&frame).await?;
        let mut header = [0; frame::HEADER_BYTES];
        stream.read_exact(&mut header).await?;
        let mut body = vec![0; frame::body_len(header)?];
        stream.read_exact(&mut body).await?;
        let response: Response = frame::decode(&body)?;
        response.kind.context("the daemon's answer is empty")
    };
    let limit = LONG_POLL + ANSWER_LIMIT;
    tokio::time::timeout(limit, exchange)
        .await
        .context("the daemon does not answer")?
}

/// Connects to a daemon.
///
/// # Errors
/// If nobody listens.
pub async fn connect(socket: &Path) -> Result<UnixStream> {
    UnixStream::connect(socket)
        .await
        .with_context(|| format!("no daemon at {}", socket.display()))
}

/// Follows a daemon for ever: every change of its report is published at once.
pub async fn follow(socket: PathBuf, known: watch::Sender<Known>) {
    loop {
        if let Err(error) = follow_once(&socket, &known).await {
            known.send_replace(Known::Gone(format!("{error:#}")));
        }
        tokio::time::sleep(RETRY).await;
    }
}

async fn follow_once(socket: &Path, known: &watch::Sender<Known>) -> Result<()> {
    let mut stream = connect(socket).await?;
    let mut change = 0;
    loop {
        // The first request is answered at once: a daemon that has just started is reported
        // before anything changes.
        let wait_ms = if change == 0 { 0 } else { 1000 };
        let wanted = ReportRequest {
            known_change: change,
            wait_ms,
        };
        match ask(&mut stream, request::Kind::Report(wanted)).await? {
            Kind::Report(report) => {
                change = report.change.max(1);
                known.send_replace(Known::Report(Box::new(report)));
            }
            Kind::Refused(refused) => bail!("the daemon refused to report: {}", refused.reason),
            Kind::Applied(_) => bail!("the daemon answered a report request with 'applied'"),
        }
    }
}
