//! A local daemon on its unix socket: requests and answers, and a follower that publishes its
//! reports by long poll.

use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, bail};
use dynamicswap_proto::daemon::v1::response::Kind;
use dynamicswap_proto::daemon::v1::{Report, ReportRequest, Request, Response, request};
use dynamicswap_proto::frame;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::UnixStream;
use tokio::sync::watch;
use tokio::time::Instant;

use crate::limits::{ANSWER_LIMIT, DAEMON_RETRY, LONG_POLL, POLL_SPACING};

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

/// Hands a document over and waits for the daemon's word.
///
/// # Errors
/// The daemon's refusal, or why it cannot be asked.
pub async fn hand_over(socket: &Path, kind: request::Kind) -> Result<()> {
    let mut stream = connect(socket).await?;
    match ask(&mut stream, kind).await? {
        Kind::Applied(_) => Ok(()),
        Kind::Refused(refused) => bail!("{}", refused.reason),
        Kind::Report(_) => bail!("the daemon answered a document with a report"),
    }
}

/// Follows a daemon for as long as somebody wants to know: every change of its report is
/// published at once, and only the newest is kept.
pub async fn follow(socket: PathBuf, known: watch::Sender<Known>) {
    while !known.is_closed() {
        if let Err(error) = follow_once(&socket, &known).await {
            let reason = format!("{error:#}");
            // The same reason again is no news.
            let is_news = |before: &Known| !matches!(before, Known::Gone(old) if *old == reason);
            known.send_if_modified(|before| {
                let news = is_news(before);
                if news {
                    *before = Known::Gone(reason.clone());
                }
                news
            });
        }
        tokio::time::sleep(DAEMON_RETRY).await;
    }
}

async fn follow_once(socket: &Path, known: &watch::Sender<Known>) -> Result<()> {
    let mut stream = connect(socket).await?;
    let mut change = 0;
    while !known.is_closed() {
        let not_before = Instant::now() + POLL_SPACING;
        // The first request is answered at once: a daemon that has just started is reported
        // before anything changes.
        let wait = if change == 0 {
            0
        } else {
            LONG_POLL.as_millis()
        };
        let wanted = ReportRequest {
            known_change: change,
            wait_ms: u32::try_from(wait).unwrap_or(u32::MAX),
        };
        match ask(&mut stream, request::Kind::Report(wanted)).await? {
            Kind::Report(report) => {
                change = report.change.max(1);
                known.send_replace(Known::Report(Box::new(report)));
            }
            Kind::Refused(refused) => bail!("the daemon refused to report: {}", refused.reason),
            Kind::Applied(_) => bail!("the daemon answered a report request with 'applied'"),
        }
        tokio::time::sleep_until(not_before).await;
    }
    Ok(())
}
