//! An API server that refuses, stalls, loses answers or is away: the controller goes on afterwards,
//! writes what it could not write, and does not ask in a hot loop meanwhile.

use std::time::{Duration, Instant};

use super::proxy::{Call, Fault};
use super::stage::{FIRST, Stage, struck, writes};
use super::support::PATIENCE;
use super::{Candidate, SUCCESSION, eventually, rejoin};

/// How long a fault lasts: several pauses between two tries.
const TROUBLE: Duration = Duration::from_secs(12);
/// Writes that a trouble of that length may see. Of two records and a status that are due, tried
/// after pauses that double: a try each 200 ms would be 60 for one of them alone.
const WRITES_IN_TROUBLE_MAX: usize = 40;
/// Requests of every sort in it.
const REQUESTS_IN_TROUBLE_MAX: usize = 90;
/// Connections that may be tried in a second of an API server that is away.
const TRIES_A_SECOND_MAX: usize = 8;

fn is_ours_to_write(call: &Call) -> bool {
    call.is_write() && !call.is_of_the_lease()
}

/// While the fault is in force, the borrower wants a set and a user changes the policy; nothing is
/// handed out that is not kept, and once it is over all of it is.
async fn trouble(stage: &mut Stage, what: &str, fault: Fault) {
    let before = stage.is_in_order().await;
    let documents = stage.documents();
    let begun = Instant::now();
    let injection = stage.proxy.inject(fault, is_ours_to_write);
    stage.change_policy();
    stage.grow().await;
    struck(what, || injection.count()).await;
    while begun.elapsed() < TROUBLE {
        assert_eq!(stage.documents(), documents, "{what}: handed out, not kept");
        stage.placement();
        tokio::time::sleep(Duration::from_millis(500)).await;
    }
    let seen = stage.proxy.since(begun);
    let (written, asked) = (writes(&seen), seen.len());
    let injected = injection.lift();
    println!("{what}: {injected} injected, {written} writes and {asked} requests in {TROUBLE:?}");
    assert!(written <= WRITES_IN_TROUBLE_MAX, "{what}: {written} writes");
    assert!(asked <= REQUESTS_IN_TROUBLE_MAX, "{what}: {asked} requests");
    assert!(stage.controller.lives(), "{what}: the controller ended");
    stage.is_in_order_as(&before).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn writes_that_are_refused_are_written_later_and_in_no_hot_loop() {
    let Some(mut stage) = Stage::set().await else {
        return;
    };
    for (what, fault) in [
        ("409", Fault::Answer(409, "Conflict", None)),
        ("429", Fault::Answer(429, "TooManyRequests", Some(1))),
        ("500", Fault::Answer(500, "InternalError", None)),
        ("503", Fault::Answer(503, "ServiceUnavailable", None)),
    ] {
        trouble(&mut stage, what, fault).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn writes_that_nobody_answers_end_in_time_and_are_written_later() {
    let Some(mut stage) = Stage::set().await else {
        return;
    };
    trouble(&mut stage, "no answer", Fault::Hold).await;
}

/// The hardest of them: what was not answered was done all the same.
#[tokio::test(flavor = "multi_thread")]
async fn write_whose_answer_is_lost_is_neither_done_twice_nor_forgotten() {
    let Some(mut stage) = Stage::set().await else {
        return;
    };
    let before = stage.is_in_order().await;
    let injection = stage.proxy.inject(Fault::Swallow, is_ours_to_write);
    stage.change_policy();
    stage.grow().await;
    eventually(PATIENCE, "two answers are lost", || injection.count() >= 2).await;
    injection.lift();
    let after = stage.is_in_order_as(&before).await;
    assert_eq!(after.len(), before.len() + 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn api_server_that_is_away_for_seconds_costs_no_leadership() {
    let Some(mut stage) = Stage::set().await else {
        return;
    };
    let before = stage.is_in_order().await;
    let term = stage.term();
    let (away, begun) = (Duration::from_secs(6), Instant::now());
    stage.proxy.leave();
    stage.grow().await;
    tokio::time::sleep(away).await;
    let tries = stage.proxy.come_back();
    println!("{tries} connections tried in {:?}", begun.elapsed());
    assert!(tries > 0, "nobody asked for the API server");
    assert!(tries <= TRIES_A_SECOND_MAX * 6, "{tries} in {away:?}");
    stage.change_policy();
    stage.is_in_order_as(&before).await;
    assert!(stage.controller.lives(), "the controller ended");
    assert_eq!(stage.term(), term);
}

#[tokio::test(flavor = "multi_thread")]
async fn api_server_that_is_away_for_long_finds_everything_where_it_was() {
    let Some(mut stage) = Stage::set().await else {
        return;
    };
    let before = stage.is_in_order().await;
    let (term, documents) = (stage.term(), stage.documents());
    stage.proxy.leave();
    eventually(SUCCESSION, "a leader without a lease ends", || {
        !stage.controller.lives()
    })
    .await;
    assert_eq!(stage.documents(), documents, "agents keep what they have");
    // As a kubelet would start it: it waits, whatever long.
    let through = stage.proxy.kubeconfig();
    let mut next = Candidate::start_through(&stage.server, through, "next", FIRST, &[]);
    stage.proxy.come_back();
    stage.proxy.leave();
    let begun = Instant::now();
    tokio::time::sleep(Duration::from_secs(20)).await;
    let (seconds, tries) = (begun.elapsed().as_secs(), stage.proxy.come_back());
    println!("{tries} connections tried in {seconds} s");
    assert!(next.lives() && !next.ready.exists(), "it waits");
    let most = TRIES_A_SECOND_MAX * usize::try_from(seconds + 1).expect("small");
    assert!((1..=most).contains(&tries), "{tries} in {seconds} s");

    stage.address = next.leads().await;
    stage.controller = next;
    stage.agents = rejoin(&stage.address, std::mem::take(&mut stage.agents)).await;
    assert_eq!(stage.is_in_order_as(&before).await, before);
    let after = stage.documents();
    assert_eq!(after, documents, "the same documents, of a later term");
    assert!(stage.term() > term);
    stage.grow().await;
    stage.is_in_order_as(&before).await;
}
