//! What the controller says when it cannot start: one sentence and exit code 2.
#![allow(
    clippy::expect_used,
    clippy::panic,
    reason = "helpers of tests panic as tests do"
)]

mod support;

use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::process::{Command, Stdio};

use redb::{Database, TableDefinition};
use support::{Controller, command, eventually};

/// Runs a controller that cannot start; its sentence.
fn refusal(command: &mut Command) -> String {
    let output = command
        .env("RUST_LOG", "off")
        .stdout(Stdio::null())
        .output()
        .expect("run");
    let text = String::from_utf8(output.stderr).expect("text");
    assert_eq!(output.status.code(), Some(2), "{text}");
    assert_eq!(text.trim().lines().count(), 1, "{text}");
    text
}

#[tokio::test]
async fn address_and_store_in_use_are_named() {
    let directory = tempfile::tempdir().expect("directory");
    let controller = Controller::start(directory.path()).await;
    let other = directory.path().join("other.redb");
    let text = refusal(&mut command(&controller.address, &other));
    assert!(
        text.contains(&format!("{} is in use", controller.address)),
        "{text}"
    );
    assert!(!other.exists(), "nothing is left behind");
    let same = directory.path().join("store.redb");
    let text = refusal(&mut command("127.0.0.1:0", &same));
    assert!(text.contains("in use by another controller"), "{text}");
}

#[test]
fn unusable_stores_are_named() {
    let directory = tempfile::tempdir().expect("directory");
    let missing = directory.path().join("no/such/store.redb");
    let text = refusal(&mut command("127.0.0.1:0", &missing));
    assert!(text.contains("cannot be opened"), "{text}");
    let text = refusal(&mut command("127.0.0.1:0", directory.path()));
    assert!(text.contains("cannot be opened"), "{text}");
    let garbage = directory.path().join("garbage");
    std::fs::write(
        &garbage,
        "this is no database at all, only some text\n".repeat(100),
    )
    .expect("write");
    let text = refusal(&mut command("127.0.0.1:0", &garbage));
    assert!(text.contains("is no store of a controller"), "{text}");
    let kept = std::fs::read_to_string(&garbage).expect("read");
    assert!(kept.starts_with("this is no database"), "left as it was");
}

#[test]
fn store_of_another_version_is_refused() {
    let directory = tempfile::tempdir().expect("directory");
    let path = directory.path().join("later.redb");
    write_number(&path, "format", 2);
    let text = refusal(&mut command("127.0.0.1:0", &path));
    assert!(
        text.contains("has format 2 and this controller knows format 1"),
        "{text}"
    );
}

fn write_number(path: &Path, key: &str, number: u64) {
    let meta: TableDefinition<'_, &str, u64> = TableDefinition::new("meta");
    let database = Database::create(path).expect("create");
    let write = database.begin_write().expect("begin");
    {
        let mut table = write.open_table(meta).expect("open");
        table.insert(key, number).expect("insert");
    }
    write.commit().expect("commit");
}

#[test]
fn impossible_flags_are_refused() {
    let directory = tempfile::tempdir().expect("directory");
    let store = directory.path().join("store.redb");
    let text = refusal(command("127.0.0.1:0", &store).args(["--replace-after-ms", "99999999999"]));
    assert!(text.contains("over an hour"), "{text}");
    let text =
        refusal(command("127.0.0.1:0", &store).args(["--ready-file", "/no/such/directory/ready"]));
    assert!(text.contains("ready file"), "{text}");
    let text = refusal(&mut command("192.0.2.1:7700", &store));
    assert!(text.contains("none of this machine"), "{text}");
}

#[tokio::test]
async fn sigterm_stops_it_cleanly() {
    let directory = tempfile::tempdir().expect("directory");
    let store = directory.path().join("store.redb");
    let ready = directory.path().join("ready");
    let mut child = command("127.0.0.1:0", &store)
        .arg("--ready-file")
        .arg(&ready)
        .spawn()
        .expect("start");
    eventually("it serves", async || ready.exists()).await;
    let killed = Command::new("kill").arg(child.id().to_string()).status();
    assert!(killed.expect("kill").success());
    let status = child.wait().expect("wait");
    assert_eq!((status.code(), status.signal()), (Some(0), None));
    assert!(!ready.exists(), "the ready file goes with it");
}
