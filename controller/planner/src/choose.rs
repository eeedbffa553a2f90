//! The choice of a donor for one more copy: filters, then scores; two drawn at random where
//! scoring all would cost too much.

use std::collections::BTreeMap;

use dynamicswap_types::{FailureDomain, SetId, SwapDeviceId};

use crate::filter::{self, Candidate, Refusal};
use crate::ledger::{DeviceRecord, SetRecord};
use crate::limits::{SAMPLE_ABOVE, SAMPLE_DRAWS_MAX};
use crate::plan::Place;
use crate::pool::Pools;
use crate::score::Score;
use crate::view::ClusterView;

/// The donors that fit a device, before any particular set is looked at.
pub(crate) struct Eligible<'a> {
    candidates: Vec<Candidate<'a>>,
    refused: BTreeMap<Refusal, usize>,
}

impl<'a> Eligible<'a> {
    pub(crate) fn of(view: &ClusterView<'a>, id: SwapDeviceId, device: &DeviceRecord) -> Self {
        let mut refused = BTreeMap::new();
        let mut candidates = Vec::new();
        for (node, record) in &view.ledger.nodes {
            if !record.donor {
                continue;
            }
            let candidate = Candidate { node, record };
            match filter::for_device(view, id, device, &candidate) {
                Ok(()) => candidates.push(candidate),
                Err(refusal) => *refused.entry(refusal).or_default() += 1,
            }
        }
        Self {
            candidates,
            refused,
        }
    }
}

/// What a copy is wanted for.
pub(crate) struct Wish<'a> {
    pub(crate) device: SwapDeviceId,
    pub(crate) id: SetId,
    /// The set as it is, so that no node gets a second copy.
    pub(crate) set: &'a SetRecord,
    /// Domains that the other copies are in.
    pub(crate) taken: &'a [&'a FailureDomain],
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
    let taken = best.and_then(|index| {
        let candidate = &eligible.candidates[index];
        let incarnation = candidate.record.server.as_ref()?.incarnation;
        let slot = pools.take_lowest(candidate.node, wish.device)?;
        Some(Place {
            node: candidate.node.clone(),
            slot,
            incarnation,
        })
    });
    taken.ok_or_else(|| refusals(eligible, pools, wish))
}

fn check(pools: &Pools, wish: &Wish<'_>, candidate: &Candidate<'_>) -> Result<(), Refusal> {
    filter::for_set(wish.set, wish.taken, candidate)?;
    if pools.slot_use(candidate.node).free == 0 {
        return Err(Refusal::Headroom);
    }
    Ok(())
}

fn score<'a>(pools: &Pools, wish: &Wish<'_>, candidate: &Candidate<'a>) -> Score<'a> {
    let copies = pools.copies(candidate.node, wish.device);
    Score::new(candidate.node, pools.slot_use(candidate.node), copies)
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
