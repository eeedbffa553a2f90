//! Why so much of a container goes out, or nothing: figures as values, told in words.

use std::fmt;
use std::time::Duration;

use dynamicswap_types::Bytes;

use super::{Offload, OffloadDeed};
use crate::allow::Device;
use crate::explain::{Amount, Explain, Explanation, Span};
use crate::share::Share;

/// What makes the floor of a container.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum FloorBy {
    /// `memory.min`.
    Min,
    /// `memory.low`.
    Low,
    /// The estimate of its working set.
    WorkingSet,
    /// The smallest size that is probed.
    Size,
}

impl FloorBy {
    const fn word(self) -> &'static str {
        match self {
            Self::Min => "memory.min",
            Self::Low => "memory.low",
            Self::WorkingSet => "its working set",
            Self::Size => "the smallest size probed",
        }
    }
}

/// The figures of a probe.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ProbeFigures {
    /// In RAM.
    pub current: Bytes,
    /// Since the last probe.
    pub elapsed: Duration,
    /// Share of time in which some task waited: the worst of the growth since the last probe,
    /// of 10 s and of 60 s.
    pub pressure: Share,
    /// What the pressure leaves of the ratio.
    pub by_pressure: Share,
    /// What the device's latency leaves of it.
    pub by_device: Share,
    /// Share of what was last taken that stayed out.
    pub accuracy: Share,
    /// What the scan's efficiency leaves of it.
    pub by_efficiency: Share,
}

/// Why.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OffloadReason {
    /// The policy is paused.
    Paused,
    /// Its pages are coming home.
    Returning,
    /// Its limit lets nothing more out.
    NotAllowed,
    /// The node has no device that may take pages, or it is not known.
    Device(Device),
    /// The breaker is open.
    BreakerOpen,
    /// The breaker is half open, which lets no probe out.
    BreakerTrial,
    /// The pool has no more than this free.
    PoolFull {
        /// Free.
        free: Bytes,
        /// What must stay free for this rule.
        reserve: Bytes,
    },
    /// It is near its limit.
    Ahead {
        /// In RAM, without what the kernel can drop.
        used: Bytes,
        /// Its limit.
        limit: Bytes,
        /// The room that it keeps.
        room: Bytes,
    },
    /// The node is short and asks this of it.
    NodeShort {
        /// How much.
        asked: Bytes,
    },
    /// The host does not say its pressure.
    PressureUnknown,
    /// Its pages came home a moment ago.
    JustReturned {
        /// How long ago.
        since: Duration,
        /// How long it is left alone.
        hold: Duration,
    },
    /// The next probe is not due, or would be less than the kernel takes at once.
    NotDue {
        /// Since the last one.
        elapsed: Duration,
        /// Between two.
        interval: Duration,
    },
    /// It waits for memory too often.
    Pressed {
        /// Share of time.
        pressure: Share,
        /// From which on it is not probed.
        max: Share,
    },
    /// It has no more than its floor.
    AtFloor {
        /// In RAM.
        current: Bytes,
        /// The floor.
        floor: Bytes,
        /// What makes it.
        by: FloorBy,
    },
    /// Too much of what was taken came back.
    Inaccurate {
        /// Share that stayed out.
        accuracy: Share,
        /// The least.
        min: Share,
    },
    /// The device is too slow.
    DeviceSlow {
        /// 99th percentile of a swap-in now.
        p99: Duration,
        /// The same when the device is calm.
        reference: Duration,
        /// The multiple of it from which on nothing is sent.
        multiple_max: u32,
    },
    /// The node sends enough already.
    WriteRate {
        /// Bytes per second.
        per_s: Bytes,
        /// The most.
        max: Bytes,
    },
    /// It has nothing that could go.
    Nothing,
    /// It is probed.
    Probe(ProbeFigures),
}

impl OffloadReason {
    /// The figures in words.
    fn figures(&self) -> String {
        match self {
            Self::Paused => "its policy is paused".to_owned(),
            Self::Returning => "its pages are coming home".to_owned(),
            Self::NotAllowed => "its swap limit lets nothing more out".to_owned(),
            Self::Device(Device::Unknown) => "swapd does not say how its device is".to_owned(),
            Self::Device(_) => "the node's swap device takes no pages".to_owned(),
            Self::BreakerOpen => "the breaker is open".to_owned(),
            Self::BreakerTrial => "the breaker is half open".to_owned(),
            Self::PoolFull { free, reserve } => format!(
                "the pool has {} free, {} of it reserved",
                Amount(*free),
                Amount(*reserve)
            ),
            Self::Ahead { used, limit, room } => format!(
                "{} of {} in use, {} shall be free",
                Amount(*used),
                Amount(*limit),
                Amount(*room)
            ),
            Self::NodeShort { asked } => {
                format!("the node is short, its share is {}", Amount(*asked))
            }
            Self::PressureUnknown => "the host does not say its pressure".to_owned(),
            Self::JustReturned { since, hold } => format!(
                "its pages came home {} ago, it is left alone for {}",
                Span(*since),
                Span(*hold)
            ),
            Self::NotDue { elapsed, interval } => format!(
                "last probed {} ago, one is due every {}",
                Span(*elapsed),
                Span(*interval)
            ),
            Self::Pressed { pressure, max } => {
                format!("some waits {pressure} of the time, the most is {max}")
            }
            Self::AtFloor { current, floor, by } => format!(
                "{} in RAM, {} makes {} its floor",
                Amount(*current),
                by.word(),
                Amount(*floor)
            ),
            Self::Inaccurate { accuracy, min } => {
                format!("{accuracy} of what was taken stayed out, the least is {min}")
            }
            Self::DeviceSlow {
                p99,
                reference,
                multiple_max,
            } => format!(
                "swap-in p99 is {}, over {multiple_max} times its calm {}",
                Span(*p99),
                Span(*reference)
            ),
            Self::WriteRate { per_s, max } => format!(
                "the node swaps out {}/s, the most is {}/s",
                Amount(*per_s),
                Amount(*max)
            ),
            Self::Nothing => "it has nothing that could go".to_owned(),
            Self::Probe(figures) => figures.to_string(),
        }
    }

    /// The rule's name and content.
    const fn rule(&self) -> &'static str {
        match self {
            Self::Paused | Self::NotAllowed => "policy: only what it allows goes out",
            Self::Returning | Self::JustReturned { .. } => "return: what comes home is left there",
            Self::Device(_) => "device: pages go only to one that is attached",
            Self::BreakerOpen | Self::BreakerTrial => "breaker: nothing goes out while it thrashes",
            Self::PoolFull { .. } => "pool: its reserve is for those who reach their limit",
            Self::Ahead { .. } => {
                "ahead: room is kept below the limit, since the kernel kills there"
            }
            Self::NodeShort { .. } => "ahead: room is kept on the node",
            Self::PressureUnknown | Self::NotDue { .. } | Self::Nothing | Self::Probe(_) => {
                "probe: a small share of a container that does not wait"
            }
            Self::Pressed { .. } => "pressure: who waits is not probed",
            Self::AtFloor { .. } => "floor: nothing goes below it",
            Self::Inaccurate { .. } => "refaults: what comes back at once is not sent again",
            Self::DeviceSlow { .. } => "device: the slower it is, the less goes to it",
            Self::WriteRate { .. } => "write rate: probing yields to what must go out",
        }
    }

    /// What would change the decision.
    const fn change(&self) -> &'static str {
        match self {
            Self::Paused => "resume the policy",
            Self::Returning => "it ends when they are home, or room or calm ends",
            Self::NotAllowed => "a policy that allots it more",
            Self::Device(_) => "an attached device",
            Self::BreakerOpen | Self::BreakerTrial => "it closes by itself when it is calm",
            Self::PoolFull { .. } => "more donors, or pages that come home",
            Self::Ahead { .. } => "a higher limit, or less use",
            Self::NodeShort { .. } => "memory that becomes free on the node",
            Self::PressureUnknown => "a kernel with PSI on (boot with psi=1)",
            Self::JustReturned { .. } | Self::NotDue { .. } => "time",
            Self::Pressed { .. } => "a quiet minute",
            Self::AtFloor { .. } => "a lower floor, or more use",
            Self::Inaccurate { .. } => "the next probe looks again",
            Self::DeviceSlow { .. } => "a faster or less loaded donor",
            Self::WriteRate { .. } => "less swap-out on the node, or a higher rate in the policy",
            Self::Nothing => "pages that can be swapped or dropped",
            Self::Probe(_) => "more pressure, latency or refaults make it less",
        }
    }
}

impl fmt::Display for ProbeFigures {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{} in RAM, some {}, factors: pressure {}, device {}, accuracy {}, scan {}",
            Amount(self.current),
            self.pressure,
            self.by_pressure,
            self.by_device,
            self.accuracy,
            self.by_efficiency
        )
    }
}

impl Explain for Offload {
    fn explain(&self) -> Explanation {
        let decided = match self.deed {
            OffloadDeed::Hold => "nothing goes out".to_owned(),
            OffloadDeed::Reclaim(bytes) => format!("reclaim {}", Amount(bytes)),
            OffloadDeed::WouldReclaim(bytes) => {
                format!("a dry run: it would reclaim {}", Amount(bytes))
            }
        };
        Explanation {
            decided,
            figures: self.reason.figures(),
            rule: self.reason.rule(),
            change: self.reason.change().to_owned(),
        }
    }
}

impl fmt::Display for Offload {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.explain().fmt(f)
    }
}
