//! A control socket at which a swapd that is not there answers its agent.

use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::{Context as _, Result};
use dynamicswap_proto::daemon::v1::{
    Applied, Refused, Report, Request, Response, report, request, response,
};
use dynamicswap_proto::frame;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::watch;
use tokio::task::JoinHandle;

use super::daemons::Daemons;

/// The daemon: what it has, and the change counter of its reports.
#[derive(Debug)]
struct Daemon {
    daemons: Mutex<Daemons>,
    change: watch::Sender<u64>,
}

/// The socket; nobody answers there once it is dropped.
#[derive(Debug)]
pub struct Socket {
    daemon: Arc<Daemon>,
    task: JoinHandle<()>,
}

impl Socket {
    /// Answers at `path` from now on.
    pub fn listen(path: &Path, daemons: Daemons) -> Result<Self> {
        let listener = UnixListener::bind(path)
            .with_context(|| format!("cannot listen at {}", path.display()))?;
        let daemon = Arc::new(Daemon {
            daemons: Mutex::new(daemons),
            change: watch::Sender::new(1),
        });
        let answering = Arc::clone(&daemon);
        let task = tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let daemon = Arc::clone(&answering);
                tokio::spawn(async move { daemon.serve(stream).await });
            }
        });
        Ok(Self { daemon, task })
    }

    /// Sets that the device has in hand.
    pub fn sets(&self) -> usize {
        self.daemon.locked(|daemons| daemons.sets())
    }
}

impl Drop for Socket {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Daemon {
    fn locked<T>(&self, deed: impl FnOnce(&mut Daemons) -> T) -> T {
        deed(&mut self.daemons.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Until the agent hangs up, or sends what is no request.
    async fn serve(&self, mut stream: UnixStream) -> Result<()> {
        loop {
            let mut header = [0; frame::HEADER_BYTES];
            stream.read_exact(&mut header).await?;
            let mut body = vec![0; frame::body_len(header)?];
            stream.read_exact(&mut body).await?;
            let request: Request = frame::decode(&body)?;
            let answer = self.answer(request.kind).await;
            let response = Response { kind: Some(answer) };
            stream.write_all(&frame::encode(&response)?).await?;
        }
    }

    async fn answer(&self, request: Option<request::Kind>) -> response::Kind {
        match request {
            Some(request::Kind::ApplySwapDevice(document)) => {
                self.locked(|daemons| daemons.take_device(&document));
                self.change.send_modify(|change| *change += 1);
                response::Kind::Applied(Applied {
                    generation: document.generation,
                })
            }
            Some(request::Kind::Report(wanted)) => {
                let mut change = self.change.subscribe();
                let wait = Duration::from_millis(wanted.wait_ms.into());
                let changed = change.wait_for(|change| *change > wanted.known_change);
                // Nothing of consequence within the time: it answers all the same.
                let _waited = tokio::time::timeout(wait, changed).await;
                let device = self.locked(|daemons| daemons.device());
                response::Kind::Report(Report {
                    change: *self.change.borrow(),
                    kind: device.map(report::Kind::SwapDevice),
                })
            }
            _ => response::Kind::Refused(Refused {
                code: "NotHere".to_owned(),
                reason: "this swapd of a benchmark takes documents and reports".to_owned(),
            }),
        }
    }
}
