//! How many bytes of writes a link has under way, so that a read never waits behind many.
//!
//! A link carries what it is given in order. The kernel swaps out megabytes at once, and a process
//! that waits for one page would wait for all of them: 70 ms on a link of 15 MB/s. Therefore writes
//! are cut into segments and posted only as far as the link keeps up; a read goes ahead of all that
//! are not posted yet.
//!
//! What keeps a link busy is twice what it carries in the time of a segment that meets no queue, on
//! a network of any speed. So the window grows while segments take no more than twice the shortest
//! time seen, and shrinks when they take longer: the delay-based control of TCP Vegas (Brakmo and
//! Peterson 1995), with Swift's one cut a round trip (Kumar et al. 2020). A link that is never idle
//! would forget what its shortest time is, so now and then one segment goes alone, as BBR does it
//! (Cardwell et al. 2016).

use std::time::Duration;

use dynamicswap_types::MonotonicTime;

/// Bytes of a segment: four pages. On 100 Gb/s they take 1.3 us, less than the way there and back,
/// and posting one takes a tenth of that.
pub(super) const SEGMENT_BYTES: usize = 16 << 10;
/// The least: one segment on its way while the end of another is noticed.
const WINDOW_MIN: usize = 2 * SEGMENT_BYTES;
/// The first: what 100 Gb/s carry in 10 us, there and back across a large network.
const WINDOW_FIRST: usize = 8 * SEGMENT_BYTES;
/// The most: a whole request. At 100 Gb/s it takes 84 us.
pub(super) const WINDOW_MAX: usize = 64 * SEGMENT_BYTES;
/// The shortest time counts for so long, then a segment that goes alone takes it anew: a way that
/// became longer is found out. BBR has 10 s and rests for 200 ms; this rests for one round trip.
const SHORTEST_FOR: Duration = Duration::from_secs(5);

/// How the shortest time is taken anew.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Probe {
    /// Not now.
    None,
    /// What is under way ends first.
    Drain,
    /// The next segment goes alone.
    Alone,
}

/// The window of one connection.
#[derive(Debug, Clone, Copy)]
pub(super) struct SendWindow {
    size: usize,
    under_way: usize,
    /// Bytes that must end before the next cut: those under way at the last one.
    until_cut: usize,
    shortest: Duration,
    /// When that was begun to be taken.
    since: MonotonicTime,
    probe: Probe,
}

impl SendWindow {
    pub(super) const fn new() -> Self {
        Self {
            size: WINDOW_FIRST,
            under_way: 0,
            until_cut: 0,
            shortest: Duration::MAX,
            since: MonotonicTime::ZERO,
            probe: Probe::None,
        }
    }

    /// Whether a segment may be posted. One always may.
    pub(super) fn admits(&self, bytes: usize) -> bool {
        let room = self.probe == Probe::None && self.under_way + bytes <= self.size;
        self.under_way == 0 || room
    }

    pub(super) const fn posted(&mut self, bytes: usize) {
        self.under_way += bytes;
    }

    /// A segment ended that was posted at `posted`; `waits` says whether more would have been posted.
    pub(super) fn ended(
        &mut self,
        (bytes, posted): (usize, MonotonicTime),
        waits: bool,
        now: MonotonicTime,
    ) {
        self.under_way = self.under_way.saturating_sub(bytes);
        self.until_cut = self.until_cut.saturating_sub(bytes);
        // A shorter one takes less time and says nothing about those that fill the window.
        if bytes < SEGMENT_BYTES {
            return;
        }
        let time = now.since(posted);
        self.learn(time, now);
        if time <= self.shortest * 2 {
            if waits {
                self.size = WINDOW_MAX.min(self.size + SEGMENT_BYTES * bytes / self.size);
            }
        } else if self.until_cut == 0 {
            self.size = WINDOW_MIN.max(self.size - self.size / 4);
            self.until_cut = self.under_way;
        }
    }

    fn learn(&mut self, time: Duration, now: MonotonicTime) {
        match self.probe {
            Probe::None if now.since(self.since) >= SHORTEST_FOR => self.probe = Probe::Drain,
            Probe::Alone => {
                self.shortest = time;
                self.since = now;
                self.probe = Probe::None;
            }
            Probe::None | Probe::Drain => {}
        }
        if self.probe == Probe::Drain && self.under_way == 0 {
            self.probe = Probe::Alone;
        }
        self.shortest = self.shortest.min(time);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::VecDeque;

    /// A link that takes `each` for a segment, one after another, and `way` there and back.
    struct Network {
        each: Duration,
        way: Duration,
    }

    struct Run {
        /// Bytes carried, against what the network could.
        share: f64,
        /// Longest wait of a read that is posted behind all that is under way, in the second half.
        wait: Duration,
    }

    /// Writes that never end, through a window.
    fn run(network: &Network, segments: usize) -> Run {
        let mut window = SendWindow::new();
        let mut now = MonotonicTime::from_nanos(1);
        let mut free_at = now;
        let mut flights: VecDeque<(MonotonicTime, MonotonicTime)> = VecDeque::new();
        let mut wait = Duration::ZERO;
        for done in 0..segments {
            while window.admits(SEGMENT_BYTES) {
                window.posted(SEGMENT_BYTES);
                free_at = free_at.max(now).after(network.each);
                flights.push_back((now, free_at.after(network.way)));
            }
            if done > segments / 2 {
                wait = wait.max(free_at.since(now));
            }
            let (posted, ends) = flights.pop_front().expect("one is admitted always");
            now = ends;
            window.ended((SEGMENT_BYTES, posted), true, now);
        }
        let could = network.each.as_secs_f64() * segments as f64;
        Run {
            share: could / now.since(MonotonicTime::from_nanos(1)).as_secs_f64(),
            wait,
        }
    }

    #[test]
    fn any_network_is_kept_busy_and_a_read_waits_for_a_few_segments_only() {
        for (each, way) in [
            (1_300, 3_000),         // 100 Gb/s within a rack
            (1_300, 20_000),        // 100 Gb/s across a data centre
            (13_000, 50_000),       // 10 Gb/s and TCP
            (1_070_000, 500_000),   // Soft-RoCE between emulated machines
            (4_000_000, 2_000_000), // the same, busy
        ] {
            let network = Network {
                each: Duration::from_nanos(each),
                way: Duration::from_nanos(way),
            };
            let run = run(&network, 20_000);
            assert!(run.share > 0.9, "{each} ns, {way} ns: {}", run.share);
            let most = (network.each + network.way) * 2 + network.each;
            assert!(run.wait <= most, "{each} ns, {way} ns: {:?}", run.wait);
        }
    }

    #[test]
    fn window_stays_within_its_bounds_and_always_lets_one_through() {
        let mut window = SendWindow::new();
        let mut now = MonotonicTime::from_nanos(1);
        let posted = now;
        now = now.after(Duration::from_micros(1));
        window.posted(SEGMENT_BYTES);
        window.ended((SEGMENT_BYTES, posted), true, now);
        for _ in 0..1000 {
            let posted = now;
            now = now.after(Duration::from_millis(9));
            window.posted(SEGMENT_BYTES);
            window.ended((SEGMENT_BYTES, posted), true, now);
        }
        assert!(window.admits(WINDOW_MAX * 2), "nothing is under way");
        window.posted(WINDOW_MIN - SEGMENT_BYTES);
        assert!(window.admits(SEGMENT_BYTES), "the least is two segments");
        for _ in 0..100_000 {
            window.ended((SEGMENT_BYTES, now), true, now);
        }
        window.posted(WINDOW_MAX);
        assert!(!window.admits(1));
    }

    #[test]
    fn way_that_became_longer_is_learned() {
        let mut window = SendWindow::new();
        let mut now = MonotonicTime::from_nanos(1);
        for (time, rounds) in [(10, 100), (1000, 20_000)] {
            for _ in 0..rounds {
                let posted = now;
                now = now.after(Duration::from_micros(time));
                window.posted(SEGMENT_BYTES);
                window.ended((SEGMENT_BYTES, posted), true, now);
            }
        }
        window.posted(WINDOW_FIRST);
        assert!(window.admits(SEGMENT_BYTES), "it has grown again");
    }
}
