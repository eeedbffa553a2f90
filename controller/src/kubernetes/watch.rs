//! What users wrote, followed: policies, and what they decided of memory servers.
//!
//! Each change brings the owner the whole again; nothing is lost if the watch breaks, for a new
//! one begins with a list.

use std::collections::BTreeMap;
use std::time::Duration;

use dynamicswap_crds::{API_VERSION, Kind, ObjectKey, PolicyDuration, RemoteMemoryPolicy};
use dynamicswap_proto::control::v1::{Admission, AdmitRequest};
use dynamicswap_types::Backoff;
use futures::{StreamExt as _, TryStreamExt as _};
use kube::api::DynamicObject;
use kube::runtime::{WatchStreamExt as _, watcher};
use kube::{Client, ResourceExt as _};
use serde_json::json;
use tokio::sync::mpsc;
use tracing::warn;

use super::resources::group_objects;
use crate::limits::{ADMISSION_RESYNC, WATCH_ANEW, WATCH_ANEW_MAX, WATCH_SECONDS};
use crate::owner::Event;
use crate::policies::{Policies, RefusedPolicy};

/// Objects by namespace and name.
type Objects = BTreeMap<(String, String), DynamicObject>;

/// A policy as the strict parser has it, and its name.
///
/// # Errors
/// One sentence: what is wrong and what to write instead.
pub fn policy_of(object: &DynamicObject) -> Result<(ObjectKey, RemoteMemoryPolicy), String> {
    let metadata = json!({
        "name": object.name_any(),
        "namespace": object.namespace().unwrap_or_default(),
        "labels": object.labels(),
        "generation": object.metadata.generation,
    });
    let spec = object.data.get("spec").cloned();
    let whole = json!({
        "apiVersion": API_VERSION,
        "kind": Kind::RemoteMemoryPolicy.name(),
        "metadata": metadata,
        "spec": spec.unwrap_or_else(|| json!({})),
    });
    let policy: RemoteMemoryPolicy =
        serde_json::from_value(whole).map_err(|error| error.to_string())?;
    let key = policy.key().map_err(|error| error.to_string())?;
    policy.check().map_err(|error| error.to_string())?;
    Ok((key, policy))
}

/// Tells the owner of the policies, all of them each time one changes.
pub async fn policies(client: Client, events: mpsc::Sender<Event>) {
    follow(
        &client,
        Kind::RemoteMemoryPolicy,
        None,
        &events,
        told_of_policies,
    )
    .await;
}

fn told_of_policies(objects: &Objects) -> Vec<Event> {
    let (mut policies, mut refused) = (Policies::new(), Vec::new());
    for ((namespace, name), object) in objects {
        match policy_of(object) {
            Ok((key, policy)) => {
                policies.insert(key, policy);
            }
            Err(why) => refused.push(RefusedPolicy {
                namespace: namespace.clone(),
                name: name.clone(),
                generation: object.metadata.generation,
                why,
            }),
        }
    }
    vec![Event::Policies { policies, refused }]
}

/// Tells the owner what users decided of memory servers, each time one changes and now and then.
pub async fn memory_servers(client: Client, events: mpsc::Sender<Event>) {
    let again = Some(ADMISSION_RESYNC);
    follow(&client, Kind::MemoryServer, again, &events, told_of_servers).await;
}

fn told_of_servers(objects: &Objects) -> Vec<Event> {
    let mut told = Vec::new();
    for object in objects.values() {
        match admission_of(object) {
            // A server that is not known yet is told of again.
            Ok(request) => told.push(Event::Admission {
                request,
                generation: object.metadata.generation,
            }),
            Err(why) => warn!(name = object.name_any(), why, "not understood, left alone"),
        }
    }
    told
}

/// What the object's `spec` asks for.
fn admission_of(object: &DynamicObject) -> Result<AdmitRequest, String> {
    let spec = &object.data["spec"];
    let drain = &spec["drain"];
    let within = match drain["within"].as_str() {
        Some(text) => {
            let within = text.parse::<PolicyDuration>();
            within.map_err(|error| error.to_string())?.as_duration()
        }
        None => DRAIN_WITHIN,
    };
    let admission = if drain.is_object() {
        Admission::Draining
    } else if spec["cordoned"].as_bool().unwrap_or(false) {
        Admission::Cordoned
    } else {
        Admission::Open
    };
    Ok(AdmitRequest {
        node: object.name_any(),
        admission: admission.into(),
        within_ms: match admission {
            Admission::Draining => crate::clock::as_millis(within),
            _ => 0,
        },
    })
}

/// Time of a drain that says none, as `dynamicswap drain` has it.
const DRAIN_WITHIN: Duration = Duration::from_secs(600);

/// Follows all objects of a kind; `tell` says what the owner is told of the whole, after each
/// change and after `again` without one. Ends when the owner is gone.
async fn follow(
    client: &Client,
    kind: Kind,
    again: Option<Duration>,
    events: &mpsc::Sender<Event>,
    tell: fn(&Objects) -> Vec<Event>,
) {
    let begin = || {
        let config = watcher::Config::default().timeout(WATCH_SECONDS);
        let stream = watcher(group_objects(client, kind), config);
        stream.default_backoff().boxed()
    };
    let mut stream = begin();
    let mut pauses = Backoff::new(WATCH_ANEW, WATCH_ANEW_MAX);
    let mut followed = Followed::default();
    loop {
        let next = stream.try_next();
        let event = match again {
            Some(again) => tokio::time::timeout(again, next).await.ok(),
            None => Some(next.await),
        };
        match event {
            Some(Ok(Some(event))) => {
                if matches!(event, watcher::Event::Apply(_) | watcher::Event::Delete(_)) {
                    pauses.reset();
                }
                followed.take(event);
            }
            Some(Ok(None)) => return,
            // The stream goes on by itself, after a pause; what is known stays.
            Some(Err(error)) => {
                warn!(kind = kind.name(), %error, "the watch broke and begins again");
                if is_begun_too_late(&error) {
                    tokio::time::sleep(pauses.pause()).await;
                    stream = begin();
                }
                continue;
            }
            None => {}
        }
        if !followed.complete {
            continue;
        }
        for event in tell(&followed.objects) {
            if events.send(event).await.is_err() {
                return;
            }
        }
    }
}

/// Whether a watch is refused because it would begin too far back. kube's stream asks for the same
/// again then, for ever; only if the server says it within a watch, it lists anew.
fn is_begun_too_late(error: &watcher::Error) -> bool {
    match error {
        watcher::Error::WatchStartFailed(kube::Error::Api(status)) => status.code == 410,
        _ => false,
    }
}

/// What a watch has told so far.
#[derive(Default)]
struct Followed {
    objects: Objects,
    /// Those of a list that is not complete yet.
    listed: Objects,
    /// No list is under way, and there was one.
    complete: bool,
}

impl Followed {
    fn take(&mut self, event: watcher::Event<DynamicObject>) {
        match event {
            watcher::Event::Init => {
                self.listed = Objects::new();
                self.complete = false;
            }
            watcher::Event::InitApply(object) => {
                self.listed.insert(key(&object), object);
            }
            watcher::Event::InitDone => {
                self.objects = std::mem::take(&mut self.listed);
                self.complete = true;
            }
            watcher::Event::Apply(object) => {
                self.objects.insert(key(&object), object);
            }
            watcher::Event::Delete(object) => {
                self.objects.remove(&key(&object));
            }
        }
    }
}

fn key(object: &DynamicObject) -> (String, String) {
    (object.namespace().unwrap_or_default(), object.name_any())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn object(spec: serde_json::Value) -> DynamicObject {
        serde_json::from_value(json!({
            "apiVersion": API_VERSION,
            "kind": "RemoteMemoryPolicy",
            "metadata": {
                "name": "web", "namespace": "shop", "uid": "1", "resourceVersion": "5",
                "generation": 2, "labels": {"team": "a"},
            },
            "spec": spec,
            "status": {"anything": true},
        }))
        .expect("an object")
    }

    #[test]
    fn object_of_the_server_is_a_policy() {
        let object = object(json!({"durability": {"copies": 3}}));
        let (key, policy) = policy_of(&object).expect("sound");
        assert_eq!(key.to_string(), "shop/web");
        assert_eq!(policy.spec.durability.copies.get(), 3);
        assert_eq!(policy.metadata.generation, Some(2));
    }

    #[test]
    fn policy_that_breaks_a_rule_is_refused_with_a_sentence() {
        for (spec, cause) in [
            (json!({"durability": {"copies": 4}}), "write 1, 2 or 3"),
            (json!({"unknown": 1}), "unknown"),
            (json!({"limits": {"perContainer": "0"}}), "paused"),
        ] {
            let why = policy_of(&object(spec)).expect_err("refused");
            assert!(why.contains(cause), "{why}");
        }
    }

    #[test]
    fn spec_of_a_memory_server_is_an_admission() {
        let admission = |spec| admission_of(&object(spec)).expect("understood");
        assert_eq!(admission(json!({})).admission(), Admission::Open);
        let cordoned = json!({"cordoned": true});
        assert_eq!(admission(cordoned).admission(), Admission::Cordoned);
        let drained = admission(json!({"cordoned": false, "drain": {"within": "2m"}}));
        assert_eq!(drained.admission(), Admission::Draining);
        assert_eq!(drained.within_ms, 120_000);
        assert_eq!(admission(json!({"drain": {}})).within_ms, 600_000);
        assert!(admission_of(&object(json!({"drain": {"within": "soon"}}))).is_err());
    }
}
