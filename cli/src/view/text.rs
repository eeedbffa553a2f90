//! `status`: a summary as text that fits one screen.

use super::summary::{Container, Device, Donor, Event, Node, Summary};
use crate::ui::{Tone, Ui, human_bytes, human_us};

/// Events that `status` shows.
const EVENTS: usize = 5;
/// Containers that `status` shows.
const CONTAINERS: usize = 4;
/// Columns of a bar.
const BAR: usize = 24;

/// The lines of `status`.
#[must_use]
pub fn lines(summary: &Summary, title: &str, ui: &Ui) -> Vec<String> {
    let mut lines = vec![format!(
        "{}  up {}, term {}, {}",
        ui.paint(Tone::Bold, title),
        human_seconds(summary.uptime_ms / 1000),
        summary.term,
        plural(u64::from(summary.policies), "policy", "policies")
    )];
    lines.push(head(ui, "NODE            ROLE       STATE"));
    lines.extend(summary.nodes.iter().map(|node| node_line(node, ui)));
    for device in &summary.devices {
        lines.push(head(ui, "SWAP DEVICE"));
        lines.extend(device_lines(device, ui));
    }
    lines.push(head(ui, "REMOTE MEMORY   HELD"));
    lines.extend(summary.donors.iter().map(|donor| donor_line(donor, ui)));
    if !summary.containers.is_empty() {
        lines.push(head(
            ui,
            "CONTAINER               RAM        LIMIT      SWAPPED    SOME   FULL   STATE",
        ));
        let containers = summary.containers.iter().take(CONTAINERS);
        lines.extend(containers.map(|container| container_line(container, ui)));
    }
    let skipped = summary.events.len().saturating_sub(EVENTS);
    if !summary.events.is_empty() {
        lines.push(head(ui, "EVENT"));
        lines.extend(
            summary
                .events
                .iter()
                .skip(skipped)
                .map(|e| event_line(e, ui)),
        );
    } else if let Some(plan) = summary.plan.first() {
        lines.push(head(ui, "PLAN"));
        lines.push(format!("  {plan}"));
    }
    lines
}

fn head(ui: &Ui, text: &str) -> String {
    ui.paint(Tone::Dim, text)
}

fn node_line(node: &Node, ui: &Ui) -> String {
    let state = if node.problem.is_empty() {
        ui.paint(Tone::Good, "● ready")
    } else {
        ui.paint(Tone::Bad, &format!("● {}", node.problem))
    };
    format!("  {:<13} {:<10} {state}", node.name, node.role)
}

fn device_lines(device: &Device, ui: &Ui) -> Vec<String> {
    let (tone, word) = if device.attached {
        (Tone::Good, "● attached as swap")
    } else {
        (Tone::Warn, "○ detached (no policy needs it)")
    };
    let path = if device.path.is_empty() {
        "no device"
    } else {
        &device.path
    };
    let mut lines = vec![
        format!(
            "  {:<13} {}  {}  {}",
            device.node,
            ui.paint(tone, word),
            ui.paint(Tone::Accent, path),
            ui.paint(Tone::Dim, &device.front_end)
        ),
        format!(
            "  {:<13} {} {} of {}, {} mapped, {} in reserve",
            "",
            bar(device.used, device.size),
            human_bytes(device.used),
            human_bytes(device.size),
            plural(device.slabs_mapped as u64, "slab", "slabs"),
            device.sets_reserve
        ),
        format!(
            "  {:<13} read p50 {} p99 {}, write p50 {} p99 {}, {} started",
            "",
            human_us(device.read.p50_us),
            human_us(device.read.p99_us),
            human_us(device.write.p50_us),
            human_us(device.write.p99_us),
            plural(u64::from(device.engine_starts), "engine", "engines")
        ),
    ];
    if device.degraded > 0 {
        let text = format!(
            "{} have too few copies, being rebuilt",
            human_bytes(device.degraded)
        );
        lines.push(format!("  {:<13} {}", "", ui.paint(Tone::Warn, &text)));
    }
    if device.pages_lost > 0 {
        let text = format!("{} lost", plural(device.pages_lost, "page", "pages"));
        lines.push(format!("  {:<13} {}", "", ui.paint(Tone::Bad, &text)));
    }
    lines
}

fn donor_line(donor: &Donor, ui: &Ui) -> String {
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
        bar(donor.held, donor.capacity),
        human_bytes(donor.held),
        human_bytes(donor.lent),
        human_bytes(donor.capacity),
        ui.paint(tone, link)
    )
}

fn container_line(container: &Container, ui: &Ui) -> String {
    let tone = match container.state.as_str() {
        "Calm" => Tone::Good,
        "Stalled" => Tone::Bad,
        _ => Tone::Warn,
    };
    // A calm container needs no explanation.
    let why = if container.state == "Calm" {
        ""
    } else {
        &container.reason
    };
    format!(
        "  {:<21} {:<10} {:<10} {:<10} {:>4.0} % {:>4.0} %  {} {}",
        container.name,
        human_bytes(container.memory),
        human_bytes(container.limit),
        human_bytes(container.swap),
        container.some,
        container.full,
        ui.paint(tone, &container.state),
        ui.paint(Tone::Dim, why)
    )
}

fn event_line(event: &Event, ui: &Ui) -> String {
    format!(
        "  {} {:<10} {} {}",
        ui.paint(Tone::Dim, &time_of_day(event.unix_ms)),
        event.node,
        ui.paint(Tone::Bold, &event.kind),
        event.message
    )
}

/// A bar of fixed width.
#[must_use]
pub fn bar(part: u64, whole: u64) -> String {
    let width = BAR as u64;
    let eighths = part.min(whole) * width * 8 / whole.max(1);
    let full = usize::try_from(eighths / 8).unwrap_or(0);
    let rest = usize::try_from(eighths % 8).unwrap_or(0);
    let mut text = "█".repeat(full);
    if rest > 0 {
        text.push(['▏', '▎', '▍', '▌', '▋', '▊', '▉'][rest - 1]);
    }
    let drawn = full + usize::from(rest > 0);
    text + &"·".repeat(BAR - drawn)
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

    #[test]
    fn status_fits_one_screen_and_says_what_matters() {
        let lines = lines(&Summary::of(&status()), "cluster local", &Ui::new());
        assert!(lines.len() <= 25, "{} lines", lines.len());
        let text = lines.join("\n");
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
            assert_eq!(bar(part, 100).chars().count(), BAR);
        }
        assert_eq!(bar(1, 0).chars().count(), BAR);
    }

    #[test]
    fn times_are_readable() {
        assert_eq!(time_of_day(1_700_000_000_000), "22:13:20");
        assert_eq!(human_seconds(3_725), "1 h 2 min");
    }
}
