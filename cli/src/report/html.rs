//! report.html: one page that a person reads at a glance, with nothing outside it.

use std::fmt::Write as _;

use super::plot::{Band, Layer, Plot, Scale, Shape, TimeAxis, VerticalMark};
use super::series::{ClusterSample, WorkloadSample};
use super::{Kill, Mark, Report};
use crate::ui::{human_bytes, human_count, human_us};

/// Colours of the donors, by their order.
const DONOR_COLOURS: [&str; 6] = ["a", "b", "c", "d", "e", "f"];
/// Events that the page lists; the rest is in report.json.
const EVENTS_MAX: usize = 80;

/// The whole page.
#[must_use]
pub fn page(report: &Report) -> String {
    let axis = time_axis(report);
    let cards = cards(report);
    let mut body = String::new();
    header(&mut body, report);
    tiles(&mut body, report);
    kills(&mut body, report);
    let mut data = serde_json::Map::new();
    for (number, card) in cards.iter().enumerate() {
        card_html(&mut body, card, &axis, number);
        for (layer, drawn) in card.plot.layers.iter().enumerate() {
            data.insert(format!("{number}-{layer}"), serde_json::json!(drawn.points));
        }
    }
    events(&mut body, report);
    // JSON in a script element must not be able to end it.
    let data = serde_json::Value::Object(data)
        .to_string()
        .replace('<', "\\u003c");
    format!(
        "<!doctype html>\n<html lang=\"en\"><head><meta charset=\"utf-8\">\
         <meta name=\"viewport\" content=\"width=device-width\"><title>{title}</title>\
         <style>\n{style}</style></head>\n<body><main>\n{body}{footer}</main>\n\
         <script type=\"application/json\" id=\"data\">{data}</script>\n\
         <script>\n{script}</script></body></html>\n",
        title = escape(&format!("DynamicSwap demo: {}", report.workload)),
        style = include_str!("page.css"),
        script = include_str!("page.js"),
        footer = footer(report),
    )
}

/// A plot with its words.
struct Card {
    title: &'static str,
    note: String,
    form: &'static str,
    /// What the legend shows without a cursor, one for each layer.
    whole: Vec<String>,
    plot: Plot,
}

fn time_axis(report: &Report) -> TimeAxis {
    let first = report.phases.first().map_or(0, |phase| phase.from_ms);
    let first_mark = report
        .events
        .iter()
        .filter(|e| e.mark.is_some())
        .map(|e| e.t_ms);
    let from_ms = first_mark
        .min()
        .unwrap_or(first)
        .min(first)
        .saturating_sub(500);
    let marks = numbered_marks(report).map(|(number, event, mark)| VerticalMark {
        t_ms: float(event.t_ms),
        class: class_of(mark),
        label: number.to_string(),
    });
    let bands = report.phases.iter().map(|phase| Band {
        name: phase.name.clone(),
        from_ms: float(phase.from_ms),
        to_ms: float(phase.to_ms),
    });
    TimeAxis {
        from_ms: float(from_ms),
        to_ms: float(report.duration_ms.max(from_ms + 1)),
        marks: marks.collect(),
        bands: bands.collect(),
    }
}

fn numbered_marks(report: &Report) -> impl Iterator<Item = (usize, &super::Event, Mark)> {
    let marked = report
        .events
        .iter()
        .filter_map(|event| Some((event, event.mark?)));
    marked
        .enumerate()
        .map(|(number, (event, mark))| (number + 1, event, mark))
}

fn class_of(mark: Mark) -> &'static str {
    match mark {
        Mark::Broken => "broken",
        Mark::Mended => "mended",
        Mark::Step => "step",
    }
}

fn cards(report: &Report) -> Vec<Card> {
    let mut cards = vec![throughput(report), remote(report)];
    cards.extend(report.circle.map(|_| lent(report)));
    cards.push(latency(report));
    cards.push(pressure(report));
    cards.push(device(report));
    cards
}

fn layer(name: &str, colour: &str, shape: Shape, points: Vec<(f64, Option<f64>)>) -> Layer {
    Layer {
        name: name.to_owned(),
        colour: colour.to_owned(),
        shape,
        points,
    }
}

fn throughput(report: &Report) -> Card {
    let samples = &report.series.workload;
    let points = samples
        .iter()
        .map(|s| (float(s.t_ms), Some(s.ops_per_second)));
    let rates: Vec<f64> = samples.iter().map(|s| s.ops_per_second).collect();
    let mean = rates.iter().sum::<f64>() / float(rates.len().max(1) as u64);
    Card {
        title: "Throughput of the workload",
        // Logarithmic: with everything home again it is a hundred times what it is on the device.
        note: "checked accesses a second, logarithmic".to_owned(),
        form: "rate",
        whole: vec![format!("mean {}", rate(mean))],
        plot: Plot {
            height: 220.0,
            scale: Scale::Logarithmic,
            at_least: 10.0,
            format: rate,
            binary_unit: 0.0,
            layers: vec![layer(
                "accesses",
                "throughput",
                Shape::Line,
                points.collect(),
            )],
            named: true,
        },
    }
}

fn remote(report: &Report) -> Card {
    let samples = &report.series.cluster;
    let held = |donor: usize| {
        move |s: &ClusterSample| {
            (
                float(s.t_ms),
                Some(float(s.held.get(donor).copied().unwrap_or(0))),
            )
        }
    };
    let mut layers: Vec<Layer> = Vec::new();
    let mut whole = Vec::new();
    for (number, donor) in report.series.donors.iter().enumerate() {
        let colour = DONOR_COLOURS[number % DONOR_COLOURS.len()];
        layers.push(layer(
            donor,
            colour,
            Shape::Stacked,
            samples.iter().map(held(number)).collect(),
        ));
        let peak = samples.iter().filter_map(|s| s.held.get(number)).max();
        whole.push(format!("peak {}", human_bytes(peak.copied().unwrap_or(0))));
    }
    let degraded = samples
        .iter()
        .map(|s| (float(s.t_ms), Some(float(s.degraded))));
    layers.push(layer(
        "too few copies",
        "degraded",
        Shape::Line,
        degraded.collect(),
    ));
    let worst = samples.iter().map(|s| s.degraded).max();
    whole.push(format!("peak {}", human_bytes(worst.unwrap_or(0))));
    Card {
        title: "Remote memory",
        note: "pages on each donor, every copy counted".to_owned(),
        form: "bytes",
        whole,
        plot: memory_plot(220.0, layers),
    }
}

/// Memory over time, in MiB.
fn memory_plot(height: f64, layers: Vec<Layer>) -> Plot {
    Plot {
        height,
        scale: Scale::Linear,
        at_least: f64::from(16 << 20),
        format: |bytes| format!("{:.0} MiB", bytes / f64::from(1 << 20)),
        binary_unit: f64::from(1 << 20),
        layers,
        named: false,
    }
}

/// What the donors' hosts are without.
fn lent(report: &Report) -> Card {
    let samples = &report.series.cluster;
    let memory = |donor: usize| {
        let of = move |s: &ClusterSample| s.memory.get(donor).copied().unwrap_or(0);
        samples
            .iter()
            .map(move |s| (float(s.t_ms), Some(float(of(s)))))
    };
    let donors = report.series.donors.iter().enumerate();
    let layers = donors.map(|(number, donor)| {
        let colour = DONOR_COLOURS[number % DONOR_COLOURS.len()];
        layer(donor, colour, Shape::Line, memory(number).collect())
    });
    let end = |donor: usize| samples.last().and_then(|s| s.memory.get(donor)).copied();
    let whole = (0..report.series.donors.len()).map(|donor| {
        let end = human_bytes(end(donor).unwrap_or(0));
        format!("at the end {end}")
    });
    Card {
        title: "Memory of the donors' hosts",
        note: "what each memory server takes, lent or ready to be".to_owned(),
        form: "bytes",
        whole: whole.collect(),
        plot: memory_plot(160.0, layers.collect()),
    }
}

fn latency(report: &Report) -> Card {
    let samples = &report.series.workload;
    let points = |field: fn(&WorkloadSample) -> u64| -> Vec<(f64, Option<f64>)> {
        let some = |s: &WorkloadSample| (field(s) > 0).then(|| float(field(s)));
        samples.iter().map(|s| (float(s.t_ms), some(s))).collect()
    };
    Card {
        title: "Swap-in latency",
        note: "accesses that waited for remote memory, as the workload saw them".to_owned(),
        form: "latency",
        whole: [
            report.swap_in.p50_us,
            report.swap_in.p99_us,
            report.swap_in.max_us,
        ]
        .map(human_us)
        .to_vec(),
        plot: Plot {
            height: 220.0,
            scale: Scale::Logarithmic,
            at_least: 1000.0,
            format: latency_tick,
            binary_unit: 0.0,
            layers: vec![
                layer("longest", "max", Shape::Line, points(|s| s.max_us)),
                layer("p99", "p99", Shape::Line, points(|s| s.p99_us)),
                layer("p50", "p50", Shape::Line, points(|s| s.p50_us)),
            ]
            .into_iter()
            .rev()
            .collect(),
            named: false,
        },
    }
}

fn pressure(report: &Report) -> Card {
    let samples = &report.series.pressure;
    let some = samples.iter().map(|s| (float(s.t_ms), Some(s.some)));
    let full = samples.iter().map(|s| (float(s.t_ms), Some(s.full)));
    let share = |field: fn(&super::series::PressureSample) -> f64| {
        let sum: f64 = samples.iter().map(field).sum();
        format!("mean {:.0} %", sum / float(samples.len().max(1) as u64))
    };
    Card {
        title: "Memory pressure (PSI)",
        note: "share of time in which the workload stalled for memory".to_owned(),
        form: "percent",
        whole: vec![share(|s| s.some), share(|s| s.full)],
        plot: Plot {
            height: 170.0,
            scale: Scale::Linear,
            at_least: 92.0,
            format: |share| format!("{share:.0} %"),
            binary_unit: 0.0,
            layers: vec![
                layer("some", "some", Shape::Area, some.collect()),
                layer("full", "full", Shape::Area, full.collect()),
            ],
            named: false,
        },
    }
}

fn device(report: &Report) -> Card {
    let samples = &report.series.device;
    let above = |value: f64| (value > 0.0).then_some(value);
    let reads = samples.iter().map(|s| (float(s.t_ms), above(s.read_us)));
    let writes = samples.iter().map(|s| (float(s.t_ms), above(s.write_us)));
    let mean = |time: fn(&super::series::DeviceSample) -> f64,
                count: fn(&super::series::DeviceSample) -> u64| {
        let total: f64 = samples.iter().map(|s| time(s) * float(count(s))).sum();
        let requests: u64 = samples.iter().map(count).sum();
        format!("mean {}", latency_tick(total / float(requests.max(1))))
    };
    Card {
        title: "Swap device",
        note: "mean time of a request at the block layer, queueing included".to_owned(),
        form: "latency",
        whole: vec![
            mean(|s| s.read_us, |s| s.reads),
            mean(|s| s.write_us, |s| s.writes),
        ],
        plot: Plot {
            height: 170.0,
            scale: Scale::Logarithmic,
            at_least: 1000.0,
            format: latency_tick,
            binary_unit: 0.0,
            layers: vec![
                layer("read", "p50", Shape::Line, reads.collect()),
                layer("write", "d", Shape::Line, writes.collect()),
            ],
            named: false,
        },
    }
}

fn header(body: &mut String, report: &Report) {
    let (class, verdict) = if report.passed {
        ("good", "passed: not a byte wrong")
    } else {
        ("bad", "failed")
    };
    let what = if report.workload == "redis" {
        "A real redis-server"
    } else {
        "A program"
    };
    let _infallible = writeln!(
        body,
        "<header><div><h1>{what} with half the memory it needs</h1><p class=\"soft\">It needs {} and gets {}. \
         The rest is in the memory of {} donors, each page more than once. \
         Under load a memory server and the swap engine are killed with -9.</p></div>\
         <div class=\"verdict {class}\">{verdict}</div></header>",
        human_bytes(report.memory_bytes),
        human_bytes(report.limit_bytes),
        report.donors,
    );
    if !report.failures.is_empty() {
        let items = report
            .failures
            .iter()
            .map(|f| format!("<li>{}</li>", escape(f)));
        let _infallible = writeln!(
            body,
            "<ul class=\"failures\">{}</ul>",
            items.collect::<String>()
        );
    }
}

fn tiles(body: &mut String, report: &Report) {
    let zero = |count: u64| if count == 0 { "good" } else { "bad" };
    let worst = report.kills.iter().map(|kill| kill.worst_stall_us).max();
    let left = report.left_behind.len() as u64;
    let tiles = [
        (
            human_bytes(report.pages_remote_peak * 4096),
            "",
            "remote at the peak",
        ),
        (human_count(report.pages_checked), "", "checks of a page"),
        (
            human_count(report.wrong_pages),
            zero(report.wrong_pages),
            "wrong pages",
        ),
        (
            human_count(report.processes_lost),
            zero(report.processes_lost),
            "processes lost",
        ),
        (human_count(left), zero(left), "things left behind"),
        (
            worst.map_or("–".to_owned(), human_us),
            "",
            "longest stall at a kill",
        ),
        (
            report.circle.map_or("–".to_owned(), |circle| {
                human_bytes(circle.pages_returned * 4096)
            }),
            "",
            "came home by itself",
        ),
        (
            report
                .return_speedup
                .map_or("–".to_owned(), |times| format!("{times:.0}x")),
            "",
            "sooner at full speed than by demand faults",
        ),
        (
            report.circle.map_or("–".to_owned(), |circle| {
                human_bytes(circle.donor_bytes_given_back)
            }),
            "",
            "given back to a donor",
        ),
    ];
    body.push_str("<section class=\"tiles\">");
    for (value, class, label) in tiles {
        let _infallible = write!(
            body,
            "<div class=\"tile\"><b class=\"{class}\">{value}</b><span>{label}</span></div>"
        );
    }
    body.push_str("</section>\n");
}

fn kills(body: &mut String, report: &Report) {
    body.push_str("<section class=\"kills\">");
    for kill in &report.kills {
        kill_html(body, kill, badge_of(report, kill.t_ms));
    }
    body.push_str("</section>\n");
}

/// The number of the mark of what was broken at a time.
fn badge_of(report: &Report, t_ms: u64) -> usize {
    let at = numbered_marks(report)
        .filter(|(_, _, mark)| *mark == Mark::Broken)
        .min_by_key(|(_, event, _)| event.t_ms.abs_diff(t_ms));
    at.map_or(0, |(number, _, _)| number)
}

fn kill_html(body: &mut String, kill: &Kill, badge: usize) {
    let millis = |ms: Option<u64>| ms.map_or("never".to_owned(), |ms| human_us(ms * 1000));
    let (repaired, held) = if kill.bytes_held > 0 {
        (
            "copies made again after",
            format!(", which held {}", human_bytes(kill.bytes_held)),
        )
    } else {
        ("a new one serves after", String::new())
    };
    let _infallible = write!(
        body,
        "<div class=\"kill\"><span class=\"badge broken\">{badge}</span>\
         <h2>kill -9 of the {} on {}{held}</h2><dl>\
         <div><dt>longest stall</dt><dd>{}</dd></div>\
         <div><dt>back to 90 % speed after</dt><dd>{}</dd></div>\
         <div><dt>{repaired}</dt><dd>{}</dd></div></dl></div>",
        escape(&kill.what),
        escape(&kill.node),
        human_us(kill.worst_stall_us),
        millis(kill.back_to_90_percent_ms),
        millis(kill.repaired_ms),
    );
}

fn card_html(body: &mut String, card: &Card, axis: &TimeAxis, number: usize) {
    let _infallible = write!(
        body,
        "<section class=\"card\"><div class=\"top\"><div><h2>{}</h2><p>{} <span class=\"clock\"></span></p></div><div class=\"keys\">",
        card.title,
        escape(&card.note)
    );
    for (position, (layer, whole)) in card.plot.layers.iter().zip(&card.whole).enumerate() {
        let _infallible = write!(
            body,
            "<span data-layer=\"{number}-{position}\" data-form=\"{}\" data-whole=\"{whole}\"><i style=\"background:var(--{})\"></i>{}<b>{whole}</b></span>",
            card.form,
            layer.colour,
            escape(&layer.name),
        );
    }
    let _infallible = writeln!(body, "</div></div>{}", card.plot.svg(axis));
    if card.plot.named {
        phase_names(body, axis);
    }
    body.push_str("</section>\n");
}

/// Names of the stretches, below the plot.
fn phase_names(body: &mut String, axis: &TimeAxis) {
    body.push_str("<div class=\"phases\">");
    let range = axis.to_ms - axis.from_ms;
    for band in &axis.bands {
        let middle = f64::midpoint(band.from_ms, band.to_ms);
        let share = (middle - axis.from_ms) / range * 100.0;
        let _infallible = write!(
            body,
            "<span style=\"left:{share:.1}%\">{}</span>",
            escape(&band.name)
        );
    }
    body.push_str("</div>");
}

fn events(body: &mut String, report: &Report) {
    let numbers: Vec<(usize, &super::Event, Mark)> = numbered_marks(report).collect();
    body.push_str("<section class=\"card\"><div class=\"top\"><h2>What happened</h2></div><table>");
    for event in report.events.iter().take(EVENTS_MAX) {
        let number = numbers
            .iter()
            .find(|(_, marked, _)| std::ptr::eq(*marked, event));
        let flag = number.map_or(String::new(), |(number, _, mark)| {
            format!("<span class=\"badge {}\">{number}</span>", class_of(*mark))
        });
        let _infallible = write!(
            body,
            "<tr><td class=\"time\">{:.1} s</td><td class=\"flag\">{flag}</td><td class=\"kind\">{}</td><td class=\"source\">{}</td><td>{}</td></tr>",
            float(event.t_ms) / 1000.0,
            escape(&event.kind),
            escape(&event.source),
            escape(&event.message),
        );
    }
    body.push_str("</table></section>\n");
}

fn footer(report: &Report) -> String {
    format!(
        "<footer>DynamicSwap {}, workload {}, {:.0} s on {}, device {} over {}. All figures are in report.json.</footer>\n",
        escape(&report.version),
        escape(&report.workload),
        float(report.duration_ms) / 1000.0,
        escape(&report.host),
        escape(&report.front_end),
        escape(&report.transports.join(" and ")),
    )
}

fn rate(ops: f64) -> String {
    if ops >= 10_000.0 {
        format!("{:.0} k/s", ops / 1000.0)
    } else if ops >= 1000.0 {
        format!("{:.1} k/s", ops / 1000.0)
    } else {
        format!("{ops:.0} /s")
    }
}

fn latency_tick(us: f64) -> String {
    if us >= 1e6 {
        format!("{:.0} s", us / 1e6)
    } else if us >= 1e3 {
        format!("{:.0} ms", us / 1e3)
    } else {
        format!("{us:.0} µs")
    }
}

#[expect(
    clippy::cast_precision_loss,
    reason = "figures of a plot, far below 2^52"
)]
fn float(value: u64) -> f64 {
    value as f64
}

/// Text as it may stand in HTML and in an attribute.
fn escape(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for character in text.chars() {
        match character {
            '&' => escaped.push_str("&amp;"),
            '<' => escaped.push_str("&lt;"),
            '>' => escaped.push_str("&gt;"),
            '"' => escaped.push_str("&quot;"),
            other => escaped.push(other),
        }
    }
    escaped
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::tests::synthetic;

    #[test]
    fn page_has_every_plot_and_mark_and_nothing_from_outside() {
        let page = page(&synthetic());
        assert_eq!(page.matches("<svg").count(), 5);
        assert_eq!(page.matches("<line class=\"mark").count(), 5 * 6);
        for outside in ["http://", "https://", "src=", "url(", "@import"] {
            assert!(!page.contains(outside), "{outside}");
        }
        assert!(page.contains("passed: not a byte wrong"));
    }

    #[test]
    fn failure_is_on_the_page_and_escaped() {
        let mut report = synthetic();
        report.passed = false;
        report
            .failures
            .push("page 7 is </script><b>wrong".to_owned());
        let page = page(&report);
        assert!(page.contains("page 7 is &lt;/script&gt;&lt;b&gt;wrong"));
        assert!(!page.contains("not a byte wrong"));
    }

    #[test]
    fn empty_report_is_still_a_page() {
        let page = page(&Report::default());
        assert!(!page.contains("NaN") && page.ends_with("</html>\n"));
    }

    /// Draws the synthetic run for whoever works on the page:
    /// `DYNAMICSWAP_PAGE=/tmp/page.html cargo test -p dynamicswap-cli page_for_a_look`.
    #[test]
    fn page_for_a_look() {
        if let Some(path) = std::env::var_os("DYNAMICSWAP_PAGE") {
            std::fs::write(path, page(&synthetic())).expect("written");
        }
    }
}
