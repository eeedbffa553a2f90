//! Which front end serves, and why: said in the report and so in `status`, never silent.

use std::fs;
use std::path::Path;
use std::sync::OnceLock;

/// Name of the fuse-loop front end in reports.
pub const FUSE_LOOP: &str = "fuse-loop";
/// Exists where the kernel has ublk and its module is loaded.
const UBLK_CONTROL: &str = "/dev/ublk-control";
/// Exists where the kernel can hand FUSE requests over by io_uring (Linux 6.14).
const FUSE_RING: &str = "/sys/module/fuse/parameters/enable_uring";

/// What the kernel says of FUSE over io_uring.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Ring {
    Absent,
    Off,
    On,
}

impl Ring {
    /// From the content of the module's parameter; none if there is no such file.
    fn of(parameter: Option<&str>) -> Self {
        match parameter.map(str::trim) {
            None => Self::Absent,
            Some("Y" | "y" | "1") => Self::On,
            Some(_) => Self::Off,
        }
    }

    const fn words(self) -> &'static str {
        match self {
            Self::Absent => "which this kernel does not have",
            Self::Off => "which this kernel has, switched off",
            Self::On => "which this kernel has, switched on",
        }
    }
}

/// Why fuse-loop serves on this host. The host is asked once.
#[must_use]
pub fn reason() -> &'static str {
    static REASON: OnceLock<String> = OnceLock::new();
    REASON.get_or_init(|| {
        let parameter = fs::read_to_string(FUSE_RING).ok();
        let ring = Ring::of(parameter.as_deref());
        reason_for(Path::new(UBLK_CONTROL).exists(), ring)
    })
}

fn reason_for(has_ublk: bool, ring: Ring) -> String {
    let ublk = if has_ublk {
        "this version does not drive ublk, which the kernel has"
    } else {
        "the kernel has no ublk"
    };
    // docs/adr/0005 has the comparison.
    let ring = ring.words();
    format!("{ublk}; FUSE over io_uring, {ring}, would lose a killed engine's requests")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ring_is_told_by_the_parameter() {
        assert_eq!(Ring::of(None), Ring::Absent);
        assert_eq!(Ring::of(Some("N\n")), Ring::Off);
        assert_eq!(Ring::of(Some("Y\n")), Ring::On);
        assert_eq!(Ring::of(Some("")), Ring::Off);
    }

    #[test]
    fn reason_says_what_the_host_has() {
        assert!(reason_for(false, Ring::Absent).starts_with("the kernel has no ublk;"));
        assert!(reason_for(true, Ring::Absent).contains("does not drive ublk"));
        assert!(reason_for(false, Ring::Absent).contains("this kernel does not have"));
        assert!(reason_for(false, Ring::Off).contains("this kernel has, switched off"));
        assert!(reason_for(false, Ring::On).contains("this kernel has, switched on"));
        assert!(!reason().is_empty());
    }
}
