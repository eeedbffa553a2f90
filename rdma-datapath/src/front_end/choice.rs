//! Which front end serves, and why: said in the log, the report and so in `status`, never silent.

use std::fs;
use std::path::PathBuf;

use clap::ValueEnum;

use super::ublk;
use super::ublk::device::Features;

/// Exists where the kernel can hand FUSE requests over by io_uring (Linux 6.14).
const FUSE_RING: &str = "/sys/module/fuse/parameters/enable_uring";

/// A front end, and with it a kind of block device.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum FrontEndKind {
    /// A one-file FUSE mount under a loop device.
    FuseLoop,
    /// A ublk device.
    Ublk,
}

impl FrontEndKind {
    /// Its name in options and reports.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::FuseLoop => "fuse-loop",
            Self::Ublk => "ublk",
        }
    }

    const fn prefix(self) -> &'static str {
        match self {
            Self::FuseLoop => "/dev/loop",
            Self::Ublk => "/dev/ublkb",
        }
    }

    /// Path of a block device.
    #[must_use]
    pub fn path(self, number: u32) -> PathBuf {
        PathBuf::from(format!("{}{number}", self.prefix()))
    }

    /// The number in such a path.
    #[must_use]
    pub fn number(self, path: &std::path::Path) -> Option<u32> {
        path.to_str()?.strip_prefix(self.prefix())?.parse().ok()
    }
}

/// What the command line wishes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Wish {
    /// ublk where the host has all that it needs, and fuse-loop elsewhere.
    Auto,
    /// ublk or nothing.
    Ublk,
    /// A FUSE mount under a loop device.
    FuseLoop,
}

/// What serves, and why.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Choice {
    /// The front end.
    pub kind: FrontEndKind,
    /// Why.
    pub reason: String,
}

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
            Self::Off => "which this kernel has but which is switched off",
            Self::On => "which this kernel has and which is switched on",
        }
    }
}

/// Why a device with a spill file is served by fuse-loop.
const SPILL: &str =
    "a ublk device with a spill file could not be taken up again after its holder's death";

/// Asks the host and chooses. A device with a spill file is not given to ublk unasked: the file is
/// gone with holder and engine, so that nobody could take the device up again, and a ublk device
/// that nobody serves keeps its users waiting without a limit.
///
/// # Errors
/// One sentence, if ublk is wished and impossible.
pub fn choose(wish: Wish, has_spill: bool) -> Result<Choice, String> {
    let parameter = fs::read_to_string(FUSE_RING).ok();
    let probed = match wish {
        Wish::Auto if has_spill => Err(SPILL.to_owned()),
        Wish::Auto | Wish::Ublk | Wish::FuseLoop => ublk::device::probe(),
    };
    decide(wish, probed, Ring::of(parameter.as_deref()))
}

fn decide(wish: Wish, probed: Result<Features, String>, ring: Ring) -> Result<Choice, String> {
    let (kind, reason) = match (wish, probed) {
        (Wish::Auto, Ok(_)) => {
            let reason = "the kernel's ublk can hand a killed engine's requests to the next one";
            (FrontEndKind::Ublk, reason.to_owned())
        }
        (Wish::Ublk, Ok(_)) => (FrontEndKind::Ublk, "chosen by --front-end".to_owned()),
        (Wish::Ublk, Err(lack)) => {
            return Err(format!(
                "--front-end ublk is impossible on this host: {lack}; choose --front-end auto or fuse-loop"
            ));
        }
        // docs/adr/0005 has the comparison with FUSE over io_uring.
        (Wish::Auto, Err(lack)) => (
            FrontEndKind::FuseLoop,
            format!(
                "{lack}; FUSE over io_uring, {}, would lose a killed engine's requests",
                ring.words()
            ),
        ),
        (Wish::FuseLoop, _) => (FrontEndKind::FuseLoop, "chosen by --front-end".to_owned()),
    };
    Ok(Choice { kind, reason })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::path::Path;

    const FEATURES: Features = Features {
        quiesce: false,
        safe_stop: false,
    };

    fn lack() -> Result<Features, String> {
        Err("the kernel has no ublk".to_owned())
    }

    #[test]
    fn device_with_a_spill_file_is_not_given_to_ublk_unasked() {
        let choice = choose(Wish::Auto, true).expect("a choice");
        assert_eq!(choice.kind, FrontEndKind::FuseLoop);
        assert!(choice.reason.starts_with(SPILL), "{}", choice.reason);
    }

    #[test]
    fn ring_is_told_by_the_parameter() {
        assert_eq!(Ring::of(None), Ring::Absent);
        assert_eq!(Ring::of(Some("N\n")), Ring::Off);
        assert_eq!(Ring::of(Some("Y\n")), Ring::On);
        assert_eq!(Ring::of(Some("")), Ring::Off);
    }

    #[test]
    fn auto_takes_ublk_where_it_can_and_says_why_where_it_cannot() {
        let able = decide(Wish::Auto, Ok(FEATURES), Ring::Off).expect("a choice");
        assert_eq!(able.kind, FrontEndKind::Ublk);
        let unable = decide(Wish::Auto, lack(), Ring::Off).expect("a choice");
        assert_eq!(unable.kind, FrontEndKind::FuseLoop);
        assert!(unable.reason.starts_with("the kernel has no ublk;"));
        assert!(unable.reason.contains("is switched off"));
        for (ring, words) in [(Ring::Absent, "does not have"), (Ring::On, "switched on")] {
            let choice = decide(Wish::Auto, lack(), ring).expect("a choice");
            assert!(choice.reason.contains(words), "{}", choice.reason);
        }
    }

    #[test]
    fn ublk_by_name_is_never_replaced_by_another() {
        let able = decide(Wish::Ublk, Ok(FEATURES), Ring::Absent).expect("a choice");
        assert_eq!(able.kind, FrontEndKind::Ublk);
        let sentence = decide(Wish::Ublk, lack(), Ring::Absent).expect_err("impossible");
        assert!(
            sentence.contains("--front-end ublk is impossible"),
            "{sentence}"
        );
        assert!(sentence.contains("the kernel has no ublk"), "{sentence}");
    }

    #[test]
    fn fuse_loop_by_name_serves_where_ublk_could() {
        let choice = decide(Wish::FuseLoop, Ok(FEATURES), Ring::Absent).expect("a choice");
        assert_eq!(choice.kind, FrontEndKind::FuseLoop);
    }

    #[test]
    fn number_of_a_device_is_in_its_path() {
        for kind in [FrontEndKind::FuseLoop, FrontEndKind::Ublk] {
            assert_eq!(kind.number(&kind.path(12)), Some(12));
        }
        assert_eq!(FrontEndKind::FuseLoop.number(Path::new("/dev/sda1")), None);
        assert_eq!(FrontEndKind::Ublk.number(Path::new("/dev/loop1")), None);
    }
}
