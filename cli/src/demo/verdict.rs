//! The verdict: whether everything that the demo promises held, and the report that says so.

use super::recorder::Seen;
use super::story::Demo;
use crate::args::DemoArgs;
use crate::report::analysis::cost_of;
use crate::report::{Circle, Digest, Kill, Report, SwapIn};
use crate::ui::human_count;

/// What the report and the story call the engine process.
pub const ENGINE: &str = "swapd engine";

/// What they call a memory server.
pub const MEMORY_SERVER: &str = "memory server";

/// Engine processes that died and should not have: beside the first there is one for each that the
/// demo killed itself.
#[must_use]
pub fn engines_lost(starts: u32, kills: &[Kill]) -> usize {
    let killed = kills.iter().filter(|kill| kill.what == ENGINE).count();
    (starts as usize).saturating_sub(1 + killed)
}

/// The sentence about them.
#[must_use]
pub fn engines_lost_told(lost: usize) -> String {
    let (processes, themselves) = match lost {
        1 => ("process", "itself"),
        _ => ("processes", "themselves"),
    };
    format!("{lost} {ENGINE} {processes} died by {themselves} and had to be replaced")
}

/// Names of all lost processes.
fn lost(demo: &Demo, seen: &Seen) -> Vec<String> {
    let engines = engines_lost(seen.engine_starts, &demo.kills);
    let engines = std::iter::repeat_n(ENGINE.to_owned(), engines);
    demo.lost.iter().cloned().chain(engines).collect()
}

/// Puts the report of a demo together.
#[must_use]
pub fn report(demo: &Demo, args: &DemoArgs, error: Option<&anyhow::Error>) -> Report {
    let seen = demo.recorder.seen().clone();
    let end = seen.end.clone().unwrap_or_default();
    let digest = digest(&seen);
    let circle = demo.circle.unwrap_or_default();
    let lost = lost(demo, &seen);
    let mut failures: Vec<String> = error.iter().map(|error| format!("{error:#}")).collect();
    let engines = engines_lost(seen.engine_starts, &demo.kills);
    if engines > 0 {
        failures.push(engines_lost_told(engines));
    }
    failures.extend(seen.wrong.iter().cloned());
    let left = demo.left_behind.iter();
    failures.extend(left.map(|left| format!("left behind: {left}")));
    if digest
        .as_ref()
        .is_some_and(|digest| digest.before != digest.after)
    {
        failures.push("the data set's digest is another one than before".to_owned());
    }
    failures.extend(demo.circle.iter().flat_map(circle_failures));
    if seen.pages_peak == 0 && error.is_none() {
        failures.push("no page was ever remote".to_owned());
    }
    let mut events = seen.events.clone();
    events.sort_by_key(|event| event.t_ms);
    failures.dedup();
    Report {
        version: env!("CARGO_PKG_VERSION").to_owned(),
        started_unix_ms: demo.recorder.started_unix_ms(),
        duration_ms: demo.recorder.now_ms(),
        passed: failures.is_empty(),
        failures,
        host: host(),
        workload: args.workload.as_str().to_owned(),
        memory_bytes: args.memory.get(),
        limit_bytes: args.memory.get() / 2,
        donors: args.donors,
        front_end: seen.front_end.clone(),
        transports: seen.transports.iter().cloned().collect(),
        pages_remote_peak: seen.pages_peak,
        pages_checked: end.pages_checked.max(seen.progress.pages_checked),
        wrong_pages: end.wrong_pages.max(seen.progress.wrong_pages),
        processes_lost: lost.len() as u64,
        processes_lost_names: lost,
        left_behind: demo.left_behind.clone(),
        digest,
        pages_returned: circle.pages_returned,
        return_speedup: circle.speedup(),
        donor_bytes_given_back: circle.donor_bytes_given_back,
        circle: demo.circle,
        swap_in: SwapIn {
            count: end.swap_ins,
            p50_us: end.p50_us,
            p99_us: end.p99_us,
            max_us: end.max_us,
        },
        kills: demo
            .kills
            .iter()
            .map(|kill| with_cost(kill, &seen))
            .collect(),
        events,
        phases: seen.phases,
        series: seen.series,
    }
}

/// What the second half promises and did not keep.
fn circle_failures(circle: &Circle) -> Vec<String> {
    let mut failures = Vec::new();
    if circle.pages_returned == 0 {
        failures.push("no page came home before it was asked for".to_owned());
    }
    if circle.donor_bytes_given_back == 0 {
        failures.push("no donor got memory back".to_owned());
    }
    failures
}

fn with_cost(kill: &Kill, seen: &Seen) -> Kill {
    // What the workload does in a later phase has another throughput.
    let mut phases = seen.phases.iter();
    let phase = phases.rfind(|phase| phase.from_ms <= kill.t_ms);
    let end = phase.map_or(u64::MAX, |phase| phase.to_ms);
    let samples = &seen.series.workload;
    let in_phase = samples.partition_point(|sample| sample.t_ms < end);
    let cost = cost_of(&samples[..in_phase], kill.t_ms);
    Kill {
        worst_stall_us: cost.worst_stall_us,
        ops_before: cost.ops_before,
        back_to_90_percent_ms: cost.back_to_90_percent_ms,
        ..kill.clone()
    }
}

/// The first and the last digest, if the workload makes any.
fn digest(seen: &Seen) -> Option<Digest> {
    let (_, first) = seen.digests.first()?;
    let (_, last) = seen.digests.last()?;
    Some(Digest {
        keys: last.keys,
        before: first.before.clone(),
        after: last.after.clone(),
    })
}

/// Kernel and processors.
fn host() -> String {
    let name = rustix::system::uname();
    let processors = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    format!(
        "{} {}, {processors} processors",
        name.sysname().to_string_lossy(),
        name.release().to_string_lossy()
    )
}

/// The figures of the last line.
#[must_use]
pub fn figures(report: &Report) -> String {
    format!(
        "{} pages remote at the peak, {} checks, {} wrong pages, {} processes lost, {} things left behind",
        human_count(report.pages_remote_peak),
        human_count(report.pages_checked),
        human_count(report.wrong_pages),
        human_count(report.processes_lost),
        report.left_behind.len()
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn kill(what: &str) -> Kill {
        Kill {
            what: what.to_owned(),
            ..Kill::default()
        }
    }

    #[test]
    fn only_engines_that_the_demo_did_not_kill_are_lost() {
        let kills = [kill("memory server"), kill(ENGINE)];
        assert_eq!(engines_lost(0, &[]), 0);
        assert_eq!(engines_lost(1, &[]), 0);
        assert_eq!(engines_lost(2, &kills), 0);
        assert_eq!(engines_lost(2, &kills[..1]), 1);
        assert_eq!(engines_lost(4, &kills), 2);
        let told = engines_lost_told(2);
        assert!(told.starts_with("2 swapd engine processes"), "{told}");
    }
}
