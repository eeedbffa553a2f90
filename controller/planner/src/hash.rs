//! A table by hash that can be asked and not walked through: no plan depends on its order.
//!
//! For what a plan asks once for every copy of a large cluster, where an ordered map compares a name ten
//! times. The hash is FNV-1a, eight bytes at a time: its keys are names and ids of the cluster's own
//! nodes and devices, so nobody chooses them to collide.

use std::borrow::Borrow;
use std::hash::{Hash, Hasher};

/// Places of the smallest table.
const PLACES_MIN: usize = 16;
/// FNV-1a's prime and offset for 64 bits.
const PRIME: u64 = 0x0000_0100_0000_01b3;
const OFFSET: u64 = 0xcbf2_9ce4_8422_2325;

/// A table that is only asked. At least half of its places are empty, so that every search ends.
#[derive(Debug, Clone)]
pub(crate) struct Lookup<K, V> {
    places: Vec<Option<(K, V)>>,
    len: usize,
}

impl<K, V> Default for Lookup<K, V> {
    fn default() -> Self {
        Self {
            places: Vec::new(),
            len: 0,
        }
    }
}

impl<K: Hash + Eq, V> Lookup<K, V> {
    /// What is known of a key.
    pub(crate) fn get<Q: Hash + Eq + ?Sized>(&self, key: &Q) -> Option<&V>
    where
        K: Borrow<Q>,
    {
        let at = self.place(key)?;
        self.places[at].as_ref().map(|(_, value)| value)
    }

    /// The same, to change it.
    pub(crate) fn get_mut<Q: Hash + Eq + ?Sized>(&mut self, key: &Q) -> Option<&mut V>
    where
        K: Borrow<Q>,
    {
        let at = self.place(key)?;
        self.places[at].as_mut().map(|(_, value)| value)
    }

    /// Notes what is known of a key. Says whether it is a new one.
    pub(crate) fn insert(&mut self, key: K, value: V) -> bool {
        if 2 * (self.len + 1) > self.places.len() {
            self.grow();
        }
        let Some(at) = self.place(&key) else {
            return false;
        };
        let is_new = self.places[at].is_none();
        self.len += usize::from(is_new);
        self.places[at] = Some((key, value));
        is_new
    }

    /// Number of keys.
    pub(crate) const fn len(&self) -> usize {
        self.len
    }

    /// Where a key is, or would be; none in a table without places.
    fn place<Q: Hash + Eq + ?Sized>(&self, key: &Q) -> Option<usize>
    where
        K: Borrow<Q>,
    {
        let mask = self.places.len().checked_sub(1)?;
        let mut hash = Fnv::default();
        key.hash(&mut hash);
        // The mask keeps what fits.
        let mut at = usize::try_from(hash.finish() & u64::from(u32::MAX)).ok()? & mask;
        loop {
            match &self.places[at] {
                Some((other, _)) if other.borrow() != key => at = (at + 1) & mask,
                _ => return Some(at),
            }
        }
    }

    fn grow(&mut self) {
        let places = (4 * self.len).next_power_of_two().max(PLACES_MIN);
        let mut grown = Self {
            places: Vec::new(),
            len: 0,
        };
        grown.places.resize_with(places, || None);
        for (key, value) in self.places.drain(..).flatten() {
            grown.insert(key, value);
        }
        *self = grown;
    }
}

impl<K: Hash + Eq, V> Lookup<K, Vec<V>> {
    /// Adds to the list of a key.
    pub(crate) fn push(&mut self, key: K, value: V) {
        if let Some(known) = self.get_mut(&key) {
            known.push(value);
        } else {
            self.insert(key, vec![value]);
        }
    }
}

/// The hash.
#[derive(Debug, Clone, Copy)]
struct Fnv(u64);

impl Default for Fnv {
    fn default() -> Self {
        Self(OFFSET)
    }
}

impl Fnv {
    const fn take(&mut self, word: u64) {
        self.0 = (self.0 ^ word).wrapping_mul(PRIME);
        // Keys that differ in their last bytes differ in the high bits only: bring those down.
        self.0 ^= self.0 >> 32;
    }
}

impl Hasher for Fnv {
    fn write(&mut self, bytes: &[u8]) {
        let (words, rest) = bytes.as_chunks::<8>();
        for word in words {
            self.take(u64::from_le_bytes(*word));
        }
        for byte in rest {
            self.take(u64::from(*byte));
        }
    }

    fn finish(&self) -> u64 {
        self.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::{BTreeMap, BTreeSet};

    #[test]
    fn table_answers_as_an_ordered_map_does() {
        let mut table: Lookup<String, usize> = Lookup::default();
        let mut map: BTreeMap<String, usize> = BTreeMap::new();
        assert_eq!(table.get("a"), None);
        assert_eq!(table.get_mut("a"), None);
        for number in 0..5_000 {
            let name = format!("node-{}", number * 7 % 3_001);
            let is_new = map.insert(name.clone(), number).is_none();
            assert_eq!(table.insert(name, number), is_new);
        }
        for number in 0..4_000 {
            let name = format!("node-{number}");
            assert_eq!(table.get(name.as_str()), map.get(&name));
        }
        if let Some(value) = table.get_mut("node-5") {
            *value = 1;
        }
        assert_eq!(table.get("node-5"), Some(&1));
    }

    #[test]
    fn names_of_a_cluster_spread() {
        let places: BTreeSet<u64> = (0..4_096_u32)
            .map(|number| {
                let mut hash = Fnv::default();
                format!("node-{number}.example").hash(&mut hash);
                hash.finish() % 4_096
            })
            .collect();
        // So many of n places are taken by n random keys: 1 - 1/e.
        assert!(places.len() > 2_300, "{}", places.len());
    }
}
