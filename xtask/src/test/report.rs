//! What a test run leaves: test.json, a table, and a closing plain line.

use std::path::Path;
use std::time::Duration;

use anyhow::{Context as _, Result};
use serde::Serialize;

/// How a step ended.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case", tag = "status", content = "reason")]
pub enum Status {
    /// Well.
    Passed,
    /// Not well, with what to look at.
    Failed(String),
    /// Not run, with the reason.
    Skipped(String),
}

#[derive(Debug, Serialize)]
struct Entry {
    name: String,
    #[serde(flatten)]
    status: Status,
    seconds: f64,
    tests_passed: u64,
    tests_failed: u64,
}

/// Every step so far.
#[derive(Debug, Default, Serialize)]
pub struct Report {
    steps: Vec<Entry>,
}

impl Report {
    /// Adds a step's end; `counts` are tests passed and failed.
    pub fn add(&mut self, name: &str, status: Status, time: Duration, counts: (u64, u64)) {
        self.steps.push(Entry {
            name: name.to_owned(),
            status,
            seconds: time.as_secs_f64(),
            tests_passed: counts.0,
            tests_failed: counts.1,
        });
    }

    /// Tests that passed.
    pub fn passed(&self) -> u64 {
        self.steps.iter().map(|step| step.tests_passed).sum()
    }

    /// Tests that failed.
    pub fn failed(&self) -> u64 {
        self.steps.iter().map(|step| step.tests_failed).sum()
    }

    fn skipped(&self) -> usize {
        let skipped = |step: &&Entry| matches!(step.status, Status::Skipped(_));
        self.steps.iter().filter(skipped).count()
    }

    /// Writes test.json into `folder`.
    pub fn write(&self, folder: &Path) -> Result<()> {
        let path = folder.join("test.json");
        let document = serde_json::json!({
            "passed": self.passed(),
            "failed": self.failed(),
            "skipped": self.skipped(),
            "steps": self.steps,
        });
        std::fs::create_dir_all(folder)
            .and_then(|()| std::fs::write(&path, format!("{document:#}\n")))
            .with_context(|| format!("the report could not be written to {}", path.display()))
    }

    /// Prints the table and the closing line.
    pub fn print(&self) {
        println!("\n{}", self.text());
    }

    fn text(&self) -> String {
        let mut lines: Vec<String> = self.steps.iter().map(Entry::line).collect();
        let skipped = self.skipped();
        if skipped > 0 {
            lines.push(format!("{skipped} SKIPPED"));
        }
        lines.push(format!(
            "{} passed, {} failed",
            self.passed(),
            self.failed()
        ));
        lines.join("\n")
    }
}

impl Entry {
    fn line(&self) -> String {
        let Self {
            name,
            seconds,
            tests_passed,
            tests_failed,
            ..
        } = self;
        match &self.status {
            Status::Passed => format!("  {name:<12} passed  {tests_passed:>6} in {seconds:.1} s"),
            Status::Failed(reason) => {
                format!("  {name:<12} FAILED  {tests_failed:>6} in {seconds:.1} s: {reason}")
            }
            Status::Skipped(reason) => format!("  {name:<12} SKIPPED: {reason}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn last_line_is_plain_and_skips_are_counted_above_it() {
        let mut report = Report::default();
        report.add("unit", Status::Passed, Duration::ZERO, (5, 0));
        report.add(
            "clippy",
            Status::Failed("look".to_owned()),
            Duration::ZERO,
            (0, 1),
        );
        report.add(
            "native",
            Status::Skipped("no root".to_owned()),
            Duration::ZERO,
            (0, 0),
        );
        let text = report.text();
        let lines: Vec<&str> = text.lines().collect();
        assert_eq!(lines.last(), Some(&"5 passed, 1 failed"));
        assert!(text.contains("native       SKIPPED: no root"));
        assert!(lines.contains(&"1 SKIPPED"));
    }
}
