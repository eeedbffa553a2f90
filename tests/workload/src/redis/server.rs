//! A redis-server of our own: in the container's cgroups, on a free loopback port, keeping
//! nothing on disk.

use std::io;
use std::net::{Ipv4Addr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use rustix::event::Timespec;

use super::resp::Connection;
use crate::container::enter;

/// Longest start: an empty server is up in some milliseconds.
const START_LIMIT: Duration = Duration::from_secs(20);

/// A running server; it ends with the value.
#[derive(Debug)]
pub struct Server {
    child: Child,
    port: u16,
}

impl Server {
    /// Starts a server inside `cgroups` and waits until it answers.
    ///
    /// # Errors
    /// If the program is missing or the server does not answer.
    pub fn start(program: &Path, cgroups: &[PathBuf]) -> Result<Self> {
        let port = free_port().context("this machine has no free loopback port")?;
        let mut command = Command::new(program);
        command.args(["--port", &port.to_string(), "--bind", "127.0.0.1"]);
        // No persistence and nothing that would rewrite or move values behind the clients.
        command.args(["--save", "", "--appendonly", "no", "--activedefrag", "no"]);
        command.args([
            "--maxmemory",
            "0",
            "--loglevel",
            "warning",
            "--daemonize",
            "no",
        ]);
        command.current_dir("/");
        command.stdin(Stdio::null()).stdout(Stdio::null());
        enter(&mut command, cgroups.iter().map(PathBuf::as_path))?;
        let child = command
            .spawn()
            .with_context(|| format!("cannot start {}: install redis-server", program.display()))?;
        let mut server = Self { child, port };
        let deadline = Instant::now() + START_LIMIT;
        loop {
            if let Some(status) = server.ended() {
                bail!("redis-server ended with {status} while it started");
            }
            if Connection::open(port).is_ok_and(|mut c| c.call(&[b"PING"]).is_ok()) {
                return Ok(server);
            }
            ensure!(
                Instant::now() < deadline,
                "redis-server does not answer on port {port} after {} s",
                START_LIMIT.as_secs()
            );
            pause(Duration::from_millis(20));
        }
    }

    /// Where it listens.
    #[must_use]
    pub fn port(&self) -> u16 {
        self.port
    }

    /// Its process.
    #[must_use]
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// How it ended, if it does so in time.
    pub fn ended_within(&mut self, time: Duration) -> Option<String> {
        let deadline = Instant::now() + time;
        loop {
            let status = self.ended();
            if status.is_some() || Instant::now() >= deadline {
                return status;
            }
            std::thread::park_timeout(Duration::from_millis(5));
        }
    }

    /// How it ended, if it has.
    pub fn ended(&mut self) -> Option<String> {
        self.child.try_wait().ok()?.map(|status| status.to_string())
    }

    /// Ends it.
    pub fn stop(&mut self) {
        // There is nothing to save, so there is nothing to ask for. One that ended is fine.
        let _ended = self.child.kill();
        let _ended = self.child.wait();
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.stop();
    }
}

fn free_port() -> io::Result<u16> {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
    Ok(listener.local_addr()?.port())
}

/// Waits a moment between two attempts.
fn pause(duration: Duration) {
    let timeout = Timespec::try_from(duration).ok();
    // An interrupted wait is a short one.
    let _waited = rustix::event::poll(&mut [], timeout.as_ref());
}
