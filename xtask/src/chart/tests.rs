//! Tests of the golden files that need no helm: Kubernetes knows every field in them, and whatever
//! the values, the parts have the rights and manners that they need and no more.

use std::path::{Path, PathBuf};

use cel::{Context, Program, Value as CelValue};
use k8s_openapi::api::admissionregistration::v1::{
    ValidatingAdmissionPolicy, ValidatingAdmissionPolicyBinding,
};
use k8s_openapi::api::apps::v1::{DaemonSet, Deployment};
use k8s_openapi::api::batch::v1::Job;
use k8s_openapi::api::core::v1::{Pod, Service, ServiceAccount};
use k8s_openapi::api::networking::v1::NetworkPolicy;
use k8s_openapi::api::policy::v1::PodDisruptionBudget;
use k8s_openapi::api::rbac::v1::{ClusterRole, ClusterRoleBinding, Role, RoleBinding};
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

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
        "ValidatingAdmissionPolicy" => through::<ValidatingAdmissionPolicy>(object),
        "ValidatingAdmissionPolicyBinding" => through::<ValidatingAdmissionPolicyBinding>(object),
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

/// Arguments of a pod's only container.
fn arguments(pod: &Value) -> Vec<String> {
    let arguments = pod["containers"][0]["args"].as_array();
    let text = |it: &Value| it.as_str().expect("text").to_owned();
    arguments.expect("arguments").iter().map(text).collect()
}

/// The parts of a pod's volume with its token, if it has one.
fn identity(pod: &Value) -> Option<Value> {
    let mut volumes = pod["volumes"].as_array().into_iter().flatten();
    let found = volumes.find(|volume| volume["name"] == "identity");
    found.map(|volume| volume["projected"]["sources"].clone())
}

#[test]
fn whoever_calls_the_controller_knows_it_and_has_a_token_for_it_alone() {
    for case in cases(&root()).expect("cases") {
        let objects = objects(&case);
        let with_tls = case != "plain";
        let agent = find(&objects, "DaemonSet", "dynamicswap-agent");
        let uninstall = find(&objects, "Job", "dynamicswap-uninstall");
        let test = find(&objects, "Pod", "dynamicswap-test");
        let pods = [
            (&agent["spec"]["template"]["spec"], "--enroll-token=", true),
            (
                &uninstall["spec"]["template"]["spec"],
                "--token-file=",
                false,
            ),
            (&test["spec"], "--token-file=", false),
        ];
        for (pod, flag, may_be_early) in pods {
            let arguments = arguments(pod);
            let has = |start: &str| arguments.iter().any(|it| it.starts_with(start));
            assert_eq!(has("--controller=https://"), with_tls, "{case}");
            assert_eq!(has("--controller=http://"), !with_tls, "{case}");
            assert_eq!(
                (has("--tls-ca="), has(flag)),
                (with_tls, with_tls),
                "{case}"
            );
            let Some(sources) = identity(pod) else {
                assert!(!with_tls, "{case}: no token");
                continue;
            };
            let token = &sources[0]["serviceAccountToken"];
            assert_eq!(token["audience"], "dynamicswap-controller", "{case}");
            let trust = &sources[1]["configMap"];
            assert_eq!(trust["name"], "dynamicswap-trust", "{case}");
            assert_eq!(trust["optional"], may_be_early, "{case}");
        }
    }
}

#[test]
fn controller_reads_its_own_secret_and_no_other() {
    for (case, wanted) in [("minimal", 2), ("hardened", 0), ("plain", 0)] {
        let objects = objects(case);
        let role = find(&objects, "Role", "dynamicswap-controller");
        let rules = role["rules"].as_array().expect("rules");
        let on_secrets = rules
            .iter()
            .filter(|rule| rule["resources"][0] == "secrets");
        let on_secrets: Vec<&Value> = on_secrets.collect();
        assert_eq!(on_secrets.len(), wanted, "{case}");
        for rule in on_secrets {
            // What is made has no name yet that a rule could name.
            let named = rule["resourceNames"] == json!(["dynamicswap-authority"]);
            assert!(
                named || rule["verbs"] == json!(["create"]),
                "{case}: {rule}"
            );
        }
    }
}

/// What the agents' admission policy says of a request: the message of the first rule that it breaks.
fn verdict(request: &Value) -> Option<String> {
    verdict_of("dynamicswap-agent", request)
}

fn verdict_of(policy: &str, request: &Value) -> Option<String> {
    let objects = objects("minimal");
    let policy = find(&objects, "ValidatingAdmissionPolicy", policy);
    let spec = &policy["spec"];
    let mut context = Context::default();
    context.add_variable("request", request).expect("a value");
    let value = |context: &Context<'_>, text: &Value| {
        let text = text.as_str().expect("an expression");
        let program = Program::compile(text).expect("CEL");
        program.execute(context).expect("a value")
    };
    let listed = |name: &str| spec[name].as_array().cloned().unwrap_or_default();
    for condition in listed("matchConditions") {
        if value(&context, &condition["expression"]) == CelValue::Bool(false) {
            return None;
        }
    }
    let mut variables = std::collections::HashMap::new();
    for variable in listed("variables") {
        let name = variable["name"].as_str().expect("a name").to_owned();
        let CelValue::String(found) = value(&context, &variable["expression"]) else {
            panic!("no text: {variable}");
        };
        variables.insert(name, found.to_string());
    }
    context
        .add_variable("variables", variables)
        .expect("a value");
    let rules = spec["validations"].as_array().expect("rules");
    let broken = rules
        .iter()
        .find(|rule| value(&context, &rule["expression"]) != CelValue::Bool(true))?;
    Some(match broken["message"].as_str() {
        Some(message) => message.to_owned(),
        None => match value(&context, &broken["messageExpression"]) {
            CelValue::String(message) => message.to_string(),
            other => panic!("no text: {other:?}"),
        },
    })
}

#[test]
fn agent_writes_the_objects_of_its_own_node_alone() {
    let request = |user: &str, node: Option<&str>, resource: &str, name: &str| {
        let extra = match node {
            Some(node) => json!({"authentication.kubernetes.io/node-name": [node]}),
            None => json!({"authentication.kubernetes.io/pod-name": ["p"]}),
        };
        json!({
            "userInfo": {"username": user, "extra": extra},
            "resource": {"group": "dynamicswap.io", "version": "v1alpha1", "resource": resource},
            "operation": "CREATE", "name": name,
        })
    };
    let agent = "system:serviceaccount:dynamicswap-system:dynamicswap-agent";
    let of = |node, resource, name| verdict(&request(agent, node, resource, name));
    assert_eq!(of(Some("a"), "memoryservers", "a"), None);
    assert_eq!(of(Some("a"), "swapdevices", "a"), None);
    let refused = of(Some("a"), "memoryservers", "b").expect("another node's");
    for part in ["node a", "memoryservers/b", "its own node alone"] {
        assert!(refused.contains(part), "{refused}");
    }
    assert!(of(Some("a"), "swapdevices", "").is_some(), "no name yet");
    let refused = of(Some("a"), "slabmaps", "a").expect("the controller's");
    assert!(refused.contains("no slabmaps"), "{refused}");
    let refused = of(None, "memoryservers", "a").expect("of no node");
    assert!(refused.contains("on which node"), "{refused}");
    let others = "system:serviceaccount:dynamicswap-system:dynamicswap-controller";
    assert_eq!(verdict(&request(others, None, "slabmaps", "x")), None);
    let without = json!({"userInfo": {"username": agent}, "name": "a", "operation": "UPDATE",
        "resource": {"resource": "memoryservers"}});
    assert!(verdict(&without).is_some());
}

#[test]
fn records_are_written_by_the_controller_and_by_nobody_else() {
    let of = |policy: &str, user: &str, groups: &[&str]| {
        let request = json!({
            "userInfo": {"username": user, "groups": groups},
            "resource": {"resource": "slabmaps"}, "operation": "DELETE", "name": "n1-0011",
        });
        verdict_of(policy, &request)
    };
    for policy in ["dynamicswap-slabmaps", "dynamicswap-records"] {
        let own = "system:serviceaccount:dynamicswap-system:dynamicswap-controller";
        assert_eq!(of(policy, own, &["system:serviceaccounts"]), None);
        let clearing = "system:serviceaccount:kube-system:namespace-controller";
        let groups = [
            "system:serviceaccounts",
            "system:serviceaccounts:kube-system",
        ];
        assert_eq!(of(policy, clearing, &groups), None);
        let refused = of(policy, "kubernetes-admin", &["kubeadm:cluster-admins"]).expect("by hand");
        for part in [
            "slabmaps/n1-0011",
            "the controller's record",
            "pages are lost",
        ] {
            assert!(refused.contains(part), "{refused}");
        }
        let agent = "system:serviceaccount:dynamicswap-system:dynamicswap-agent";
        assert!(
            of(
                policy,
                agent,
                &["system:serviceaccounts:dynamicswap-system"]
            )
            .is_some()
        );
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
