//! What the workload said, as figures, and whether that is as it should be.
//!
//! Pure: the log in, sentences and a table out.

use dynamicswap_workload::line::{End, Line};

use super::job::PodState;
use crate::table;
use crate::ui::{human_count, human_us};

/// What a log holds.
#[derive(Debug, Default)]
pub struct Log {
    end: Option<End>,
    /// The first wrong page, with the reason.
    wrong: Option<String>,
    /// The last line that is not the workload's own.
    last_words: String,
}

impl Log {
    /// Reads the whole of it.
    #[must_use]
    pub fn of(text: &str) -> Self {
        let mut log = Self::default();
        for line in text.lines().filter(|line| !line.trim().is_empty()) {
            match serde_json::from_str(line) {
                Ok(Line::End(end)) => log.end = Some(end),
                Ok(Line::Wrong { page, reason }) if log.wrong.is_none() => {
                    log.wrong = Some(format!("page {page}: {reason}"));
                }
                Ok(_) => {}
                Err(_) => line.clone_into(&mut log.last_words),
            }
        }
        log
    }

    /// Whether the workload has said its last word: the kubelet may tell of it much later.
    #[must_use]
    pub const fn is_complete(&self) -> bool {
        self.end.is_some()
    }

    /// Why the test has failed; none if all is right.
    #[must_use]
    pub fn failure(&self, state: &PodState) -> Option<String> {
        let Some(end) = &self.end else {
            return Some(self.died(state));
        };
        if end.wrong_pages > 0 {
            let first = self.wrong.as_deref().unwrap_or("none was told");
            return Some(format!(
                "{} of {} checks found a wrong page; the first: {first}",
                human_count(end.wrong_pages),
                human_count(end.pages_checked)
            ));
        }
        if end.pages_final == 0 {
            return Some("it did not come to the check of every page".to_owned());
        }
        (end.swap_ins == 0).then(|| {
            "no access waited for a swap device: nothing was swapped out, so nothing is proven; give \
             more --memory"
                .to_owned()
        })
    }

    /// How it ended that did not get to its last word.
    fn died(&self, state: &PodState) -> String {
        let mut text = match state {
            PodState::Ended { reason, .. } if reason == "OOMKilled" => {
                "it was killed at its memory limit: its pages were not let out; 'explain container' \
                 says why, and docs/operations.md what kernels do so with swap free"
                    .to_owned()
            }
            PodState::Ended {
                code: Some(135), ..
            } => "it died of SIGBUS: a page of it is lost".to_owned(),
            PodState::Ended { code, reason } => match code {
                Some(code) => format!("it ended with exit code {code} ({reason})"),
                None => format!("it never ran ({reason})"),
            },
            PodState::Waiting(_) | PodState::Stuck(_) | PodState::Running => {
                "it did not come to its end".to_owned()
            }
        };
        if !self.last_words.is_empty() {
            text += &format!("; it said last: {}", self.last_words);
        }
        text
    }

    /// The figures in a sentence.
    #[must_use]
    pub fn summary(&self) -> String {
        let end = self.end.clone().unwrap_or_default();
        format!(
            "{} pages, {} checks, {} wrong pages, {} swap-ins",
            human_count(end.pages_final),
            human_count(end.pages_checked),
            human_count(end.wrong_pages),
            human_count(end.swap_ins)
        )
    }

    /// How long accesses waited for the device, by phase and in all; empty without an end.
    #[must_use]
    pub fn latencies(&self) -> String {
        let Some(end) = &self.end else {
            return String::new();
        };
        let mut table = table::plain();
        table.set_header(["PHASE", "ACCESSES", "SWAP-INS", "P50", "P99", "MAX"]);
        for it in &end.phases {
            let latency = [it.p50_us, it.p99_us, it.max_us];
            table.add_row(row(it.phase.as_str(), (it.ops, it.swap_ins), latency));
        }
        let latency = [end.p50_us, end.p99_us, end.max_us];
        table.add_row(row("all", (end.ops, end.swap_ins), latency));
        table::lines(&table)
    }
}

fn row(phase: &str, (ops, swap_ins): (u64, u64), latency: [u64; 3]) -> [String; 6] {
    let [p50, p99, max] = latency.map(|us| match swap_ins {
        0 => "-".to_owned(),
        _ => human_us(us),
    });
    let counts = (human_count(ops), human_count(swap_ins));
    [phase.to_owned(), counts.0, counts.1, p50, p99, max]
}

/// What a line says of how far the workload is; none of one that says nothing of it.
#[must_use]
pub fn progress(line: &str) -> Option<String> {
    let Ok(Line::Progress(it)) = serde_json::from_str(line) else {
        return None;
    };
    let phase = it.phase.map_or("", |phase| phase.as_str());
    Some(format!(
        "{phase}: {} accesses, {} checks, {} wrong pages",
        human_count(it.ops_total),
        human_count(it.pages_checked),
        human_count(it.wrong_pages)
    ))
}

#[cfg(test)]
mod tests {
    use super::*;
    use dynamicswap_workload::line::{Phase, PhaseEnd, Progress};

    fn end() -> End {
        let phase = |phase, swap_ins| PhaseEnd {
            phase,
            ops: 49_152,
            swap_ins,
            p50_us: 180,
            p99_us: 2_100,
            max_us: 45_000,
        };
        End {
            ops: 147_456,
            pages_checked: 98_304,
            pages_final: 49_152,
            swap_ins: 31_000,
            p50_us: 170,
            p99_us: 1_900,
            max_us: 45_000,
            phases: vec![phase(Phase::Fill, 0), phase(Phase::Churn, 31_000)],
            ..End::default()
        }
    }

    fn log(end: End) -> Log {
        let lines = [
            "a word of the kernel".to_owned(),
            serde_json::to_string(&Line::Progress(Progress::default())).expect("plain"),
            serde_json::to_string(&Line::End(end)).expect("plain"),
        ];
        Log::of(&lines.join("\n"))
    }

    fn ended(code: i64, reason: &str) -> PodState {
        PodState::Ended {
            code: Some(code),
            reason: reason.to_owned(),
        }
    }

    #[test]
    fn all_right_is_every_page_checked_none_wrong_and_some_swapped() {
        let log = log(end());
        assert!(log.is_complete());
        assert_eq!(log.failure(&PodState::Running), None);
        assert_eq!(
            log.summary(),
            "49,152 pages, 98,304 checks, 0 wrong pages, 31,000 swap-ins"
        );
    }

    #[test]
    fn table_has_a_line_for_each_phase_and_one_for_all() {
        let table = log(end()).latencies();
        let lines: Vec<Vec<&str>> = table
            .lines()
            .map(|line| line.split_whitespace().collect())
            .collect();
        assert_eq!(
            lines[0],
            ["PHASE", "ACCESSES", "SWAP-INS", "P50", "P99", "MAX"]
        );
        assert_eq!(lines[1], ["fill", "49,152", "0", "-", "-", "-"]);
        let churn = [
            "churn", "49,152", "31,000", "180", "µs", "2.1", "ms", "45", "ms",
        ];
        assert_eq!(lines[2], churn);
        assert_eq!(lines[3][..3], ["all", "147,456", "31,000"]);
    }

    #[test]
    fn wrong_page_fails_and_is_named() {
        let mut end = end();
        end.wrong_pages = 2;
        let wrong = Line::Wrong {
            page: 7,
            reason: "an older version".to_owned(),
        };
        let lines =
            [wrong, Line::End(end)].map(|line| serde_json::to_string(&line).expect("plain"));
        let failure = Log::of(&lines.join("\n")).failure(&PodState::Running);
        assert_eq!(
            failure.as_deref(),
            Some("2 of 98,304 checks found a wrong page; the first: page 7: an older version")
        );
    }

    #[test]
    fn nothing_swapped_or_nothing_checked_proves_nothing() {
        let dry = End {
            swap_ins: 0,
            ..end()
        };
        let failure = log(dry).failure(&PodState::Running).expect("failed");
        assert!(failure.contains("nothing is proven"), "{failure}");
        let aborted = End {
            pages_final: 0,
            ..end()
        };
        assert!(log(aborted).failure(&PodState::Running).is_some());
    }

    #[test]
    fn workload_that_died_says_of_what() {
        for (state, part) in [
            (ended(137, "OOMKilled"), "killed at its memory limit"),
            (ended(135, "Error"), "SIGBUS"),
            (
                ended(2, "Error"),
                "exit code 2 (Error); it said last: no memory",
            ),
            (PodState::Running, "did not come to its end"),
        ] {
            let failure = Log::of("no memory\n").failure(&state).expect("failed");
            assert!(failure.contains(part), "{failure}");
        }
    }

    #[test]
    fn end_of_an_older_workload_has_no_phases() {
        let said = r#"{"kind":"end","elapsed_ms":1,"ops":3,"pages_checked":2,"pages_final":1,
            "wrong_pages":0,"swap_ins":1,"p50_us":1,"p99_us":1,"max_us":1}"#;
        let log = Log::of(&said.replace('\n', ""));
        assert_eq!(log.failure(&PodState::Running), None);
        assert_eq!(log.latencies().lines().count(), 2);
    }

    #[test]
    fn progress_is_for_people() {
        let line = Line::Progress(Progress {
            phase: Some(Phase::Churn),
            ops_total: 1_500,
            ..Progress::default()
        });
        let line = serde_json::to_string(&line).expect("plain");
        let told = progress(&line);
        assert_eq!(
            told.as_deref(),
            Some("churn: 1,500 accesses, 0 checks, 0 wrong pages")
        );
        assert_eq!(progress("no line"), None);
    }
}
