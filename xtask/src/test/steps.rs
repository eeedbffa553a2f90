//! The steps of a test run: what each proves, how it is started, and how its tests are counted.

use std::path::Path;
use std::process::Command;

use anyhow::{Result, bail};

use super::report::Status;
use crate::{chart, exec, host, lab, sim, tidy};

/// The native tests. They want every program built, and root: in a plain run of the workspace's
/// tests they say that they were skipped.
const NATIVE_TESTS: &str = "native";

/// The tests that want an API server: a real one, which they start.
const CLUSTER_TESTS: &str = "cluster";

/// The controller's own among them.
const CONTROLLER_TESTS: &str = "kubernetes";

/// The scenarios in virtual machines that are short enough for every run.
const LAB: &str = "lab";

/// The step that builds what others start.
const PROGRAMS: &str = "programs";

/// Those others.
const NEED_PROGRAMS: [&str; 5] = ["simulation", "mutation", NATIVE_TESTS, CLUSTER_TESTS, LAB];

/// Seeds of a full run; the issue asks for at least 10,000 in under 3 minutes.
const SIMULATION_SEEDS: &str = "0..10000";

/// How a step is done.
#[derive(Debug, Clone, Copy)]
pub enum Work {
    /// A program's exit code.
    Command(fn(&Path) -> Command),
    /// A program's exit code, if it ran any tests: a run of none is no pass.
    Tests(fn(&Path) -> Command),
    /// The checks of this program.
    Tidy,
    /// The chart, rendered by helm.
    Chart,
}

/// One step.
#[derive(Debug, Clone, Copy)]
pub struct Step {
    /// Short name, for `--only` and the report.
    pub name: &'static str,
    /// What a pass proves.
    pub proves: &'static str,
    /// How it is done.
    pub work: Work,
    /// Why it cannot run here, if so.
    pub obstacle: Option<fn() -> Option<String>>,
}

const fn step(name: &'static str, proves: &'static str, work: fn(&Path) -> Command) -> Step {
    Step {
        name,
        proves,
        work: Work::Command(work),
        obstacle: None,
    }
}

/// Every step, cheapest first.
const STEPS: [Step; 12] = [
    step("format", "sources are formatted", |root| {
        cargo(root, &["fmt", "--all", "--check"])
    }),
    Step {
        name: "tidy",
        proves: "layers, sizes, words and documentation are as agreed",
        work: Work::Tidy,
        obstacle: None,
    },
    Step {
        name: "chart",
        proves: "the Helm chart renders as agreed and refuses bad values",
        work: Work::Chart,
        obstacle: Some(chart::obstacle),
    },
    step("clippy", "no lint fires", clippy),
    step(PROGRAMS, "every program, test and example builds", programs),
    Step {
        name: "unit",
        proves: "rules, codecs and tables, by unit and property tests",
        work: Work::Tests(unit),
        obstacle: None,
    },
    step("docs", "documentation builds without a warning", docs),
    step("simulation", "no seed breaks a promise", simulation),
    step("mutation", "the simulation notices broken rules", mutation),
    Step {
        name: "native",
        proves: "real swap, real processes, kill -9",
        work: Work::Tests(native),
        obstacle: Some(host::native_obstacle),
    },
    Step {
        name: CLUSTER_TESTS,
        proves: "a real API server comes up and leaves nothing; the controller works on it",
        work: Work::Tests(cluster),
        obstacle: Some(host::cluster_obstacle),
    },
    Step {
        name: LAB,
        proves: "ublk, RDMA and cgroup v2 on a distribution kernel, in virtual machines",
        work: Work::Tests(lab),
        obstacle: Some(host::lab_obstacle),
    },
];

fn cargo(root: &Path, arguments: &[&str]) -> Command {
    let mut command = exec::cargo(root);
    command.args(arguments);
    command
}

fn clippy(root: &Path) -> Command {
    let arguments = [
        "clippy",
        "--quiet",
        "--workspace",
        "--all-targets",
        "--",
        "-D",
        "warnings",
    ];
    cargo(root, &arguments)
}

/// Of the whole workspace, as is every later build: another choice of packages would resolve
/// other features and build half of the dependencies again.
fn programs(root: &Path) -> Command {
    cargo(root, &["build", "--workspace", "--all-targets"])
}

fn unit(root: &Path) -> Command {
    let mut command = cargo(root, &["test", "--quiet", "--no-fail-fast", "--workspace"]);
    // Steps of their own, which run them or say why not.
    command.env("DYNAMICSWAP_NATIVE", "apart");
    command.env("DYNAMICSWAP_CLUSTER", "apart");
    command
}

fn docs(root: &Path) -> Command {
    let mut command = cargo(root, &["doc", "--quiet", "--workspace", "--no-deps"]);
    command.env("RUSTDOCFLAGS", "-D warnings");
    command
}

fn simulation(root: &Path) -> Command {
    let mut command = sim::built(root);
    command.args(["--seeds", SIMULATION_SEEDS]);
    command
}

fn mutation(root: &Path) -> Command {
    let mut command = sim::built(root);
    command.arg("--mutations");
    command
}

/// With the programs of the development profile: their assertions and overflow checks are on
/// while they are killed.
fn native(root: &Path) -> Command {
    let mut command = cargo(root, &["test", "--workspace", "--test", NATIVE_TESTS]);
    command.env("DYNAMICSWAP_NATIVE", "1");
    command
}

fn cluster(root: &Path) -> Command {
    let mut command = cargo(
        root,
        &[
            "test",
            "--workspace",
            "--test",
            CLUSTER_TESTS,
            "--test",
            CONTROLLER_TESTS,
        ],
    );
    command.env("DYNAMICSWAP_CLUSTER", "1");
    command
}

fn lab(root: &Path) -> Command {
    let mut command = lab::built(root);
    command.arg("--short");
    command
}

/// The steps with these names; all of them for none.
pub fn chosen(names: &[String]) -> Result<Vec<Step>> {
    if let Some(unknown) = names
        .iter()
        .find(|name| STEPS.iter().all(|step| step.name != **name))
    {
        let known: Vec<&str> = STEPS.iter().map(|step| step.name).collect();
        bail!(
            "--only names the step '{unknown}', which does not exist: choose among {}",
            known.join(", ")
        );
    }
    let named = |wanted: &str| names.iter().any(|name| name == wanted);
    let wanted = |step: &&Step| {
        let needed = step.name == PROGRAMS && NEED_PROGRAMS.iter().any(|name| named(name));
        names.is_empty() || named(step.name) || needed
    };
    Ok(STEPS.iter().filter(wanted).copied().collect())
}

/// Required layers for which there is no step.
pub fn absent_layers(required: &[String]) -> impl Iterator<Item = &str> {
    let absent = |name: &&String| STEPS.iter().all(|step| step.name != **name);
    required.iter().filter(absent).map(String::as_str)
}

/// How a step ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Outcome {
    /// Whether the program ended well.
    pub succeeded: bool,
    /// The command line, to run it alone.
    pub command: String,
    /// Tests that it counted itself.
    pub tests: TestCount,
    /// What it said of tests that it did not run; empty if it ran all.
    pub skipped: String,
}

impl Outcome {
    /// Passed and failed: the tests it counted, or itself as one. A failure that no test of its
    /// own explains (a build error, a crash) counts as one more.
    pub fn counts(&self) -> (u64, u64) {
        let TestCount { passed, failed } = self.tests;
        match (self.succeeded, passed + failed) {
            (true, 0) => (1, 0),
            (true, _) => (passed, failed),
            (false, _) => (passed, failed.max(1)),
        }
    }

    /// How a step ends that is made of tests, and its counts. A test binary that skips itself ends
    /// well, and so does one without tests: neither proves anything.
    pub fn verdict_of_tests(&self, is_required: bool) -> (Status, (u64, u64)) {
        let (passed, failed) = self.counts();
        if !self.succeeded {
            return (self.failure(), (passed, failed));
        }
        if self.skipped.is_empty() && self.tests.passed > 0 {
            return (Status::Passed, (passed, failed));
        }
        let passed = self.tests.passed;
        if self.skipped.is_empty() {
            let reason = format!("it ran no test: {}", self.command);
            return (Status::Failed(reason), (0, 1));
        }
        if is_required {
            let reason = format!("required, but {}", self.skipped);
            return (Status::Failed(reason), (passed, 1));
        }
        (Status::Skipped(self.skipped.clone()), (passed, 0))
    }

    /// A failure, with what to look at.
    pub fn failure(&self) -> Status {
        Status::Failed(format!("see the output above, or run: {}", self.command))
    }
}

/// What a test binary says of tests that it does not run; none for any other line.
fn skipped(line: &str) -> Option<&str> {
    line.trim_start().strip_prefix("SKIPPED ")
}

/// Tests counted from a program's output.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct TestCount {
    /// Passed.
    pub passed: u64,
    /// Failed.
    pub failed: u64,
}

impl TestCount {
    /// Adds what a line of a test binary's output says:
    /// `test result: ok. 3 passed; 0 failed; 1 ignored; ...`.
    fn add_line(&mut self, line: &str) {
        let Some(result) = line.trim_start().strip_prefix("test result:") else {
            return;
        };
        let number = |word: &str| -> u64 {
            let before = result.split(word).next().unwrap_or_default();
            let digits = before.trim_end().rsplit(' ').next().unwrap_or_default();
            digits.parse().unwrap_or(0)
        };
        self.passed += number(" passed");
        self.failed += number(" failed");
    }
}

/// Runs a step's command and counts its tests.
pub fn run_command(command: &mut Command) -> Result<Outcome> {
    let line = exec::describe(command);
    let mut tests = TestCount::default();
    let mut left_out = String::new();
    let succeeded = exec::run_watched(command, |line| {
        tests.add_line(line);
        if let Some(what) = skipped(line) {
            what.clone_into(&mut left_out);
        }
    })?;
    Ok(Outcome {
        succeeded,
        command: line,
        tests,
        skipped: left_out,
    })
}

/// Runs tidy in this process.
pub fn run_tidy(root: &Path) -> Result<Outcome> {
    let findings = tidy::check(root)?;
    tidy::print(&findings);
    Ok(Outcome {
        succeeded: findings.is_empty(),
        command: "cargo xtask tidy".to_owned(),
        tests: TestCount::default(),
        skipped: String::new(),
    })
}

/// Renders the chart in this process.
pub fn run_chart(root: &Path) -> Result<Outcome> {
    let findings = chart::check_found(root)?;
    Ok(Outcome {
        succeeded: findings == 0,
        command: "cargo xtask chart".to_owned(),
        tests: TestCount::default(),
        skipped: String::new(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn test_results_are_summed_over_binaries() {
        let mut count = TestCount::default();
        count.add_line("test result: ok. 12 passed; 0 failed; 1 ignored; 0 measured");
        count.add_line("running 3 tests");
        count.add_line("test result: FAILED. 2 passed; 1 failed; 0 ignored; 0 measured");
        assert_eq!(
            count,
            TestCount {
                passed: 14,
                failed: 1
            }
        );
    }

    fn outcome(succeeded: bool, passed: u64, failed: u64) -> Outcome {
        Outcome {
            succeeded,
            command: "cargo test".to_owned(),
            tests: TestCount { passed, failed },
            skipped: String::new(),
        }
    }

    #[test]
    fn failure_without_a_failed_test_counts_as_one() {
        assert_eq!(outcome(true, 0, 0).counts(), (1, 0));
        assert_eq!(outcome(true, 7, 0).counts(), (7, 0));
        assert_eq!(outcome(false, 7, 2).counts(), (7, 2));
        assert_eq!(outcome(false, 0, 0).counts(), (0, 1));
    }

    #[test]
    fn tests_that_ran_none_are_no_pass() {
        let (status, counts) = outcome(true, 0, 0).verdict_of_tests(false);
        assert!(matches!(status, Status::Failed(_)));
        assert_eq!(counts, (0, 1));
        let (status, counts) = outcome(true, 7, 0).verdict_of_tests(true);
        assert_eq!((status, counts), (Status::Passed, (7, 0)));
        let (status, counts) = outcome(false, 7, 2).verdict_of_tests(false);
        assert!(matches!(status, Status::Failed(_)));
        assert_eq!(counts, (7, 2));
    }

    #[test]
    fn tests_that_skip_themselves_are_skipped_and_fail_where_they_are_required() {
        let line = skipped("SKIPPED native tests: swap is on").expect("skipped");
        assert_eq!(skipped("test a ... ok"), None);
        // Other binaries of the same package did run.
        let outcome = Outcome {
            skipped: line.to_owned(),
            ..outcome(true, 3, 0)
        };
        let (status, counts) = outcome.verdict_of_tests(false);
        assert_eq!(status, Status::Skipped(line.to_owned()));
        assert_eq!(counts, (3, 0));
        let (status, counts) = outcome.verdict_of_tests(true);
        assert!(matches!(status, Status::Failed(reason) if reason.contains("swap is on")));
        assert_eq!(counts, (3, 1));
    }

    #[test]
    fn unknown_step_is_refused_by_name() {
        let error = chosen(&["nativ".to_owned()]).expect_err("unknown");
        assert!(error.to_string().contains("'nativ'"));
        assert_eq!(chosen(&["tidy".to_owned()]).expect("known").len(), 1);
        assert_eq!(chosen(&[]).expect("all").len(), STEPS.len());
        let native = chosen(&["native".to_owned()]).expect("known");
        let names: Vec<_> = native.iter().map(|step| step.name).collect();
        assert_eq!(
            names,
            ["programs", "native"],
            "its programs are built first"
        );
    }

    #[test]
    fn layer_without_a_step_is_absent() {
        let required = ["native".to_owned(), "space".to_owned()];
        assert_eq!(absent_layers(&required).collect::<Vec<_>>(), ["space"]);
    }
}
