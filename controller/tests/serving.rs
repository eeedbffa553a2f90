//! The serving controller and its agents.
#![allow(
    clippy::expect_used,
    clippy::panic,
    reason = "helpers of tests panic as tests do"
)]

mod support;

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use dynamicswap_proto::common::v1 as pb;
use dynamicswap_proto::control::v1::Admission;
use support::{Agent, Cluster, Controller, Daemons, eventually, hello, policy};
use tonic::Code;

#[tokio::test]
async fn policy_leads_to_granted_sets_and_an_attached_device() {
    let cluster = Cluster::start().await;
    let results = cluster
        .controller
        .apply(&policy("{durability: {copies: 2}}"))
        .await
        .expect("applied");
    assert_eq!(results, ["remotememorypolicy.dynamicswap.io/test created"]);
    cluster.settled(8).await;
    let document = cluster.borrower.document().expect("a document");
    let device = document.swap_device.expect("a device");
    assert!(device.attached);
    assert_eq!(device.write_hold_ms, 2_000);
    assert_eq!(device.servers.len(), 3);
    assert_eq!(document.policies_json.len(), 1);
    for set in &device.sets {
        let nodes: BTreeSet<&str> = set.replicas.iter().map(|copy| &*copy.node).collect();
        assert_eq!(nodes.len(), 2);
        for copy in &set.replicas {
            let grants = cluster.donor(&copy.node).grants();
            let grant = grants.iter().find(|grant| grant.slot == copy.slot);
            assert_eq!(grant.map(|grant| grant.set_id), Some(set.set_id));
        }
    }
    let same = policy("{durability: {copies: 2}}");
    let again = cluster.controller.apply(&same).await.expect("applied");
    assert_eq!(again, ["remotememorypolicy.dynamicswap.io/test unchanged"]);
}

#[tokio::test]
async fn reserve_grows_with_the_bound_sets() {
    let cluster = Cluster::usual().await;
    cluster.borrower.change(|daemons| daemons.bound = 8).await;
    cluster.settled(16).await;
}

#[tokio::test]
async fn dead_link_leads_to_new_documents_right_after_the_grace() {
    let cluster = Cluster::usual().await;
    cluster.borrower.change(|daemons| daemons.bound = 4).await;
    cluster.settled(12).await;
    let start = Instant::now();
    cluster
        .borrower
        .change(|daemons| daemons.down.push("d2".to_owned()))
        .await;
    let on_d2 = |set: &pb::ReplicaSet| set.replicas.iter().any(|copy| copy.node == "d2");
    eventually("no set has a copy on the dead donor", async || {
        let sets = cluster.borrower.sets();
        !sets.is_empty() && !sets.iter().any(on_d2)
    })
    .await;
    let took = start.elapsed();
    println!("replaced after {took:?}");
    assert!(took >= Duration::from_millis(300), "{took:?}");
    assert!(took < Duration::from_millis(1_500), "{took:?}");
    let sets = cluster.borrower.sets();
    assert!(sets.iter().all(|set| set.replicas.len() == 2));
}

#[tokio::test]
async fn lost_session_of_a_donor_moves_nothing_while_its_link_is_up() {
    let cluster = Cluster::usual().await;
    let before = cluster.borrower.document();
    cluster.donor("d1").vanish();
    eventually("the loss is noticed", async || {
        let status = cluster.controller.status().await;
        let node = status.nodes.iter().find(|node| node.node == "d1");
        node.is_some_and(|node| !node.connected && node.last_seen_ms > 600)
    })
    .await;
    assert_eq!(cluster.borrower.document(), before);
}

#[tokio::test]
async fn reborn_donor_gets_its_slots_granted_anew() {
    let cluster = Cluster::usual().await;
    cluster.borrower.change(|daemons| daemons.bound = 2).await;
    cluster.settled(10).await;
    let reborn = Daemons::donor("d1", 77, 32);
    cluster
        .donor("d1")
        .change(|daemons| daemons.server = reborn.server)
        .await;
    eventually("the borrower's document names the new memory", async || {
        let document = cluster.borrower.document().and_then(|it| it.swap_device);
        let servers = document.map_or_else(Vec::new, |document| document.servers);
        servers.iter().any(|server| *server.incarnation == [77; 16])
    })
    .await;
    assert_eq!(cluster.borrower.sets().len(), 10);
}

#[tokio::test]
async fn new_device_frees_the_old_ones_slots() {
    let cluster = Cluster::usual().await;
    let device = Daemons::borrower(10, 32).device;
    cluster
        .borrower
        .change(|daemons| daemons.device = device)
        .await;
    eventually("every grant is the new device's", async || {
        let grants = cluster.donors.iter().flat_map(Agent::grants);
        let (all, new): (Vec<_>, Vec<_>) = grants
            .map(|grant| ((), grant.device_id == [10; 16]))
            .unzip();
        all.len() == 16 && new.into_iter().all(|new| new)
    })
    .await;
}

#[tokio::test]
async fn newer_session_of_a_node_ends_the_older_one() {
    let mut cluster = Cluster::usual().await;
    let daemons = cluster.borrower.daemons();
    let generation = cluster.borrower.document().expect("a document").generation;
    let newer = hello("b1", &daemons, generation);
    let newer = Agent::join_as(&cluster.controller.address, newer, daemons).await;
    let status = cluster.borrower.ended().await;
    assert_eq!(status.code(), Code::Aborted);
    eventually("the newer one gets the document", async || {
        newer.sets().len() == 8
    })
    .await;
}

#[tokio::test]
async fn hellos_that_make_no_sense_are_refused_with_a_reason() {
    let directory = tempfile::tempdir().expect("directory");
    let controller = Controller::start(directory.path()).await;
    let good = hello("n1", &Daemons::borrower(1, 8), 0);
    let cases = [
        ("protocol 99", Code::FailedPrecondition, {
            let mut hello = good.clone();
            hello.protocol = 99;
            hello
        }),
        ("'Not a name'", Code::InvalidArgument, {
            let mut hello = good.clone();
            hello.node = "Not a name".to_owned();
            hello
        }),
        ("failure domain", Code::InvalidArgument, {
            let mut hello = good.clone();
            hello.failure_domain = String::new();
            hello
        }),
        ("generation 57", Code::FailedPrecondition, {
            let mut hello = good.clone();
            hello.generation = 57;
            hello
        }),
    ];
    for (part, code, hello) in cases {
        let daemons = Daemons::borrower(1, 8);
        let mut agent = Agent::join_as(&controller.address, hello, daemons).await;
        let status = agent.ended().await;
        assert_eq!(status.code(), code, "{status}");
        assert!(status.message().contains(part), "{status}");
    }
}

#[tokio::test]
async fn wrong_yaml_is_refused_whole_with_its_place() {
    let cluster = Cluster::start().await;
    let good = policy("{}");
    let bad = policy("{durability: {copies: 4}}").replace("test", "other");
    let status = cluster
        .controller
        .apply(&format!("{good}---\n{bad}"))
        .await
        .expect_err("refused");
    assert_eq!(status.code(), Code::InvalidArgument);
    assert!(status.message().starts_with("line 9, column "), "{status}");
    assert!(cluster.controller.get("rmp").await.is_empty());
}

fn condition(object: &serde_json::Value, name: &str) -> serde_json::Value {
    let conditions = object["status"]["conditions"].as_array();
    let mut conditions = conditions.expect("conditions").iter();
    let found = conditions.find(|condition| condition["type"] == name);
    found.cloned().expect("the condition")
}

#[tokio::test]
async fn objects_of_every_kind_can_be_read() {
    let cluster = Cluster::usual().await;
    cluster.borrower.change(|daemons| daemons.bound = 1).await;
    cluster.settled(9).await;
    let policies = cluster.controller.get("rmp").await;
    assert_eq!(policies[0]["spec"]["durability"]["copies"], 2);
    let servers = cluster.controller.get("memoryservers").await;
    assert_eq!(servers.len(), 3);
    assert_eq!(servers[0]["kind"], "MemoryServer");
    assert_eq!(servers[0]["status"]["capacity"], "512Mi");
    assert_eq!(condition(&servers[0], "Ready")["status"], "True");
    assert_eq!(condition(&servers[0], "Draining")["status"], "False");
    assert_eq!(condition(&servers[0], "Pressured")["status"], "False");
    assert_eq!(condition(&policies[0], "InForce")["status"], "True");
    let devices = cluster.controller.get("SwapDevice").await;
    assert_eq!(devices[0]["status"]["size"], "512Mi");
    assert_eq!(devices[0]["status"]["slabsBound"], 1);
    let maps = cluster.controller.get("slabmap").await;
    let map: dynamicswap_crds::SlabMap = serde_json::from_value(maps[0].clone()).expect("a map");
    map.validate_cel().expect("what the API server would take");
    assert_eq!(map.status.expect("a status").bound, 1);
    let slabs = cluster.controller.get("slabs").await;
    assert_eq!(slabs.len(), map.spec.sets.len());
    assert_eq!(slabs[0]["slab"], 0);
    assert_eq!(slabs[0]["replicas"][0]["state"], "Serving, Live");
    assert_eq!(cluster.controller.get("").await.len(), 6);
    let mut operator = cluster.controller.operator().await;
    let request = dynamicswap_proto::control::v1::GetRequest {
        kind: "pods".to_owned(),
        ..Default::default()
    };
    let status = operator.get(request).await.expect_err("refused");
    assert!(status.message().contains("'pods' is no kind"), "{status}");
}

#[tokio::test]
async fn status_has_nodes_reports_plan_and_events() {
    let cluster = Cluster::usual().await;
    cluster
        .borrower
        .change(|daemons| {
            let device = daemons.device.as_mut().expect("a device");
            device.events.push(pb::DaemonEvent {
                sequence: 1,
                unix_ms: 5,
                kind: "LinkUp".to_owned(),
                message: "link to d1 is up".to_owned(),
            });
        })
        .await;
    eventually("the daemon's event is forwarded", async || {
        let status = cluster.controller.status().await;
        let forwarded = |event: &&dynamicswap_proto::control::v1::ClusterEvent| {
            event.node == "b1" && event.kind == "LinkUp"
        };
        status.events.iter().filter(forwarded).count() == 1
    })
    .await;
    cluster.borrower.change(|_| {}).await;
    let status = cluster.controller.status().await;
    assert_eq!(status.term, 1);
    assert_eq!(status.policies, 1);
    assert_eq!(status.nodes.len(), 4);
    assert!(status.controller_rss_bytes > 1 << 20);
    let borrower = &status.nodes[0];
    assert!(borrower.borrower && borrower.connected && !borrower.donor);
    assert!(
        borrower
            .report
            .as_ref()
            .is_some_and(|report| report.swap_device.is_some())
    );
    let kinds: BTreeSet<&str> = status.events.iter().map(|event| &*event.kind).collect();
    for kind in [
        "ControllerStarted",
        "NodeJoined",
        "PolicyApplied",
        "SetsComposed",
        "SetsOffered",
    ] {
        assert!(kinds.contains(kind), "{kinds:?}");
    }
    let last = status.events.last().expect("some").sequence;
    let mut operator = cluster.controller.operator().await;
    let request = dynamicswap_proto::control::v1::StatusRequest { events_after: last };
    let later = operator.status(request).await.expect("status").into_inner();
    assert!(later.events.iter().all(|event| event.sequence > last));
}

#[tokio::test]
async fn too_few_donors_are_explained() {
    let directory = tempfile::tempdir().expect("directory");
    let controller = Controller::start(directory.path()).await;
    let donor = Agent::join(&controller.address, "d1", Daemons::donor("d1", 1, 8)).await;
    let borrower = Agent::join(&controller.address, "b1", Daemons::borrower(2, 8)).await;
    controller.apply(&policy("{}")).await.expect("applied");
    eventually("the plan says why it waits", async || {
        let report = controller.status().await.plan_waits.join("\n");
        report.contains("waits with 8 sets for b1: no donor fits (1 in a failure domain")
            || report.contains("waits with 8 sets for b1: no donor fits (1 with a copy already")
    })
    .await;
    // The document is on its way of its own.
    eventually("a document that wants nothing attached", async || {
        let document = borrower.document();
        document.is_some_and(|it| it.swap_device.is_some_and(|it| !it.attached))
    })
    .await;
    drop(donor);
}

#[tokio::test]
async fn device_says_when_its_node_sends_nothing_ahead() {
    let cluster = Cluster::usual().await;
    for open in [true, false] {
        let change = |daemons: &mut Daemons| daemons.breaker_open = open;
        cluster.borrower.change(change).await;
        eventually("the condition follows the agent's word", async || {
            let device = &cluster.controller.get("swd").await[0];
            let condition = condition(device, "BreakerOpen");
            condition["status"] == if open { "True" } else { "False" }
        })
        .await;
    }
}

#[tokio::test]
async fn device_that_protects_too_little_is_detached_and_says_so_everywhere() {
    let cluster = Cluster::usual().await;
    let attached = async |wanted: bool| {
        eventually("the document says whether to attach", async || {
            let device = cluster.borrower.document().and_then(|it| it.swap_device);
            device.is_some_and(|device| device.attached == wanted)
        })
        .await;
    };
    attached(true).await;
    let full = policy("{integrity: full}").replace("name: test", "name: strict");
    cluster.controller.apply(&full).await.expect("applied");
    attached(false).await;
    let device = &cluster.controller.get("swd").await[0];
    assert_eq!(device["status"]["integrity"], "tag64");
    let suitable = condition(device, "Suitable");
    assert_eq!(suitable["status"], "False");
    let sentence = suitable["message"].as_str().expect("a sentence");
    assert!(sentence.contains("--integrity full"), "{sentence}");
    for policy in cluster.controller.get("rmp").await {
        let in_force = condition(&policy, "InForce");
        assert_eq!(in_force["status"], "True");
        assert_eq!(in_force["reason"], "IntegrityTooWeak");
        let sentence = in_force["message"].as_str().expect("a sentence");
        let other = policy["metadata"]["name"] == "test";
        assert_eq!(
            sentence.contains("another policy asks"),
            other,
            "{sentence}"
        );
        assert!(sentence.contains("swap devices of b1"), "{sentence}");
    }
    let status = cluster.controller.status().await;
    let told = |event: &&dynamicswap_proto::control::v1::ClusterEvent| {
        event.node == "b1" && event.kind == "IntegrityTooWeak"
    };
    assert_eq!(status.events.iter().filter(told).count(), 1);
    assert!(status.plan_waits.join("\n").contains("does not attach b1"));
    // With a device that has what is asked for, and with no such policy, it is attached.
    let paused = full.replace("integrity: full", "integrity: full, paused: true");
    cluster.controller.apply(&paused).await.expect("applied");
    attached(true).await;
}

#[tokio::test]
async fn borrower_that_has_left_gives_back_what_it_was_lent() {
    let cluster = Cluster::usual().await;
    cluster.borrower.change(|daemons| daemons.bound = 4).await;
    cluster.settled(12).await;
    let refused = cluster.controller.forget("b1").await;
    let refused = refused.expect_err("it is connected");
    assert_eq!(refused.code(), Code::FailedPrecondition);
    cluster.borrower.vanish();
    eventually("the borrower is forgotten", async || {
        cluster.controller.forget("b1").await.is_ok()
    })
    .await;
    eventually("nothing is lent", async || {
        let servers = cluster.controller.get("msrv").await;
        let mut lent = servers.iter().map(|server| &server["status"]["slotsLent"]);
        lent.all(|lent| *lent == 0)
    })
    .await;
    let status = cluster.controller.status().await;
    assert!(status.nodes.iter().all(|node| node.node != "b1"));
}

#[tokio::test]
async fn donor_that_comes_later_gets_its_share_and_a_dry_run_changes_nothing() {
    let cluster = Cluster::usual().await;
    cluster.borrower.change(|daemons| daemons.bound = 8).await;
    cluster.settled(16).await;
    let even = cluster.controller.rebalance(true).await;
    assert_eq!(even.donors.len(), 3);
    assert!(even.moves.is_empty() && even.automatic && !even.uneven);
    let daemons = Daemons::donor("d4", 4, 32);
    let late = Agent::join(&cluster.controller.address, "d4", daemons).await;
    eventually("the late donor has its share", async || {
        late.grants().len() >= 6
    })
    .await;
    eventually("every set has its copies", async || {
        let sets = cluster.borrower.sets();
        sets.len() == 16 && sets.iter().all(|set| set.replicas.len() == 2)
    })
    .await;
    let shown = cluster.controller.rebalance(true).await;
    assert_eq!(shown.donors.len(), 4);
    assert!(!shown.started);
}

#[tokio::test]
async fn drained_donor_is_emptied_and_an_operator_may_open_it_again() {
    let cluster = Cluster::usual().await;
    cluster.borrower.change(|daemons| daemons.bound = 4).await;
    cluster.settled(12).await;
    let unknown = cluster.controller.admit("d9", Admission::Draining).await;
    assert_eq!(unknown.expect_err("no such donor").code(), Code::NotFound);
    let admit = async |admission| {
        let result = cluster.controller.admit("d1", admission).await;
        result.expect("known")
    };
    let result = admit(Admission::Draining).await;
    assert_eq!(result, "memoryserver.dynamicswap.io/d1 draining");
    assert!(admit(Admission::Draining).await.ends_with("unchanged"));
    let on_d1 = |set: &pb::ReplicaSet| set.replicas.iter().any(|copy| copy.node == "d1");
    eventually("the donor is empty", async || {
        let sets = cluster.borrower.sets();
        let whole = sets.len() >= 12 && sets.iter().all(|set| set.replicas.len() == 2);
        whole && !sets.iter().any(on_d1) && cluster.donor("d1").grants().is_empty()
    })
    .await;
    // The controller hears of it a moment after the donor.
    eventually("the donor is shown empty", async || {
        let server = &cluster.controller.get("msrv").await[0];
        let draining = condition(server, "Draining");
        draining["reason"] == "Drained" && server["status"]["slotsLent"] == 0
    })
    .await;
    admit(Admission::Open).await;
    cluster.borrower.change(|daemons| daemons.bound = 12).await;
    eventually("the donor lends again", async || {
        !cluster.donor("d1").grants().is_empty()
    })
    .await;
}

#[tokio::test]
async fn cordon_outlives_the_controller_and_heat_is_shown() {
    let mut cluster = Cluster::usual().await;
    let cordoned = cluster.controller.admit("d2", Admission::Cordoned).await;
    assert_eq!(
        cordoned.expect("known"),
        "memoryserver.dynamicswap.io/d2 cordoned"
    );
    cluster.controller.restart().await;
    let server = &cluster.controller.get("msrv").await[1];
    assert_eq!(server["metadata"]["name"], "d2");
    assert_eq!(server["spec"]["cordoned"], true);
    assert_eq!(condition(server, "Draining")["status"], "False");
    let slabs = cluster.controller.get("slabs").await;
    assert_eq!(slabs[0]["readsPerSecond"], 0);
}
