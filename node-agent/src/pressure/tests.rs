//! Looks at pretended hosts. Their files are plain ones, in which no trigger can be armed: the
//! triggers have their own test with a real kernel.

use std::fs;

use dynamicswap_types::Bytes;

use super::*;
use crate::cgroup::fixture::{Files, Host};

/// A monitor of a pretended host, and the directory of its descriptors.
struct Bench {
    host: Host,
    directory: tempfile::TempDir,
    monitor: PressureMonitor,
}

impl Bench {
    fn new(host: Host) -> Self {
        let directory = tempfile::tempdir().expect("a directory");
        let source = ContainerSource {
            origin: Origin::Directory(directory.path().to_owned()),
            layout: Layout::probe(host.root()).expect("a layout"),
        };
        let mut monitor = PressureMonitor::new(Some(source), Duration::from_secs(1));
        monitor.grain = None;
        Self {
            host,
            directory,
            monitor,
        }
    }

    fn container(&self, name: &str, files: Files) {
        let (memory, unified) = self.host.container(name, files);
        let descriptor = serde_json::json!({
            "namespace": "default",
            "name": name,
            "labels": {"app": name},
            "memory_cgroup": memory,
            "unified_cgroup": unified,
        });
        let file = self.directory.path().join(format!("{name}.json"));
        fs::write(file, descriptor.to_string()).expect("written");
    }

    fn look(&mut self) -> Vec<ContainerReport> {
        self.monitor.look_at_all(&BTreeMap::new());
        self.monitor.container_reports()
    }
}

fn pressured() -> Files {
    Files {
        some: "12.50",
        swapped: Bytes::from_mib(8),
        max: Some(Bytes::from_mib(96)),
        ..Files::default()
    }
}

#[tokio::test]
async fn container_is_reported_alike_in_both_layouts() {
    for host in [Host::unified(), Host::hybrid()] {
        let mut bench = Bench::new(host);
        bench.container("web", pressured());
        let reports = bench.look();
        let report = reports.first().expect("one container");
        assert_eq!((&*report.namespace, &*report.name), ("default", "web"));
        assert_eq!(report.memory_bytes, 64 << 20);
        assert_eq!(report.memory_limit_bytes, 96 << 20);
        assert_eq!(report.swap_bytes, 8 << 20);
        assert_eq!(report.some.as_ref().expect("known").avg10, 12.5);
        assert_eq!(report.pressure_state, "Pressured");
        assert_eq!(
            report.pressure_reason,
            "some was 12.5 % of 10 s, the threshold is 10 %"
        );
        assert_eq!(report.noticed_by, "timer");
        assert_eq!(report.policy, "");
    }
}

#[tokio::test]
async fn policy_that_selects_a_container_judges_it() {
    let mut bench = Bench::new(Host::hybrid());
    bench.container("web", pressured());
    bench.container("db", pressured());
    let policy = r#"{"apiVersion": "dynamicswap.io/v1alpha1", "kind": "RemoteMemoryPolicy",
        "metadata": {"name": "patient", "namespace": "default"},
        "spec": {"podSelector": {"matchLabels": {"app": "web"}},
                 "pressure": {"someAvg10Percent": 20}}}"#;
    bench.monitor.set_policies(&[policy.to_owned()]);
    let reports = bench.look();
    let states = reports
        .iter()
        .map(|report| (&*report.name, &*report.pressure_state, &*report.policy));
    let expected = [("db", "Pressured", ""), ("web", "Calm", "default/patient")];
    assert_eq!(states.collect::<Vec<_>>(), expected);
}

#[tokio::test]
async fn containers_come_and_go_with_their_descriptors_and_cgroups() {
    let mut bench = Bench::new(Host::hybrid());
    assert!(bench.look().is_empty());
    bench.container("web", Files::default());
    bench.container("db", Files::default());
    assert_eq!(bench.look().len(), 2);
    fs::remove_file(bench.directory.path().join("web.json")).expect("was there");
    assert_eq!(bench.look().len(), 1);
    fs::remove_dir_all(bench.host.root().join("memory/db")).expect("was there");
    assert!(bench.look().is_empty(), "its cgroup is gone");
    assert!(bench.monitor.warnings().iter().all(|w| !w.contains("db")));
}

#[tokio::test]
async fn host_without_pressure_is_said_once_and_its_containers_are_unknown() {
    let mut bench = Bench::new(Host::memory_only());
    bench.container("web", Files::default());
    bench.container("db", Files::default());
    let reports = bench.look();
    assert_eq!(reports.len(), 2);
    for report in reports {
        assert_eq!(report.pressure_state, "Unknown");
        assert!(report.pressure_reason.contains("no pressure figures"));
        assert_eq!(report.memory_bytes, 64 << 20);
    }
    let warnings = bench.monitor.warnings();
    let about = warnings
        .iter()
        .filter(|w| w.contains("no pressure figures"));
    assert_eq!(about.count(), 1, "{warnings:?}");
}

#[tokio::test]
async fn fired_trigger_looks_at_its_container_alone() {
    let mut bench = Bench::new(Host::unified());
    bench.container("web", Files::default());
    bench.container("db", Files::default());
    bench.look();
    let name = |name: &str| ContainerName {
        namespace: "default".to_owned(),
        name: name.to_owned(),
    };
    let at = |bench: &Bench, of: &str| bench.monitor.observation.containers[&name(of)].at;
    let before = (at(&bench, "web"), at(&bench, "db"));
    let trigger = guard_for(Some(Level::Calm), &Thresholds::default(), Grain::Fine).expect("one");
    let fired = BTreeMap::from([(Subject::Container(name("web")), trigger)]);
    bench.monitor.look_at_fired(&fired);
    assert!(at(&bench, "web") > before.0);
    assert_eq!(at(&bench, "db"), before.1);
    let reports = bench.monitor.container_reports();
    let web = reports.iter().find(|report| report.name == "web");
    let web = web.expect("reported");
    assert_eq!(
        (&*web.pressure_state, &*web.noticed_by),
        ("Pressured", "trigger")
    );
}

#[tokio::test]
async fn warnings_are_bounded_and_none_is_said_twice() {
    let mut bench = Bench::new(Host::unified());
    for index in 0..40 {
        let file = bench.directory.path().join(format!("{index}.json"));
        fs::write(file, "{").expect("written");
    }
    bench.look();
    let warnings = bench.monitor.warnings();
    assert_eq!(warnings.len(), WARNINGS_MAX);
    let distinct: BTreeSet<_> = warnings.iter().collect();
    assert_eq!(distinct.len(), warnings.len());
}

#[tokio::test]
async fn node_has_a_level_or_a_reason_why_not() {
    let mut monitor = PressureMonitor::new(None, Duration::from_secs(1));
    let before = monitor.node_report();
    assert_eq!(before.pressure_reason, "not looked at yet");
    monitor.look_at_all(&BTreeMap::new());
    let report = monitor.node_report();
    assert!(report.memory_total_bytes > 0);
    assert!(!report.pressure_reason.is_empty());
    assert_eq!(report.pressure_state == "Unknown", report.some.is_none());
}
