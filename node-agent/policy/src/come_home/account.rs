//! What of a container's swapped pages probing has sent away.
//!
//! Owns two numbers. Which page was sent by whom the kernel does not tell; so pages that come
//! home count as the ones that pressure took, until those are all home. The error is on one side:
//! too little is brought home, never too much.

use dynamicswap_types::Bytes;

/// The account of one container.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct SwapAccount {
    swapped: Bytes,
    probed: Bytes,
}

impl SwapAccount {
    /// The account of a container that is first seen with so much swapped out. Who sent it is not
    /// known, so it counts as cold: after a restart nothing is moved on a guess.
    #[must_use]
    pub const fn found(swapped: Bytes) -> Self {
        Self {
            swapped,
            probed: swapped,
        }
    }

    /// Swapped out by now, where no probe was made since the last word.
    #[must_use]
    pub fn seen(self, swapped: Bytes) -> Self {
        Self {
            swapped,
            probed: self.probed.min(swapped),
        }
    }

    /// Swapped out after a probe asked for so much: what it grew by is the probe's, up to what
    /// was asked for.
    #[must_use]
    pub fn after_probe(self, asked: Bytes, swapped: Bytes) -> Self {
        let sent = swapped.saturating_sub(self.swapped).min(asked);
        Self {
            swapped,
            probed: self.probed.saturating_add(sent).min(swapped),
        }
    }

    /// What probing sent away and is still out.
    #[must_use]
    pub const fn probed(self) -> Bytes {
        self.probed
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn probed_pages_are_counted_apart_and_never_exceed_what_is_out() {
        let mib = Bytes::from_mib;
        let account = SwapAccount::default().seen(mib(10));
        assert_eq!(account.probed(), Bytes::ZERO);
        let account = account.after_probe(mib(2), mib(13));
        assert_eq!(account.probed(), mib(2));
        assert_eq!(account.seen(mib(5)).probed(), mib(2));
        assert_eq!(account.seen(mib(1)).probed(), mib(1));
        assert_eq!(account.seen(mib(1)).seen(mib(9)).probed(), mib(1));
        assert_eq!(SwapAccount::found(mib(4)).probed(), mib(4));
    }
}
