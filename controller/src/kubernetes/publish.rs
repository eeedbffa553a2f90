//! What users are shown: the status of policies, memory servers and swap devices.
//!
//! Owns what was last written, so that a status which has not changed is not written again.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use dynamicswap_crds::Kind;
use dynamicswap_proto::control::v1::GetRequest;
use dynamicswap_types::Backoff;
use k8s_openapi::jiff::Timestamp;
use kube::api::{DeleteParams, DynamicObject, ListParams, Patch, PatchParams, Preconditions};
use kube::{Api, Client};
use serde_json::{Value, json};
use tokio::sync::{mpsc, oneshot};
use tokio::time::Instant;

use super::error::{ApiError, Trouble, within};
use super::lease::Leadership;
use super::resources::{FIELD_MANAGER, group_objects, group_objects_beside};
use super::status::{differs_in_kind, with_generation, with_times};
use crate::limits::{PUBLISH_FIGURES_INTERVAL, PUBLISH_INTERVAL, PUBLISH_LOOK, PUBLISH_RETRY_MAX};
use crate::owner::Event;

/// Kinds with a status of ours.
const KINDS: [Kind; 3] = [
    Kind::MemoryServer,
    Kind::SwapDevice,
    Kind::RemoteMemoryPolicy,
];

/// What was last written of one object.
struct Written {
    kind: Kind,
    uid: Option<String>,
    spec: Value,
    status: Value,
    at: Instant,
    /// A swap device's generation, which nobody can change. Others change with what users write, and
    /// their status says itself what it is of.
    generation: Option<i64>,
}

/// Whether the object that is there is of an earlier life of the device: its spec cannot change.
fn is_of_earlier_life(kind: Kind, there: &Value, object: &Value) -> bool {
    kind == Kind::SwapDevice && there["deviceId"] != object["spec"]["deviceId"]
}

/// What was written, and what is refused.
#[derive(Default)]
struct Memory {
    written: BTreeMap<String, Written>,
    /// Objects that the server does not take: not tried before, and the pauses.
    refused: BTreeMap<String, (Instant, Backoff)>,
    /// When it was last looked at what is there.
    looked: Option<Instant>,
}

impl Memory {
    /// Forgets what somebody has deleted, or made anew under the same name, so that it is written again:
    /// one request for each kind, now and then.
    async fn look_again(&mut self, client: &Client) -> Result<(), ApiError> {
        if self.written.is_empty() {
            return Ok(());
        }
        let looked = *self.looked.get_or_insert_with(Instant::now);
        if looked.elapsed() < PUBLISH_LOOK {
            return Ok(());
        }
        self.looked = Some(Instant::now());
        for kind in KINDS {
            let api = group_objects(client, kind);
            let everything = ListParams::default();
            let what = format!("list {}", kind.name());
            let list = within(what, api.list_metadata(&everything)).await?;
            let there: BTreeMap<String, Option<String>> = list
                .items
                .into_iter()
                .map(|it| {
                    let name = it.metadata.name.unwrap_or_default();
                    let namespace = it.metadata.namespace.unwrap_or_default();
                    (key(kind, &namespace, &name), it.metadata.uid)
                })
                .collect();
            self.written.retain(|key, written| {
                written.kind != kind || there.get(key).is_some_and(|uid| *uid == written.uid)
            });
        }
        Ok(())
    }

    /// Deletes the memory servers and swap devices that it has written and that are no more: their nodes
    /// were forgotten.
    async fn clear_away(
        &mut self,
        client: &Client,
        leadership: &Leadership,
        objects: &[(Kind, Value)],
    ) -> Result<(), ApiError> {
        let kept: BTreeSet<String> = objects
            .iter()
            .map(|(kind, object)| key_of(*kind, object))
            .collect();
        let gone = self.written.iter().filter(|(key, _)| !kept.contains(*key));
        let gone: Vec<(String, Kind, Option<String>)> = gone
            .map(|(key, written)| (key.clone(), written.kind, written.uid.clone()))
            .collect();
        for (key, kind, uid) in gone {
            let name = key.rsplit('/').next().unwrap_or_default();
            if kind != Kind::RemoteMemoryPolicy && leadership.holds() {
                let conditions = Preconditions {
                    uid,
                    resource_version: None,
                };
                let params = DeleteParams::default().preconditions(conditions);
                let api = group_objects_beside(client, kind, None);
                let deleted = within(format!("delete {key}"), api.delete(name, &params)).await;
                // It is another one, or none: either way ours is gone.
                let is_over = |error: &ApiError| error.is_not_found() || error.is_conflict();
                if let Err(error) = deleted
                    && !is_over(&error)
                {
                    return Err(error);
                }
            }
            self.written.remove(&key);
        }
        Ok(())
    }
}

const fn pauses() -> Backoff {
    Backoff::new(PUBLISH_INTERVAL, PUBLISH_RETRY_MAX)
}

/// Writes statuses while the leadership holds. Ends when the owner is gone.
pub async fn publish(client: Client, leadership: Arc<Leadership>, events: mpsc::Sender<Event>) {
    let (mut memory, mut trouble, mut pauses) = (Memory::default(), Trouble::default(), pauses());
    let mut pause = PUBLISH_INTERVAL;
    loop {
        tokio::time::sleep(pause).await;
        let mut objects = Vec::new();
        for kind in KINDS {
            let Some(of_kind) = ask(&events, kind).await else {
                return;
            };
            objects.extend(of_kind.into_iter().map(|object| (kind, object)));
        }
        let looked = memory.look_again(&client).await;
        let cleared = memory.clear_away(&client, &leadership, &objects).await;
        let shown = show_all(&client, &leadership, &objects, &mut memory).await;
        let failure = shown.or(looked.err()).or(cleared.err());
        if !leadership.holds() {
            return;
        }
        trouble.note("what users are shown is not up to date", failure.as_ref());
        // One object that is refused is nobody else's trouble.
        pause = pauses.next(failure.as_ref().is_some_and(ApiError::is_trouble));
    }
}

/// Shows every object, until the leadership ends or the server is in trouble; the last failure.
async fn show_all(
    client: &Client,
    leadership: &Leadership,
    objects: &[(Kind, Value)],
    memory: &mut Memory,
) -> Option<ApiError> {
    let mut failure = None;
    for (kind, object) in objects {
        if !leadership.holds() {
            return failure;
        }
        let key = key_of(*kind, object);
        let rests = memory.refused.get(&key).map(|(until, _)| *until);
        if rests.is_some_and(|until| Instant::now() < until) {
            continue;
        }
        match show(client, *kind, object, &mut memory.written).await {
            Ok(()) => drop(memory.refused.remove(&key)),
            Err(error) if error.is_trouble() => return Some(error),
            Err(error) => {
                let (until, pauses) = memory
                    .refused
                    .entry(key)
                    .or_insert_with(|| (Instant::now(), pauses()));
                *until = Instant::now() + pauses.pause();
                failure = Some(error);
            }
        }
    }
    failure
}

fn key_of(kind: Kind, object: &Value) -> String {
    let text = |field: &str| object["metadata"][field].as_str().unwrap_or_default();
    key(kind, text("namespace"), text("name"))
}

fn key(kind: Kind, namespace: &str, name: &str) -> String {
    format!("{}/{namespace}/{name}", kind.name())
}

/// The owner's objects of a kind; none once it is gone.
async fn ask(events: &mpsc::Sender<Event>, kind: Kind) -> Option<Vec<Value>> {
    let (reply, answer) = oneshot::channel();
    let request = GetRequest {
        kind: kind.name().to_owned(),
        ..GetRequest::default()
    };
    events.send(Event::Get { request, reply }).await.ok()?;
    // The owner refuses none of our kinds; an empty answer would clear everything away.
    let objects = answer.await.ok()?.ok()?;
    let parsed = objects.iter().map(|json| serde_json::from_str(json));
    Some(parsed.filter_map(Result::ok).collect())
}

/// Writes one object's status if there is news, and the object itself if it is not there.
async fn show(
    client: &Client,
    kind: Kind,
    object: &Value,
    written: &mut BTreeMap<String, Written>,
) -> Result<(), ApiError> {
    let name = object["metadata"]["name"].as_str().unwrap_or_default();
    let api = group_objects_beside(client, kind, object["metadata"]["namespace"].as_str());
    let key = key_of(kind, object);
    let known = written.get(&key);
    if known.is_none_or(|known| is_of_earlier_life(kind, &known.spec, object)) {
        written.remove(&key);
        let Some(met) = meet(&api, kind, object).await? else {
            return Ok(());
        };
        written.insert(key.clone(), met);
    }
    let Some(before) = written.get_mut(&key) else {
        return Ok(());
    };
    let now = Timestamp::now().strftime("%Y-%m-%dT%H:%M:%SZ").to_string();
    let status = with_generation(object["status"].clone(), before.generation);
    let status = with_times(status, Some(&before.status), &now);
    let is_due = differs_in_kind(&before.status, &status)
        || before.status != status && before.at.elapsed() >= PUBLISH_FIGURES_INTERVAL;
    if !is_due || status.is_null() {
        return Ok(());
    }
    let patch = Patch::Apply(json!({
        "apiVersion": object["apiVersion"], "kind": object["kind"],
        "metadata": {"name": name}, "status": status,
    }));
    let params = PatchParams::apply(FIELD_MANAGER).force();
    let patched = api.patch_status(name, &params, &patch);
    match within(format!("write the status of {key}"), patched).await {
        Ok(_) => {
            (before.status, before.at) = (status, Instant::now());
            Ok(())
        }
        Err(error) => {
            // It may have been deleted: looked at anew the next time.
            written.remove(&key);
            Err(error)
        }
    }
}

/// Finds the object on the server, or makes it; none if it is not ours to make.
async fn meet(
    api: &Api<DynamicObject>,
    kind: Kind,
    object: &Value,
) -> Result<Option<Written>, ApiError> {
    let (name, key) = (
        object["metadata"]["name"].as_str().unwrap_or_default(),
        key_of(kind, object),
    );
    let mut found = within(format!("read {key}"), api.get_opt(name)).await?;
    let earlier = |found: &DynamicObject| is_of_earlier_life(kind, &found.data["spec"], object);
    if found.as_ref().is_some_and(earlier) {
        let params = DeleteParams::default();
        let deleted = api.delete(name, &params);
        within(format!("delete {key} of an earlier life"), deleted).await?;
        found = None;
    }
    let found = match found {
        Some(found) => found,
        // Deleted a moment ago.
        None if kind == Kind::RemoteMemoryPolicy => return Ok(None),
        None => {
            let whole = Patch::Apply(json!({
                "apiVersion": object["apiVersion"], "kind": object["kind"],
                "metadata": {"name": name}, "spec": object["spec"],
            }));
            // Without force, and once: what a user writes into spec later is the user's.
            let params = PatchParams::apply(FIELD_MANAGER);
            let made = api.patch(name, &params, &whole);
            within(format!("make {key}"), made).await?
        }
    };
    let generation = found.metadata.generation;
    Ok(Some(Written {
        kind,
        uid: found.metadata.uid,
        spec: object["spec"].clone(),
        status: found.data["status"].clone(),
        at: Instant::now(),
        generation: generation.filter(|_| kind == Kind::SwapDevice),
    }))
}
