//! Pressure triggers with a real kernel: a container that reads a file larger than its memory
//! limit again and again waits for page cache that it has just lost, without any swap.
//!
//! Needs root, a memory cgroup and PSI; says SKIPPED and why where it has not got them.
#![allow(clippy::expect_used, reason = "helpers of tests panic as tests do")]

mod support;

use std::fs::{self, File};
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use dynamicswap_agent::cgroup::{Armed, Fired, probe_triggers};
use dynamicswap_agent::watches::{Subject, WatchEvent, Watches};
use dynamicswap_policy::{ContainerName, Grain, Line, Share, Trigger};
use dynamicswap_proto::control::v1::{ContainerReport, DesiredDocument, NodeReport};
use dynamicswap_types::Bytes;
use dynamicswap_workload::container::{Container, Layout, remove_cgroup};
use dynamicswap_workload::layer;
use support::{Agent, Controller, command};
use tempfile::TempDir;
use tokio::sync::{Mutex, MutexGuard};

/// One after the other: each wants the disk and a processor for itself.
static ALONE: Mutex<()> = Mutex::const_new(());

const PREFIX: &str = "dynamicswap-agent-test-";
const LIMIT: Bytes = Bytes::from_mib(24);
const FILE_MIB: usize = 64;

/// Time in which a trigger must fire once the pressure begins. With CAP_SYS_RESOURCE the kernel
/// looks every 0.1 s; without, at the end of a 2 s window that may have begun anew.
fn time_to_fire(grain: Grain) -> Duration {
    match grain {
        Grain::Fine => Duration::from_secs(2),
        Grain::Coarse => Duration::from_secs(6),
    }
}

/// A container, its big file, and what the host permits.
struct Bench {
    container: Container,
    file: PathBuf,
    grain: Grain,
    reader: Option<Child>,
    _alone: MutexGuard<'static, ()>,
}

impl Bench {
    async fn new(name: &str) -> Option<Self> {
        let alone = ALONE.lock().await;
        match Self::make(name) {
            Ok((container, file, grain)) => Some(Self {
                container,
                file,
                grain,
                reader: None,
                _alone: alone,
            }),
            Err(why) => {
                assert!(!layer::is_required("native"), "required, but {why}");
                println!("SKIPPED: {why}");
                None
            }
        }
    }

    fn make(name: &str) -> Result<(Container, PathBuf, Grain), String> {
        let grain = probe_triggers(Path::new("/proc/pressure/memory"))
            .map_err(|error| format!("no pressure triggers: {error}"))?;
        let layout = Layout::probe().map_err(|error| error.to_string())?;
        remove_stale(&layout);
        let name = format!("{PREFIX}{}-{name}", std::process::id());
        let container = Container::create(&layout, &name, LIMIT)
            .map_err(|error| format!("no container: {error}"))?;
        if !pressure_file(&container).exists() {
            return Err("this host has no pressure of containers".to_owned());
        }
        let file = Path::new(env!("CARGO_TARGET_TMPDIR")).join(&name);
        write_uncached(&file).map_err(|error| format!("no big file: {error}"))?;
        Ok((container, file, grain))
    }

    fn trigger(&self) -> Trigger {
        Trigger {
            line: Line::Some,
            share: Share::from_hundredths(200),
            window: self.grain.window(),
        }
    }

    fn press(&mut self) -> Instant {
        let mut command = Command::new("sh");
        let endless = "while cat \"$0\" >/dev/null; do :; done";
        command.args(["-c", endless]).arg(&self.file);
        command.stdin(Stdio::null());
        self.container.enter(&mut command).expect("entered");
        let begun = Instant::now();
        self.reader = Some(command.spawn().expect("sh is everywhere"));
        begun
    }
}

fn descriptor(name: &str, container: &Container) -> String {
    serde_json::json!({
        "namespace": "default",
        "name": name,
        "labels": {},
        "memory_cgroup": container.memory_cgroup(),
        "unified_cgroup": container.unified_cgroup(),
    })
    .to_string()
}

/// The agent program, a borrower's, between a controller and a directory of descriptors.
struct Node {
    directory: TempDir,
    controller: Controller,
}

impl Node {
    async fn new() -> Self {
        let directory = tempfile::tempdir().expect("a directory");
        fs::create_dir(directory.path().join("containers")).expect("made");
        Self {
            directory,
            controller: Controller::start().await,
        }
    }

    fn describe(&self, name: &str, container: &Container) {
        let file = self.directory.path().join("containers");
        let file = file.join(format!("{name}.json"));
        fs::write(file, descriptor(name, container)).expect("written");
    }

    fn start(&self, look_every_ms: &str) -> Agent {
        let below = |name: &str| self.directory.path().join(name);
        let mut line = command(&self.controller.address, &below("state"));
        line.arg("--swapd-socket").arg(below("s.sock"));
        line.arg("--containers-dir").arg(below("containers"));
        Agent::start(line.args(["--look-every-ms", look_every_ms]))
    }
}

impl Drop for Bench {
    fn drop(&mut self) {
        // The container kills what is inside when it is dropped; the child must be waited for.
        if let Some(mut reader) = self.reader.take() {
            let _ = reader.kill();
            let _ = reader.wait();
        }
        let _ = fs::remove_file(&self.file);
    }
}

fn pressure_file(container: &Container) -> PathBuf {
    container.unified_cgroup().join("memory.pressure")
}

/// Removes what tests that were killed have left.
fn remove_stale(layout: &Layout) {
    for root in [&layout.memory_root, &layout.unified_root] {
        for entry in fs::read_dir(root).into_iter().flatten().flatten() {
            let name = entry.file_name();
            let rest = name.to_str().and_then(|name| name.strip_prefix(PREFIX));
            let pid = rest.and_then(|rest| rest.split('-').next());
            if pid.is_some_and(|pid| !Path::new("/proc").join(pid).exists()) {
                let _left = remove_cgroup(&entry.path());
            }
        }
    }
}

/// A file of which nothing is in the page cache, so that its pages are charged to their reader.
fn write_uncached(path: &Path) -> std::io::Result<()> {
    let mut file = File::create(path)?;
    let mib: Vec<u8> = (0..=250).cycle().take(1 << 20).collect();
    for _ in 0..FILE_MIB {
        file.write_all(&mib)?;
    }
    file.sync_all()?;
    rustix::fs::fadvise(&file, 0, None, rustix::fs::Advice::DontNeed)?;
    Ok(())
}

#[tokio::test]
async fn trigger_fires_when_a_container_is_under_pressure() {
    let Some(mut bench) = Bench::new("fires").await else {
        return;
    };
    let armed = Armed::arm(&pressure_file(&bench.container), bench.trigger()).expect("armed");
    let early = tokio::time::timeout(Duration::from_millis(500), armed.fired()).await;
    assert!(early.is_err(), "nothing is under pressure yet");
    let begun = bench.press();
    let limit = time_to_fire(bench.grain);
    let fired = tokio::time::timeout(limit, armed.fired()).await;
    let after = begun.elapsed();
    println!("{:?} trigger: fired after {after:?}", bench.grain);
    assert_eq!(fired.ok(), Some(Fired::Reached), "within {limit:?}");
    // It stays armed.
    let again = tokio::time::timeout(limit, armed.fired()).await;
    assert_eq!(again.ok(), Some(Fired::Reached), "again within {limit:?}");
}

#[tokio::test]
async fn watch_of_a_removed_cgroup_is_gone() {
    let Some(bench) = Bench::new("gone").await else {
        return;
    };
    let mut watches = Watches::default();
    let subject = Subject::Container(ContainerName {
        namespace: "default".to_owned(),
        name: "reader".to_owned(),
    });
    let file = pressure_file(&bench.container);
    watches
        .set(&subject, &file, bench.trigger())
        .expect("armed");
    assert_eq!(watches.trigger(&subject), Some(bench.trigger()));
    let unified = bench.container.unified_cgroup().to_owned();
    remove_cgroup(&unified).expect("removed");
    let event = tokio::time::timeout(Duration::from_secs(5), watches.next()).await;
    assert_eq!(event.ok(), Some(WatchEvent::Gone(subject.clone())));
    assert!(watches.is_empty());
    let error = watches
        .set(&subject, &file, bench.trigger())
        .expect_err("not there");
    assert!(error.is_gone(), "{error}");
}

#[tokio::test]
async fn changed_watch_replaces_the_old_one() {
    let Some(mut bench) = Bench::new("changed").await else {
        return;
    };
    let mut watches = Watches::default();
    let file = pressure_file(&bench.container);
    let never = Trigger {
        share: Share::ALL,
        ..bench.trigger()
    };
    watches.set(&Subject::Node, &file, never).expect("armed");
    watches
        .set(&Subject::Node, &file, bench.trigger())
        .expect("armed");
    assert_eq!(watches.len(), 1);
    bench.press();
    let event = tokio::time::timeout(time_to_fire(bench.grain), watches.next()).await;
    let expected = WatchEvent::Fired(Subject::Node, bench.trigger());
    assert_eq!(event.ok(), Some(expected));
}

/// Runs the agent on the bench's container until its pressure is reported, and says how long
/// that took.
async fn notice(bench: &mut Bench, look_every_ms: &str) -> (ContainerReport, Duration) {
    let node = Node::new().await;
    node.describe("reader", &bench.container);
    let _agent = node.start(look_every_ms);
    let controller = &node.controller;
    let policy = r#"{"apiVersion": "dynamicswap.io/v1alpha1", "kind": "RemoteMemoryPolicy",
        "metadata": {"name": "test", "namespace": "default"},
        "spec": {"pressure": {"someAvg10Percent": 2, "fullAvg10Percent": 2}}}"#;
    let document = DesiredDocument {
        generation: 1,
        policies_json: vec![policy.to_owned()],
        ..DesiredDocument::default()
    };
    controller.send(document).await;
    let only = |report: &NodeReport| report.containers.first().cloned();
    let calm = |report: &NodeReport| {
        only(report).is_some_and(|it| it.pressure_state == "Calm" && it.policy == "default/test")
    };
    controller.report("the container is calm", calm).await;
    let begun = bench.press();
    let pressed = |report: &NodeReport| {
        only(report).is_some_and(|it| ["Pressured", "Stalled"].contains(&&*it.pressure_state))
    };
    controller.report("its pressure is noticed", pressed).await;
    let first = controller.heard(|heard| {
        let mut reports = heard.reports.iter();
        reports.find(|(_, report)| pressed(report)).cloned()
    });
    let (at, report) = first.expect("there is one");
    (only(&report).expect("the container"), at - begun)
}

#[tokio::test]
async fn agent_reports_at_once_what_a_trigger_has_noticed() {
    let Some(mut bench) = Bench::new("noticed").await else {
        return;
    };
    // The timer looks once a minute: it is the trigger or nothing.
    let (report, after) = notice(&mut bench, "60000").await;
    let reason = &report.pressure_reason;
    println!(
        "by {}: reported after {after:?}: {reason}",
        report.noticed_by
    );
    assert_eq!(report.noticed_by, "trigger");
    assert!(reason.contains("the threshold is 2 %"), "{reason}");
    assert!(after <= time_to_fire(bench.grain), "after {after:?}");
}

#[tokio::test]
async fn timer_notices_pressure_within_seconds_whatever_the_triggers_do() {
    let Some(mut bench) = Bench::new("timer").await else {
        return;
    };
    let (report, after) = notice(&mut bench, "1000").await;
    let reason = &report.pressure_reason;
    println!(
        "by {}: reported after {after:?}: {reason}",
        report.noticed_by
    );
    // Two looks: one may come before there is stall enough.
    assert!(after <= Duration::from_secs(3), "after {after:?}");
}

#[tokio::test]
async fn two_hundred_containers_cost_little() {
    let Some(bench) = Bench::new("many").await else {
        return;
    };
    let layout = Layout::probe().expect("it was there before");
    let node = Node::new().await;
    let make = |index: usize| {
        let name = format!("{PREFIX}{}-{index}", std::process::id());
        let container = Container::create(&layout, &name, LIMIT).expect("made");
        node.describe(&format!("c{index}"), &container);
        container
    };
    let containers: Vec<Container> = (0..200).map(make).collect();
    let agent = node.start("1000");
    let all = |report: &NodeReport| report.containers.len() == 200;
    node.controller.report("all are reported", all).await;
    let open = fs::read_dir(format!("/proc/{}/fd", agent.pid())).expect("it runs");
    assert!(open.count() >= 200, "each has a trigger");
    let ticks = agent.ticks();
    tokio::time::sleep(Duration::from_secs(5)).await;
    let ticks = agent.ticks() - ticks;
    let report = node.controller.report("all are reported", all).await;
    let kib = report.agent_rss_bytes >> 10;
    println!("200 containers: {kib} KiB resident, {ticks} ticks of 10 ms in 5 s");
    assert!(kib <= 32 << 10, "{kib} KiB resident");
    // This is no release build, and the machine may be busy: a tenth of a processor.
    assert!(ticks <= 50, "{ticks} ticks in 5 s");
    // What goes away is let go.
    drop(containers);
    let none = |report: &NodeReport| report.containers.is_empty();
    node.controller.report("none is left", none).await;
    let open = fs::read_dir(format!("/proc/{}/fd", agent.pid())).expect("it runs");
    assert!(open.count() < 50, "no trigger is left");
    drop(bench);
}
