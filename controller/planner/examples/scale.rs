//! How long the planner takes, and what memory, with a large cluster: 1,000 nodes that borrow and lend,
//! 100,000 slabs of two copies. Prints a table; ends with an error if a bar is missed. Times are those
//! that the planner's one thread had a processor.
//!
//! `cargo run --release -p dynamicswap-planner --example scale [-- NODES SLABS_PER_NODE]`
#![allow(
    clippy::expect_used,
    clippy::print_stdout,
    reason = "a measurement that cannot be taken shall say so and end"
)]

use std::collections::BTreeMap;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use dynamicswap_planner::{
    ClusterView, DeviceIntent, DeviceObservation, DeviceRecord, Ledger, LinkObservation, LinkState,
    NodeObservation, NodeRecord, Planner, Published, Rebalance, ReplicaObservation, ReplicaState,
    Seat, SeatPhase, ServerFacts, ServerObservation, Session, SetObservation, SetRecord, SetStage,
    Settings, lint, plan, round, stamp_revokes,
};
use dynamicswap_types::{
    Bytes, Copies, Durability, Generation, IncarnationId, Integrity, MonotonicTime, NodeName,
    SetId, SlabSize, SlotIndex, Spill, SwapDeviceId,
};

const SLAB: Bytes = Bytes::from_mib(64);
const PROTOCOL: u32 = 1;
/// Times that each figure is taken; the median counts.
const RUNS: usize = 9;
/// Bars: a plan from nothing, a plan after one report, and memory.
const FULL_MAX: Duration = Duration::from_secs(1);
const AGAIN_MAX: Duration = Duration::from_millis(50);
const RESIDENT_MIB_MAX: u64 = 500;

struct Cluster {
    ledger: Ledger,
    nodes: BTreeMap<NodeName, NodeObservation>,
    intent: DeviceIntent,
    rebalanced: BTreeMap<SetId, MonotonicTime>,
    now: MonotonicTime,
}

/// What is printed, and whether every bar was met.
struct Table {
    good: bool,
}

impl Table {
    fn time<T>(&mut self, name: &str, bar: Option<Duration>, mut work: impl FnMut() -> T) {
        self.time_after(name, bar, || (), |()| work());
    }

    /// The same of work that begins with something, whose making is not counted.
    fn time_after<S, T>(
        &mut self,
        name: &str,
        bar: Option<Duration>,
        begin: impl FnMut() -> S,
        work: impl FnMut(S) -> T,
    ) {
        let taken = median(begin, work);
        let bar_text = bar.map_or_else(String::new, |bar| format!("(bar {bar:?})"));
        let millis = taken.as_secs_f64() * 1_000.0;
        println!("{name:<48} {millis:>9.1} ms  {bar_text}");
        self.good &= bar.is_none_or(|bar| taken <= bar);
    }

    fn memory(&mut self, name: &str, bar: Option<u64>) {
        let taken = resident_mib();
        let bar_text = bar.map_or_else(String::new, |bar| format!("(bar {bar} MiB)"));
        println!("{name:<48} {taken:>9} MiB {bar_text}");
        self.good &= bar.is_none_or(|bar| taken <= bar);
    }
}

fn main() -> ExitCode {
    let mut arguments = std::env::args()
        .skip(1)
        .map(|it| it.parse().expect("a number"));
    let nodes = arguments.next().unwrap_or(1_000);
    let slabs = arguments.next().unwrap_or(100);
    let mut cluster = Cluster::new(nodes, slabs);
    let sets = cluster.ledger.sets.len();
    println!("{nodes} nodes, {sets} sets of two copies");
    let mut table = Table { good: true };
    table.memory("the cluster alone, at most", None);
    cluster.settle();
    quiet(&mut table, &cluster);
    // One that has followed the cluster until now, as the controller's has.
    let mut planner = Planner::default();
    planner.round(&cluster.view()).expect("sound");
    cluster.bind_one();
    again(&mut table, &cluster, &planner, "one node's report");
    planner.round(&cluster.view()).expect("sound");
    cluster.kill(7);
    again(&mut table, &cluster, &planner, "a donor's death");
    table.time("plan of it, from nothing", Some(FULL_MAX), || {
        plan(&cluster.view())
    });
    cluster.start(7);
    cluster.bind_all();
    let steps = plan(&cluster.view()).steps.len();
    let name = format!("plan, every reserve is used up: {steps} steps");
    table.time(&name, Some(FULL_MAX), || plan(&cluster.view()));
    table.time("round of it", None, || {
        round(&cluster.view()).expect("sound")
    });
    table.memory("the cluster and all plans, at most", Some(RESIDENT_MIB_MAX));
    if table.good {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    }
}

fn quiet(table: &mut Table, cluster: &Cluster) {
    let made = plan(&cluster.view());
    assert_eq!(made.steps, [], "{made}");
    table.time("plan, nothing to do", None, || plan(&cluster.view()));
    let whole = || round(&cluster.view()).expect("sound");
    table.time(
        "round: plan, checker, ledger, documents",
        Some(FULL_MAX),
        whole,
    );
    let mut nodes = cluster.nodes.clone();
    let stamp = || stamp_revokes(&cluster.ledger, &mut nodes, cluster.now);
    table.time("what donors want back, before each plan", None, stamp);
}

/// What a planner that followed the cluster takes for what has changed since.
fn again(table: &mut Table, cluster: &Cluster, planner: &Planner, what: &str) {
    let view = cluster.view();
    let made = plan(&view);
    assert_eq!(planner.clone().plan(&view), made, "the same from nothing");
    let name = format!("plan after {what}: {} steps", made.steps.len());
    let begin = || planner.clone();
    table.time_after(&name, Some(AGAIN_MAX), begin, |mut it| (it.plan(&view), it));
    table.time_after("round of it", Some(AGAIN_MAX), begin, |mut it| {
        (it.round(&view).expect("sound"), it)
    });
    table.time("whole checker of it", None, || lint(&view, &made));
}

fn median<S, T>(mut begin: impl FnMut() -> S, mut work: impl FnMut(S) -> T) -> Duration {
    let mut times: Vec<Duration> = (0..RUNS)
        .map(|_| {
            let begun = begin();
            let start = processor_time();
            let made = work(begun);
            let taken = processor_time().saturating_sub(start);
            drop(made);
            taken
        })
        .collect();
    times.sort();
    times[RUNS / 2]
}

/// Time that this thread has had a processor: what other work on the machine takes is not the planner's.
fn processor_time() -> Duration {
    let said = std::fs::read_to_string("/proc/thread-self/schedstat").expect("procfs");
    let nanos = said
        .split_whitespace()
        .next()
        .and_then(|it| it.parse().ok());
    Duration::from_nanos(nanos.expect("a number"))
}

/// The most memory that this process had.
fn resident_mib() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").expect("procfs");
    let line = status.lines().find(|line| line.starts_with("VmHWM:"));
    let kib = line.and_then(|line| line.split_whitespace().nth(1));
    kib.and_then(|kib| kib.parse::<u64>().ok())
        .expect("a number")
        / 1_024
}

fn name(index: u32) -> NodeName {
    format!("node-{index:04}.cluster.example")
        .parse()
        .expect("valid")
}

fn life(kind: u64, index: u32) -> [u8; 16] {
    // As random as real ids: neighbours in the order of ids are none in the cluster.
    let mixed = mix(kind << 32 | u64::from(index));
    (u128::from(mixed) << 64 | u128::from(mix(mixed))).to_le_bytes()
}

const fn mix(seed: u64) -> u64 {
    let mut z = seed.wrapping_add(0x9e37_79b9_7f4a_7c15);
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

impl Cluster {
    fn new(nodes: u32, slabs: u32) -> Self {
        let mut cluster = Self {
            ledger: Ledger::default(),
            nodes: BTreeMap::new(),
            intent: DeviceIntent {
                class: Durability {
                    copies: Copies::TWO,
                    spill: Spill::None,
                },
                attach: true,
                integrity: Integrity::Tag64,
                write_hold: Duration::from_secs(2),
                read_stall: Duration::from_secs(30),
                empty_slab_hold: Duration::from_secs(10),
                copy_bandwidth: None,
                policies: vec!["{}".to_owned()],
            },
            rebalanced: BTreeMap::new(),
            now: MonotonicTime::ZERO.after(Duration::from_secs(1_000)),
        };
        // A quarter more slots than are used, and slabs than are bound, so that there is room.
        let slots = slabs * 3;
        for index in 0..nodes {
            cluster.join(index, slots, slabs * 2);
        }
        let mut used = vec![0_u32; nodes as usize];
        for slab in 0..slabs {
            for borrower in 0..nodes {
                cluster.grant(borrower, slab, nodes, &mut used);
            }
        }
        cluster.ledger.share_names();
        cluster
    }

    fn join(&mut self, index: u32, slots: u32, slabs: u32) {
        let node = name(index);
        let incarnation = IncarnationId::from_bytes(life(1, index));
        let id = SwapDeviceId::from_bytes(life(2, index));
        let record = NodeRecord {
            domain: node.as_str().parse().expect("valid"),
            zone: format!("zone-{}", index % 3).parse().ok(),
            borrower: true,
            donor: true,
            cordoned: false,
            drain: None,
            foreign: false,
            server: Some(ServerFacts {
                incarnation,
                slot_size: SLAB,
                slots_total: slots,
                tcp_address: format!("10.0.{}.{}:7000", index / 256, index % 256),
                rdma_address: String::new(),
            }),
            published: Published::default(),
        };
        self.ledger.nodes.insert(node.clone(), record);
        let device = DeviceRecord {
            node: node.clone(),
            size: Bytes::new(SLAB.get() * u64::from(slabs)),
            slab: SlabSize::try_from(SLAB).expect("a slab size"),
            integrity: Some(Integrity::Tag64),
            class: Some(self.intent.class),
            reserve_sets_max: 32,
            gone: false,
        };
        self.ledger.devices.insert(id, device);
        let mut seen = NodeObservation::silent(self.now);
        seen.lendable = Some(Bytes::new(SLAB.get() * u64::from(slots)));
        seen.session = Session::Open;
        seen.protocol = PROTOCOL;
        seen.server = Some(Arc::new(ServerObservation {
            incarnation,
            generation: Generation::ZERO,
            grants: BTreeMap::new(),
        }));
        seen.device = Some(Arc::new(DeviceObservation {
            id,
            generation: Generation::ZERO,
            spill: false,
            links: BTreeMap::new(),
            sets: BTreeMap::new(),
        }));
        self.nodes.insert(node, seen);
    }

    /// One set of two copies on two donors that differ from the borrower, bound unless it is of the
    /// reserve.
    fn grant(&mut self, borrower: u32, slab: u32, nodes: u32, used: &mut [u32]) {
        let set = self.ledger.next_set;
        self.ledger.next_set = SetId::new(set.get() + 1);
        let device = SwapDeviceId::from_bytes(life(2, borrower));
        let mut seats = Vec::new();
        let mut draw = u64::from(borrower) << 32 | u64::from(slab);
        while seats.len() < 2 {
            draw = mix(draw);
            let pick = |draw: u64| u32::try_from(draw % u64::from(nodes)).expect("small");
            let (one, other) = (pick(draw), pick(draw >> 32));
            let emptier = |a: u32, b: u32| {
                if used[a as usize] <= used[b as usize] {
                    a
                } else {
                    b
                }
            };
            let donor = emptier(one, other);
            let node = name(donor);
            if donor == borrower || seats.iter().any(|seat: &Seat| seat.node == node) {
                continue;
            }
            let slot = SlotIndex::new(used[donor as usize]);
            used[donor as usize] += 1;
            let seen = self.nodes.get_mut(&node).expect("joined");
            let server = Arc::make_mut(seen.server.as_mut().expect("has one"));
            server.grants.insert(slot, (device, set));
            seats.push(Seat {
                node,
                slot,
                incarnation: IncarnationId::from_bytes(life(1, donor)),
                phase: SeatPhase::Serving,
                mark: None,
            });
        }
        let said = self.nodes.get_mut(&name(borrower)).expect("joined");
        let said = Arc::make_mut(said.device.as_mut().expect("has one"));
        let link = LinkObservation {
            state: LinkState::Up,
            was_up: true,
            not_up_since: None,
        };
        let replica = |seat: &Seat| ReplicaObservation {
            node: seat.node.clone(),
            slot: seat.slot,
            state: ReplicaState::Live,
        };
        said.links
            .extend(seats.iter().map(|seat| (seat.node.clone(), link)));
        let observed = SetObservation {
            bound: !slab.is_multiple_of(8),
            released: false,
            heat: mix(set.get()) % 1_000,
            on_disk: false,
            replicas: seats.iter().map(replica).collect(),
        };
        said.sets.insert(set, observed);
        let record = SetRecord {
            device,
            stage: SetStage::Offered,
            seats,
        };
        self.ledger.sets.insert(set, record.into());
    }

    fn view(&self) -> ClusterView<'_> {
        ClusterView {
            ledger: &self.ledger,
            nodes: &self.nodes,
            intent: Some(&self.intent),
            settings: Settings {
                replace_after: Duration::from_millis(300),
                protocol: PROTOCOL,
                rebalance: Rebalance::Auto,
            },
            rebalanced: &self.rebalanced,
            now: self.now,
            seed: 7,
        }
    }

    /// The first plans set what depends on the policy; everybody grants what they ask for.
    fn settle(&mut self) {
        for _ in 0..20 {
            let made = round(&self.view()).expect("sound");
            self.ledger = made.ledger;
            if made.plan.steps.is_empty() {
                return;
            }
            for (node, document) in made.documents {
                let seen = self.nodes.get_mut(&node).expect("joined");
                if let (Some(server), Some((generation, wanted))) =
                    (&mut seen.server, &document.memory_server)
                {
                    let server = Arc::make_mut(server);
                    server.generation = *generation;
                    server.grants.clear();
                    for grant in &wanted.grants {
                        server.grants.insert(grant.slot, (grant.device, grant.set));
                    }
                }
                if let (Some(device), Some((generation, wanted))) =
                    (&mut seen.device, &document.swap_device)
                {
                    let device = Arc::make_mut(device);
                    device.generation = *generation;
                    for listing in &wanted.sets {
                        let observed = device.sets.entry(listing.set).or_default();
                        observed.replicas = listing
                            .replicas
                            .iter()
                            .map(|(node, slot)| ReplicaObservation {
                                node: node.clone(),
                                slot: *slot,
                                state: ReplicaState::Live,
                            })
                            .collect();
                    }
                }
            }
        }
    }

    fn bind(&mut self, index: u32, count: usize) {
        let seen = self.nodes.get_mut(&name(index)).expect("joined");
        let device = Arc::make_mut(seen.device.as_mut().expect("has one"));
        for set in device
            .sets
            .values_mut()
            .filter(|set| !set.bound)
            .take(count)
        {
            set.bound = true;
        }
    }

    fn bind_one(&mut self) {
        self.bind(3, 8);
    }

    fn bind_all(&mut self) {
        for index in 0..u32::try_from(self.nodes.len()).expect("small") {
            self.bind(index, usize::MAX);
        }
    }

    fn set_links(&mut self, index: u32, state: LinkState) {
        let (donor, now) = (name(index), self.now);
        for seen in self.nodes.values_mut() {
            let device = seen.device.as_mut().expect("has one");
            if !device.links.contains_key(&donor) {
                continue;
            }
            if let Some(link) = Arc::make_mut(device).links.get_mut(&donor) {
                link.state = state;
                link.not_up_since = (state != LinkState::Up).then_some(now);
            }
        }
    }

    fn kill(&mut self, index: u32) {
        self.set_links(index, LinkState::Down);
        let seen = self.nodes.get_mut(&name(index)).expect("joined");
        seen.server_error_since = Some(self.now);
        self.now = self.now.after(Duration::from_millis(400));
    }

    fn start(&mut self, index: u32) {
        self.set_links(index, LinkState::Up);
        let seen = self.nodes.get_mut(&name(index)).expect("joined");
        seen.server_error_since = None;
    }
}
