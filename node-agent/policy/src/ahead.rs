//! What a node that is short asks of its containers, before the kernel takes it from them.
//!
//! Owns only the division of the deficit; [`crate::offload()`] decides what of it a container
//! can give.

use std::collections::BTreeMap;

use dynamicswap_types::{Bytes, PAGE_SIZE};

use crate::observation::ContainerName;
use crate::offload::{AheadSettings, RECLAIM_MIN};

/// Divides what the node is short of over the containers, each by what it could give. `spare` is
/// that: the least of what it has above its floor, of its anonymous memory, and of what its swap
/// limit still lets out. Who would give less than the kernel takes at once is not asked.
#[must_use]
pub fn ask(
    available: Bytes,
    total: Bytes,
    spare: &BTreeMap<ContainerName, Bytes>,
    settings: &AheadSettings,
) -> BTreeMap<ContainerName, Bytes> {
    let missing = settings
        .bounded()
        .room(total, Bytes::ZERO)
        .saturating_sub(available);
    let all: u128 = spare.values().map(|spare| u128::from(spare.get())).sum();
    if missing == Bytes::ZERO || all == 0 {
        return BTreeMap::new();
    }
    let share = |spare: Bytes| {
        let share = u128::from(missing.get()) * u128::from(spare.get()) / all;
        let share = u64::try_from(share).unwrap_or(u64::MAX);
        // Rounded up to a page: many small parts must not come to nothing.
        let share = share.div_ceil(PAGE_SIZE.get()) * PAGE_SIZE.get();
        Bytes::new(share).max(RECLAIM_MIN).min(spare)
    };
    let asked = spare
        .iter()
        .map(|(name, spare)| (name.clone(), share(*spare)));
    asked.filter(|(_, asked)| *asked >= RECLAIM_MIN).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn containers(spare: &[u32]) -> BTreeMap<ContainerName, Bytes> {
        let named = spare.iter().enumerate().map(|(index, spare)| {
            let name = ContainerName {
                namespace: "default".to_owned(),
                name: format!("{index:03}"),
            };
            (name, Bytes::new(u64::from(*spare)))
        });
        named.collect()
    }

    #[test]
    fn node_with_room_asks_nobody() {
        let settings = AheadSettings::default();
        let (total, available) = (Bytes::from_mib(1_000), Bytes::from_mib(50));
        assert!(ask(available, total, &containers(&[1 << 30]), &settings).is_empty());
    }

    #[test]
    fn who_has_more_gives_more() {
        let settings = AheadSettings::default();
        let spare = containers(&[100 << 20, 300 << 20, 4096]);
        let asked = ask(
            Bytes::from_mib(10),
            Bytes::from_mib(1_000),
            &spare,
            &settings,
        );
        let asked: Vec<u64> = asked.values().map(|bytes| bytes.get() >> 20).collect();
        assert_eq!(asked, [10, 30]);
    }

    proptest! {
        #[test]
        fn nobody_is_asked_for_more_than_it_has(
            available in any::<u32>(),
            total in any::<u32>(),
            spare in prop::collection::vec(any::<u32>(), 0..20),
        ) {
            let (available, total) = (Bytes::new(available.into()), Bytes::new(total.into()));
            let spare = containers(&spare);
            let asked = ask(available, total, &spare, &AheadSettings::default());
            for (name, asked) in asked {
                prop_assert!(asked <= spare[&name]);
            }
        }
    }
}
