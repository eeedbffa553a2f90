//! Watches that break, expire or fall silent: what users write counts all the same.

use std::time::{Duration, Instant};

use super::eventually;
use super::proxy::{Call, Fault, Injection};
use super::stage::{RECOVERY, Stage, struck};
use super::support::{Agent, Daemons};

/// A watch from which nothing comes is given up within this time.
const SILENCE: Duration = Duration::from_secs(60);
/// Watches and lists that a broken watch may cost, of two kinds, in the time of a round: each is
/// begun anew after a pause.
const ANEW_MAX: usize = 24;

fn is_of_policies(call: &Call) -> bool {
    call.resource == "remotememorypolicies" && ["list", "watch"].contains(&call.verb)
}

/// A watch that begins at `version` or before.
fn begins_before(call: &Call, version: u64) -> bool {
    let mut pairs = call.query.split('&');
    let begins = pairs.find_map(|pair| pair.strip_prefix("resourceVersion="));
    let begins: Option<u64> = begins.and_then(|text| text.parse().ok());
    call.verb == "watch" && begins.is_some_and(|begins| begins <= version)
}

impl Stage {
    /// The latest version of anything in the cluster.
    fn version(&self) -> u64 {
        let policies = "/apis/dynamicswap.io/v1alpha1/remotememorypolicies";
        let json = self.server.kubectl(&["get", "--raw", policies]);
        let list: serde_json::Value = serde_json::from_str(&json).expect("JSON");
        let version = list["metadata"]["resourceVersion"].as_str();
        version.expect("text").parse().expect("a number")
    }

    /// Breaks every watch; what they would resume from is gone for good.
    fn forget_the_past(&self, fault: Fault) -> Injection {
        let version = self.version();
        let injection = self
            .proxy
            .inject(fault, move |call| begins_before(call, version));
        assert!(
            self.proxy.cut_watches() >= 2,
            "policies and servers are watched"
        );
        injection
    }

    /// Requests about what is watched since a moment.
    fn watched_since(&self, moment: Instant) -> usize {
        let seen = self.proxy.since(moment).into_iter();
        seen.filter(|seen| ["list", "watch"].contains(&seen.call.verb))
            .count()
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn watch_that_breaks_or_expires_is_begun_anew() {
    let Some(mut stage) = Stage::set().await else {
        return;
    };
    let before = stage.is_in_order().await;
    // One more donor, on which nothing lies: what is decided of it moves no set.
    let _spare = Agent::join(&stage.address, "spare", Daemons::donor("spare", 4, 1)).await;
    eventually(RECOVERY, "the spare donor is shown", || {
        stage.server.condition("msrv", "spare", "Ready") == "True"
    })
    .await;
    for fault in [
        None,
        Some(Fault::Expired),
        Some(Fault::Answer(410, "Expired", None)),
    ] {
        let begun = Instant::now();
        let what = format!("{fault:?}");
        let injection = fault.map(|fault| stage.forget_the_past(fault));
        if injection.is_none() {
            assert!(stage.proxy.cut_watches() >= 2, "both are watched");
        }
        stage.change_policy();
        assert_eq!(stage.is_in_order_as(&before).await, before, "{what}");
        if let Some(injection) = &injection {
            struck(&what, || injection.count()).await;
        }
        cordon_counts(&stage, &what).await;
        let asked = stage.watched_since(begun);
        let time = begun.elapsed();
        println!("{what}: {asked} lists and watches in {time:?}");
        assert!(asked <= ANEW_MAX, "{what}: {asked} in {time:?}");
    }
}

/// What a user decides of a memory server counts: those are watched too.
async fn cordon_counts(stage: &Stage, what: &str) {
    let draining = |donor: &str| stage.server.condition("msrv", donor, "Draining");
    for (spec, wanted) in [(r#"{"within": "1h"}"#, "True"), ("null", "False")] {
        let patch = format!(r#"{{"spec": {{"drain": {spec}}}}}"#);
        let patch = ["patch", "msrv", "spare", "--type=merge", "-p", &patch];
        stage.server.kubectl(&patch);
        let sentence = format!("{what}: a drain is {wanted}");
        eventually(RECOVERY, &sentence, || {
            draining("spare") == wanted && stage.server.unobserved("msrv", "spare").is_none()
        })
        .await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn watch_that_falls_silent_is_given_up() {
    let Some(mut stage) = Stage::set().await else {
        return;
    };
    let before = stage.is_in_order().await;
    for verb in ["watch", "list"] {
        let chosen = move |call: &Call| is_of_policies(call) && call.verb == verb;
        let held = stage.proxy.inject(Fault::Hold, chosen);
        // Only one that must list anew asks for a list.
        let expired = (verb == "list").then(|| stage.forget_the_past(Fault::Expired));
        if expired.is_none() {
            assert!(stage.proxy.cut_watches() >= 2, "both are watched");
        }
        struck(verb, || held.count()).await;
        stage.change_policy();
        eventually(SILENCE, &format!("a silent {verb} is given up"), || {
            held.count() >= 2
        })
        .await;
        held.lift();
        assert_eq!(stage.is_in_order_as(&before).await, before, "{verb}");
        if let Some(expired) = expired {
            assert!(expired.lift() > 0);
        }
    }
}
