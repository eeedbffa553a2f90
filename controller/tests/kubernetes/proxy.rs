//! A proxy between a controller and the API server: it counts every request, and answers, holds,
//! swallows or cuts those that a test chooses.
//!
//! Speaks plain HTTP to the controller and is the controller's account to the API server. On hyper
//! itself, because a connection must be cut without an answer, which no framework above it allows.

use std::convert::Infallible;
use std::future::pending;
use std::io;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use futures::{StreamExt as _, stream};
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt as _, BodyStream, Full, StreamBody};
use hyper::body::{Bytes, Incoming};
use hyper::header::{CONNECTION, CONTENT_TYPE, HOST, RETRY_AFTER, TRANSFER_ENCODING};
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use kube::config::{KubeConfigOptions, Kubeconfig};
use serde_json::json;
use tokio::net::{TcpListener, TcpStream};
use tokio_util::sync::CancellationToken;

use super::{CONTROLLER, Server};

/// What a request asks for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Call {
    /// As in a `ClusterRole`: get, list, watch, create, update, patch, delete.
    pub verb: &'static str,
    /// Plural of the kind, with the subresource: `swapdevices/status`.
    pub resource: String,
    /// The object; empty for a list.
    pub name: String,
    /// What follows the question mark.
    pub query: String,
}

impl Call {
    fn of(request: &Request<Incoming>) -> Self {
        let query = request.uri().query().unwrap_or_default().to_owned();
        let mut parts = request
            .uri()
            .path()
            .split('/')
            .filter(|part| !part.is_empty());
        // "api/v1" or "apis/GROUP/VERSION".
        let skipped = if parts.next() == Some("apis") { 2 } else { 1 };
        let mut parts = parts.skip(skipped).peekable();
        let mut resource = parts.next().unwrap_or_default().to_owned();
        if resource == "namespaces" {
            let _namespace = parts.next();
            resource = parts.next().unwrap_or_default().to_owned();
        }
        let name = parts.next().unwrap_or_default().to_owned();
        if let Some(part) = parts.next() {
            resource = format!("{resource}/{part}");
        }
        let is_watch = query.split('&').any(|pair| pair == "watch=true");
        let verb = match *request.method() {
            Method::POST => "create",
            Method::PUT => "update",
            Method::PATCH => "patch",
            Method::DELETE => "delete",
            _ if is_watch => "watch",
            _ if name.is_empty() => "list",
            _ => "get",
        };
        Self {
            verb,
            resource,
            name,
            query,
        }
    }

    /// Whether it changes something.
    pub fn is_write(&self) -> bool {
        !["get", "list", "watch"].contains(&self.verb)
    }

    /// Whether it is about the leader's lease.
    pub fn is_of_the_lease(&self) -> bool {
        self.resource == "leases"
    }

    /// What it is counted under.
    pub fn kind_of_call(&self) -> String {
        format!("{} {}", self.verb, self.resource)
    }
}

/// A request as the proxy saw it.
#[derive(Debug, Clone)]
pub struct Seen {
    pub call: Call,
    pub at: Instant,
    /// What the API server answered; none while it has not, or if it was not asked.
    pub answer: Option<u16>,
    /// It was held back before it was forwarded.
    pub is_late: bool,
}

/// What happens to a request that was chosen.
#[derive(Debug, Clone)]
pub enum Fault {
    /// The API server's own kind of answer, with a code and a reason, and a time to wait.
    Answer(u16, &'static str, Option<u32>),
    /// A watch begins, and says only that what it asks for is too old.
    Expired,
    /// Neither forwarded nor answered.
    Hold,
    /// Forwarded; the answer gets lost.
    Swallow,
    /// Forwarded once the fault is lifted, even if nobody waits for the answer any more.
    Late,
}

type Choice = Box<dyn Fn(&Call) -> bool + Send + Sync>;

struct Rule {
    chosen: Choice,
    fault: Fault,
    injected: AtomicUsize,
    lifted: CancellationToken,
}

/// A fault in force; lifted when dropped.
pub struct Injection(Arc<Rule>);

impl Injection {
    /// Requests that it has struck.
    pub fn count(&self) -> usize {
        self.0.injected.load(Ordering::Acquire)
    }

    pub fn lift(self) -> usize {
        self.count()
    }
}

impl Drop for Injection {
    fn drop(&mut self) {
        self.0.lifted.cancel();
    }
}

#[derive(Default)]
struct State {
    seen: Mutex<Vec<Seen>>,
    rules: Mutex<Vec<Arc<Rule>>>,
    /// Cut, all connections break; another one is for those that come then.
    lines: Mutex<CancellationToken>,
    /// The same for the answers to watches alone.
    watches: Mutex<CancellationToken>,
    watches_open: AtomicUsize,
    is_away: AtomicBool,
    turned_away: AtomicUsize,
}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The proxy; see the module.
pub struct Proxy {
    state: Arc<State>,
    kubeconfig: PathBuf,
    task: tokio::task::JoinHandle<()>,
}

impl Proxy {
    /// Starts one before a server; `name` tells it from others.
    pub async fn start(server: &Server, name: &str) -> Self {
        let group = Some("system:serviceaccounts");
        let text = server.plane.kubeconfig_of(CONTROLLER, group);
        let upstream = upstream(&text.expect("a certificate")).await;
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let address = listener.local_addr().expect("an address");
        let kubeconfig = server.directory.path().join(format!("{name}.proxy"));
        let config = json!({
            "apiVersion": "v1", "kind": "Config", "current-context": "proxy",
            "clusters": [{"name": "proxy", "cluster": {"server": format!("http://{address}")}}],
            "users": [{"name": "nobody", "user": {}}],
            "contexts": [{"name": "proxy", "context": {"cluster": "proxy", "user": "nobody"}}],
        });
        std::fs::write(&kubeconfig, config.to_string()).expect("a file");
        let state = Arc::<State>::default();
        let task = tokio::spawn(accept(listener, Arc::clone(&state), upstream));
        Self {
            state,
            kubeconfig,
            task,
        }
    }

    /// For a client that shall come through here.
    pub fn kubeconfig(&self) -> &PathBuf {
        &self.kubeconfig
    }

    /// Every request that `chosen` chooses has this fault until it is lifted.
    pub fn inject(
        &self,
        fault: Fault,
        chosen: impl Fn(&Call) -> bool + Send + Sync + 'static,
    ) -> Injection {
        let rule = Arc::new(Rule {
            chosen: Box::new(chosen),
            fault,
            injected: AtomicUsize::new(0),
            lifted: CancellationToken::new(),
        });
        locked(&self.state.rules).push(Arc::clone(&rule));
        Injection(rule)
    }

    /// Breaks the answers to all open watches; how many.
    pub fn cut_watches(&self) -> usize {
        let open = self.state.watches_open.load(Ordering::Acquire);
        std::mem::take(&mut *locked(&self.state.watches)).cancel();
        open
    }

    /// No connection is left, and none is taken.
    pub fn leave(&self) {
        self.state.is_away.store(true, Ordering::Release);
        std::mem::take(&mut *locked(&self.state.lines)).cancel();
    }

    /// Ends that; how many connections were turned away.
    pub fn come_back(&self) -> usize {
        self.state.is_away.store(false, Ordering::Release);
        self.state.turned_away.swap(0, Ordering::AcqRel)
    }

    /// Everything that was asked, oldest first.
    pub fn seen(&self) -> Vec<Seen> {
        locked(&self.state.seen).clone()
    }

    /// What was asked since a moment.
    pub fn since(&self, moment: Instant) -> Vec<Seen> {
        let mut seen = self.seen();
        seen.retain(|seen| seen.at >= moment);
        seen
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.task.abort();
        locked(&self.state.lines).cancel();
    }
}

/// The way to the API server. One that does not ask again by itself: what the controller asks is
/// what is counted.
async fn upstream(kubeconfig: &str) -> kube::Client {
    let kubeconfig = Kubeconfig::from_yaml(kubeconfig).expect("a kubeconfig");
    let options = KubeConfigOptions::default();
    let config = kube::Config::from_custom_kubeconfig(kubeconfig, &options).await;
    let mut config = config.expect("sound");
    config.default_retry = false;
    kube::Client::try_from(config).expect("a client")
}

async fn accept(listener: TcpListener, state: Arc<State>, upstream: kube::Client) {
    while let Ok((stream, _)) = listener.accept().await {
        if state.is_away.load(Ordering::Acquire) {
            state.turned_away.fetch_add(1, Ordering::AcqRel);
            continue;
        }
        tokio::spawn(serve(stream, Arc::clone(&state), upstream.clone()));
    }
}

async fn serve(stream: TcpStream, state: Arc<State>, upstream: kube::Client) {
    let line = locked(&state.lines).clone();
    let service = service_fn(move |request| handle(request, Arc::clone(&state), upstream.clone()));
    let http = hyper::server::conn::http1::Builder::new();
    let connection = http.serve_connection(TokioIo::new(stream), service);
    tokio::select! {
        // A client may go whenever it likes.
        _ = connection => {}
        () = line.cancelled() => {}
    }
}

type Answer = Response<UnsyncBoxBody<Bytes, io::Error>>;

async fn handle(
    request: Request<Incoming>,
    state: Arc<State>,
    upstream: kube::Client,
) -> Result<Answer, io::Error> {
    let call = Call::of(&request);
    let (parts, body) = request.into_parts();
    let body = body.collect().await.map_err(io::Error::other)?.to_bytes();
    let request = Request::from_parts(parts, body);
    let number = state.note(call.clone());
    let Some(rule) = state.rule_for(&call) else {
        return forward(request, number, state, upstream).await;
    };
    rule.injected.fetch_add(1, Ordering::AcqRel);
    match rule.fault.clone() {
        Fault::Answer(code, reason, wait) => Ok(refusal(code, reason, wait)),
        Fault::Expired => {
            let event = json!({"type": "ERROR", "object": status(410, "Expired")});
            Ok(whole(200, format!("{event}\n")))
        }
        Fault::Hold => {
            rule.lifted.cancelled().await;
            Err(io::Error::other("held"))
        }
        Fault::Swallow => {
            forward(request, number, state, upstream).await?;
            pending::<Infallible>().await;
            Err(io::Error::other("swallowed"))
        }
        Fault::Late => {
            locked(&state.seen)[number].is_late = true;
            // A task of its own, because this one ends with its client's patience.
            let late = tokio::spawn(async move {
                rule.lifted.cancelled().await;
                forward(request, number, state, upstream).await
            });
            late.await.map_err(io::Error::other)?
        }
    }
}

impl State {
    /// Its number among the requests.
    fn note(&self, call: Call) -> usize {
        let mut seen = locked(&self.seen);
        seen.push(Seen {
            call,
            at: Instant::now(),
            answer: None,
            is_late: false,
        });
        seen.len() - 1
    }

    /// The oldest rule in force that strikes it.
    fn rule_for(&self, call: &Call) -> Option<Arc<Rule>> {
        let mut rules = locked(&self.rules);
        rules.retain(|rule| !rule.lifted.is_cancelled());
        rules.iter().find(|rule| (rule.chosen)(call)).cloned()
    }
}

async fn forward(
    mut request: Request<Bytes>,
    number: usize,
    state: Arc<State>,
    upstream: kube::Client,
) -> Result<Answer, io::Error> {
    let is_watch = locked(&state.seen)[number].call.verb == "watch";
    for header in [HOST, CONNECTION, TRANSFER_ENCODING] {
        request.headers_mut().remove(header);
    }
    let request = request.map(kube::client::Body::from);
    let answer = upstream.send(request).await.map_err(io::Error::other)?;
    let (mut parts, body) = answer.into_parts();
    parts.headers.remove(TRANSFER_ENCODING);
    parts.headers.remove(CONNECTION);
    parts.version = hyper::Version::HTTP_11;
    locked(&state.seen)[number].answer = Some(parts.status.as_u16());
    let body = body.map_err(io::Error::other);
    if !is_watch {
        return Ok(Response::from_parts(parts, body.boxed_unsync()));
    }
    let cut = locked(&state.watches).clone();
    let open = Open::of(state);
    let broken = cut.clone();
    let frames = BodyStream::new(body)
        .take_until(cut.cancelled_owned())
        .map(move |frame| {
            // Counted as open for as long as the answer goes on.
            let _open = &open;
            frame
        });
    let end = stream::once(async move { broken.is_cancelled() });
    let end =
        end.filter_map(async |is_cut| is_cut.then(|| Err(io::Error::other("this watch was cut"))));
    let frames = frames.chain(end);
    Ok(Response::from_parts(
        parts,
        StreamBody::new(frames).boxed_unsync(),
    ))
}

/// An open watch.
struct Open(Arc<State>);

impl Open {
    fn of(state: Arc<State>) -> Self {
        state.watches_open.fetch_add(1, Ordering::AcqRel);
        Self(state)
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        self.0.watches_open.fetch_sub(1, Ordering::AcqRel);
    }
}

fn status(code: u16, reason: &str) -> serde_json::Value {
    json!({
        "kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure",
        "message": "a fault of the test's proxy", "reason": reason, "code": code,
    })
}

fn refusal(code: u16, reason: &str, wait: Option<u32>) -> Answer {
    let mut answer = whole(code, status(code, reason).to_string());
    if let Some(seconds) = wait {
        answer.headers_mut().insert(RETRY_AFTER, seconds.into());
    }
    answer
}

fn whole(code: u16, text: String) -> Answer {
    let body = Full::new(Bytes::from(text)).map_err(|never| match never {});
    let mut answer = Response::new(body.boxed_unsync());
    *answer.status_mut() = StatusCode::from_u16(code).expect("a code");
    let json = "application/json".parse().expect("ASCII");
    answer.headers_mut().insert(CONTENT_TYPE, json);
    answer
}
