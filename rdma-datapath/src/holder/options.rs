//! The holder's command line, and the checks that its values pass before anything is touched.

use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, Parser, Subcommand, ValueEnum};
use dynamicswap_engine::limits::DEVICE_PAGES_MAX;
use dynamicswap_proto::frame::DEVICE_SLABS_MAX;
use dynamicswap_types::{Bytes, Integrity, NodeName, PAGE_SIZE, SlabSize};

use super::supervisor::Limits;
use crate::daemon::options::{BadInput, parse_slab_size};
use crate::device::Priority;
use crate::front_end::choice::Wish;

/// Swap device whose pages lie in other nodes' memory.
///
/// Holds the device and starts, watches and replaces the engine process that serves it.
#[derive(Debug, Parser)]
#[command(
    name = "dynamicswap-swapd",
    version,
    args_conflicts_with_subcommands = true,
    subcommand_negates_reqs = true
)]
pub struct CommandLine {
    /// How the holder runs.
    #[command(flatten)]
    pub holder: Option<Options>,
    /// Work for a short-lived process.
    #[command(subcommand)]
    pub helper: Option<Helper>,
}

/// Work that may wait for the device, and so belongs to a process of its own.
#[derive(Debug, Clone, Subcommand)]
pub enum Helper {
    /// Makes the block device, tests it and turns swap on.
    #[command(hide = true)]
    Attach(AttachOptions),
    /// Turns swap off and takes the block device away.
    #[command(hide = true)]
    Detach(DetachOptions),
    /// Last resort, for a ublk device that nobody serves: every request ends with an error, swap is
    /// turned off, the device is removed. Processes whose pages it holds are killed when they touch
    /// them.
    Abort(AbortOptions),
}

/// Options of the attach helper.
#[derive(Debug, Clone, Args)]
pub struct AttachOptions {
    /// File to make a block device of.
    #[arg(long, required_unless_present = "device", conflicts_with = "device")]
    pub backing: Option<PathBuf>,
    /// The ublk device.
    #[arg(long)]
    pub device: Option<PathBuf>,
    /// Its size.
    #[arg(long)]
    pub size: Bytes,
    /// Id of the swap area, 32 hexadecimal digits.
    #[arg(long)]
    pub id: dynamicswap_types::SwapDeviceId,
    /// Priority among swap devices.
    #[arg(long, value_parser = parse_priority)]
    pub priority: Option<Priority>,
}

/// Options of the detach helper.
#[derive(Debug, Clone, Args)]
pub struct DetachOptions {
    /// The block device.
    #[arg(long)]
    pub device: PathBuf,
    /// The file under it, of a loop device.
    #[arg(long)]
    pub backing: Option<PathBuf>,
}

/// Options of the abort command.
#[derive(Debug, Clone, Args)]
pub struct AbortOptions {
    /// The state directory of the swapd that made the device.
    #[arg(long)]
    pub state_dir: PathBuf,
}

/// What to do when no engine serves the device.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum WhenUnserved {
    /// Keep the swapping processes waiting.
    Wait,
    /// Abort the device: processes whose pages it holds are killed when they touch them.
    Abort,
}

/// Where page contents go.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Backend {
    /// To the memory servers of the document.
    Remote,
    /// To memory of this machine: a floor to measure against, and a test without a cluster.
    Local,
}

/// Options of the holder.
#[derive(Debug, Clone, Args)]
pub struct Options {
    /// Name of this node.
    #[arg(long)]
    pub node: NodeName,
    /// Directory for the memory file and the device's mount.
    #[arg(long)]
    pub state_dir: PathBuf,
    /// Size of the swap device, such as 2Gi.
    #[arg(long)]
    pub size: Bytes,
    /// Size of a slab, a power of two from 1Mi to 1Gi.
    #[arg(long, value_parser = parse_slab_size, default_value_t = SlabSize::DEFAULT)]
    pub slab: SlabSize,
    /// Unix socket for the agent.
    #[arg(long)]
    pub control_socket: PathBuf,
    /// File for pages that go to the disk; made with the device's size, and unlinked at once.
    #[arg(long)]
    pub spill_file: Option<PathBuf>,
    /// The engine's program; by default the one beside this.
    #[arg(long)]
    pub engine: Option<PathBuf>,
    /// How the kernel hands over the device's requests.
    #[arg(long, value_enum, default_value = "auto")]
    pub front_end: Wish,
    /// Priority among swap devices, 0 to 32767; by default below all others.
    #[arg(long, value_parser = parse_priority)]
    pub priority: Option<Priority>,
    /// What to do when no engine serves the device.
    #[arg(long, value_enum, default_value = "wait")]
    pub when_unserved: WhenUnserved,
    /// After how many milliseconds without an engine to do it.
    #[arg(long, default_value_t = 30_000, value_parser = clap::value_parser!(u64).range(1..))]
    pub unserved_timeout_ms: u64,
    /// After how many silent milliseconds an engine counts as hung and is replaced.
    #[arg(long, default_value_t = 1_500, value_parser = clap::value_parser!(u64).range(200..=60_000))]
    pub heartbeat_timeout_ms: u64,
    /// Where page contents go.
    #[arg(long, value_enum, default_value = "remote")]
    pub backend: Backend,
    /// What protects page contents outside this node: full (AES-256-GCM under a key of the device's
    /// own, 24 bytes of memory a page), tag64 (the same with its tag cut to 64 bits, 16 bytes a
    /// page) or none (a checksum: whoever sees the memory or the network can read the pages).
    #[arg(long, default_value_t)]
    pub integrity: Integrity,
    /// Microseconds that the engine spins before it sleeps.
    #[arg(long, default_value_t = 50, value_parser = clap::value_parser!(u32).range(..=10_000))]
    pub spin_us: u32,
}

impl Options {
    /// Checks what clap cannot.
    ///
    /// # Errors
    /// One sentence about the first wrong value.
    pub fn validate(&self) -> Result<(), BadInput> {
        let size = self.size;
        let wrong = if size < self.slab.bytes() {
            format!("it is smaller than one slab, {}", self.slab)
        } else if !size.get().is_multiple_of(PAGE_SIZE.get()) {
            "it is no whole number of 4Ki pages".to_owned()
        } else if size.get() / PAGE_SIZE.get() > DEVICE_PAGES_MAX {
            let most = Bytes::new(DEVICE_PAGES_MAX * PAGE_SIZE.get());
            format!("it is larger than the largest device, {most}")
        } else if self.slab.slabs_for(size) > DEVICE_SLABS_MAX {
            return Err(BadInput::new(self.too_many_slabs()));
        } else {
            return Ok(());
        };
        Err(BadInput::new(format!(
            "--size {size} is impossible: {wrong}; choose another size"
        )))
    }

    /// The controller could never describe such a device in one message.
    fn too_many_slabs(&self) -> String {
        let Self { size, slab, .. } = self;
        let fits = size.get().div_ceil(DEVICE_SLABS_MAX).next_power_of_two();
        format!(
            "--size {size} in slabs of {slab} is impossible: it makes {} slabs, and {DEVICE_SLABS_MAX} is the most; choose --slab {} or more, or a smaller size",
            slab.slabs_for(*size),
            Bytes::new(fits)
        )
    }

    /// Limits of the watch over the engine.
    #[must_use]
    pub fn limits(&self) -> Limits {
        Limits {
            heartbeat_timeout: Duration::from_millis(self.heartbeat_timeout_ms),
            unserved_timeout: match self.when_unserved {
                WhenUnserved::Wait => None,
                WhenUnserved::Abort => Some(Duration::from_millis(self.unserved_timeout_ms)),
            },
        }
    }
}

fn parse_priority(text: &str) -> Result<Priority, String> {
    text.parse().ok().and_then(Priority::new).ok_or_else(|| {
        format!(
            "'{text}' is no priority: choose a number from 0 to {}",
            Priority::MAX
        )
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(more: &[&str]) -> Result<CommandLine, clap::Error> {
        let base = [
            "swapd",
            "--node",
            "n",
            "--state-dir",
            "/s",
            "--control-socket",
            "/c",
        ];
        CommandLine::try_parse_from(base.iter().chain(more))
    }

    fn options(more: &[&str]) -> Options {
        parse(more).expect("valid").holder.expect("the holder's")
    }

    #[test]
    fn impossible_sizes_are_refused_with_the_size() {
        for size in ["0", "63Mi", "134217729", "2Ti"] {
            let error = options(&["--size", size]).validate().expect_err(size);
            assert!(error.to_string().contains("--size"), "{error}");
        }
        assert!(options(&["--size", "1Ti"]).validate().is_ok());
        assert!(parse(&["--size", "much"]).is_err());
        assert!(parse(&[]).is_err(), "a size is needed");
    }

    #[test]
    fn device_of_too_many_slabs_is_refused_with_the_slab_that_would_do() {
        let error = options(&["--size", "1Ti", "--slab", "1Mi"]).validate();
        let text = error.expect_err("a million slabs").to_string();
        assert!(text.contains("1048576 slabs"), "{text}");
        assert!(text.contains("--slab 64Mi or more"), "{text}");
        assert!(
            options(&["--size", "16Gi", "--slab", "1Mi"])
                .validate()
                .is_ok()
        );
        let one_page_more = ["--size", "17179873280", "--slab", "1Mi"];
        assert!(options(&one_page_more).validate().is_err());
    }

    #[test]
    fn only_the_abort_policy_has_an_unserved_timeout() {
        let wait = options(&["--size", "1Gi"]);
        assert_eq!(wait.limits().unserved_timeout, None);
        let abort = options(&["--size", "1Gi", "--when-unserved", "abort"]);
        assert_eq!(
            abort.limits().unserved_timeout,
            Some(Duration::from_secs(30))
        );
    }

    #[test]
    fn integrity_is_tag64_unless_said_and_a_wrong_word_is_told_the_right_ones() {
        let said = |more: &[&str]| options(&[&["--size", "1Gi"], more].concat()).integrity;
        assert_eq!(said(&[]), Integrity::Tag64);
        assert_eq!(said(&["--integrity", "full"]), Integrity::Full);
        assert_eq!(said(&["--integrity=none"]), Integrity::None);
        let error = parse(&["--size", "1Gi", "--integrity", "tag32"]).expect_err("no such");
        assert!(error.to_string().contains("full, tag64 or none"), "{error}");
    }

    #[test]
    fn priority_out_of_range_is_refused() {
        assert!(parse(&["--size", "1Gi", "--priority", "32768"]).is_err());
        assert!(parse(&["--size", "1Gi", "--priority", "32767"]).is_ok());
    }

    #[test]
    fn helpers_need_none_of_the_holder_s_options() {
        let line = [
            "swapd",
            "detach",
            "--device",
            "/dev/loop3",
            "--backing",
            "/s/device/swap",
        ];
        let line = CommandLine::try_parse_from(line).expect("valid");
        assert!(matches!(line.helper, Some(Helper::Detach(_))));
        let line = CommandLine::try_parse_from(["swapd", "abort", "--state-dir", "/s"]);
        assert!(matches!(
            line.expect("valid").helper,
            Some(Helper::Abort(_))
        ));
    }
}
