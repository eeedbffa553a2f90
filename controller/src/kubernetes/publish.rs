//! What users are shown: the status of policies, memory servers and swap devices.
//!
//! Owns what was last written, so that a status which has not changed is not written again.

use std::collections::BTreeMap;
use std::sync::Arc;

use dynamicswap_crds::Kind;
use dynamicswap_proto::control::v1::GetRequest;
use k8s_openapi::jiff::Timestamp;
use kube::Client;
use kube::api::{DeleteParams, DynamicObject, Patch, PatchParams};
use serde_json::{Value, json};
use tokio::sync::{mpsc, oneshot};
use tokio::time::Instant;

use super::error::{ApiError, Trouble, within};
use super::lease::Leadership;
use super::resources::{FIELD_MANAGER, group_objects_beside};
use super::status::{differs_in_kind, with_times};
use crate::limits::{PUBLISH_FIGURES_INTERVAL, PUBLISH_INTERVAL};
use crate::owner::Event;

/// Kinds with a status of ours.
const KINDS: [Kind; 3] = [
    Kind::MemoryServer,
    Kind::SwapDevice,
    Kind::RemoteMemoryPolicy,
];

/// What was last written of one object.
struct Written {
    spec: Value,
    status: Value,
    at: Instant,
}

/// Whether the object that is there is of an earlier life of the device: its spec cannot change.
fn is_of_earlier_life(kind: Kind, there: &Value, object: &Value) -> bool {
    kind == Kind::SwapDevice && there["deviceId"] != object["spec"]["deviceId"]
}

/// Writes statuses while the leadership holds. Ends when the owner is gone.
pub async fn publish(client: Client, leadership: Arc<Leadership>, events: mpsc::Sender<Event>) {
    let mut written: BTreeMap<String, Written> = BTreeMap::new();
    let mut trouble = Trouble::default();
    loop {
        tokio::time::sleep(PUBLISH_INTERVAL).await;
        let mut failure = None;
        for kind in KINDS {
            let Some(objects) = ask(&events, kind).await else {
                return;
            };
            for object in objects {
                if !leadership.holds() {
                    return;
                }
                if let Err(error) = show(&client, kind, &object, &mut written).await {
                    failure = Some(error);
                }
            }
        }
        trouble.note("what users are shown is not up to date", failure.as_ref());
    }
}

/// The owner's objects of a kind; none once it is gone.
async fn ask(events: &mpsc::Sender<Event>, kind: Kind) -> Option<Vec<Value>> {
    let (reply, answer) = oneshot::channel();
    let request = GetRequest {
        kind: kind.name().to_owned(),
        ..GetRequest::default()
    };
    events.send(Event::Get { request, reply }).await.ok()?;
    let objects = answer.await.ok()?.unwrap_or_default();
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
    let namespace = object["metadata"]["namespace"].as_str();
    let key = format!("{}/{}/{name}", kind.name(), namespace.unwrap_or_default());
    let api = group_objects_beside(client, kind, namespace);
    let known = written.get(&key);
    if known.is_none_or(|known| is_of_earlier_life(kind, &known.spec, object)) {
        written.remove(&key);
        let mut found = within(format!("read {key}"), api.get_opt(name)).await?;
        let earlier = |found: &DynamicObject| is_of_earlier_life(kind, &found.data["spec"], object);
        if found.as_ref().is_some_and(earlier) {
            let params = DeleteParams::default();
            let deleted = api.delete(name, &params);
            within(format!("delete {key} of an earlier life"), deleted).await?;
            found = None;
        }
        let there = found.map(|found| found.data["status"].clone());
        if there.is_none() {
            if kind == Kind::RemoteMemoryPolicy {
                // Deleted a moment ago.
                return Ok(());
            }
            let whole = Patch::Apply(json!({
                "apiVersion": object["apiVersion"], "kind": object["kind"],
                "metadata": {"name": name}, "spec": object["spec"],
            }));
            // Without force, and once: what a user writes into spec later is the user's.
            let params = PatchParams::apply(FIELD_MANAGER);
            let made = api.patch(name, &params, &whole);
            within(format!("make {key}"), made).await?;
        }
        let status = there.unwrap_or(Value::Null);
        let at = Instant::now();
        let spec = object["spec"].clone();
        written.insert(key.clone(), Written { spec, status, at });
    }
    let Some(before) = written.get_mut(&key) else {
        return Ok(());
    };
    let now = Timestamp::now().strftime("%Y-%m-%dT%H:%M:%SZ").to_string();
    let status = with_times(object["status"].clone(), Some(&before.status), &now);
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
