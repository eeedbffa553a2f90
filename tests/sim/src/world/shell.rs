//! The shell around the engine: starts it, carries out its effects, brings it what happened.

use std::time::Duration;

use dynamicswap_datapath::transport::Transport as _;
use dynamicswap_datapath::transport::TransportEvent;
use dynamicswap_datapath::transport::fault::{Cut, Faults};
use dynamicswap_engine::buffer::{BufferRange, Buffers as _};
use dynamicswap_engine::effect::{Effect, EngineEvent, SpillOperation};
use dynamicswap_engine::link::Link;
use dynamicswap_engine::operation::OperationResult;
use dynamicswap_engine::request::{RequestError, RequestTag};
use dynamicswap_engine::reserve::ApplyError;
use dynamicswap_engine::tables::SetEntry;
use dynamicswap_types::ServerIndex;

use super::{Ghost, World};
use crate::kernel::{Draft, Seen, Verb};
use crate::mutation::Mutation;
use crate::process::{Birth, Nowhere, Process};
use crate::story::Verdict;

/// Rounds of one moment after which the rest waits for the next.
const ROUNDS_MAX: usize = 64;

impl World<'_> {
    /// Starts a new engine when its time has come: it reads the tables, takes the kept document
    /// and gets every unfinished request again.
    pub(super) fn restart_engine(&mut self) -> Verdict {
        if self.restart_at.is_none_or(|at| at > self.now) {
            return Ok(());
        }
        // One that hung is killed now.
        self.bury();
        self.restart_at = None;
        if let Some(since) = self.away_since.take() {
            self.damage.engine_was_away(since, self.now);
        }
        if self.mutation != Some(Mutation::EpochKept) || self.epoch == 0 {
            self.epoch += 1;
        }
        self.starts += 1;
        let birth = Birth {
            scenario: &self.scenario,
            tables: self.tables,
            geometry: self.geometry,
            network: &self.network,
            device: self.device,
            epoch: self.epoch,
            start: self.starts,
            mutation: self.mutation,
        };
        let pool = std::mem::take(&mut self.pool);
        let mut process = match Process::start(birth, pool, self.now) {
            Ok(process) => process,
            Err(error) => {
                return Err(self.broken("an engine starts on its tables", error.to_string()));
            }
        };
        let ways = self.donors.iter().zip(&self.faults);
        process.connect(ways.map(|(donor, (faults, _))| (donor.address, *faults)));
        let epoch = self.epoch;
        self.story
            .tell(self.now, || format!("engine of epoch {epoch} starts"));
        // It may be one that the process before has kept and not put in force.
        self.note_damage();
        let before = self.pages_with_copies();
        let tables = self.tables.tables();
        let half = |set: &SetEntry| (0..set.len()).any(|index| set.is_half_made(index));
        if tables.sets.iter().any(half) {
            self.coverage.saw("copy taken over half made");
        }
        let limit = self.scenario.copy_limit;
        process.engine.limit_copies(limit, self.now);
        if let Some(kept) = &self.kept {
            let mut taken = process.engine.apply(kept, &mut process.pool, self.now);
            if let (Err(ApplyError::LastWhole(_)), Some(before)) = (&taken, &self.in_force) {
                self.coverage.saw("document refused: a last whole copy");
                taken = process.engine.apply(before, &mut process.pool, self.now);
                self.kept.clone_from(&self.in_force);
            }
            if let Err(error) = taken {
                let detail = error.to_string();
                return Err(self.broken("an engine takes the kept document again", detail));
            }
        }
        self.process = Some(process);
        self.judge_document(&before)?;
        self.resend()?;
        self.apply_wanted()
    }

    fn resend(&mut self) -> Verdict {
        let tags = self.kernel.orphans(&mut self.random);
        if self.mutation == Some(Mutation::NoResend) {
            return Ok(());
        }
        for tag in tags {
            let Some(process) = &mut self.process else {
                return Ok(());
            };
            let Some(sent) = self.kernel.sent.get_mut(&tag) else {
                continue;
            };
            let Some(buffer) = process.take_buffer(buffer_pages(&sent.draft)) else {
                continue;
            };
            sent.buffer = buffer;
            sent.given = self.now;
            sent.resent += 1;
            self.coverage.saw("request sent again");
            self.submit(tag)?;
        }
        Ok(())
    }

    /// The kernel's new requests.
    pub(super) fn new_requests(&mut self) -> Verdict {
        while self.next_request <= self.now {
            let mean = u64::try_from(self.scenario.pace.as_nanos()).unwrap_or(u64::MAX);
            let gap = Duration::from_nanos(1 + self.random.below(2 * mean));
            self.next_request = self.next_request.after(gap);
            if let Some(draft) = self.kernel.draw(&mut self.random) {
                self.request(draft)?;
            }
        }
        Ok(())
    }

    /// Sends a request. While no engine runs, the device queues it.
    pub(super) fn request(&mut self, draft: Draft) -> Verdict {
        let buffer = match &mut self.process {
            Some(process) => match process.take_buffer(buffer_pages(&draft)) {
                Some(buffer) => buffer,
                None => return Ok(()),
            },
            None => BufferRange { first: 0, pages: 0 },
        };
        let (tag, draft) = self.kernel.send(draft, buffer, self.now);
        self.story
            .tell(self.now, || format!("request {tag}: {draft:?}"));
        self.submit(tag)
    }

    /// A stopped engine reads nothing: what it is sent now comes to the next one.
    fn submit(&mut self, tag: u64) -> Verdict {
        let Some(process) = self.process.as_mut().filter(|process| !process.hung) else {
            return Ok(());
        };
        if let Err(detail) = process.submit(&self.kernel, tag, self.now) {
            return Err(self.broken("the engine takes what the kernel may send", detail));
        }
        self.pump()
    }

    /// Carries out effects until there are none, or until the process is killed between two.
    pub(super) fn pump(&mut self) -> Verdict {
        loop {
            let Some(process) = &mut self.process else {
                return Ok(());
            };
            if process.effects_left == Some(0) {
                self.coverage
                    .saw("trouble: engine killed between two effects");
                self.bury();
                return Ok(());
            }
            let Some(effect) = process.engine.next_effect() else {
                break;
            };
            if let Some(gap) = process
                .last_word
                .filter(|_| self.kernel.acknowledges(&effect))
            {
                self.coverage
                    .saw("trouble: engine killed before its answer");
                self.tear_publication(&effect);
                self.bury();
                (0..self.donors.len()).for_each(|donor| self.cut(donor, Cut::Both, gap));
                return Ok(());
            }
            if let Some(left) = &mut process.effects_left {
                *left -= 1;
            }
            self.carry_out(effect)?;
        }
        if let Some(process) = &mut self.process {
            process.transport.flush(&mut process.pool, self.now);
            process.remember();
        }
        Ok(())
    }

    /// Half of the processes that are killed before an acknowledgement have not even finished the
    /// publication: of its pages the first ones have the new entry, one has a torn one, and the rest
    /// have that of before. Not where the disk is behind, which has got the whole write by now and
    /// would not have then.
    fn tear_publication(&mut self, effect: &Effect) {
        let Effect::Complete { tag, .. } = effect else {
            return;
        };
        let sent = self.kernel.sent.get(&tag.0).copied();
        let (Some(process), Some(sent)) = (&self.process, sent) else {
            return;
        };
        if self.scenario.has_disk() || self.random.below(2) == 0 {
            return;
        }
        let torn = sent.draft.page + self.random.below(u64::from(sent.draft.pages));
        // The tag's two halves and the version: all but the last.
        let stores = usize::try_from(self.random.below(3)).unwrap_or_default();
        process.tear(sent.draft.range(), torn, stores);
        self.coverage
            .saw("trouble: engine killed inside a publication");
    }

    fn carry_out(&mut self, effect: Effect) -> Verdict {
        let now = self.now;
        let Some(process) = &mut self.process else {
            return Ok(());
        };
        match effect {
            Effect::Post(operation) => {
                self.story.tell(now, || format!("post {operation:?}"));
                process.post(operation, now);
            }
            Effect::Reset(server) => {
                self.story
                    .tell(now, || format!("reset the link to donor {server}"));
                process.transport.reset(server, now);
            }
            Effect::Spill(operation) => {
                self.story.tell(now, || format!("spill {operation:?}"));
                let bytes = process.pool.bytes(operation.buffer);
                self.disk.submit(operation, bytes, now);
            }
            Effect::Complete { tag, result, data } => return self.complete(tag, result, data),
            Effect::Release(tag) => match self.kernel.released(tag) {
                Ok(buffer) => process.give_buffer(buffer),
                Err(detail) => return Err(self.broken("each request ends once", detail)),
            },
            Effect::Event(event) => self.note_event(event),
        }
        Ok(())
    }

    fn complete(
        &mut self,
        tag: RequestTag,
        result: Result<(), RequestError>,
        data: Option<BufferRange>,
    ) -> Verdict {
        self.story
            .tell(self.now, || format!("request {} ends: {result:?}", tag.0));
        let Some(sent) = self.kernel.sent.get(&tag.0).copied() else {
            let detail = format!("unknown request {}", tag.0);
            return Err(self.broken("each request ends once", detail));
        };
        if result.is_err() && sent.draft.verb == Verb::Read {
            self.judge_failed_read(&sent)?;
        }
        let Some(process) = &self.process else {
            return Ok(());
        };
        let pool = &process.pool;
        let bytes = |number: u32| data.map_or(&[][..], |data| pool.bytes(data.part(number, 1)));
        let seen = match self.kernel.answered(tag, result, bytes) {
            Ok(seen) => seen,
            Err(detail) => {
                return Err(self.broken("a read returns the last acknowledged bytes", detail));
            }
        };
        match seen {
            Seen::RightRead => self.coverage.saw("read right"),
            Seen::FailedWriteRead => self.coverage.saw("write of a failed page read back"),
            Seen::FailedWrite => self.coverage.saw("write failed early"),
            Seen::Acknowledged => {
                self.coverage.saw("write acknowledged");
                self.judge_acknowledged(&sent)?;
            }
            Seen::Overtaken => self.coverage.saw("read overtaken by a request behind it"),
            Seen::FailedRead | Seen::Other => {}
        }
        Ok(())
    }

    fn note_event(&mut self, event: EngineEvent) {
        self.story.tell(self.now, || format!("engine: {event:?}"));
        self.coverage.saw(match event {
            EngineEvent::SlabBound(..) => "engine: SlabBound",
            EngineEvent::SlabReturned(..) => "engine: SlabReturned",
            EngineEvent::SetReleased(..) => "engine: SetReleased",
            EngineEvent::RebuildStarted(..) => "engine: RebuildStarted",
            EngineEvent::RebuildFinished(..) => "engine: RebuildFinished",
            EngineEvent::ReplicaStale(..) => "engine: ReplicaStale",
            EngineEvent::IntegrityFailure(..) => "engine: IntegrityFailure",
            EngineEvent::PageRepaired(..) => "engine: PageRepaired",
            EngineEvent::PageLost(..) => "engine: PageLost",
            EngineEvent::WritesHeld(..) => "engine: WritesHeld",
            EngineEvent::ReserveEmpty(..) => "engine: ReserveEmpty",
            EngineEvent::SpillFailed(..) => "engine: SpillFailed",
            EngineEvent::Fenced(..) => "engine: Fenced",
        });
    }

    /// One round of the I/O thread: disk, transport, deadlines.
    pub(super) fn serve(&mut self) -> Verdict {
        let mut heard = Vec::new();
        for _ in 0..ROUNDS_MAX {
            let Some(process) = self.process.as_mut().filter(|process| !process.hung) else {
                return Ok(());
            };
            process.post_backlog(self.now);
            let sink = &mut |event| heard.push(event);
            process.transport.poll(&mut process.pool, self.now, sink);
            let spilled = self.disk.poll(self.now);
            if heard.is_empty() && spilled.is_none() {
                break;
            }
            if let Some((operation, result, bytes)) = spilled {
                self.spill_done(&operation, result, &bytes)?;
            }
            for event in heard.drain(..) {
                self.hear(event)?;
            }
        }
        if let Some(process) = self.process.as_mut().filter(|process| !process.hung)
            && process
                .engine
                .next_deadline()
                .is_some_and(|deadline| deadline <= self.now)
        {
            process.engine.tick(&mut process.pool, self.now);
            process.engine.check_invariants();
            return self.pump();
        }
        Ok(())
    }

    fn hear(&mut self, event: TransportEvent) -> Verdict {
        let Some(process) = &mut self.process else {
            return Ok(());
        };
        self.story.tell(self.now, || format!("heard {event:?}"));
        process.hear(event, self.now);
        self.pump()
    }

    fn spill_done(
        &mut self,
        operation: &SpillOperation,
        result: OperationResult,
        bytes: &[u8],
    ) -> Verdict {
        let Some(process) = &mut self.process else {
            return Ok(());
        };
        if !operation.write && result.is_ok() {
            process
                .pool
                .bytes_mut(operation.buffer)
                .copy_from_slice(bytes);
        }
        process
            .engine
            .complete(operation.id, result, &mut process.pool, self.now);
        self.pump()
    }

    /// The process is gone. Its bytes may still be on their way for a while.
    pub(super) fn bury(&mut self) {
        let Some(process) = self.process.take() else {
            return;
        };
        self.away_since.get_or_insert(self.now);
        let epoch = self.epoch;
        self.story
            .tell(self.now, || format!("engine of epoch {epoch} dies"));
        self.count(&process.transport);
        let random = &mut self.random;
        self.disk.abandon(|| random.below(2) == 0);
        // The network may hold back what the dead process has sent.
        let thaw = self
            .now
            .after(Duration::from_micros(self.random.below(400_000)));
        let until = thaw.after(Duration::from_micros(self.random.below(60_000)));
        let Process {
            mut transport,
            pool,
            ..
        } = process;
        for number in 0..u16::try_from(self.donors.len()).unwrap_or_default() {
            let server = ServerIndex::new(number);
            let faults = transport.faults(server);
            transport.set_faults(
                server,
                Faults {
                    cut: Cut::ToServer,
                    ..faults
                },
            );
        }
        self.pool = pool;
        self.ghosts.push(Ghost {
            transport,
            thaw: Some(thaw),
            until,
        });
        let gap = Duration::from_millis(1 + self.random.below(20));
        self.restart_at.get_or_insert(self.now.after(gap));
    }

    /// Bytes of dead processes arrive, until a new session fences them.
    pub(super) fn poll_ghosts(&mut self) {
        let now = self.now;
        let mut fenced = false;
        for ghost in &mut self.ghosts {
            if ghost.thaw.take_if(|thaw| *thaw <= now).is_some() {
                for number in 0..u16::try_from(self.donors.len()).unwrap_or_default() {
                    ghost
                        .transport
                        .set_faults(ServerIndex::new(number), Faults::default());
                }
            }
            ghost
                .transport
                .poll(&mut Nowhere::default(), now, &mut |event| {
                    fenced |= matches!(event, TransportEvent::Link(_, Link::Down | Link::Refused));
                });
        }
        if fenced && self.process.is_some() {
            self.coverage.saw("old session fenced by a new engine");
        }
        self.ghosts.retain(|ghost| ghost.until > now);
    }
}

/// Pages of the buffer that a request needs.
fn buffer_pages(draft: &Draft) -> u32 {
    match draft.verb {
        Verb::Read | Verb::Write(_) => draft.pages,
        Verb::Discard | Verb::Flush => 0,
    }
}
