//! The job that pages, and what its pod's state means.
//!
//! Pure: a manifest out, kubectl's JSON in.

use dynamicswap_types::Bytes;
use serde_json::{Value, json};

use super::choose::{Labels, NAME_LABEL};

/// What the job's name begins with.
const NAME_PREFIX: &str = "dynamicswap-test-";
/// Its container.
const CONTAINER: &str = "verify";
/// A condition that nobody ever sets: a pod that is never Ready gets no traffic of a Service whose
/// selector it fits by the policy's labels.
const NEVER: &str = "dynamicswap.io/takes-no-traffic";
/// The cluster removes the job itself so long after its end, should nobody else.
const REMAINS_S: u32 = 300;
/// The cluster ends the job so long after whoever follows it has given up, should nobody else.
const GRACE_S: u32 = 60;
/// Time between two of the workload's lines.
const PROGRESS_MS: &str = "250";
/// Seconds for which the workload waits until its container may swap: the agent lets it out once it knows
/// of it. One that filled its memory sooner would be killed.
const WAIT_SWAP_S: &str = "60";
/// Why a container that waits will not start by itself.
const STUCK: [&str; 7] = [
    "CreateContainerConfigError",
    "CreateContainerError",
    "ErrImageNeverPull",
    "ImageInspectError",
    "ImagePullBackOff",
    "InvalidImageName",
    "RunContainerError",
];

/// What is to be made.
#[derive(Debug, Clone, PartialEq)]
pub struct Plan {
    /// Where.
    pub node: String,
    /// Whether the node's taints do not matter: it was named.
    pub node_is_named: bool,
    /// The pod's labels.
    pub labels: Labels,
    /// The workload's image.
    pub image: String,
    /// Memory that it needs.
    pub memory: Bytes,
    /// Memory that it may keep.
    pub limit: Bytes,
    /// Seconds of random accesses.
    pub churn_s: f64,
    /// Longest time for all of it, in seconds.
    pub timeout_s: u32,
}

impl Plan {
    /// The manifest. A job and not a pod alone, because a pod without an owner that fits another
    /// controller's selector by the policy's labels would be taken for one of its own.
    #[must_use]
    pub fn manifest(&self) -> Value {
        json!({
            "apiVersion": "batch/v1",
            "kind": "Job",
            "metadata": {
                "generateName": NAME_PREFIX,
                "labels": {(NAME_LABEL.0): NAME_LABEL.1},
            },
            "spec": {
                "backoffLimit": 0,
                "activeDeadlineSeconds": self.timeout_s.saturating_add(GRACE_S),
                "ttlSecondsAfterFinished": REMAINS_S,
                "template": {"metadata": {"labels": self.labels}, "spec": self.pod()},
            },
        })
    }

    fn pod(&self) -> Value {
        let named = json!({"key": "metadata.name", "operator": "In", "values": [self.node]});
        let terms = json!([{"matchFields": [named]}]);
        let tolerations = if self.node_is_named {
            json!([{"operator": "Exists"}])
        } else {
            json!([])
        };
        json!({
            "restartPolicy": "Never",
            "terminationGracePeriodSeconds": 1,
            "automountServiceAccountToken": false,
            "readinessGates": [{"conditionType": NEVER}],
            "affinity": {"nodeAffinity": {
                "requiredDuringSchedulingIgnoredDuringExecution": {"nodeSelectorTerms": terms},
            }},
            "tolerations": tolerations,
            "securityContext": {
                "runAsNonRoot": true,
                "runAsUser": 65532,
                "runAsGroup": 65532,
                "seccompProfile": {"type": "RuntimeDefault"},
            },
            "containers": [self.container()],
        })
    }

    fn container(&self) -> Value {
        let (memory, limit) = (self.memory.to_string(), self.limit.to_string());
        let seconds = self.churn_s.to_string();
        let arguments = [
            "verify",
            "--size",
            &memory,
            "--threads",
            "1",
            "--seconds",
            &seconds,
            "--progress-ms",
            PROGRESS_MS,
            "--wait-swap",
            WAIT_SWAP_S,
        ];
        json!({
            "name": CONTAINER,
            "image": self.image,
            "args": arguments,
            "resources": {
                "requests": {"cpu": "100m", "memory": limit},
                "limits": {"cpu": "1", "memory": limit},
            },
            "securityContext": {
                "allowPrivilegeEscalation": false,
                "readOnlyRootFilesystem": true,
                "capabilities": {"drop": ["ALL"]},
            },
        })
    }
}

/// A pod at one moment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum PodState {
    /// Not started yet, and why.
    Waiting(String),
    /// Will not start unless somebody mends something: what.
    Stuck(String),
    /// Works.
    Running,
    /// Has ended.
    Ended {
        /// The program's exit code; none if it never ran.
        code: Option<i64>,
        /// The kubelet's word: `Completed`, `OOMKilled`, `Error`, `Evicted`.
        reason: String,
    },
}

impl PodState {
    /// By the pod as kubectl gives it.
    #[must_use]
    pub fn of(pod: &Value) -> Self {
        let status = &pod["status"];
        let state = &status["containerStatuses"][0]["state"];
        if let Some(ended) = state.get("terminated") {
            return Self::Ended {
                code: ended["exitCode"].as_i64(),
                reason: text(&ended["reason"]),
            };
        }
        if status["phase"] == "Failed" {
            return Self::Ended {
                code: None,
                reason: sentence(&status["reason"], &status["message"]),
            };
        }
        if state.get("running").is_some() {
            return Self::Running;
        }
        let waiting = &state["waiting"];
        let why = sentence(&waiting["reason"], &waiting["message"]);
        if STUCK.iter().any(|stuck| waiting["reason"] == *stuck) {
            return Self::Stuck(why);
        }
        Self::Waiting(unscheduled(status).unwrap_or(why))
    }
}

/// Why no node takes it.
fn unscheduled(status: &Value) -> Option<String> {
    let conditions = status["conditions"].as_array()?;
    let scheduled = conditions.iter().find(|it| it["type"] == "PodScheduled")?;
    let why = || sentence(&scheduled["reason"], &scheduled["message"]);
    (scheduled["status"] == "False").then(why)
}

fn text(value: &Value) -> String {
    value.as_str().unwrap_or_default().to_owned()
}

fn sentence(reason: &Value, message: &Value) -> String {
    let parts = [text(reason), text(message)];
    let said: Vec<&str> = parts.iter().map(String::as_str).collect();
    let said: Vec<&str> = said.into_iter().filter(|part| !part.is_empty()).collect();
    said.join(": ")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn plan() -> Plan {
        Plan {
            node: "b1".to_owned(),
            node_is_named: false,
            labels: Labels::from([("app".to_owned(), "web".to_owned())]),
            image: "r/dynamicswap-workload:1".to_owned(),
            memory: Bytes::from_mib(192),
            limit: Bytes::from_mib(96),
            churn_s: 2.5,
            timeout_s: 300,
        }
    }

    #[test]
    fn job_runs_the_workload_on_the_node_with_half_of_its_memory() {
        let job = plan().manifest();
        assert_eq!(job["kind"], "Job");
        let spec = &job["spec"]["template"]["spec"];
        let container = &spec["containers"][0];
        let arguments = json!([
            "verify",
            "--size",
            "192Mi",
            "--threads",
            "1",
            "--seconds",
            "2.5",
            "--progress-ms",
            "250",
            "--wait-swap",
            "60",
        ]);
        assert_eq!(container["args"], arguments);
        assert_eq!(container["resources"]["limits"]["memory"], "96Mi");
        assert_eq!(container["resources"]["requests"]["memory"], "96Mi");
        let affinity = spec.pointer(
            "/affinity/nodeAffinity/requiredDuringSchedulingIgnoredDuringExecution/nodeSelectorTerms",
        );
        let field = json!({"key": "metadata.name", "operator": "In", "values": ["b1"]});
        assert_eq!(affinity, Some(&json!([{"matchFields": [field]}])));
        assert_eq!(
            job["spec"]["template"]["metadata"]["labels"],
            json!({"app": "web"})
        );
    }

    #[test]
    fn labels_of_others_bring_neither_traffic_nor_an_owner() {
        let job = plan().manifest();
        assert_eq!(
            job["metadata"]["labels"],
            json!({"app.kubernetes.io/name": "dynamicswap-test"})
        );
        let spec = &job["spec"]["template"]["spec"];
        assert_eq!(spec["readinessGates"][0]["conditionType"], NEVER);
    }

    #[test]
    fn job_does_not_outlive_its_caller_and_needs_no_right() {
        let job = plan().manifest();
        assert_eq!(job["spec"]["activeDeadlineSeconds"], 360);
        assert_eq!(job["spec"]["ttlSecondsAfterFinished"], 300);
        assert_eq!(job["spec"]["backoffLimit"], 0);
        let spec = &job["spec"]["template"]["spec"];
        assert_eq!(spec["automountServiceAccountToken"], false);
        assert_eq!(spec["securityContext"]["runAsNonRoot"], true);
        let container = &spec["containers"][0]["securityContext"];
        assert_eq!(container["capabilities"], json!({"drop": ["ALL"]}));
    }

    #[test]
    fn taints_matter_unless_the_node_was_named() {
        let tolerations = |plan: &Plan| plan.pod()["tolerations"].clone();
        assert_eq!(tolerations(&plan()), json!([]));
        let named = Plan {
            node_is_named: true,
            ..plan()
        };
        assert_eq!(tolerations(&named), json!([{"operator": "Exists"}]));
    }

    fn pod(state: &Value) -> Value {
        json!({"status": {"phase": "Pending", "containerStatuses": [{"state": state}]}})
    }

    #[test]
    fn state_is_the_container_s() {
        let ended = pod(&json!({"terminated": {"exitCode": 137, "reason": "OOMKilled"}}));
        let killed = PodState::Ended {
            code: Some(137),
            reason: "OOMKilled".to_owned(),
        };
        assert_eq!(PodState::of(&ended), killed);
        assert_eq!(
            PodState::of(&pod(&json!({"running": {}}))),
            PodState::Running
        );
        let creating = pod(&json!({"waiting": {"reason": "ContainerCreating"}}));
        let waits = PodState::Waiting("ContainerCreating".to_owned());
        assert_eq!(PodState::of(&creating), waits);
    }

    #[test]
    fn image_that_cannot_be_had_is_not_waited_for() {
        let state = json!({"waiting": {"reason": "ImagePullBackOff", "message": "no such image"}});
        let stuck = PodState::Stuck("ImagePullBackOff: no such image".to_owned());
        assert_eq!(PodState::of(&pod(&state)), stuck);
    }

    #[test]
    fn pod_without_a_container_says_why() {
        let condition = json!({
            "type": "PodScheduled", "status": "False", "reason": "Unschedulable",
            "message": "Insufficient memory",
        });
        let pending = json!({"status": {"phase": "Pending", "conditions": [condition]}});
        let waits = PodState::Waiting("Unschedulable: Insufficient memory".to_owned());
        assert_eq!(PodState::of(&pending), waits);
        let failed = json!({"status": {"phase": "Failed", "reason": "Evicted", "message": "low"}});
        let evicted = PodState::Ended {
            code: None,
            reason: "Evicted: low".to_owned(),
        };
        assert_eq!(PodState::of(&failed), evicted);
    }
}
