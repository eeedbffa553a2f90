//! What keeps a page secret on its way and proves it right on its return: AES-256-GCM under the
//! device's key, or a bare checksum where encryption is off.
//!
//! Owns the nonce's rule. A version names one write of one engine process and is never used
//! again, also not for the same write that a killed engine's successor is sent again; a write has
//! each page once. So version and page together are a nonce that no two contents share. The tag
//! stays on the borrower, cut to 64 bits to fit the page table; device, page and version are
//! authenticated with the content, so that a moved, stale or swapped page is as wrong as a
//! flipped one.

use aws_lc_rs::aead::{AES_256_GCM, Aad, LessSafeKey, Nonce, UnboundKey};
use dynamicswap_types::{PageIndex, PageVersion, SwapDeviceId};

use crate::checksum::page_tag;
use crate::tables::PageTag;

const PAGE_BYTES: usize = 4096;

/// Key of one device: random, never written anywhere that outlives the device.
#[derive(Clone, PartialEq, Eq)]
pub struct PageKey([u8; 32]);

impl PageKey {
    /// From random bytes.
    #[must_use]
    pub const fn from_bytes(bytes: [u8; 32]) -> Self {
        Self(bytes)
    }

    /// The bytes.
    #[must_use]
    pub const fn to_bytes(&self) -> [u8; 32] {
        self.0
    }
}

impl std::fmt::Debug for PageKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("PageKey(secret)")
    }
}

/// How much of the tag is kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TagLength {
    /// 64 of its bits.
    Half,
    /// All 128.
    Whole,
}

/// Guards the pages of one device.
#[derive(Debug)]
pub enum PageGuard {
    /// Pages travel as they are; CRC-64 finds accidents, not attacks.
    Checksum,
    /// AES-256-GCM.
    Sealed(Box<Seal>),
}

/// Cipher and scratch page.
#[derive(Debug)]
pub struct Seal {
    cipher: Cipher,
    scratch: [u8; PAGE_BYTES],
}

#[derive(Debug)]
struct Cipher {
    key: LessSafeKey,
    device: SwapDeviceId,
    kept: TagLength,
}

impl PageGuard {
    /// Encrypts from now on.
    #[must_use]
    pub fn sealed(key: &PageKey, device: SwapDeviceId, kept: TagLength) -> Self {
        #[expect(
            clippy::expect_used,
            reason = "AES-256 takes every key of 32 bytes, and this is one"
        )]
        let key = UnboundKey::new(&AES_256_GCM, &key.0).expect("a key of 32 bytes");
        Self::Sealed(Box::new(Seal {
            cipher: Cipher {
                key: LessSafeKey::new(key),
                device,
                kept,
            },
            scratch: [0; PAGE_BYTES],
        }))
    }

    /// Whether all 128 bits of a tag must be given back.
    #[must_use]
    pub fn keeps_whole_tags(&self) -> bool {
        matches!(self, Self::Sealed(seal) if seal.cipher.kept == TagLength::Whole)
    }

    /// Makes a page ready to leave, in place. Gives the tag to publish. Doing it again to the same
    /// content with the same version gives the same bytes.
    pub fn protect(&self, bytes: &mut [u8], page: PageIndex, version: PageVersion) -> PageTag {
        match self {
            Self::Checksum => PageTag::half(page_tag(bytes, page, version)),
            Self::Sealed(seal) => seal.cipher.seal(bytes, page, version),
        }
    }

    /// Whether bytes that came back are what left as this version of the page. They stay as they
    /// are.
    pub fn check(
        &mut self,
        bytes: &[u8],
        page: PageIndex,
        version: PageVersion,
        tag: PageTag,
    ) -> bool {
        match self {
            Self::Checksum => PageTag::half(page_tag(bytes, page, version)) == tag,
            Self::Sealed(seal) => {
                let Seal { cipher, scratch } = &mut **seal;
                scratch.copy_from_slice(bytes);
                match cipher.kept {
                    TagLength::Whole => cipher.open(scratch, page, version, tag),
                    TagLength::Half => {
                        cipher.seal(scratch, page, version);
                        cipher.seal(scratch, page, version) == tag
                    }
                }
            }
        }
    }

    /// Like [`Self::check`], and makes the page readable in place if it is right. A wrong one is
    /// left as garbage.
    pub fn reveal(
        &mut self,
        bytes: &mut [u8],
        page: PageIndex,
        version: PageVersion,
        tag: PageTag,
    ) -> bool {
        match self {
            Self::Checksum => PageTag::half(page_tag(bytes, page, version)) == tag,
            Self::Sealed(seal) => {
                let Seal { cipher, scratch } = &mut **seal;
                match cipher.kept {
                    TagLength::Whole => cipher.open(bytes, page, version, tag),
                    TagLength::Half => {
                        cipher.seal(bytes, page, version);
                        scratch.copy_from_slice(bytes);
                        cipher.seal(scratch, page, version) == tag
                    }
                }
            }
        }
    }
}

impl Cipher {
    /// Encrypts plaintext and gives its tag; of ciphertext it makes plaintext, because the cipher
    /// is a key stream, and the tag then means nothing. With the tag cut to 64 bits the library's
    /// own way back cannot be used: encrypting what came out again gives the tag to compare.
    fn seal(&self, bytes: &mut [u8], page: PageIndex, version: PageVersion) -> PageTag {
        let (nonce, context) = self.nonce_and_context(page, version);
        let sealed = self.key.seal_in_place_separate_tag(nonce, context, bytes);
        // It fails for messages above 64 GiB only.
        sealed.map_or(PageTag::default(), |tag| {
            let mut whole = [0; 16];
            whole.copy_from_slice(tag.as_ref());
            if self.kept == TagLength::Half {
                whole[8..].fill(0);
            }
            PageTag::whole(whole)
        })
    }

    /// Decrypts in place what has this tag, all 128 bits of it; anything else becomes garbage.
    fn open(&self, bytes: &mut [u8], page: PageIndex, version: PageVersion, tag: PageTag) -> bool {
        let (nonce, context) = self.nonce_and_context(page, version);
        let tag = tag.to_bytes();
        let opened = self
            .key
            .open_in_place_separate_tag(nonce, context, &tag, bytes);
        opened.is_ok()
    }

    /// The nonce's rule, and what is authenticated with the content.
    fn nonce_and_context(&self, page: PageIndex, version: PageVersion) -> (Nonce, Aad<[u8; 32]>) {
        let version = version.to_bits().to_le_bytes();
        let page = page.get().to_le_bytes();
        let mut nonce = [0; 12];
        nonce[..8].copy_from_slice(&version);
        // A device has 2^28 pages at most.
        nonce[8..].copy_from_slice(&page[..4]);
        let mut context = [0; 32];
        context[..16].copy_from_slice(&self.device.to_bytes());
        context[16..24].copy_from_slice(&page);
        context[24..].copy_from_slice(&version);
        (Nonce::assume_unique_for_key(nonce), Aad::from(context))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tables::{Geometry, OwnedTables, PageRecord};
    use dynamicswap_types::{Epoch, Integrity, SlabSize};
    use proptest::prelude::*;

    const KEY: PageKey = PageKey::from_bytes([9; 32]);
    const DEVICE: SwapDeviceId = SwapDeviceId::from_bytes([1; 16]);

    fn version(epoch: u64, counter: u64) -> PageVersion {
        PageVersion::new(Epoch::new(epoch), counter).expect("fits")
    }

    const LENGTHS: [TagLength; 2] = [TagLength::Half, TagLength::Whole];

    fn guards() -> [PageGuard; 3] {
        let [half, whole] = LENGTHS.map(|kept| PageGuard::sealed(&KEY, DEVICE, kept));
        [PageGuard::Checksum, half, whole]
    }

    #[test]
    fn page_comes_back_as_it_left_and_is_no_longer_readable_on_its_way() {
        for (mut guard, hidden) in guards().into_iter().zip([false, true, true]) {
            let content = [7; PAGE_BYTES];
            let (page, version) = (PageIndex::new(3), version(2, 5));
            let mut bytes = content;
            let tag = guard.protect(&mut bytes, page, version);
            assert_eq!(bytes != content, hidden);
            let left = bytes;
            assert!(guard.check(&bytes, page, version, tag));
            assert_eq!(bytes, left, "a check changes nothing");
            assert!(guard.reveal(&mut bytes, page, version, tag));
            assert_eq!(bytes, content);
            guard.protect(&mut bytes, page, version);
            assert_eq!(bytes, left, "a repair writes what had been written");
        }
    }

    #[test]
    fn other_key_and_other_device_open_nothing() {
        let mut bytes = [7; PAGE_BYTES];
        let (page, version) = (PageIndex::new(3), version(2, 5));
        for kept in LENGTHS {
            let tag = PageGuard::sealed(&KEY, DEVICE, kept).protect(&mut bytes, page, version);
            let other_key = PageGuard::sealed(&PageKey::from_bytes([8; 32]), DEVICE, kept);
            let other_device = SwapDeviceId::from_bytes([2; 16]);
            let other_device = PageGuard::sealed(&KEY, other_device, kept);
            for mut guard in [other_key, other_device] {
                assert!(!guard.check(&bytes, page, version, tag));
            }
        }
    }

    #[test]
    fn both_lengths_are_of_one_tag_and_send_the_same_bytes() {
        let (page, version) = (PageIndex::new(3), version(2, 5));
        let sent = LENGTHS.map(|kept| {
            let mut bytes = [7; PAGE_BYTES];
            let tag = PageGuard::sealed(&KEY, DEVICE, kept).protect(&mut bytes, page, version);
            (bytes, tag.to_bytes())
        });
        let [(half_bytes, half), (whole_bytes, whole)] = sent;
        assert_eq!(half_bytes, whole_bytes);
        assert_eq!(half[..8], whole[..8]);
        assert_eq!(half[8..], [0; 8]);
        assert_ne!(whole[8..], [0; 8]);
    }

    #[test]
    fn key_is_in_no_debug_output() {
        assert_eq!(format!("{KEY:?}"), "PageKey(secret)");
        let guard = format!("{:?}", PageGuard::sealed(&KEY, DEVICE, TagLength::Whole));
        assert!(!guard.contains("9, 9"), "{guard}");
    }

    proptest! {
        #[test]
        fn flipped_moved_stale_and_swapped_pages_are_refused(
            bit in 0..PAGE_BYTES * 8,
            page in 0_u64..1 << 28,
            other in 0_u64..1 << 28,
            counter in 1_u64..1 << 40,
            later in 1_u64..1 << 40,
        ) {
            for mut guard in guards() {
                let (at, written) = (PageIndex::new(page), version(3, counter));
                let mut bytes = [5; PAGE_BYTES];
                let tag = guard.protect(&mut bytes, at, written);
                let mut flipped = bytes;
                flipped[bit / 8] ^= 1 << (bit % 8);
                prop_assert!(!guard.check(&flipped, at, written, tag));
                prop_assert!(!guard.reveal(&mut flipped, at, written, tag));
                prop_assert_eq!(guard.check(&bytes, PageIndex::new(other), written, tag), other == page);
                prop_assert_eq!(guard.check(&bytes, at, version(3, later), tag), later == counter);
                prop_assert!(!guard.check(&bytes, at, version(4, counter), tag));
            }
        }

        /// Every bit that is kept of a tag counts.
        #[test]
        fn page_with_a_bit_of_its_tag_flipped_is_refused(
            bit in 0_usize..128,
            counter in 1_u64..1 << 40,
        ) {
            for (mut guard, bits) in guards().into_iter().zip([64, 64, 128]) {
                let (page, version) = (PageIndex::new(3), version(3, counter));
                let mut bytes = [5; PAGE_BYTES];
                let mut tag = guard.protect(&mut bytes, page, version).to_bytes();
                let bit = bit % bits;
                tag[bit / 8] ^= 1 << (bit % 8);
                let tag = PageTag::whole(tag);
                prop_assert!(!guard.check(&bytes, page, version, tag));
                prop_assert!(!guard.reveal(&mut bytes, page, version, tag));
            }
        }

        /// A process that is killed between any two stores of a publication leaves an entry that
        /// opens the content of before, or that of after, as what it is, and nothing else.
        #[test]
        fn torn_entry_never_opens_a_wrong_page(
            before in 1_u64..1 << 20,
            after in 1_u64 << 20..1 << 40,
            stores in 0_usize..=3,
            at in 0_usize..256,
        ) {
            let slab = SlabSize::try_from(SlabSize::MIN).expect("the least");
            let all = Integrity::ALL.into_iter().zip(guards());
            for (integrity, mut guard) in all {
                let geometry = Geometry::new(slab.bytes(), slab, 0, integrity).expect("valid");
                let tables = OwnedTables::new(DEVICE, geometry);
                let tables = tables.tables();
                let page = PageIndex::new(at as u64);
                let record = |counter| PageRecord {
                    version: version(3, counter),
                    remote: true,
                    disk: false,
                };
                let [(old_bytes, old_tag), (new_bytes, new_tag)] =
                    [(5, before), (6, after)].map(|(content, counter)| {
                        let mut bytes = [content; PAGE_BYTES];
                        let tag = guard.protect(&mut bytes, page, version(3, counter));
                        (bytes, tag)
                    });
                tables.publish(at, record(before), old_tag);
                tables.publish_torn(at, record(after), new_tag, stores);
                let found = tables.pages[at].load().version;
                let opens = |guard: &mut PageGuard, mut bytes: [u8; PAGE_BYTES]| {
                    guard.reveal(&mut bytes, page, found, tables.tag(at)).then_some(bytes[0])
                };
                let needed = if integrity == Integrity::Full { 3 } else { 2 };
                let (old, new) = (opens(&mut guard, old_bytes), opens(&mut guard, new_bytes));
                prop_assert_eq!(old, (stores == 0).then_some(5));
                prop_assert_eq!(new, (stores >= needed).then_some(6));
            }
        }

        /// The same content written twice, as after a crash, leaves under two nonces.
        #[test]
        fn no_two_writes_look_alike(
            page in 0_u64..1 << 28,
            other in 0_u64..1 << 28,
            first in (1_u64..1 << 22, 1_u64..1 << 40),
            second in (1_u64..1 << 22, 1_u64..1 << 40),
        ) {
            let guard = PageGuard::sealed(&KEY, DEVICE, TagLength::Whole);
            let mut one = [0; PAGE_BYTES];
            guard.protect(&mut one, PageIndex::new(page), version(first.0, first.1));
            let mut two = [0; PAGE_BYTES];
            guard.protect(&mut two, PageIndex::new(other), version(second.0, second.1));
            prop_assert_eq!(one == two, (page, first) == (other, second));
        }
    }
}
