//! The real holder and engine over the local backend: attach, kill -9 of either, documents,
//! refusals, and that nothing is left behind.
#![expect(clippy::expect_used, reason = "helpers of tests are tests")]

use std::fs;
use std::io::Write;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use dynamicswap_proto::common::v1::{Durability, Spill, SwapDeviceDocument, SwapDeviceReport};
use dynamicswap_proto::daemon::v1::{ReportRequest, report, request, response::Kind};
use dynamicswap_proto::exchange::exchange;
use dynamicswap_workload::layer;
use rustix::mount::UnmountFlags;
use rustix::process::{Pid, Signal, kill_process};

const PROGRAM: &str = env!("CARGO_BIN_EXE_dynamicswap-swapd");
const TIME_MAX: Duration = Duration::from_secs(20);
const DEVICE_BYTES: u64 = 32 << 20;

/// A state directory of its own. Whatever a failed test leaves is aborted and unmounted.
struct Setup {
    directory: tempfile::TempDir,
}

impl Setup {
    fn new() -> Option<Self> {
        let loops = Path::new("/dev/loop-control").exists();
        if !rustix::process::geteuid().is_root() || !loops || !Path::new("/dev/fuse").exists() {
            assert!(
                !layer::is_required("native"),
                "required, but there is no root, /dev/fuse or /dev/loop-control"
            );
            // Past the capture of the test's output.
            let why = "SKIPPED: needs root, /dev/fuse and /dev/loop-control";
            let _said = writeln!(std::io::stderr(), "{why}");
            return None;
        }
        let directory = tempfile::tempdir().expect("a directory");
        Some(Self { directory })
    }

    fn state(&self) -> PathBuf {
        self.directory.path().join("state")
    }

    fn socket(&self) -> PathBuf {
        self.directory.path().join("control.sock")
    }

    fn command(&self) -> Command {
        let mut command = Command::new(PROGRAM);
        command
            .arg("--node=borrower-1")
            .arg("--slab=1Mi")
            .arg("--backend=local")
            .arg(format!("--state-dir={}", self.state().display()))
            .arg(format!("--control-socket={}", self.socket().display()));
        command
    }

    fn start(&self) -> Holder<'_> {
        let mut command = self.command();
        command.arg("--size=32Mi").stderr(Stdio::null());
        let child = command.spawn().expect("the program is there");
        Holder { setup: self, child }
    }

    /// Runs to the end, which must be a refusal.
    fn refused(&self, arguments: &[&str]) -> String {
        let mut command = self.command();
        let Output { status, stderr, .. } = command.args(arguments).output().expect("it ends");
        let message = String::from_utf8_lossy(&stderr).into_owned();
        assert_eq!(status.code(), Some(2), "{message}");
        message.lines().last().unwrap_or_default().to_owned()
    }

    fn assert_nothing_left(&self) {
        assert!(!self.state().exists());
        assert!(!self.socket().exists());
        let mounts = fs::read_to_string("/proc/self/mountinfo").expect("readable");
        let state = self.state().display().to_string();
        assert!(!mounts.contains(&state), "{mounts}");
    }
}

impl Drop for Setup {
    fn drop(&mut self) {
        for place in ["device", "memory"] {
            let flags = UnmountFlags::FORCE | UnmountFlags::DETACH;
            let _ = rustix::mount::unmount(self.state().join(place), flags);
        }
    }
}

struct Holder<'s> {
    setup: &'s Setup,
    child: Child,
}

impl Holder<'_> {
    fn ask(&self, kind: request::Kind) -> Option<Kind> {
        let mut stream = UnixStream::connect(self.setup.socket()).ok()?;
        stream.set_read_timeout(Some(TIME_MAX)).expect("a timeout");
        match exchange(&mut stream, kind) {
            Ok(answer) => answer,
            Err(error) => {
                assert_ne!(error.kind(), std::io::ErrorKind::InvalidData, "{error}");
                None
            }
        }
    }

    /// Waits for a report that fits. An engine that was killed answers nothing: its successor does.
    fn wait_for(&self, fits: impl Fn(&SwapDeviceReport) -> bool) -> SwapDeviceReport {
        let start = Instant::now();
        let mut known = 0;
        loop {
            let wanted = request::Kind::Report(ReportRequest {
                known_change: known,
                wait_ms: 100,
            });
            if let Some(Kind::Report(report)) = self.ask(wanted)
                && let Some(report::Kind::SwapDevice(device)) = report.kind
            {
                known = report.change;
                if fits(&device) {
                    return device;
                }
                assert!(start.elapsed() < TIME_MAX, "{device:?}");
            }
            assert!(start.elapsed() < TIME_MAX, "no report");
        }
    }

    fn apply(&self, document: SwapDeviceDocument) -> Kind {
        let answer = self.ask(request::Kind::ApplySwapDevice(document));
        answer.expect("an answer")
    }

    fn signal(&self, signal: Signal) {
        kill_process(Pid::from_child(&self.child), signal).expect("it runs");
    }

    fn stop(mut self) {
        self.signal(Signal::TERM);
        let status = self.child.wait().expect("it ends");
        assert!(status.success(), "{status}");
        self.setup.assert_nothing_left();
    }

    /// kill -9, without what follows for its engine.
    fn kill(mut self) {
        self.child.kill().expect("it runs");
        self.child.wait().expect("it ends");
    }
}

fn document(report: &SwapDeviceReport, generation: u64, attached: bool) -> SwapDeviceDocument {
    SwapDeviceDocument {
        generation,
        device_id: report.device_id.clone(),
        durability: Some(Durability {
            copies: 1,
            spill: Spill::None.into(),
        }),
        attached,
        ..SwapDeviceDocument::default()
    }
}

fn kill_engine(report: &SwapDeviceReport) {
    let pid = i32::try_from(report.engine_pid).expect("a pid");
    kill_process(Pid::from_raw(pid).expect("a pid"), Signal::KILL).expect("it runs");
}

/// The device's file, around the page cache, with a page-aligned buffer.
fn transfer(setup: &Setup, write: Option<u8>) -> Vec<u8> {
    #[repr(align(4096))]
    struct Aligned([u8; 8192]);
    let mut buffer = Box::new(Aligned([write.unwrap_or_default(); 8192]));
    let file = fs::File::options()
        .read(true)
        .write(true)
        .custom_flags(libc::O_DIRECT)
        .open(setup.state().join("device/swap"))
        .expect("served");
    match write {
        Some(_) => file.write_all_at(&buffer.0, 8 << 20).expect("written"),
        None => file.read_exact_at(&mut buffer.0, 8 << 20).expect("read"),
    }
    buffer.0.to_vec()
}

#[test]
fn killed_engine_is_replaced_and_every_page_is_kept() {
    let Some(setup) = Setup::new() else { return };
    let holder = setup.start();
    let first = holder.wait_for(|report| report.attached);
    assert!(first.device_path.starts_with("/dev/loop"));
    assert_eq!((first.epoch, first.engine_starts), (1, 1));
    assert_eq!(first.size_bytes, DEVICE_BYTES);
    assert_eq!(first.own_swap_bytes, 0);
    holder.apply(document(&first, 2, false));
    holder.wait_for(|report| !report.attached);
    transfer(&setup, Some(0x6b));
    kill_engine(&first);
    let second = holder.wait_for(|report| report.epoch == 2);
    assert_ne!(second.engine_pid, first.engine_pid);
    assert_eq!(second.device_id, first.device_id);
    assert!(!second.attached, "the document in force is kept");
    assert!(transfer(&setup, None).iter().all(|byte| *byte == 0x6b));
    holder.apply(document(&first, 3, true));
    holder.wait_for(|report| report.attached);
    holder.stop();
}

#[test]
fn stopped_engine_is_replaced_within_three_seconds() {
    let Some(setup) = Setup::new() else { return };
    let holder = setup.start();
    let first = holder.wait_for(|report| report.attached);
    let pid = i32::try_from(first.engine_pid).expect("a pid");
    let stopped = Instant::now();
    kill_process(Pid::from_raw(pid).expect("a pid"), Signal::STOP).expect("it runs");
    // Waits in the kernel until the next engine has it.
    transfer(&setup, None);
    assert!(
        stopped.elapsed() < Duration::from_secs(3),
        "{:?}",
        stopped.elapsed()
    );
    holder.wait_for(|report| report.epoch == 2);
    holder.stop();
}

#[test]
fn killed_holder_s_engine_serves_on_and_the_next_holder_takes_it_over() {
    let Some(setup) = Setup::new() else { return };
    let holder = setup.start();
    let first = holder.wait_for(|report| report.attached);
    holder.kill();
    transfer(&setup, None);
    let other_size = setup.refused(&["--size=64Mi"]);
    assert!(other_size.contains("--size 32Mi"), "{other_size}");
    let next = setup.start();
    let pid = next.child.id();
    let report = next.wait_for(|report| report.holder_pid == pid);
    assert_eq!(report.engine_pid, first.engine_pid, "it was not replaced");
    assert!(report.attached);
    kill_engine(&report);
    next.wait_for(|report| report.epoch == 2 && report.attached);
    next.stop();
}

#[test]
fn second_holder_is_refused_and_does_no_harm() {
    let Some(setup) = Setup::new() else { return };
    let holder = setup.start();
    holder.wait_for(|report| report.attached);
    let message = setup.refused(&["--size=32Mi"]);
    assert!(message.contains("already serves"), "{message}");
    assert!(
        message.contains(&holder.child.id().to_string()),
        "{message}"
    );
    holder.wait_for(|report| report.attached && report.engine_starts == 1);
    holder.stop();
}

#[test]
fn impossible_wishes_are_refused_in_one_sentence_and_leave_nothing() {
    let Some(setup) = Setup::new() else { return };
    for (arguments, word) in [
        (&["--size=512Ki"][..], "smaller than one slab"),
        (&["--size=1Ti"], "or a smaller size"),
        (&["--size=32Mi", "--engine=/nowhere"], "--engine"),
        (
            &["--size=32Mi", "--engine=/bin/false"],
            "no engine could be started",
        ),
        (&["--size=32Mi", "--spill-file=/nowhere/x"], "--spill-file"),
    ] {
        let message = setup.refused(arguments);
        assert!(message.contains(word), "{arguments:?}: {message}");
        setup.assert_nothing_left();
    }
}

#[test]
fn documents_for_others_and_old_ones_are_refused() {
    let Some(setup) = Setup::new() else { return };
    let holder = setup.start();
    let report = holder.wait_for(|report| report.attached);
    let code = |document| match holder.apply(document) {
        Kind::Refused(refused) => refused.code,
        Kind::Applied(_) => "Applied".to_owned(),
        Kind::Report(_) => panic!("a report"),
    };
    assert_eq!(code(document(&report, 7, true)), "Applied");
    assert_eq!(code(document(&report, 7, true)), "Applied");
    assert_eq!(code(document(&report, 6, true)), "OldGeneration");
    let mut foreign = document(&report, 8, true);
    foreign.device_id = vec![9; 16];
    assert_eq!(code(foreign), "WrongDevice");
    let mut invalid = document(&report, 8, true);
    invalid.durability = None;
    assert_eq!(code(invalid), "InvalidDocument");
    holder.stop();
}
