//! What there is to drain, and whether a drain of it could end.
//!
//! Pure: knows neither a terminal nor a clock.

use dynamicswap_proto::common::v1 as common;
use dynamicswap_proto::control::v1 as pb;
use dynamicswap_types::PAGE_SIZE;

use super::args::DrainKind;
use crate::ui::human_bytes;
use crate::view::summary::Summary;

/// What there is to drain.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Subject {
    /// A memory server.
    Donor,
    /// A node without one.
    LendsNothing,
}

impl Subject {
    /// What the name stands for.
    ///
    /// # Errors
    /// The sentence for a name that stands for nothing of this kind.
    pub fn find(status: &pb::ClusterStatus, kind: DrainKind, name: &str) -> Result<Self, String> {
        let node = status.nodes.iter().find(|node| node.node == name);
        match (kind, node.map(|node| node.donor)) {
            (_, Some(true)) => Ok(Self::Donor),
            (DrainKind::Node, Some(false)) => Ok(Self::LendsNothing),
            (DrainKind::Server, _) => Err(none_such("donor", name, status, |node| node.donor)),
            (DrainKind::Node, None) => Err(none_such("node", name, status, |_| true)),
        }
    }
}

fn none_such(
    what: &str,
    name: &str,
    status: &pb::ClusterStatus,
    is_one: fn(&pb::NodeStatus) -> bool,
) -> String {
    let known = status.nodes.iter().filter(|node| is_one(node));
    let known: Vec<&str> = known.map(|node| node.node.as_str()).collect();
    match &known[..] {
        [] => format!("no {what} {name} is known, and no other: look at 'status'"),
        known => format!(
            "no {what} {name} is known: choose one of {}",
            known.join(", ")
        ),
    }
}

/// What a person should know who drains a node that borrows as well: nobody can be asked to detach
/// one device, because policies attach all of them.
#[must_use]
pub fn borrows(status: &pb::ClusterStatus, node: &str) -> Option<String> {
    let summary = Summary::of(status);
    let device = summary.devices.iter().find(|it| it.node == node)?;
    device.attached.then(|| {
        format!(
            "the swap device of {node} stays attached, {} in use: policies attach devices, and one \
             cannot be detached alone; its pages go with the containers that own them, or come home \
             once no policy is in force",
            human_bytes(device.used)
        )
    })
}

/// Slabs of which no other donor and no disk has a whole copy.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct LastCopies {
    slabs: u32,
    bytes: u64,
}

impl LastCopies {
    /// Those on a donor. One without pages counts: it leaves only once another donor has its slot.
    #[must_use]
    pub fn on(status: &pb::ClusterStatus, donor: &str) -> Self {
        let reports = status.nodes.iter().filter_map(|node| node.report.as_ref());
        let devices = reports.filter_map(|report| report.swap_device.as_ref());
        let sets = devices.flat_map(|device| &device.sets);
        let only = sets.filter(|set| is_only_on(set, donor));
        only.fold(Self::default(), |sum, set| Self {
            slabs: sum.slabs + 1,
            bytes: sum.bytes + u64::from(set.pages_used) * PAGE_SIZE.get(),
        })
    }

    /// Whether there is none.
    #[must_use]
    pub const fn is_empty(self) -> bool {
        self.slabs == 0
    }

    /// How many, in words.
    #[must_use]
    pub fn sentence(self) -> String {
        slabs_of(self.slabs, self.bytes)
    }
}

fn is_only_on(set: &common::SetReport, donor: &str) -> bool {
    let is_whole = |copy: &&common::ReplicaReport| copy.state() == common::ReplicaState::Live;
    let mut whole = set.replicas.iter().filter(is_whole);
    set.slab.is_some()
        && !set.released
        && !set.on_disk
        && matches!((whole.next(), whole.next()), (Some(one), None) if one.node == donor)
}

/// Slots that other donors have left and may give.
fn room_beside(status: &pb::ClusterStatus, donor: &str) -> u64 {
    let others = status.nodes.iter().filter(|node| {
        node.node != donor && node.donor && node.connected && !node.cordoned && !node.draining
    });
    others.map(free_slots).sum()
}

fn free_slots(node: &pb::NodeStatus) -> u64 {
    let Some(report) = &node.report else { return 0 };
    let Some(server) = &report.memory_server else {
        return 0;
    };
    let total = u64::from(server.slots_total);
    let lendable = report
        .lendable_bytes
        .map_or(total, |bytes| total.min(bytes / server.slot_bytes.max(1)));
    lendable.saturating_sub(server.grants.len() as u64)
}

/// Why a drain of this donor could not end, if it could not: more slabs have their only copy there
/// than all other donors have room for. Nothing of one that is under way.
#[must_use]
pub fn nowhere_to_go(status: &pb::ClusterStatus, donor: &str) -> Option<String> {
    let mut nodes = status.nodes.iter();
    if nodes.any(|node| node.node == donor && node.draining) {
        return None;
    }
    let last = LastCopies::on(status, donor);
    let room = room_beside(status, donor);
    (u64::from(last.slabs) > room).then(|| {
        format!(
            "{donor} is not drained: {} have their only copy there, and the other donors that take \
             slabs have room for {room}; add a donor or uncordon one, or begin all the same with \
             --allow-stuck: they stay until there is room",
            last.sentence()
        )
    })
}

/// So many slabs of so many bytes, in words.
#[must_use]
pub fn slabs_of(slabs: u32, bytes: u64) -> String {
    let word = if slabs == 1 { "slab" } else { "slabs" };
    format!("{slabs} {word} ({})", human_bytes(bytes))
}

#[cfg(test)]
mod tests {
    use super::super::fixture::status;
    use super::*;

    #[test]
    fn slab_whose_other_copy_is_not_whole_is_a_last_one() {
        let last = LastCopies::on(&status(), "d1");
        assert_eq!((last.slabs, last.bytes), (2, 2 << 20));
        assert_eq!(LastCopies::on(&status(), "d2"), LastCopies::default());
        let mut on_disk = status();
        let report = on_disk.nodes[2].report.as_mut().expect("one");
        for set in &mut report.swap_device.as_mut().expect("one").sets {
            set.on_disk = true;
        }
        assert_eq!(LastCopies::on(&on_disk, "d1"), LastCopies::default());
    }

    #[test]
    fn drain_is_refused_where_last_copies_have_nowhere_to_go() {
        let mut status = status();
        assert_eq!(nowhere_to_go(&status, "d1"), None);
        status.nodes[1].cordoned = true;
        let why = nowhere_to_go(&status, "d1").expect("refused");
        for part in ["2 slabs (2.0 MiB)", "have room for 0", "--allow-stuck"] {
            assert!(why.contains(part), "{why}");
        }
        status.nodes[0].draining = true;
        assert_eq!(nowhere_to_go(&status, "d1"), None, "it is under way");
        status.nodes[0].draining = false;
        status.nodes[1].cordoned = false;
        // Its agent lends less than its memory server has.
        let report = status.nodes[1].report.as_mut().expect("one");
        report.lendable_bytes = Some(48 << 20);
        assert!(nowhere_to_go(&status, "d1").is_some_and(|why| why.contains("room for 1")));
        assert_eq!(nowhere_to_go(&status, "d2"), None, "it holds no last copy");
    }

    #[test]
    fn node_is_drained_of_what_it_lends_and_a_server_must_lend() {
        let find = |kind, name| Subject::find(&status(), kind, name);
        assert_eq!(find(DrainKind::Node, "d1"), Ok(Subject::Donor));
        assert_eq!(find(DrainKind::Node, "b1"), Ok(Subject::LendsNothing));
        assert_eq!(find(DrainKind::Server, "d2"), Ok(Subject::Donor));
        let why = find(DrainKind::Server, "b1").expect_err("lends nothing");
        assert_eq!(why, "no donor b1 is known: choose one of d1, d2");
        let why = find(DrainKind::Node, "d3").expect_err("unknown");
        assert!(why.ends_with("choose one of d1, d2, b1"), "{why}");
    }

    #[test]
    fn device_that_stays_attached_is_said() {
        let told = borrows(&status(), "b1").expect("it borrows");
        assert!(told.contains("stays attached, 3.0 MiB in use"), "{told}");
        assert_eq!(borrows(&status(), "d1"), None);
    }
}
