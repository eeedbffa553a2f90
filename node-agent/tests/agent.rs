//! The agent program towards its controller and its daemons, and what it refuses.
#![allow(clippy::expect_used, reason = "helpers of tests panic as tests do")]

mod support;

use std::fs;
use std::process::Command;
use std::time::Duration;

use dynamicswap_proto::common::v1::{MemoryServerDocument, SwapDeviceDocument};
use dynamicswap_proto::control::v1::DesiredDocument;
use support::{Agent, Controller, Daemon, command, eventually, run};
use tempfile::TempDir;

fn document(generation: u64) -> DesiredDocument {
    DesiredDocument {
        generation,
        term: 1,
        memory_server: Some(MemoryServerDocument {
            generation,
            incarnation: vec![7; 16],
            ..MemoryServerDocument::default()
        }),
        ..DesiredDocument::default()
    }
}

/// A directory, a controller, and an agent of a donor whose daemon listens at `socket` if at all.
struct Node {
    directory: TempDir,
    controller: Controller,
}

impl Node {
    async fn new() -> Self {
        Self {
            directory: tempfile::tempdir().expect("a directory"),
            controller: Controller::start().await,
        }
    }

    fn socket(&self) -> std::path::PathBuf {
        self.directory.path().join("m.sock")
    }

    fn start(&self) -> Agent {
        let state = self.directory.path().join("state");
        let mut command = command(&self.controller.address, &state);
        Agent::start(command.arg("--memory-server-socket").arg(self.socket()))
    }
}

#[tokio::test]
async fn daemon_that_is_gone_is_reported_with_its_socket() {
    let node = Node::new().await;
    let _agent = node.start();
    let gone = |socket: &str| {
        let socket = socket.to_owned();
        move |report: &dynamicswap_proto::control::v1::NodeReport| {
            report.memory_server_error.contains(&socket)
        }
    };
    let controller = &node.controller;
    let wanted = gone("m.sock");
    let report = controller
        .report("the daemon is reported gone", wanted)
        .await;
    assert!(report.memory_server.is_none());
    let daemon = Daemon::new(false).listen(node.socket());
    let there =
        |report: &dynamicswap_proto::control::v1::NodeReport| report.memory_server.is_some();
    let report = controller.report("it is reported back", there).await;
    assert_eq!(report.memory_server_error, "");
    daemon.abort();
}

#[tokio::test]
async fn document_reaches_the_daemon_and_an_older_one_is_refused() {
    let node = Node::new().await;
    let daemon = Daemon::new(false);
    daemon.listen(node.socket());
    let agent = node.start();
    node.controller.send(document(5)).await;
    let taken = || (daemon.generation() == 5).then_some(());
    eventually("the daemon takes it", taken).await;
    node.controller.send(document(4)).await;
    let refusal = |report: &dynamicswap_proto::control::v1::NodeReport| {
        report
            .warnings
            .iter()
            .any(|it| it.contains("older than generation 5"))
    };
    let report = node
        .controller
        .report("the refusal is reported", refusal)
        .await;
    assert_eq!(report.generation, 5);
    assert_eq!(daemon.generation(), 5);
    // A restarted agent still knows it.
    drop(agent);
    let _agent = node.start();
    let again = || node.controller.heard(|heard| heard.hellos.get(1).cloned());
    assert_eq!(eventually("the next hello", again).await.generation, 5);
}

#[tokio::test]
async fn kept_document_is_applied_while_the_controller_is_away() {
    let node = Node::new().await;
    let _agent = node.start();
    node.controller.send(document(3)).await;
    let kept = |report: &dynamicswap_proto::control::v1::NodeReport| report.generation == 3;
    node.controller.report("it is kept", kept).await;
    let address = node.controller.address.clone();
    node.controller.stop().await;
    let daemon = Daemon::new(false);
    daemon.listen(node.directory.path().join("m.sock"));
    let taken = || (daemon.generation() == 3).then_some(());
    eventually("a daemon that starts now gets it", taken).await;
    let controller = Controller::start_on(&address).await;
    let hello = || controller.heard(|heard| heard.hellos.first().cloned());
    let hello = eventually("the agent comes back", hello).await;
    assert_eq!(hello.generation, 3);
}

#[tokio::test]
async fn storm_of_a_daemon_is_not_passed_on() {
    let node = Node::new().await;
    Daemon::new(true).listen(node.socket());
    let _agent = node.start();
    let there =
        |report: &dynamicswap_proto::control::v1::NodeReport| report.memory_server.is_some();
    node.controller
        .report("the daemon is reported", there)
        .await;
    let count = || node.controller.heard(|heard| heard.reports.len());
    let before = count();
    tokio::time::sleep(Duration::from_secs(2)).await;
    let reports = count() - before;
    assert!(reports <= 41, "{reports} reports in 2 s");
    assert!(reports >= 2, "{reports} reports in 2 s");
}

#[tokio::test]
async fn controller_that_ends_every_session_is_not_asked_in_a_loop() {
    let node = Node::new().await;
    node.controller.refuse();
    let agent = node.start();
    let count = || node.controller.heard(|heard| heard.hellos.len());
    eventually("a first hello", || (count() > 0).then_some(())).await;
    let (before, ticks) = (count(), agent.ticks());
    tokio::time::sleep(Duration::from_secs(3)).await;
    let hellos = count() - before;
    // 0.1 + 0.2 + 0.4 + 0.8 + 1.6 s: each pause is twice the last one.
    assert!((1..=5).contains(&hellos), "{hellos} sessions in 3 s");
    let ticks = agent.ticks() - ticks;
    assert!(ticks < 60, "{ticks} ticks of processor time in 3 s");
}

#[tokio::test]
async fn idle_agent_is_small_and_idle() {
    let node = Node::new().await;
    Daemon::new(false).listen(node.socket());
    let agent = node.start();
    let there =
        |report: &dynamicswap_proto::control::v1::NodeReport| report.memory_server.is_some();
    node.controller
        .report("the daemon is reported", there)
        .await;
    let ticks = agent.ticks();
    tokio::time::sleep(Duration::from_secs(3)).await;
    let ticks = agent.ticks() - ticks;
    let report = node.controller.report("a report", there).await;
    let mib = report.agent_rss_bytes >> 20;
    println!("idle: {mib} MiB resident, {ticks} ticks in 3 s");
    assert!(mib <= 32, "{mib} MiB resident");
    assert!(ticks <= 30, "{ticks} ticks of processor time in 3 s");
}

#[tokio::test]
async fn system_is_kept_off_a_device_that_is_wanted_and_restore_puts_it_back() {
    let node = Node::new().await;
    let root = node.directory.path().join("cgroup");
    let limit = root.join("system.slice/memory.swap.max");
    fs::create_dir_all(root.join("system.slice")).expect("made");
    fs::write(root.join("cgroup.controllers"), "cpu memory\n").expect("written");
    fs::write(&limit, "max\n").expect("written");
    let read = || fs::read_to_string(&limit).expect("there").trim().to_owned();
    let state = node.directory.path().join("state");
    let mut command = command(&node.controller.address, &state);
    command.arg("--keep-system-slices-off");
    command.arg("--cgroup-root").arg(&root);
    let socket = node.directory.path().join("s.sock");
    let agent = Agent::start(command.arg("--swapd-socket").arg(socket));
    node.controller.report("a report", |_| true).await;
    assert_eq!(read(), "max", "nobody wants a device");
    let wanted = DesiredDocument {
        generation: 1,
        term: 1,
        swap_device: Some(SwapDeviceDocument {
            generation: 1,
            attached: true,
            ..SwapDeviceDocument::default()
        }),
        ..DesiredDocument::default()
    };
    node.controller.send(wanted).await;
    eventually("it is kept off", || (read() == "0").then_some(())).await;
    drop(agent);
    let mut restore = Command::new(env!("CARGO_BIN_EXE_dynamicswap-agent"));
    restore.arg("restore").arg("--state-dir").arg(&state);
    restore.arg("--cgroup-root").arg(&root);
    // Another test may have a device of its own attached: then it is refused, and nothing changes.
    eventually("it is put back", || {
        let output = run(&mut restore);
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        if output.status.success() {
            return Some(());
        }
        assert!(said.contains("kept off swap while /dev/"), "{said}");
        assert_eq!(read(), "0");
        None
    })
    .await;
    assert_eq!(read(), "max");
}

#[tokio::test]
async fn bad_input_gets_one_sentence_and_exit_code_2() {
    let directory = tempfile::tempdir().expect("a directory");
    let state = directory.path().join("state");
    let refused = |arguments: &[&str], cause: &str| {
        let output = run(command("127.0.0.1:1", &state).args(arguments));
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(2), "{arguments:?}: {said}");
        assert_eq!(said.lines().count(), 1, "{said}");
        assert!(said.contains(cause), "'{cause}' is not in: {said}");
    };
    refused(&[], "no role");
    let donor = ["--memory-server-socket", "/nonexistent/m.sock"];
    let with = |more: &[&'static str]| [&donor[..], more].concat();
    refused(&with(&["--containers-dir", "/nonexistent"]), "/nonexistent");
    let bad_root = ["--containers-dir", "/", "--cgroup-root", "/proc"];
    refused(&with(&bad_root), "no memory controller");
    refused(&with(&["--look-every-ms", "1"]), "50 to 60000");
    fs::create_dir_all(&state).expect("made");
    fs::write(state.join("document"), b"half a docum").expect("written");
    refused(&donor, "is damaged: remove it");
    // It is left for whoever wants to look at it.
    assert!(state.join("document").exists());
    let state = directory.path().join("file");
    fs::write(&state, b"").expect("written");
    let output = run(command("127.0.0.1:1", &state).args(donor));
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(2), "{said}");
    assert!(said.contains("--state-dir"), "{said}");
}
