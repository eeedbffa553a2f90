//! The real controller program, and agents that speak to it as real ones do, with daemons that
//! are a few lines each.
#![allow(
    dead_code,
    clippy::expect_used,
    clippy::panic,
    reason = "shared by several test files; helpers of tests panic as tests do"
)]

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use dynamicswap_proto::SESSION_PROTOCOL;
use dynamicswap_proto::common::v1 as pb;
use dynamicswap_proto::control::v1::agent_message::Kind;
use dynamicswap_proto::control::v1::agent_session_client::AgentSessionClient;
use dynamicswap_proto::control::v1::operator_client::OperatorClient;
use dynamicswap_proto::control::v1::{
    Admission, AdmitRequest, AgentMessage, ApplyRequest, ClusterStatus, DeleteRequest,
    DesiredDocument, ForgetRequest, GetRequest, Hello, NodeReport, RebalanceRequest,
    RebalanceResponse, StatusRequest,
};
use tokio::sync::{mpsc, watch};
use tokio_stream::wrappers::ReceiverStream;
use tonic::Status;
use tonic::transport::Channel;

pub const SLAB: u64 = 16 << 20;
/// Long enough for a busy machine; a test that needs it all has failed anyway.
pub const PATIENCE: Duration = Duration::from_secs(20);

/// Waits until `condition` holds.
pub async fn eventually(what: &str, mut condition: impl AsyncFnMut() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !condition().await {
        assert!(Instant::now() < deadline, "never: {what}");
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
}

/// A controller process; killed with -9 when dropped.
pub struct Controller {
    child: Child,
    pub address: String,
    store: PathBuf,
    ready: PathBuf,
}

pub fn command(listen: &str, store: &Path) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_dynamicswap-controller"));
    command
        .arg("--listen")
        .arg(listen)
        .arg("--store")
        .arg(store);
    command
}

impl Controller {
    /// Starts one on a free port.
    pub async fn start(directory: &Path) -> Self {
        let store = directory.join("store.redb");
        Self::start_on("127.0.0.1:0", &store).await
    }

    pub async fn start_on(listen: &str, store: &Path) -> Self {
        let ready = store.with_extension("ready");
        let _ = std::fs::remove_file(&ready);
        let child = command(listen, store)
            .arg("--ready-file")
            .arg(&ready)
            .stderr(Stdio::inherit())
            .spawn()
            .expect("start the controller");
        eventually("the controller serves", async || ready.exists()).await;
        let address = std::fs::read_to_string(&ready).expect("ready file");
        Self {
            child,
            address: address.trim().to_owned(),
            store: store.to_owned(),
            ready,
        }
    }

    /// kill -9.
    pub fn kill(&mut self) {
        self.child.kill().expect("kill");
        self.child.wait().expect("wait");
    }

    /// kill -9, then a new process on the same address and store.
    pub async fn restart(&mut self) {
        self.kill();
        let (address, store) = (self.address.clone(), self.store.clone());
        *self = Self::start_on(&address, &store).await;
    }

    pub async fn operator(&self) -> OperatorClient<Channel> {
        operator(&self.address).await
    }

    pub async fn apply(&self, yaml: &str) -> Result<Vec<String>, Status> {
        let yaml = yaml.to_owned();
        let reply = self.operator().await.apply(ApplyRequest { yaml }).await?;
        Ok(reply.into_inner().results)
    }

    pub async fn delete(&self, kind: &str, names: &[&str]) -> Result<Vec<String>, Status> {
        let request = DeleteRequest {
            kind: kind.to_owned(),
            namespace: "default".to_owned(),
            names: names.iter().map(|name| (*name).to_owned()).collect(),
        };
        let reply = self.operator().await.delete(request).await?;
        Ok(reply.into_inner().results)
    }

    pub async fn forget(&self, node: &str) -> Result<String, Status> {
        let node = node.to_owned();
        let reply = self.operator().await.forget(ForgetRequest { node }).await?;
        Ok(reply.into_inner().result)
    }

    pub async fn get(&self, kind: &str) -> Vec<serde_json::Value> {
        let request = GetRequest {
            kind: kind.to_owned(),
            ..GetRequest::default()
        };
        let reply = self.operator().await.get(request).await.expect("get");
        let objects = reply.into_inner().objects_json;
        let parse = |json: &String| serde_json::from_str(json).expect("json");
        objects.iter().map(parse).collect()
    }

    pub async fn admit(&self, node: &str, admission: Admission) -> Result<String, Status> {
        admit(&self.address, node, admission).await
    }

    pub async fn rebalance(&self, dry_run: bool) -> RebalanceResponse {
        let request = RebalanceRequest { dry_run };
        let reply = self.operator().await.rebalance(request).await;
        reply.expect("an answer").into_inner()
    }

    pub async fn status(&self) -> ClusterStatus {
        let request = StatusRequest { events_after: 0 };
        let reply = self.operator().await.status(request).await;
        reply.expect("status").into_inner()
    }
}

impl Drop for Controller {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        let _ = std::fs::remove_file(&self.ready);
    }
}

/// The operator's side of whichever controller serves at `address`.
pub async fn operator(address: &str) -> OperatorClient<Channel> {
    let client = OperatorClient::connect(format!("http://{address}")).await;
    client.expect("connect")
}

/// Says what a donor shall take.
pub async fn admit(address: &str, node: &str, admission: Admission) -> Result<String, Status> {
    let request = AdmitRequest {
        node: node.to_owned(),
        admission: admission.into(),
        within_ms: 600_000,
    };
    let reply = operator(address).await.admit(request).await?;
    Ok(reply.into_inner().result)
}

pub fn policy(spec: &str) -> String {
    format!(
        "apiVersion: dynamicswap.io/v1alpha1\nkind: RemoteMemoryPolicy\n\
         metadata: {{name: test}}\nspec: {spec}\n"
    )
}

/// A node's daemons.
#[derive(Debug, Clone, Default)]
pub struct Daemons {
    pub server: Option<pb::MemoryServerReport>,
    pub server_error: String,
    pub device: Option<pb::SwapDeviceReport>,
    /// Sets that the engine has bound.
    pub bound: usize,
    /// Links that are down.
    pub down: Vec<String>,
    /// Whether nothing is sent ahead.
    pub breaker_open: bool,
}

impl Daemons {
    pub fn donor(name: &str, life: u8, slots: u32) -> Self {
        Self {
            server: Some(pb::MemoryServerReport {
                incarnation: vec![life; 16],
                slot_bytes: SLAB,
                slots_total: slots,
                slots_ready: slots,
                tcp_address: format!("127.0.0.1:{}", 9_000 + name.len()),
                ..pb::MemoryServerReport::default()
            }),
            ..Self::default()
        }
    }

    pub fn borrower(life: u8, slabs: u64) -> Self {
        Self {
            device: Some(pb::SwapDeviceReport {
                device_id: vec![life; 16],
                epoch: 1,
                size_bytes: slabs * SLAB,
                slab_bytes: SLAB,
                front_end: "fuse-loop".to_owned(),
                integrity: pb::Integrity::Tag64.into(),
                ..pb::SwapDeviceReport::default()
            }),
            ..Self::default()
        }
    }

    fn take(&mut self, document: &DesiredDocument) {
        if let (Some(server), Some(wanted)) = (&mut self.server, &document.memory_server)
            && wanted.incarnation == server.incarnation
            && wanted.generation >= server.generation
        {
            server.generation = wanted.generation;
            server.grants = wanted
                .grants
                .iter()
                .map(|grant| pb::SlotReport {
                    slot: grant.slot,
                    device_id: grant.device_id.clone(),
                    set_id: grant.set_id,
                })
                .collect();
        }
        if let (Some(device), Some(wanted)) = (&mut self.device, &document.swap_device)
            && wanted.device_id == device.device_id
            && wanted.generation >= device.generation
        {
            device.generation = wanted.generation;
            device.attached = wanted.attached;
            device.sets = wanted.sets.iter().map(listed).collect();
        }
    }

    fn report(&self, generation: u64) -> NodeReport {
        let mut device = self.device.clone();
        if let Some(device) = &mut device {
            for (index, set) in device.sets.iter_mut().enumerate() {
                let slab = u32::try_from(index).expect("small");
                set.slab = (index < self.bound).then_some(slab);
            }
            let nodes: BTreeMap<&String, ()> = device
                .sets
                .iter()
                .flat_map(|set| set.replicas.iter().map(|replica| (&replica.node, ())))
                .collect();
            device.links = nodes
                .into_keys()
                .map(|node| {
                    let down = self.down.contains(node);
                    pb::LinkReport {
                        node: node.clone(),
                        state: if down {
                            pb::LinkState::Down
                        } else {
                            pb::LinkState::Up
                        }
                        .into(),
                        ..pb::LinkReport::default()
                    }
                })
                .collect();
        }
        NodeReport {
            generation,
            swap_device: device,
            memory_server: self.server.clone().filter(|_| self.server_error.is_empty()),
            memory_server_error: self.server_error.clone(),
            breaker_open: self.breaker_open,
            ..NodeReport::default()
        }
    }
}

fn listed(set: &pb::ReplicaSet) -> pb::SetReport {
    pb::SetReport {
        set_id: set.set_id,
        replicas: set
            .replicas
            .iter()
            .map(|replica| pb::ReplicaReport {
                node: replica.node.clone(),
                slot: replica.slot,
                state: pb::ReplicaState::Live.into(),
            })
            .collect(),
        ..pb::SetReport::default()
    }
}

/// An agent that takes each document, has its daemons follow and reports.
pub struct Agent {
    pub name: String,
    daemons: Arc<Mutex<Daemons>>,
    poke: mpsc::Sender<()>,
    pub documents: watch::Receiver<Option<DesiredDocument>>,
    ended: watch::Receiver<Option<Status>>,
    task: tokio::task::JoinHandle<()>,
}

pub fn hello(name: &str, daemons: &Daemons, generation: u64) -> Hello {
    Hello {
        node: name.to_owned(),
        failure_domain: name.to_owned(),
        agent_version: "test".to_owned(),
        protocol: SESSION_PROTOCOL,
        borrower: daemons.device.is_some(),
        donor: daemons.server.is_some(),
        generation,
        zone: String::new(),
    }
}

fn up(kind: Kind) -> AgentMessage {
    AgentMessage { kind: Some(kind) }
}

impl Agent {
    pub async fn join(address: &str, name: &str, daemons: Daemons) -> Self {
        let hello = hello(name, &daemons, 0);
        Self::join_as(address, hello, daemons).await
    }

    pub async fn join_as(address: &str, hello: Hello, daemons: Daemons) -> Self {
        let (poke, pokes) = mpsc::channel(16);
        let (latest, documents) = watch::channel(None);
        let (end, ended) = watch::channel(None);
        let name = hello.node.clone();
        let client = AgentSessionClient::connect(format!("http://{address}"))
            .await
            .expect("connect");
        let daemons = Arc::new(Mutex::new(daemons));
        let session = Session {
            daemons: Arc::clone(&daemons),
            pokes,
            latest,
        };
        let task = tokio::spawn(async move {
            let status = session.run(client, hello).await;
            end.send_replace(Some(status));
        });
        Self {
            name,
            daemons,
            poke,
            documents,
            ended,
            task,
        }
    }

    /// Changes the daemons and reports at once.
    pub async fn change(&self, change: impl FnOnce(&mut Daemons)) {
        change(&mut self.daemons.lock().expect("not poisoned"));
        // A session that has ended reports nothing.
        let _ = self.poke.send(()).await;
    }

    pub fn daemons(&self) -> Daemons {
        self.daemons.lock().expect("not poisoned").clone()
    }

    pub fn document(&self) -> Option<DesiredDocument> {
        self.documents.borrow().clone()
    }

    pub fn sets(&self) -> Vec<pb::ReplicaSet> {
        let document = self.document().and_then(|document| document.swap_device);
        document.map_or_else(Vec::new, |document| document.sets)
    }

    pub fn grants(&self) -> Vec<pb::SlotGrant> {
        let document = self.document().and_then(|document| document.memory_server);
        document.map_or_else(Vec::new, |document| document.grants)
    }

    /// The status with which the session ended.
    pub async fn ended(&mut self) -> Status {
        let wait = self.ended.wait_for(Option::is_some);
        let status = tokio::time::timeout(PATIENCE, wait).await;
        let status = status.expect("the session ends").expect("the task ends");
        status.clone().expect("some")
    }

    /// Ends the session without a word.
    pub fn vanish(&self) {
        self.task.abort();
    }
}

impl Drop for Agent {
    fn drop(&mut self) {
        self.task.abort();
    }
}

struct Session {
    daemons: Arc<Mutex<Daemons>>,
    pokes: mpsc::Receiver<()>,
    latest: watch::Sender<Option<DesiredDocument>>,
}

impl Session {
    async fn run(mut self, mut client: AgentSessionClient<Channel>, hello: Hello) -> Status {
        let (upward, messages) = mpsc::channel(16);
        let mut generation = hello.generation;
        let answer = client.open(ReceiverStream::new(messages)).await;
        let mut downward = match answer {
            Ok(answer) => answer.into_inner(),
            Err(status) => return status,
        };
        let first = upward.send(up(Kind::Hello(hello))).await;
        if first.is_err() || self.send_report(&upward, generation).await.is_err() {
            return Status::unavailable("cut");
        }
        loop {
            tokio::select! {
                message = downward.message() => match message {
                    Ok(Some(document)) => {
                        assert!(document.generation >= generation, "generation went back");
                        generation = document.generation;
                        self.daemons.lock().expect("not poisoned").take(&document);
                        self.latest.send_replace(Some(document));
                    }
                    Ok(None) => return Status::ok("ended"),
                    Err(status) => return status,
                },
                poke = self.pokes.recv() => if poke.is_none() {
                    return Status::ok("dropped");
                },
            }
            if self.send_report(&upward, generation).await.is_err() {
                return Status::unavailable("cut");
            }
        }
    }

    async fn send_report(
        &self,
        upward: &mpsc::Sender<AgentMessage>,
        generation: u64,
    ) -> Result<(), mpsc::error::SendError<AgentMessage>> {
        let report = self
            .daemons
            .lock()
            .expect("not poisoned")
            .report(generation);
        upward.send(up(Kind::Report(report))).await
    }
}

/// Three donors of 32 slots and a borrower of 32 slabs.
pub struct Cluster {
    pub controller: Controller,
    pub donors: Vec<Agent>,
    pub borrower: Agent,
    pub directory: tempfile::TempDir,
}

impl Cluster {
    pub async fn start() -> Self {
        let directory = tempfile::tempdir().expect("directory");
        let controller = Controller::start(directory.path()).await;
        let address = controller.address.clone();
        let mut donors = Vec::new();
        for (life, name) in [(1, "d1"), (2, "d2"), (3, "d3")] {
            let daemons = Daemons::donor(name, life, 32);
            donors.push(Agent::join(&address, name, daemons).await);
        }
        let borrower = Agent::join(&address, "b1", Daemons::borrower(9, 32)).await;
        Self {
            controller,
            donors,
            borrower,
            directory,
        }
    }

    /// Started, with a policy of two copies, settled.
    pub async fn usual() -> Self {
        let cluster = Self::start().await;
        cluster
            .controller
            .apply(&policy("{durability: {copies: 2}}"))
            .await
            .expect("applied");
        cluster.settled(8).await;
        cluster
    }

    /// Waits until the borrower has this many sets.
    pub async fn settled(&self, sets: usize) {
        eventually("the borrower has its sets", async || {
            self.borrower.sets().len() == sets
        })
        .await;
    }

    pub fn donor(&self, name: &str) -> &Agent {
        let donor = self.donors.iter().find(|donor| donor.name == name);
        donor.expect("known")
    }

    /// Every agent connects again, with what its daemons had.
    pub async fn rejoin(&mut self) {
        let address = self.controller.address.clone();
        for agent in self.donors.iter_mut().chain([&mut self.borrower]) {
            let daemons = agent.daemons();
            let generation = agent.document().map_or(0, |document| document.generation);
            let hello = hello(&agent.name, &daemons, generation);
            *agent = Agent::join_as(&address, hello, daemons).await;
        }
    }
}
