//! The real agent program between a controller and daemons that are a few lines each.
#![allow(
    dead_code,
    clippy::expect_used,
    clippy::panic,
    reason = "shared by several test files; helpers of tests panic as tests do"
)]

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use dynamicswap_proto::common::v1::MemoryServerReport;
use dynamicswap_proto::control::v1::agent_message::Kind;
use dynamicswap_proto::control::v1::agent_session_server::{AgentSession, AgentSessionServer};
use dynamicswap_proto::control::v1::{AgentMessage, DesiredDocument, Hello, NodeReport};
use dynamicswap_proto::daemon::v1::{
    Applied, Report, Request as DaemonRequest, Response as DaemonResponse, report, request,
    response,
};
use dynamicswap_proto::frame;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, UnixListener, UnixStream};
use tokio::sync::mpsc;
use tokio::task::{AbortHandle, JoinHandle};
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::Server;
use tonic::transport::server::TcpIncoming;
use tonic::{Request, Response, Status, Streaming};

/// Long enough for a busy machine; a test that needs it all has failed anyway.
pub const PATIENCE: Duration = Duration::from_secs(30);

/// Waits until `condition` gives something.
pub async fn eventually<T>(what: &str, mut condition: impl FnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + PATIENCE;
    loop {
        if let Some(found) = condition() {
            return found;
        }
        assert!(Instant::now() < deadline, "never: {what}");
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
}

/// What the agent has said, and how it is answered.
#[derive(Debug, Default)]
pub struct Heard {
    pub hellos: Vec<Hello>,
    pub reports: Vec<(Instant, NodeReport)>,
    down: Option<mpsc::Sender<Result<DesiredDocument, Status>>>,
    sessions: Vec<AbortHandle>,
}

#[derive(Debug, Clone, Default)]
struct Service {
    heard: Arc<Mutex<Heard>>,
    /// Sessions are refused as long as it is not 0.
    refuse: Arc<AtomicU64>,
}

#[tonic::async_trait]
impl AgentSession for Service {
    type OpenStream = ReceiverStream<Result<DesiredDocument, Status>>;

    async fn open(
        &self,
        request: Request<Streaming<AgentMessage>>,
    ) -> Result<Response<Self::OpenStream>, Status> {
        let mut upward = request.into_inner();
        let (down, documents) = mpsc::channel(8);
        let service = self.clone();
        let session = tokio::spawn(async move {
            while let Ok(Some(message)) = upward.message().await {
                let mut heard = service.heard.lock().expect("not poisoned");
                match message.kind {
                    Some(Kind::Hello(hello)) => {
                        heard.hellos.push(hello);
                        if service.refuse.load(Ordering::Relaxed) > 0 {
                            let _full = down.try_send(Err(Status::aborted("refused")));
                            return;
                        }
                        heard.down = Some(down.clone());
                    }
                    Some(Kind::Report(report)) => heard.reports.push((Instant::now(), report)),
                    None => {}
                }
            }
        });
        let mut heard = self.heard.lock().expect("not poisoned");
        heard.sessions.push(session.abort_handle());
        Ok(Response::new(ReceiverStream::new(documents)))
    }
}

/// A controller that notes what it hears and sends what it is told to.
#[derive(Debug)]
pub struct Controller {
    pub address: String,
    service: Service,
    server: JoinHandle<()>,
}

impl Controller {
    pub async fn start() -> Self {
        Self::start_on("127.0.0.1:0").await
    }

    /// Starts on an address of the form IP:PORT.
    pub async fn start_on(address: &str) -> Self {
        let listener = TcpListener::bind(address).await.expect("an address");
        let address = listener.local_addr().expect("bound").to_string();
        let service = Service::default();
        let answering = AgentSessionServer::new(service.clone());
        let incoming = TcpIncoming::from(listener);
        let server = tokio::spawn(async move {
            let server = Server::builder().add_service(answering);
            let _ended = server.serve_with_incoming(incoming).await;
        });
        Self {
            address,
            service,
            server,
        }
    }

    /// Ends it with its sessions; the port is free afterwards.
    pub async fn stop(self) {
        self.server.abort();
        let _aborted = self.server.await;
        let mut heard = self.service.heard.lock().expect("not poisoned");
        heard.down = None;
        for session in heard.sessions.drain(..) {
            session.abort();
        }
    }

    pub fn refuse(&self) {
        self.service.refuse.store(1, Ordering::Relaxed);
    }

    pub fn heard<T>(&self, take: impl FnOnce(&Heard) -> T) -> T {
        take(&self.service.heard.lock().expect("not poisoned"))
    }

    pub async fn send(&self, document: DesiredDocument) {
        let down = eventually("a session", || self.heard(|heard| heard.down.clone())).await;
        down.send(Ok(document)).await.expect("the session lives");
    }

    /// Waits for a report of which `wanted` is true.
    pub async fn report(&self, what: &str, wanted: impl Fn(&NodeReport) -> bool) -> NodeReport {
        let last = || {
            self.heard(|heard| {
                let mut newest = heard.reports.iter().rev();
                newest.find(|(_, report)| wanted(report)).cloned()
            })
        };
        eventually(what, last).await.1
    }
}

/// The agent program; killed with -9 when dropped.
#[derive(Debug)]
pub struct Agent {
    child: Child,
}

/// A command line with what every agent needs.
pub fn command(controller: &str, state: &Path) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_dynamicswap-agent"));
    command.args(["--node", "n1", "--failure-domain", "r1"]);
    command
        .arg("--controller")
        .arg(format!("http://{controller}"));
    command.arg("--state-dir").arg(state);
    command
}

impl Agent {
    pub fn start(command: &mut Command) -> Self {
        let child = command.stderr(Stdio::inherit()).spawn();
        Self {
            child: child.expect("start the agent"),
        }
    }

    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Processor time that it has used, in clock ticks of 10 ms.
    pub fn ticks(&self) -> u64 {
        let path = format!("/proc/{}/stat", self.pid());
        let stat = std::fs::read_to_string(path).expect("it runs");
        let fields: Vec<&str> = stat.rsplit(") ").next().expect("some").split(' ').collect();
        let field = |at: usize| fields[at].parse::<u64>().expect("a number");
        field(11) + field(12)
    }
}

impl Drop for Agent {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Runs the agent to its end.
pub fn run(command: &mut Command) -> Output {
    command.output().expect("run the agent")
}

/// A memory server as its agent sees it.
#[derive(Debug, Clone)]
pub struct Daemon {
    state: Arc<Mutex<(u64, MemoryServerReport)>>,
    /// Answers every question at once, with another change: a storm.
    storms: bool,
}

impl Daemon {
    pub fn new(storms: bool) -> Self {
        let report = MemoryServerReport {
            incarnation: vec![7; 16],
            ..MemoryServerReport::default()
        };
        Self {
            state: Arc::new(Mutex::new((1, report))),
            storms,
        }
    }

    pub fn generation(&self) -> u64 {
        self.state.lock().expect("not poisoned").1.generation
    }

    pub fn listen(&self, socket: PathBuf) -> JoinHandle<()> {
        let listener = UnixListener::bind(socket).expect("bound");
        let daemon = self.clone();
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let daemon = daemon.clone();
                tokio::spawn(async move { daemon.serve(stream).await });
            }
        })
    }

    async fn serve(&self, mut stream: UnixStream) -> Option<()> {
        loop {
            let mut header = [0; frame::HEADER_BYTES];
            stream.read_exact(&mut header).await.ok()?;
            let mut body = vec![0; frame::body_len(header).ok()?];
            stream.read_exact(&mut body).await.ok()?;
            let request: DaemonRequest = frame::decode(&body).ok()?;
            let answer = self.answer(request.kind?).await;
            let answer = DaemonResponse { kind: Some(answer) };
            let answer = frame::encode(&answer).ok()?;
            stream.write_all(&answer).await.ok()?;
        }
    }

    async fn answer(&self, kind: request::Kind) -> response::Kind {
        match kind {
            request::Kind::Report(wanted) => {
                let deadline = Instant::now() + Duration::from_millis(wanted.wait_ms.into());
                loop {
                    let (change, report) = {
                        let mut state = self.state.lock().expect("not poisoned");
                        state.0 += u64::from(self.storms);
                        state.clone()
                    };
                    if change > wanted.known_change || Instant::now() >= deadline {
                        return response::Kind::Report(Report {
                            change,
                            kind: Some(report::Kind::MemoryServer(report)),
                        });
                    }
                    tokio::time::sleep(Duration::from_millis(2)).await;
                }
            }
            request::Kind::HoldSlots(_) => {
                let state = self.state.lock().expect("not poisoned");
                let generation = state.1.generation;
                response::Kind::Applied(Applied { generation })
            }
            request::Kind::ApplyMemoryServer(document) => {
                let mut state = self.state.lock().expect("not poisoned");
                let generation = document.generation;
                state.0 += 1;
                state.1.generation = generation;
                response::Kind::Applied(Applied { generation })
            }
            request::Kind::ApplySwapDevice(_) => panic!("not a swap device"),
        }
    }
}
