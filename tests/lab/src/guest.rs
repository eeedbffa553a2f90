//! One guest: a QEMU process, its console in a file, and a line to its init for commands.

use std::fs::File;
use std::io::{BufRead as _, BufReader, Write as _};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};
use rustix::process::{Pid, Signal, kill_process};

use crate::image::Image;

/// A guest boots within it, on a slow host without hardware help.
const BOOT_TIME_MAX: Duration = Duration::from_secs(120);
/// Time for QEMU to make its sockets.
const SOCKET_TIME_MAX: Duration = Duration::from_secs(10);

/// What a guest is.
#[derive(Debug)]
pub struct Machine {
    /// Its name.
    pub name: String,
    /// Its number, which makes its addresses.
    pub number: u8,
    /// Its memory.
    pub memory_mib: u32,
    /// Its port of the switch.
    pub port: PathBuf,
    /// What runs it.
    pub init: Init,
}

/// A guest's first process.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Init {
    /// The lab's own: boots in seconds.
    Own,
    /// systemd, for units.
    Systemd,
}

/// A running guest; ends with its owner.
#[derive(Debug)]
pub struct Guest {
    name: String,
    address: String,
    child: Child,
    commands: UnixStream,
    lines: Receiver<String>,
    transcript: File,
    number: u64,
    is_ready: bool,
}

impl Guest {
    /// Starts it. Logs go to `directory`.
    ///
    /// # Errors
    /// If QEMU cannot be started.
    pub fn start(image: &Image, machine: &Machine, directory: &Path, shown: bool) -> Result<Self> {
        let Machine { name, number, .. } = machine;
        let address = format!("192.168.77.{number}");
        let line = machine.port.with_extension("line");
        let mut child = qemu(image, machine, &line, &address)
            .spawn()
            .context("cannot start setpriv and qemu-system-x86_64")?;
        let console = child.stdout.take().context("the console is not piped")?;
        let log = directory.join(format!("{name}.console.log"));
        keep_console(console, &log, shown.then(|| name.clone()))?;
        let commands = connect(&line).inspect_err(|_| {
            // The first error is the one to tell.
            let _ended = child.kill();
            let _reaped = child.wait();
        })?;
        let lines = read_lines(commands.try_clone().context("cannot copy a socket")?);
        let transcript = directory.join(format!("{name}.commands.log"));
        Ok(Self {
            name: name.clone(),
            address,
            child,
            commands,
            lines,
            transcript: File::create(&transcript)
                .with_context(|| format!("cannot make {}", transcript.display()))?,
            number: 0,
            is_ready: false,
        })
    }

    /// Its name.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Its IP address.
    #[must_use]
    pub fn address(&self) -> &str {
        &self.address
    }

    fn next_line(&mut self, deadline: Instant) -> Result<String> {
        let left = deadline.saturating_duration_since(Instant::now());
        match self.lines.recv_timeout(left) {
            Ok(line) => Ok(line),
            Err(RecvTimeoutError::Timeout) => bail!("{} does not answer in time", self.name),
            Err(RecvTimeoutError::Disconnected) => bail!("{} has ended", self.name),
        }
    }

    fn wait_ready(&mut self) -> Result<()> {
        let deadline = Instant::now() + BOOT_TIME_MAX;
        while !self.is_ready {
            self.is_ready = self.next_line(deadline).context("booting")? == "ready";
        }
        Ok(())
    }

    /// Runs a bash script in the guest; gives its exit code and what it printed.
    ///
    /// # Errors
    /// If it does not end within `time`, or the guest has ended.
    pub fn run(&mut self, script: &str, time: Duration) -> Result<(i32, String)> {
        self.wait_ready()?;
        self.number += 1;
        let (number, encoded) = (self.number, base64(script.as_bytes()));
        writeln!(self.transcript, "{number}> {script}").context("cannot write the transcript")?;
        self.commands
            .write_all(format!("{number} {encoded}\n").as_bytes())
            .with_context(|| format!("{} takes no commands", self.name))?;
        let deadline = Instant::now() + time;
        let (output, end) = (format!("{number}|"), format!("{number}="));
        let mut said = String::new();
        loop {
            let line = self
                .next_line(deadline)
                .with_context(|| format!("running: {script}\nso far: {said}"))?;
            if let Some(text) = line.strip_prefix(&output) {
                writeln!(self.transcript, "{line}").context("cannot write the transcript")?;
                said.push_str(text);
                said.push('\n');
            } else if let Some(code) = line.strip_prefix(&end) {
                writeln!(self.transcript, "{line}").context("cannot write the transcript")?;
                return Ok((code.parse().context("an exit code")?, said));
            }
        }
    }

    /// As [`Self::run`], for a script that must succeed.
    ///
    /// # Errors
    /// Also if its exit code is not 0.
    pub fn succeed(&mut self, script: &str, time: Duration) -> Result<String> {
        let (code, said) = self.run(script, time)?;
        ensure!(
            code == 0,
            "in {}: '{script}' ended with {code}: {said}",
            self.name
        );
        Ok(said)
    }

    /// Stops its processors, as a hypervisor that moves it or swaps: it does not see the time go by.
    ///
    /// # Errors
    /// If it has ended.
    pub fn freeze(&self) -> Result<()> {
        self.signal(Signal::STOP)
    }

    /// Lets it go on.
    ///
    /// # Errors
    /// If it has ended.
    pub fn thaw(&self) -> Result<()> {
        self.signal(Signal::CONT)
    }

    fn signal(&self, signal: Signal) -> Result<()> {
        kill_process(Pid::from_child(&self.child), signal)
            .with_context(|| format!("cannot signal {}", self.name))
    }

    /// Ends it at once, as a power failure does.
    pub fn power_off(&mut self) {
        // It may have ended by itself.
        let _ended = self.child.kill();
        let _reaped = self.child.wait();
    }
}

impl Drop for Guest {
    fn drop(&mut self) {
        self.power_off();
    }
}

fn qemu(image: &Image, machine: &Machine, line: &Path, address: &str) -> Command {
    let Machine { name, number, .. } = machine;
    let drive =
        |path: &Path, more: &str| format!("file={},if=virtio,format=raw,{more}", path.display());
    // Ends with this process, however that ends.
    let mut command = Command::new("setpriv");
    command
        .args(["--pdeathsig", "KILL", "qemu-system-x86_64"])
        .args(["-accel", "tcg,thread=multi", "-cpu", "max", "-smp", "1"])
        .args(["-display", "none", "-monitor", "none", "-no-reboot"])
        .args(["-m", &machine.memory_mib.to_string()])
        .arg("-kernel")
        .arg(image.kernel())
        .arg("-initrd")
        .arg(image.initrd())
        .args(["-drive", &drive(&image.root(), "snapshot=on")])
        .args(["-drive", &drive(image.programs(), "readonly=on")])
        .args(["-serial", "stdio", "-serial"])
        .arg(format!("unix:{},server=on,wait=off", line.display()))
        .arg("-netdev")
        .arg(format!(
            "stream,id=n0,server=off,addr.type=unix,addr.path={}",
            machine.port.display()
        ))
        .arg("-device")
        .arg(format!(
            "virtio-net-pci,netdev=n0,mac=52:54:00:00:00:{number:02x},host_mtu=4500"
        ))
        .arg("-append")
        .arg(format!(
            "console=ttyS0 panic=-1 mitigations=off lab.name={name} lab.ip={address}{}",
            match machine.init {
                Init::Own => "",
                // Without the coldplug of every device: minutes of it, in a guest without hardware help.
                Init::Systemd => " lab.systemd systemd.mask=systemd-udev-trigger.service",
            }
        ));
    command.stdin(Stdio::null()).stdout(Stdio::piped());
    command
}

/// Copies a console to its file, and shows it if it has a name.
fn keep_console(
    console: impl std::io::Read + Send + 'static,
    log: &Path,
    shown: Option<String>,
) -> Result<()> {
    let mut file = File::create(log).with_context(|| format!("cannot make {}", log.display()))?;
    std::thread::spawn(move || {
        for line in BufReader::new(console).split(b'\n') {
            let Ok(line) = line else {
                return;
            };
            let line = String::from_utf8_lossy(&line);
            // A full disk must not end the guest.
            let _written = writeln!(file, "{}", line.trim_end());
            if let Some(name) = &shown {
                println!("{name:>10} | {}", line.trim_end());
            }
        }
    });
    Ok(())
}

fn connect(path: &Path) -> Result<UnixStream> {
    let deadline = Instant::now() + SOCKET_TIME_MAX;
    loop {
        match UnixStream::connect(path) {
            Ok(socket) => return Ok(socket),
            Err(error) if Instant::now() > deadline => {
                return Err(error).context("QEMU does not offer its serial line");
            }
            Err(_) => std::thread::park_timeout(Duration::from_millis(20)),
        }
    }
}

fn read_lines(socket: UnixStream) -> Receiver<String> {
    let (sender, lines) = channel();
    std::thread::spawn(move || {
        for line in BufReader::new(socket).split(b'\n') {
            let Ok(line) = line else {
                return;
            };
            let line = String::from_utf8_lossy(&line);
            if sender.send(line.trim_end().to_owned()).is_err() {
                return;
            }
        }
    });
    lines
}

fn base64(bytes: &[u8]) -> String {
    const LETTERS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut text = String::with_capacity(bytes.len().div_ceil(3) * 4);
    for group in bytes.chunks(3) {
        let mut three = [0; 3];
        three[..group.len()].copy_from_slice(group);
        let [a, b, c] = three;
        let sixes = [
            a >> 2,
            (a & 3) << 4 | b >> 4,
            (b & 15) << 2 | c >> 6,
            c & 63,
        ];
        for (place, six) in sixes.into_iter().enumerate() {
            let letter = LETTERS.get(usize::from(six)).copied().unwrap_or(b'=');
            let letter = if place > group.len() { b'=' } else { letter };
            text.push(char::from(letter));
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::base64;

    #[test]
    fn base64_is_that_of_the_standard() {
        for (plain, encoded) in [
            ("", ""),
            ("f", "Zg=="),
            ("fo", "Zm8="),
            ("foo", "Zm9v"),
            ("foobar", "Zm9vYmFy"),
        ] {
            assert_eq!(base64(plain.as_bytes()), encoded);
        }
    }
}
