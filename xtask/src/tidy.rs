//! `cargo xtask tidy`: what was agreed and the compiler does not check, as facts.
//!
//! Owns the list of rules. A rule looks at the sources or at cargo's metadata and returns
//! findings; each says where, what, and what to do.

mod allowed;
mod chart;
mod docs;
mod layers;
mod manifest;
mod panics;
mod purity;
mod safety;
mod size;
mod source;
mod stats;
mod words;

use std::fmt;
use std::path::Path;
use std::process::ExitCode;

use anyhow::Result;
use clap::Args;

use source::{RustFile, Tree};

/// What to print.
#[derive(Debug, Args)]
pub struct Options {
    /// Also prints medians and 90th percentiles of sizes, and the share of tests and docs.
    #[arg(long)]
    report: bool,
}

/// One thing that is not as agreed.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Finding {
    /// Path from the workspace's folder.
    path: String,
    /// Line, from 1.
    line: usize,
    /// What is wrong.
    what: String,
    /// What to do.
    remedy: &'static str,
}

impl Finding {
    fn new(path: &str, line: usize, what: impl Into<String>, remedy: &'static str) -> Self {
        Self {
            path: path.to_owned(),
            line,
            what: what.into(),
            remedy,
        }
    }
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            path,
            line,
            what,
            remedy,
        } = self;
        write!(f, "{path}:{line}: {what}: {remedy}")
    }
}

/// Rules that look at one Rust file.
const FILE_RULES: [fn(&RustFile) -> Vec<Finding>; 7] = [
    docs::header,
    docs::public_items,
    panics::outside_tests,
    panics::reasons_of_exceptions,
    purity::no_effects,
    safety::unsafe_code,
    size::limits,
];

/// Every finding, in order of place.
pub fn check(root: &Path) -> Result<Vec<Finding>> {
    let tree = Tree::load(root)?;
    let mut findings: Vec<Finding> = tree
        .rust
        .iter()
        .flat_map(|file| FILE_RULES.iter().flat_map(|rule| rule(file)))
        .collect();
    findings.extend(tree.texts.iter().flat_map(words::check));
    findings.extend(safety::crate_roots(&tree));
    findings.extend(manifest::check(&tree));
    findings.extend(layers::check(root)?);
    findings.extend(chart::check(root)?);
    findings.extend(allowed::stale(&tree));
    findings.sort();
    Ok(findings)
}

/// Prints findings, one a line, and how many.
pub fn print(findings: &[Finding]) {
    for finding in findings {
        println!("{finding}");
    }
    match findings.len() {
        0 => println!("tidy: nothing to mend"),
        count => println!("tidy: {count} to mend"),
    }
}

/// Checks, prints; code 1 if there is something to mend.
pub fn run(root: &Path, options: &Options) -> Result<ExitCode> {
    let findings = check(root)?;
    if options.report {
        println!("{}", stats::table(&Tree::load(root)?));
    }
    print(&findings);
    Ok(ExitCode::from(u8::from(!findings.is_empty())))
}
