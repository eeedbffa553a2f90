//! The oracle: sees every copy at once, and judges what the engine says and when.

use std::time::Duration;

use dynamicswap_datapath::transport::fault::Faults;
use dynamicswap_engine::engine::LinkState;
use dynamicswap_engine::sets::{Replica, ReplicaState};
use dynamicswap_engine::slots::GrantDocument;
use dynamicswap_types::{MonotonicTime, ServerIndex, SlotIndex, Spill};
use dynamicswap_workload::page::{PAGE_WORDS, Page};

use super::World;
use crate::disk::LATENCY_SLOW;
use crate::kernel::{Draft, Sent, Verb, words};
use crate::process::OPERATION_TIMEOUT;
use crate::story::Verdict;
use crate::trouble::Kind;

/// Bits by which a copy that was damaged on its way may differ.
const DAMAGED_BITS_MAX: u32 = 16;
/// Time in which copies are whole again after a single failure, with a controller at work.
const REPAIR: Duration = Duration::from_millis(1000);
/// Time beyond its bound that a request may take: ticks and round trips.
const GRACE: Duration = Duration::from_millis(400);
/// Time after which a server that answers must have been reached.
const REACHED: Duration = Duration::from_millis(1600);

/// What has been broken lately: a page may only be lost to more failures than its class covers.
#[derive(Debug, Clone, Default)]
pub struct Damage {
    /// Until when the way to a server, or the server, is or was bad.
    ways: Vec<(usize, MonotonicTime)>,
    /// Until when the control plane is or was away.
    control: MonotonicTime,
    /// When copies were destroyed.
    destroyed: Vec<MonotonicTime>,
    /// Whether bytes may change on their way.
    corruption: bool,
}

impl Damage {
    /// A server is out of reach until then.
    pub fn way_is_bad(&mut self, server: usize, until: MonotonicTime) {
        self.ways.push((server, until));
    }

    /// Nobody plans until then.
    pub fn control_is_away(&mut self, until: MonotonicTime) {
        self.control = self.control.max(until);
    }

    /// Bytes may change on their way from now on.
    pub const fn bytes_may_change(&mut self) {
        self.corruption = true;
    }

    /// No engine has run since then: nothing was mended meanwhile.
    pub fn engine_was_away(&mut self, since: MonotonicTime, now: MonotonicTime) {
        let gap = now.since(since);
        let ways = self.ways.iter_mut().map(|(_, until)| until);
        let times = ways.chain(&mut self.destroyed).chain([&mut self.control]);
        for time in times.filter(|time| time.after(REPAIR) > since) {
            *time = time.after(gap);
        }
    }

    /// Every trouble ends now.
    pub fn is_over(&mut self, now: MonotonicTime) {
        for (_, until) in &mut self.ways {
            *until = (*until).min(now);
        }
        self.control = self.control.min(now);
    }

    /// Whether an earlier failure may still show.
    fn excuses(&self, now: MonotonicTime) -> bool {
        let recent = |time: MonotonicTime| time.after(REPAIR) > now;
        let way = self.ways.iter().any(|(_, until)| recent(*until));
        let destroyed = self.destroyed.iter().any(|at| recent(*at));
        self.corruption || way || destroyed || recent(self.control)
    }
}

/// Where a copy with the right bytes is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Copy {
    /// On a donor.
    Donor(usize),
    /// In the spill file.
    Disk,
}

impl World<'_> {
    fn replicas(&self, page: u64) -> Vec<Replica> {
        let tables = self.tables.tables();
        let slab = page / u64::from(self.scenario.slab_pages);
        let entry = usize::try_from(slab)
            .ok()
            .and_then(|slab| tables.slabs.get(slab));
        let set = entry.and_then(|entry| entry.set());
        set.map_or_else(Vec::new, |set| {
            tables.sets[set].replicas().map(|(_, it)| it).collect()
        })
    }

    fn offset(&self, page: u64) -> u32 {
        u32::try_from(page % u64::from(self.scenario.slab_pages)).unwrap_or_default()
    }

    /// Bits by which a copy differs from a version of the page; none if there is no such slot.
    fn difference(&self, page: u64, version: u32, replica: Replica) -> Option<u32> {
        self.difference_from(page, &self.content(page, version), replica)
    }

    /// What a version of a page consists of.
    fn content(&self, page: u64, version: u32) -> Page {
        let mut content = [0; PAGE_WORDS];
        self.kernel.stamp(page, version).fill(&mut content);
        content
    }

    fn difference_from(&self, page: u64, expected: &Page, replica: Replica) -> Option<u32> {
        let donor = self.donors.get(replica.place.server.as_usize())?;
        donor.with_page(replica.place.slot.get(), self.offset(page), |bytes| {
            let found = words(bytes);
            let pairs = found.iter().zip(expected);
            pairs
                .map(|(found, expected)| (found ^ expected).count_ones())
                .sum()
        })
    }

    fn disk_holds(&self, page: u64, version: u32) -> bool {
        let on_disk = self.disk.page(page);
        on_disk.is_some_and(|bytes| {
            self.kernel
                .stamp(page, version)
                .check(&words(bytes))
                .is_ok()
        })
    }

    /// Where the acknowledged version of a page stands.
    pub(super) fn copies_of(&self, page: u64) -> Vec<Copy> {
        let version = self.kernel.register(page).acked;
        let content = self.content(page, version);
        let right = |replica: &Replica| self.difference_from(page, &content, *replica) == Some(0);
        let replicas = self.replicas(page).into_iter().filter(right);
        let on_donors = replicas.map(|replica| Copy::Donor(replica.place.server.as_usize()));
        let mut copies: Vec<Copy> = on_donors.collect();
        if self.disk_holds(page, version) {
            copies.push(Copy::Disk);
        }
        copies
    }

    /// Whether a donor holds the page.
    pub(super) fn is_held_by(&self, page: u64, server: usize) -> bool {
        self.copies_of(page).contains(&Copy::Donor(server))
    }

    fn held_pages(&self) -> impl Iterator<Item = u64> + '_ {
        let pages = (0_u64..).zip(&self.kernel.pages);
        pages
            .filter(|(_, register)| register.acked > 0 && !register.lost)
            .map(|(page, _)| page)
    }

    /// Pages whose only copy is on this donor.
    pub(super) fn only_on(&self, server: usize) -> Vec<u64> {
        let alone = |page: &u64| self.copies_of(*page) == [Copy::Donor(server)];
        self.held_pages().filter(alone).collect()
    }

    /// Pages of which a donor has a copy: page, slot, position there.
    pub(super) fn used_places(&self, server: usize) -> Vec<(u64, u32, u32)> {
        let place = |page: u64| {
            let replicas = self.replicas(page).into_iter();
            let mut here = replicas.filter(|replica| replica.place.server.as_usize() == server);
            here.next()
                .map(|replica| (page, replica.place.slot.get(), self.offset(page)))
        };
        self.held_pages().filter_map(place).collect()
    }

    /// Pages of which every copy was damaged on its way are lost. To be noted before a copy goes:
    /// nobody can tell afterwards that its bytes were wrong already.
    pub(super) fn note_damage(&mut self) {
        if !self.damage.corruption {
            return;
        }
        let is_lost = |page: &u64| self.copies_of(*page).is_empty() && self.is_damaged(*page);
        let lost: Vec<u64> = self.held_pages().filter(is_lost).collect();
        for page in lost {
            self.coverage.saw("page damaged on the way to every copy");
            self.kernel.register_mut(page).lost = true;
        }
    }

    /// Pages of which there is a copy.
    pub(super) fn pages_with_copies(&self) -> Vec<u64> {
        self.held_pages()
            .filter(|page| !self.copies_of(*page).is_empty())
            .collect()
    }

    /// A slot is taken back when nothing of the borrower's is under way to it any more: where
    /// servers are reached by RDMA, what arrives after that breaks its link.
    pub(super) fn judge_taking_back(&self, number: usize, document: &GrantDocument) -> Verdict {
        let said = self.donors[number].report();
        let process = self.process.as_ref().filter(|process| !process.hung);
        let Some(process) = process.filter(|_| said.incarnation == document.incarnation) else {
            return Ok(());
        };
        let server = ServerIndex::new(u16::try_from(number).unwrap_or(u16::MAX));
        let stays = |slot: SlotIndex, set: u64| {
            let mut grants = document.grants.iter();
            grants.any(|grant| grant.slot == slot && grant.owner.set.get() == set)
        };
        for (slot, set) in said.grants {
            let slot = SlotIndex::new(slot);
            if !stays(slot, set) && process.is_busy_at(server, slot) {
                let detail = format!("slot {slot} of donor {number}, set {set}");
                return Err(self.broken("no slot is taken back under an operation", detail));
            }
        }
        Ok(())
    }

    /// A document was taken: of pages that had a copy before, which may it have cost the last?
    /// Only those whose other copies a failure had taken while the document was on its way.
    pub(super) fn judge_document(&mut self, before: &[u64]) -> Verdict {
        for page in before.iter().copied() {
            if !self.copies_of(page).is_empty() || self.loses_undecided(page) {
                continue;
            }
            if !self.damage.excuses(self.now) {
                let detail = format!("page {page}: {}", self.describe(page));
                return Err(self.broken("a document never takes the last copy", detail));
            }
            self.coverage
                .saw("page lost after more failures than its class covers");
            self.story.tell(self.now, || {
                format!("page {page} is lost with a copy that moved")
            });
            self.kernel.register_mut(page).lost = true;
        }
        Ok(())
    }

    /// Whether copies may rightly hold other bytes than the acknowledged ones: a write has failed
    /// since, or one is under way and comes again until it is answered. In the second case a read
    /// that was sent before that write may find no copy any more.
    fn loses_undecided(&mut self, page: u64) -> bool {
        let writes =
            |draft: &Draft| matches!(draft.verb, Verb::Write(_)) && draft.range().contains(&page);
        let under_way = self
            .kernel
            .unanswered()
            .any(|(_, sent)| writes(&sent.draft));
        self.kernel.register_mut(page).lost |= under_way;
        under_way || self.kernel.register(page).doubtful
    }

    /// Whether the class in force promises that a page survives a single failure.
    fn is_covered(&self) -> bool {
        let class = self.kept.as_ref().map(|document| document.durability);
        class.is_some_and(|class| class.copies.get() > 1 || class.spill != Spill::None)
    }

    /// A failure has taken the last copy of these pages. P1: in a class with two copies or the
    /// disk behind, that takes more than one failure.
    pub(super) fn judge_loss(&mut self, server: usize, endangered: &[u64]) -> Verdict {
        let excused = self.damage.excuses(self.now);
        self.damage.destroyed.push(self.now);
        for page in endangered.iter().copied() {
            if self.loses_undecided(page) {
                continue;
            }
            if !excused && self.is_covered() && self.class_was_covered() {
                let detail = format!("page {page}: its only copy was on donor {server}");
                return Err(self.broken("an acknowledged page survives any single failure", detail));
            }
            self.coverage
                .saw("page lost after more failures than its class covers");
            self.story.tell(self.now, || {
                format!("page {page} is lost with donor {server}")
            });
            self.kernel.register_mut(page).lost = true;
        }
        Ok(())
    }

    /// Whether the class was covered from the start: a raised class needs time to take effect.
    fn class_was_covered(&self) -> bool {
        let class = self.scenario.class;
        let steady = self.plane.wanted().get() > 1 && class.copies.get() > 1;
        steady && class.spill == Spill::None
    }

    /// P0: a write is acknowledged when the copies of its class hold it, or the disk does.
    pub(super) fn judge_acknowledged(&mut self, sent: &Sent) -> Verdict {
        let Verb::Write(version) = sent.draft.verb else {
            return Ok(());
        };
        let Some(class) = self.kept.as_ref().map(|document| document.durability) else {
            let rule = "nothing is acknowledged without a document";
            return Err(self.broken(rule, format!("{:?}", sent.draft)));
        };
        for page in sent.draft.range() {
            let replicas = self.replicas(page);
            let content = self.content(page, version);
            let bits = |replica: &Replica| self.difference_from(page, &content, *replica);
            let differences: Vec<Option<u32>> = replicas.iter().map(bits).collect();
            let arrived = |replica: &Replica, bits: &Option<u32>| {
                // Copies that were destroyed after they had arrived still count.
                let lost_at = self.donors[replica.place.server.as_usize()].lost_at;
                bits.is_some_and(|bits| bits <= DAMAGED_BITS_MAX)
                    || lost_at.is_some_and(|at| at >= sent.submitted)
            };
            let pairs = replicas.iter().zip(&differences);
            let counted = pairs
                .filter(|(replica, bits)| arrived(replica, bits))
                .count();
            let on_disk = self.disk_holds(page, version);
            let stands_in = class.spill != Spill::None && on_disk;
            if (counted < class.remote_copies() || class.remote_copies() == 0) && !stands_in {
                let detail = format!(
                    "page {page} version {version}: {counted} copies for class {class}, \
                     bits that differ: {differences:?}"
                );
                let rule = "a write is acknowledged once its class is satisfied";
                return Err(self.broken(rule, detail));
            }
            if counted < class.remote_copies() {
                self.coverage
                    .saw("write acknowledged with the disk instead of a copy");
            }
            if !differences.contains(&Some(0)) && !on_disk {
                // Damaged on the way to every copy, or destroyed at once.
                self.kernel.register_mut(page).lost = true;
            }
        }
        Ok(())
    }

    /// A read may fail only if a page is lost, or no copy was reachable for as long as the policy
    /// says.
    pub(super) fn judge_failed_read(&mut self, sent: &Sent) -> Verdict {
        let stalled = self.now.since(sent.given) >= self.scenario.read_stall;
        let mut unreachable = false;
        for page in sent.draft.range() {
            let register = self.kernel.register(page);
            if register.lost || register.doubtful {
                self.coverage.saw("read failed, page lost");
                return Ok(());
            }
        }
        for page in sent
            .draft
            .range()
            .filter(|page| self.kernel.register(*page).acked > 0)
        {
            let copies = self.copies_of(page);
            if copies.is_empty() && self.damage.corruption && self.is_damaged(page) {
                self.kernel.register_mut(page).lost = true;
                self.coverage.saw("page damaged on the way to every copy");
                return Ok(());
            }
            if copies.is_empty() {
                let rule = "a page that nothing has destroyed is there";
                return Err(self.broken(rule, format!("page {page}: {}", self.describe(page))));
            }
            unreachable |= !copies.iter().any(|copy| self.is_reachable(*copy));
        }
        if unreachable && stalled {
            self.coverage.saw("read failed, no copy reachable");
            return Ok(());
        }
        let page = |page| format!("page {page}: {}", self.describe(page));
        let pages: Vec<String> = sent.draft.range().map(page).collect();
        let detail = format!("{} (stall over: {stalled})", pages.join("; "));
        Err(self.broken("a read of a page that is there does not fail", detail))
    }

    /// Whether a copy holds the page but for a few bits.
    fn is_damaged(&self, page: u64) -> bool {
        let version = self.kernel.register(page).acked;
        let bits = |replica: &Replica| self.difference(page, version, *replica);
        let mut bits = self
            .replicas(page)
            .into_iter()
            .filter_map(|replica| bits(&replica));
        bits.any(|bits| bits <= DAMAGED_BITS_MAX)
    }

    /// Whether a copy was within reach for long enough that the engine must have got it.
    fn is_reachable(&self, copy: Copy) -> bool {
        let recently = |time: MonotonicTime| time.after(REACHED) > self.now;
        let server = match copy {
            Copy::Disk => return !recently(self.disk.failing_until),
            Copy::Donor(server) => server,
        };
        let (faults, until) = self.faults[server];
        let ways = &self.damage.ways;
        let bad = ways
            .iter()
            .any(|(other, until)| *other == server && recently(*until));
        let clear = faults == Faults::default() && !recently(until) && !bad;
        self.donors[server].is_running() && clear
    }

    fn describe(&self, page: u64) -> String {
        let register = self.kernel.register(page);
        let copy = |replica: Replica| {
            let server = replica.place.server.as_usize();
            let bits = self.difference(page, register.acked, replica);
            let reach = self.is_reachable(Copy::Donor(server));
            let (state, slot) = (replica.state, replica.place.slot);
            format!("{state:?} on donor {server} slot {slot} ({bits:?} bits wrong, reach {reach})")
        };
        let copies: Vec<String> = self.replicas(page).into_iter().map(copy).collect();
        let disk = self.disk_holds(page, register.acked);
        format!("{register:?}, copies [{}], disk {disk}", copies.join(", "))
    }

    /// P2: a stall is bounded by the policy.
    pub(super) fn check_patience(&self) -> Verdict {
        let Some(process) = self.process.as_ref().filter(|process| !process.hung) else {
            return Ok(());
        };
        let disk = if self.scenario.has_disk() {
            LATENCY_SLOW * 2
        } else {
            Duration::ZERO
        };
        let slack = OPERATION_TIMEOUT * 2 + GRACE + disk;
        let longest = self.scenario.read_stall.max(self.scenario.write_hold);
        let depth = u32::try_from(self.scenario.depth + 1).unwrap_or(1);
        for (tag, sent) in self.kernel.unanswered() {
            let waited = self.now.since(sent.given.max(process.started));
            let bound = match sent.draft.verb {
                // With overlaps, each waits for those before it.
                _ if self.scenario.overlapping => (longest + slack) * depth,
                Verb::Read => self.scenario.read_stall + slack,
                Verb::Write(_) => self.scenario.write_hold + slack,
                Verb::Discard | Verb::Flush => longest + slack,
            };
            if waited > bound {
                let draft = sent.draft;
                let detail =
                    format!("request {tag}, {draft:?}, waits for {waited:?}, over {bound:?}");
                return Err(self.broken("a stall is bounded by the policy", detail));
            }
        }
        Ok(())
    }

    /// Once everything has healed, a copy that counts as whole is whole: nobody finds out later
    /// that it is not. Bytes that changed by themselves are found by reading only.
    pub(super) fn judge_live_copies(&mut self) -> Verdict {
        let by_themselves = [Kind::Flip, Kind::Corruption];
        if self
            .scenario
            .kinds
            .iter()
            .any(|kind| by_themselves.contains(kind))
        {
            return Ok(());
        }
        let pages: Vec<u64> = self.held_pages().collect();
        for page in pages {
            let register = self.kernel.register(page);
            let class = self.kept.as_ref().map(|document| document.durability.spill);
            if register.doubtful || class == Some(Spill::Only) {
                continue;
            }
            let wrong = self.replicas(page).into_iter().find(|replica| {
                let bits = self.difference(page, register.acked, *replica);
                replica.state == ReplicaState::Live && bits != Some(0)
            });
            if wrong.is_some() {
                let detail = format!("page {page}: {}", self.describe(page));
                return Err(self.broken("a copy that counts as whole is whole", detail));
            }
        }
        self.coverage.saw("every live copy compared");
        Ok(())
    }

    /// What is still to mend; empty for nothing.
    pub(super) fn ailment(&self) -> String {
        let Some(process) = self.process.as_ref().filter(|process| !process.hung) else {
            return "no engine runs".to_owned();
        };
        if let Some((tag, sent)) = self.kernel.unanswered().next() {
            return format!("request {tag} is not answered: {:?}", sent.draft);
        }
        let engine = &process.engine;
        let replicas = engine.sets().flat_map(|set| set.replicas).flatten();
        let mut links = replicas.filter_map(|replica| {
            let server = engine.server(replica.place.server);
            server.map(|server| (replica.place.server, server.link))
        });
        // Before that the engine has not heard of a memory that was lost.
        if let Some((server, link)) = links.find(|(_, link)| *link != LinkState::Up) {
            return format!("the link to donor {server} is {link:?}");
        }
        let (under_way, degraded) = (engine.requests_under_way(), engine.pages_degraded());
        let whole = |replica: &Replica| replica.state == ReplicaState::Live;
        let used = engine
            .sets()
            .filter(|set| set.slab.is_some() && set.pages_used > 0);
        let torn = used
            .filter(|set| !set.replicas.iter().flatten().all(whole))
            .count();
        let class = self.kept.as_ref().map(|document| document.durability.spill);
        if under_way == 0 && degraded == 0 && (torn == 0 || class == Some(Spill::Only)) {
            return String::new();
        }
        let sets: Vec<_> = engine.sets().collect();
        format!("{under_way} requests, {degraded} pages degraded, {torn} sets not whole: {sets:?}")
    }
}
