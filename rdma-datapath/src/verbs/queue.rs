//! Batches of one-sided operations.

use super::abi::{self, Qp, SendWr, Sge};

/// One operation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Posting {
    /// Comes back with the completion.
    pub id: u64,
    /// READ, or else WRITE.
    pub read: bool,
    /// Where in this process's memory; checked by the device against `lkey`.
    pub local: u64,
    /// Bytes.
    pub len: u32,
    /// Key of the local memory.
    pub lkey: u32,
    /// Where in the peer's memory; checked by the peer's device against `rkey`.
    pub remote: u64,
    /// Key of the peer's memory.
    pub rkey: u32,
    /// Whether its end is told by a completion of its own.
    pub signalled: bool,
}

/// Operations that are handed to the device together. Allocates once.
pub struct Batch {
    requests: Box<[SendWr]>,
    pieces: Box<[Sge]>,
    len: usize,
}

// SAFETY: the pointers in the requests are set right before they are used and mean nothing else.
unsafe impl Send for Batch {}

impl std::fmt::Debug for Batch {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Batch")
            .field("len", &self.len)
            .finish_non_exhaustive()
    }
}

impl Batch {
    /// Room for `most` operations.
    #[must_use]
    pub fn new(most: usize) -> Self {
        let piece = Sge {
            addr: 0,
            length: 0,
            lkey: 0,
        };
        Self {
            requests: vec![SendWr::EMPTY; most].into_boxed_slice(),
            pieces: vec![piece; most].into_boxed_slice(),
            len: 0,
        }
    }

    /// Whether there is nothing to hand over.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Whether the next [`Self::push`] needs the batch to be posted before.
    #[must_use]
    pub const fn is_full(&self) -> bool {
        self.len == self.requests.len()
    }

    /// Forgets what was not posted.
    pub const fn clear(&mut self) {
        self.len = 0;
    }

    /// Adds an operation. A full batch takes no more: see [`Self::is_full`].
    pub fn push(&mut self, posting: Posting) {
        let (Some(request), Some(piece)) = (
            self.requests.get_mut(self.len),
            self.pieces.get_mut(self.len),
        ) else {
            debug_assert!(false, "the batch is full");
            return;
        };
        *piece = Sge {
            addr: posting.local,
            length: posting.len,
            lkey: posting.lkey,
        };
        *request = SendWr {
            wr_id: posting.id,
            opcode: if posting.read {
                abi::OPCODE_READ
            } else {
                abi::OPCODE_WRITE
            },
            send_flags: if posting.signalled {
                abi::SEND_SIGNALED
            } else {
                0
            },
            remote_addr: posting.remote,
            rkey: posting.rkey,
            ..SendWr::EMPTY
        };
        self.len += 1;
    }

    /// The last operation gets a completion of its own.
    pub fn signal_last(&mut self) {
        if let Some(request) = self.requests[..self.len].last_mut() {
            request.send_flags |= abi::SEND_SIGNALED;
        }
    }

    /// Posts everything to `qp`; the batch is empty afterwards. Returns the library's code.
    ///
    /// # Safety
    /// The queue pair must be alive.
    pub(super) unsafe fn post(&mut self, qp: *mut Qp) -> i32 {
        let used = std::mem::take(&mut self.len);
        let requests = &mut self.requests[..used];
        for (request, piece) in requests.iter_mut().zip(&mut self.pieces[..used]) {
            request.num_sge = i32::from(piece.length > 0);
            request.sg_list = piece;
        }
        let mut next = std::ptr::null_mut();
        for request in requests.iter_mut().rev() {
            request.next = next;
            next = request;
        }
        if next.is_null() {
            return 0;
        }
        let mut bad = std::ptr::null_mut();
        // SAFETY: the queue pair is alive by the caller's promise; the chain lies in our boxes and
        // ends with null; the library copies it before it returns.
        unsafe {
            let context = (*qp).context;
            ((*context).ops.post_send)(qp, next, &raw mut bad)
        }
    }
}
