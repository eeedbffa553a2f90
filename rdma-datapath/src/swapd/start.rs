//! The engine process's start, in the order of the design: protection, memory, rings, epoch,
//! connections, threads, and only then the first request.

use std::os::fd::OwnedFd;
use std::os::unix::net::UnixListener;
use std::process::ExitCode;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use anyhow::Context;
use clap::Parser;
use dynamicswap_engine::engine::{Engine, EngineConfig};
use dynamicswap_engine::page_guard::{PageGuard, TagLength};
use dynamicswap_engine::slots::Hello;
use dynamicswap_engine::tables::EngineState;
use dynamicswap_proto::daemon::v1::KeptDocument;
use dynamicswap_types::{Epoch, Integrity, PAGE_SIZE, SessionId};

use super::carrier::Carrier;
use super::control::Control;
use super::inherited::Inherited;
use super::io_thread::{IoError, IoThread, Parts};
use super::latencies::Latencies;
use super::local::{self, LocalTransport};
use super::mailbox::mailbox;
use super::memory::{EngineDescriptors, Identity, SwapdMemory, scratch};
use super::options::Options;
use super::paths::Paths;
use super::spill::SpillFile;
use super::{EXIT_FENCED, EXIT_GONE, document, kept};
use crate::daemon::change::ChangeCounter;
use crate::daemon::clock::monotonic_now;
use crate::daemon::control_server::ControlServer;
use crate::daemon::events::EventLog;
use crate::daemon::mapped_file::{MappedBytes, MappedFile};
use crate::daemon::options::{BadInput, exit_code, start_log};
use crate::daemon::protection::Protection;
use crate::daemon::random;
use crate::daemon::spin::AdaptiveSpin;
use crate::daemon::threads;
use crate::front_end::choice::{Choice, FrontEndKind};
use crate::front_end::fuse_loop::FuseLoop;
use crate::front_end::ublk::Ublk;
use crate::front_end::{FrontEnd, FrontEndError, Pool};
use crate::holder::options::Backend;
use crate::transport::rdma::{RdmaOptions, RdmaTransport};
use crate::transport::remote::RemoteTransport;
use crate::transport::tcp::{TcpOptions, TcpTransport};

/// An operation that takes longer costs its link: under a third of the second that a read may
/// stall when its server dies, so that another copy can still answer within it.
const OPERATION_TIMEOUT: Duration = Duration::from_millis(300);
const NAME: &str = "dynamicswap-swapd-engine";

/// The program `dynamicswap-swapd-engine`.
#[must_use]
pub fn main() -> ExitCode {
    let options = Options::parse();
    start_log();
    let result = serve(&options);
    let ended = result
        .as_ref()
        .err()
        .and_then(|error| error.downcast_ref::<IoError>());
    match ended {
        Some(IoError::FrontEnd(FrontEndError::Gone)) => ExitCode::from(EXIT_GONE),
        Some(IoError::Fenced) => {
            tracing::error!("{}", IoError::Fenced);
            ExitCode::from(EXIT_FENCED)
        }
        Some(IoError::FrontEnd(error @ FrontEndError::Protocol { .. })) => {
            exit_code(NAME, Err(BadInput::new(error).into()))
        }
        _ => exit_code(NAME, result),
    }
}

fn serve(options: &Options) -> anyhow::Result<()> {
    let inherited = Inherited::take(options)?;
    let protection = Protection::start();
    let warnings = protection.warnings();
    let paths = Paths::from(options.state_dir.as_path());
    let (memory, pool) = open_memory(inherited.memory, &paths)?;
    memory.set_engine_descriptors(EngineDescriptors {
        fuse: options.fuse_fd,
        control: options.control_fd,
        lock: options.lock_fd,
        spill: options.spill_fd,
    });
    // The holder writes it as well, but one that dies in between would leave the next none to adopt.
    let pid = &memory.header().engine_pid;
    pid.store(std::process::id(), Ordering::Release);
    let identity = memory.identity()?;
    // Rings, and the front end with them, before connections: a host may keep io_uring for those
    // who may administer it, and the ublk front end gives that right up before anything of RDMA is
    // opened, whose files are for the credentials that opened them.
    let spill = inherited.spill.map(open_spill).transpose()?;
    let engine = Start {
        options,
        protection,
        warnings,
        paths,
        memory,
        pool,
        identity,
        listener: UnixListener::from(inherited.control),
        _lock: inherited.lock,
        spill,
    };
    match (options.ublk, inherited.fuse) {
        (Some(number), _) => {
            let front_end = Ublk::new(number, identity.size).map_err(IoError::from)?;
            engine.serve(front_end, FrontEndKind::Ublk)
        }
        (None, Some(fuse)) => {
            engine.serve(FuseLoop::new(fuse, identity.size), FrontEndKind::FuseLoop)
        }
        (None, None) => Err(BadInput::new("there is no device to serve").into()),
    }
}

/// What every engine has before it knows its front end.
struct Start<'o> {
    options: &'o Options,
    protection: Protection,
    warnings: Vec<String>,
    paths: Paths,
    memory: SwapdMemory,
    pool: MappedBytes,
    identity: Identity,
    listener: UnixListener,
    /// Never looked at, only kept.
    _lock: OwnedFd,
    spill: Option<SpillFile>,
}

impl Start<'_> {
    fn serve<F: FrontEnd>(mut self, front_end: F, kind: FrontEndKind) -> anyhow::Result<()> {
        let (options, memory, identity) = (self.options, &self.memory, self.identity);
        let epoch = memory.take_epoch();
        let mut carrier = make_carrier(options.backend, &identity, epoch, &self.paths)?;
        carrier
            .transport()
            .register(self.pool.as_mut_slice())
            .context("register the buffers with the transport")?;
        let (outbox, inbox, events) = mailbox().context("make the mailbox")?;
        let latencies = Arc::new(Latencies::default());
        let pool = Pool::new(self.pool.as_mut_slice());
        let mut io = IoThread::new(Parts {
            engine: make_engine(memory, epoch, self.spill.is_some())?,
            front_end,
            carrier,
            spill: self.spill,
            pool: pool.context("the memory file's pool is too short")?,
            memory,
            inbox,
            latencies: Arc::clone(&latencies),
            spin: AdaptiveSpin::new(Duration::from_micros(u64::from(options.spin_us))),
        });
        let taken = put_kept_in_force(&mut io, options.backend, &self.paths, memory)?;
        self.warnings.extend(recover(&mut io, epoch, kind)?);
        let change = Arc::new(ChangeCounter::default());
        let control = Arc::new(Control {
            identity,
            memory: memory.clone(),
            paths: self.paths,
            backend: options.backend,
            front_end: Choice {
                kind,
                reason: options.front_end_reason.clone(),
            },
            outbox,
            latencies,
            protection: self.protection,
            warnings: self.warnings,
            events: EventLog::new(Arc::clone(&change)),
            change,
            taken: Mutex::new(taken),
        });
        let process = std::process::id();
        let started = format!("engine process {process} serves the device as epoch {epoch}");
        control.events.push("EngineStarted", started);
        let teller = Arc::clone(&control);
        threads::spawn("events", move || teller.tell_events(&events))?;
        let server = ControlServer::start(self.listener, control)?;
        let serving = EngineState::Serving as u32;
        let state = &memory.header().engine_state;
        state.store(serving, Ordering::Release);
        memory.set_serving_since(monotonic_now().as_nanos());
        // Last, because threads that are started later would inherit it.
        if let Some(cpu) = threads::pin_to_isolated() {
            tracing::info!("the I/O thread runs on processor {cpu} alone");
        }
        let result = io.run();
        drop(server);
        Ok(result?)
    }
}

fn open_memory(file: OwnedFd, paths: &Paths) -> anyhow::Result<(SwapdMemory, MappedBytes)> {
    let path = paths.memory_file();
    let again = file.try_clone().context("duplicate a descriptor")?;
    let file = MappedFile::from_file(file, &path)?;
    let again = MappedFile::from_file(again, &path)?;
    if let Err(error) = file.lock() {
        tracing::debug!("{error}: the noswap mount protects it");
    }
    Ok(SwapdMemory::open(file, again)?)
}

fn open_spill(file: OwnedFd) -> Result<SpillFile, BadInput> {
    // Direct I/O of an engine that was killed may still be under way, out of or into buffers that
    // this one is about to use: the end of a process does not wait for it. File systems wait for
    // it before they allocate, and all of the file is allocated already.
    let flags = rustix::fs::FallocateFlags::KEEP_SIZE;
    if let Err(error) = rustix::fs::fallocate(&file, flags, 0, PAGE_SIZE.get()) {
        return Err(BadInput::new(format!(
            "the spill file's disk does not wait for I/O under way ({error}): put --spill-file on ext4 or xfs"
        )));
    }
    SpillFile::new(file).map_err(|error| {
        BadInput::new(format!(
            "the host does not permit io_uring ({error}), which the spill file needs: start swapd without --spill-file"
        ))
    })
}

fn make_engine(memory: &SwapdMemory, epoch: Epoch, spill: bool) -> anyhow::Result<Engine<'_>> {
    let config = EngineConfig {
        geometry: memory.geometry(),
        epoch,
        scratch: scratch(),
        spill,
        operation_timeout: OPERATION_TIMEOUT,
    };
    let engine = Engine::new(config, memory.tables());
    let mut engine = engine.context("take over the tables")?;
    let Identity {
        integrity,
        device_id,
        ..
    } = memory.identity()?;
    let kept = match integrity {
        Integrity::None => return Ok(engine),
        Integrity::Tag64 => TagLength::Half,
        Integrity::Full => TagLength::Whole,
    };
    // A page must never leave readable because a key is missing.
    let key = memory.page_key();
    let key = key.context("the memory file has no key for the device's pages")?;
    engine.guard_with(PageGuard::sealed(&key, device_id, kept));
    Ok(engine)
}

fn make_carrier(
    backend: Backend,
    identity: &Identity,
    epoch: Epoch,
    paths: &Paths,
) -> anyhow::Result<Carrier> {
    if backend == Backend::Local {
        let (_, _, content) = MappedFile::open(&paths.local_content())?.split(0)?;
        let transport = LocalTransport::new(content, identity.slab);
        return Ok(Carrier::Local(Box::new(transport)));
    }
    let hello = Hello {
        device: identity.device_id,
        epoch,
        session: draw_session()?,
        queue: 0,
    };
    let slot_size = identity.slab;
    let tcp = TcpTransport::new(TcpOptions { hello, slot_size }).context("make the transport")?;
    let rdma = RdmaTransport::new(RdmaOptions { hello, slot_size });
    match &rdma {
        Ok(rdma) => tracing::info!("RDMA through {}", rdma.devices().join(", ")),
        Err(error) => tracing::info!("no RDMA on this host, TCP only: {error}"),
    }
    let transport = RemoteTransport::new(tcp, rdma.ok()).context("make the transport")?;
    Ok(Carrier::Remote(Box::new(transport)))
}

fn draw_session() -> anyhow::Result<SessionId> {
    let bytes = random::bytes().context("draw the session's id")?;
    Ok(SessionId::new(u64::from_le_bytes(bytes)))
}

/// Puts the document in force that an engine before this one took. One that does not fit is left
/// for the agent to correct: the device is served without it.
fn put_kept_in_force<F: FrontEnd>(
    io: &mut IoThread<'_, F>,
    backend: Backend,
    paths: &Paths,
    memory: &SwapdMemory,
) -> anyhow::Result<KeptDocument> {
    let now = monotonic_now();
    let kept = kept::load(&paths.document()).unwrap_or_else(|error| {
        tracing::error!("{error}");
        None
    });
    if backend == Backend::Local {
        let identity = memory.identity()?;
        let document = local::document(identity.size, identity.slab);
        io.apply(&document, &[], now).map_err(anyhow::Error::msg)?;
        if kept.is_none() {
            memory.header().desired_attached.store(1, Ordering::Release);
        }
    }
    let mut kept = kept.unwrap_or_default();
    if backend == Backend::Local && kept.server_nodes.is_empty() {
        kept.server_nodes.push("local".to_owned());
    }
    if backend == Backend::Remote {
        kept = kept::put_in_force(kept, |message, server_nodes| {
            let prepared = document::prepare(message, server_nodes);
            let prepared = prepared.map_err(|error| error.to_string())?;
            io.apply(&prepared.document, &prepared.endpoints, now)?;
            io.limit_copies(prepared.copy_bandwidth, now);
            Ok(())
        });
    }
    Ok(kept)
}

/// Asks for what the engine before this one had taken; gives the warning where that is impossible.
fn recover<F: FrontEnd>(
    io: &mut IoThread<'_, F>,
    epoch: Epoch,
    kind: FrontEndKind,
) -> anyhow::Result<Option<String>> {
    match io.recover() {
        Ok(()) => Ok(None),
        Err(error) if kind == FrontEndKind::Ublk => Err(IoError::from(error).into()),
        Err(FrontEndError::Gone) => Err(IoError::from(FrontEndError::Gone).into()),
        Err(_) if epoch == Epoch::new(1) => Ok(None),
        Err(error) => Ok(Some(format!(
            "{error}: requests that the engine before had taken wait for ever (Linux 6.9 is needed)"
        ))),
    }
}
