//! A run as a drawing: memory in RAM and out above, pressure below. Plain SVG, legible on light
//! and dark pages.

use std::fmt::Write as _;

use crate::figures::Moment;

/// Size of the drawing and of its two fields, in pixels.
const WIDTH: f64 = 860.0;
const HEIGHT: f64 = 380.0;
const LEFT: f64 = 50.0;
const RIGHT: f64 = 840.0;
const MEMORY: (f64, f64) = (40.0, 230.0);
const PRESSURE: (f64, f64) = (262.0, 348.0);
/// GiB at the top of the upper field.
const GIB_MAX: f64 = 6.0;
/// The lower field: decades of percent.
const PERCENT: (f64, f64) = (0.01, 100.0);
/// Every how many minutes a point is drawn.
const STEP: usize = 4;

const STYLE: &str = "\
text{font:12px sans-serif;fill:#444}\
.grid{stroke:#888;stroke-opacity:.35;fill:none}\
.resident{fill:#4a90d9;fill-opacity:.55}\
.out{fill:#e08e2b;fill-opacity:.65}\
.batch{stroke:#2a9d5c;fill:none;stroke-width:1.5}\
.some{stroke:#c8414b;fill:none;stroke-width:1.2}\
.mark{stroke:#777;stroke-dasharray:5 4}\
@media(prefers-color-scheme:dark){text{fill:#ccc}.grid{stroke:#aaa}}";

/// The height of a moment in the drawing.
type Height<'a> = &'a dyn Fn(&Moment) -> f64;

/// Draws the trace of a law.
#[must_use]
pub fn day(law: &str, trace: &[Moment]) -> String {
    let hours = trace.last().map_or(24.0, |moment| moment.hour).max(1.0);
    let points: Vec<&Moment> = trace.iter().step_by(STEP).collect();
    let x = |moment: &Moment| LEFT + (RIGHT - LEFT) * moment.hour / hours;
    let mut svg = String::new();
    // Writing to a string cannot fail.
    let _ = write!(
        svg,
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {HEIGHT}\" role=\"img\">\
         <title>One day under {law}</title><style>{STYLE}</style>"
    );
    grid(&mut svg, hours);
    let resident = |moment: &Moment| memory(moment.resident);
    let all = |moment: &Moment| memory(moment.resident + moment.out);
    let base = |_: &Moment| MEMORY.1;
    let areas: [(&str, Height<'_>, Height<'_>); 2] =
        [("resident", &base, &resident), ("out", &resident, &all)];
    for (class, from, to) in areas {
        let there = points.iter().map(|it| point(x(it), to(it)));
        let back = points.iter().rev().map(|it| point(x(it), from(it)));
        let path: String = there.chain(back).collect();
        let _ = write!(svg, "<polygon class=\"{class}\" points=\"{path}\"/>");
    }
    let batch = |moment: &Moment| memory(moment.batch);
    let some = |moment: &Moment| pressure(moment.some * 100.0);
    let lines: [(&str, Height<'_>); 2] = [("batch", &batch), ("some", &some)];
    for (class, y) in lines {
        let path: String = points.iter().map(|it| point(x(it), y(it))).collect();
        let _ = write!(svg, "<polyline class=\"{class}\" points=\"{path}\"/>");
    }
    legend(&mut svg, law);
    svg.push_str("</svg>\n");
    svg
}

fn point(x: f64, y: f64) -> String {
    format!("{x:.1},{y:.1} ")
}

fn memory(gib: f64) -> f64 {
    let share = (gib / GIB_MAX).clamp(0.0, 1.0);
    MEMORY.1 - (MEMORY.1 - MEMORY.0) * share
}

fn pressure(percent: f64) -> f64 {
    let decades = (PERCENT.1 / PERCENT.0).log10();
    let share = (percent.max(PERCENT.0) / PERCENT.0).log10() / decades;
    PRESSURE.1 - (PRESSURE.1 - PRESSURE.0) * share.min(1.0)
}

fn grid(svg: &mut String, hours: f64) {
    for gib in [0.0, 2.0, 4.0, 6.0] {
        rule(svg, memory(gib), &format!("{gib:.0} GiB"));
    }
    for percent in [0.01, 1.0, 100.0] {
        rule(svg, pressure(percent), &format!("{percent} %"));
    }
    let mark = pressure(0.1);
    let _ = write!(
        svg,
        "<line class=\"mark\" x1=\"{LEFT}\" x2=\"{RIGHT}\" y1=\"{mark:.1}\" y2=\"{mark:.1}\"/>"
    );
    for part in 0..=8 {
        let hour = hours * f64::from(part) / 8.0;
        let x = LEFT + (RIGHT - LEFT) * f64::from(part) / 8.0;
        let _ = write!(
            svg,
            "<text x=\"{x:.0}\" y=\"366\" text-anchor=\"middle\">{hour:.0} h</text>"
        );
    }
}

fn rule(svg: &mut String, y: f64, label: &str) {
    let text = y + 4.0;
    let _ = write!(
        svg,
        "<line class=\"grid\" x1=\"{LEFT}\" x2=\"{RIGHT}\" y1=\"{y:.1}\" y2=\"{y:.1}\"/>\
         <text x=\"{}\" y=\"{text:.1}\" text-anchor=\"end\">{label}</text>",
        LEFT - 6.0
    );
}

fn legend(svg: &mut String, law: &str) {
    let _ = write!(
        svg,
        "<text x=\"{LEFT}\" y=\"22\" font-weight=\"bold\">{law}</text>\
         <rect class=\"resident\" x=\"300\" y=\"12\" width=\"14\" height=\"12\"/>\
         <text x=\"320\" y=\"22\">in RAM</text>\
         <rect class=\"out\" x=\"390\" y=\"12\" width=\"14\" height=\"12\"/>\
         <text x=\"410\" y=\"22\">out</text>\
         <line class=\"batch\" x1=\"460\" x2=\"480\" y1=\"18\" y2=\"18\"/>\
         <text x=\"486\" y=\"22\">batch job</text>\
         <line class=\"some\" x1=\"570\" x2=\"590\" y1=\"18\" y2=\"18\"/>\
         <text x=\"596\" y=\"22\">worst some, 10 s (dashes: 0.1 %)</text>"
    );
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn drawing_stays_within_its_fields() {
        let moment = |hour, some| Moment {
            hour,
            resident: 99.0,
            out: 99.0,
            batch: 1.0,
            some,
            latency_us: 1.0,
        };
        let svg = day("a law", &[moment(0.0, 0.0), moment(24.0, 2.0)]);
        assert!(svg.starts_with("<svg") && svg.ends_with("</svg>\n"));
        assert!((memory(99.0) - MEMORY.0).abs() < 1e-9);
        assert!((pressure(0.0) - PRESSURE.1).abs() < 1e-9);
        assert!((pressure(1e9) - PRESSURE.0).abs() < 1e-9);
    }
}
