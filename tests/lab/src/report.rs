//! What a run leaves: lab.json, with each scenario's verdict and figures.

use std::collections::BTreeMap;
use std::path::Path;

use anyhow::{Context as _, Result};
use serde::Serialize;

/// Measured values by name.
pub type Figures = BTreeMap<String, serde_json::Value>;

/// A scenario's end.
#[derive(Debug, Serialize)]
pub struct Outcome {
    /// Its name.
    pub scenario: String,
    /// Whether everything held.
    pub passed: bool,
    /// What did not.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
    /// How long it took.
    pub seconds: f64,
    /// What it measured.
    pub figures: Figures,
}

/// Writes `lab.json` into `directory`.
///
/// # Errors
/// The host's.
pub fn write(directory: &Path, outcomes: &[Outcome]) -> Result<()> {
    let path = directory.join("lab.json");
    let text = serde_json::to_string_pretty(outcomes).context("outcomes are plain values")?;
    std::fs::write(&path, text + "\n").with_context(|| format!("cannot write {}", path.display()))
}
