//! What a decision tells people: what was decided, from which figures, by which rule, and what
//! would change it. Owns the form; each law owns its words.

use std::fmt;
use std::time::Duration;

use dynamicswap_types::Bytes;

/// Most characters that a part of an explanation has: a line of a terminal with its label.
pub const PART_CHARS_MAX: usize = 120;

/// A decision told in four parts, each of one line.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Explanation {
    /// What was decided.
    pub decided: String,
    /// The figures that it was decided from.
    pub figures: String,
    /// The rule that decided.
    pub rule: &'static str,
    /// What would change it.
    pub change: String,
}

impl fmt::Display for Explanation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            decided,
            figures,
            rule,
            change,
        } = self;
        write!(f, "{decided}: {figures} ({rule}; {change})")
    }
}

/// A decision that can tell its reason.
pub trait Explain {
    /// Tells it.
    fn explain(&self) -> Explanation;
}

/// Bytes for people, in the unit that leaves the fewest digits.
pub(crate) struct Amount(pub Bytes);

impl fmt::Display for Amount {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mib = self.0.as_mib_f64();
        if mib >= 1024.0 {
            write!(f, "{:.1} GiB", mib / 1024.0)
        } else if mib >= 1.0 {
            write!(f, "{mib:.1} MiB")
        } else {
            write!(f, "{:.0} KiB", mib * 1024.0)
        }
    }
}

/// A time for people.
pub(crate) struct Span(pub Duration);

impl fmt::Display for Span {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let micros = self.0.as_micros();
        match micros {
            0..10_000 => write!(f, "{micros} us"),
            10_000..10_000_000 => write!(f, "{} ms", micros / 1_000),
            _ => write!(f, "{} s", micros / 1_000_000),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn amounts_and_times_are_short() {
        let amount = |bytes| Amount(Bytes::new(bytes)).to_string();
        assert_eq!(amount(4096), "4 KiB");
        assert_eq!(amount(3 << 19), "1.5 MiB");
        assert_eq!(amount(3 << 29), "1.5 GiB");
        let span = |micros| Span(Duration::from_micros(micros)).to_string();
        assert_eq!(span(9_999), "9999 us");
        assert_eq!(span(20_000), "20 ms");
        assert_eq!(span(90_000_000), "90 s");
    }
}
