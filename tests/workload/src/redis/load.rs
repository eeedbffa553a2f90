//! The data set, and clients that know what every answer must be.
//!
//! Nine tenths of the keys are written once and carry the digest; the others are rewritten all
//! the time, each by one client, so that its last version is always known.

use anyhow::{Context, Result, bail};
use crc_fast::CrcAlgorithm;
use dynamicswap_types::Bytes;
use std::time::Duration;

use super::Run;
use super::resp::{Connection, Value};
use crate::line::{Line, WRONG_LINES_MAX};
use crate::page::{PAGE_WORDS, Page, RunId, Stamp, mix};

/// Bytes of a value: with redis' own header it stays within a page of its allocator.
const VALUE_BYTES: usize = 3968;
/// What a key costs the server in all: value, allocator, entry and name.
const KEY_COST: u64 = 4224;
/// One key of this many is rewritten by the load.
const REWRITTEN_ONE_OF: u64 = 10;
/// An answer that takes longer has waited for the swap device: a loopback round trip to a server
/// with its memory at hand takes a third of it.
const SWAP_IN_FLOOR: Duration = Duration::from_micros(150);

/// Which keys there are.
#[derive(Debug, Clone, Copy)]
pub(super) struct DataSet {
    keys: u64,
    run: RunId,
}

impl DataSet {
    /// As many keys as need `size` of the server's memory.
    pub(super) fn new(size: Bytes, seed: u64) -> Self {
        Self {
            keys: (size.get() / KEY_COST).max(REWRITTEN_ONE_OF),
            run: RunId::new(seed),
        }
    }

    pub(super) fn keys(self) -> u64 {
        self.keys
    }

    /// Whether the load rewrites a key: by a hash, so that every client has its share of them.
    fn is_rewritten(index: u64) -> bool {
        mix(index).is_multiple_of(REWRITTEN_ONE_OF)
    }
}

/// One connection and its part of the keys: every `step`th from `first`.
#[derive(Debug)]
pub(super) struct Client {
    connection: Connection,
    number: usize,
    first: u64,
    step: u64,
    /// Versions of its own rewritten keys, by position among its own keys.
    versions: Vec<u32>,
    random: u64,
    digest: u64,
    digested: u64,
    wrong: Vec<Line>,
    page: Box<Page>,
}

impl Client {
    pub(super) fn connect(run: &Run<'_>, number: usize) -> Result<Self> {
        let step = run.meters.len() as u64;
        let first = number as u64;
        let own = usize::try_from((run.data.keys.saturating_sub(first)).div_ceil(step));
        Ok(Self {
            connection: Connection::open(run.port)?,
            number,
            first,
            step,
            versions: vec![0; own.context("more keys than fit into memory")?],
            random: mix(run.settings.seed ^ mix(first + 1)),
            digest: 0,
            digested: 0,
            wrong: Vec::new(),
            page: Box::new([0; PAGE_WORDS]),
        })
    }

    /// The digest of the keys that it read last: the sum over all clients does not depend on how
    /// the keys are shared.
    pub(super) fn digest(&self) -> u64 {
        self.digest
    }

    /// Keys that the digest covers.
    pub(super) fn digested(&self) -> u64 {
        self.digested
    }

    /// Wrong answers since the last call.
    pub(super) fn take_wrong(&mut self) -> Vec<Line> {
        std::mem::take(&mut self.wrong)
    }

    /// Writes every own key once.
    pub(super) fn fill(&mut self, run: &Run<'_>) -> Result<()> {
        for position in 0..self.versions.len() {
            if run.control.is_aborted() {
                break;
            }
            self.set(run, position)?;
        }
        Ok(())
    }

    /// Reads and checks every own key.
    pub(super) fn read_all(&mut self, run: &Run<'_>) -> Result<()> {
        (self.digest, self.digested) = (0, 0);
        for position in 0..self.versions.len() {
            if run.control.is_aborted() {
                break;
            }
            let value = self.get(run, position)?;
            let index = self.index(position);
            if !DataSet::is_rewritten(index) {
                let crc = crc_fast::checksum(CrcAlgorithm::Crc64Nvme, &value);
                self.digest = self.digest.wrapping_add(mix(crc ^ mix(index)));
                self.digested += 1;
            }
        }
        Ok(())
    }

    /// Random requests until the control ends them or asks for a pass.
    pub(super) fn churn(&mut self, run: &Run<'_>) -> Result<()> {
        run.control.start_churn();
        let passes = run.control.passes();
        let own = self.versions.len() as u64;
        while own > 0 && run.control.passes() == passes && run.control.take_op() {
            let position = usize::try_from(self.draw() % own).unwrap_or(0);
            let write = self.draw() % 100 < run.settings.write_percent;
            if write {
                // The rewritten key at or before it, among its own keys.
                let mut before = (0..=position).rev();
                let rewritten = |position: &usize| DataSet::is_rewritten(self.index(*position));
                if let Some(position) = before.find(rewritten) {
                    self.set(run, position)?;
                    continue;
                }
            }
            self.get(run, position)?;
        }
        Ok(())
    }

    fn index(&self, position: usize) -> u64 {
        self.first + position as u64 * self.step
    }

    fn draw(&mut self) -> u64 {
        self.random = self.random.wrapping_add(0x9e37_79b9_7f4a_7c15);
        mix(self.random)
    }

    /// The value that a key has now.
    fn expected(&mut self, run: &Run<'_>, position: usize) -> Vec<u8> {
        let stamp = Stamp {
            run: run.data.run,
            index: self.index(position),
            version: self.versions[position],
        };
        stamp.fill(&mut self.page);
        let words = self.page.iter().take(VALUE_BYTES / 8);
        words.flat_map(|word| word.to_le_bytes()).collect()
    }

    fn set(&mut self, run: &Run<'_>, position: usize) -> Result<()> {
        self.versions[position] = self.versions[position].wrapping_add(1);
        let value = self.expected(run, position);
        let key = key(self.index(position));
        match self.call(run, &[b"SET", key.as_bytes(), &value])? {
            Value::Status(status) if status == "OK" => Ok(()),
            other => bail!("redis-server answered SET {key} with {other:?}"),
        }
    }

    fn get(&mut self, run: &Run<'_>, position: usize) -> Result<Vec<u8>> {
        let index = self.index(position);
        let key = key(index);
        let answer = self.call(run, &[b"GET", key.as_bytes()])?;
        let expected = self.expected(run, position);
        let value = match answer {
            Value::Bulk(Some(value)) => value,
            Value::Bulk(None) => Vec::new(),
            other => bail!("redis-server answered GET {key} with {other:?}"),
        };
        let right = value == expected;
        let wrong_before = run.meters[self.number].checked(right);
        if !right && wrong_before < WRONG_LINES_MAX {
            self.wrong.push(Line::Wrong {
                page: index,
                reason: reason(&value, &expected),
            });
        }
        Ok(value)
    }

    fn call(&mut self, run: &Run<'_>, parts: &[&[u8]]) -> Result<Value> {
        let meter = &run.meters[self.number];
        let began = meter.begin();
        let answer = self.connection.call(parts);
        let took = began.elapsed();
        meter.end(VALUE_BYTES as u64, (took >= SWAP_IN_FLOOR).then_some(took));
        answer.context("a request to redis-server failed")
    }
}

fn key(index: u64) -> String {
    format!("key:{index:010}")
}

fn reason(value: &[u8], expected: &[u8]) -> String {
    if value.is_empty() {
        return "the key is gone".to_owned();
    }
    let differs = value.iter().zip(expected).position(|(a, b)| a != b);
    format!(
        "{} bytes, {} expected, the first difference is at {}",
        value.len(),
        expected.len(),
        differs.unwrap_or(value.len().min(expected.len()))
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn data_set_needs_about_the_size_asked_for() {
        let data = DataSet::new(Bytes::from_mib(512), 1);
        assert!((120_000..135_000).contains(&data.keys()));
        assert_eq!(DataSet::new(Bytes::new(1), 1).keys(), REWRITTEN_ONE_OF);
    }

    #[test]
    fn reason_says_where_the_value_differs() {
        assert_eq!(reason(b"", b"abc"), "the key is gone");
        assert!(reason(b"abX", b"abc").ends_with("at 2"));
    }
}
