//! The kernel's side of the device: requests under way, and a register of what each page holds.
//!
//! Owns the promise P0: a successful read returns the last acknowledged bytes. Requests that a
//! dead engine has not answered are kept and sent again, as FUSE and ublk do.

use std::collections::BTreeMap;

use dynamicswap_datapath::transport::fault::SeededRandom;
use dynamicswap_engine::buffer::BufferRange;
use dynamicswap_engine::effect::Effect;
use dynamicswap_engine::request::{RequestError, RequestTag};
use dynamicswap_types::MonotonicTime;
use dynamicswap_workload::page::{PAGE_WORDS, Page, RunId, Stamp};

use crate::scenario::Scenario;

/// What a request does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verb {
    /// Fill pages.
    Read,
    /// Store pages of this version.
    Write(u32),
    /// Forget pages.
    Discard,
    /// Wait for earlier writes.
    Flush,
}

/// A request without its buffer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Draft {
    /// First page.
    pub page: u64,
    /// Number of pages.
    pub pages: u32,
    /// What it does.
    pub verb: Verb,
}

impl Draft {
    fn overlaps(&self, other: &Self) -> bool {
        let end = |draft: &Self| draft.page + u64::from(draft.pages);
        self.page < end(other) && other.page < end(self)
    }

    /// Its pages.
    pub fn range(&self) -> std::ops::Range<u64> {
        self.page..self.page + u64::from(self.pages)
    }
}

/// A request that was not let go of.
#[derive(Debug, Clone, Copy)]
pub struct Sent {
    /// The request.
    pub draft: Draft,
    /// Its buffer in the present engine's pool.
    pub buffer: BufferRange,
    /// When the kernel first sent it.
    pub submitted: MonotonicTime,
    /// When the present engine got it.
    pub given: MonotonicTime,
    /// How often it was sent again.
    pub resent: u32,
    /// Whether it was answered; its buffer may still be in use.
    pub answered: bool,
}

/// What a page holds.
#[derive(Debug, Clone, Default)]
pub struct Register {
    /// Version of the last acknowledged write; 0: nothing, reads as zeroes.
    pub acked: u32,
    /// Versions of failed writes that an engine may have published before it died.
    pub maybe: Vec<u32>,
    /// A write has failed since: a read may fail.
    pub doubtful: bool,
    /// More failures than the class covers have taken every copy.
    pub lost: bool,
}

/// What an answer showed, for the coverage.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Seen {
    /// A read of acknowledged bytes.
    RightRead,
    /// A read of a failed write's bytes.
    FailedWriteRead,
    /// A read of what a later request did whose answer died with the engine.
    Overtaken,
    /// A read failed.
    FailedRead,
    /// A write was acknowledged.
    Acknowledged,
    /// A write failed.
    FailedWrite,
    /// Anything else.
    Other,
}

/// The kernel.
#[derive(Debug)]
pub struct Kernel {
    run: RunId,
    windows: Vec<(u64, u32)>,
    device_pages: u64,
    overlapping: bool,
    depth: usize,
    /// Requests by tag, which is their order too.
    pub sent: BTreeMap<u64, Sent>,
    /// Pages of the device.
    pub pages: Vec<Register>,
    next_tag: u64,
    next_version: u32,
}

/// The words of a page in memory.
#[must_use]
pub fn words(bytes: &[u8]) -> Page {
    let mut page = [0; PAGE_WORDS];
    for (word, bytes) in page.iter_mut().zip(bytes.chunks_exact(8)) {
        *word = bytes.try_into().map_or(0, u64::from_le_bytes);
    }
    page
}

impl Kernel {
    /// A fresh device of a scenario.
    #[must_use]
    pub fn new(scenario: &Scenario, random: &mut SeededRandom) -> Self {
        let device_pages = scenario.device_pages();
        let pages = usize::try_from(device_pages).unwrap_or_default();
        Self {
            run: RunId::new(scenario.seed),
            windows: windows(scenario, random),
            device_pages,
            overlapping: scenario.overlapping,
            depth: scenario.depth,
            sent: BTreeMap::new(),
            pages: vec![Register::default(); pages],
            next_tag: 1,
            next_version: 0,
        }
    }

    /// The content of a page at a version.
    #[must_use]
    pub const fn stamp(&self, page: u64, version: u32) -> Stamp {
        Stamp {
            run: self.run,
            index: page,
            version,
        }
    }

    /// Register of a page.
    #[must_use]
    pub fn register(&self, page: u64) -> &Register {
        &self.pages[usize::try_from(page).unwrap_or(usize::MAX)]
    }

    /// Register of a page, to change.
    pub fn register_mut(&mut self, page: u64) -> &mut Register {
        &mut self.pages[usize::try_from(page).unwrap_or(usize::MAX)]
    }

    /// Requests without an answer.
    pub fn unanswered(&self) -> impl Iterator<Item = (u64, &Sent)> + '_ {
        let open = self.sent.iter().filter(|(_, sent)| !sent.answered);
        open.map(|(tag, sent)| (*tag, sent))
    }

    /// Draws a request, if there is room for one and it meets no other.
    pub fn draw(&mut self, random: &mut SeededRandom) -> Option<Draft> {
        if self.sent.len() >= self.depth {
            return None;
        }
        let (page, longest) = self.windows[pick(random, self.windows.len())];
        let verb = match random.below(20) {
            0..8 => Verb::Read,
            8..17 => Verb::Write(0),
            17 => {
                return self.allowed(Draft {
                    page: 0,
                    pages: 0,
                    verb: Verb::Flush,
                });
            }
            _ => Verb::Discard,
        };
        let pages = if random.below(3) == 0 {
            longest
        } else {
            1 + u32::try_from(pick(random, longest as usize)).unwrap_or_default()
        };
        self.allowed(self.draft(random, (page, longest), pages, verb))
    }

    fn draft(
        &self,
        random: &mut SeededRandom,
        window: (u64, u32),
        pages: u32,
        verb: Verb,
    ) -> Draft {
        // A rare discard of everything empties slabs, so that their sets return.
        if verb == Verb::Discard && random.below(4) == 0 {
            let pages = u32::try_from(self.device_pages).unwrap_or(u32::MAX);
            return Draft {
                page: 0,
                pages,
                verb,
            };
        }
        let skip = random.below(u64::from(window.1 - pages + 1));
        Draft {
            page: window.0 + skip,
            pages,
            verb,
        }
    }

    fn allowed(&self, draft: Draft) -> Option<Draft> {
        let meets = |other: &Draft| {
            let reads = draft.verb == Verb::Read && other.verb == Verb::Read;
            draft.overlaps(other) && !reads
        };
        let busy = self.unanswered().any(|(_, sent)| meets(&sent.draft));
        (self.overlapping || !busy).then_some(draft)
    }

    /// A read of the whole page, for the last check.
    #[must_use]
    pub const fn reading(page: u64) -> Draft {
        Draft {
            page,
            pages: 1,
            verb: Verb::Read,
        }
    }

    /// Notes a request that is sent now; gives its tag. A write gets its version.
    pub fn send(
        &mut self,
        mut draft: Draft,
        buffer: BufferRange,
        now: MonotonicTime,
    ) -> (u64, Draft) {
        if let Verb::Write(_) = draft.verb {
            self.next_version += 1;
            draft.verb = Verb::Write(self.next_version);
        }
        let tag = self.next_tag;
        self.next_tag += 1;
        let sent = Sent {
            draft,
            buffer,
            submitted: now,
            given: now,
            resent: 0,
            answered: false,
        };
        self.sent.insert(tag, sent);
        (tag, draft)
    }

    /// The engine answered. `bytes` gives a read's pages. What is wrong comes back as text.
    ///
    /// # Errors
    /// The sentence that says which page is wrong.
    pub fn answered<'b>(
        &mut self,
        tag: RequestTag,
        result: Result<(), RequestError>,
        bytes: impl Fn(u32) -> &'b [u8],
    ) -> Result<Seen, String> {
        let Some(sent) = self.sent.get_mut(&tag.0).filter(|sent| !sent.answered) else {
            return Err(format!(
                "request {} was answered twice or never sent",
                tag.0
            ));
        };
        sent.answered = true;
        let sent = *sent;
        let mut seen = Seen::Other;
        for (number, page) in (0_u32..).zip(sent.draft.range()) {
            seen = match (sent.draft.verb, result) {
                (Verb::Read, Ok(())) if self.was_overtaken(tag.0, page, bytes(number)) => {
                    Seen::Overtaken
                }
                (Verb::Read, Ok(())) => self.check_page(page, bytes(number), seen)?,
                (Verb::Read, Err(_)) => Seen::FailedRead,
                (Verb::Write(version), Ok(())) => {
                    *self.register_mut(page) = Register {
                        acked: version,
                        ..Register::default()
                    };
                    Seen::Acknowledged
                }
                (Verb::Write(version), Err(_)) => {
                    let register = self.register_mut(page);
                    register.doubtful = true;
                    if sent.resent > 0 {
                        register.maybe.push(version);
                    }
                    Seen::FailedWrite
                }
                (Verb::Discard, Ok(())) => {
                    *self.register_mut(page) = Register::default();
                    Seen::Other
                }
                (verb, result) => return Err(format!("{verb:?} ended with {result:?}")),
            };
        }
        Ok(seen)
    }

    /// Whether a read that was sent again shows what a later request did to the page before the
    /// engine died: that one's answer was lost together with the read's.
    fn was_overtaken(&self, tag: u64, page: u64, bytes: &[u8]) -> bool {
        let read = self.sent.get(&tag).filter(|sent| sent.resent > 0);
        let Some(read) = read else {
            return false;
        };
        // Its turn to be sent again may come after the read's answer.
        let again = |sent: &Sent| !sent.answered && sent.submitted < read.given;
        let found = words(bytes);
        let mut later = self.sent.range(tag + 1..);
        later.any(|(_, sent)| {
            again(sent)
                && sent.draft.range().contains(&page)
                && match sent.draft.verb {
                    Verb::Write(version) => self.stamp(page, version).check(&found).is_ok(),
                    Verb::Discard => found.iter().all(|word| *word == 0),
                    Verb::Read | Verb::Flush => false,
                }
        })
    }

    fn check_page(&self, page: u64, bytes: &[u8], seen: Seen) -> Result<Seen, String> {
        let register = self.register(page);
        let found = words(bytes);
        let fits = |version: u32| match version {
            0 => found.iter().all(|word| *word == 0),
            _ => self.stamp(page, version).check(&found).is_ok(),
        };
        if fits(register.acked) {
            return Ok(if seen == Seen::FailedWriteRead {
                seen
            } else {
                Seen::RightRead
            });
        }
        if register.maybe.iter().any(|version| fits(*version)) {
            return Ok(Seen::FailedWriteRead);
        }
        let wrong = match self.stamp(page, register.acked).check(&found) {
            Err(wrong) => wrong.to_string(),
            Ok(()) => "it is not zero".to_owned(),
        };
        Err(format!(
            "page {page}, acknowledged version {}: {wrong}",
            register.acked
        ))
    }

    /// Whether an effect tells of a write that it is done.
    #[must_use]
    pub fn acknowledges(&self, effect: &Effect) -> bool {
        let Effect::Complete {
            tag,
            result: Ok(()),
            ..
        } = effect
        else {
            return false;
        };
        let sent = self.sent.get(&tag.0);
        sent.is_some_and(|sent| matches!(sent.draft.verb, Verb::Write(_)))
    }

    /// The engine let go of a request. Gives its buffer back, if it had one.
    ///
    /// # Errors
    /// A sentence, if it was not answered before.
    pub fn released(&mut self, tag: RequestTag) -> Result<BufferRange, String> {
        match self.sent.remove(&tag.0) {
            Some(sent) if sent.answered => Ok(sent.buffer),
            _ => Err(format!("request {} was released before its answer", tag.0)),
        }
    }

    /// The engine died: forgets what it had answered, gives the rest in the order in which it is
    /// sent again: the first one's if requests may overlap, any order if not.
    pub fn orphans(&mut self, random: &mut SeededRandom) -> Vec<u64> {
        self.sent.retain(|_, sent| !sent.answered);
        let mut tags: Vec<u64> = self.sent.keys().copied().collect();
        if !self.overlapping {
            for last in (1..tags.len()).rev() {
                tags.swap(last, pick(random, last + 1));
            }
        }
        tags
    }
}

/// A position below `count`.
pub fn pick(random: &mut SeededRandom, count: usize) -> usize {
    let count = u64::try_from(count).unwrap_or(u64::MAX);
    usize::try_from(random.below(count)).unwrap_or_default()
}

/// Where requests fall: few places, so that they meet; slab edges among them.
fn windows(scenario: &Scenario, random: &mut SeededRandom) -> Vec<(u64, u32)> {
    let device = scenario.device_pages();
    let slab = u64::from(scenario.slab_pages);
    let window = |start: u64, length: u64| {
        let start = start.min(device - 1);
        (
            start,
            u32::try_from(length.min(device - start)).unwrap_or(1),
        )
    };
    let mut windows = vec![
        window(slab - slab.min(4), 8.min(slab)),
        window(device - 2, 2),
    ];
    for _ in 0..5 {
        windows.push(window(random.below(device), 1 + random.below(8.min(slab))));
    }
    // One long request, up to a slab.
    windows.push(window(random.below(device), slab.min(256)));
    windows
}

#[cfg(test)]
mod tests {
    use super::*;

    fn kernel() -> Kernel {
        Kernel::new(&Scenario::of(3), &mut SeededRandom::new(1))
    }

    fn bytes_of(page: &Page) -> Vec<u8> {
        page.iter().flat_map(|word| word.to_le_bytes()).collect()
    }

    fn write(kernel: &mut Kernel, page: u64) -> (RequestTag, u32) {
        let buffer = BufferRange { first: 0, pages: 1 };
        let draft = Draft {
            page,
            pages: 1,
            verb: Verb::Write(0),
        };
        let (tag, draft) = kernel.send(draft, buffer, MonotonicTime::ZERO);
        let Verb::Write(version) = draft.verb else {
            panic!("a write")
        };
        (RequestTag(tag), version)
    }

    fn read(kernel: &mut Kernel, page: u64, content: &[u8]) -> Result<Seen, String> {
        let buffer = BufferRange { first: 0, pages: 1 };
        let (tag, _) = kernel.send(Kernel::reading(page), buffer, MonotonicTime::ZERO);
        kernel.answered(RequestTag(tag), Ok(()), |_| content)
    }

    fn content(kernel: &Kernel, page: u64, version: u32) -> Vec<u8> {
        let mut words = [0; PAGE_WORDS];
        kernel.stamp(page, version).fill(&mut words);
        bytes_of(&words)
    }

    #[test]
    fn only_the_last_acknowledged_version_is_right() {
        let mut kernel = kernel();
        assert_eq!(read(&mut kernel, 1, &[0; 4096]), Ok(Seen::RightRead));
        for _ in 0..2 {
            let (tag, _) = write(&mut kernel, 1);
            kernel
                .answered(tag, Ok(()), |_| &[])
                .expect("a write of ours");
        }
        let (old, new) = (content(&kernel, 1, 1), content(&kernel, 1, 2));
        assert!(read(&mut kernel, 1, &old).is_err_and(|text| text.contains("version 1")));
        assert_eq!(read(&mut kernel, 1, &new), Ok(Seen::RightRead));
    }

    #[test]
    fn failed_write_leaves_the_old_bytes_unless_an_engine_died_over_it() {
        let mut kernel = kernel();
        let (tag, version) = write(&mut kernel, 1);
        kernel
            .answered(tag, Err(RequestError::NotDurable), |_| &[])
            .expect("known");
        let failed = content(&kernel, 1, version);
        assert!(read(&mut kernel, 1, &failed).is_err());
        let (tag, version) = write(&mut kernel, 1);
        kernel.sent.get_mut(&tag.0).expect("sent").resent = 1;
        kernel
            .answered(tag, Err(RequestError::NotDurable), |_| &[])
            .expect("known");
        let failed = content(&kernel, 1, version);
        assert_eq!(read(&mut kernel, 1, &failed), Ok(Seen::FailedWriteRead));
    }

    #[test]
    fn read_sent_again_may_show_what_a_later_request_did_before_the_engine_died() {
        let mut kernel = kernel();
        let (tag, _) = write(&mut kernel, 1);
        kernel.answered(tag, Ok(()), |_| &[]).expect("known");
        let buffer = BufferRange { first: 0, pages: 1 };
        let (first, _) = kernel.send(Kernel::reading(1), buffer, MonotonicTime::ZERO);
        let discard = Draft {
            verb: Verb::Discard,
            ..Kernel::reading(1)
        };
        let (second, _) = kernel.send(discard, buffer, MonotonicTime::ZERO);
        assert!(!kernel.was_overtaken(first, 1, &[0; 4096]), "nobody died");
        let read = kernel.sent.get_mut(&first).expect("sent");
        (read.resent, read.given) = (1, MonotonicTime::from_nanos(5));
        let answer = kernel.answered(RequestTag(first), Ok(()), |_| &[0; 4096]);
        assert_eq!(answer, Ok(Seen::Overtaken));
        // One that came after the discard is no part of it.
        assert!(!kernel.was_overtaken(second + 1, 1, &[0; 4096]));
    }

    #[test]
    fn second_answer_and_early_release_are_noticed() {
        let mut kernel = kernel();
        let (tag, _) = write(&mut kernel, 1);
        assert!(kernel.answered(tag, Ok(()), |_| &[]).is_ok());
        assert!(kernel.answered(tag, Ok(()), |_| &[]).is_err());
        assert!(kernel.released(tag).is_ok());
        assert!(kernel.released(tag).is_err());
    }
}
