//! How often is the slab that heat chooses hotter than the median? Measured against the filter of
//! Infiniswap's public code, on the same loads, in the same run.
//!
//! A victim is right if it really is cold: what counts is the rate of its load at that moment, which
//! neither filter sees. `cargo test --test heat_choice -- --nocapture` prints both.
#![expect(
    clippy::cast_possible_truncation,
    clippy::cast_precision_loss,
    clippy::cast_sign_loss,
    clippy::expect_used,
    reason = "a model with small numbers; helpers of tests are tests"
)]

use std::time::Duration;

use dynamicswap_engine::heat::{SlabHeat, Touch};
use dynamicswap_types::MonotonicTime;

const SLABS: usize = 64;
const SEEDS: u64 = 2_000;

/// SplitMix64.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    fn below(&mut self, below: u64) -> u64 {
        self.next() % below
    }

    /// Between 0 and 1.
    fn share(&mut self) -> f64 {
        (self.next() >> 11) as f64 / (1_u64 << 53) as f64
    }

    /// How many things happen of which `mean` do on average.
    fn poisson(&mut self, mean: f64) -> u64 {
        if mean > 50.0 {
            // Close enough to a normal distribution: the sum of twelve shares.
            let sum: f64 = (0..12).map(|_| self.share()).sum();
            return (mean + (sum - 6.0) * mean.sqrt()).max(0.0).round() as u64;
        }
        let (limit, mut product, mut count) = ((-mean).exp(), self.share(), 0);
        while product > limit {
            product *= self.share();
            count += 1;
        }
        count
    }
}

/// Infiniswap's filter, from its last public code: each second, reads and writes weigh 50 each, the
/// second just over weighs 80 and what was before it 20, and nothing is divided by 100.
#[derive(Default, Clone)]
struct TickFilter {
    last: u64,
}

impl TickFilter {
    fn tick(&mut self, reads: u64, writes: u64) {
        let now = (50 * reads).wrapping_add(50 * writes);
        self.last = now
            .wrapping_mul(80)
            .wrapping_add(self.last.wrapping_mul(20));
    }
}

/// A slab's load: pages a second, which change now and then.
struct Load {
    reads: f64,
    writes: f64,
    /// Seconds until it changes.
    lasts: u64,
}

impl Load {
    /// Half of all slabs idle, the others over four orders of magnitude.
    fn draw(random: &mut Random) -> Self {
        let idle = random.below(2) == 0;
        let rate = if idle {
            0.0
        } else {
            10.0_f64.powf(4.0 * random.share() - 1.0)
        };
        let reads = rate * random.share();
        Self {
            reads,
            writes: rate - reads,
            lasts: 60 + random.below(540),
        }
    }

    fn rate(&self) -> f64 {
        self.reads + self.writes
    }
}

/// What each way of choosing chose, as the true rate of the victim, and the median rate.
struct Choice {
    median: f64,
    by_heat: f64,
    by_tick: f64,
}

fn choose(seed: u64) -> Choice {
    let mut random = Random(seed);
    let heats: Vec<SlabHeat> = (0..SLABS).map(|_| SlabHeat::default()).collect();
    let mut ticks = vec![TickFilter::default(); SLABS];
    let mut loads: Vec<Load> = (0..SLABS).map(|_| Load::draw(&mut random)).collect();
    let begin = MonotonicTime::ZERO.after(Duration::from_secs(1_000 + random.below(1_000)));
    let seconds = 300 + random.below(300);
    for second in 0..seconds {
        for ((load, heat), filter) in loads.iter_mut().zip(&heats).zip(&mut ticks) {
            if load.lasts == 0 {
                *load = Load::draw(&mut random);
            }
            load.lasts -= 1;
            let (reads, writes) = (random.poisson(load.reads), random.poisson(load.writes));
            // Requests come at some moment of the second, and not at its tick.
            let at = Duration::from_secs(second) + Duration::from_micros(random.below(1_000_000));
            heat.touch(Touch::Read, reads, begin.after(at));
            heat.touch(Touch::Write, writes, begin.after(at));
            filter.tick(reads, writes);
        }
    }
    // The planner sees reports that are up to a second old.
    let reported = Duration::from_secs(seconds) - Duration::from_millis(random.below(1_000));
    let now = begin.after(reported);
    let warmth = |slab: &usize| {
        let heat = heats[*slab].load(now);
        (heat.reads_milli + heat.writes_milli, *slab)
    };
    let by_heat = (0..SLABS).min_by_key(warmth).expect("slabs");
    // Infiniswap asks the owners of three slabs drawn at random (E = 1, E' = 2).
    let drawn: Vec<usize> = (0..3)
        .map(|_| random.below(SLABS as u64) as usize)
        .collect();
    let by_tick = drawn
        .into_iter()
        .min_by_key(|slab| ticks[*slab].last)
        .expect("three");
    let mut rates: Vec<f64> = loads.iter().map(Load::rate).collect();
    let (by_heat, by_tick) = (rates[by_heat], rates[by_tick]);
    rates.sort_by(f64::total_cmp);
    Choice {
        median: f64::midpoint(rates[SLABS / 2 - 1], rates[SLABS / 2]),
        by_heat,
        by_tick,
    }
}

#[test]
fn chosen_victim_is_hotter_than_the_median_in_less_than_two_of_a_hundred_cases() {
    let (mut heat, mut tick) = (0_u64, 0_u64);
    for seed in 0..SEEDS {
        let choice = choose(seed);
        heat += u64::from(choice.by_heat > choice.median);
        tick += u64::from(choice.by_tick > choice.median);
    }
    let percent = |count: u64| count as f64 * 100.0 / SEEDS as f64;
    println!(
        "victim hotter than the median, {SEEDS} seeds: by heat {:.2} %, by Infiniswap's filter {:.2} %",
        percent(heat),
        percent(tick)
    );
    assert!(percent(heat) < 2.0, "by heat: {:.2} %", percent(heat));
    assert!(tick > 5 * heat.max(1), "the model tells the two apart");
}

/// How often a slab that was hot and is idle since ranks above one that is hot, or the reverse of
/// what is right: facts about the filter itself, without sampling.
fn wrong_order(idle_seconds: u64, trials: u64) -> (f64, f64) {
    let mut random = Random(idle_seconds);
    let (mut by_heat, mut by_tick) = (0_u64, 0_u64);
    for _ in 0..trials {
        let heats = [SlabHeat::default(), SlabHeat::default()];
        let mut ticks = [TickFilter::default(), TickFilter::default()];
        let active = 60 + random.below(60);
        for second in 0..active + idle_seconds {
            let at = MonotonicTime::ZERO.after(Duration::from_secs(1_000 + second));
            for slab in 0..2 {
                let busy = slab == 0 || second < active;
                let rate = if busy { 1_000.0 } else { 0.0 };
                let (reads, writes) = (random.poisson(rate), random.poisson(rate));
                heats[slab].touch(Touch::Read, reads, at);
                heats[slab].touch(Touch::Write, writes, at);
                ticks[slab].tick(reads, writes);
            }
        }
        let now = MonotonicTime::ZERO.after(Duration::from_secs(1_000 + active + idle_seconds));
        let [hot, idle] = heats.map(|heat| heat.load(now).reads_milli);
        by_heat += u64::from(idle >= hot);
        by_tick += u64::from(ticks[1].last >= ticks[0].last);
    }
    let percent = |count: u64| count as f64 * 100.0 / trials as f64;
    (percent(by_heat), percent(by_tick))
}

#[test]
fn idle_slab_is_never_hotter_than_a_busy_one_whatever_the_time_since_its_last_use() {
    for idle_seconds in [3, 10, 20, 27, 40] {
        let (heat, tick) = wrong_order(idle_seconds, 400);
        println!(
            "idle for {idle_seconds} s ranks hotter: by heat {heat:.1} %, by Infiniswap's filter {tick:.1} %"
        );
        assert!(heat < 0.001, "after {idle_seconds} s: {heat} %");
        let overflows = idle_seconds <= 27;
        assert_eq!(tick > 25.0, overflows, "after {idle_seconds} s: {tick} %");
    }
}
