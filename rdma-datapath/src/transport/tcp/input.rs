//! What a link reads: a staging buffer for headers and short payloads; long ones go straight to
//! the pool.

use std::io::IoSliceMut;
use std::os::fd::BorrowedFd;

use dynamicswap_engine::buffer::{BufferRange, Buffers};
use rustix::io::{Errno, readv};

/// Seven answers of one page in one system call; copying a page costs a tenth of one.
const STAGING_BYTES: usize = 32 << 10;

/// A payload on its way.
#[derive(Debug, Clone, Copy)]
struct Payload {
    target: BufferRange,
    filled: usize,
}

/// The reading half of a link.
pub(super) struct Input {
    staging: Box<[u8]>,
    start: usize,
    end: usize,
    payload: Option<Payload>,
}

impl Input {
    pub(super) fn new() -> Self {
        Self {
            staging: vec![0; STAGING_BYTES].into_boxed_slice(),
            start: 0,
            end: 0,
            payload: None,
        }
    }

    /// Forgets everything: a new connection begins.
    pub(super) const fn clear(&mut self) {
        self.start = 0;
        self.end = 0;
        self.payload = None;
    }

    /// Reads once. Returns whether there may be more; `None` at the end of the stream.
    pub(super) fn fill(
        &mut self,
        socket: BorrowedFd<'_>,
        buffers: &mut dyn Buffers,
    ) -> Result<Option<bool>, Errno> {
        self.staging.copy_within(self.start..self.end, 0);
        self.end -= self.start;
        self.start = 0;
        let free = &mut self.staging[self.end..];
        let free_len = free.len();
        let (read, wanted) = match &mut self.payload {
            Some(payload) => {
                let target = &mut buffers.bytes_mut(payload.target)[payload.filled..];
                let target_len = target.len();
                let mut slices = [IoSliceMut::new(target), IoSliceMut::new(free)];
                let read = readv(socket, &mut slices)?;
                let direct = read.min(target_len);
                payload.filled += direct;
                self.end += read - direct;
                (read, target_len + free_len)
            }
            None => {
                let read = readv(socket, &mut [IoSliceMut::new(free)])?;
                self.end += read;
                (read, free_len)
            }
        };
        Ok((read > 0).then_some(read == wanted))
    }

    /// Takes `N` bytes, if that many are there and no payload is awaited.
    pub(super) fn take<const N: usize>(&mut self) -> Option<[u8; N]> {
        if self.payload.is_some() {
            return None;
        }
        let bytes = self.staging.get(self.start..self.end)?.first_chunk::<N>()?;
        self.start += N;
        Some(*bytes)
    }

    /// The next bytes belong to `target`.
    pub(super) fn expect(&mut self, target: BufferRange, buffers: &mut dyn Buffers) {
        let bytes = buffers.bytes_mut(target);
        let filled = bytes.len().min(self.end - self.start);
        bytes[..filled].copy_from_slice(&self.staging[self.start..self.start + filled]);
        self.start += filled;
        self.payload = Some(Payload { target, filled });
    }

    /// Whether a payload is awaited and whole; takes it then.
    pub(super) fn payload_done(&mut self) -> bool {
        let done = self
            .payload
            .is_some_and(|payload| payload.filled == payload.target.byte_len());
        if done {
            self.payload = None;
        }
        done
    }

    /// Whether a payload is awaited that is not whole.
    pub(super) const fn awaits_payload(&self) -> bool {
        self.payload.is_some()
    }
}
