//! How far a drain is and what stands in its way, from what the controller says.
//!
//! Pure: knows neither a terminal nor a clock.

use std::collections::BTreeSet;

use dynamicswap_crds::MemoryServer;
use dynamicswap_proto::control::v1 as pb;

use super::guard::{LastCopies, slabs_of};
use crate::ui::human_bytes;
use crate::view::summary::Summary;

/// Lines of what the plan waits for that are shown.
const WAITS_SHOWN_MAX: usize = 3;

/// A drain at one moment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Progress {
    /// The controller has taken the drain up, and nobody has ended it.
    pub is_draining: bool,
    /// Slots that are still lent, those on their way back included.
    pub slots_left: u32,
    slot_bytes: u64,
    /// Bytes of pages that lie there.
    held: u64,
    last: LastCopies,
    /// What the plan waits for, what concerns this donor first.
    waits: Vec<String>,
}

impl Progress {
    /// By the donor's object and the cluster's status.
    #[must_use]
    pub fn of(server: &MemoryServer, status: &pb::ClusterStatus, donor: &str) -> Self {
        let known = server.status.as_ref();
        let (own, others): (Vec<&String>, Vec<&String>) = status
            .plan_waits
            .iter()
            .partition(|wait| names(wait, donor));
        let waits = own.into_iter().chain(others);
        Self {
            is_draining: server.spec.drain.is_some(),
            slots_left: known.map_or(0, |status| status.slots_lent),
            slot_bytes: known.map_or(0, |status| status.slot_size.get()),
            held: Summary::of(status).held_by(donor),
            last: LastCopies::on(status, donor),
            waits: waits.take(WAITS_SHOWN_MAX).cloned().collect(),
        }
    }

    /// Nothing lies there any more.
    #[must_use]
    pub const fn is_drained(&self) -> bool {
        self.is_draining && self.slots_left == 0
    }

    /// How far it is, of so many slots.
    #[must_use]
    pub fn sentence(&self, total: u32) -> String {
        let lent = self.slot_bytes * u64::from(self.slots_left);
        let not = if self.is_draining {
            ""
        } else {
            ", not being drained"
        };
        format!(
            "{} of {total} slabs left ({} lent, {} of pages){not}",
            self.slots_left,
            human_bytes(lent),
            human_bytes(self.held)
        )
    }

    /// The same with everything that keeps it.
    #[must_use]
    pub fn with_reasons(&self, total: u32) -> String {
        let mut parts = vec![self.sentence(total)];
        parts.extend(self.reasons());
        parts.join("; ")
    }

    /// What keeps it, a sentence each.
    #[must_use]
    pub fn reasons(&self) -> Vec<String> {
        let mut reasons = Vec::new();
        if !self.last.is_empty() {
            let slabs = self.last.sentence();
            reasons.push(format!(
                "only copy: {slabs} held by nobody else; they stay until another donor has them"
            ));
        }
        reasons.extend(self.waits.iter().map(|wait| format!("the plan {wait}")));
        reasons
    }

    /// What has left, of so many slots at the start.
    #[must_use]
    pub fn moved(&self, total: u32) -> String {
        slabs_of(total, self.slot_bytes * u64::from(total))
    }
}

/// A drain from one look to the next.
#[derive(Debug, Default)]
pub struct Course {
    /// What it waits for, said once each, without the figures that change.
    told: BTreeSet<String>,
    /// The most slots that were lent.
    total: u32,
    /// The controller had taken it up.
    was_draining: bool,
}

/// What a look means for whoever follows.
#[derive(Debug, PartialEq, Eq)]
pub enum Step {
    /// Nothing lies there any more: what has left.
    Drained(String),
    /// Somebody has taken the drain back: how far it was.
    Ended(String),
    /// It goes on.
    GoesOn {
        /// How far it is, and everything that keeps it.
        now: String,
        /// What keeps it, as far as that was not said yet.
        news: Vec<String>,
    },
}

impl Course {
    /// Takes one look into account.
    pub fn after(&mut self, progress: &Progress) -> Step {
        self.total = self.total.max(progress.slots_left);
        if progress.is_drained() {
            return Step::Drained(progress.moved(self.total));
        }
        if self.was_draining && !progress.is_draining {
            return Step::Ended(progress.sentence(self.total));
        }
        self.was_draining |= progress.is_draining;
        let mut news = progress.reasons();
        news.retain(|line| self.told.insert(without_figures(line)));
        let now = progress.with_reasons(self.total);
        Step::GoesOn { now, news }
    }
}

/// A sentence without its numbers. Those in names stay: what two donors do are two things.
fn without_figures(sentence: &str) -> String {
    let is_figure = |word: &str| {
        let bare = word.trim_matches(|letter: char| !letter.is_ascii_alphanumeric());
        bare.parse::<f64>().is_ok()
    };
    let words = sentence.split(' ').filter(|word| !is_figure(word));
    words.collect::<Vec<_>>().join(" ")
}

/// Whether a sentence names a node, and not one whose name only begins so.
fn names(sentence: &str, node: &str) -> bool {
    let is_of_name =
        |letter: char| letter.is_ascii_alphanumeric() || letter == '-' || letter == '.';
    let mut words = sentence.split(|letter| !is_of_name(letter));
    words.any(|word| word.trim_end_matches('.') == node)
}

#[cfg(test)]
mod tests {
    use super::super::fixture::status;
    use super::*;
    use dynamicswap_crds::{MemoryServerSpec, MemoryServerStatus};
    use dynamicswap_types::Bytes;
    use std::time::Duration;

    fn server(drain: Option<Duration>, lent: u32) -> MemoryServer {
        let status = MemoryServerStatus {
            slots_lent: lent,
            slot_size: Bytes::from_mib(16),
            ..MemoryServerStatus::default()
        };
        MemoryServer {
            status: Some(status),
            ..MemoryServer::new("d1", MemoryServerSpec::of(true, drain))
        }
    }

    fn of(server: &MemoryServer) -> Progress {
        Progress::of(server, &status(), "d1")
    }

    #[test]
    fn progress_says_what_is_left_and_why_the_donor_s_own_reason_first() {
        let draining = Some(Duration::from_secs(600));
        let progress = Progress::of(&server(draining, 3), &status(), "d1");
        assert!(!progress.is_drained());
        assert_eq!(
            progress.sentence(5),
            "3 of 5 slabs left (48.0 MiB lent, 3.0 MiB of pages)"
        );
        assert!(
            progress
                .with_reasons(5)
                .contains("; the plan leaves 2 copies of b1 on d1")
        );
        let reasons = progress.reasons();
        assert!(
            reasons[0].starts_with("only copy: 2 slabs (2.0 MiB)"),
            "{reasons:?}"
        );
        assert!(reasons[1].contains("whose time is over"), "{reasons:?}");
        assert!(reasons[2].contains("no donor fits"), "{reasons:?}");
        assert!(Progress::of(&server(draining, 0), &status(), "d1").is_drained());
    }

    #[test]
    fn donor_that_lends_nothing_is_drained_only_once_the_controller_drains_it() {
        let progress = Progress::of(&server(None, 0), &status(), "d1");
        assert!(!progress.is_drained());
        assert!(progress.sentence(0).contains("not being drained"));
    }

    #[test]
    fn what_keeps_a_drain_is_news_once_whatever_its_figures() {
        let draining = Some(Duration::from_secs(600));
        let mut course = Course::default();
        let Step::GoesOn { news, .. } = course.after(&of(&server(draining, 3))) else {
            panic!("it goes on");
        };
        assert_eq!(news.len(), 4, "{news:?}");
        let mut fewer = status();
        fewer.plan_waits.truncate(1);
        fewer.plan_waits[0] = fewer.plan_waits[0].replace("2 sets", "1 sets");
        let progress = Progress::of(&server(draining, 2), &fewer, "d1");
        let Step::GoesOn { now, news } = course.after(&progress) else {
            panic!("it goes on");
        };
        assert!(now.starts_with("2 of 3 slabs left"), "{now}");
        assert!(news.is_empty(), "{news:?}");
        fewer.plan_waits = vec!["waits for d11 to grant 1 slots".to_owned()];
        let progress = Progress::of(&server(draining, 2), &fewer, "d1");
        let Step::GoesOn { news, .. } = course.after(&progress) else {
            panic!("it goes on");
        };
        assert_eq!(news, ["the plan waits for d11 to grant 1 slots"]);
    }

    #[test]
    fn drain_ends_when_nothing_is_left_or_somebody_ends_it() {
        let draining = Some(Duration::from_secs(600));
        let mut course = Course::default();
        // The controller has not seen the object yet: nobody has ended anything.
        let step = course.after(&of(&server(None, 3)));
        assert!(matches!(step, Step::GoesOn { .. }), "{step:?}");
        course.after(&of(&server(draining, 2)));
        let Step::Ended(left) = course.after(&of(&server(None, 1))) else {
            panic!("somebody ended it");
        };
        assert!(left.starts_with("1 of 3 slabs left"), "{left}");
        let step = course.after(&of(&server(draining, 0)));
        assert_eq!(step, Step::Drained("3 slabs (48.0 MiB)".to_owned()));
    }

    #[test]
    fn sentence_names_a_node_by_its_whole_name() {
        assert!(names("waits for d1 to grant 2 slots", "d1"));
        assert!(names("leaves 2 copies of b1 on d1, whose", "d1"));
        assert!(names("waits with 3 sets of d1: not heard", "d1"));
        assert!(!names("waits for d10 to grant", "d1") && !names("x-d1 waits", "d1"));
    }
}
