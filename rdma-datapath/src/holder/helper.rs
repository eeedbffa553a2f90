//! The attach and detach helpers: how they run, and how they tell the holder what became of it.

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use dynamicswap_types::Bytes;

use super::front;
use super::options::{AttachOptions, Helper};
use crate::device::{self, AttachPlan, Target};
use crate::front_end::ublk::device::{self as ublk, UblkDevice};

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
    let outcome = match helper {
        Helper::Attach(options) => attach(options),
        Helper::Detach(options) => {
            let detached = device::detach(&options.device, options.backing.as_deref());
            outcome(detached.map(|()| Outcome::Detached))
        }
        Helper::Abort(options) => abort(&options.state_dir),
    };
    println!("{}", outcome.to_line());
    match outcome {
        Outcome::Failed(_) => ExitCode::FAILURE,
        _ => ExitCode::SUCCESS,
    }
}

fn attach(options: AttachOptions) -> Outcome {
    let target = match (options.backing, options.device) {
        (Some(backing), _) => Target::LoopOver(backing),
        (None, device) => Target::Ublk(device.unwrap_or_default()),
    };
    let attached = device::attach(&AttachPlan {
        target,
        size: options.size,
        priority: options.priority,
        uuid: options.id.to_bytes(),
    });
    outcome(attached.map(Outcome::Attached))
}

/// Ends every request of a state directory's ublk device with an error, and turns its swap off.
fn abort(state: &Path) -> Outcome {
    // The directory may be gone, and the device there all the same.
    let state = std::fs::canonicalize(state).unwrap_or_else(|_| state.to_owned());
    let mut device = match UblkDevice::find(&state, Bytes::ZERO) {
        Ok(Some(device)) => device,
        Ok(None) => {
            let state = state.display();
            return Outcome::Failed(format!("no ublk device belongs to {state}"));
        }
        Err(error) => return Outcome::Failed(sentence(&error)),
    };
    let path = ublk::path(device.number());
    match device::give_up(&path, || device.abort()) {
        Ok(Ok(())) => {
            front::forget(device.number());
            outcome(device.remove().map(|()| Outcome::Detached))
        }
        Ok(Err(error)) => Outcome::Failed(sentence(&error)),
        Err(error) => Outcome::Failed(sentence(&error)),
    }
}

fn outcome<E: std::error::Error>(result: Result<Outcome, E>) -> Outcome {
    result.unwrap_or_else(|error| Outcome::Failed(sentence(&error)))
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
}
