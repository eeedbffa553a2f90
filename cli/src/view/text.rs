//! `status`: a summary as text that fits one screen.

use super::fit::{Section, cut, share, wrap};
use super::summary::{Container, Device, Donor, Event, Node, Summary};
use crate::ui::{Tone, Ui, human_bytes, human_us};

/// What a text must fit into. A cluster of three donors fits a terminal of 24 lines; a larger one
/// shows all its nodes and the least of the rest.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Screen {
    /// Lines of text.
    pub lines: usize,
    /// Columns of each.
    pub columns: usize,
}

impl Screen {
    /// Of what is no terminal.
    pub const DEFAULT: Self = Self {
        lines: 25,
        columns: 100,
    };
    /// Below this nothing is readable, and a terminal that says so does not know.
    const LEAST: Self = Self {
        lines: 20,
        columns: 60,
    };

    /// Lines that a text which may be long is given.
    const fn lines_of_a_text(self) -> usize {
        if self.lines < Self::DEFAULT.lines {
            1
        } else {
            2
        }
    }

    /// Of a terminal with so many lines and columns: the prompt below needs a line too.
    #[must_use]
    pub fn of_terminal(lines: u16, columns: u16) -> Self {
        Self {
            lines: usize::from(lines).saturating_sub(1).max(Self::LEAST.lines),
            columns: usize::from(columns).max(Self::LEAST.columns),
        }
    }
}

/// Columns before a line that continues another.
const INDENT: usize = 16;
/// Events that `status` shows.
const EVENTS: usize = 5;
/// Containers that `status` shows.
const CONTAINERS: usize = 4;
/// Most columns of a bar.
const BAR: usize = 24;
/// Columns that the figures beside a bar may take, and what stands before it.
const BESIDE_BAR: usize = 72;

/// The lines of `status`.
#[must_use]
pub fn lines(summary: &Summary, title: &str, screen: Screen, ui: &Ui) -> Vec<String> {
    let mut lines = vec![format!(
        "{}  up {}, term {}, {}",
        ui.paint(Tone::Bold, title),
        human_seconds(summary.uptime_ms / 1000),
        summary.term,
        plural(u64::from(summary.policies), "policy", "policies")
    )];
    lines.push(head(ui, "NODE            ROLE       STATE"));
    lines.extend(summary.nodes.iter().map(|node| node_line(node, screen, ui)));
    for device in &summary.devices {
        lines.push(head(ui, "SWAP DEVICE"));
        lines.extend(device_lines(device, summary.policies, screen, ui));
    }
    lines.push(head(ui, "REMOTE MEMORY   HELD"));
    let donors = summary.donors.iter();
    lines.extend(donors.map(|donor| donor_line(donor, screen, ui)));
    lines.extend(rest(summary, screen, lines.len(), ui));
    lines
}

/// Containers, notes and events: as much of each as the lines that are left allow.
fn rest(summary: &Summary, screen: Screen, taken: usize, ui: &Ui) -> Vec<String> {
    let room = screen.lines.saturating_sub(taken);
    let columns = screen.columns;
    let lines_each = screen.lines_of_a_text();
    let notes = note_lines(summary, lines_each, columns, ui);
    let figures = summary.containers.iter().take(CONTAINERS);
    let figures: Vec<String> = figures
        .flat_map(|c| container_lines(c, columns, ui))
        .collect();
    let section = |wanted, least| Section { wanted, least };
    let [containers, noted, events] = share(
        room,
        [
            section(figures.len(), 1),
            section(notes.len(), lines_each),
            section(summary.events.len().min(EVENTS), 1),
        ],
    );
    let mut lines = Vec::new();
    if containers > 0 {
        let titles = "CONTAINER               RAM       LIMIT     SWAPPED   SOME   FULL   STATE";
        lines.push(head(ui, titles));
        lines.extend(figures.into_iter().take(containers));
    }
    if noted > 0 {
        lines.push(head(ui, "NOTE"));
        // Rather the beginning of each than all of the first.
        let notes = if notes.len() > noted {
            note_lines(summary, 1, columns, ui)
        } else {
            notes
        };
        lines.extend(notes.into_iter().take(noted));
    }
    if events > 0 {
        lines.push(head(ui, "EVENT"));
        let shown = &summary.events[summary.events.len() - events..];
        lines.extend(shown.iter().map(|event| event_line(event, columns, ui)));
    }
    lines
}

/// What a person should know, and the whole of what a node's line has no room for.
fn note_lines(summary: &Summary, lines_each: usize, columns: usize, ui: &Ui) -> Vec<String> {
    let mut lines = Vec::new();
    let cut_off = summary.nodes.iter().filter(|node| {
        let room = columns.saturating_sub(PROBLEM_COLUMN);
        node.problem.chars().count() > room
    });
    let cut_off = cut_off.map(|node| format!("{}: {}", node.name, node.problem));
    for note in summary.notes.iter().cloned().chain(cut_off) {
        for (number, line) in wrap(&note, columns - 4, lines_each).iter().enumerate() {
            let indent = if number == 0 { "  " } else { "    " };
            lines.push(format!("{indent}{}", ui.paint(Tone::Warn, line)));
        }
    }
    lines
}

fn head(ui: &Ui, text: &str) -> String {
    ui.paint(Tone::Dim, text)
}

/// Column at which a node's problem begins.
const PROBLEM_COLUMN: usize = 29;

fn node_line(node: &Node, screen: Screen, ui: &Ui) -> String {
    let names = format!("  {:<13} {:<10} ", node.name, node.role);
    let room = screen.columns.saturating_sub(names.chars().count() + 2);
    let state = if node.problem.is_empty() {
        ui.paint(Tone::Good, "● ready")
    } else {
        ui.paint(Tone::Bad, &format!("● {}", cut(&node.problem, room)))
    };
    names + &state
}

fn device_lines(device: &Device, policies: u32, screen: Screen, ui: &Ui) -> Vec<String> {
    let (tone, word) = if device.attached {
        (Tone::Good, "● attached as swap")
    } else if policies == 0 {
        (Tone::Warn, "○ detached (no policy needs it)")
    } else {
        (Tone::Warn, "○ detached (what it waits for is under NOTE)")
    };
    let path = if device.path.is_empty() {
        "no device"
    } else {
        &device.path
    };
    let mut lines = vec![format!(
        "  {:<13} {}  {}",
        device.node,
        ui.paint(tone, word),
        ui.paint(Tone::Accent, path),
    )];
    let front_end = format!("{}: {}", device.front_end, device.front_end_reason);
    let front_end = wrap(
        &front_end,
        screen.columns - INDENT,
        screen.lines_of_a_text(),
    );
    lines.extend(
        front_end
            .iter()
            .map(|line| indented(&ui.paint(Tone::Dim, line))),
    );
    let figures = |text: String| indented(&cut(&text, screen.columns - INDENT));
    lines.push(figures(format!(
        "{} {} of {}, {} mapped, {} in reserve",
        bar(device.used, device.size, bar_width(screen)),
        human_bytes(device.used),
        human_bytes(device.size),
        plural(device.slabs_mapped as u64, "slab", "slabs"),
        device.sets_reserve
    )));
    lines.push(figures(format!(
        "p50 and p99: read {} {}, write {} {}; {}",
        human_us(device.read.p50_us),
        human_us(device.read.p99_us),
        human_us(device.write.p50_us),
        human_us(device.write.p99_us),
        plural(u64::from(device.engine_starts), "engine", "engines")
    )));
    if device.spill > 0 {
        lines.push(figures(format!(
            "spill file of {}, {} on it alone",
            human_bytes(device.spill),
            human_bytes(device.spilled)
        )));
    }
    let troubles = troubles(device, ui);
    if !troubles.is_empty() {
        lines.push(indented(&troubles.join(", ")));
    }
    lines
}

/// What is wrong with a device's pages.
fn troubles(device: &Device, ui: &Ui) -> Vec<String> {
    let mut troubles = Vec::new();
    if device.degraded > 0 {
        let text = format!("{} have too few copies", human_bytes(device.degraded));
        troubles.push(ui.paint(Tone::Warn, &text));
    }
    if device.pages_lost > 0 {
        let text = format!("{} lost", plural(device.pages_lost, "page", "pages"));
        troubles.push(ui.paint(Tone::Bad, &text));
    }
    troubles
}

/// A line below a device's first one.
fn indented(text: &str) -> String {
    format!("{:INDENT$}{text}", "")
}

fn donor_line(donor: &Donor, screen: Screen, ui: &Ui) -> String {
    let tone = match donor.link.as_str() {
        "up" => Tone::Good,
        "" | "connecting" => Tone::Dim,
        _ => Tone::Bad,
    };
    let link = if donor.link.is_empty() {
        "no link"
    } else {
        &donor.link
    };
    format!(
        "  {:<13} {} {:>8}  lent {} of {}  {}",
        donor.node,
        bar(donor.held, donor.capacity, bar_width(screen)),
        human_bytes(donor.held),
        human_bytes(donor.lent),
        human_bytes(donor.capacity),
        ui.paint(tone, link)
    )
}

/// A container's figures, and why it is not calm if it is not.
fn container_lines(container: &Container, columns: usize, ui: &Ui) -> Vec<String> {
    let tone = match container.state.as_str() {
        "Calm" => Tone::Good,
        "Stalled" => Tone::Bad,
        _ => Tone::Warn,
    };
    let mut lines = vec![format!(
        "  {:<21} {:<9} {:<9} {:<9} {:>4.0} % {:>4.0} %  {}",
        cut(&container.name, 21),
        human_bytes(container.memory),
        human_bytes(container.limit),
        human_bytes(container.swap),
        container.some,
        container.full,
        ui.paint(tone, &container.state)
    )];
    // A calm container needs no explanation.
    if container.state != "Calm" && !container.reason.is_empty() {
        let why = cut(&container.reason, columns - 4);
        lines.push(format!("    {}", ui.paint(Tone::Dim, &why)));
    }
    lines
}

fn event_line(event: &Event, columns: usize, ui: &Ui) -> String {
    let time = time_of_day(event.unix_ms);
    let node = format!("{:<10}", event.node);
    let before = 5 + time.len() + node.chars().count() + event.kind.chars().count();
    format!(
        "  {} {node} {} {}",
        ui.paint(Tone::Dim, &time),
        ui.paint(Tone::Bold, &event.kind),
        cut(&event.message, columns.saturating_sub(before))
    )
}

/// Columns of a bar: of what the figures beside it leave.
fn bar_width(screen: Screen) -> usize {
    screen.columns.saturating_sub(BESIDE_BAR).clamp(8, BAR)
}

/// A bar of this width.
#[must_use]
pub fn bar(part: u64, whole: u64, width: usize) -> String {
    let eighths = part.min(whole) * width as u64 * 8 / whole.max(1);
    let full = usize::try_from(eighths / 8).unwrap_or(0);
    let rest = usize::try_from(eighths % 8).unwrap_or(0);
    let mut text = "█".repeat(full);
    if rest > 0 {
        text.push(['▏', '▎', '▍', '▌', '▋', '▊', '▉'][rest - 1]);
    }
    let drawn = full + usize::from(rest > 0);
    text + &"·".repeat(width - drawn)
}

/// Hours, minutes and seconds of the day, UTC.
#[must_use]
pub fn time_of_day(unix_ms: u64) -> String {
    let seconds = unix_ms / 1000 % 86_400;
    format!(
        "{:02}:{:02}:{:02}",
        seconds / 3600,
        seconds / 60 % 60,
        seconds % 60
    )
}

/// A duration in its two largest units.
#[must_use]
pub fn human_seconds(seconds: u64) -> String {
    match seconds {
        0..60 => format!("{seconds} s"),
        60..3600 => format!("{} min {} s", seconds / 60, seconds % 60),
        3600..86_400 => format!("{} h {} min", seconds / 3600, seconds / 60 % 60),
        _ => format!("{} d {} h", seconds / 86_400, seconds / 3600 % 24),
    }
}

fn plural(count: u64, one: &str, many: &str) -> String {
    format!("{count} {}", if count == 1 { one } else { many })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::view::summary::tests::status;

    /// Lines that must fit, without colours.
    fn screen(summary: &Summary) -> String {
        let small = Screen::of_terminal(24, 80);
        let mut shown = String::new();
        for screen in [small, Screen::DEFAULT] {
            let lines = lines(summary, "cluster local", screen, &Ui::new());
            shown = lines.join("\n");
            assert!(
                lines.len() <= screen.lines,
                "{} lines:\n{shown}",
                lines.len()
            );
            for line in &lines {
                assert!(line.chars().count() <= screen.columns, "too wide: {line}");
            }
        }
        shown
    }

    /// Three donors with everything that may be said at once.
    fn worst() -> Summary {
        let mut summary = Summary::of(&status());
        let device = &mut summary.devices[0];
        device.front_end_reason = "the kernel has no ublk; ".repeat(9);
        (device.spill, device.spilled) = (2 << 30, 3 << 20);
        (device.used, device.size) = (1023 << 20, 1023 << 30);
        (device.slabs_mapped, device.sets_reserve) = (16_384, 256);
        device.engine_starts = 1000;
        for latency in [&mut device.read, &mut device.write] {
            (latency.p50_us, latency.p99_us) = (999_400, 12_345_678);
        }
        device.pages_lost = 3;
        summary.nodes[2].problem = "the memory server does not answer; ".repeat(9);
        summary.notes = [
            "the plan waits with 3 sets for borrower: no donor fits",
            "4 daemons: no",
        ]
        .map(|note| note.repeat(7))
        .to_vec();
        summary.containers = vec![summary.containers[0].clone(); 9];
        let event = Event {
            message: "a copy of set 9 is being made; ".repeat(9),
            ..summary.events[0].clone()
        };
        summary.events = vec![event; 30];
        summary
    }

    #[test]
    fn worst_status_fits_one_screen_and_has_something_of_everything() {
        let text = screen(&worst());
        for part in [
            "3 pages lost",
            "spill file of 2.0 GiB, 3.0 MiB on it alone",
            "NOTE",
            "donor      ● the memory server does not answer",
            "the plan waits with 3 sets",
            "4 daemons: no",
            "default/verify",
            "ServerLost",
        ] {
            assert!(text.contains(part), "{part} is not in\n{text}");
        }
    }

    #[test]
    fn what_the_plan_waits_for_and_what_daemons_warn_of_is_shown_beside_events() {
        let mut summary = Summary::of(&status());
        summary.notes = vec![
            "the plan keeps borrower as it is: the class spills to disk and its swapd has no \
             spill file; start it with --spill-file (dynamicswap up --spill), or write spill: None"
                .to_owned(),
            "4 daemons: memory cannot be locked".to_owned(),
        ];
        let text = screen(&summary);
        for part in [
            "the plan keeps borrower as it is",
            "or write spill: None",
            "4 daemons: memory cannot be locked",
            "ServerLost",
        ] {
            assert!(text.contains(part), "{part} is not in\n{text}");
        }
    }

    #[test]
    fn status_fits_one_screen_and_says_what_matters() {
        let text = screen(&Summary::of(&status()));
        for part in [
            "/dev/loop3",
            "● connection refused",
            "400 KiB have too few copies",
            "ServerLost",
            "default/verify",
            "some was 41.2 % of 10 s",
            "2 slabs mapped, 1 in reserve",
        ] {
            assert!(text.contains(part), "{part} is not in\n{text}");
        }
    }

    #[test]
    fn bar_is_as_wide_as_any_other() {
        for part in [0, 1, 7, 50, 99, 100, 200] {
            assert_eq!(bar(part, 100, BAR).chars().count(), BAR);
        }
        assert_eq!(bar(1, 0, BAR).chars().count(), BAR);
    }

    #[test]
    fn times_are_readable() {
        assert_eq!(time_of_day(1_700_000_000_000), "22:13:20");
        assert_eq!(human_seconds(3_725), "1 h 2 min");
    }
}
