//! What a workload prints: one JSON object a line, each with its `kind`.
//!
//! Owns the vocabulary between a workload and whoever started it. Must not do I/O.

use serde::{Deserialize, Serialize};

/// A stretch of a workload's life.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Phase {
    /// Writes everything once.
    Fill,
    /// Random reads and rewrites, each checked.
    Churn,
    /// Reads and checks everything.
    Check,
}

impl Phase {
    /// The word for people.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Fill => "fill",
            Self::Churn => "churn",
            Self::Check => "check",
        }
    }
}

/// One line of a workload's output.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum Line {
    /// First line.
    Start {
        /// "verify" or "redis".
        workload: String,
        /// Pages or, for redis, keys.
        pages: u64,
        /// Size of what is verified.
        bytes: u64,
        /// Process that owns the memory.
        pid: u32,
    },
    /// A phase begins.
    Phase {
        /// Which.
        phase: Phase,
    },
    /// What happened since the last such line, and so far.
    Progress(Progress),
    /// A page is not what was written last; at most [`WRONG_LINES_MAX`] of these.
    Wrong {
        /// The page or key.
        page: u64,
        /// What is wrong with it.
        reason: String,
    },
    /// A pass over everything is complete that the command `check` asked for.
    Checked {
        /// Which, from 1.
        pass: u32,
        /// Pages that it checked.
        pages: u64,
    },
    /// A digest of the whole data set (redis).
    Digest {
        /// "before" or "after".
        when: String,
        /// The digest, in hexadecimal.
        digest: String,
        /// Keys that it covers.
        keys: u64,
    },
    /// Last line.
    End(End),
}

/// A run with more wrong pages than this prints no more of them; they are still counted.
pub const WRONG_LINES_MAX: u64 = 20;

/// Progress since the last line, and totals.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Progress {
    /// Current phase.
    pub phase: Option<Phase>,
    /// Milliseconds since the workload began.
    pub elapsed_ms: u64,
    /// Milliseconds that this line covers.
    pub interval_ms: u64,
    /// Operations in the interval.
    pub ops: u64,
    /// Operations a second in the interval.
    pub ops_per_second: f64,
    /// Bytes touched in the interval, in MB (10^6) a second.
    pub mb_per_second: f64,
    /// Accesses in the interval that waited for the swap device.
    pub swap_ins: u64,
    /// Latency of those accesses: median.
    pub p50_us: u64,
    /// Latency of those accesses: 99th percentile.
    pub p99_us: u64,
    /// Latency of those accesses: longest.
    pub max_us: u64,
    /// Longest time, in microseconds, that an access under way now has lasted.
    pub waiting_us: u64,
    /// Operations so far.
    pub ops_total: u64,
    /// Pages checked so far, each check counted.
    pub pages_checked: u64,
    /// Checks that failed so far.
    pub wrong_pages: u64,
}

/// The result.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct End {
    /// Milliseconds from start to end.
    pub elapsed_ms: u64,
    /// Operations.
    pub ops: u64,
    /// Pages checked, each check counted.
    pub pages_checked: u64,
    /// Distinct pages checked in the last pass over everything.
    pub pages_final: u64,
    /// Checks that failed.
    pub wrong_pages: u64,
    /// Accesses that waited for the swap device.
    pub swap_ins: u64,
    /// Their latency: median.
    pub p50_us: u64,
    /// Their latency: 99th percentile.
    pub p99_us: u64,
    /// Their latency: longest.
    pub max_us: u64,
    /// The same for each phase that there was, in the order of their first lines. What happens between
    /// two progress lines counts for the phase at the second.
    #[serde(default)]
    pub phases: Vec<PhaseEnd>,
}

/// What came of one phase.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PhaseEnd {
    /// Which.
    pub phase: Phase,
    /// Operations.
    pub ops: u64,
    /// Accesses that waited for the swap device.
    pub swap_ins: u64,
    /// Their latency: median.
    pub p50_us: u64,
    /// Their latency: 99th percentile.
    pub p99_us: u64,
    /// Their latency: longest.
    pub max_us: u64,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn line_is_an_object_with_its_kind() {
        let text = serde_json::to_string(&Line::Phase {
            phase: Phase::Churn,
        });
        assert_eq!(text.expect("plain"), r#"{"kind":"phase","phase":"churn"}"#);
        let progress = Line::Progress(Progress {
            phase: Some(Phase::Fill),
            ops: 3,
            ..Progress::default()
        });
        let text = serde_json::to_string(&progress).expect("plain");
        assert!(text.starts_with(r#"{"kind":"progress","phase":"fill","#));
        assert_eq!(serde_json::from_str::<Line>(&text).expect("own"), progress);
    }
}
