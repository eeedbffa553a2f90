//! The pods of this node, as far as the agent needs them, and what a watch has told of them.
//!
//! Pure: events in, the whole out.

use std::collections::BTreeMap;

use dynamicswap_policy::Barred;
use k8s_openapi::api::core::v1::{ContainerStatus, Pod};
use kube::runtime::watcher::Event;

use crate::limits::PODS_MAX;

/// The annotation by which a pod opts out, and its value.
const OPT_OUT: (&str, &str) = ("dynamicswap.io/swap", "disabled");
/// Priority from which on a pod is critical: what the two classes named `system-...-critical` have.
const CRITICAL_PRIORITY: i32 = 2_000_000_000;
/// kubelet notes here what stands for the UID in a static pod's cgroup.
const STATIC_HASH: &str = "kubernetes.io/config.hash";

/// A pod.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PodView {
    /// Namespace.
    pub namespace: String,
    /// Name.
    pub name: String,
    /// Labels.
    pub labels: BTreeMap<String, String>,
    /// Why it is never let out, if so.
    pub barred: Option<Barred>,
    /// What may stand for it in a cgroup's path: its UID, and a static pod's hash.
    pub uids: Vec<String>,
    /// Its running containers by the runtime's id. Init and sandbox containers are not among
    /// them.
    pub containers: BTreeMap<String, String>,
}

impl PodView {
    /// What there is to know of a pod.
    #[must_use]
    pub fn of(pod: &Pod) -> Self {
        let meta = &pod.metadata;
        let annotation = |name: &str| meta.annotations.as_ref()?.get(name);
        let uids = meta.uid.iter().chain(annotation(STATIC_HASH));
        let statuses = pod.status.as_ref();
        let statuses = statuses.and_then(|status| status.container_statuses.as_ref());
        Self {
            namespace: meta.namespace.clone().unwrap_or_default(),
            name: meta.name.clone().unwrap_or_default(),
            labels: meta.labels.clone().unwrap_or_default(),
            barred: if annotation(OPT_OUT.0).is_some_and(|value| value == OPT_OUT.1) {
                Some(Barred::OptedOut)
            } else {
                let priority = pod.spec.as_ref().and_then(|spec| spec.priority);
                let is_critical = priority.is_some_and(|priority| priority >= CRITICAL_PRIORITY);
                is_critical.then_some(Barred::Critical)
            },
            uids: uids.cloned().collect(),
            containers: statuses.into_iter().flatten().filter_map(running).collect(),
        }
    }
}

/// Id and name of a container that runs. The status has the id as `RUNTIME://ID`.
fn running(status: &ContainerStatus) -> Option<(String, String)> {
    status.state.as_ref()?.running.as_ref()?;
    let (_, id) = status.container_id.as_ref()?.split_once("://")?;
    Some((id.to_owned(), status.name.clone()))
}

type PodKey = (String, String);

/// The pods of a node.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Pods {
    pods: BTreeMap<PodKey, PodView>,
    /// Those of a list that is not complete yet.
    listed: BTreeMap<PodKey, PodView>,
    /// Whether there was a complete list.
    known: bool,
    /// Pods beyond the limit.
    left_out: usize,
}

impl Pods {
    /// Takes what a watch tells; whether [`Self::all`] may be another one now. While a list is
    /// under way the last whole one stays in force.
    pub fn take(&mut self, event: Event<Pod>) -> bool {
        match event {
            Event::Init => {
                self.listed.clear();
                false
            }
            Event::InitApply(pod) => {
                self.listed.insert(key(&pod), PodView::of(&pod));
                false
            }
            Event::InitDone => {
                self.pods = std::mem::take(&mut self.listed);
                self.known = true;
                self.bound();
                true
            }
            Event::Apply(pod) => {
                self.pods.insert(key(&pod), PodView::of(&pod));
                self.bound();
                true
            }
            Event::Delete(pod) => self.pods.remove(&key(&pod)).is_some(),
        }
    }

    /// Keeps the first [`PODS_MAX`] by name.
    fn bound(&mut self) {
        self.left_out = self.pods.len().saturating_sub(PODS_MAX);
        while self.pods.len() > PODS_MAX {
            self.pods.pop_last();
        }
    }

    /// The pods; none until there was a whole list.
    #[must_use]
    pub fn all(&self) -> Option<impl Iterator<Item = &PodView>> {
        self.known.then(|| self.pods.values())
    }

    /// A sentence about pods beyond the limit, if there are any.
    #[must_use]
    pub fn warning(&self) -> Option<String> {
        (self.left_out > 0).then(|| {
            format!(
                "this node has over {PODS_MAX} pods: {} of them are not watched",
                self.left_out
            )
        })
    }
}

fn key(pod: &Pod) -> PodKey {
    let meta = &pod.metadata;
    let text = |text: &Option<String>| text.clone().unwrap_or_default();
    (text(&meta.namespace), text(&meta.name))
}

#[cfg(test)]
pub(crate) mod tests {
    use serde_json::json;

    use super::*;

    /// A pod with a running container, an init container that has ended, and one that waits.
    pub(crate) fn pod(name: &str, container_id: &str, annotations: &serde_json::Value) -> Pod {
        serde_json::from_value(json!({
            "apiVersion": "v1",
            "kind": "Pod",
            "metadata": {
                "namespace": "default",
                "name": name,
                "uid": "0a1b2c3d-1111-2222-3333-444455556666",
                "labels": {"app": name},
                "annotations": annotations,
            },
            "status": {
                "containerStatuses": [
                    {
                        "name": "main", "image": "i", "imageID": "i", "ready": true,
                        "restartCount": 0, "containerID": format!("containerd://{container_id}"),
                        "state": {"running": {}},
                    },
                    {
                        "name": "late", "image": "i", "imageID": "i", "ready": false,
                        "restartCount": 0, "state": {"waiting": {"reason": "PodInitializing"}},
                    },
                ],
                "initContainerStatuses": [{
                    "name": "init", "image": "i", "imageID": "i", "ready": true,
                    "restartCount": 0, "containerID": "containerd://99",
                    "state": {"terminated": {"exitCode": 0}},
                }],
            },
        }))
        .expect("a pod")
    }

    fn names(pods: &Pods) -> Option<Vec<&str>> {
        pods.all().map(|all| all.map(|pod| &*pod.name).collect())
    }

    #[test]
    fn running_containers_are_those_of_the_status_and_init_is_not_among_them() {
        let view = PodView::of(&pod("web", "12", &json!({})));
        let expected = BTreeMap::from([("12".to_owned(), "main".to_owned())]);
        assert_eq!(view.containers, expected);
        assert_eq!(view.barred, None);
        assert_eq!(view.labels["app"], "web");
    }

    #[test]
    fn pod_is_barred_by_annotation_or_priority_and_a_static_one_has_two_uids() {
        let annotations = json!({
            "dynamicswap.io/swap": "disabled",
            "kubernetes.io/config.hash": "9f86",
        });
        let view = PodView::of(&pod("web", "12", &annotations));
        assert_eq!(view.barred, Some(Barred::OptedOut));
        assert_eq!(view.uids[1], "9f86");
        let other = json!({"dynamicswap.io/swap": "yes"});
        let mut other = pod("web", "12", &other);
        assert_eq!(PodView::of(&other).barred, None);
        let spec = other.spec.get_or_insert_default();
        spec.priority = Some(CRITICAL_PRIORITY);
        assert_eq!(PodView::of(&other).barred, Some(Barred::Critical));
    }

    #[test]
    fn last_whole_list_stays_until_the_next_one_is_whole() {
        let none = json!({});
        let mut pods = Pods::default();
        assert!(!pods.take(Event::Init));
        assert!(!pods.take(Event::InitApply(pod("a", "1", &none))));
        assert_eq!(names(&pods), None, "not known yet");
        assert!(pods.take(Event::InitDone));
        assert!(pods.take(Event::Apply(pod("b", "2", &none))));
        assert_eq!(names(&pods), Some(vec!["a", "b"]));
        // The watch broke and begins again.
        pods.take(Event::Init);
        pods.take(Event::InitApply(pod("c", "3", &none)));
        assert_eq!(names(&pods), Some(vec!["a", "b"]));
        pods.take(Event::InitDone);
        assert_eq!(names(&pods), Some(vec!["c"]));
        assert!(pods.take(Event::Delete(pod("c", "3", &none))));
        assert_eq!(names(&pods), Some(vec![]));
    }

    #[test]
    fn pods_are_bounded_and_it_is_said() {
        let mut pods = Pods::default();
        pods.take(Event::Init);
        for index in 0..PODS_MAX + 2 {
            pods.take(Event::InitApply(pod(
                &format!("{index:05}"),
                "1",
                &json!({}),
            )));
        }
        pods.take(Event::InitDone);
        assert_eq!(names(&pods).map(|names| names.len()), Some(PODS_MAX));
        let warning = pods.warning().expect("one");
        assert!(warning.contains("2 of them"), "{warning}");
    }
}
