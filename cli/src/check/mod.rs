//! `dynamicswap check`: what this host can do, what is missing, and the cure, one line each.
//!
//! Owns the output. `facts.rs` looks at the host, `judge.rs` decides.

mod facts;
mod judge;

use std::io::{self, Write as _};
use std::process::ExitCode;

use anyhow::{Context as _, Result};

use self::facts::Facts;
use self::judge::{Line, State, Verdict};
use crate::args::{CheckArgs, CheckOutput};
use crate::ui::{Tone, Ui};

/// Looks, judges and tells. Exit code 1 where this host can neither lend nor borrow as it is.
///
/// # Errors
/// If the output cannot be written.
pub fn run(args: &CheckArgs) -> Result<ExitCode> {
    let verdict = judge::judge(&Facts::gather());
    match args.output {
        CheckOutput::Text => print_text(&verdict, &mut Ui::new()),
        CheckOutput::Json => print_json(&verdict)?,
    }
    let useful = verdict.can_lend && verdict.can_borrow;
    Ok(ExitCode::from(u8::from(!useful)))
}

fn print_text(verdict: &Verdict, ui: &mut Ui) {
    for line in &verdict.checks {
        ui.line(&text(line, ui));
    }
    let able = |yes| if yes { "yes" } else { "no" };
    ui.line(&format!(
        "lend memory: {}; borrow memory: {}",
        able(verdict.can_lend),
        able(verdict.can_borrow)
    ));
}

fn text(line: &Line, ui: &Ui) -> String {
    let (tone, mark) = match line.state {
        State::Good => (Tone::Good, "✓"),
        State::Lacking => (Tone::Warn, "‼"),
        State::Missing => (Tone::Bad, "✗"),
    };
    let mark = ui.paint(tone, mark);
    let cure = line.cure.as_deref();
    let cure = cure.map_or_else(String::new, |cure| format!(": {cure}"));
    format!("{mark} {:<22} {}{cure}", line.check, line.found)
}

fn print_json(verdict: &Verdict) -> Result<()> {
    let text = serde_json::to_string_pretty(verdict).context("cannot write JSON")?;
    writeln!(io::stdout(), "{text}").context("cannot write to standard output")
}
