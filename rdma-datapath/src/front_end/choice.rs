//! Which front end serves, and why: said in `check` and `status`, never silent.

use std::path::Path;

/// Name of the fuse-loop front end in reports.
pub const FUSE_LOOP: &str = "fuse-loop";
/// Exists where the kernel has ublk and its module is loaded.
const UBLK_CONTROL: &str = "/dev/ublk-control";

/// Why fuse-loop serves on this host.
#[must_use]
pub fn reason() -> String {
    reason_for(Path::new(UBLK_CONTROL).exists())
}

fn reason_for(has_ublk: bool) -> String {
    let ublk = if has_ublk {
        "this version does not drive ublk yet, though the kernel has it"
    } else {
        "the kernel has no ublk (no /dev/ublk-control)"
    };
    format!(
        "{ublk}; requests come over /dev/fuse and not over io_uring, so that none is lost with an engine"
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reason_says_what_the_host_has() {
        assert!(reason_for(false).contains("has no ublk"));
        assert!(reason_for(true).contains("does not drive ublk"));
    }
}
