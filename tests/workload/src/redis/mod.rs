//! The `redis` workload: a real redis-server inside a container, under load from outside it.
//!
//! Owns the data set, the clients that check every answer, and the digest of the whole data set
//! before and after. The driver stays outside the container: only the server's memory swaps.

mod load;
mod resp;
mod server;

use std::io::{self, Write};
use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use dynamicswap_types::Bytes;

use crate::control::{Control, Ended};
use crate::line::{End, Line, Phase};
use crate::meter::{Meter, Totals};
use crate::page::mix;

pub use resp::{Connection, RespError, Value};
pub use server::Server;

use load::{Client, DataSet};

/// A server whose connections closed has ended within this, or has not died.
const DYING_TIME: Duration = Duration::from_secs(1);

/// What to run.
#[derive(Debug, Clone)]
pub struct Settings {
    /// Memory that the server shall need.
    pub size: Bytes,
    /// Clients, each with a connection and a part of the keys.
    pub clients: usize,
    /// How many of a hundred requests rewrite a value.
    pub write_percent: u64,
    /// Directories of the cgroups that the server enters.
    pub cgroups: Vec<PathBuf>,
    /// The server's program.
    pub program: PathBuf,
    /// Time between two progress lines.
    pub progress_every: Duration,
    /// Seed of the requests and of the values.
    pub seed: u64,
}

/// Loads the data set, puts load on it until `control` ends it, and compares the digests.
/// Lines go to `output`.
///
/// # Errors
/// A server that does not start or that ends, or an output that cannot be written to.
pub fn run(settings: &Settings, control: &Control, output: &mut dyn Write) -> Result<End> {
    let mut server = Server::start(&settings.program, &settings.cgroups)?;
    let data = DataSet::new(settings.size, mix(settings.seed));
    let origin = Instant::now();
    let clients = settings.clients.clamp(1, 64);
    let meters: Vec<Meter> = (0..clients).map(|_| Meter::new(origin)).collect();
    let start = Line::Start {
        workload: "redis".to_owned(),
        pages: data.keys(),
        bytes: settings.size.get(),
        pid: server.pid(),
    };
    let run = Run {
        settings,
        control,
        data,
        meters: &meters,
        port: server.port(),
    };
    write_line(output, &start)?;
    let result = run.all_phases(output, &mut Totals::new(&meters, origin));
    // The connections of a server that dies close a moment before it has ended.
    let died = result.as_ref().err();
    let ended = died.and_then(|_| server.ended_within(DYING_TIME));
    match (result, ended) {
        (Err(_), Some(status)) => bail!("redis-server ended with {status}"),
        (result, _) => {
            server.stop();
            result
        }
    }
}

/// One run's moving parts.
struct Stage<'a, 'm> {
    clients: Vec<Client>,
    output: &'a mut dyn Write,
    totals: &'a mut Totals<'m>,
}

/// One run's fixed parts.
struct Run<'a> {
    settings: &'a Settings,
    control: &'a Control,
    data: DataSet,
    meters: &'a [Meter],
    port: u16,
}

impl Run<'_> {
    fn all_phases(&self, output: &mut dyn Write, totals: &mut Totals<'_>) -> Result<End> {
        let mut clients = Vec::new();
        for number in 0..self.meters.len() {
            clients.push(Client::connect(self, number)?);
        }
        let mut stage = Stage {
            clients,
            output,
            totals,
        };
        self.phase(Phase::Fill, &mut stage, Client::fill)?;
        let before = self.digest(&mut stage, "before")?;
        let mut passes = 0;
        loop {
            self.phase(Phase::Churn, &mut stage, Client::churn)?;
            if passes == self.control.passes() || !self.control.is_running() {
                break;
            }
            passes += 1;
            self.digest(&mut stage, "during")?;
            let pages = self.data.keys();
            let line = Line::Checked {
                pass: passes,
                pages,
            };
            write_line(stage.output, &line)?;
        }
        let after = self.digest(&mut stage, "after")?;
        let mut end = stage.totals.end(self.data.keys());
        if before != after && !self.control.is_aborted() {
            end.wrong_pages += 1;
        }
        write_line(stage.output, &Line::End(end.clone()))?;
        Ok(end)
    }

    /// Reads and checks every value, and tells the digest over those that are never rewritten.
    fn digest(&self, stage: &mut Stage<'_, '_>, when: &str) -> Result<u64> {
        self.phase(Phase::Check, stage, Client::read_all)?;
        let sum = |sum: u64, client: &Client| sum.wrapping_add(client.digest());
        let digest = stage.clients.iter().fold(0, sum);
        let line = Line::Digest {
            when: when.to_owned(),
            digest: format!("{digest:016x}"),
            keys: stage.clients.iter().map(Client::digested).sum(),
        };
        write_line(stage.output, &line)?;
        Ok(digest)
    }

    /// Lets every client do its part of a phase, telling progress meanwhile.
    fn phase(
        &self,
        phase: Phase,
        stage: &mut Stage<'_, '_>,
        work: fn(&mut Client, &Run<'_>) -> Result<()>,
    ) -> Result<()> {
        let Stage {
            clients,
            output,
            totals,
        } = stage;
        write_line(*output, &Line::Phase { phase })?;
        std::thread::scope(|scope| -> Result<()> {
            let workers: Vec<_> = clients
                .iter_mut()
                .map(|client| {
                    scope.spawn(move || {
                        let worked = work(client, self);
                        if worked.is_err() {
                            // The others must not go on until they are told.
                            self.control.end(Ended::Aborted);
                        }
                        self.control.wake();
                        worked
                    })
                })
                .collect();
            loop {
                let done = self.control.wait(self.settings.progress_every, || {
                    workers
                        .iter()
                        .all(std::thread::ScopedJoinHandle::is_finished)
                });
                let told = write_line(*output, &Line::Progress(totals.progress(phase)));
                if told.is_err() {
                    // Nobody listens any more: the clients must not go on for nobody.
                    self.control.end(Ended::Aborted);
                }
                if done {
                    break told?;
                }
            }
            for worker in workers {
                worker
                    .join()
                    .map_err(|_| anyhow::anyhow!("a redis client panicked"))??;
            }
            Ok(())
        })?;
        for client in clients {
            for line in client.take_wrong() {
                write_line(*output, &line)?;
            }
        }
        Ok(())
    }
}

fn write_line(output: &mut dyn Write, line: &Line) -> Result<()> {
    let mut text = serde_json::to_vec(line).context("a line has no JSON form")?;
    text.push(b'\n');
    let written = output.write_all(&text).and_then(|()| output.flush());
    written.map_err(|error: io::Error| anyhow::anyhow!("nobody reads the output: {error}"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::control::Budget;

    fn settings() -> Option<Settings> {
        let program = PathBuf::from("/usr/bin/redis-server");
        if !program.exists() {
            eprintln!("SKIPPED: redis-server is not installed");
            return None;
        }
        Some(Settings {
            size: Bytes::from_mib(2),
            clients: 2,
            write_percent: 30,
            cgroups: Vec::new(),
            program,
            progress_every: Duration::from_millis(20),
            seed: 3,
        })
    }

    fn lines(output: &[u8]) -> Vec<Line> {
        let text = std::str::from_utf8(output).expect("text");
        text.lines()
            .map(|line| serde_json::from_str(line).expect("a line"))
            .collect()
    }

    #[test]
    fn real_server_gives_equal_digests_and_no_wrong_value() {
        let Some(settings) = settings() else { return };
        let control = Control::new(Budget::ops(3000));
        control.ask_for_pass();
        let mut output = Vec::new();
        let end = run(&settings, &control, &mut output).expect("runs");
        assert_eq!(end.wrong_pages, 0);
        let lines = lines(&output);
        let digests: Vec<_> = lines
            .iter()
            .filter_map(|line| match line {
                Line::Digest { when, digest, keys } => Some((when.as_str(), digest, *keys)),
                _ => None,
            })
            .collect();
        assert_eq!(digests.first().map(|d| d.0), Some("before"));
        assert_eq!(digests.last().map(|d| d.0), Some("after"));
        assert!(digests.iter().all(|d| d.1 == digests[0].1 && d.2 > 0));
        assert!(matches!(lines.last(), Some(Line::End(_))));
    }

    #[test]
    fn killed_server_is_an_error_that_says_so() {
        let Some(settings) = settings() else { return };
        let control = Control::new(Budget::until_told());
        let (mut reader, writer) = io::pipe().expect("a pipe");
        let result = std::thread::scope(|scope| {
            let run = scope.spawn(|| run(&settings, &control, &mut { writer }));
            let mut text = String::new();
            let mut buffer = [0; 4096];
            while !text.contains("churn") {
                let read = io::Read::read(&mut reader, &mut buffer).expect("open");
                text.push_str(std::str::from_utf8(&buffer[..read]).expect("text"));
            }
            let Line::Start { pid, .. } =
                serde_json::from_str(text.lines().next().expect("a line")).expect("a line")
            else {
                panic!("not a start");
            };
            let pid = rustix::process::Pid::from_raw(i32::try_from(pid).expect("a pid"));
            rustix::process::kill_process(pid.expect("a pid"), rustix::process::Signal::KILL)
                .expect("killed");
            // The rest of its output is read so that it cannot block.
            io::copy(&mut reader, &mut io::sink()).expect("read");
            run.join().expect("no panic")
        });
        let error = result.expect_err("the server was killed");
        assert!(error.to_string().contains("redis-server ended"), "{error}");
    }
}
