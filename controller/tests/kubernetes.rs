//! The controller on a real API server: policies by kubectl, records in objects, one leader.
//!
//! Run by `cargo xtask test --only cluster`; elsewhere they say SKIPPED and why.
#![allow(
    clippy::expect_used,
    clippy::panic,
    reason = "helpers of tests panic as tests do"
)]

#[path = "kubernetes/faults.rs"]
mod faults;
#[path = "kubernetes/leases.rs"]
mod leases;
#[path = "kubernetes/proxy.rs"]
mod proxy;
#[path = "kubernetes/stage.rs"]
mod stage;
mod support;
#[path = "kubernetes/tls.rs"]
mod tls;
#[path = "kubernetes/traffic.rs"]
mod traffic;
#[path = "kubernetes/watches.rs"]
mod watches;

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use dynamicswap_cluster::control_plane::{ControlPlane, Options};
use dynamicswap_cluster::host;
use dynamicswap_proto::control::v1::Admission;
use serde_json::Value;
use support::{Agent, Daemons, PATIENCE, policy};

const NAMESPACE: &str = "dynamicswap-system";
/// A follower leads this long after its leader was killed, on a busy machine.
const SUCCESSION: Duration = Duration::from_secs(40);

/// Two API servers at a time: each takes half a gigabyte, and most tests wait most of their time.
static TURNS: [Mutex<()>; 2] = [Mutex::new(()), Mutex::new(())];
/// Whose turn each is, one after the other.
static NEXT: AtomicUsize = AtomicUsize::new(0);

/// Who the controller is there, with the rights that the Helm chart gives it and no others.
const CONTROLLER: &str = "system:serviceaccount:dynamicswap-system:dynamicswap-controller";

/// An API server with the CRDs and the controller's rights.
struct Server {
    plane: ControlPlane,
    controller: PathBuf,
    directory: tempfile::TempDir,
    _turn: MutexGuard<'static, ()>,
}

impl Server {
    /// None where the host cannot run one, which was said then.
    fn start() -> Option<Self> {
        if host::is_run_apart() {
            return None;
        }
        if let Some(reason) = host::missing() {
            println!("SKIPPED cluster tests of the controller: {reason}");
            assert!(!host::is_required(), "required, but {reason}");
            return None;
        }
        let turn = &TURNS[NEXT.fetch_add(1, Ordering::Relaxed) % TURNS.len()];
        let turn = turn.lock().unwrap_or_else(PoisonError::into_inner);
        let plane = ControlPlane::start(&Options::default()).expect("a control plane");
        let crds = Path::new(env!("CARGO_MANIFEST_DIR")).join("../crds/yaml");
        let crds = crds.to_str().expect("text");
        let directory = tempfile::tempdir().expect("a directory");
        let controller = directory.path().join("controller.kubeconfig");
        let kubeconfig = plane.kubeconfig_of(CONTROLLER, Some("system:serviceaccounts"));
        std::fs::write(&controller, kubeconfig.expect("a certificate")).expect("a file");
        let server = Self {
            plane,
            controller,
            directory,
            _turn: turn,
        };
        server.kubectl(&["apply", "--server-side", "-f", crds]);
        let established = ["wait", "--for=condition=Established", "crd", "--all"];
        server.kubectl(&established);
        server.kubectl(&["create", "namespace", NAMESPACE]);
        server.apply_part("controller");
        Some(server)
    }

    /// Applies what the chart says of one part.
    fn apply_part(&self, part: &str) {
        let chart = concat!(
            env!("CARGO_MANIFEST_DIR"),
            "/../tests/chart/minimal/golden.yaml"
        );
        let part = format!("--selector=app.kubernetes.io/component={part}");
        self.kubectl(&["apply", "--filename", chart, &part]);
    }

    fn try_kubectl(&self, arguments: &[&str]) -> anyhow::Result<String> {
        self.plane.client().kubectl(arguments)
    }

    fn kubectl(&self, arguments: &[&str]) -> String {
        self.try_kubectl(arguments).expect("kubectl")
    }

    fn apply(&self, yaml: &str) -> anyhow::Result<String> {
        self.plane.client().apply(yaml)
    }

    /// One object.
    fn object(&self, kind: &str, name: &str) -> Value {
        let json = self.kubectl(&["get", kind, name, "-o", "json"]);
        serde_json::from_str(&json).expect("JSON")
    }

    /// All objects of a kind.
    fn objects(&self, kind: &str) -> Vec<Value> {
        let json = self.kubectl(&["get", kind, "-A", "-o", "json"]);
        let list: Value = serde_json::from_str(&json).expect("JSON");
        list["items"].as_array().cloned().expect("a list")
    }

    /// Where the Service leads, as IP:PORT.
    fn service_leads_to(&self) -> String {
        let path = "jsonpath={.items[*].endpoints[*].addresses[*]}:{.items[*].ports[*].port}";
        let label = "--selector=kubernetes.io/service-name=dynamicswap-controller";
        let namespace = format!("--namespace={NAMESPACE}");
        self.try_kubectl(&["get", "endpointslices", &namespace, label, "-o", path])
            .unwrap_or_default()
    }

    /// Waits until the Service leads to the controller that serves at `address`, known as `ip`.
    async fn led_to(&self, ip: &str, address: &str) {
        let (_, port) = address.rsplit_once(':').expect("IP:PORT");
        let wanted = format!("{ip}:{port}");
        eventually(PATIENCE, &format!("the Service leads to {wanted}"), || {
            self.service_leads_to() == wanted
        })
        .await;
    }

    /// The status of a condition, empty if there is none.
    fn condition(&self, kind: &str, name: &str, condition: &str) -> String {
        let path = format!("jsonpath={{.status.conditions[?(@.type=='{condition}')].status}}");
        self.try_kubectl(&["get", kind, name, "-o", &path])
            .unwrap_or_default()
    }
}

/// A controller that may lead.
struct Candidate {
    child: Child,
    ready: PathBuf,
}

impl Candidate {
    fn start(server: &Server, identity: &str) -> Self {
        Self::start_at(server, identity, "10.11.0.1")
    }

    /// Starts one that says that agents reach it at `ip`.
    fn start_at(server: &Server, identity: &str, ip: &str) -> Self {
        Self::start_with(server, identity, ip, &[])
    }

    /// The same with more arguments.
    fn start_with(server: &Server, identity: &str, ip: &str, more: &[&str]) -> Self {
        Self::start_through(server, &server.controller, identity, ip, more)
    }

    /// Starts one whose way to the API server is a kubeconfig's.
    fn start_through(
        server: &Server,
        kubeconfig: &Path,
        identity: &str,
        ip: &str,
        more: &[&str],
    ) -> Self {
        let ready = server.directory.path().join(format!("{identity}.ready"));
        let child = Command::new(env!("CARGO_BIN_EXE_dynamicswap-controller"))
            .args(["--listen", "127.0.0.1:0", "--identity", identity])
            .args(["--advertise", ip])
            .args(more)
            .arg("--store")
            .arg(format!("kubernetes:{NAMESPACE}"))
            .arg("--ready-file")
            .arg(&ready)
            .env("KUBECONFIG", kubeconfig)
            .stderr(Stdio::inherit())
            .spawn()
            .expect("start the controller");
        Self { child, ready }
    }

    /// The address on which it serves, once it leads.
    async fn leads(&self) -> String {
        eventually(SUCCESSION, "it leads", || self.ready.exists()).await;
        let address = std::fs::read_to_string(&self.ready).expect("ready file");
        address.trim().to_owned()
    }

    /// Whether its process goes on.
    fn lives(&mut self) -> bool {
        self.child.try_wait().expect("waited for").is_none()
    }

    fn kill(&mut self) {
        self.child.kill().expect("kill");
        self.child.wait().expect("wait");
    }

    fn signal(&self, signal: &str) {
        let sent = Command::new("kill")
            .arg(signal)
            .arg(self.child.id().to_string())
            .status();
        assert!(sent.expect("kill").success());
    }
}

impl Drop for Candidate {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

async fn eventually(time: Duration, what: &str, mut condition: impl FnMut() -> bool) {
    let deadline = Instant::now() + time;
    while !condition() {
        assert!(Instant::now() < deadline, "never: {what}");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

/// Three donors and a borrower.
async fn join(address: &str) -> Vec<Agent> {
    let mut agents = Vec::new();
    for (life, name) in [(1, "d1"), (2, "d2"), (3, "d3")] {
        agents.push(Agent::join(address, name, Daemons::donor(name, life, 32)).await);
    }
    agents.push(Agent::join(address, "b1", Daemons::borrower(9, 32)).await);
    agents
}

/// The same nodes, with what they had, at another controller.
async fn rejoin(address: &str, agents: Vec<Agent>) -> Vec<Agent> {
    let mut again = Vec::new();
    for agent in agents {
        let daemons = agent.daemons();
        let generation = agent.document().map_or(0, |document| document.generation);
        let hello = support::hello(&agent.name, &daemons, generation);
        again.push(Agent::join_as(address, hello, daemons).await);
    }
    again
}

fn borrower(agents: &[Agent]) -> &Agent {
    agents.last().expect("four")
}

/// Waits until the borrower has its eight sets and every donor its grants.
async fn settled(agents: &[Agent]) {
    eventually(PATIENCE, "the borrower has its sets", || {
        borrower(agents).sets().len() == 8
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn killed_leader_s_successor_hands_out_the_same_documents() {
    let Some(server) = Server::start() else {
        return;
    };
    let mut first = Candidate::start(&server, "first");
    let address = first.leads().await;
    let second = Candidate::start_at(&server, "second", "10.11.0.2");
    server.led_to("10.11.0.1", &address).await;
    let agents = join(&address).await;
    server
        .apply(&policy("{durability: {copies: 2}}"))
        .expect("applied");
    settled(&agents).await;
    eventually(PATIENCE, "the SlabMap has every set", || {
        let maps = server.objects("slabmaps");
        maps.len() == 1 && maps[0]["spec"]["sets"].as_array().map_or(0, Vec::len) == 8
    })
    .await;
    assert!(!second.ready.exists(), "only the leader serves");
    tokio::time::sleep(Duration::from_secs(1)).await;
    let before: Vec<_> = agents
        .iter()
        .map(|agent| agent.document().expect("one"))
        .collect();

    first.kill();
    let address = second.leads().await;
    server.led_to("10.11.0.2", &address).await;
    let agents = rejoin(&address, agents).await;
    for (agent, before) in agents.iter().zip(before) {
        eventually(PATIENCE, "everybody has a document", || {
            agent.document().is_some()
        })
        .await;
        let after = agent.document().expect("one");
        assert!(after.term > before.term);
        assert_eq!(after.generation, before.generation, "{}", agent.name);
        assert_eq!(after.swap_device, before.swap_device);
        assert_eq!(after.memory_server, before.memory_server);
        assert_eq!(after.policies_json, before.policies_json);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn frozen_leader_that_wakes_up_writes_nothing_and_ends() {
    let Some(server) = Server::start() else {
        return;
    };
    let mut frozen = Candidate::start(&server, "frozen");
    let address = frozen.leads().await;
    let agents = join(&address).await;
    server
        .apply(&policy("{durability: {copies: 2}}"))
        .expect("applied");
    settled(&agents).await;
    frozen.signal("-STOP");
    let next = Candidate::start(&server, "next");
    let address = next.leads().await;
    let agents = rejoin(&address, agents).await;
    // Something for the frozen one to plan as soon as it wakes up: its sessions are gone.
    let name = server.objects("slabmaps")[0]["metadata"]["name"].clone();
    let name = name.as_str().expect("a name");
    borrower(&agents).change(|daemons| daemons.bound = 3).await;
    eventually(PATIENCE, "the new leader has a larger map", || {
        let sets = server.object("slabmap", name)["spec"]["sets"].clone();
        sets.as_array().map_or(0, Vec::len) == 11
    })
    .await;
    let term = |object: &Value| object["metadata"]["annotations"]["dynamicswap.io/term"].clone();
    let of_the_next = term(&server.object("slabmap", name));

    frozen.signal("-CONT");
    eventually(PATIENCE, "the frozen one ends", || {
        frozen.child.try_wait().expect("waited for").is_some()
    })
    .await;
    let status = frozen.child.wait().expect("ended");
    assert!(!status.success());
    let object = server.object("slabmap", name);
    assert_eq!(term(&object), of_the_next);
    assert_eq!(object["spec"]["sets"].as_array().map_or(0, Vec::len), 11);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_users_write_counts_and_what_they_see_is_true() {
    let Some(server) = Server::start() else {
        return;
    };
    let controller = Candidate::start(&server, "only");
    let address = controller.leads().await;
    let agents = join(&address).await;

    let refused = server.apply(&policy("{durability: {copies: 4}}"));
    assert!(refused.is_err(), "the API server takes four copies");
    server
        .apply(&policy("{durability: {copies: 2}}"))
        .expect("applied");
    settled(&agents).await;
    eventually(PATIENCE, "donors are shown", || {
        ["d1", "d2", "d3"]
            .iter()
            .all(|donor| server.condition("msrv", donor, "Ready") == "True")
    })
    .await;
    eventually(PATIENCE, "the device is shown", || {
        server.condition("swd", "b1", "Ready") == "True"
    })
    .await;

    let refused = support::admit(&address, "d2", Admission::Cordoned).await;
    let refused = refused.expect_err("its object has the last word");
    assert!(refused.message().contains("cordon server d2"), "{refused}");
    let cordon = r#"{"spec": {"cordoned": true, "drain": {"within": "5m"}}}"#;
    server.kubectl(&["patch", "msrv", "d2", "--type=merge", "-p", cordon]);
    eventually(PATIENCE, "the drained donor is emptied", || {
        let sets = borrower(&agents).sets();
        !sets.is_empty()
            && sets
                .iter()
                .all(|set| set.replicas.iter().all(|r| r.node != "d2"))
    })
    .await;

    eventually(PATIENCE, "the drain is an event of the donor", || {
        let of_d2 = "--field-selector=involvedObject.kind=MemoryServer,involvedObject.name=d2";
        let told = server.try_kubectl(&["get", "events", "-A", of_d2]);
        told.is_ok_and(|told| told.contains("DonorAdmission"))
    })
    .await;

    server.kubectl(&["delete", "rmp", "test"]);
    eventually(PATIENCE, "no policy wants the device", || {
        let document = borrower(&agents).document().expect("one");
        document.swap_device.is_some_and(|device| !device.attached)
    })
    .await;

    let earlier = server.object("swd", "b1")["spec"]["deviceId"].clone();
    drop(agents);
    let _borrower = Agent::join(&address, "b1", Daemons::borrower(10, 32)).await;
    eventually(PATIENCE, "a new life of the device is shown", || {
        let shown = server.try_kubectl(&["get", "swd", "b1", "-o", "json"]);
        let shown: Value = serde_json::from_str(&shown.unwrap_or_default()).unwrap_or_default();
        let id = &shown["spec"]["deviceId"];
        id.is_string() && *id != earlier
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn record_that_somebody_edits_or_deletes_is_written_again() {
    let Some(server) = Server::start() else {
        return;
    };
    let controller = Candidate::start(&server, "only");
    let address = controller.leads().await;
    let agents = join(&address).await;
    server
        .apply(&policy("{durability: {copies: 2}}"))
        .expect("applied");
    settled(&agents).await;
    let name = server.objects("slabmaps")[0]["metadata"]["name"].clone();
    let name = name.as_str().expect("a name");
    let edit = r#"{"spec": {"sets": []}}"#;
    server.kubectl(&["patch", "slabmap", name, "--type=merge", "-p", edit]);
    let sets = |wanted: usize| {
        let object = server.try_kubectl(&["get", "slabmap", name, "-o", "json"]);
        let object: Value = serde_json::from_str(&object.unwrap_or_default()).unwrap_or_default();
        object["spec"]["sets"].as_array().map_or(0, Vec::len) == wanted
    };
    borrower(&agents).change(|daemons| daemons.bound = 1).await;
    eventually(PATIENCE, "the edit is undone", || sets(9)).await;
    server.kubectl(&["delete", "slabmap", name]);
    borrower(&agents).change(|daemons| daemons.bound = 2).await;
    eventually(PATIENCE, "the map is there again", || sets(10)).await;
}
