//! Codec of the driver's messages: what a descriptor asks, and what is told to the kernel.
//!
//! Pure.

use dynamicswap_engine::limits::REQUEST_PAGES_MAX;
use dynamicswap_types::{Bytes, PAGE_SIZE, PageIndex};

use super::abi::{
    ControlCommand, DATA_OFFSET, IoCommand, IoDescriptor, Parameters, SECTOR_BYTES, TAG_SHIFT,
    operation,
};

const SECTORS_PER_PAGE: u64 = PAGE_SIZE.get() / SECTOR_BYTES;
/// As a power of two.
const PAGE_SHIFT: u8 = 12;
/// Discards come in clusters of 2 MiB, and whole devices when swap is turned on; requests of 4 GiB
/// at most, which a page count of 32 bits holds.
const DISCARD_SECTORS_MAX: u32 = u32::MAX >> 9;
/// Parts of the parameters that are set.
const TYPES_BASIC_AND_DISCARD: u32 = 1 | 2;

const _: () = assert!(1 << PAGE_SHIFT == PAGE_SIZE.get());

/// What the kernel asks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Call {
    /// Read pages.
    Read(Pages),
    /// Write pages.
    Write(Pages),
    /// Forget pages; they read as zeroes afterwards.
    Discard(Pages),
    /// Everything written must be kept.
    Flush,
    /// Answered at once with this error number.
    Refused(i32),
}

/// Pages of the device.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Pages {
    /// The first.
    pub first: PageIndex,
    /// How many.
    pub count: u32,
}

/// Reads a descriptor of a device of `size`.
#[must_use]
pub fn parse(descriptor: &IoDescriptor, size: Bytes) -> Call {
    // A flush covers nothing, and its place means nothing: it comes before any look at that.
    match descriptor.op_flags & operation::MASK {
        operation::FLUSH => Call::Flush,
        operation::READ => with_data(descriptor, size, Call::Read),
        operation::WRITE => with_data(descriptor, size, Call::Write),
        operation::DISCARD | operation::WRITE_ZEROES => {
            pages(descriptor, size).map_or(Call::Refused(libc::EINVAL), Call::Discard)
        }
        _ => Call::Refused(libc::EOPNOTSUPP),
    }
}

fn with_data(descriptor: &IoDescriptor, size: Bytes, call: fn(Pages) -> Call) -> Call {
    let pages = pages(descriptor, size).filter(|pages| pages.count <= REQUEST_PAGES_MAX);
    pages.map_or(Call::Refused(libc::EINVAL), call)
}

/// Whole pages inside the device, one at least.
fn pages(descriptor: &IoDescriptor, size: Bytes) -> Option<Pages> {
    let (first, count) = (descriptor.first_sector, u64::from(descriptor.sectors));
    let aligned = first.is_multiple_of(SECTORS_PER_PAGE) && count.is_multiple_of(SECTORS_PER_PAGE);
    let inside = first.checked_add(count)? <= size.get() / SECTOR_BYTES;
    let pages = Pages {
        first: PageIndex::new(first / SECTORS_PER_PAGE),
        count: u32::try_from(count / SECTORS_PER_PAGE).ok()?,
    };
    (aligned && inside && pages.count > 0).then_some(pages)
}

/// Position of a tag's data in the character device, on the first queue.
#[must_use]
pub fn data_position(tag: u16) -> u64 {
    DATA_OFFSET + (u64::from(tag) << TAG_SHIFT)
}

/// Waits for a tag's first request.
#[must_use]
pub fn fetch(tag: u16) -> IoCommand {
    commit(tag, 0)
}

/// Answers a tag's request.
#[must_use]
pub fn commit(tag: u16, result: i32) -> IoCommand {
    IoCommand {
        queue: 0,
        tag,
        result,
        address: 0,
    }
}

/// A control command about a device, without a buffer.
#[must_use]
pub fn control(device: u32) -> ControlCommand {
    ControlCommand {
        device,
        queue: u16::MAX,
        len: 0,
        address: 0,
        data: 0,
        path_len: 0,
        pad: [0; 3],
    }
}

/// Parameters of a swap device: blocks of a page, discards, ranges made zero, and no write cache,
/// because what is answered is kept already.
#[must_use]
pub fn parameters(size: Bytes) -> Parameters {
    Parameters {
        len: u32::try_from(size_of::<Parameters>()).unwrap_or_default(),
        types: TYPES_BASIC_AND_DISCARD,
        attributes: 0,
        logical_shift: PAGE_SHIFT,
        physical_shift: PAGE_SHIFT,
        optimal_shift: PAGE_SHIFT,
        least_shift: PAGE_SHIFT,
        sectors_max: REQUEST_PAGES_MAX << (PAGE_SHIFT - 9),
        edge_sectors: 0,
        device_sectors: size.get() / SECTOR_BYTES,
        boundary_mask: 0,
        discard_alignment: 0,
        discard_granularity: 1 << PAGE_SHIFT,
        discard_sectors_max: DISCARD_SECTORS_MAX & !7,
        zeroes_sectors_max: DISCARD_SECTORS_MAX & !7,
        discard_segments_max: 1,
        reserved: 0,
        pad: 0,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const SIZE: Bytes = Bytes::from_mib(8);
    const SECTORS: u64 = SIZE.get() / SECTOR_BYTES;

    fn asked(op_flags: u32, first_sector: u64, sectors: u32) -> Call {
        let descriptor = IoDescriptor {
            op_flags,
            sectors,
            first_sector,
            address: 0,
        };
        parse(&descriptor, SIZE)
    }

    fn some(first: u64, count: u32) -> Pages {
        let first = PageIndex::new(first);
        Pages { first, count }
    }

    #[test]
    fn operations_are_told_by_the_lowest_byte_whatever_the_flags_are() {
        // A write of the kernel's swap; one that must be kept before it is answered, as each is.
        let (swap, fua) = (1 << 16, 1 << 13);
        assert_eq!(asked(operation::READ, 8, 8), Call::Read(some(1, 1)));
        assert_eq!(
            asked(operation::WRITE | swap, 8, 16),
            Call::Write(some(1, 2))
        );
        assert_eq!(asked(operation::WRITE | fua, 0, 8), Call::Write(some(0, 1)));
        assert_eq!(
            asked(operation::DISCARD, 0, 4096),
            Call::Discard(some(0, 512))
        );
        let zeroes = operation::WRITE_ZEROES | 1 << 15;
        assert_eq!(asked(zeroes, 0, 8), Call::Discard(some(0, 1)));
        assert_eq!(asked(4, 0, 8), Call::Refused(libc::EOPNOTSUPP));
        assert_eq!(asked(13, 0, 8), Call::Refused(libc::EOPNOTSUPP));
    }

    #[test]
    fn flush_is_taken_wherever_it_points() {
        assert_eq!(asked(operation::FLUSH, u64::MAX, 0), Call::Flush);
        assert_eq!(asked(operation::FLUSH | 1 << 11, 3, 1), Call::Flush);
    }

    #[test]
    fn broken_pages_and_ranges_beyond_the_end_are_refused() {
        let refused = Call::Refused(libc::EINVAL);
        for (first, sectors) in [
            (1, 8),
            (0, 7),
            (0, 0),
            (SECTORS, 8),
            (SECTORS - 8, 16),
            (u64::MAX - 7, 8),
        ] {
            for op in [operation::READ, operation::WRITE, operation::DISCARD] {
                assert_eq!(asked(op, first, sectors), refused, "{op} {first} {sectors}");
            }
        }
        assert_eq!(
            asked(operation::READ, SECTORS - 8, 8),
            Call::Read(some(2047, 1))
        );
        assert_eq!(
            asked(operation::WRITE, 0, 2056),
            refused,
            "longer than 1 MiB"
        );
        assert_eq!(asked(operation::WRITE, 0, 2048), Call::Write(some(0, 256)));
    }

    proptest! {
        #[test]
        fn no_descriptor_reaches_beyond_the_device(op in any::<u32>(), first in any::<u64>(), sectors in any::<u32>()) {
            match asked(op, first, sectors) {
                Call::Read(pages) | Call::Write(pages) => {
                    prop_assert!(pages.count >= 1 && pages.count <= REQUEST_PAGES_MAX);
                    prop_assert!(pages.first.get() + u64::from(pages.count) <= 2048);
                }
                Call::Discard(pages) => {
                    prop_assert!(pages.first.get() + u64::from(pages.count) <= 2048);
                }
                Call::Flush | Call::Refused(_) => {}
            }
        }
    }

    #[test]
    fn data_of_each_tag_has_a_place_of_its_own() {
        assert_eq!(data_position(0), 0x8000_0000);
        assert_eq!(data_position(1) - data_position(0), 32 << 20);
        assert_eq!(data_position(127), 0x8000_0000 + (127 << 25));
    }

    #[test]
    fn parameters_are_right_for_swap() {
        let parameters = parameters(SIZE);
        assert_eq!(parameters.len, 64);
        assert_eq!(parameters.attributes, 0, "no write cache");
        assert_eq!(parameters.sectors_max, 2048);
        assert_eq!(parameters.device_sectors, SECTORS);
        assert_eq!(
            parameters.discard_segments_max, 1,
            "the driver takes no more"
        );
        assert!(u64::from(parameters.discard_sectors_max).is_multiple_of(SECTORS_PER_PAGE));
    }
}
