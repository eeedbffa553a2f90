//! All policies together: what they want of every swap device.
//!
//! A device serves every container of its node, so the strictest policy decides. Dry runs decide
//! nothing; paused ones still count for the class, because their pages are out there.

use std::collections::BTreeMap;
use std::time::Duration;

use dynamicswap_crds::{ObjectKey, RemoteMemoryPolicy};
use dynamicswap_planner::DeviceIntent;
use dynamicswap_types::{Copies, Durability, Integrity, Spill};

/// An empty slab's set goes back to the reserve after this time: long enough that a working set
/// which breathes does not move sets to and fro.
const EMPTY_SLAB_HOLD: Duration = Duration::from_secs(10);

/// The policies by namespace and name.
pub type Policies = BTreeMap<ObjectKey, RemoteMemoryPolicy>;

/// A policy that is stored somewhere and not understood.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RefusedPolicy {
    /// Its namespace.
    pub namespace: String,
    /// Its name.
    pub name: String,
    /// The generation of its spec.
    pub generation: Option<i64>,
    /// What is wrong, and what to write instead.
    pub why: String,
}

/// What the policies want; nothing while there is none.
///
/// `stall`: the shortest write hold, because failing a write early costs nothing but RAM, and the
/// longest read stall, because a read that fails kills its owner. `rebuild`: the lowest bandwidth.
pub fn intent(policies: &Policies) -> Option<DeviceIntent> {
    if policies.is_empty() {
        return None;
    }
    let all: Vec<&RemoteMemoryPolicy> = policies.values().collect();
    let real: Vec<&RemoteMemoryPolicy> = all
        .iter()
        .copied()
        .filter(|policy| !policy.spec.dry_run)
        .collect();
    let deciding = if real.is_empty() { &all } else { &real };
    let stalls = || deciding.iter().map(|policy| policy.spec.stall);
    Some(DeviceIntent {
        class: strictest(deciding),
        attach: policies.values().any(RemoteMemoryPolicy::in_force),
        integrity: integrity(policies),
        write_hold: stalls()
            .map(|stall| stall.write_hold)
            .min()
            .map_or(Duration::ZERO, |hold| hold.as_duration()),
        read_stall: stalls()
            .map(|stall| stall.read_stall)
            .max()
            .map_or(Duration::ZERO, |stall| stall.as_duration()),
        empty_slab_hold: EMPTY_SLAB_HOLD,
        copy_bandwidth: deciding
            .iter()
            .map(|policy| policy.spec.rebuild.bandwidth_max)
            .min(),
        policies: policies
            .values()
            .filter_map(|policy| serde_json::to_string(&policy.wanted()).ok())
            .collect(),
    })
}

/// The strictest integrity of those in force. A paused one asks for none: it attaches nothing, and
/// what is out left as a device protected it that was good enough then.
pub fn integrity(policies: &Policies) -> Integrity {
    let in_force = policies.values().filter(|policy| policy.in_force());
    let wanted = in_force.map(|policy| policy.spec.integrity);
    wanted.max().unwrap_or(Integrity::None)
}

/// Most copies; `Async` beats `None`; `Only` only if all say so.
fn strictest(policies: &[&RemoteMemoryPolicy]) -> Durability {
    let remote = || {
        policies
            .iter()
            .map(|policy| policy.spec.durability)
            .filter(|durability| durability.spill != Spill::Only)
    };
    let copies = |of: &mut dyn Iterator<Item = Copies>| of.max().unwrap_or(Copies::TWO);
    if remote().next().is_none() {
        return Durability {
            copies: copies(&mut policies.iter().map(|p| p.spec.durability.copies)),
            spill: Spill::Only,
        };
    }
    // A policy for the disk alone wants its pages on the disk: where others want remote memory
    // too, the disk behind it is what both get.
    let wants_disk = policies
        .iter()
        .any(|policy| policy.spec.durability.spill != Spill::None);
    Durability {
        copies: copies(&mut remote().map(|durability| durability.copies)),
        spill: if wants_disk {
            Spill::Async
        } else {
            Spill::None
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use dynamicswap_crds::parse_policies;

    fn policies(specs: &[&str]) -> Policies {
        let mut policies = Policies::new();
        for (index, spec) in specs.iter().enumerate() {
            let yaml = format!(
                "apiVersion: dynamicswap.io/v1alpha1\nkind: RemoteMemoryPolicy\n\
                 metadata: {{name: p{index}}}\nspec: {spec}\n"
            );
            for policy in parse_policies(&yaml).expect("valid") {
                policies.insert(policy.key().expect("named"), policy);
            }
        }
        policies
    }

    fn wanted(specs: &[&str]) -> DeviceIntent {
        intent(&policies(specs)).expect("some")
    }

    #[test]
    fn no_policy_wants_nothing() {
        assert_eq!(intent(&Policies::new()), None);
    }

    #[test]
    fn strictest_class_wins() {
        let one = "{durability: {copies: 1, spill: Async}}";
        let three = "{durability: {copies: 3}}";
        let disk = "{durability: {spill: Only}}";
        assert_eq!(wanted(&[one, three]).class.copies.get(), 3);
        assert_eq!(wanted(&[one, three]).class.spill, Spill::Async);
        assert_eq!(wanted(&[disk]).class.spill, Spill::Only);
        assert_eq!(wanted(&[disk, disk]).class.remote_copies(), 0);
        assert_eq!(wanted(&[disk, three]).class.spill, Spill::Async);
        assert_eq!(wanted(&[disk, one]).class.copies.get(), 1);
    }

    #[test]
    fn paused_and_dry_run_policies_attach_nothing() {
        assert!(!wanted(&["{paused: true}", "{dryRun: true}"]).attach);
        assert!(wanted(&["{paused: true}", "{}"]).attach);
    }

    #[test]
    fn strictest_integrity_in_force_wins() {
        let of = |specs: &[&str]| wanted(specs).integrity;
        assert_eq!(of(&["{}"]), Integrity::Tag64);
        assert_eq!(of(&["{integrity: none}"]), Integrity::None);
        assert_eq!(of(&["{integrity: none}", "{}"]), Integrity::Tag64);
        assert_eq!(of(&["{integrity: full}", "{}"]), Integrity::Full);
        let paused = "{integrity: full, paused: true}";
        let dry = "{integrity: full, dryRun: true}";
        assert_eq!(of(&[paused, dry, "{}"]), Integrity::Tag64);
    }

    #[test]
    fn dry_run_does_not_change_the_class() {
        let dry = "{dryRun: true, durability: {copies: 3}}";
        assert_eq!(wanted(&["{}", dry]).class.copies.get(), 2);
        assert_eq!(
            wanted(&["{paused: true, durability: {copies: 3}}", "{}"])
                .class
                .copies
                .get(),
            3
        );
    }

    #[test]
    fn shortest_write_hold_and_longest_read_stall_win() {
        let wanted = wanted(&[
            "{stall: {writeHold: 500ms, readStall: 10s}}",
            "{stall: {writeHold: 5s, readStall: 1m}}",
        ]);
        assert_eq!(wanted.write_hold, Duration::from_millis(500));
        assert_eq!(wanted.read_stall, Duration::from_secs(60));
    }
}
