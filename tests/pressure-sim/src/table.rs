//! The comparison as a table.

use std::fmt::Write as _;

use crate::figures::{Figures, percentile};
use crate::unit::{TICKS_PER_S, real};

/// The figures of several days as those of one.
#[must_use]
pub fn merge(days: &[Figures]) -> Figures {
    let number = real(days.len().max(1) as u64);
    let mean = |of: fn(&Figures) -> f64| days.iter().map(of).sum::<f64>() / number;
    let all = |of: fn(&Figures) -> &Vec<u64>| {
        let mut ticks: Vec<u64> = days.iter().flat_map(of).copied().collect();
        ticks.sort_unstable();
        ticks
    };
    Figures {
        saved: mean(|it| it.saved),
        slowdown: mean(|it| it.slowdown),
        some: mean(|it| it.some),
        reactions: all(|it| &it.reactions),
        spikes: days.iter().map(|it| it.spikes).sum(),
        recoveries: all(|it| &it.recoveries),
        kills: days.iter().map(|it| it.kills).sum(),
        kills_with_room: days.iter().map(|it| it.kills_with_room).sum(),
        turns: mean(|it| it.turns),
        turns_max: days.iter().map(|it| it.turns_max).fold(0.0, f64::max),
        trace: days.first().map(|it| it.trace.clone()).unwrap_or_default(),
    }
}

/// The table of a scenario, in Markdown.
#[must_use]
pub fn markdown(rows: &[(&str, Figures)]) -> String {
    let mut text = String::from(
        "| law | saved | slowdown | some | spikes felt | reaction p50 / p99 | \
         90 % again p50 / p99 | OOM kills | turns per container and hour |\n\
         |---|---|---|---|---|---|---|---|---|\n",
    );
    for (law, figures) in rows {
        // Writing to a string cannot fail.
        let _ = writeln!(
            text,
            "| {law} | {:.1} % | {:.2} % | {:.2} % | {} of {} | {} | {} | {} | {:.1} (worst {:.1}) |",
            figures.saved * 100.0,
            figures.slowdown * 100.0,
            figures.some * 100.0,
            figures.reactions.len(),
            figures.spikes,
            times(&figures.reactions, 240 * TICKS_PER_S),
            times(&figures.recoveries, 600 * TICKS_PER_S),
            figures.kills,
            figures.turns,
            figures.turns_max,
        );
    }
    text
}

/// Median and 99th percentile; what was waited for in vain is said so.
fn times(sorted: &[u64], never: u64) -> String {
    let text = |percent| {
        let seconds = percentile(sorted, percent)?;
        Some(if seconds * real(TICKS_PER_S) >= real(never) {
            "never".to_owned()
        } else {
            format!("{seconds:.1} s")
        })
    };
    match (text(50), text(99)) {
        (Some(median), Some(most)) => format!("{median} / {most}"),
        _ => "-".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn row_tells_what_never_came() {
        let figures = Figures {
            reactions: vec![5, 5, 2_990],
            ..Figures::default()
        };
        let table = markdown(&[("a law", merge(&[figures]))]);
        assert!(table.contains("| 0.5 s / never | - |"), "{table}");
    }
}
