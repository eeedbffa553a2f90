//! Medians as bars with their spread: plain SVG, legible on light and dark pages.

use std::fmt::Write as _;
use std::path::Path;

use anyhow::{Context as _, Result};

const WIDTH: f64 = 760.0;
const LEFT: f64 = 200.0;
const RIGHT: f64 = 700.0;
const ROW: f64 = 30.0;
const TOP: f64 = 36.0;

const STYLE: &str = "\
text{font:13px sans-serif;fill:#444}\
.ours{fill:#4a90d9}.peer{fill:#999}\
.spread{stroke:#444;stroke-width:1.5}\
@media(prefers-color-scheme:dark){text{fill:#ccc}.spread{stroke:#ddd}}";

/// One bar.
#[derive(Debug, Clone)]
pub struct Bar {
    /// What it is of.
    pub name: String,
    /// Its length.
    pub value: f64,
    /// The smallest value of all runs.
    pub least: f64,
    /// The largest.
    pub most: f64,
    /// Whether it is ours.
    pub ours: bool,
}

/// Draws the bars, the shortest first; nothing without any.
#[must_use]
pub fn draw(bars: &[Bar]) -> String {
    let mut bars: Vec<&Bar> = bars.iter().collect();
    bars.sort_by(|a, b| a.value.total_cmp(&b.value));
    let most = bars.iter().map(|bar| bar.most).fold(1.0, f64::max);
    let x = |value: f64| LEFT + (RIGHT - LEFT) * value / most;
    let height = TOP + ROW * bars.len() as f64 + 10.0;
    let mut svg = String::new();
    // Writing to a string cannot fail.
    let _ = write!(
        svg,
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {height}\" role=\"img\">\
         <title>Median of a swap-in</title><style>{STYLE}</style>\
         <text x=\"10\" y=\"22\">swap-in, median of all runs and their spread, microseconds</text>"
    );
    for (row, bar) in bars.iter().enumerate() {
        let y = TOP + ROW * row as f64;
        let class = if bar.ours { "ours" } else { "peer" };
        let middle = y + 10.0;
        let _ = write!(
            svg,
            "<text x=\"10\" y=\"{:.0}\">{}</text>\
             <rect class=\"{class}\" x=\"{LEFT}\" y=\"{y:.0}\" width=\"{:.1}\" height=\"20\"/>\
             <line class=\"spread\" x1=\"{:.1}\" x2=\"{:.1}\" y1=\"{middle:.0}\" y2=\"{middle:.0}\"/>\
             <text x=\"{:.1}\" y=\"{:.0}\">{:.0}</text>",
            y + 15.0,
            bar.name,
            x(bar.value) - LEFT,
            x(bar.least),
            x(bar.most),
            x(bar.most) + 6.0,
            y + 15.0,
            bar.value,
        );
    }
    svg.push_str("</svg>\n");
    svg
}

/// Writes `bench.svg` into `directory`, if there is anything to draw.
pub fn write(directory: &Path, bars: &[Bar]) -> Result<()> {
    if bars.is_empty() {
        return Ok(());
    }
    let path = directory.join("bench.svg");
    std::fs::write(&path, draw(bars))
        .with_context(|| format!("cannot write {}", path.display()))?;
    println!("bench.svg: {}", path.display());
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shortest_bar_is_on_top_and_ours_looks_different() {
        let bar = |name: &str, value: f64, ours| Bar {
            name: name.to_owned(),
            value,
            least: value - 1.0,
            most: value + 1.0,
            ours,
        };
        let svg = draw(&[bar("slow", 20.0, false), bar("fast", 10.0, true)]);
        let (fast, slow) = (svg.find(">fast<"), svg.find(">slow<"));
        assert!(fast.is_some() && fast < slow, "{svg}");
        assert!(svg.contains("class=\"ours\"") && svg.contains("class=\"peer\""));
    }
}
