//! The cluster's events as Kubernetes shows them: on the object that each is about.
//!
//! Owns what is told there. The ring of the owner has everything; here is what an operator who
//! looks at an object should know, and so few at a time that no storm reaches the API server.

use std::sync::Arc;

use dynamicswap_crds::Kind;
use dynamicswap_proto::control::v1::ClusterEvent;
use dynamicswap_types::Backoff;
use k8s_openapi::api::core::v1::ObjectReference;
use kube::runtime::events::{Event as KubeEvent, EventType, Recorder, Reporter};
use kube::{Client, Resource as _};
use tokio::sync::{mpsc, oneshot};

use super::error::{ApiError, Trouble, within};
use super::lease::Leadership;
use super::resources::{FIELD_MANAGER, group_objects_beside};
use crate::limits::{NEWS_INTERVAL, NEWS_MAX, NEWS_NOTE_MAX, PUBLISH_RETRY_MAX};
use crate::owner::Event;

/// What an event is about.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Subject {
    kind: Kind,
    namespace: Option<String>,
    name: String,
}

/// What Kubernetes is told of an event.
#[derive(Debug, Clone, PartialEq, Eq)]
struct News {
    subject: Subject,
    is_warning: bool,
    reason: String,
    note: String,
}

/// Kinds of event on a node that are told, with the object that they are about, and whether
/// somebody should look.
const TOLD: [(&str, Kind, bool); 18] = [
    ("RebuildStarted", Kind::SwapDevice, false),
    ("RebuildFinished", Kind::SwapDevice, false),
    ("IntegrityFailure", Kind::SwapDevice, true),
    ("PageRepaired", Kind::SwapDevice, false),
    ("PageLost", Kind::SwapDevice, true),
    ("ReserveEmpty", Kind::SwapDevice, true),
    ("SpillFailed", Kind::SwapDevice, true),
    ("Fenced", Kind::SwapDevice, true),
    ("LinkDown", Kind::SwapDevice, true),
    ("LinkRefused", Kind::SwapDevice, true),
    ("DeviceReplaced", Kind::SwapDevice, false),
    ("IntegrityTooWeak", Kind::SwapDevice, true),
    ("MemoryLost", Kind::MemoryServer, true),
    ("ForeignGrants", Kind::MemoryServer, true),
    ("ZeroingFailed", Kind::MemoryServer, true),
    ("TooManyConnections", Kind::MemoryServer, true),
    ("FailureDomainKept", Kind::MemoryServer, true),
    ("DonorAdmission", Kind::MemoryServer, false),
];

/// Kinds of event on a policy, whose message begins with its namespace and name.
const ON_POLICIES: [&str; 2] = ["PolicyRefused", "PoliciesOverlap"];

/// What to tell of an event, if anything.
fn news(event: &ClusterEvent) -> Option<News> {
    let (subject, is_warning, note) = if ON_POLICIES.contains(&&*event.kind) {
        let (key, why) = event.message.split_once(": ")?;
        let (namespace, name) = key.split_once('/')?;
        let subject = Subject {
            kind: Kind::RemoteMemoryPolicy,
            namespace: Some(namespace.to_owned()),
            name: name.to_owned(),
        };
        (subject, true, why)
    } else {
        let told = TOLD.iter().find(|(kind, ..)| *kind == event.kind);
        let (_, kind, is_warning) = *told.filter(|_| !event.node.is_empty())?;
        let subject = Subject {
            kind,
            namespace: None,
            name: event.node.clone(),
        };
        (subject, is_warning, event.message.as_str())
    };
    Some(News {
        subject,
        is_warning,
        reason: event.kind.clone(),
        note: note.chars().take(NEWS_NOTE_MAX).collect(),
    })
}

/// Tells while the leadership holds. Ends when the owner is gone. What happened before is not told
/// again: an earlier leader did.
pub async fn tell(
    client: Client,
    identity: String,
    leadership: Arc<Leadership>,
    events: mpsc::Sender<Event>,
) {
    let reporter = Reporter {
        controller: FIELD_MANAGER.to_owned(),
        instance: Some(identity),
    };
    let recorder = Recorder::new(client.clone(), reporter);
    let (mut after, mut trouble) = (0, Trouble::default());
    let mut pauses = Backoff::new(NEWS_INTERVAL, PUBLISH_RETRY_MAX);
    let mut pause = NEWS_INTERVAL;
    loop {
        tokio::time::sleep(pause).await;
        let Some(happened) = ask(&events, after).await else {
            return;
        };
        let (mut failure, mut told) = (None, 0);
        for event in happened {
            let news = news(&event).filter(|_| told < NEWS_MAX);
            if let Some(news) = news {
                if !leadership.holds() {
                    return;
                }
                told += 1;
                if let Err(error) = publish(&client, &recorder, news).await {
                    let is_trouble = error.is_trouble();
                    failure = Some(error);
                    if is_trouble {
                        // This one and those after it are told once the server is well again.
                        break;
                    }
                }
            }
            after = event.sequence;
        }
        trouble.note("Kubernetes events are missing", failure.as_ref());
        pause = pauses.next(failure.as_ref().is_some_and(ApiError::is_trouble));
    }
}

/// The owner's events after a sequence number; none once it is gone.
async fn ask(events: &mpsc::Sender<Event>, after: u64) -> Option<Vec<ClusterEvent>> {
    let (reply, answer) = oneshot::channel();
    events.send(Event::News { after, reply }).await.ok()?;
    answer.await.ok()
}

/// Puts one event on its object; an object that is gone needs none.
async fn publish(client: &Client, recorder: &Recorder, news: News) -> Result<(), ApiError> {
    let Subject {
        kind,
        namespace,
        name,
    } = news.subject;
    let api = group_objects_beside(client, kind, namespace.as_deref());
    let what = format!("{} {name}", kind.name());
    let Some(object) = within(format!("read {what}"), api.get_opt(&name)).await? else {
        return Ok(());
    };
    let regarding = ObjectReference {
        api_version: Some(dynamicswap_crds::API_VERSION.to_owned()),
        kind: Some(kind.name().to_owned()),
        name: Some(name),
        namespace,
        uid: object.meta().uid.clone(),
        ..ObjectReference::default()
    };
    let event = KubeEvent {
        type_: if news.is_warning {
            EventType::Warning
        } else {
            EventType::Normal
        },
        action: news.reason.clone(),
        reason: news.reason,
        note: Some(news.note),
        secondary: None,
    };
    let published = recorder.publish(&event, &regarding);
    within(format!("note an event on {what}"), published).await
}

#[cfg(test)]
mod tests {
    use super::*;

    fn event(node: &str, kind: &str, message: &str) -> ClusterEvent {
        ClusterEvent {
            node: node.to_owned(),
            kind: kind.to_owned(),
            message: message.to_owned(),
            ..ClusterEvent::default()
        }
    }

    #[test]
    fn event_is_told_on_what_it_is_about() {
        let lost = news(&event("b1", "PageLost", "page 7")).expect("told");
        assert_eq!(
            (lost.subject.kind, lost.is_warning),
            (Kind::SwapDevice, true)
        );
        assert_eq!((&*lost.subject.name, &*lost.note), ("b1", "page 7"));
        let refused = event("", "PolicyRefused", "shop/web: spec.durability: write 1");
        let refused = news(&refused).expect("told");
        assert_eq!(refused.subject.namespace.as_deref(), Some("shop"));
        assert_eq!(refused.subject.name, "web");
        assert_eq!(refused.note, "spec.durability: write 1");
    }

    #[test]
    fn noise_is_not_told_and_a_note_fits_the_server() {
        assert_eq!(news(&event("b1", "WritesHeld", "slab 3")), None);
        assert_eq!(news(&event("", "PageLost", "of no node")), None);
        let long = "x".repeat(5000);
        let told = news(&event("d1", "MemoryLost", &long)).expect("told");
        assert_eq!(told.note.len(), NEWS_NOTE_MAX);
    }
}
