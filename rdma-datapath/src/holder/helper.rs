//! The attach and detach helpers: how they run, and how they tell the holder what became of it.

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use super::options::Helper;
use crate::device::{self, AttachPlan};

/// What a helper says on its standard output, in one line.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    /// Attached: the block device.
    Attached(PathBuf),
    /// Detached.
    Detached,
    /// It did not work: the sentence.
    Failed(String),
}

impl Outcome {
    fn to_line(&self) -> String {
        match self {
            Self::Attached(path) => format!("attached {}", path.display()),
            Self::Detached => "detached".to_owned(),
            Self::Failed(sentence) => format!("failed {}", sentence.replace('\n', " ")),
        }
    }

    /// Reads the line; anything else means that the helper died.
    #[must_use]
    pub fn from_output(output: &str) -> Option<Self> {
        let line = output.lines().next()?;
        match line.split_once(' ') {
            Some(("attached", path)) => Some(Self::Attached(PathBuf::from(path))),
            Some(("failed", sentence)) => Some(Self::Failed(sentence.to_owned())),
            None if line == "detached" => Some(Self::Detached),
            _ => None,
        }
    }
}

/// Does a helper's work and says what became of it.
#[must_use]
pub fn run(helper: Helper) -> ExitCode {
    let result = match helper {
        Helper::Attach(options) => device::attach(&AttachPlan {
            backing: options.backing,
            size: options.size,
            priority: options.priority,
            uuid: options.id.to_bytes(),
        })
        .map(Outcome::Attached),
        Helper::Detach(options) => {
            device::detach(&options.device, &options.backing).map(|()| Outcome::Detached)
        }
    };
    let outcome = result.unwrap_or_else(|error| Outcome::Failed(sentence(&error)));
    println!("{}", outcome.to_line());
    match outcome {
        Outcome::Failed(_) => ExitCode::FAILURE,
        _ => ExitCode::SUCCESS,
    }
}

/// The error with its causes, in one sentence.
fn sentence(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        text = format!("{text} ({cause})");
        source = cause.source();
    }
    text
}

/// The number of `/dev/loopN`.
#[must_use]
pub fn loop_number(device: &Path) -> Option<u32> {
    let name = device.strip_prefix("/dev").ok()?.to_str()?;
    name.strip_prefix("loop")?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn holder_reads_what_the_helper_says() {
        for outcome in [
            Outcome::Attached(PathBuf::from("/dev/loop3")),
            Outcome::Detached,
            Outcome::Failed("turning on swap on /dev/loop3 failed".to_owned()),
        ] {
            assert_eq!(Outcome::from_output(&outcome.to_line()), Some(outcome));
        }
        assert_eq!(Outcome::from_output(""), None);
        assert_eq!(Outcome::from_output("attac"), None);
    }

    #[test]
    fn loop_device_s_number_is_in_its_name() {
        assert_eq!(loop_number(Path::new("/dev/loop12")), Some(12));
        assert_eq!(loop_number(Path::new("/dev/sda1")), None);
    }
}
