//! Start and end of the process, in the order of the design: what can be refused without a trace
//! comes first, what takes memory last.

use std::fs;
use std::net::TcpListener;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixListener;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, sync_channel};
use std::thread::JoinHandle;

use anyhow::Context as _;
use dynamicswap_engine::limits::DEVICES_MAX;
use dynamicswap_engine::slots::{CoreLimits, MemoryServerCore, SlotEffect};
use dynamicswap_types::{Bytes, IncarnationId};
use rustix::event::{EventfdFlags, PollFd, PollFlags, eventfd, poll};
use rustix::io::Errno;
use rustix::process::Signal;

use super::control::Control;
use super::io_thread::{IoThread, SPARE_PLACES, connections};
use super::lock;
use super::mailbox::{Command, Mailbox};
use super::memory_file::{MemoryFile, Wanted, file_bytes, kept_port};
use super::options::Options;
use super::rdma::RdmaServer;
use super::shared::{ServerEvent, Shared, Snapshot};
use super::zeroing::{self, SlotFile, Work};
use crate::daemon::change::ChangeCounter;
use crate::daemon::control_server::{self, ControlServer};
use crate::daemon::events::EventLog;
use crate::daemon::memory_mount::MemoryDirectory;
use crate::daemon::options::BadInput;
use crate::daemon::protection::Protection;
use crate::daemon::random;
use crate::daemon::signals::Signals;
use crate::daemon::spin::AdaptiveSpin;
use crate::daemon::threads;

/// Memory that must stay available beside the slots: this process's own and some air.
const HEADROOM: Bytes = Bytes::from_mib(64);
/// Events that may wait for the event thread.
const EVENTS_WAITING_MAX: usize = 256;

/// Runs the memory server until SIGTERM or SIGINT. The memory file stays.
///
/// # Errors
/// [`BadInput`] for what the caller can mend, anything else otherwise.
pub fn run(options: &Options) -> anyhow::Result<()> {
    options.check()?;
    fs::create_dir_all(&options.state_dir).map_err(|error| {
        BadInput::new(format!(
            "--state-dir '{}' cannot be made: {error}",
            options.state_dir.display()
        ))
    })?;
    let _lock = lock::take(&options.state_dir)?;
    if options.discard {
        return discard(options);
    }
    let signals = Signals::block(&[Signal::TERM, Signal::INT]).context("block signals")?;
    let listener = listen(options)?;
    let socket = control_server::bind(&options.control_socket).map_err(BadInput::new)?;
    let served = serve(options, listener, socket, &signals);
    // Of our own making; if it is gone already, all the better.
    let _ = fs::remove_file(&options.control_socket);
    served
}

fn memory_path(options: &Options) -> PathBuf {
    options.state_dir.join("memory").join("slots")
}

fn discard(options: &Options) -> anyhow::Result<()> {
    MemoryDirectory::discard(&options.state_dir).map_err(BadInput::new)?;
    tracing::info!("the memory of '{}' is gone", options.state_dir.display());
    Ok(())
}

/// Binds the data path; with port 0, the port of the process before, so that borrowers find the
/// server again without their controller.
fn listen(options: &Options) -> anyhow::Result<TcpListener> {
    let mut address = options.listen;
    if address.port() == 0 {
        address.set_port(kept_port(&memory_path(options)));
    }
    let bound = TcpListener::bind(address).or_else(|error| {
        if address == options.listen {
            Err(error)
        } else {
            TcpListener::bind(options.listen)
        }
    });
    let listener = bound.map_err(|error| {
        BadInput::new(format!(
            "--listen {} cannot be used ({error}): choose another address or port",
            options.listen
        ))
    })?;
    listener
        .set_nonblocking(true)
        .context("make the listener non-blocking")?;
    Ok(listener)
}

fn serve(
    options: &Options,
    listener: TcpListener,
    socket: UnixListener,
    signals: &Signals,
) -> anyhow::Result<()> {
    let protection = Protection::start();
    let had_memory = memory_path(options).exists();
    let (memory, mut warnings) = match open_memory(options, had_memory) {
        Ok(opened) => opened,
        Err(error) => {
            if !had_memory {
                // Leave the host as it was; the first error is the one to tell.
                let _ = MemoryDirectory::discard(&options.state_dir);
            }
            return Err(error);
        }
    };
    warnings.extend(protection.warnings());
    for warning in &warnings {
        tracing::warn!("{warning}");
    }
    let address = listener.local_addr().context("read the bound address")?;
    memory.records.record_port(address.port());
    let ended = eventfd(0, EventfdFlags::CLOEXEC).context("make an eventfd")?;
    let rdma = listen_by_rdma(options, &memory, address.port(), &mut warnings)?;
    let rdma_address = rdma.as_ref().map(|rdma| rdma.address);
    let running = Running::start(options, memory, (listener, rdma), &ended)?;
    let control = Control {
        mailbox: Arc::clone(&running.mailbox),
        shared: Arc::clone(&running.shared),
        events: Arc::clone(&running.events),
        incarnation: running.incarnation,
        held_file: running.held_file.try_clone().context("copy a descriptor")?,
        geometry: options.geometry()?,
        address,
        rdma_address,
        protection,
        warnings,
    };
    let _control = ControlServer::start(socket, Arc::new(control)).context("serve the agent")?;
    running.events.push(
        "Started",
        format!(
            "node {} lends {} on {address}{}; its memory was {}",
            options.node,
            options.capacity,
            rdma_address.map_or_else(String::new, |rdma| format!(" and by RDMA on {rdma}")),
            if had_memory { "kept" } else { "made anew" }
        ),
    );
    wait_for_end(signals, &ended)?;
    running.stop()
}

/// Listens by RDMA if that is wanted. A host that cannot serves TCP, and says so.
fn listen_by_rdma(
    options: &Options,
    memory: &MemoryFile,
    tcp_port: u16,
    warnings: &mut Vec<String>,
) -> anyhow::Result<Option<RdmaServer>> {
    let Some(mut address) = options.rdma_listen else {
        return Ok(None);
    };
    if address.port() == 0 {
        // Ports of RDMA are others than those of TCP, and that one stays over restarts.
        address.set_port(tcp_port);
    }
    let first = options.connections_max + SPARE_PLACES;
    let sessions = (first, options.connections_max);
    match RdmaServer::listen(address, sessions, options.geometry()?, &memory.slots) {
        Ok(rdma) => Ok(Some(rdma)),
        Err(error) => {
            let warning = format!(
                "no RDMA on {address}, borrowers use TCP: {error}; see docs/operations.md, RDMA"
            );
            tracing::warn!("{warning}");
            warnings.push(warning);
            Ok(None)
        }
    }
}

/// Opens or makes the memory file; gives what the host refused with it.
fn open_memory(options: &Options, had_memory: bool) -> anyhow::Result<(MemoryFile, Vec<String>)> {
    let geometry = options.geometry()?;
    let needed = file_bytes(geometry);
    if !had_memory {
        refuse_impossible_capacity(options.capacity, needed)?;
    }
    let directory = MemoryDirectory::prepare(&options.state_dir, needed).map_err(BadInput::new)?;
    let wanted = Wanted {
        node: options.node.clone(),
        geometry,
    };
    let random = random::bytes().context("draw an incarnation id")?;
    let incarnation = IncarnationId::from_bytes(random);
    let memory = MemoryFile::open(&directory.path.join("slots"), &wanted, incarnation)
        .map_err(BadInput::new)?;
    let mut warnings = directory.warnings;
    if let Err(error) = memory.lock() {
        warnings.push(format!(
            "the lent memory could not be locked ({error}): give this daemon CAP_IPC_LOCK"
        ));
    }
    Ok((memory, warnings))
}

fn refuse_impossible_capacity(capacity: Bytes, needed: Bytes) -> anyhow::Result<()> {
    let text = fs::read_to_string("/proc/meminfo").context("read /proc/meminfo")?;
    let available = available_bytes(&text).context("find MemAvailable in /proc/meminfo")?;
    let most = available.saturating_sub(HEADROOM);
    if needed <= most {
        return Ok(());
    }
    let most = Bytes::from_mib(u32::try_from(most.get() >> 20).unwrap_or(u32::MAX));
    Err(BadInput::new(format!(
        "--capacity {capacity} is more than this node can lend: choose at most {most}"
    ))
    .into())
}

fn available_bytes(meminfo: &str) -> Option<Bytes> {
    let line = meminfo
        .lines()
        .find_map(|line| line.strip_prefix("MemAvailable:"))?;
    let kib: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    Some(Bytes::new(kib.checked_mul(1024)?))
}

/// The threads.
struct Running {
    mailbox: Arc<Mailbox>,
    shared: Arc<Shared>,
    events: Arc<EventLog>,
    incarnation: IncarnationId,
    /// The memory file, to ask what it takes.
    held_file: OwnedFd,
    io: JoinHandle<Result<(), Errno>>,
}

impl Running {
    fn start(
        options: &Options,
        memory: MemoryFile,
        (listener, rdma): (TcpListener, Option<RdmaServer>),
        ended: &OwnedFd,
    ) -> anyhow::Result<Self> {
        let limits = CoreLimits {
            geometry: options.geometry()?,
            connections_max: usize::from(2 * options.connections_max + SPARE_PLACES),
            devices_max: DEVICES_MAX,
        };
        let mut effects = Vec::new();
        let core = MemoryServerCore::restore(limits, &memory.kept, &mut effects);
        let incarnation = core.incarnation();
        let change = Arc::new(ChangeCounter::default());
        let events = Arc::new(EventLog::new(Arc::clone(&change)));
        let (sender, receiver) = sync_channel(EVENTS_WAITING_MAX);
        let shared = Arc::new(Shared::new(Snapshot::of(&core), change, sender));
        let mailbox = Arc::new(Mailbox::new().context("make an eventfd")?);
        tell_events(Arc::clone(&events), receiver)?;
        let held_file = memory.file.try_clone().context("copy a descriptor")?;
        let slot_file = SlotFile {
            file: memory.file,
            offset: memory.slots_offset,
            slot_size: limits.geometry.slot_size,
        };
        let zeroing = zeroing::start(slot_file, Arc::clone(&mailbox), Arc::clone(&shared))?;
        for effect in effects {
            if let SlotEffect::Zero(slot) = effect {
                let work = Work::Zero(slot);
                zeroing.send(work).context("reach the zeroing thread")?;
            }
        }
        let thread = IoThread {
            rdma,
            core,
            records: memory.records,
            slots: memory.slots,
            listener,
            mailbox: Arc::clone(&mailbox),
            shared: Arc::clone(&shared),
            zeroing,
            spin: AdaptiveSpin::new(options.spin()),
            connections: connections(options.connections_max),
            sessions_max: usize::from(options.connections_max),
        };
        let ended = ended.try_clone().context("copy an eventfd")?;
        let io = threads::spawn("io", move || {
            let result = thread.run();
            // Tells the main thread, which waits for nothing else but signals.
            let _ = rustix::io::write(&ended, &1_u64.to_ne_bytes());
            result
        })?;
        Ok(Self {
            mailbox,
            shared,
            events,
            incarnation,
            held_file,
            io,
        })
    }

    fn stop(self) -> anyhow::Result<()> {
        self.mailbox.send(Command::Stop);
        match self.io.join() {
            Ok(result) => result.context("the I/O thread failed"),
            Err(_) => anyhow::bail!("the I/O thread panicked: start again, its memory is kept"),
        }
    }
}

/// Makes sentences of what the I/O thread tells; ends with the last sender.
fn tell_events(events: Arc<EventLog>, receiver: Receiver<ServerEvent>) -> anyhow::Result<()> {
    threads::spawn("events", move || {
        while let Ok(event) = receiver.recv() {
            let (kind, message) = event.tell();
            events.push(kind, message);
        }
    })?;
    Ok(())
}

/// Waits for a signal, or for the I/O thread to fail.
fn wait_for_end(signals: &Signals, ended: &OwnedFd) -> anyhow::Result<()> {
    loop {
        let mut ready = [
            PollFd::new(signals, PollFlags::IN),
            PollFd::from_borrowed_fd(ended.as_fd(), PollFlags::IN),
        ];
        match poll(&mut ready, None) {
            Ok(_) | Err(Errno::INTR) => {}
            Err(errno) => return Err(errno).context("wait for signals"),
        }
        if !ready[1].revents().is_empty() {
            return Ok(());
        }
        if let Some(signal) = signals.take().context("read signals")? {
            tracing::info!("ends on signal {}; its memory is kept", signal.as_raw());
            return Ok(());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn available_memory_is_read_from_meminfo() {
        let text = "MemTotal: 100 kB\nMemAvailable:   2048 kB\nSwapFree: 0 kB\n";
        assert_eq!(available_bytes(text), Some(Bytes::from_mib(2)));
        assert_eq!(available_bytes("MemTotal: 1 kB\n"), None);
    }
}
