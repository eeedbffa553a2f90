//! What operators ask: apply, delete, get, status.

use dynamicswap_crds::{Kind, ObjectKey, Slab, parse_policies};
use dynamicswap_planner::NodeRecord;
use dynamicswap_proto::control::v1::{ClusterStatus, DeleteRequest, GetRequest, NodeStatus};
use dynamicswap_types::NodeName;
use tonic::Status;

use super::Owner;
use super::kept_report::KeptReport;
use crate::clock::{as_millis, unix_ms};
use crate::limits::POLICIES_MAX;
use crate::policies::{Policies, RefusedPolicy, intent};
use crate::store::{Change, StoreError};
use crate::views::Views;

impl Owner {
    /// Checks and keeps policies, all or none.
    pub(super) fn apply(&mut self, yaml: &str) -> Result<Vec<String>, Status> {
        let applied =
            parse_policies(yaml).map_err(|error| Status::invalid_argument(error.to_string()))?;
        let mut policies = self.policies.clone();
        let (mut results, mut changes) = (Vec::new(), Vec::new());
        for policy in applied {
            let key = policy
                .key()
                .map_err(|error| Status::invalid_argument(error.to_string()))?;
            let verb = match policies.get(&key) {
                None => "created",
                Some(before) if *before == policy => "unchanged",
                Some(_) => "configured",
            };
            results.push(format!(
                "remotememorypolicy.dynamicswap.io/{} {verb}",
                key.name
            ));
            if verb != "unchanged" {
                changes.push(Change::Policy(key.clone(), Some(Box::new(policy.clone()))));
                policies.insert(key, policy);
            }
        }
        if policies.len() > POLICIES_MAX {
            return Err(Status::resource_exhausted(format!(
                "{} policies are over the limit of {POLICIES_MAX}",
                policies.len()
            )));
        }
        self.keep_policies(policies, &changes, "nothing was applied")?;
        for result in &results {
            self.events.note("", "PolicyApplied", result.clone());
        }
        Ok(results)
    }

    /// Takes policies away, all or none.
    pub(super) fn delete(&mut self, request: &DeleteRequest) -> Result<Vec<String>, Status> {
        let kind = Kind::from_word(&request.kind)
            .map_err(|error| Status::invalid_argument(error.to_string()))?;
        if kind != Kind::RemoteMemoryPolicy {
            return Err(Status::invalid_argument(format!(
                "{} objects are made by the controller and cannot be deleted: only policies can",
                kind.name()
            )));
        }
        let mut policies = self.policies.clone();
        let (mut results, mut changes) = (Vec::new(), Vec::new());
        for name in &request.names {
            let invalid = |error: &dyn std::fmt::Display| {
                Status::invalid_argument(format!(
                    "'{name}' in namespace '{}': {error}",
                    request.namespace
                ))
            };
            let key = ObjectKey {
                namespace: request.namespace.parse().map_err(|error| invalid(&error))?,
                name: name.parse().map_err(|error| invalid(&error))?,
            };
            if policies.remove(&key).is_none() {
                return Err(Status::not_found(format!(
                    "there is no policy {key}, and nothing was deleted: 'get rmp -n {}' lists \
                     those of the namespace",
                    key.namespace
                )));
            }
            results.push(format!(
                "remotememorypolicy.dynamicswap.io/{} deleted",
                key.name
            ));
            changes.push(Change::Policy(key, None));
        }
        self.keep_policies(policies, &changes, "nothing was deleted")?;
        for result in &results {
            self.events.note("", "PolicyDeleted", result.clone());
        }
        Ok(results)
    }

    /// Has the policies persisted, and plans by them from then on.
    fn keep_policies(
        &mut self,
        policies: Policies,
        changes: &[Change],
        failure: &str,
    ) -> Result<(), Status> {
        tokio::task::block_in_place(|| self.store.commit(changes)).map_err(
            |error| match error {
                // Its sentence says what the operator shall do instead.
                StoreError::Refused(why) => {
                    Status::failed_precondition(format!("{failure}: {why}"))
                }
                error => {
                    let error = anyhow::Error::from(error);
                    Status::internal(format!("{failure}: {error:#}"))
                }
            },
        )?;
        self.dirty |= !changes.is_empty();
        self.plan_by(policies);
        Ok(())
    }

    fn plan_by(&mut self, policies: Policies) {
        self.overlaps_told.forget_all_but(&policies);
        self.intent = intent(&policies);
        self.policies = policies;
    }

    /// Plans by these policies from now on. They are kept where they come from.
    pub(super) fn follow_policies(&mut self, policies: Policies, refused: Vec<RefusedPolicy>) {
        for policy in &refused {
            if !self.policies_refused.contains(policy) {
                let sentence = format!("{}/{}: {}", policy.namespace, policy.name, policy.why);
                self.events.note("", "PolicyRefused", sentence);
            }
        }
        self.policies_refused = refused;
        if self.policies == policies {
            return;
        }
        for (key, policy) in &policies {
            if self.policies.get(key) != Some(policy) {
                let result = format!("remotememorypolicy.dynamicswap.io/{key}");
                self.events.note("", "PolicyApplied", result);
            }
        }
        for key in self
            .policies
            .keys()
            .filter(|key| !policies.contains_key(key))
        {
            let result = format!("remotememorypolicy.dynamicswap.io/{key}");
            self.events.note("", "PolicyDeleted", result);
        }
        self.plan_by(policies);
        self.dirty = true;
    }

    /// Objects as JSON.
    pub(super) fn get(&mut self, request: &GetRequest) -> Result<Vec<String>, Status> {
        let is_slabs = Slab::WORDS.contains(&request.kind.to_lowercase().as_str());
        let kinds = if request.kind.is_empty() {
            Kind::ALL.to_vec()
        } else if is_slabs {
            Vec::new()
        } else {
            let kind = Kind::from_word(&request.kind)
                .map_err(|error| Status::invalid_argument(error.to_string()))?;
            vec![kind]
        };
        let mut views = Views {
            ledger: &self.kept,
            seen: &self.seen,
            reports: &|node: &NodeName| Some(&*self.memory.get(node)?.report.as_ref()?.light),
            sets: &|node: &NodeName| {
                let report = self.memory.get(node).and_then(|it| it.report.as_ref());
                report.map_or_else(Vec::new, KeptReport::sets)
            },
            waits: &|node: &NodeName| {
                let mut reasons = self.plan.report.iter().map(|line| &line.reason);
                reasons.find(|reason| reason.told_on() == Some(node))
            },
            generations: &|node: &NodeName| self.memory.get(node)?.generation,
            policies: &self.policies,
            refused: &self.policies_refused,
            times: &mut self.condition_times,
            unix_ms: unix_ms(),
        };
        let no_json = |error| Status::internal(format!("an object has no JSON form: {error}"));
        if is_slabs {
            return views.slabs(&request.name).map_err(no_json);
        }
        let mut objects = Vec::new();
        for kind in kinds {
            let found = views.objects(kind, &request.namespace, &request.name);
            objects.extend(found.map_err(no_json)?);
        }
        Ok(objects)
    }

    /// Everything for `status` and `top`.
    pub(super) fn status(&self, events_after: u64) -> ClusterStatus {
        let mut plan_report: Vec<String> = self.trouble.iter().cloned().collect();
        plan_report.extend(self.plan.report.iter().map(ToString::to_string));
        let trouble = self.trouble.iter();
        let mut plan_waits: Vec<String> = trouble.map(|t| format!("stands still: {t}")).collect();
        let waits = self.plan.report.iter().filter(|l| l.reason.is_wait());
        plan_waits.extend(waits.map(ToString::to_string));
        ClusterStatus {
            term: self.term.get(),
            uptime_ms: as_millis(self.clock.uptime()),
            nodes: self
                .draft
                .nodes
                .iter()
                .filter(|(node, record)| self.is_shown(node, record))
                .map(|(node, _)| self.node_status(node))
                .collect(),
            plan_report,
            plan_waits,
            events: self.events.after(events_after),
            policies: u32::try_from(self.policies.len()).unwrap_or(u32::MAX),
            controller_rss_bytes: resident_bytes().unwrap_or(0),
        }
    }

    /// One that was forgotten is not, once nothing lies on it.
    pub(super) fn is_shown(&self, node: &NodeName, record: &NodeRecord) -> bool {
        record.borrower
            || record.donor
            || self.sessions.contains_key(node)
            || self.draft.holds_slots(node)
    }

    fn node_status(&self, node: &NodeName) -> NodeStatus {
        let record = self.draft.nodes.get(node);
        let memory = self.memory.get(node);
        let now = self.clock.now();
        NodeStatus {
            node: node.to_string(),
            connected: self.sessions.contains_key(node),
            last_seen_ms: memory.map_or_else(
                || as_millis(self.clock.uptime()),
                |memory| as_millis(now.since(memory.last_seen)),
            ),
            failure_domain: record.map_or_else(String::new, |record| record.domain.to_string()),
            generation_wanted: record.map_or(0, |record| record.published.generation.get()),
            report: memory.and_then(|memory| memory.report.as_ref().map(KeptReport::whole)),
            borrower: record.is_some_and(|record| record.borrower),
            donor: record.is_some_and(|record| record.donor),
            cordoned: record.is_some_and(|record| record.cordoned),
            draining: record.is_some_and(|record| record.drain.is_some()),
        }
    }
}

/// This process's resident memory.
fn resident_bytes() -> Option<u64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find(|line| line.starts_with("VmRSS:"))?;
    let kib: u64 = line.split_whitespace().nth(1)?.parse().ok()?;
    Some(kib * 1024)
}
