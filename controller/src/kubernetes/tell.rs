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

/// The kind of object that an event is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum About {
    /// One of ours, of the node's name.
    Ours(Kind),
    /// The node itself: an agent that was refused may have no object of ours.
    Node,
}

/// What an event is about.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Subject {
    about: About,
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

const DEVICE: About = About::Ours(Kind::SwapDevice);
const SERVER: About = About::Ours(Kind::MemoryServer);

/// Kinds of event on a node that are told, with the object that they are about, and whether
/// somebody should look.
const TOLD: [(&str, About, bool); 27] = [
    ("RebuildStarted", DEVICE, false),
    ("RebuildFinished", DEVICE, false),
    ("IntegrityFailure", DEVICE, true),
    ("PageRepaired", DEVICE, false),
    ("PageLost", DEVICE, true),
    ("ReserveEmpty", DEVICE, true),
    ("SpillFailed", DEVICE, true),
    ("Fenced", DEVICE, true),
    ("LinkDown", DEVICE, true),
    ("LinkRefused", DEVICE, true),
    ("DeviceReplaced", DEVICE, false),
    ("IntegrityTooWeak", DEVICE, true),
    ("MemoryLost", SERVER, true),
    ("ForeignGrants", SERVER, true),
    ("ZeroingFailed", SERVER, true),
    ("TooManyConnections", SERVER, true),
    ("FailureDomainKept", SERVER, true),
    ("DonorAdmission", SERVER, false),
    ("RevokeForced", SERVER, true),
    ("LastCopyStays", SERVER, true),
    ("NoDonor", DEVICE, true),
    ("NoSpillFile", DEVICE, true),
    ("NoLiveCopy", DEVICE, true),
    ("RecordIgnored", About::Ours(Kind::SlabMap), true),
    ("SessionRefused", About::Node, true),
    ("ReportRefused", About::Node, true),
    ("DocumentRefused", About::Node, true),
];

/// Kinds of event on a policy, whose message begins with its namespace and name.
const ON_POLICIES: [&str; 2] = ["PolicyRefused", "PoliciesOverlap"];

/// What to tell of an event, if anything.
fn news(event: &ClusterEvent) -> Option<News> {
    let (subject, is_warning, note) = if ON_POLICIES.contains(&&*event.kind) {
        let (key, why) = event.message.split_once(": ")?;
        let (namespace, name) = key.split_once('/')?;
        let subject = Subject {
            about: About::Ours(Kind::RemoteMemoryPolicy),
            namespace: Some(namespace.to_owned()),
            name: name.to_owned(),
        };
        (subject, true, why)
    } else {
        let told = TOLD.iter().find(|(kind, ..)| *kind == event.kind);
        let (_, about, is_warning) = *told.filter(|_| !event.node.is_empty())?;
        let subject = Subject {
            about,
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
    let Some(regarding) = reference(client, news.subject).await? else {
        return Ok(());
    };
    let what = regarding.name.clone().unwrap_or_default();
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

/// An event's object; none if it is gone.
async fn reference(client: &Client, subject: Subject) -> Result<Option<ObjectReference>, ApiError> {
    let Subject {
        about,
        namespace,
        name,
    } = subject;
    let About::Ours(kind) = about else {
        return Ok(Some(ObjectReference {
            api_version: Some("v1".to_owned()),
            kind: Some("Node".to_owned()),
            // As kubelet has it in its own events of its node, and as `kubectl describe node` asks for.
            uid: Some(name.clone()),
            name: Some(name),
            ..ObjectReference::default()
        }));
    };
    let api = group_objects_beside(client, kind, namespace.as_deref());
    let what = format!("read {} {name}", kind.name());
    let object = within(what, api.get_opt(&name)).await?;
    Ok(object.map(|object| ObjectReference {
        api_version: Some(dynamicswap_crds::API_VERSION.to_owned()),
        kind: Some(kind.name().to_owned()),
        name: Some(name),
        namespace,
        uid: object.meta().uid.clone(),
        ..ObjectReference::default()
    }))
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
            (lost.subject.about, lost.is_warning),
            (About::Ours(Kind::SwapDevice), true)
        );
        assert_eq!((&*lost.subject.name, &*lost.note), ("b1", "page 7"));
        let refused = event("", "PolicyRefused", "shop/web: spec.durability: write 1");
        let refused = news(&refused).expect("told");
        assert_eq!(refused.subject.namespace.as_deref(), Some("shop"));
        assert_eq!(refused.subject.name, "web");
        assert_eq!(refused.note, "spec.durability: write 1");
        let stranger = news(&event("n1", "SessionRefused", "names node n2")).expect("told");
        assert_eq!(stranger.subject.about, About::Node);
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
