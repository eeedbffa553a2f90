//! Containers of a Kubernetes node: the pods that the API server tells, joined with the cgroups
//! that kubelet and the runtime have made.
//!
//! Owns where each container's cgroup was found, so that the tree is walked only when a container
//! is new.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use tokio::sync::watch;

use super::path::{ContainerCgroup, container_of, leads_to_containers};
use super::pods::{PodView, Pods};
use crate::containers::{Container, Discovery};
use crate::limits::{CGROUP_DEPTH_MAX, CGROUPS_MAX, CONTAINERS_MAX};

/// What the watch of this node's pods publishes, and the cgroups found so far.
#[derive(Debug, Clone)]
pub struct PodSource {
    pods: watch::Receiver<Pods>,
    /// Cgroups below the root, by the container's id.
    cgroups: BTreeMap<String, (String, PathBuf)>,
}

impl PodSource {
    /// Reads what `pods` brings.
    #[must_use]
    pub fn new(pods: watch::Receiver<Pods>) -> Self {
        Self {
            pods,
            cgroups: BTreeMap::new(),
        }
    }

    /// Every running container of the node's pods that has a cgroup below `root`; none if the
    /// pods are not known yet.
    #[must_use]
    pub fn discover(&mut self, root: &Path) -> Option<Discovery> {
        let Self { pods, cgroups } = self;
        let pods = pods.borrow();
        let mut discovery = Discovery::default();
        discovery.warnings.extend(pods.warning());
        let containers = || {
            let pods = pods.all()?;
            Some(pods.flat_map(|pod| pod.containers.iter().map(move |of| (pod, of))))
        };
        cgroups.retain(|_, (_, cgroup)| root.join(cgroup).is_dir());
        if containers()?.any(|(_, (id, _))| !cgroups.contains_key(id)) {
            *cgroups = walk(root);
        }
        for (pod, (id, name)) in containers()? {
            // One without a cgroup has just ended, or is about to begin.
            let Some((uid, cgroup)) = cgroups.get(id) else {
                continue;
            };
            if discovery.containers.len() == CONTAINERS_MAX {
                let warning = format!(
                    "this node has over {CONTAINERS_MAX} containers: those beyond are not watched"
                );
                discovery.warnings.push(warning);
                break;
            }
            if pod.uids.contains(uid) {
                let container = container(pod, name, root.join(cgroup));
                discovery.containers.insert(container.key(), container);
            }
        }
        Some(discovery)
    }
}

fn container(pod: &PodView, name: &str, cgroup: PathBuf) -> Container {
    Container {
        namespace: pod.namespace.clone(),
        name: format!("{}/{name}", pod.name),
        labels: pod.labels.clone(),
        memory_cgroup: cgroup.clone(),
        unified_cgroup: cgroup,
        barred: pod.barred,
    }
}

/// The cgroups of all containers, sandboxes included, by their ids.
fn walk(root: &Path) -> BTreeMap<String, (String, PathBuf)> {
    let mut found = BTreeMap::new();
    let mut waiting = vec![(PathBuf::new(), 0)];
    let mut seen = 0;
    while let Some((directory, depth)) = waiting.pop() {
        // What has gone meanwhile has no containers.
        let Ok(entries) = fs::read_dir(root.join(&directory)) else {
            continue;
        };
        for entry in entries.flatten() {
            if !entry.file_type().is_ok_and(|kind| kind.is_dir()) {
                continue;
            }
            seen += 1;
            if seen > CGROUPS_MAX {
                return found;
            }
            let cgroup = directory.join(entry.file_name());
            if let Some(ContainerCgroup {
                pod_uid,
                container_id,
            }) = container_of(&cgroup)
            {
                found.insert(container_id, (pod_uid, cgroup));
            } else if depth < CGROUP_DEPTH_MAX && leads_to_containers(&cgroup) {
                waiting.push((cgroup, depth + 1));
            }
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use kube::runtime::watcher::Event;
    use serde_json::json;

    use super::super::pods::tests::pod;
    use super::*;
    use crate::cgroup::fixture::{Files, Host};

    const POD: &str = "kubepods.slice/kubepods-burstable.slice/\
                       kubepods-burstable-pod0a1b2c3d_1111_2222_3333_444455556666.slice";

    fn id(digit: char) -> String {
        digit.to_string().repeat(64)
    }

    fn cgroup(of: char) -> String {
        format!("{POD}/cri-containerd-{}.scope", id(of))
    }

    fn feed(pods: &[(&str, char)]) -> (watch::Sender<Pods>, PodSource) {
        let mut known = Pods::default();
        known.take(Event::Init);
        for (name, of) in pods {
            known.take(Event::InitApply(pod(name, &id(*of), &json!({}))));
        }
        known.take(Event::InitDone);
        let (sender, receiver) = watch::channel(known);
        (sender, PodSource::new(receiver))
    }

    fn names(source: &mut PodSource, host: &Host) -> Vec<String> {
        let found = source.discover(host.root()).expect("known");
        found.containers.keys().map(ToString::to_string).collect()
    }

    #[test]
    fn containers_of_pods_are_found_and_sandboxes_are_not() {
        let host = Host::unified();
        for of in ['a', 'b', 'c'] {
            host.container(&cgroup(of), Files::default());
        }
        let (_sender, mut source) = feed(&[("web", 'a')]);
        assert_eq!(names(&mut source, &host), ["default/web/main"]);
        let found = source.discover(host.root()).expect("known");
        let container = found.containers.into_values().next().expect("one");
        assert_eq!(container.memory_cgroup, host.root().join(cgroup('a')));
        assert_eq!(container.labels["app"], "web");
    }

    #[test]
    fn containers_come_and_go_with_their_pods_and_cgroups() {
        let host = Host::unified();
        host.container(&cgroup('a'), Files::default());
        let (sender, mut source) = feed(&[("web", 'a'), ("db", 'b')]);
        assert_eq!(names(&mut source, &host), ["default/web/main"]);
        host.container(&cgroup('b'), Files::default());
        let both = ["default/db/main", "default/web/main"];
        assert_eq!(names(&mut source, &host), both);
        sender.send_modify(|pods| {
            pods.take(Event::Delete(pod("web", &id('a'), &json!({}))));
        });
        assert_eq!(names(&mut source, &host), ["default/db/main"]);
        fs::remove_dir_all(host.root().join(cgroup('b'))).expect("was there");
        assert!(names(&mut source, &host).is_empty());
    }

    #[test]
    fn cgroup_of_another_pod_with_the_same_id_is_not_the_container_s() {
        let host = Host::unified();
        let strange = format!("kubepods/podffff/{}", id('a'));
        host.container(&strange, Files::default());
        let (_sender, mut source) = feed(&[("web", 'a')]);
        assert!(names(&mut source, &host).is_empty());
    }

    #[test]
    fn nothing_is_said_of_containers_before_the_pods_are_known() {
        let (_sender, pods) = watch::channel(Pods::default());
        let host = Host::unified();
        assert!(PodSource::new(pods).discover(host.root()).is_none());
    }
}
