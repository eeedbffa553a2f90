//! The figures: a table for people, `bench.json` for machines.

use std::path::Path;

use anyhow::{Context as _, Result};
use serde::Serialize;

/// Which side of its bar a ratio must stay on.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Bar {
    /// The ratio (or, without a peer, the value) must not be above this.
    AtMost(f64),
    /// It must not be below this.
    AtLeast(f64),
    /// Measured for the reader; nothing is promised.
    None,
}

/// One figure.
#[derive(Debug, Serialize)]
pub struct Figure {
    /// What was measured, with its unit.
    pub name: String,
    /// Our figure; null in JSON if it could not be measured.
    pub value: f64,
    /// The peer's name and figure in the same run; none for an absolute bar.
    pub peer: Option<String>,
    /// The peer's figure.
    pub peer_value: Option<f64>,
    /// `value` over `peer_value`, or `value` itself where there is no peer.
    pub ratio: f64,
    /// The smallest and the largest ratio of all runs; absent where there is one run only.
    pub spread: Option<[f64; 2]>,
    /// The bar as text, such as "<= 1.8".
    pub bar: String,
    /// Whether the bar is reached; true where none is promised.
    pub holds: bool,
    /// Why the bar is missed, or the figure is missing; absent where it holds.
    pub reason: Option<String>,
}

impl Figure {
    /// What decides the figure: told where its bar is missed.
    pub fn if_missed(&mut self, reason: &str) {
        if !self.holds {
            self.reason = Some(reason.to_owned());
        }
    }
}

/// All figures of one run.
#[derive(Debug, Default)]
pub struct Report {
    figures: Vec<Figure>,
}

impl Report {
    /// Adds a figure that is judged against a peer of the same run.
    pub fn against(&mut self, name: &str, value: f64, peer: (&str, f64), bar: Bar) -> &mut Figure {
        self.between(name, value, peer, (value / peer.1, bar))
    }

    /// Adds a figure whose ratio is not that of the two values: the median of several runs' ratios.
    pub fn between(
        &mut self,
        name: &str,
        value: f64,
        peer: (&str, f64),
        judged: (f64, Bar),
    ) -> &mut Figure {
        self.push(name, value, Some(peer), judged)
    }

    /// Adds a figure that is judged by itself.
    pub fn absolute(&mut self, name: &str, value: f64, bar: Bar) -> &mut Figure {
        self.push(name, value, None, (value, bar))
    }

    /// Notes that a measurement, or its comparison with a peer, could not be made.
    pub fn missing(&mut self, name: &str, reason: &str) {
        self.figures.push(Figure {
            name: name.to_owned(),
            value: f64::NAN,
            peer: None,
            peer_value: None,
            ratio: f64::NAN,
            spread: None,
            bar: "measured".to_owned(),
            holds: false,
            reason: Some(reason.to_owned()),
        });
    }

    fn push(
        &mut self,
        name: &str,
        value: f64,
        peer: Option<(&str, f64)>,
        judged: (f64, Bar),
    ) -> &mut Figure {
        let (ratio, bar) = judged;
        let (bar, holds) = match bar {
            Bar::AtMost(limit) => (format!("<= {limit}"), ratio <= limit),
            Bar::AtLeast(limit) => (format!(">= {limit}"), ratio >= limit),
            Bar::None => ("reported".to_owned(), ratio.is_finite()),
        };
        let place = self.figures.len();
        self.figures.push(Figure {
            name: name.to_owned(),
            value,
            peer: peer.map(|(name, _)| name.to_owned()),
            peer_value: peer.map(|(_, value)| value),
            ratio,
            spread: None,
            bar,
            holds,
            reason: None,
        });
        &mut self.figures[place]
    }

    /// Prints the table.
    pub fn print(&self) {
        println!("| measure | value | peer | peer's | ratio (spread) | bar | holds |");
        println!("|---|---:|---|---:|---:|---|---|");
        for figure in &self.figures {
            let peer_value = figure
                .peer_value
                .map_or_else(String::new, |v| format!("{v:.3}"));
            let spread = figure.spread.map_or_else(String::new, |[least, most]| {
                format!(" ({least:.2} to {most:.2})")
            });
            println!(
                "| {} | {:.3} | {} | {peer_value} | {:.3}{spread} | {} | {} |",
                figure.name,
                figure.value,
                figure.peer.as_deref().unwrap_or("-"),
                figure.ratio,
                figure.bar,
                if figure.holds { "yes" } else { "NO" },
            );
        }
        for figure in &self.figures {
            if let Some(reason) = &figure.reason {
                println!("\n{}: {reason}", figure.name);
            }
        }
    }

    /// Writes `bench.json` into `dir`.
    pub fn write(&self, dir: &Path) -> Result<()> {
        std::fs::create_dir_all(dir).with_context(|| format!("cannot make {}", dir.display()))?;
        let path = dir.join("bench.json");
        let json = serde_json::to_vec_pretty(&self.figures).context("figures as JSON")?;
        std::fs::write(&path, json).with_context(|| format!("cannot write {}", path.display()))?;
        println!("\nbench.json: {}", path.display());
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_missed_bar_is_said_and_nan_never_holds() {
        let mut report = Report::default();
        report.against("a", 2.0, ("peer", 1.0), Bar::AtMost(1.8));
        report.against("b", 1.0, ("peer", 0.0), Bar::AtMost(1.8));
        report.against("c", 0.8, ("peer", 1.0), Bar::AtLeast(0.7));
        report.absolute("d", f64::NAN, Bar::AtMost(1.0));
        report.against("e", 0.0, ("peer", 0.0), Bar::None);
        let holds: Vec<bool> = report.figures.iter().map(|f| f.holds).collect();
        assert_eq!(holds, [false, false, true, false, false]);
    }

    #[test]
    fn reason_stands_where_a_bar_is_missed_and_nowhere_else() {
        let mut report = Report::default();
        report
            .absolute("a", 2.0, Bar::AtMost(1.0))
            .if_missed("busy");
        report
            .absolute("b", 1.0, Bar::AtMost(1.0))
            .if_missed("busy");
        report.missing("c", "no zram");
        let reasons: Vec<_> = report.figures.iter().map(|f| f.reason.as_deref()).collect();
        assert_eq!(reasons, [Some("busy"), None, Some("no zram")]);
        let json = serde_json::to_value(&report.figures).expect("JSON");
        assert!(json[2]["value"].is_null() && json[2]["holds"] == false);
    }
}
