//! A small seeded generator (SplitMix64): the same seed tells the same story on every machine.

/// The generator.
#[derive(Debug, Clone)]
pub struct SeededRandom(u64);

impl SeededRandom {
    /// From a seed.
    #[must_use]
    pub const fn new(seed: u64) -> Self {
        Self(seed)
    }

    /// The next 64 bits.
    pub const fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut bits = self.0;
        bits = (bits ^ (bits >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        bits = (bits ^ (bits >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        bits ^ (bits >> 31)
    }

    /// A number below `limit`; 0 if that is 0. Slightly uneven, which no test minds.
    pub const fn below(&mut self, limit: u64) -> u64 {
        let bits = self.next();
        if limit == 0 { 0 } else { bits % limit }
    }

    /// True `share` times of 1000. Draws nothing for 0, so that a fault that is off does not
    /// change the story of the others.
    pub const fn per_mille(&mut self, share: u16) -> bool {
        share > 0 && self.below(1000) < share as u64
    }
}
