//! Where page contents lie: ranges of one registered pool, owned by the shell.

use dynamicswap_types::PAGE_SIZE;

/// A run of whole pages in the buffer pool.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BufferRange {
    /// First page of the run, counted from the pool's start.
    pub first: u32,
    /// Pages of the run, at least 1.
    pub pages: u32,
}

impl BufferRange {
    /// Bytes from the pool's start to the run.
    #[must_use]
    pub const fn byte_offset(self) -> usize {
        self.first as usize * PAGE_SIZE.as_usize()
    }

    /// Length of the run in bytes.
    #[must_use]
    pub const fn byte_len(self) -> usize {
        self.pages as usize * PAGE_SIZE.as_usize()
    }

    /// `pages` pages of this run, `skip` pages in.
    #[must_use]
    pub const fn part(self, skip: u32, pages: u32) -> Self {
        assert!(skip + pages <= self.pages);
        Self {
            first: self.first + skip,
            pages,
        }
    }
}

/// The pool as the pure core sees it: bytes of ranges. For RDMA it is one registered memory
/// region; here it is any memory.
pub trait Buffers {
    /// The bytes of `range`.
    fn bytes(&self, range: BufferRange) -> &[u8];
    /// The bytes of `range`, to write.
    fn bytes_mut(&mut self, range: BufferRange) -> &mut [u8];
}

/// A pool in ordinary memory, for tests and the loopback transport.
impl Buffers for Vec<u8> {
    fn bytes(&self, range: BufferRange) -> &[u8] {
        &self[range.byte_offset()..range.byte_offset() + range.byte_len()]
    }

    fn bytes_mut(&mut self, range: BufferRange) -> &mut [u8] {
        &mut self[range.byte_offset()..range.byte_offset() + range.byte_len()]
    }
}
