//! The switch between guests: one unix socket for each, frames copied to all others.
//!
//! QEMU's `stream` network sends each frame behind its length, 4 bytes, big-endian. Links can be
//! cut, which is how scenarios make faults.

use std::io::{Read as _, Write as _};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use anyhow::{Context as _, Result};
use tempfile::TempDir;

/// Longest frame: the guests' MTU is 4500.
const FRAME_MAX: usize = 16 << 10;

/// Which frames of a guest are lost.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Way {
    /// Those that it sends.
    From,
    /// Those that it is sent.
    To,
}

/// One guest's end.
#[derive(Debug)]
struct Port {
    socket: Mutex<Option<UnixStream>>,
    /// Frames from the guest are lost.
    deaf: AtomicBool,
    /// Frames to the guest are lost.
    mute: AtomicBool,
}

impl Port {
    fn socket(&self) -> MutexGuard<'_, Option<UnixStream>> {
        self.socket.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The switch. Its threads end with the guests' connections.
#[derive(Debug)]
pub struct Switch {
    directory: TempDir,
    ports: Arc<Mutex<Vec<Arc<Port>>>>,
}

impl Switch {
    /// Without any guest.
    ///
    /// # Errors
    /// The host's.
    pub fn new() -> Result<Self> {
        Ok(Self {
            directory: tempfile::tempdir().context("cannot make the switch's directory")?,
            ports: Arc::default(),
        })
    }

    fn ports(&self) -> MutexGuard<'_, Vec<Arc<Port>>> {
        self.ports.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A socket for one more guest, which connects to it once.
    ///
    /// # Errors
    /// The host's.
    pub fn port(&self) -> Result<PathBuf> {
        let mut ports = self.ports();
        let path = self.directory.path().join(format!("port-{}", ports.len()));
        let listener = UnixListener::bind(&path).context("cannot make a switch port")?;
        let port = Arc::new(Port {
            socket: Mutex::new(None),
            deaf: AtomicBool::new(false),
            mute: AtomicBool::new(false),
        });
        ports.push(Arc::clone(&port));
        let all = Arc::clone(&self.ports);
        std::thread::spawn(move || {
            if let Ok((socket, _)) = listener.accept() {
                // A guest that ends closes its socket, which is no error here.
                let _ended = serve(socket, &port, &all);
                *port.socket() = None;
            }
        });
        Ok(path)
    }

    /// Cuts a guest's link, or joins it again: guests count from 0 in the order of their start.
    pub fn set_link(&self, guest: usize, up: bool) {
        self.set_way(guest, Way::From, up);
        self.set_way(guest, Way::To, up);
    }

    /// Cuts one way of a guest's link, or joins it again.
    pub fn set_way(&self, guest: usize, way: Way, up: bool) {
        if let Some(port) = self.ports().get(guest) {
            let lost = match way {
                Way::From => &port.deaf,
                Way::To => &port.mute,
            };
            lost.store(!up, Ordering::Relaxed);
        }
    }
}

fn serve(
    mut socket: UnixStream,
    own: &Arc<Port>,
    all: &Mutex<Vec<Arc<Port>>>,
) -> std::io::Result<()> {
    *own.socket() = Some(socket.try_clone()?);
    let mut frame = vec![0; FRAME_MAX + 4];
    loop {
        socket.read_exact(&mut frame[..4])?;
        let len = u32::from_be_bytes([frame[0], frame[1], frame[2], frame[3]]);
        let len = usize::try_from(len).unwrap_or(usize::MAX);
        if len > FRAME_MAX {
            return Err(std::io::Error::other("a frame that is too long"));
        }
        socket.read_exact(&mut frame[4..4 + len])?;
        if own.deaf.load(Ordering::Relaxed) {
            continue;
        }
        let others = all.lock().unwrap_or_else(PoisonError::into_inner).clone();
        for other in others.iter().filter(|other| !Arc::ptr_eq(own, other)) {
            if other.mute.load(Ordering::Relaxed) {
                continue;
            }
            if let Some(socket) = other.socket().as_mut() {
                // A guest that has ended takes no frames.
                let _sent = socket.write_all(&frame[..4 + len]);
            }
        }
    }
}
