//! The self-test before the device becomes swap: what is written comes back, what is discarded
//! is gone. Stays within the first slab, which the swap header takes anyway.

use dynamicswap_types::{Bytes, PAGE_SIZE};

use super::DeviceError;
use super::page::AlignedPages;
use super::raw::RawDevice;

/// The run covers one whole request of the largest size, within the smallest slab.
const RUN_PAGES: usize = 256;
/// Single pages, as the kernel swaps them.
const SINGLE_PAGES: [usize; 4] = [0, 1, 127, 255];

/// Writes, reads back, compares and discards.
pub(super) fn run(device: &RawDevice, size: Bytes) -> Result<(), DeviceError> {
    let page_bytes = PAGE_SIZE.as_usize();
    let pages = RUN_PAGES.min(size.as_usize() / page_bytes);
    let mut wanted = AlignedPages::new(pages);
    fill(wanted.bytes_mut(), 1);
    device.write_at(wanted.bytes(), 0)?;
    for page in SINGLE_PAGES.into_iter().filter(|page| *page < pages) {
        let bytes = page * page_bytes..(page + 1) * page_bytes;
        fill(&mut wanted.bytes_mut()[bytes.clone()], 2 + page);
        device.write_at(&wanted.bytes()[bytes], offset(page))?;
    }
    let mut found = AlignedPages::new(pages);
    device.read_at(found.bytes_mut(), 0)?;
    compare(
        device,
        wanted.bytes(),
        found.bytes(),
        "holds other bytes than were written",
    )?;
    device.discard(Bytes::new(offset(pages)))?;
    device.read_at(found.bytes_mut(), 0)?;
    wanted.bytes_mut().fill(0);
    compare(
        device,
        wanted.bytes(),
        found.bytes(),
        "is not empty after a discard",
    )
}

fn offset(page: usize) -> u64 {
    page as u64 * PAGE_SIZE.get()
}

/// A body that differs from page to page and from seed to seed.
fn fill(bytes: &mut [u8], seed: usize) {
    let mut state = 0x9e37_79b9_7f4a_7c15_u64.wrapping_mul(seed as u64 | 1);
    for word in bytes.chunks_exact_mut(8) {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        word.copy_from_slice(&state.to_le_bytes());
    }
}

fn compare(
    device: &RawDevice,
    wanted: &[u8],
    found: &[u8],
    what: &'static str,
) -> Result<(), DeviceError> {
    match first_difference(wanted, found) {
        None => Ok(()),
        Some(page) => Err(DeviceError::SelfTest {
            path: device.path().to_owned(),
            page: page as u64,
            what,
        }),
    }
}

fn first_difference(wanted: &[u8], found: &[u8]) -> Option<usize> {
    let page = PAGE_SIZE.as_usize();
    wanted
        .chunks(page)
        .zip(found.chunks(page))
        .position(|(wanted, found)| wanted != found)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn first_wrong_page_is_named() {
        let mut wanted = vec![0; 4 * 4096];
        fill(&mut wanted, 1);
        let mut found = wanted.clone();
        assert_eq!(first_difference(&wanted, &found), None);
        found[2 * 4096 + 9] ^= 1;
        found[3 * 4096] ^= 1;
        assert_eq!(first_difference(&wanted, &found), Some(2));
    }

    #[test]
    fn no_two_pages_of_the_pattern_are_equal() {
        let mut bytes = vec![0; 256 * 4096];
        fill(&mut bytes, 1);
        let pages: std::collections::BTreeSet<&[u8]> = bytes.chunks(4096).collect();
        assert_eq!(pages.len(), 256);
    }
}
