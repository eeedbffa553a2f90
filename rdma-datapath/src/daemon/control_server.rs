//! The daemons' control socket: blocking threads, prost frames, one answer per request.
//!
//! Owns the socket and its connections. What a document means is the [`ControlHandler`]'s.

use std::fs;
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use dynamicswap_proto::common::v1::{MemoryServerDocument, SwapDeviceDocument};
use dynamicswap_proto::daemon::v1::{
    Applied, Refused, Report, ReportRequest, Request, Response, request, response,
};
use dynamicswap_proto::frame::{self, HEADER_BYTES};
use dynamicswap_types::Generation;
use rustix::event::{EventfdFlags, PollFd, PollFlags, eventfd, poll};
use thiserror::Error;

use super::change::ChangeCounter;
use super::threads;

/// Connections at once: the agent has two, the rest is for people who look.
pub const CONNECTIONS_MAX: usize = 8;
/// Longest wait for a change that a report request may ask for.
pub const REPORT_WAIT_MAX: Duration = Duration::from_secs(10);
/// A frame that was begun must be whole after this time.
const FRAME_TIME_MAX: Duration = Duration::from_secs(10);

/// Why a document is not taken.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refusal {
    /// One CamelCase word, for counting.
    pub code: &'static str,
    /// What, to what, what next.
    pub reason: String,
}

/// What a daemon does for its agent. Called from several threads.
pub trait ControlHandler: Send + Sync + 'static {
    /// Takes the desired state of a swap device. A memory server refuses.
    ///
    /// # Errors
    /// The refusal, for the agent.
    fn apply_swap_device(&self, _document: SwapDeviceDocument) -> Result<Generation, Refusal> {
        Err(wrong_daemon("a memory server", "a swap device"))
    }

    /// Takes the desired state of a memory server. swapd refuses.
    ///
    /// # Errors
    /// The refusal, for the agent.
    fn apply_memory_server(&self, _document: MemoryServerDocument) -> Result<Generation, Refusal> {
        Err(wrong_daemon("swapd", "a memory server"))
    }

    /// Holds memory for so many slots at most. swapd refuses.
    ///
    /// # Errors
    /// The refusal, for the agent.
    fn hold_slots(&self, _slots_max: u32) -> Result<Generation, Refusal> {
        Err(wrong_daemon("swapd", "a memory server"))
    }

    /// The present report; `Report.change` is filled in by the server.
    fn report(&self) -> Report;

    /// Counts changes of consequence.
    fn change(&self) -> &ChangeCounter;
}

fn wrong_daemon(this: &str, document: &str) -> Refusal {
    Refusal {
        code: "WrongDaemon",
        reason: format!("this daemon is {this}, the document is for {document}: check the sockets"),
    }
}

/// Why there is no control socket.
#[derive(Debug, Error)]
pub enum SocketError {
    /// Another process answers there.
    #[error("another daemon serves the control socket '{}': stop it first", .0.display())]
    InUse(PathBuf),
    /// The path is too long for a socket.
    #[error("the control socket's path '{}' is longer than 107 bytes: choose a shorter one",
        .0.display())]
    TooLong(PathBuf),
    /// The host refused.
    #[error("open the control socket '{}': {source}", path.display())]
    Host {
        /// The socket.
        path: PathBuf,
        /// The host's answer.
        source: io::Error,
    },
}

/// Binds the socket, for root alone. Takes the place of a socket that nobody serves any more.
///
/// # Errors
/// See [`SocketError`].
pub fn bind(path: &Path) -> Result<UnixListener, SocketError> {
    let failed = |source| SocketError::Host {
        path: path.to_owned(),
        source,
    };
    if path.as_os_str().len() > 107 {
        return Err(SocketError::TooLong(path.to_owned()));
    }
    if let Some(parent) = path
        .parent()
        .filter(|parent| !parent.as_os_str().is_empty())
    {
        fs::create_dir_all(parent).map_err(failed)?;
    }
    match UnixStream::connect(path) {
        Ok(_) => return Err(SocketError::InUse(path.to_owned())),
        Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => {
            fs::remove_file(path).map_err(failed)?;
        }
        // Nothing there, or something that bind will complain about.
        Err(_) => {}
    }
    let listener = UnixListener::bind(path).map_err(failed)?;
    fs::set_permissions(path, fs::Permissions::from_mode(0o600)).map_err(failed)?;
    Ok(listener)
}

/// Serves a control socket until it is dropped.
#[derive(Debug)]
pub struct ControlServer {
    shared: Arc<Shared>,
    accepting: Option<JoinHandle<()>>,
}

#[derive(Debug)]
struct Shared {
    stop: OwnedFd,
    open: AtomicUsize,
    /// To wake the threads that read when the server stops.
    streams: Mutex<Vec<Option<UnixStream>>>,
}

impl ControlServer {
    /// Starts to accept on `listener`, which may be inherited.
    ///
    /// # Errors
    /// The host's.
    pub fn start(listener: UnixListener, handler: Arc<dyn ControlHandler>) -> io::Result<Self> {
        listener.set_nonblocking(true)?;
        let shared = Arc::new(Shared {
            stop: eventfd(0, EventfdFlags::CLOEXEC)?,
            open: AtomicUsize::new(0),
            streams: Mutex::new((0..CONNECTIONS_MAX).map(|_| None).collect()),
        });
        let accepting = threads::spawn("control", {
            let shared = Arc::clone(&shared);
            move || accept_all(&listener, &handler, &shared)
        })?;
        Ok(Self {
            shared,
            accepting: Some(accepting),
        })
    }
}

impl Drop for ControlServer {
    fn drop(&mut self) {
        // Cannot fail: the counter is at most 1.
        let _ = rustix::io::write(&self.shared.stop, &1_u64.to_ne_bytes());
        if let Some(accepting) = self.accepting.take() {
            let _ = accepting.join();
        }
        let streams = self.shared.streams.lock();
        for stream in streams
            .unwrap_or_else(PoisonError::into_inner)
            .iter()
            .flatten()
        {
            let _ = stream.shutdown(std::net::Shutdown::Both);
        }
    }
}

fn accept_all(listener: &UnixListener, handler: &Arc<dyn ControlHandler>, shared: &Arc<Shared>) {
    loop {
        let mut ready = [
            PollFd::from_borrowed_fd(shared.stop.as_fd(), PollFlags::IN),
            PollFd::from_borrowed_fd(listener.as_fd(), PollFlags::IN),
        ];
        match poll(&mut ready, None) {
            Ok(_) | Err(rustix::io::Errno::INTR) => {}
            Err(errno) => return tracing::error!(%errno, "the control socket is gone"),
        }
        if !ready[0].revents().is_empty() {
            return;
        }
        if let Ok((stream, _)) = listener.accept() {
            take_connection(stream, Arc::clone(handler), Arc::clone(shared));
        }
    }
}

/// Gives the connection a thread, or closes it if there are too many.
fn take_connection(stream: UnixStream, handler: Arc<dyn ControlHandler>, shared: Arc<Shared>) {
    let place = {
        let mut streams = shared
            .streams
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        let place = streams.iter().position(Option::is_none);
        let Some((place, copy)) = place.zip(stream.try_clone().ok()) else {
            return tracing::warn!("a control connection was refused: {CONNECTIONS_MAX} are open");
        };
        streams[place] = Some(copy);
        place
    };
    shared.open.fetch_add(1, Ordering::Relaxed);
    let body = {
        let shared = Arc::clone(&shared);
        move || {
            if let Err(error) = serve(stream, handler.as_ref()) {
                tracing::warn!("a control connection was closed: {error}");
            }
            shared.release(place);
        }
    };
    if let Err(error) = threads::spawn("control-peer", body) {
        tracing::warn!("{error}");
        shared.release(place);
    }
}

impl Shared {
    fn release(&self, place: usize) {
        let mut streams = self.streams.lock().unwrap_or_else(PoisonError::into_inner);
        streams[place] = None;
        self.open.fetch_sub(1, Ordering::Relaxed);
    }
}

/// Answers requests until the peer closes, stalls within a frame, or sends a malformed one.
fn serve(mut stream: UnixStream, handler: &dyn ControlHandler) -> anyhow::Result<()> {
    stream.set_nonblocking(false)?;
    stream.set_write_timeout(Some(FRAME_TIME_MAX))?;
    while let Some(request) = read_request(&mut stream)? {
        let answer = Response {
            kind: Some(answer(request, handler)),
        };
        stream.write_all(&frame::encode(&answer)?)?;
    }
    Ok(())
}

/// `None` if the peer closed between two frames.
fn read_request(stream: &mut UnixStream) -> anyhow::Result<Option<request::Kind>> {
    let mut header = [0; HEADER_BYTES];
    stream.set_read_timeout(None)?;
    if stream.read(&mut header[..1])? == 0 {
        return Ok(None);
    }
    stream.set_read_timeout(Some(FRAME_TIME_MAX))?;
    stream.read_exact(&mut header[1..])?;
    let len = frame::body_len(header)?;
    // Grows with what arrives: an announced length alone takes no memory.
    let mut body = Vec::new();
    let limit = u64::try_from(len)?;
    if Read::by_ref(stream).take(limit).read_to_end(&mut body)? < len {
        anyhow::bail!("the peer closed within a frame");
    }
    let request: Request = frame::decode(&body)?;
    match request.kind {
        Some(kind) => Ok(Some(kind)),
        None => anyhow::bail!("a request asks for nothing that this version knows"),
    }
}

fn answer(request: request::Kind, handler: &dyn ControlHandler) -> response::Kind {
    let applied = match request {
        request::Kind::ApplySwapDevice(document) => handler.apply_swap_device(document),
        request::Kind::ApplyMemoryServer(document) => handler.apply_memory_server(document),
        request::Kind::HoldSlots(wanted) => handler.hold_slots(wanted.slots_max),
        request::Kind::Report(wanted) => return response::Kind::Report(report(wanted, handler)),
    };
    match applied {
        Ok(generation) => response::Kind::Applied(Applied {
            generation: generation.get(),
        }),
        Err(refusal) => response::Kind::Refused(Refused {
            code: refusal.code.to_owned(),
            reason: refusal.reason,
        }),
    }
}

fn report(wanted: ReportRequest, handler: &dyn ControlHandler) -> Report {
    let wait = Duration::from_millis(u64::from(wanted.wait_ms)).min(REPORT_WAIT_MAX);
    // Read before the report is made: what changes in between is told again, never missed.
    let change = handler.change().wait_above(wanted.known_change, wait);
    Report {
        change,
        ..handler.report()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use dynamicswap_proto::common::v1::MemoryServerReport;
    use dynamicswap_proto::daemon::v1::report::Kind;
    use dynamicswap_proto::exchange::exchange;

    #[derive(Default)]
    struct Server {
        change: ChangeCounter,
    }

    impl ControlHandler for Server {
        fn apply_memory_server(
            &self,
            document: MemoryServerDocument,
        ) -> Result<Generation, Refusal> {
            self.change.bump();
            Ok(Generation::new(document.generation))
        }

        fn report(&self) -> Report {
            let kind = Some(Kind::MemoryServer(MemoryServerReport::default()));
            Report { change: 0, kind }
        }

        fn change(&self) -> &ChangeCounter {
            &self.change
        }
    }

    fn ask(stream: &mut UnixStream, kind: request::Kind) -> Option<response::Kind> {
        match exchange(stream, kind) {
            Ok(answer) => answer,
            Err(error) => {
                assert_ne!(error.kind(), std::io::ErrorKind::InvalidData, "{error}");
                None
            }
        }
    }

    fn wanted(known_change: u64, wait_ms: u32) -> request::Kind {
        request::Kind::Report(ReportRequest {
            known_change,
            wait_ms,
        })
    }

    #[test]
    fn documents_are_applied_or_refused_and_reports_wait_for_change() {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("control.sock");
        let listener = bind(&path).expect("a free path");
        let server = ControlServer::start(listener, Arc::new(Server::default())).expect("started");
        assert!(matches!(bind(&path), Err(SocketError::InUse(_))));

        let mut agent = UnixStream::connect(&path).expect("listening");
        let answer = ask(
            &mut agent,
            request::Kind::ApplySwapDevice(SwapDeviceDocument::default()),
        );
        assert!(matches!(answer, Some(response::Kind::Refused(r)) if r.code == "WrongDaemon"));

        let waiter = std::thread::spawn({
            let mut other = UnixStream::connect(&path).expect("listening");
            move || ask(&mut other, wanted(0, 10_000))
        });
        let document = MemoryServerDocument {
            generation: 5,
            ..Default::default()
        };
        let answer = ask(&mut agent, request::Kind::ApplyMemoryServer(document));
        assert_eq!(
            answer,
            Some(response::Kind::Applied(Applied { generation: 5 }))
        );
        let report = waiter.join().expect("no panic");
        assert!(matches!(report, Some(response::Kind::Report(r)) if r.change == 1));
        assert!(matches!(
            ask(&mut agent, wanted(0, 0)),
            Some(response::Kind::Report(_))
        ));

        drop(server);
        assert_eq!(ask(&mut agent, wanted(0, 0)), None, "closed");
        bind(&path).expect("nobody serves the old socket any more");
    }

    #[test]
    fn malformed_frame_closes_that_connection_only() {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("control.sock");
        let listener = bind(&path).expect("a free path");
        let _server = ControlServer::start(listener, Arc::new(Server::default())).expect("started");
        let mut good = UnixStream::connect(&path).expect("listening");
        for bad in [
            &[0xff_u8; 4][..],
            &[3, 0, 0, 0, 0xff, 0xff, 0xff],
            &[0, 0, 0, 0],
        ] {
            let mut peer = UnixStream::connect(&path).expect("listening");
            peer.write_all(bad).expect("sent");
            assert_eq!(peer.read(&mut [0]).unwrap_or(0), 0, "closed");
        }
        assert!(matches!(
            ask(&mut good, wanted(0, 0)),
            Some(response::Kind::Report(_))
        ));
    }

    #[test]
    fn connections_are_bounded() {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("control.sock");
        let listener = bind(&path).expect("a free path");
        let _server = ControlServer::start(listener, Arc::new(Server::default())).expect("started");
        let mut peers: Vec<_> = (0..CONNECTIONS_MAX)
            .map(|_| UnixStream::connect(&path).expect("listening"))
            .collect();
        for peer in &mut peers {
            assert!(ask(peer, wanted(0, 0)).is_some());
        }
        let mut one_more = UnixStream::connect(&path).expect("the backlog takes it");
        assert_eq!(ask(&mut one_more, wanted(0, 0)), None);
    }
}
