//! The policies of the kept document: which one judges a container's pressure, and which one lets
//! it out.

use std::collections::BTreeMap;

use dynamicswap_crds::{ObjectKey, PressureSpec, RemoteMemoryPolicy};
use dynamicswap_policy::{Allotment, Selection, Share, Thresholds};

use crate::containers::Container;
use crate::repaging::settings::Wishes;

/// The policies of a document, by namespace and name.
#[derive(Debug, Default)]
pub struct Policies {
    policies: BTreeMap<ObjectKey, RemoteMemoryPolicy>,
    /// What is wrong with policies that are left out, a sentence each.
    pub warnings: Vec<String>,
}

impl Policies {
    /// Reads the policies of a document.
    #[must_use]
    pub fn of(documents: &[String]) -> Self {
        let mut policies = Self::default();
        for json in documents {
            let read = serde_json::from_str::<RemoteMemoryPolicy>(json);
            let named = read.map_err(|error| error.to_string()).and_then(|policy| {
                let key = policy.key().map_err(|error| error.to_string())?;
                Ok((key, policy))
            });
            match named {
                Ok((key, policy)) => {
                    policies.policies.insert(key, policy);
                }
                Err(error) => policies.warnings.push(format!(
                    "a policy of the controller is not understood, so that its containers are \
                     judged without it: {error}: upgrade this agent"
                )),
            }
        }
        policies
    }

    /// The policy that judges a container: of those that select it, the one that is reached
    /// first, and among equals the first by name. A paused one selects nothing; a dry run does,
    /// because it shall report.
    #[must_use]
    pub fn select(&self, container: &Container) -> Option<(&ObjectKey, Thresholds)> {
        self.selecting(container)
            .map(|(key, policy)| (key, thresholds(&policy.spec.pressure)))
            .min_by_key(|(_, thresholds)| *thresholds)
    }

    /// What the policies say about a container's swap: of those in force that select it, the
    /// strictest decides; without one, a dry run is told.
    #[must_use]
    pub fn selection(&self, container: &Container) -> Selection {
        if let Some(why) = container.barred {
            return Selection::Barred(why);
        }
        let strictest = |dry_run| self.allotments(container, dry_run).into_iter().next();
        let allowed = strictest(false).map(Selection::Allowed);
        let said = allowed.or_else(|| strictest(true).map(Selection::DryRun));
        said.unwrap_or(Selection::None)
    }

    /// The policies that select a container, the one that decides about its swap first, dry runs
    /// last.
    #[must_use]
    pub fn selected_by(&self, container: &Container) -> Vec<String> {
        let mut all = self.allotments(container, false);
        all.extend(self.allotments(container, true));
        all.into_iter().map(|it| it.policy).collect()
    }

    /// What the policies that select a container allow it, the strictest first.
    fn allotments(&self, container: &Container, dry_run: bool) -> Vec<Allotment> {
        let selecting = self.selecting(container);
        let allotments = selecting
            .filter(|(_, policy)| policy.spec.dry_run == dry_run)
            .map(|(key, policy)| allotment(key, policy));
        Allotment::by_strictness(allotments)
    }

    /// What the policy that decides about a container's swap says of re-paging; none if none does.
    #[must_use]
    pub fn wishes(&self, selection: &Selection) -> Option<Wishes> {
        let (Selection::Allowed(allotment) | Selection::DryRun(allotment)) = selection else {
            return None;
        };
        let mut policies = self.policies.iter();
        let (_, policy) = policies.find(|(key, _)| key.to_string() == allotment.policy)?;
        Some(Wishes {
            offload: policy.spec.offload,
            homecoming: policy.spec.homecoming,
            dry_run: policy.spec.dry_run,
        })
    }

    /// The policies that select a container; a paused one selects nothing.
    fn selecting(
        &self,
        container: &Container,
    ) -> impl Iterator<Item = (&ObjectKey, &RemoteMemoryPolicy)> {
        self.policies.iter().filter(|(key, policy)| {
            !policy.spec.paused
                && key.namespace.as_str() == container.namespace
                && policy.spec.pod_selector.selects(&container.labels)
        })
    }
}

fn allotment(key: &ObjectKey, policy: &RemoteMemoryPolicy) -> Allotment {
    let limits = policy.spec.limits;
    Allotment {
        policy: key.to_string(),
        per_container: limits.per_container,
        per_namespace: limits.per_namespace,
    }
}

fn thresholds(spec: &PressureSpec) -> Thresholds {
    Thresholds {
        some: Share::from_hundredths(spec.some_avg10_percent.hundredths()),
        full: Share::from_hundredths(spec.full_avg10_percent.hundredths()),
        calm_after: spec.calm_after.as_duration(),
    }
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;
    use std::time::Duration;

    use dynamicswap_crds::parse_policies;
    use dynamicswap_policy::Barred;

    use super::*;

    fn policies(specs: &[(&str, &str)]) -> Policies {
        let yaml = |(name, spec): &(&str, &str)| {
            format!(
                "apiVersion: dynamicswap.io/v1alpha1\nkind: RemoteMemoryPolicy\n\
                 metadata: {{name: {name}}}\nspec: {spec}\n"
            )
        };
        let json = |yaml: String| {
            let policies = parse_policies(&yaml).expect("valid");
            serde_json::to_string(&policies[0]).expect("plain")
        };
        Policies::of(&specs.iter().map(yaml).map(json).collect::<Vec<_>>())
    }

    fn container(namespace: &str) -> Container {
        Container {
            namespace: namespace.to_owned(),
            name: "web-1".to_owned(),
            labels: BTreeMap::from([("app".to_owned(), "web".to_owned())]),
            memory_cgroup: PathBuf::from("/m"),
            unified_cgroup: PathBuf::from("/u"),
            barred: None,
        }
    }

    fn selected(specs: &[(&str, &str)], namespace: &str) -> Option<(String, Thresholds)> {
        let policies = policies(specs);
        let found = policies.select(&container(namespace));
        found.map(|(key, thresholds)| (key.to_string(), thresholds))
    }

    #[test]
    fn policy_of_the_namespace_whose_labels_match_is_selected() {
        let all = ("all", "{pressure: {someAvg10Percent: 20, calmAfter: 3s}}");
        let other = ("other", "{podSelector: {matchLabels: {app: db}}}");
        let (name, thresholds) = selected(&[all, other], "default").expect("one");
        assert_eq!(name, "default/all");
        assert_eq!(thresholds.some, Share::from_hundredths(2_000));
        assert_eq!(thresholds.calm_after, Duration::from_secs(3));
        assert_eq!(selected(&[all, other], "elsewhere"), None);
    }

    #[test]
    fn of_several_the_one_that_is_reached_first_decides() {
        let high = ("a", "{pressure: {someAvg10Percent: 50}}");
        let low = ("b", "{dryRun: true}");
        let (name, _) = selected(&[high, low], "default").expect("one");
        assert_eq!(name, "default/b");
        let (name, _) = selected(&[("y", "{}"), ("x", "{}")], "default").expect("one");
        assert_eq!(name, "default/x");
    }

    #[test]
    fn paused_policy_selects_nothing() {
        assert_eq!(selected(&[("a", "{paused: true}")], "default"), None);
    }

    #[test]
    fn strictest_policy_in_force_lets_out_and_a_dry_run_is_told() {
        let wide = ("wide", "{limits: {perContainer: 2Gi}}");
        let narrow = ("narrow", "{limits: {perContainer: 1Gi}}");
        let dry = ("dry", "{dryRun: true}");
        let paused = ("paused", "{paused: true, limits: {perContainer: 1Mi}}");
        let said = |specs: &[(&str, &str)]| policies(specs).selection(&container("default"));
        let deciding = match said(&[wide, narrow, dry, paused]) {
            Selection::Allowed(allotment) => allotment.policy,
            other => panic!("{other:?}"),
        };
        assert_eq!(deciding, "default/narrow");
        let all = policies(&[dry, wide, narrow, paused]).selected_by(&container("default"));
        assert_eq!(all, ["default/narrow", "default/wide", "default/dry"]);
        assert!(matches!(said(&[dry, paused]), Selection::DryRun(_)));
        assert_eq!(said(&[paused]), Selection::None);
        let mut out = container("default");
        out.barred = Some(Barred::OptedOut);
        let barred = Selection::Barred(Barred::OptedOut);
        assert_eq!(policies(&[wide]).selection(&out), barred);
    }

    #[test]
    fn policy_that_decides_says_when_pages_leave_and_come_home() {
        let wide = (
            "wide",
            "{limits: {perContainer: 2Gi}, return: {enabled: false}}",
        );
        let narrow = (
            "narrow",
            "{limits: {perContainer: 1Gi}, offload: {proactive: false}}",
        );
        let policies = policies(&[wide, narrow]);
        let selection = policies.selection(&container("default"));
        let wishes = policies.wishes(&selection).expect("one");
        assert!(wishes.homecoming.enabled && !wishes.offload.proactive);
        assert_eq!(policies.wishes(&Selection::None), None);
    }

    #[test]
    fn default_thresholds_are_those_of_a_policy_that_says_nothing() {
        assert_eq!(thresholds(&PressureSpec::default()), Thresholds::default());
    }

    #[test]
    fn policy_of_a_later_version_is_a_warning() {
        let policies = Policies::of(&["{\"spec\": {\"later\": 1}}".to_owned()]);
        assert!(policies.warnings[0].contains("upgrade this agent"));
    }
}
