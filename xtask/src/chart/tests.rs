//! Tests of the golden files that need no helm: Kubernetes knows every field in them, and whatever
//! the values, the parts have the rights and manners that they need and no more.

use std::path::{Path, PathBuf};

use k8s_openapi::api::apps::v1::{DaemonSet, Deployment};
use k8s_openapi::api::batch::v1::Job;
use k8s_openapi::api::core::v1::{Pod, Service, ServiceAccount};
use k8s_openapi::api::networking::v1::NetworkPolicy;
use k8s_openapi::api::policy::v1::PodDisruptionBudget;
use k8s_openapi::api::rbac::v1::{ClusterRole, ClusterRoleBinding, Role, RoleBinding};
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::Value;

use super::*;

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .parent()
        .expect("xtask lies in the workspace")
        .to_owned()
}

/// Every object of a golden file.
fn objects(case: &str) -> Vec<Value> {
    let path = root().join(CASES).join(case).join("golden.yaml");
    let text = std::fs::read_to_string(&path).expect("a golden file");
    let documents = text
        .split("\n---\n")
        .map(|text| text.trim_start_matches("---"));
    documents
        .map(|text| serde_saphyr::from_str::<Value>(text).expect("YAML"))
        .filter(|value| !value.is_null())
        .collect()
}

fn find(objects: &[Value], kind: &str, name: &str) -> Value {
    let is_it = |object: &&Value| object["kind"] == kind && object["metadata"]["name"] == name;
    let found = objects.iter().find(is_it);
    found.unwrap_or_else(|| panic!("{kind} {name}")).clone()
}

/// What is left of an object once Kubernetes' own type has read it.
fn through<T: Serialize + DeserializeOwned>(object: &Value) -> Value {
    let typed: T = serde_json::from_value(object.clone()).expect("the kind's types");
    serde_json::to_value(typed).expect("JSON")
}

fn as_kubernetes_sees(object: &Value) -> Value {
    match object["kind"].as_str().expect("a kind") {
        "ClusterRole" => through::<ClusterRole>(object),
        "ClusterRoleBinding" => through::<ClusterRoleBinding>(object),
        "DaemonSet" => through::<DaemonSet>(object),
        "Deployment" => through::<Deployment>(object),
        "Job" => through::<Job>(object),
        "NetworkPolicy" => through::<NetworkPolicy>(object),
        "Pod" => through::<Pod>(object),
        "PodDisruptionBudget" => through::<PodDisruptionBudget>(object),
        "Role" => through::<Role>(object),
        "RoleBinding" => through::<RoleBinding>(object),
        "Service" => through::<Service>(object),
        "ServiceAccount" => through::<ServiceAccount>(object),
        // The operator's of Prometheus, whose types are not among Kubernetes' own.
        "PrometheusRule" | "ServiceMonitor" => object.clone(),
        other => panic!("a kind that this test does not know: {other}"),
    }
}

#[test]
fn kubernetes_knows_every_field() {
    for case in cases(&root()).expect("cases") {
        for object in objects(&case) {
            let seen = as_kubernetes_sees(&object);
            assert_eq!(seen, object, "{case}: a field is unknown, null or empty");
        }
    }
}

const DAEMON_SETS: [&str; 3] = [
    "dynamicswap-agent",
    "dynamicswap-memory-server",
    "dynamicswap-swapd",
];
const DATA_PLANE: [&str; 2] = ["dynamicswap-memory-server", "dynamicswap-swapd"];

#[test]
fn data_plane_has_no_memory_limit_and_no_token_and_is_never_rolled() {
    for case in cases(&root()).expect("cases") {
        let objects = objects(&case);
        for name in DATA_PLANE {
            let spec = find(&objects, "DaemonSet", name)["spec"].clone();
            assert_eq!(spec["updateStrategy"]["type"], "OnDelete", "{case} {name}");
            let pod = &spec["template"]["spec"];
            assert_eq!(pod["automountServiceAccountToken"], false, "{case} {name}");
            assert_eq!(pod["hostPID"], true, "{case} {name}");
            assert_eq!(pod["hostNetwork"], true, "{case} {name}");
            let container = &pod["containers"][0];
            let resources = &container["resources"];
            assert!(resources["limits"].is_null(), "{case} {name}");
            assert!(resources["requests"]["memory"].is_string(), "{case} {name}");
            let run = &container["volumeMounts"][0];
            assert_eq!(run["mountPropagation"], "Bidirectional", "{case} {name}");
        }
    }
}

#[test]
fn only_the_data_plane_is_privileged() {
    for case in cases(&root()).expect("cases") {
        let objects = objects(&case);
        let agent = find(&objects, "DaemonSet", "dynamicswap-agent");
        let controller = find(&objects, "Deployment", "dynamicswap-controller");
        let test = find(&objects, "Pod", "dynamicswap-test");
        let pods = [
            &agent["spec"]["template"]["spec"],
            &controller["spec"]["template"]["spec"],
            &test["spec"],
        ];
        for pod in pods {
            assert!(pod["hostNetwork"].is_null(), "{case}");
            // The agent brings pages of other containers' processes home.
            let is_agent = pod["serviceAccountName"] == "dynamicswap-agent";
            assert_eq!(pod["hostPID"] == true, is_agent, "{case}");
            let context = &pod["containers"][0]["securityContext"];
            assert!(context["privileged"].is_null(), "{case}");
            assert_eq!(context["allowPrivilegeEscalation"], false, "{case}");
            assert_eq!(context["readOnlyRootFilesystem"], true, "{case}");
            assert_eq!(context["capabilities"]["drop"][0], "ALL", "{case}");
        }
    }
}

#[test]
fn every_pod_of_ours_is_opted_out_and_every_daemon_has_its_role_s_nodes() {
    for case in cases(&root()).expect("cases") {
        let objects = objects(&case);
        for name in DAEMON_SETS {
            let template = find(&objects, "DaemonSet", name)["spec"]["template"].clone();
            let annotations = &template["metadata"]["annotations"];
            assert_eq!(
                annotations["dynamicswap.io/swap"], "disabled",
                "{case} {name}"
            );
        }
        let spec =
            |name: &str| find(&objects, "DaemonSet", name)["spec"]["template"]["spec"].clone();
        let swapd = spec("dynamicswap-swapd");
        assert_eq!(swapd["nodeSelector"]["dynamicswap.io/borrower"], "true");
        let server = spec("dynamicswap-memory-server");
        assert_eq!(server["nodeSelector"]["dynamicswap.io/donor"], "true");
    }
}

#[test]
fn no_rule_names_everything() {
    let kinds = ["ClusterRole", "Role"];
    for case in cases(&root()).expect("cases") {
        let objects = objects(&case);
        let roles = objects
            .iter()
            .filter(|object| kinds.contains(&object["kind"].as_str().unwrap_or_default()));
        for role in roles {
            assert!(!role.to_string().contains("\"*\""), "{case}: {role}");
        }
    }
}

#[test]
fn difference_is_shown_with_both_lines() {
    assert_eq!(first_difference("a\nb\n", "a\nb\n"), None);
    let difference = first_difference("a\nb\n", "a\nc\n").expect("different");
    assert!(difference.contains("line 2"), "{difference}");
    assert!(difference.contains("expected b") && difference.contains("rendered c"));
    let shorter = first_difference("a\nb\n", "a\n").expect("different");
    assert!(shorter.contains("(the end)"), "{shorter}");
    assert!(first_difference("a\n", "a").is_some());
}
