//! What was measured, run by run, by name.

use std::collections::BTreeMap;

/// Values by name; each with the number of the run that it comes from.
#[derive(Debug, Default)]
pub struct Samples {
    run: u32,
    values: BTreeMap<String, BTreeMap<u32, f64>>,
}

/// A median and what it lies between.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Spread {
    /// The smallest.
    pub least: f64,
    /// The one in the middle; of an even number the upper one.
    pub median: f64,
    /// The largest.
    pub most: f64,
}

impl Spread {
    fn of(mut values: Vec<f64>) -> Option<Self> {
        values.sort_by(f64::total_cmp);
        Some(Self {
            least: *values.first()?,
            median: *values.get(values.len() / 2)?,
            most: *values.last()?,
        })
    }
}

impl Samples {
    /// What comes from now on is of another run.
    pub const fn begin(&mut self) {
        self.run += 1;
    }

    /// Adds a value of this run.
    pub fn add(&mut self, name: impl Into<String>, value: f64) {
        let name = name.into();
        eprintln!("bench:     {name}: {value:.1}");
        self.values.entry(name).or_default().insert(self.run, value);
    }

    /// All runs' values of a name.
    pub fn spread(&self, name: &str) -> Option<Spread> {
        Spread::of(self.values.get(name)?.values().copied().collect())
    }

    /// Ratios of two names, each of two values of one run.
    pub fn ratio(&self, name: &str, peer: &str) -> Option<Spread> {
        self.pairs(name, peer, |ours, theirs| ours / theirs)
    }

    /// Differences of two names, each of two values of one run.
    pub fn difference(&self, name: &str, peer: &str) -> Option<Spread> {
        self.pairs(name, peer, |ours, theirs| ours - theirs)
    }

    fn pairs(&self, name: &str, peer: &str, of: fn(f64, f64) -> f64) -> Option<Spread> {
        let (ours, theirs) = (self.values.get(name)?, self.values.get(peer)?);
        let both = ours
            .iter()
            .filter_map(|(run, value)| Some(of(*value, *theirs.get(run)?)));
        Spread::of(both.collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ratios_are_of_one_run_and_what_one_side_lacks_is_left_out() {
        let mut samples = Samples::default();
        for (ours, theirs) in [(1.0, 2.0), (3.0, 4.0), (9.0, 3.0)] {
            samples.begin();
            samples.add("ours", ours);
            samples.add("theirs", theirs);
        }
        samples.begin();
        samples.add("ours", 100.0);
        let ratio = samples.ratio("ours", "theirs").expect("three");
        assert_eq!((ratio.least, ratio.median, ratio.most), (0.5, 0.75, 3.0));
        let difference = samples.difference("ours", "theirs").expect("three");
        assert_eq!(difference.median, -1.0);
        assert_eq!(samples.spread("ours").expect("four").most, 100.0);
        assert_eq!(samples.ratio("ours", "nobody"), None);
    }
}
