//! A load that runs until it is told to end, and how it fared in a stretch of time.

use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use serde_json::Value;

use crate::daemons::{SHORT, spawn, verified};
use crate::guest::Guest;

/// What the load did between two moments.
#[derive(Debug, Clone, Copy)]
pub struct Stretch {
    /// Accesses.
    pub accesses: u64,
    /// The longest one, in microseconds.
    pub stall_us: u64,
}

/// The `verify` workload in a container, at work until [`Load::finish`].
#[derive(Debug)]
pub struct Load {
    /// Lines of its output that belong to earlier stretches.
    read: u64,
}

impl Load {
    /// Starts it: so much memory under such a limit.
    ///
    /// # Errors
    /// If a guest, or what runs in it, does not do it in time.
    pub fn start(guest: &mut Guest, size: &str, limit: &str) -> Result<Self> {
        guest.succeed("mkfifo /run/commands", SHORT)?;
        // One end stays open, so that each command is a line and not the end.
        spawn(guest, "commands", "sh -c 'sleep infinity > /run/commands'")?;
        let work = format!(
            "sh -c 'exec /lab/dynamicswap-workload contain --limit {limit} -- \
             /lab/dynamicswap-workload verify --size {size} --threads 1 --commands \
             --progress-ms 1000 < /run/commands'"
        );
        spawn(guest, "verify", &work)?;
        Ok(Self { read: 0 })
    }

    /// Ends a stretch and begins the next. Fails if the load is not at work any more.
    ///
    /// # Errors
    /// Also if a guest does not answer in time.
    pub fn stretch(&mut self, guest: &mut Guest) -> Result<Stretch> {
        guest.succeed("pgrep -f 'workload verify' >/dev/null", SHORT)?;
        let more = format!("tail -n +{} /run/ds/verify.log", self.read + 1);
        let said = guest.succeed(&more, SHORT)?;
        // The last line may be half written.
        let whole: Vec<&str> = said.lines().filter(|line| line.ends_with('}')).collect();
        self.read += whole.len() as u64;
        stretch(&whole)
    }

    /// Has it check everything and end; gives its last line. Fails if a page was wrong.
    ///
    /// # Errors
    /// Also if a guest, or what runs in it, does not do it in time.
    pub fn finish(self, guest: &mut Guest, time: Duration) -> Result<Value> {
        guest.succeed("echo finish > /run/commands", SHORT)?;
        verified(guest, time)
    }
}

fn stretch(lines: &[&str]) -> Result<Stretch> {
    let mut whole = Stretch {
        accesses: 0,
        stall_us: 0,
    };
    for line in lines {
        let line: Value =
            serde_json::from_str(line).with_context(|| format!("the load printed: {line}"))?;
        ensure!(line["kind"] != "wrong", "a page is wrong: {line}");
        if line["kind"] != "progress" {
            continue;
        }
        let number = |name: &str| {
            let value = line[name].as_u64();
            value.with_context(|| format!("the load's line has no '{name}': {line}"))
        };
        whole.accesses += number("ops")?;
        // One under way has no latency yet.
        let longest = number("max_us")?.max(number("waiting_us")?);
        whole.stall_us = whole.stall_us.max(longest);
    }
    Ok(whole)
}

#[cfg(test)]
mod tests {
    use super::stretch;

    #[test]
    fn longest_wait_counts_whether_it_is_over_or_not() {
        let line = |ops, max, waiting| {
            format!(r#"{{"kind":"progress","ops":{ops},"max_us":{max},"waiting_us":{waiting}}}"#)
        };
        let lines = [line(3, 70, 0), line(0, 0, 900), line(5, 800, 10)];
        let lines: Vec<&str> = lines.iter().map(String::as_str).collect();
        let whole = stretch(&lines).expect("lines of a load");
        assert_eq!((whole.accesses, whole.stall_us), (8, 900));
    }

    #[test]
    fn wrong_page_is_an_error_at_once() {
        let wrong = r#"{"kind":"wrong","page":7,"reason":"zeros"}"#;
        assert!(stretch(&[wrong]).is_err());
        assert!(stretch(&["no line of a load"]).is_err());
    }
}
