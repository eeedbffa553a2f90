//! What the tests of a troubled API server begin and end with: a controller behind a proxy that has
//! given a borrower its sets, and the look at whether everything is as it must be.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use dynamicswap_proto::control::v1::DesiredDocument;
use serde_json::Value;

use super::proxy::{Proxy, Seen};
use super::support::{Agent, PATIENCE, policy};
use super::{Candidate, Server, borrower, eventually, join, settled};

/// Address that the first controller names to agents.
pub const FIRST: &str = "10.11.0.1";
/// Sets that nobody uses yet, of a device of the stage's size.
const RESERVE: usize = 8;
/// Time for everything to be right again once a trouble is over: longer than the longest pause of
/// anybody who tries again.
pub const RECOVERY: Duration = Duration::from_secs(60);

/// Which slot each set has on each of its donors.
pub type Placement = BTreeMap<u64, BTreeMap<String, u64>>;

impl Server {
    /// The generations of an object, of its status and of each of its conditions, if they differ.
    pub fn unobserved(&self, kind: &str, name: &str) -> Option<String> {
        let json = self.try_kubectl(&["get", kind, name, "-o", "json"]);
        let object: Value = serde_json::from_str(&json.unwrap_or_default()).unwrap_or_default();
        let generation = &object["metadata"]["generation"];
        let conditions = object["status"]["conditions"].as_array().into_iter();
        let mut observed: Vec<_> = conditions
            .flatten()
            .map(|condition| &condition["observedGeneration"])
            .collect();
        observed.push(&object["status"]["observedGeneration"]);
        let agrees = generation.is_i64() && observed.iter().all(|observed| *observed == generation);
        (!agrees).then(|| format!("generation {generation}, observed {observed:?}"))
    }
}

/// A cluster in order.
pub struct Stage {
    // Ends first: its controller must not outlive the server.
    pub controller: Candidate,
    pub proxy: Proxy,
    pub agents: Vec<Agent>,
    pub address: String,
    bound: usize,
    stall_s: u32,
    pub server: Server,
}

impl Stage {
    /// None where the host cannot run an API server, which was said then.
    pub async fn set() -> Option<Self> {
        let server = Server::start()?;
        let proxy = Proxy::start(&server, "first").await;
        let through = proxy.kubeconfig();
        // What moves, a fault has moved.
        let more = ["--rebalance", "never"];
        let controller = Candidate::start_through(&server, through, "first", FIRST, &more);
        let address = controller.leads().await;
        let agents = join(&address).await;
        let stage = Self {
            controller,
            proxy,
            agents,
            address,
            bound: 0,
            stall_s: 30,
            server,
        };
        stage.write_policy();
        settled(&stage.agents).await;
        stage.is_in_order().await;
        Some(stage)
    }

    /// A second controller, which reaches the API server on its own way.
    pub fn second(&self) -> Candidate {
        Candidate::start_at(&self.server, "second", "10.11.0.2")
    }

    fn write_policy(&self) {
        let stall = self.stall_s;
        let spec = format!("{{durability: {{copies: 2}}, stall: {{readStall: {stall}s}}}}");
        self.server.apply(&policy(&spec)).expect("applied");
    }

    /// Has a user change the policy, by a direct way to the API server.
    pub fn change_policy(&mut self) {
        self.stall_s += 1;
        self.write_policy();
    }

    /// Has the borrower use one slab more, so that the controller has something to keep.
    pub async fn grow(&mut self) {
        self.bound += 1;
        let bound = self.bound;
        let borrower = borrower(&self.agents);
        borrower.change(|daemons| daemons.bound = bound).await;
    }

    /// The term of the leader from whom the borrower has its document.
    pub fn term(&self) -> u64 {
        let term = borrower(&self.agents).document().map(|it| it.term);
        term.expect("a document")
    }

    /// What the agents have, apart from whose word it is.
    pub fn documents(&self) -> Vec<DesiredDocument> {
        let documents = self.agents.iter().filter_map(Agent::document);
        documents
            .map(|document| DesiredDocument {
                term: 0,
                ..document
            })
            .collect()
    }

    /// The only map.
    fn map(&self) -> Option<Value> {
        let json = self.server.try_kubectl(&["get", "slabmaps", "-o", "json"]);
        let list: Value = serde_json::from_str(&json.unwrap_or_default()).unwrap_or_default();
        let maps = list["items"].as_array().cloned().unwrap_or_default();
        assert!(maps.len() <= 1, "one device has {} maps", maps.len());
        maps.into_iter().next()
    }

    /// What is on record now, which must be lawful at any time: no slot with two owners, no set
    /// with two copies on one donor.
    pub fn placement(&self) -> Placement {
        let map = self.map().expect("a map");
        let (mut placement, mut taken) = (Placement::new(), BTreeSet::new());
        for set in map["spec"]["sets"].as_array().expect("a list") {
            let id = set["id"].as_u64().expect("an id");
            let seats = placement.entry(id).or_default();
            for seat in set["seats"].as_array().expect("a list") {
                let node = seat["node"].as_str().expect("a name").to_owned();
                let slot = seat["slot"].as_u64().expect("a number");
                assert!(taken.insert((node.clone(), slot)), "{node}/{slot} twice");
                assert_eq!(seats.insert(node, slot), None, "two copies on one donor");
            }
        }
        placement
    }

    /// The sets as the borrower's document has them.
    fn handed_out(&self) -> Placement {
        let sets = borrower(&self.agents).sets().into_iter();
        sets.map(|set| {
            let seats = set.replicas.into_iter();
            let seats = seats.map(|seat| (seat.node, u64::from(seat.slot)));
            (set.set_id, seats.collect())
        })
        .collect()
    }

    /// The sets as the donors' documents have them.
    fn granted(&self) -> Placement {
        let mut placement = Placement::new();
        for agent in &self.agents {
            for grant in agent.grants() {
                let seats = placement.entry(grant.set_id).or_default();
                seats.insert(agent.name.clone(), u64::from(grant.slot));
            }
        }
        placement
    }

    /// Waits until record, documents, grants and what users see agree with what users want; gives
    /// the placement.
    pub async fn is_in_order(&self) -> Placement {
        let sets = RESERVE + self.bound;
        let deadline = Instant::now() + RECOVERY;
        loop {
            let found = self.placement_or_none();
            let complaint = self.complaint(&found, sets);
            if complaint.is_empty() {
                return found;
            }
            assert!(Instant::now() < deadline, "not in order: {complaint}");
            tokio::time::sleep(Duration::from_millis(300)).await;
        }
    }

    fn placement_or_none(&self) -> Placement {
        let there = self.map().is_some();
        if there {
            self.placement()
        } else {
            Placement::default()
        }
    }

    /// What is not as it must be; empty if all is.
    fn complaint(&self, found: &Placement, sets: usize) -> String {
        if found.len() != sets {
            return format!("{} sets on record, {sets} wanted", found.len());
        }
        if found.values().any(|seats| seats.len() != 2) {
            return format!("a set has not two copies: {found:?}");
        }
        if self.handed_out() != *found {
            return format!("{found:?} on record, handed out {:?}", self.handed_out());
        }
        if self.granted() != *found {
            return format!("{found:?} on record, granted {:?}", self.granted());
        }
        let device = borrower(&self.agents).document().map(|it| it.swap_device);
        let stall_ms = device.flatten().map(|device| device.read_stall_ms);
        if stall_ms != Some(self.stall_s * 1_000) {
            return format!("stall is {stall_ms:?} ms, not {} s", self.stall_s);
        }
        self.shown_wrongly()
    }

    /// What users see that is not so.
    fn shown_wrongly(&self) -> String {
        for (kind, name, condition) in [
            ("msrv", "d1", "Ready"),
            ("msrv", "d2", "Ready"),
            ("msrv", "d3", "Ready"),
            ("swd", "b1", "Ready"),
            ("rmp", "test", "InForce"),
            ("rmp", "test", "Accepted"),
        ] {
            let status = self.server.condition(kind, name, condition);
            if status != "True" {
                return format!("{kind} {name} is {condition}: {status}");
            }
        }
        for (kind, name) in [("msrv", "d1"), ("swd", "b1"), ("rmp", "test")] {
            if let Some(seen) = self.server.unobserved(kind, name) {
                return format!("{kind} {name}: what was observed is not what there is: {seen}");
            }
        }
        String::new()
    }

    /// The same as [`Self::is_in_order`], and every set that was there before is where it was.
    pub async fn is_in_order_as(&self, before: &Placement) -> Placement {
        let after = self.is_in_order().await;
        for (set, seats) in before {
            assert_eq!(
                after.get(set),
                Some(seats),
                "set {set} has moved or is gone"
            );
        }
        after
    }
}

/// Waits until `count` is above zero.
pub async fn struck(what: &str, count: impl Fn() -> usize) {
    eventually(PATIENCE, &format!("{what} is injected"), || count() > 0).await;
}

/// Requests that would change something, apart from the lease's.
pub fn writes(seen: &[Seen]) -> usize {
    let calls = seen.iter().map(|seen| &seen.call);
    calls
        .filter(|call| call.is_write() && !call.is_of_the_lease())
        .count()
}
