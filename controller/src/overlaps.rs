//! Policies that select the same containers: what each is told of it, in a condition and an event.
//!
//! Agents decide by the rule in docs/architecture.md and report who selects a container; here it is
//! only said.

use std::collections::BTreeSet;

use dynamicswap_crds::Verdict;
use dynamicswap_proto::control::v1::ContainerReport;

use crate::limits::POLICIES_SHOWN_MAX;
use crate::policies::Policies;

/// How the strictest is found.
const RULE: &str = "of several the strictest decides what goes out: the lowest limits.perContainer, \
                    then limits.perNamespace, then the first by name";

/// The policies in force that select a container, the one that decides about its swap first.
fn rivals<'a>(container: &'a ContainerReport, in_force: &BTreeSet<String>) -> Vec<&'a String> {
    let all = container.selected_by.iter();
    all.filter(|it| in_force.contains(*it)).collect()
}

/// The names of the policies in force, as agents report them.
pub fn in_force(policies: &Policies) -> BTreeSet<String> {
    let in_force = policies.iter().filter(|(_, policy)| policy.in_force());
    in_force.map(|(key, _)| key.to_string()).collect()
}

/// One policy among others.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Overlap {
    /// Containers that another one in force selects too.
    shared: u32,
    /// Of these, the ones that another one decides about.
    overruled: u32,
    others: BTreeSet<String>,
}

impl Overlap {
    /// Counts a container that the policy `own` selects.
    pub fn count(&mut self, own: &str, container: &ContainerReport, in_force: &BTreeSet<String>) {
        let rivals = rivals(container, in_force);
        if rivals.len() < 2 || !rivals.iter().any(|it| *it == own) {
            return;
        }
        self.shared = self.shared.saturating_add(1);
        if rivals[0] != own {
            self.overruled = self.overruled.saturating_add(1);
        }
        let others = rivals.into_iter().filter(|it| *it != own);
        self.others.extend(others.cloned());
    }

    /// The condition that says so.
    pub fn verdict(&self) -> Verdict {
        let (reason, message) = if self.others.is_empty() {
            ("NoOther", String::new())
        } else {
            let shown: Vec<&str> = self.others.iter().map(String::as_str).collect();
            let (first, more) = shown.split_at(shown.len().min(POLICIES_SHOWN_MAX));
            let more = match more.len() {
                0 => String::new(),
                more => format!(" and {more} more"),
            };
            let message = format!(
                "{} of its containers are selected by {}{more} too, {} of them decided there: {RULE}",
                self.shared,
                first.join(", "),
                self.overruled
            );
            ("OtherPolicySelects", message)
        };
        Verdict {
            name: "Overlapping",
            holds: !self.others.is_empty(),
            reason,
            message,
        }
    }
}

/// Overlaps that were told as events: each policy and another one, once while both are in force.
#[derive(Debug, Default)]
pub struct Told {
    pairs: BTreeSet<(String, String)>,
}

impl Told {
    /// What a report of a node shows that was not told: sentences that begin with the policy.
    pub fn news(
        &mut self,
        node: &str,
        containers: &[ContainerReport],
        policies: &Policies,
    ) -> Vec<String> {
        let mut news = Vec::new();
        let shared = containers.iter().filter(|it| it.selected_by.len() > 1);
        let mut known: Option<BTreeSet<String>> = None;
        for container in shared {
            let in_force = known.get_or_insert_with(|| in_force(policies));
            let rivals = rivals(container, in_force);
            let pairs = rivals
                .iter()
                .flat_map(|own| rivals.iter().map(move |other| (*own, *other)));
            for (own, other) in pairs.filter(|(own, other)| own != other) {
                if self.pairs.insert((own.clone(), other.clone())) {
                    let name = format!("{}/{}", container.namespace, container.name);
                    let decider = rivals[0];
                    news.push(format!(
                        "{own}: {other} selects {name} on {node} too, and {decider} decides there: \
                         {RULE}"
                    ));
                }
            }
        }
        news
    }

    /// Policies changed: what no longer holds is told anew when it holds again.
    pub fn forget_all_but(&mut self, policies: &Policies) {
        let in_force = in_force(policies);
        self.pairs
            .retain(|(own, other)| in_force.contains(own) && in_force.contains(other));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use dynamicswap_crds::parse_policies;

    fn policies(specs: &[(&str, &str)]) -> Policies {
        let yaml = |(name, spec): &(&str, &str)| {
            format!(
                "apiVersion: dynamicswap.io/v1alpha1\nkind: RemoteMemoryPolicy\n\
                 metadata: {{name: {name}}}\nspec: {spec}\n"
            )
        };
        let parsed = specs.iter().flat_map(|it| parse_policies(&yaml(it)));
        let keyed = parsed
            .flatten()
            .map(|it| (it.key().expect("it has a name"), it));
        keyed.collect()
    }

    fn container(selected_by: &[&str]) -> ContainerReport {
        ContainerReport {
            namespace: "default".to_owned(),
            name: "web-1".to_owned(),
            selected_by: selected_by.iter().map(|it| (*it).to_owned()).collect(),
            ..ContainerReport::default()
        }
    }

    fn overlap(own: &str, containers: &[ContainerReport], policies: &Policies) -> Verdict {
        let mut overlap = Overlap::default();
        for container in containers {
            overlap.count(own, container, &in_force(policies));
        }
        overlap.verdict()
    }

    #[test]
    fn shared_containers_are_told_to_both_policies_with_who_decides() {
        let all = policies(&[("a", "{}"), ("b", "{limits: {perContainer: 1Gi}}")]);
        let shared = container(&["default/b", "default/a"]);
        let containers = [shared, container(&["default/a"])];
        let of_a = overlap("default/a", &containers, &all);
        assert!(of_a.holds);
        let told = "1 of its containers are selected by default/b too, 1 of them decided there";
        assert!(of_a.message.starts_with(told), "{}", of_a.message);
        let of_b = overlap("default/b", &containers, &all);
        let told = "1 of its containers are selected by default/a too, 0 of them decided there";
        assert!(of_b.message.starts_with(told), "{}", of_b.message);
        assert_eq!(
            overlap("default/a", &containers[1..], &all).reason,
            "NoOther"
        );
    }

    #[test]
    fn dry_runs_and_policies_that_are_gone_overlap_with_nobody() {
        let all = policies(&[("a", "{}"), ("b", "{dryRun: true}")]);
        let shared = container(&["default/a", "default/gone", "default/b"]);
        let mut told = Told::default();
        assert!(
            told.news("n", std::slice::from_ref(&shared), &all)
                .is_empty()
        );
        for own in ["default/a", "default/b"] {
            assert!(!overlap(own, std::slice::from_ref(&shared), &all).holds);
        }
    }

    #[test]
    fn overlap_is_news_once_for_each_policy_and_again_after_it_had_ended() {
        let both = policies(&[("a", "{}"), ("b", "{}")]);
        let shared = [container(&["default/a", "default/b"])];
        let mut told = Told::default();
        let news = told.news("n", &shared, &both);
        assert_eq!(news.len(), 2, "{news:?}");
        let first =
            "default/a: default/b selects default/web-1 on n too, and default/a decides there";
        assert!(news[0].starts_with(first), "{news:?}");
        assert!(told.news("n", &shared, &both).is_empty());
        told.forget_all_but(&both);
        assert!(told.news("n", &shared, &both).is_empty());
        told.forget_all_but(&policies(&[("a", "{}"), ("b", "{paused: true}")]));
        assert_eq!(told.news("n", &shared, &both).len(), 2);
    }
}
