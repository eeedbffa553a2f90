//! docs/two-machines.md, word for word: its commands are taken from it and run, each on the machine
//! that it names, and what it promises to be seen must be seen.

use std::time::Duration;

use anyhow::{Context as _, Result, bail, ensure};

use crate::Lab;
use crate::daemons::{SHORT, soft_roce};
use crate::guest::{Guest, Init};

const DOCUMENT: &str = include_str!("../../../../docs/two-machines.md");
/// The slowest command brings a workload of twice its memory through the device.
const COMMAND_TIME_MAX: Duration = Duration::from_secs(600);

/// A command of the document: where, what, and what its output must contain.
#[derive(Debug, PartialEq, Eq)]
struct Step<'d> {
    machine: &'d str,
    script: &'d str,
    shows: Vec<&'d str>,
}

/// Blocks that begin with ```sh lender or ```sh borrower, each with the ```text block behind it, if
/// there is one: every line of that must be part of what the commands print.
fn steps(document: &str) -> Result<Vec<Step<'_>>> {
    let mut steps: Vec<Step<'_>> = Vec::new();
    let mut rest = document;
    while let Some((_, from)) = rest.split_once("\n```") {
        let (kind, from) = from.split_once('\n').context("a block without a line")?;
        let (text, after) = from.split_once("\n```").context("a block without an end")?;
        match kind.split_once(' ') {
            Some(("sh", machine)) => steps.push(Step {
                machine,
                script: text,
                shows: Vec::new(),
            }),
            None if kind == "text" => {
                let step = steps.last_mut().context("an output before any command")?;
                step.shows = text.lines().map(str::trim).collect();
            }
            _ => {}
        }
        rest = after;
    }
    Ok(steps)
}

pub(super) fn play(lab: &mut Lab) -> Result<()> {
    let steps = steps(DOCUMENT)?;
    ensure!(
        steps.len() >= 8,
        "the document has {} commands only",
        steps.len()
    );
    let mut lender = lab.start_with(Init::Systemd, "lender", 768)?;
    let mut borrower = lab.start_with(Init::Systemd, "borrower", 640)?;
    for guest in [&mut lender, &mut borrower] {
        // Where the document has them installed.
        guest.succeed("ln -s /lab/dynamicswap* /usr/local/bin/", SHORT)?;
        soft_roce(guest)?;
    }
    for step in &steps {
        let guest = match step.machine {
            "lender" => &mut lender,
            "borrower" => &mut borrower,
            other => bail!("the document names a machine '{other}'"),
        };
        run(guest, step)?;
    }
    lab.note("commands", steps.len());
    for guest in [&mut lender, &mut borrower] {
        let left = "cat /proc/swaps | tail -n +2; ls -d /run/dynamicswap* /var/lib/dynamicswap* \
                    /etc/systemd/system/dynamicswap* /etc/systemd/system/*/dynamicswap* 2>/dev/null; \
                    pgrep -a dynamicswap; grep dynamicswap /proc/mounts; true";
        let left = guest.succeed(left, SHORT)?;
        ensure!(left.trim().is_empty(), "left on {}: {left}", guest.name());
    }
    Ok(())
}

fn run(guest: &mut Guest, step: &Step<'_>) -> Result<()> {
    let said = guest.succeed(step.script, COMMAND_TIME_MAX)?;
    for line in &step.shows {
        ensure!(
            said.contains(line),
            "on {}: '{}' does not show '{line}' but: {said}",
            guest.name(),
            step.script
        );
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn commands_are_found_with_their_machines_and_outputs() {
        let text = "a\n```sh lender\nx\ny\n```\nb\n```text\n  seen\n```\n```sh\nnot run\n```\n";
        let expected = Step {
            machine: "lender",
            script: "x\ny",
            shows: vec!["seen"],
        };
        assert_eq!(steps(text).expect("a document"), [expected]);
        let ours = steps(DOCUMENT).expect("the document");
        assert!(
            ours.iter()
                .all(|step| ["lender", "borrower"].contains(&step.machine))
        );
    }
}
