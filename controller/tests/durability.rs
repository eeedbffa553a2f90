//! kill -9 at any moment, and start again: nothing is lost, no generation goes back.
#![allow(
    clippy::expect_used,
    clippy::panic,
    reason = "helpers of tests panic as tests do"
)]

mod support;

use std::time::{Duration, Instant};

use support::{Cluster, eventually, policy};

#[tokio::test]
async fn killed_controller_hands_out_the_same_documents() {
    let mut cluster = Cluster::usual().await;
    cluster.borrower.change(|daemons| daemons.bound = 3).await;
    cluster.settled(11).await;
    let quiet = async |cluster: &Cluster| {
        eventually("nothing waits", async || {
            cluster.controller.status().await.plan_report.is_empty()
        })
        .await;
    };
    quiet(&cluster).await;
    let before: Vec<_> = cluster
        .donors
        .iter()
        .chain([&cluster.borrower])
        .map(|agent| agent.document().expect("a document"))
        .collect();
    cluster.controller.restart().await;
    cluster.rejoin().await;
    eventually("everybody has a document", async || {
        let mut agents = cluster.donors.iter().chain([&cluster.borrower]);
        agents.all(|agent| agent.document().is_some())
    })
    .await;
    quiet(&cluster).await;
    let agents = cluster.donors.iter().chain([&cluster.borrower]);
    for (agent, before) in agents.zip(before) {
        let after = agent.document().expect("a document");
        assert_eq!(after.term, before.term + 1);
        assert_eq!(after.generation, before.generation, "{}", agent.name);
        assert_eq!(after.swap_device, before.swap_device);
        assert_eq!(after.memory_server, before.memory_server);
        assert_eq!(after.policies_json, before.policies_json);
    }
}

#[tokio::test]
async fn policies_survive() {
    let mut cluster = Cluster::start().await;
    let yaml = policy("{durability: {copies: 3}, stall: {writeHold: 700ms}}");
    cluster.controller.apply(&yaml).await.expect("applied");
    // Not their status: a controller counts since when a condition holds from its own start.
    let written = async |cluster: &Cluster| {
        let mut policies = cluster.controller.get("rmp").await;
        for policy in &mut policies {
            policy["status"].take();
        }
        policies
    };
    let before = written(&cluster).await;
    assert_eq!(before.len(), 1);
    cluster.controller.restart().await;
    assert_eq!(written(&cluster).await, before);
}

#[tokio::test]
async fn deleted_policy_stays_away_and_a_wrong_name_deletes_nothing() {
    let mut cluster = Cluster::start().await;
    cluster
        .controller
        .apply(&policy("{}"))
        .await
        .expect("applied");
    let name = cluster.controller.get("rmp").await[0]["metadata"]["name"].clone();
    let name = name.as_str().expect("a name");
    let refused = cluster.controller.delete("rmp", &[name, "other"]).await;
    let refused = refused.expect_err("there is no such policy");
    assert!(refused.message().contains("no policy default/other"));
    assert_eq!(cluster.controller.get("rmp").await.len(), 1, "all or none");
    let refused = cluster.controller.delete("msrv", &[name]).await;
    let refused = refused.expect_err("not a policy");
    assert!(
        refused
            .message()
            .contains("MemoryServer objects are made by")
    );
    let results = cluster.controller.delete("rmp", &[name]).await;
    let deleted = format!("remotememorypolicy.dynamicswap.io/{name} deleted");
    assert_eq!(results.expect("deleted"), [deleted]);
    cluster.controller.restart().await;
    assert!(cluster.controller.get("rmp").await.is_empty());
}

#[tokio::test]
async fn killed_at_any_moment_of_a_growing_cluster_nothing_is_granted_twice() {
    let mut cluster = Cluster::start().await;
    let spec = policy("{durability: {copies: 2}}");
    cluster.controller.apply(&spec).await.expect("applied");
    let mut generations = vec![0; 4];
    for round in 0..12_u32 {
        let bound = (usize::try_from(round).expect("small") * 2).min(24);
        cluster
            .borrower
            .change(|daemons| daemons.bound = bound)
            .await;
        // At another moment of the hand-shake each time.
        let moment = Instant::now() + Duration::from_micros(u64::from(round) * 700);
        while Instant::now() < moment {
            tokio::task::yield_now().await;
        }
        cluster.controller.restart().await;
        cluster.rejoin().await;
        check(&cluster, &mut generations).await;
    }
    let wanted = 24 - 2 + 8;
    cluster.settled(wanted).await;
}

/// Every set in the borrower's document is granted to it, and no generation went back.
async fn check(cluster: &Cluster, generations: &mut [u64]) {
    eventually("everybody has a document", async || {
        let mut agents = cluster.donors.iter().chain([&cluster.borrower]);
        agents.all(|agent| agent.document().is_some())
    })
    .await;
    let agents = cluster.donors.iter().chain([&cluster.borrower]);
    for (agent, before) in agents.zip(generations) {
        let now = agent.document().expect("a document").generation;
        assert!(
            now >= *before,
            "{} went back from {before} to {now}",
            agent.name
        );
        *before = now;
    }
    eventually("what the borrower uses is granted to it", async || {
        cluster.borrower.sets().iter().all(|set| {
            set.replicas.iter().all(|copy| {
                let grants = cluster.donor(&copy.node).grants();
                let mut owners = grants.iter().filter(|grant| grant.slot == copy.slot);
                owners.next().map(|grant| grant.set_id) == Some(set.set_id)
                    && owners.next().is_none()
            })
        })
    })
    .await;
}
