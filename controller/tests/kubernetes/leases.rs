//! A leader whose lease is in trouble: it leads on while it may, and not a write longer.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use super::proxy::{Call, Fault};
use super::stage::{Stage, struck};
use super::support::PATIENCE;
use super::{SUCCESSION, eventually, rejoin};

/// Longer than a lease lasts without a renewal.
const LEASE_LASTS: Duration = Duration::from_secs(12);

fn renews(call: &Call) -> bool {
    call.verb == "update" && call.is_of_the_lease()
}

/// The leader leads on for longer than its lease lasts, with the same term.
async fn leads_on(stage: &mut Stage, term: u64, what: &str) {
    let until = Instant::now() + LEASE_LASTS;
    while Instant::now() < until {
        assert!(stage.controller.lives(), "{what}: the leader ended");
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
    stage.grow().await;
    stage.is_in_order().await;
    assert_eq!(stage.term(), term, "{what}");
}

#[tokio::test(flavor = "multi_thread")]
async fn renewal_whose_answer_is_lost_or_refused_once_costs_no_leadership() {
    let Some(mut stage) = Stage::set().await else {
        return;
    };
    let term = stage.term();
    for (what, fault) in [
        ("lost answer", Fault::Swallow),
        ("409", Fault::Answer(409, "Conflict", None)),
        ("500", Fault::Answer(500, "InternalError", None)),
        ("no answer", Fault::Hold),
    ] {
        let once = AtomicBool::new(true);
        let chosen = move |call: &Call| renews(call) && once.swap(false, Ordering::AcqRel);
        let injection = stage.proxy.inject(fault, chosen);
        struck(what, || injection.count()).await;
        leads_on(&mut stage, term, what).await;
        assert_eq!(injection.lift(), 1);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn lease_that_somebody_edits_is_still_the_leader_s() {
    let Some(mut stage) = Stage::set().await else {
        return;
    };
    let term = stage.term();
    let namespace = format!("--namespace={}", super::NAMESPACE);
    let label = ["label", "lease", "dynamicswap-controller", "seen=yes"];
    let label = [&label[..], &[&namespace]].concat();
    stage.server.kubectl(&label);
    leads_on(&mut stage, term, "an edit").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn leader_that_cannot_renew_steps_down_and_its_late_writes_are_refused() {
    let Some(mut stage) = Stage::set().await else {
        return;
    };
    let before = stage.is_in_order().await;
    let term = stage.term();
    let second = stage.second();
    // What it writes is on its way for long; what it renews is refused.
    let renewals = stage
        .proxy
        .inject(Fault::Answer(500, "InternalError", None), renews);
    let patches = |call: &Call| call.verb == "patch" && call.resource == "slabmaps";
    let late = stage.proxy.inject(Fault::Late, patches);
    struck("a renewal", || renewals.count()).await;
    stage.grow().await;
    struck("a late write", || late.count()).await;
    eventually(SUCCESSION, "it steps down", || !stage.controller.lives()).await;
    stage.address = second.leads().await;
    stage.controller = second;
    stage.agents = rejoin(&stage.address, std::mem::take(&mut stage.agents)).await;
    let after = stage.is_in_order_as(&before).await;
    assert!(stage.term() > term);

    let sent = late.lift();
    assert!(sent > 0 && renewals.lift() > 0);
    let mut answers = Vec::new();
    eventually(PATIENCE, "the late writes are answered", || {
        answers = late_answers(&stage);
        answers.len() == sent
    })
    .await;
    assert!(answers.iter().all(|answer| *answer == 409), "{answers:?}");
    assert_eq!(stage.is_in_order_as(&after).await, after);
}

/// What the API server said to what came late.
fn late_answers(stage: &Stage) -> Vec<u16> {
    let seen = stage.proxy.seen().into_iter();
    seen.filter(|seen| seen.is_late)
        .filter_map(|seen| seen.answer)
        .collect()
}
