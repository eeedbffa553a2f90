//! The spill file: pages of the device on a disk that may be slow or refuse.

use std::collections::BTreeMap;
use std::time::Duration;

use dynamicswap_engine::effect::SpillOperation;
use dynamicswap_engine::operation::{OperationError, OperationResult};
use dynamicswap_types::MonotonicTime;

/// Latency of a healthy disk.
const LATENCY: Duration = Duration::from_micros(120);
/// Latency of a slow one.
pub const LATENCY_SLOW: Duration = Duration::from_millis(250);

struct Access {
    due: MonotonicTime,
    operation: SpillOperation,
    /// A write's bytes, as they stood when it was handed over.
    bytes: Vec<u8>,
}

/// The disk.
#[derive(Default)]
pub struct Disk {
    pages: BTreeMap<u64, Vec<u8>>,
    under_way: Vec<Access>,
    /// Until when it is slow.
    pub slow_until: MonotonicTime,
    /// Until when it refuses.
    pub failing_until: MonotonicTime,
}

impl Disk {
    /// Takes an operation.
    pub fn submit(&mut self, operation: SpillOperation, bytes: &[u8], now: MonotonicTime) {
        let latency = if now < self.slow_until {
            LATENCY_SLOW
        } else {
            LATENCY
        };
        let bytes = if operation.write {
            bytes.to_vec()
        } else {
            Vec::new()
        };
        self.under_way.push(Access {
            due: now.after(latency),
            operation,
            bytes,
        });
    }

    /// The next operation that is done, with how it ended and a read's bytes.
    pub fn poll(
        &mut self,
        now: MonotonicTime,
    ) -> Option<(SpillOperation, OperationResult, Vec<u8>)> {
        let place = self.under_way.iter().position(|access| access.due <= now)?;
        let Access {
            operation, bytes, ..
        } = self.under_way.remove(place);
        if now < self.failing_until {
            // A disk has no error of its own in the engine's vocabulary; any failure will do.
            return Some((operation, Err(OperationError::LinkDown), Vec::new()));
        }
        if operation.write {
            for (page, bytes) in (operation.page.get()..).zip(bytes.chunks_exact(4096)) {
                self.pages.insert(page, bytes.to_vec());
            }
            return Some((operation, Ok(()), Vec::new()));
        }
        let range = operation.page.get()..operation.page.get() + u64::from(operation.buffer.pages);
        let read = range.flat_map(|page| self.pages.get(&page).cloned().unwrap_or(vec![0; 4096]));
        Some((operation, Ok(()), read.collect()))
    }

    /// When the next operation is done.
    #[must_use]
    pub fn next_time(&self) -> Option<MonotonicTime> {
        self.under_way.iter().map(|access| access.due).min()
    }

    /// The engine died: what it had handed over is written or not, by the toss of a coin.
    pub fn abandon(&mut self, mut coin: impl FnMut() -> bool) {
        for access in std::mem::take(&mut self.under_way) {
            if access.operation.write && coin() {
                let pages = access.operation.page.get()..;
                for (page, bytes) in pages.zip(access.bytes.chunks_exact(4096)) {
                    self.pages.insert(page, bytes.to_vec());
                }
            }
        }
    }

    /// What stands on the disk for a page.
    #[must_use]
    pub fn page(&self, page: u64) -> Option<&[u8]> {
        self.pages.get(&page).map(Vec::as_slice)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use dynamicswap_engine::buffer::BufferRange;
    use dynamicswap_engine::operation::OperationId;
    use dynamicswap_types::PageIndex;

    fn access(write: bool) -> SpillOperation {
        SpillOperation {
            id: OperationId(1),
            page: PageIndex::new(3),
            write,
            buffer: BufferRange { first: 0, pages: 1 },
        }
    }

    #[test]
    fn written_page_is_read_back_and_a_failing_disk_refuses() {
        let mut disk = Disk::default();
        let late = MonotonicTime::from_nanos(1_000_000_000);
        disk.submit(access(true), &[7; 4096], MonotonicTime::ZERO);
        assert!(disk.poll(MonotonicTime::ZERO).is_none());
        assert!(disk.poll(late).is_some_and(|(_, result, _)| result.is_ok()));
        disk.submit(access(false), &[], late);
        let read = disk.poll(late.after(LATENCY)).expect("due");
        assert_eq!(read.2, vec![7; 4096]);
        disk.failing_until = late.after(LATENCY_SLOW);
        disk.submit(access(true), &[8; 4096], late);
        assert!(
            disk.poll(late.after(LATENCY))
                .is_some_and(|(_, result, _)| result.is_err())
        );
        assert_eq!(disk.page(3), Some(&[7; 4096][..]));
    }
}
