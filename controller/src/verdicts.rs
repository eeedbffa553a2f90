//! What conditions say of donors and devices: pure.

use dynamicswap_crds::Verdict;
use dynamicswap_planner::{DeviceRecord, NodeRecord, Reason};
use dynamicswap_types::Integrity;

/// A verdict in one line.
pub fn verdict(name: &'static str, holds: bool, reason: &'static str, message: String) -> Verdict {
    Verdict {
        name,
        holds,
        reason,
        message,
    }
}

/// Whether a donor is being emptied, and how far.
pub fn draining(record: &NodeRecord, lent: u32) -> Verdict {
    match (record.drain, lent) {
        (None, _) => verdict("Draining", false, "NotAsked", String::new()),
        (Some(_), 0) => verdict(
            "Draining",
            true,
            "Drained",
            "nothing lies on it any more".to_owned(),
        ),
        (Some(_), left) => verdict(
            "Draining",
            true,
            "Moving",
            format!("{left} slots still have to be emptied"),
        ),
    }
}

/// Whether a device may be attached for the policies in force.
pub fn suitable(device: &DeviceRecord, wanted: Integrity) -> Verdict {
    match device.lacks(wanted) {
        None => verdict("Suitable", true, "MeetsPolicies", String::new()),
        Some(lack) => {
            let sentence = format!("it is not attached: {lack}");
            verdict("Suitable", false, "IntegrityTooWeak", sentence)
        }
    }
}

/// Whether pages have fewer copies than they should.
pub fn degraded(pages: u64) -> Verdict {
    match pages {
        0 => verdict("Degraded", false, "Whole", String::new()),
        // How many is in the status, which changes more often than a condition may.
        _ => verdict(
            "Degraded",
            true,
            "TooFewCopies",
            "pages have fewer copies than the class asks for".to_owned(),
        ),
    }
}

/// Whether nothing is sent ahead to the device. The figures are in the event and in `explain`: they
/// change more often than a condition may.
pub fn breaker_open(is_open: bool) -> Verdict {
    if !is_open {
        return verdict("BreakerOpen", false, "Calm", String::new());
    }
    let sentence = "nothing is sent ahead while swapping does more harm than good; 'dynamicswap explain \
                    node' says which figure is over its mark";
    verdict("BreakerOpen", true, "Harmful", sentence.to_owned())
}

/// What may keep a device from being swap.
#[derive(Debug, Clone, Copy, Default)]
pub struct Obstacles<'a> {
    /// No policy is in force.
    pub no_policy: bool,
    /// It protects its pages less than policies ask for.
    pub too_weak: bool,
    /// What its node's agent says holds it back.
    pub held: Option<&'a str>,
    /// What the plan waits for.
    pub waits: Option<&'a Reason>,
}

/// Whether a device is swap, and what to do if not. Counts are in `status`: they change more often than a
/// condition may.
pub fn attached(attached: bool, obstacles: &Obstacles<'_>) -> Verdict {
    let no = |reason, message: &str| verdict("Attached", false, reason, message.to_owned());
    if attached {
        return verdict("Attached", true, "InUse", String::new());
    }
    if obstacles.no_policy {
        return no("NoPolicy", "no policy is in force");
    }
    if obstacles.too_weak {
        return no("IntegrityTooWeak", "see the condition Suitable");
    }
    if let Some(held) = obstacles.held {
        return no("HeldBack", held);
    }
    match obstacles.waits {
        Some(Reason::NoDonor { .. }) => no(
            "NoDonor",
            "no donor fits: its sets want memory of so many donors, in other failure domains, as \
             durability.copies says, with slots of the same size; 'kubectl dynamicswap status' says why each \
             was refused",
        ),
        Some(Reason::NoSpillFile { .. }) => no(
            "NoSpillFile",
            "the class wants a disk and its swapd has no spill file: set swapd.spill in the chart \
             (--spill-file), or durability.spill: None in the policy",
        ),
        _ => no("Attaching", "its agent and the controller are at it"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_keeps_a_device_off_is_said_with_the_nearest_cause_first() {
        let no_donor = Reason::NoDonor {
            borrower: "n1".parse().expect("a name"),
            refusals: Vec::new(),
        };
        let mut obstacles = Obstacles {
            no_policy: true,
            too_weak: true,
            held: Some("its kubelet has failSwapOn: true"),
            waits: Some(&no_donor),
        };
        let reason = |obstacles: &Obstacles<'_>| {
            let verdict = attached(false, obstacles);
            assert!(!verdict.holds && !verdict.message.is_empty());
            verdict.reason
        };
        assert_eq!(reason(&obstacles), "NoPolicy");
        obstacles.no_policy = false;
        assert_eq!(reason(&obstacles), "IntegrityTooWeak");
        obstacles.too_weak = false;
        assert_eq!(reason(&obstacles), "HeldBack");
        obstacles.held = None;
        assert_eq!(reason(&obstacles), "NoDonor");
        obstacles.waits = None;
        assert_eq!(reason(&obstacles), "Attaching");
        obstacles.no_policy = true;
        assert!(attached(true, &obstacles).holds, "it is what it is");
    }
}
