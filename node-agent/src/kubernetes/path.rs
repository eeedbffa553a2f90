//! What a cgroup's path below the root says: which pod it belongs to, and which container it is.
//!
//! Pure. kubelet names the pod's directory, the runtime the container's; both in two ways, by the
//! cgroup driver.

use std::path::Path;

/// The container whose cgroup it is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ContainerCgroup {
    /// The pod's UID with dashes, or the hash that stands for it in a static pod's cgroup.
    pub pod_uid: String,
    /// The runtime's id, without the runtime's name: 64 hexadecimal digits.
    pub container_id: String,
}

/// What runtimes put before the id in a scope's name. CRI-O's `crio-conmon-` is no container.
const SCOPES: [&str; 3] = ["cri-containerd-", "crio-", "docker-"];
/// Digits of an id.
const ID_DIGITS: usize = 64;

/// The container of a cgroup; none if it is another cgroup. Sandboxes look like containers: who
/// asks tells them apart by the pod's status.
#[must_use]
pub fn container_of(cgroup: &Path) -> Option<ContainerCgroup> {
    let name = cgroup.file_name()?.to_str()?;
    let parent = cgroup.parent()?;
    let container_id = container_id(name)?.to_owned();
    let pod_uid = pod_uid(parent)?;
    Some(ContainerCgroup {
        pod_uid,
        container_id,
    })
}

/// Whether containers can lie in this cgroup or below it: the roots that kubelet makes, classes
/// of service, and pods.
#[must_use]
pub fn leads_to_containers(cgroup: &Path) -> bool {
    let Some(name) = cgroup.file_name().and_then(|name| name.to_str()) else {
        return false;
    };
    let parent = cgroup.parent().and_then(Path::file_name);
    let below_kubepods = cgroup
        .components()
        .any(|part| part.as_os_str().to_string_lossy().contains("kubepods"));
    // A node that is itself a container has all of it in a cgroup of its kubelet.
    let at_root = parent.is_none() && ["kubelet", "kubelet.slice"].contains(&name);
    at_root
        || name.contains("kubepods")
        || (below_kubepods
            && (["burstable", "besteffort"].contains(&name) || pod_uid(cgroup).is_some()))
}

fn container_id(name: &str) -> Option<&str> {
    let id = match name.strip_suffix(".scope") {
        Some(scope) => SCOPES.iter().find_map(|of| scope.strip_prefix(of))?,
        // The cgroupfs driver; CRI-O says its name there, too.
        None => name.strip_prefix("crio-").unwrap_or(name),
    };
    let hex = |byte: u8| byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte);
    (id.len() == ID_DIGITS && id.bytes().all(hex)).then_some(id)
}

/// The UID in a pod's directory.
fn pod_uid(cgroup: &Path) -> Option<String> {
    let name = cgroup.file_name()?.to_str()?;
    let uid = match name.strip_suffix(".slice") {
        Some(slice) => {
            let (before, uid) = slice.rsplit_once("-pod")?;
            let classes = ["kubepods", "kubepods-burstable", "kubepods-besteffort"];
            let before = before.strip_prefix("kubelet-").unwrap_or(before);
            if !classes.contains(&before) {
                return None;
            }
            // systemd takes a dash for a level of the hierarchy.
            uid.replace('_', "-")
        }
        None => name.strip_prefix("pod")?.to_owned(),
    };
    let plain = |byte: u8| byte.is_ascii_hexdigit() || byte == b'-';
    (!uid.is_empty() && uid.bytes().all(plain)).then_some(uid)
}

#[cfg(test)]
mod tests {
    use super::*;

    const UID: &str = "0a1b2c3d-1111-2222-3333-444455556666";
    const UNDERSCORED: &str = "0a1b2c3d_1111_2222_3333_444455556666";
    /// Of a static pod.
    const HASH: &str = "9f86d081884c7d659a2feaa0c55ad015";

    fn id() -> String {
        "0123456789abcdef".repeat(4)
    }

    fn found(path: &str) -> Option<(String, String)> {
        container_of(Path::new(path)).map(|cgroup| (cgroup.pod_uid, cgroup.container_id))
    }

    #[test]
    fn container_of_every_driver_runtime_and_class_is_found() {
        let id = id();
        for path in [
            format!("kubepods.slice/kubepods-pod{UNDERSCORED}.slice/cri-containerd-{id}.scope"),
            format!(
                "kubepods.slice/kubepods-burstable.slice/kubepods-burstable-pod{UNDERSCORED}.slice/\
                 cri-containerd-{id}.scope"
            ),
            format!(
                "kubepods.slice/kubepods-besteffort.slice/kubepods-besteffort-pod{UNDERSCORED}\
                 .slice/crio-{id}.scope"
            ),
            format!(
                "kubelet.slice/kubelet-kubepods.slice/kubelet-kubepods-burstable.slice/\
                 kubelet-kubepods-burstable-pod{UNDERSCORED}.slice/cri-containerd-{id}.scope"
            ),
            format!("kubepods/burstable/pod{UID}/{id}"),
            format!("kubepods/besteffort/pod{UID}/{id}"),
            format!("kubepods/pod{UID}/{id}"),
            format!("kubepods/pod{UID}/crio-{id}"),
            format!("kubelet/kubepods/burstable/pod{UID}/{id}"),
        ] {
            assert_eq!(found(&path), Some((UID.to_owned(), id.clone())), "{path}");
            // Whoever walks comes there.
            let way: Vec<&Path> = Path::new(&path).ancestors().skip(1).collect();
            for step in way.iter().filter(|step| !step.as_os_str().is_empty()) {
                assert!(leads_to_containers(step), "{}", step.display());
            }
        }
    }

    #[test]
    fn static_pod_has_a_hash_for_its_uid() {
        let id = id();
        for path in [
            format!(
                "kubepods.slice/kubepods-burstable.slice/kubepods-burstable-pod{HASH}.slice/\
                 cri-containerd-{id}.scope"
            ),
            format!("kubepods/burstable/pod{HASH}/{id}"),
        ] {
            assert_eq!(found(&path), Some((HASH.to_owned(), id.clone())), "{path}");
        }
    }

    #[test]
    fn other_cgroups_are_no_containers() {
        let id = id();
        let pod = format!("kubepods.slice/kubepods-pod{UNDERSCORED}.slice");
        for path in [
            String::new(),
            "system.slice/kubelet.service".to_owned(),
            format!("system.slice/docker-{id}.scope"),
            pod.clone(),
            format!("{pod}/crio-conmon-{id}.scope"),
            format!("{pod}/cri-containerd-{}.scope", &id[..12]),
            format!("{pod}/cri-containerd-{}.scope", id.to_uppercase()),
            format!("{pod}/cri-containerd-{id}.scope/container"),
            format!("kubepods.slice/other-pod{UNDERSCORED}.slice/cri-containerd-{id}.scope"),
            format!("kubepods/burstable/{id}"),
            format!("kubepods/burstable/pod/{id}"),
        ] {
            assert_eq!(found(&path), None, "{path}");
        }
    }

    #[test]
    fn nobody_walks_where_no_containers_are() {
        for path in [
            "system.slice",
            "user.slice",
            "init.scope",
            "system.slice/kubelet.slice",
            "burstable",
            "pod0a1b",
        ] {
            assert!(!leads_to_containers(Path::new(path)), "{path}");
        }
    }
}
