//! What a demo leaves: report.json for programs, report.html for people.
//!
//! Owns the form of both and everything that is computed from the samples. Pure but for the two
//! files that [`write()`] makes.

pub mod analysis;
mod html;
mod plot;
pub mod series;

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use serde::{Deserialize, Serialize};

pub use html::page;
pub use series::Series;

/// report.json. Fields are added, never renamed.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Report {
    /// Version of DynamicSwap.
    pub version: String,
    /// When the demo began.
    pub started_unix_ms: u64,
    /// How long it took.
    pub duration_ms: u64,
    /// Whether everything that the demo promises held.
    pub passed: bool,
    /// Why not, one sentence each.
    pub failures: Vec<String>,
    /// The host: kernel and processors.
    pub host: String,
    /// "verify" or "redis".
    pub workload: String,
    /// Memory that the workload needs.
    pub memory_bytes: u64,
    /// Memory that it got.
    pub limit_bytes: u64,
    /// Donors.
    pub donors: u32,
    /// How the kernel handed over the device's requests: "ublk" or "fuse-loop".
    #[serde(default)]
    pub front_end: String,
    /// The ways on which pages may have gone, "rdma" or "tcp": all that were in use at any moment.
    #[serde(default)]
    pub transports: Vec<String>,
    /// Most 4 KiB pages that were remote at one moment.
    pub pages_remote_peak: u64,
    /// Checks of a page's or value's content, each access counted.
    pub pages_checked: u64,
    /// Checks that failed.
    pub wrong_pages: u64,
    /// Processes that ended and should not have.
    pub processes_lost: u64,
    /// Which.
    pub processes_lost_names: Vec<String>,
    /// What the demo could not remove.
    pub left_behind: Vec<String>,
    /// Digest of the whole data set, before and after (redis).
    pub digest: Option<Digest>,
    /// Latency of accesses that waited for the device, over the whole run.
    pub swap_in: SwapIn,
    /// What was killed, and what came of it.
    pub kills: Vec<Kill>,
    /// Pages that came home before anybody asked for them, once the load had dropped.
    #[serde(default)]
    pub pages_returned: u64,
    /// How many times sooner the load was at 90 % of its speed in memory than by demand faults alone;
    /// absent if that was not played.
    #[serde(default)]
    pub return_speedup: Option<f64>,
    /// Memory that a donor got back when it wanted it.
    #[serde(default)]
    pub donor_bytes_given_back: u64,
    /// What these are made of; absent if it was not played.
    #[serde(default)]
    pub circle: Option<Circle>,
    /// Everything that happened, oldest first.
    pub events: Vec<Event>,
    /// Stretches of the run.
    pub phases: Vec<Phase>,
    /// Samples over time.
    pub series: Series,
}

/// Digest of a data set.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Digest {
    /// Keys that it covers.
    pub keys: u64,
    /// Before the failures.
    pub before: String,
    /// After them.
    pub after: String,
}

/// Latency of swap-ins as the workload saw it, in microseconds.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct SwapIn {
    /// How many.
    pub count: u64,
    /// Median.
    pub p50_us: u64,
    /// 99th percentile.
    pub p99_us: u64,
    /// Longest.
    pub max_us: u64,
}

/// The second half of the story: pages come home, a donor takes its memory back.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Circle {
    /// Pages that came home before anybody asked for them.
    pub pages_returned: u64,
    /// Milliseconds until the load was at 90 % of its speed in memory, by demand faults alone.
    pub back_by_demand_ms: Option<u64>,
    /// The same, with its pages home.
    pub back_after_return_ms: Option<u64>,
    /// Memory that a donor got back.
    pub donor_bytes_given_back: u64,
}

impl Circle {
    /// How many times sooner it was back with its pages home.
    #[must_use]
    #[expect(clippy::cast_precision_loss, reason = "milliseconds of one run")]
    pub fn speedup(&self) -> Option<f64> {
        let (demand, home) = (self.back_by_demand_ms?, self.back_after_return_ms?);
        (home > 0).then(|| demand as f64 / home as f64)
    }
}

/// A process that was killed on purpose.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Kill {
    /// When, in milliseconds since the start.
    pub t_ms: u64,
    /// "memory server" or "swapd engine".
    pub what: String,
    /// The node.
    pub node: String,
    /// The process.
    pub pid: u32,
    /// Bytes of pages that it held.
    pub bytes_held: u64,
    /// Longest single access of the workload in the time around it, in microseconds.
    pub worst_stall_us: u64,
    /// Operations a second before it.
    pub ops_before: f64,
    /// Milliseconds until throughput was back at 90 %; absent if it never was.
    pub back_to_90_percent_ms: Option<u64>,
    /// Milliseconds until every copy was made again, or the new process served; absent if never.
    pub repaired_ms: Option<u64>,
}

/// Something that happened.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Event {
    /// When, in milliseconds since the start.
    pub t_ms: u64,
    /// Where: a node, or "demo".
    pub source: String,
    /// One CamelCase word.
    pub kind: String,
    /// A sentence.
    pub message: String,
    /// Whether the plots mark it, and how.
    pub mark: Option<Mark>,
}

/// How a plot marks an event.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Mark {
    /// Something was broken on purpose.
    Broken,
    /// Something is whole again.
    Mended,
    /// A step of the story.
    Step,
}

/// A stretch of the run.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Phase {
    /// What it is called.
    pub name: String,
    /// When it began, in milliseconds since the start.
    pub from_ms: u64,
    /// When it ended.
    pub to_ms: u64,
}

/// Writes report.json and report.html into `directory`; returns the latter's path.
///
/// # Errors
/// If they cannot be written.
pub fn write(report: &Report, directory: &Path) -> Result<PathBuf> {
    let context = |path: &Path| format!("cannot write {}", path.display());
    fs::create_dir_all(directory).with_context(|| context(directory))?;
    let json = directory.join("report.json");
    let mut text = serde_json::to_string_pretty(report)?;
    text.push('\n');
    fs::write(&json, text).with_context(|| context(&json))?;
    let html = directory.join("report.html");
    fs::write(&html, page(report)).with_context(|| context(&html))?;
    Ok(html)
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    #[test]
    fn json_has_the_promised_fields() {
        let report = synthetic();
        let value = serde_json::to_value(&report).expect("plain");
        let fields = value.as_object().expect("an object");
        for field in [
            "front_end",
            "transports",
            "pages_remote_peak",
            "pages_checked",
            "wrong_pages",
            "processes_lost",
            "left_behind",
            "events",
            "pages_returned",
            "return_speedup",
            "donor_bytes_given_back",
        ] {
            assert!(fields.contains_key(field), "{field}");
        }
        assert!(fields["left_behind"].is_array() && fields["events"].is_array());
        assert!(fields["processes_lost"].is_u64());
        let back: Report = serde_json::from_value(value).expect("own");
        assert_eq!(back, report);
    }

    #[test]
    fn both_files_are_written() {
        let dir = tempfile::tempdir().expect("a directory");
        let out = dir.path().join("a/b");
        let html = write(&synthetic(), &out).expect("written");
        assert!(html.is_file() && out.join("report.json").is_file());
    }

    /// A run as a real one looks, from a formula.
    pub(crate) fn synthetic() -> Report {
        let mut report = Report {
            version: "0.1.0".to_owned(),
            started_unix_ms: 1_700_000_000_000,
            duration_ms: 42_000,
            passed: true,
            host: "Linux 6.18, 2 processors".to_owned(),
            workload: "verify".to_owned(),
            memory_bytes: 512 << 20,
            limit_bytes: 256 << 20,
            donors: 3,
            front_end: "ublk".to_owned(),
            transports: vec!["rdma".to_owned()],
            pages_remote_peak: 71_234,
            pages_checked: 1_234_567,
            swap_in: SwapIn {
                count: 400_000,
                p50_us: 58,
                p99_us: 240,
                max_us: 310_000,
            },
            ..Report::default()
        };
        tell_story(&mut report);
        report.series = synthetic_series();
        report
    }

    fn tell_story(report: &mut Report) {
        for (name, from_ms, to_ms) in [
            ("fill", 3000, 7000),
            ("churn", 7000, 32_000),
            ("check", 32_000, 37_000),
            ("swapoff", 37_000, 40_000),
        ] {
            report.phases.push(Phase {
                name: name.to_owned(),
                from_ms,
                to_ms,
            });
        }
        for (t_ms, kind, message, mark) in [
            (
                2500,
                "Attached",
                "the swap device /dev/loop0 is in use",
                Mark::Step,
            ),
            (
                14_000,
                "ServerKilled",
                "kill -9 of donor-2's memory server, which held 96 MiB",
                Mark::Broken,
            ),
            (
                17_500,
                "Rebuilt",
                "every page has two copies again",
                Mark::Mended,
            ),
            (
                24_000,
                "EngineKilled",
                "kill -9 of the swapd engine under load",
                Mark::Broken,
            ),
            (24_300, "EngineBack", "a new engine serves", Mark::Mended),
            (37_000, "SwapOff", "all pages come home", Mark::Step),
        ] {
            report.events.push(Event {
                t_ms,
                source: "demo".to_owned(),
                kind: kind.to_owned(),
                message: message.to_owned(),
                mark: Some(mark),
            });
        }
        for (t_ms, what) in [(14_000, "memory server"), (24_000, "swapd engine")] {
            report.kills.push(Kill {
                t_ms,
                what: what.to_owned(),
                node: "donor-2".to_owned(),
                pid: 4242,
                bytes_held: 96 << 20,
                worst_stall_us: 310_000,
                ops_before: 21_000.0,
                back_to_90_percent_ms: Some(600),
                repaired_ms: Some(3500),
            });
        }
    }

    fn synthetic_series() -> Series {
        let mut series = Series {
            donors: ["donor-1", "donor-2", "donor-3"]
                .map(str::to_owned)
                .to_vec(),
            ..Series::default()
        };
        let mut noise = 1_u64;
        let mut wobble = |range: u64| {
            noise = noise
                .wrapping_mul(6_364_136_223_846_793_005)
                .wrapping_add(1);
            (noise >> 33) % range
        };
        for t_ms in (3000..40_000).step_by(100) {
            let dip = (14_000..14_300).contains(&t_ms) || (24_000..24_300).contains(&t_ms);
            let ops = if dip { 0 } else { 20_000 + wobble(4000) };
            series.workload.push(series::WorkloadSample {
                t_ms,
                ops_per_second: f64::from(u32::try_from(ops).expect("small")),
                mb_per_second: f64::from(u32::try_from(ops).expect("small")) * 0.004_096,
                swap_ins: ops / 20,
                p50_us: if dip { 0 } else { 50 + wobble(20) },
                p99_us: if dip { 0 } else { 200 + wobble(150) },
                max_us: if dip { 300_000 } else { 900 + wobble(4000) },
            });
        }
        for t_ms in (0..42_000_u64).step_by(200) {
            let used = (t_ms.saturating_sub(3000) / 10)
                .min(400)
                .saturating_sub(t_ms.saturating_sub(37_000) / 6)
                << 20;
            let rebuilt = t_ms.clamp(14_300, 17_500) - 14_300;
            let donors = if t_ms < 14_000 {
                vec![used / 3 * 2, used / 3 * 2, used / 3 * 2]
            } else {
                let more = used / 3 * rebuilt / 3200;
                vec![used / 3 * 2 + more, 0, used / 3 * 2 + more]
            };
            series.cluster.push(series::ClusterSample {
                t_ms,
                held: donors,
                used,
                degraded: if (14_000..17_500).contains(&t_ms) {
                    used / 3
                } else {
                    0
                },
                memory: Vec::new(),
            });
            series.pressure.push(series::PressureSample {
                t_ms,
                some: 30.0,
                full: 12.0,
            });
            series.device.push(series::DeviceSample {
                t_ms,
                read_us: 55.0,
                write_us: 80.0,
                reads: 900,
                writes: 800,
            });
        }
        series
    }
}
