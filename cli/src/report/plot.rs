//! Plots as SVG text: lines, areas and stacked areas over one time axis, with marks.
//!
//! Owns scales, ticks and paths. Colours are CSS variables, so that light and dark are the
//! page's business. Pure.

use std::fmt::Write as _;

/// Width of a plot in its own units; the page scales it.
pub const WIDTH: f64 = 1000.0;
const LEFT: f64 = 64.0;
const RIGHT: f64 = 14.0;
const TOP: f64 = 12.0;
const BOTTOM: f64 = 24.0;
/// Room that the flag of a mark takes.
const FLAG_WIDTH: f64 = 20.0;

/// How values are drawn.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Shape {
    /// A line.
    Line,
    /// A line with the area below it.
    Area,
    /// An area on top of those before it.
    Stacked,
}

/// How values become heights.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Scale {
    /// From zero.
    Linear,
    /// By powers of ten, from the smallest value above zero.
    Logarithmic,
}

/// Values over time; one that is missing leaves a gap.
#[derive(Debug, Clone)]
pub struct Layer {
    /// Name, in the legend.
    pub name: String,
    /// CSS variable of its colour, without the dashes.
    pub colour: String,
    /// How it is drawn.
    pub shape: Shape,
    /// Milliseconds and value.
    pub points: Vec<(f64, Option<f64>)>,
}

/// A vertical mark.
#[derive(Debug, Clone)]
pub struct VerticalMark {
    /// Where, in milliseconds.
    pub t_ms: f64,
    /// CSS class.
    pub class: &'static str,
    /// Text at its top.
    pub label: String,
}

/// A stretch of time with a name.
#[derive(Debug, Clone)]
pub struct Band {
    /// Name.
    pub name: String,
    /// From, in milliseconds.
    pub from_ms: f64,
    /// To, in milliseconds.
    pub to_ms: f64,
}

/// What all plots of a page share.
#[derive(Debug, Clone)]
pub struct TimeAxis {
    /// First moment, in milliseconds.
    pub from_ms: f64,
    /// Last moment.
    pub to_ms: f64,
    /// Marks.
    pub marks: Vec<VerticalMark>,
    /// Stretches.
    pub bands: Vec<Band>,
}

/// One plot.
#[derive(Debug, Clone)]
pub struct Plot {
    /// Height in the plot's units.
    pub height: f64,
    /// How values become heights.
    pub scale: Scale,
    /// Highest value, at least.
    pub at_least: f64,
    /// Values of the axis as text.
    pub format: fn(f64) -> String,
    /// Steps between ticks are powers of two times this, instead of decimal ones; 0 for decimal.
    pub binary_unit: f64,
    /// What is drawn, first at the back.
    pub layers: Vec<Layer>,
    /// Whether the marks and bands have their names here.
    pub named: bool,
}

/// The value axis of one plot.
struct Values {
    low: f64,
    high: f64,
    scale: Scale,
    height: f64,
}

impl Values {
    fn y(&self, value: f64) -> f64 {
        let share = match self.scale {
            Scale::Linear => (value - self.low) / (self.high - self.low),
            Scale::Logarithmic => {
                (value.max(self.low) / self.low).log10() / (self.high / self.low).log10()
            }
        };
        self.height - BOTTOM - share.clamp(0.0, 1.0) * (self.height - TOP - BOTTOM)
    }
}

impl TimeAxis {
    fn x(&self, t_ms: f64) -> f64 {
        let share = (t_ms - self.from_ms) / (self.to_ms - self.from_ms).max(1.0);
        LEFT + share.clamp(0.0, 1.0) * (WIDTH - LEFT - RIGHT)
    }
}

impl Plot {
    /// The SVG element.
    #[must_use]
    pub fn svg(&self, axis: &TimeAxis) -> String {
        let values = self.values();
        let mut svg = String::new();
        // Writing to a String cannot fail.
        let _infallible = write!(
            svg,
            r#"<svg viewBox="0 0 {WIDTH} {height}" role="img" data-from="{from}" data-to="{to}" data-left="{LEFT}" data-right="{right}">"#,
            height = self.height,
            from = axis.from_ms,
            to = axis.to_ms,
            right = WIDTH - RIGHT,
        );
        self.draw_bands(&mut svg, axis);
        self.draw_grid(&mut svg, axis, &values);
        self.draw_layers(&mut svg, axis, &values);
        self.draw_marks(&mut svg, axis);
        let _infallible = write!(
            svg,
            r#"<line class="cursor" x1="-9" x2="-9" y1="{TOP}" y2="{}"/></svg>"#,
            self.height - BOTTOM
        );
        svg
    }

    fn values(&self) -> Values {
        let mut highest = self.at_least;
        let mut lowest = f64::INFINITY;
        for value in self.heights() {
            highest = highest.max(value);
            if value > 0.0 {
                lowest = lowest.min(value);
            }
        }
        let (low, high) = match self.scale {
            Scale::Linear => (0.0, highest * 1.08),
            Scale::Logarithmic => {
                let low = if lowest.is_finite() { lowest } else { 1.0 };
                (
                    10_f64.powf(low.log10().floor()),
                    10_f64.powf(highest.max(low * 10.0).log10().ceil()),
                )
            }
        };
        Values {
            low,
            high,
            scale: self.scale,
            height: self.height,
        }
    }

    /// Every value as it stands on the axis: stacked ones on top of each other.
    fn heights(&self) -> Vec<f64> {
        let own = self
            .layers
            .iter()
            .filter(|layer| layer.shape != Shape::Stacked);
        let own = own.flat_map(|layer| layer.points.iter().filter_map(|point| point.1));
        let stacked = self.stacks().into_iter().next_back();
        let stacked = stacked.into_iter().flatten().map(|(_, _, top)| top);
        own.chain(stacked).collect()
    }

    /// For each stacked layer: time, bottom and top.
    fn stacks(&self) -> Vec<Vec<(f64, f64, f64)>> {
        let mut below: Vec<f64> = Vec::new();
        let mut stacks = Vec::new();
        for layer in self
            .layers
            .iter()
            .filter(|layer| layer.shape == Shape::Stacked)
        {
            below.resize(layer.points.len(), 0.0);
            let mut stack = Vec::new();
            for (bottom, (t, value)) in below.iter_mut().zip(&layer.points) {
                let top = *bottom + value.unwrap_or(0.0);
                stack.push((*t, *bottom, top));
                *bottom = top;
            }
            stacks.push(stack);
        }
        stacks
    }

    fn draw_bands(&self, svg: &mut String, axis: &TimeAxis) {
        for (position, band) in axis.bands.iter().enumerate() {
            let (from, to) = (axis.x(band.from_ms), axis.x(band.to_ms));
            let odd = if position % 2 == 1 { " odd" } else { "" };
            let _infallible = write!(
                svg,
                r#"<rect class="band{odd}" x="{from:.1}" y="{TOP}" width="{:.1}" height="{:.1}"/>"#,
                to - from,
                self.height - TOP - BOTTOM
            );
        }
    }

    fn draw_grid(&self, svg: &mut String, axis: &TimeAxis, values: &Values) {
        for value in self.ticks(values) {
            let y = values.y(value);
            let _infallible = write!(
                svg,
                r#"<line class="grid" x1="{LEFT}" x2="{x2}" y1="{y:.1}" y2="{y:.1}"/><text class="tick" x="{x}" y="{ty:.1}" text-anchor="end">{text}</text>"#,
                x2 = WIDTH - RIGHT,
                x = LEFT - 8.0,
                ty = y + 4.0,
                text = (self.format)(value)
            );
        }
        let step = time_step(axis.to_ms - axis.from_ms);
        let mut t = (axis.from_ms / step).ceil() * step;
        while t <= axis.to_ms {
            let _infallible = write!(
                svg,
                r#"<text class="tick" x="{:.1}" y="{:.1}" text-anchor="middle">{:.0} s</text>"#,
                axis.x(t),
                self.height - 7.0,
                t / 1000.0
            );
            t += step;
        }
    }

    fn ticks(&self, values: &Values) -> Vec<f64> {
        let mut ticks = Vec::new();
        match values.scale {
            Scale::Logarithmic => {
                let mut tick = values.low;
                while tick <= values.high * 1.001 {
                    ticks.push(tick);
                    tick *= 10.0;
                }
            }
            Scale::Linear => {
                let step = if self.binary_unit > 0.0 {
                    let wanted = values.high / 4.0 / self.binary_unit;
                    self.binary_unit * 2_f64.powf(wanted.log2().round())
                } else {
                    nice_step(values.high / 4.0)
                };
                let mut tick = 0.0;
                while tick <= values.high && step > 0.0 {
                    ticks.push(tick);
                    tick += step;
                }
            }
        }
        ticks
    }

    fn draw_layers(&self, svg: &mut String, axis: &TimeAxis, values: &Values) {
        let mut stacks = self.stacks().into_iter();
        for layer in &self.layers {
            let colour = &layer.colour;
            if layer.shape == Shape::Stacked {
                let path = stack_path(&stacks.next().unwrap_or_default(), axis, values);
                let _infallible = write!(
                    svg,
                    r#"<path class="stack" style="fill:var(--{colour})" d="{path}"/>"#
                );
                continue;
            }
            for run in runs(&layer.points) {
                let line = line_path(&run, axis, values);
                if let (Shape::Area, Some(first), Some(last)) =
                    (layer.shape, run.first(), run.last())
                {
                    let base = self.height - BOTTOM;
                    let _infallible = write!(
                        svg,
                        r#"<path class="area" style="fill:var(--{colour})" d="{line}L{:.1},{base}L{:.1},{base}Z"/>"#,
                        axis.x(last.0),
                        axis.x(first.0)
                    );
                }
                let _infallible = write!(
                    svg,
                    r#"<path class="line" style="stroke:var(--{colour})" d="{line}"/>"#
                );
            }
        }
    }

    fn draw_marks(&self, svg: &mut String, axis: &TimeAxis) {
        let mut flag: f64 = 0.0;
        for mark in &axis.marks {
            let x = axis.x(mark.t_ms);
            // Flags of marks that are close together stand side by side.
            flag = x.max(flag + FLAG_WIDTH);
            let _infallible = write!(
                svg,
                r#"<line class="mark {}" x1="{x:.1}" x2="{x:.1}" y1="{TOP}" y2="{}"/>"#,
                mark.class,
                self.height - BOTTOM
            );
            if self.named {
                let _infallible = write!(
                    svg,
                    r#"<circle class="flag {class}" cx="{flag:.1}" cy="{TOP}" r="9"/><text class="flag" x="{flag:.1}" y="{y}" text-anchor="middle">{label}</text>"#,
                    class = mark.class,
                    y = TOP + 4.0,
                    label = mark.label
                );
            }
        }
    }
}

/// Stretches without a gap.
fn runs(points: &[(f64, Option<f64>)]) -> Vec<Vec<(f64, f64)>> {
    let mut runs = vec![Vec::new()];
    for (t, value) in points {
        match (value, runs.last_mut()) {
            (Some(value), Some(run)) => run.push((*t, *value)),
            (None, Some(run)) if !run.is_empty() => runs.push(Vec::new()),
            _ => {}
        }
    }
    runs.retain(|run| !run.is_empty());
    runs
}

fn line_path(points: &[(f64, f64)], axis: &TimeAxis, values: &Values) -> String {
    let mut path = String::new();
    for (position, (t, value)) in points.iter().enumerate() {
        let command = if position == 0 { 'M' } else { 'L' };
        let _infallible = write!(path, "{command}{:.1},{:.1}", axis.x(*t), values.y(*value));
    }
    path
}

fn stack_path(stack: &[(f64, f64, f64)], axis: &TimeAxis, values: &Values) -> String {
    let top: Vec<(f64, f64)> = stack.iter().map(|(t, _, top)| (*t, *top)).collect();
    let mut path = line_path(&top, axis, values);
    for (t, bottom, _) in stack.iter().rev() {
        let _infallible = write!(path, "L{:.1},{:.1}", axis.x(*t), values.y(*bottom));
    }
    path + "Z"
}

/// 1, 2 or 5 times a power of ten, near `rough`.
fn nice_step(rough: f64) -> f64 {
    if rough <= 0.0 {
        return 0.0;
    }
    let power = 10_f64.powf(rough.log10().floor());
    let factor = [1.0, 2.0, 5.0, 10.0]
        .into_iter()
        .find(|f| f * power >= rough * 0.7);
    factor.unwrap_or(10.0) * power
}

/// Milliseconds between two ticks of the time axis: about ten of them.
fn time_step(range_ms: f64) -> f64 {
    let steps = [1.0, 2.0, 5.0, 10.0, 20.0, 30.0, 60.0, 120.0, 300.0, 600.0];
    let step = steps.into_iter().find(|s| s * 1000.0 * 12.0 >= range_ms);
    step.unwrap_or(3600.0) * 1000.0
}

#[cfg(test)]
mod tests {
    use super::*;

    fn axis() -> TimeAxis {
        TimeAxis {
            from_ms: 0.0,
            to_ms: 10_000.0,
            marks: vec![VerticalMark {
                t_ms: 5000.0,
                class: "broken",
                label: "1".to_owned(),
            }],
            bands: Vec::new(),
        }
    }

    fn plot(shape: Shape, scale: Scale, values: &[&[Option<f64>]]) -> Plot {
        let layers = values.iter().enumerate().map(|(number, values)| Layer {
            name: format!("layer {number}"),
            colour: "a".to_owned(),
            shape,
            points: (0..10)
                .map(|n| f64::from(n) * 1000.0)
                .zip(values.iter().copied())
                .collect(),
        });
        Plot {
            height: 200.0,
            scale,
            at_least: 0.0,
            format: |value| format!("{value}"),
            binary_unit: 0.0,
            layers: layers.collect(),
            named: true,
        }
    }

    #[test]
    fn stacked_layers_stand_on_each_other() {
        let ten: &[Option<f64>] = &[Some(10.0); 10];
        let plot = plot(Shape::Stacked, Scale::Linear, &[ten, ten]);
        assert_eq!(plot.stacks()[1][3], (3000.0, 10.0, 20.0));
        assert!((plot.values().high - 21.6).abs() < 1e-9);
    }

    #[test]
    fn missing_values_leave_a_gap() {
        let mut values = [Some(1.0); 10];
        values[4] = None;
        let plot = plot(Shape::Line, Scale::Linear, &[&values]);
        assert_eq!(runs(&plot.layers[0].points).len(), 2);
        assert_eq!(plot.svg(&axis()).matches("class=\"line\"").count(), 2);
    }

    #[test]
    fn logarithmic_axis_spans_whole_powers() {
        let values: Vec<Option<f64>> = (0..10).map(|n| Some(50.0 * 3_f64.powi(n))).collect();
        let plot = plot(Shape::Line, Scale::Logarithmic, &[&values]);
        let axis = plot.values();
        assert!((axis.low - 10.0).abs() < 1e-9 && (axis.high - 1e6).abs() < 1.0);
        assert_eq!(plot.ticks(&axis).len(), 6);
    }

    #[test]
    fn nothing_to_draw_is_still_a_plot() {
        for scale in [Scale::Linear, Scale::Logarithmic] {
            let svg = plot(Shape::Stacked, scale, &[&[]]).svg(&axis());
            assert!(svg.starts_with("<svg") && svg.ends_with("</svg>"));
            assert!(!svg.contains("NaN") && !svg.contains("inf"), "{svg}");
        }
    }

    #[test]
    fn steps_are_round() {
        for (rough, step) in [
            (0.9, 1.0),
            (13.0, 10.0),
            (27.0, 20.0),
            (700.0, 500.0),
            (8000.0, 10_000.0),
        ] {
            assert!(
                (nice_step(rough) - step).abs() < 1e-9,
                "{rough}: {}",
                nice_step(rough)
            );
        }
    }
}
