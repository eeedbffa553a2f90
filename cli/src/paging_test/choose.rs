//! Where the test runs, with which labels and which image.
//!
//! Pure: objects in, a choice or the sentence that says why there is none out.

use std::collections::BTreeMap;

use dynamicswap_crds::{RemoteMemoryPolicy, SwapDevice};
use dynamicswap_proto::identity::CONTROLLER_NAME;
use dynamicswap_types::Bytes;

/// Labels of an object.
pub type Labels = BTreeMap<String, String>;

/// What every pod of the test is called by.
pub const NAME_LABEL: (&str, &str) = ("app.kubernetes.io/name", "dynamicswap-test");
/// Name of the image.
const IMAGE_NAME: &str = "dynamicswap-workload";

/// The borrower to test: the one that is named, or the first by name whose device is attached and has
/// room for so many bytes.
///
/// # Errors
/// Why there is none.
pub fn borrower(
    devices: &[SwapDevice],
    wanted: Option<&str>,
    need: Bytes,
) -> Result<String, String> {
    let mut refusals = BTreeMap::new();
    for device in devices {
        let node = device.spec.node.to_string();
        if wanted.is_none_or(|wanted| wanted == node) {
            refusals.insert(node, unfit(device, need));
        }
    }
    if let Some((node, _)) = refusals.iter().find(|(_, refusal)| refusal.is_none()) {
        return Ok(node.clone());
    }
    let refusals: Vec<String> = refusals.into_values().flatten().collect();
    match (wanted, &refusals[..]) {
        (Some(node), []) => Err(format!(
            "node {node} has no swap device: 'kubectl get swapdevices' lists those that have one"
        )),
        (None, []) => Err(
            "there is no swap device: label a node dynamicswap.io/borrower=true, and see 'status'"
                .to_owned(),
        ),
        (_, refusals) => Err(refusals.join("; ")),
    }
}

/// Why a device does not do; none if it does.
fn unfit(device: &SwapDevice, need: Bytes) -> Option<String> {
    let node = &device.spec.node;
    let Some(status) = device.status.as_ref().filter(|status| status.attached) else {
        return Some(format!(
            "the swap device of {node} is not attached: 'status' says why, and a policy in force \
             attaches it"
        ));
    };
    let room = status.size.saturating_sub(status.bytes_used);
    (room < need).then(|| {
        format!(
            "the swap device of {node} has room for {room}, and the test needs {need}: give a \
             smaller --memory"
        )
    })
}

/// What the pod is labelled, and by which policy it may swap.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Chosen {
    /// Its labels.
    pub labels: Labels,
    /// The policy's name.
    pub policy: String,
}

/// Labels that a policy in force of the namespace selects: those that are given, or else what the first
/// policy by name asks for that lets out so many bytes.
///
/// # Errors
/// Why no policy lets the pod swap so much.
pub fn labels(
    policies: &[RemoteMemoryPolicy],
    given: &[(String, String)],
    namespace: &str,
    need: Bytes,
) -> Result<Chosen, String> {
    let base = Labels::from([(NAME_LABEL.0.to_owned(), NAME_LABEL.1.to_owned())]);
    if !given.is_empty() {
        let labels = with(base, given.iter().cloned());
        return judge(policies, &labels, namespace, need);
    }
    let mut by_name: Vec<_> = policies.iter().filter(|it| it.in_force()).collect();
    by_name.sort_by(|a, b| name(a).cmp(name(b)));
    let mut first_refusal = None;
    for policy in by_name {
        let labels = with(base.clone(), policy.spec.pod_selector.match_labels.clone());
        match judge(policies, &labels, namespace, need) {
            Ok(chosen) => return Ok(chosen),
            Err(refusal) => first_refusal = first_refusal.or(Some(refusal)),
        }
    }
    Err(first_refusal.unwrap_or_else(|| none_selects(policies, &base, namespace)))
}

fn with(mut labels: Labels, more: impl IntoIterator<Item = (String, String)>) -> Labels {
    labels.extend(more);
    labels
}

fn name(policy: &RemoteMemoryPolicy) -> &str {
    policy.metadata.name.as_deref().unwrap_or_default()
}

/// Whether a pod with these labels may swap so much: of the policies that select it, each limits it.
fn judge(
    policies: &[RemoteMemoryPolicy],
    labels: &Labels,
    namespace: &str,
    need: Bytes,
) -> Result<Chosen, String> {
    let selecting = policies
        .iter()
        .filter(|policy| policy.in_force() && policy.spec.pod_selector.selects(labels));
    let mut first = None;
    for policy in selecting {
        let limits = policy.spec.limits;
        let limits = [limits.per_container, limits.per_namespace];
        if let Some(limit) = limits.into_iter().flatten().find(|limit| *limit < need) {
            return Err(format!(
                "policy {namespace}/{} lets out {limit}, and the test needs {need}: give a smaller \
                 --memory, or other labels with --label",
                name(policy)
            ));
        }
        first = first.or(Some(policy));
    }
    match first {
        Some(policy) => Ok(Chosen {
            labels: labels.clone(),
            policy: name(policy).to_owned(),
        }),
        None => Err(none_selects(policies, labels, namespace)),
    }
}

/// The sentence for a pod that would not be let out.
fn none_selects(policies: &[RemoteMemoryPolicy], labels: &Labels, namespace: &str) -> String {
    let told: Vec<String> = policies.iter().map(describe).collect();
    let there = match told.join(", ") {
        none if none.is_empty() => "there is none".to_owned(),
        told => format!("there are {told}"),
    };
    format!(
        "no policy in force in the namespace '{namespace}' selects a pod with the labels {}: it could \
         not swap, and would be killed at its limit; {there}; apply one (crds/examples/verify.yaml), or \
         name another --namespace or --label",
        written(labels)
    )
}

fn describe(policy: &RemoteMemoryPolicy) -> String {
    let labels = written(&policy.spec.pod_selector.match_labels);
    let not = if policy.in_force() {
        ""
    } else {
        "not in force, "
    };
    format!("{} ({not}{labels})", name(policy))
}

fn written(labels: &Labels) -> String {
    if labels.is_empty() {
        return "every pod".to_owned();
    }
    let pairs = labels.iter().map(|(key, value)| format!("{key}={value}"));
    pairs.collect::<Vec<_>>().join(",")
}

/// The workload's image beside the controller's, as far as that is known.
#[must_use]
pub fn image(of_controller: Option<&str>) -> String {
    let own = || format!("localhost/{IMAGE_NAME}:{}", env!("CARGO_PKG_VERSION"));
    let beside = |image: &str| {
        let (registry, last) = image.rsplit_once('/')?;
        let tag = last.strip_prefix(CONTROLLER_NAME)?;
        // The digest of one image is no other's.
        let tag = tag.split('@').next().filter(|tag| tag.starts_with(':'))?;
        Some(format!("{registry}/{IMAGE_NAME}{tag}"))
    };
    of_controller.and_then(beside).unwrap_or_else(own)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    const NEED: Bytes = Bytes::from_mib(96);

    fn device(node: &str, attached: bool, used: &str) -> SwapDevice {
        serde_json::from_value(json!({
            "apiVersion": "dynamicswap.io/v1alpha1",
            "kind": "SwapDevice",
            "metadata": {"name": node, "uid": "1", "managedFields": []},
            "spec": {"node": node, "deviceId": "0123456789abcdef0123456789abcdef"},
            "status": {"attached": attached, "size": "1Gi", "bytesUsed": used},
        }))
        .expect("a device")
    }

    fn policy(name: &str, spec: Value) -> RemoteMemoryPolicy {
        serde_json::from_value(json!({
            "apiVersion": "dynamicswap.io/v1alpha1",
            "kind": "RemoteMemoryPolicy",
            "metadata": {"name": name, "namespace": "shop"},
            "spec": spec,
        }))
        .expect("a policy")
    }

    fn web(name: &str, more: &Value) -> RemoteMemoryPolicy {
        let mut spec = json!({"podSelector": {"matchLabels": {"app": "web"}}});
        for (key, value) in more.as_object().into_iter().flatten() {
            spec[key] = value.clone();
        }
        policy(name, spec)
    }

    #[test]
    fn borrower_is_the_first_that_is_attached_and_has_room() {
        let devices = [
            device("b3", true, "0"),
            device("b1", false, "0"),
            device("b2", true, "1000Mi"),
            device("b4", true, "0"),
        ];
        assert_eq!(borrower(&devices, None, NEED).as_deref(), Ok("b3"));
        assert_eq!(borrower(&devices, Some("b4"), NEED).as_deref(), Ok("b4"));
    }

    #[test]
    fn device_that_does_not_do_is_refused_with_the_reason() {
        let devices = [device("b1", false, "0"), device("b2", true, "1000Mi")];
        for (wanted, part) in [
            (Some("b1"), "b1 is not attached"),
            (Some("b2"), "b2 has room for 24Mi, and the test needs 96Mi"),
            (Some("b9"), "node b9 has no swap device"),
            (None, "b1 is not attached"),
        ] {
            let why = borrower(&devices, wanted, NEED).expect_err("refused");
            assert!(why.contains(part), "{why}");
        }
        let why = borrower(&[], None, NEED).expect_err("none");
        assert!(why.contains("there is no swap device"), "{why}");
    }

    #[test]
    fn pod_gets_the_labels_that_the_first_policy_in_force_selects() {
        let policies = [
            web("b", &json!({})),
            web("a", &json!({"paused": true})),
            web("c", &json!({})),
        ];
        let chosen = labels(&policies, &[], "shop", NEED).expect("chosen");
        assert_eq!(chosen.policy, "b");
        assert_eq!(
            written(&chosen.labels),
            "app=web,app.kubernetes.io/name=dynamicswap-test"
        );
        let all = [policy("all", json!({}))];
        let chosen = labels(&all, &[], "shop", NEED).expect("chosen");
        assert_eq!(
            written(&chosen.labels),
            "app.kubernetes.io/name=dynamicswap-test"
        );
    }

    #[test]
    fn pod_that_no_policy_in_force_selects_is_refused() {
        let policies = [web("a", &json!({"dryRun": true})), web("b", &json!({}))];
        let given = [("app".to_owned(), "db".to_owned())];
        let why = labels(&policies, &given, "shop", NEED).expect_err("refused");
        for part in [
            "no policy in force in the namespace 'shop'",
            "app=db",
            "killed at its limit",
            "a (not in force, app=web), b (app=web)",
        ] {
            assert!(why.contains(part), "{why}");
        }
        let why = labels(&policies[..1], &[], "shop", NEED).expect_err("refused");
        assert!(why.contains("a (not in force, app=web)"), "{why}");
        let why = labels(&[], &[], "shop", NEED).expect_err("refused");
        assert!(why.contains("there is none"), "{why}");
    }

    #[test]
    fn policy_that_lets_out_too_little_is_refused_whoever_else_selects_the_pod() {
        let small = web("z", &json!({"limits": {"perContainer": "64Mi"}}));
        let why = labels(&[web("a", &json!({})), small], &[], "shop", NEED);
        let why = why.expect_err("the strictest counts");
        assert!(
            why.contains("policy shop/z lets out 64Mi, and the test needs 96Mi"),
            "{why}"
        );
    }

    #[test]
    fn image_comes_from_where_the_controller_s_does() {
        for (controller, wanted) in [
            (
                "localhost/dynamicswap-controller:0.9.0",
                "localhost/dynamicswap-workload:0.9.0",
            ),
            (
                "reg.example:5000/a/dynamicswap-controller:x",
                "reg.example:5000/a/dynamicswap-workload:x",
            ),
            (
                "r/dynamicswap-controller:1@sha256:ab",
                "r/dynamicswap-workload:1",
            ),
        ] {
            assert_eq!(image(Some(controller)), wanted);
        }
        let own = format!(
            "localhost/dynamicswap-workload:{}",
            env!("CARGO_PKG_VERSION")
        );
        for unknown in [
            None,
            Some("other"),
            Some("r/dynamicswap-controller@sha256:ab"),
        ] {
            assert_eq!(image(unknown), own);
        }
    }
}
