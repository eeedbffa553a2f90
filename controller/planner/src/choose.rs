//! The choice of a donor for one more copy: filters, then scores; two drawn at random where
//! scoring all would cost too much.

use std::collections::BTreeMap;

use dynamicswap_types::{FailureDomain, NodeName, SetId, SwapDeviceId};

use crate::bits::Bits;
use crate::filter::{self, Candidate, Others, Refusal};
use crate::index::{Index, IndexedNode, NodeAt};
use crate::ledger::SetRecord;
use crate::limits::{SAMPLE_ABOVE, SAMPLE_DRAWS_MAX};
use crate::plan::Place;
use crate::pool::Pools;
use crate::score::Score;
use crate::view::ClusterView;

/// The donors that take new slabs, before any particular device is looked at.
pub(crate) struct OpenDonors<'a> {
    pub(crate) candidates: Vec<Candidate<'a>>,
    /// The others, of whom it is said to the borrower itself that it is itself.
    refused: Vec<(&'a NodeName, Refusal)>,
    /// Zones that donors are in; those in none count as one.
    zones: usize,
}

impl<'a> OpenDonors<'a> {
    pub(crate) fn of(view: &ClusterView<'a>, index: &Index<'a>) -> Self {
        let (mut candidates, mut refused) = (Vec::new(), Vec::new());
        let mut zones: BTreeMap<Option<&FailureDomain>, usize> = BTreeMap::new();
        for (at, IndexedNode { name: node, record }) in index.nodes.iter().enumerate() {
            if !record.donor {
                continue;
            }
            let next = zones.len();
            let zone = *zones.entry(record.zone.as_ref()).or_insert(next);
            let candidate = Candidate {
                at,
                node,
                record,
                zone,
            };
            match filter::open(view, (node, record)) {
                Ok(_) => candidates.push(candidate),
                Err(refusal) => refused.push((*node, refusal)),
            }
        }
        Self {
            candidates,
            refused,
            zones: zones.len(),
        }
    }
}

/// The donors that fit a device, before any particular set is looked at.
pub(crate) struct Eligible<'a> {
    candidates: Vec<Candidate<'a>>,
    refused: BTreeMap<Refusal, usize>,
    /// Zones that they are in; those in none count as one.
    zones: usize,
}

impl<'a> Eligible<'a> {
    pub(crate) fn of(index: &Index<'a>, id: SwapDeviceId, open: &OpenDonors<'a>) -> Self {
        let mut eligible = Self {
            candidates: Vec::with_capacity(open.candidates.len()),
            refused: BTreeMap::new(),
            zones: 0,
        };
        let Some(device) = index.device(id) else {
            return eligible;
        };
        for (node, refusal) in &open.refused {
            let itself = **node == device.record.node;
            eligible.refuse(if itself { Refusal::Self_ } else { *refusal });
        }
        for candidate in &open.candidates {
            match filter::for_device(device, candidate) {
                Ok(()) => eligible.candidates.push(*candidate),
                Err(refusal) => eligible.refuse(refusal),
            }
        }
        let zones = eligible.candidates.iter().map(|it| it.zone);
        let mut seen = Bits::none(open.zones);
        for zone in zones {
            eligible.zones += usize::from(!seen.has(zone));
            seen.set(zone, true);
        }
        eligible
    }

    /// Copies of a set of so many that a zone may have: as few as can be, so that they lie in different
    /// zones where there are enough, and on different nodes of the only zone where there is one.
    pub(crate) const fn zone_max(&self, copies: usize) -> usize {
        if self.zones > 1 {
            copies.div_ceil(self.zones)
        } else {
            usize::MAX
        }
    }

    fn refuse(&mut self, refusal: Refusal) {
        *self.refused.entry(refusal).or_default() += 1;
    }

    /// A donor by its position, if it fits.
    fn find(&self, node: NodeAt) -> Option<&Candidate<'a>> {
        let at = self.candidates.binary_search_by_key(&node, |it| it.at);
        at.ok().and_then(|at| self.candidates.get(at))
    }
}

/// What a copy is wanted for.
pub(crate) struct Wish<'a> {
    pub(crate) device: SwapDeviceId,
    pub(crate) id: SetId,
    /// The set as it is, so that no node gets a second copy.
    pub(crate) set: &'a SetRecord,
    /// Where the other copies are.
    pub(crate) others: &'a Others<'a>,
    pub(crate) seed: u64,
}

/// Picks a donor and takes a slot there.
///
/// # Errors
/// Why each donor was refused, counted.
pub(crate) fn choose(
    eligible: &Eligible<'_>,
    pools: &mut Pools,
    wish: &Wish<'_>,
) -> Result<Place, Vec<(Refusal, usize)>> {
    let best = sample(eligible, pools, wish).or_else(|| best_of_all(eligible, pools, wish));
    let taken = best.and_then(|index| take(pools, wish, &eligible.candidates[index]));
    taken.ok_or_else(|| refusals(eligible, pools, wish))
}

/// Takes a slot of one donor, if it passes every filter.
pub(crate) fn choose_at(
    eligible: &Eligible<'_>,
    pools: &mut Pools,
    wish: &Wish<'_>,
    node: NodeAt,
) -> Option<Place> {
    let candidate = eligible.find(node)?;
    check(pools, wish, candidate).ok()?;
    take(pools, wish, candidate)
}

fn take(pools: &mut Pools, wish: &Wish<'_>, candidate: &Candidate<'_>) -> Option<Place> {
    let incarnation = candidate.record.server.as_ref()?.incarnation;
    let slot = pools.take_lowest(candidate.at, wish.device)?;
    Some(Place {
        node: candidate.node.clone(),
        slot,
        incarnation,
    })
}

fn check(pools: &Pools, wish: &Wish<'_>, candidate: &Candidate<'_>) -> Result<(), Refusal> {
    filter::for_set(wish.set, wish.others, candidate)?;
    if pools.slot_use(candidate.at).free == 0 {
        return Err(Refusal::Headroom);
    }
    Ok(())
}

fn score<'a>(pools: &Pools, wish: &Wish<'_>, candidate: &Candidate<'a>) -> Score<'a> {
    let copies = pools.copies(candidate.at, wish.device);
    Score::new(candidate.node, pools.slot_use(candidate.at), copies)
}

fn best_of_all(eligible: &Eligible<'_>, pools: &Pools, wish: &Wish<'_>) -> Option<usize> {
    (0..eligible.candidates.len())
        .filter(|index| check(pools, wish, &eligible.candidates[*index]).is_ok())
        .min_by_key(|index| score(pools, wish, &eligible.candidates[*index]))
}

/// The better one of two drawn donors that pass; none if there are few, or too many draws hit
/// refused ones.
fn sample(eligible: &Eligible<'_>, pools: &Pools, wish: &Wish<'_>) -> Option<usize> {
    let count = eligible.candidates.len();
    if count <= SAMPLE_ABOVE {
        return None;
    }
    let mut state = wish.seed ^ wish.id.get().rotate_left(32) ^ wish.set.seats.len() as u64;
    let mut first: Option<usize> = None;
    for _ in 0..SAMPLE_DRAWS_MAX {
        let index = usize::try_from(split_mix(&mut state) % count as u64).ok()?;
        if check(pools, wish, &eligible.candidates[index]).is_err() {
            continue;
        }
        match first {
            None => first = Some(index),
            Some(other) if other == index => {}
            Some(other) => {
                let key = |index: usize| score(pools, wish, &eligible.candidates[index]);
                return Some(if key(other) <= key(index) {
                    other
                } else {
                    index
                });
            }
        }
    }
    None
}

fn refusals(eligible: &Eligible<'_>, pools: &Pools, wish: &Wish<'_>) -> Vec<(Refusal, usize)> {
    let mut counts = eligible.refused.clone();
    for candidate in &eligible.candidates {
        if let Err(refusal) = check(pools, wish, candidate) {
            *counts.entry(refusal).or_default() += 1;
        }
    }
    counts.into_iter().collect()
}

/// SplitMix64: each state gives one well-mixed number.
fn split_mix(state: &mut u64) -> u64 {
    *state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let mut mixed = *state;
    mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    mixed ^ (mixed >> 31)
}
