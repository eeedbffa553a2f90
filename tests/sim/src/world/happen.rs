//! Troubles happen, and end.

use std::time::Duration;

use dynamicswap_datapath::transport::Transport as _;
use dynamicswap_datapath::transport::fault::{Cut, Faults};
use dynamicswap_types::{Copies, ServerIndex};

use super::World;
use crate::mutation::Mutation;
use crate::plane::Reports;
use crate::process::Network;
use crate::story::Verdict;
use crate::trouble::Trouble;

impl World<'_> {
    /// Lets troubles happen whose time has come, and ends those whose time is over.
    pub(super) fn troubles(&mut self) -> Verdict {
        self.clear_ways();
        while let Some(trouble) = self.weather.due(&self.scenario, self.now) {
            self.story
                .tell(self.now, || format!("trouble: {trouble:?}"));
            self.happen(trouble)?;
        }
        Ok(())
    }

    fn happen(&mut self, trouble: Trouble) -> Verdict {
        match trouble {
            Trouble::KillEngine { effects, gap } => self.kill_engine(effects, gap),
            Trouble::LastWord { gap } => {
                if let Some(process) = &mut self.process {
                    process.last_word = Some(gap);
                    process.remember();
                }
            }
            Trouble::HangEngine { gap } => self.hang_engine(gap),
            Trouble::KillServer { server, lose, gap } => {
                return self.kill_server(server, lose, gap);
            }
            Trouble::Cut { server, cut, gap } => self.cut(server, cut, gap),
            Trouble::Weather {
                server,
                delay,
                loss_per_mille,
                gap,
            } => {
                self.slow(server, delay, loss_per_mille, gap);
            }
            Trouble::Corruption {
                server,
                per_mille,
                gap,
            } => {
                self.coverage.saw("trouble: corruption in flight");
                self.damage.bytes_may_change();
                self.change_way(server, gap, |faults| {
                    faults.corruption_per_mille = per_mille
                });
            }
            Trouble::Flip { server, draw } => return self.flip(server, draw),
            Trouble::Controller { gap } => {
                self.coverage.saw("trouble: controller restarted");
                self.plane_away = self.now.after(gap);
                self.heard = Reports::default();
                self.plane.restart(self.now.after(gap));
                self.damage.control_is_away(self.now.after(gap));
            }
            Trouble::Agent { server, gap } => {
                self.coverage.saw("trouble: agent away");
                self.donors[server].agent_away = self.now.after(gap);
                self.damage.control_is_away(self.now.after(gap));
            }
            Trouble::Class { copies } => self.change_class(copies),
            Trouble::Move { draw } => {
                if let Some(device) = self.heard.device.clone() {
                    self.plane.move_any(draw, &device, self.now);
                }
            }
            Trouble::Disk { failing, gap } => self.hurt_disk(failing, gap),
        }
        Ok(())
    }

    fn kill_engine(&mut self, effects: Option<u32>, gap: Duration) {
        match (&mut self.process, effects) {
            (Some(process), Some(_)) => process.effects_left = effects,
            (Some(_), None) => {
                self.coverage.saw("trouble: engine killed");
                self.restart_at = Some(self.now.after(gap));
                self.bury();
            }
            (None, _) => {}
        }
    }

    /// SIGSTOP; the holder notices by heartbeat, kills it and starts another.
    fn hang_engine(&mut self, gap: Duration) {
        let Some(process) = &mut self.process else {
            return;
        };
        self.coverage.saw("trouble: engine hung");
        process.hung = true;
        self.away_since.get_or_insert(self.now);
        self.restart_at = Some(self.now.after(gap));
    }

    pub(super) fn cut(&mut self, server: usize, cut: Cut, gap: Duration) {
        self.coverage.saw(match cut {
            Cut::ToServer => "trouble: one-way cut to the server",
            Cut::FromServer => "trouble: one-way cut from the server",
            Cut::Both | Cut::None => "trouble: cut",
        });
        self.damage.way_is_bad(server, self.now.after(gap));
        self.change_way(server, gap, |faults| faults.cut = cut);
    }

    fn slow(&mut self, server: usize, delay: Duration, loss_per_mille: u16, gap: Duration) {
        self.coverage.saw("trouble: delay");
        if loss_per_mille > 0 {
            self.coverage.saw("trouble: loss");
        }
        self.damage.way_is_bad(server, self.now.after(gap));
        self.change_way(server, gap, |faults| {
            faults.delay = (Duration::ZERO, delay);
            faults.loss_per_mille = loss_per_mille;
        });
    }

    fn kill_server(&mut self, server: usize, lose: bool, gap: Duration) -> Verdict {
        let back_at = self.now.after(gap);
        // A donor that is away already stays away for as long as it was to.
        if self.donors[server].back_at.is_some() {
            return Ok(());
        }
        if !lose {
            self.coverage.saw("trouble: server killed");
            self.damage.way_is_bad(server, back_at);
            self.donors[server].kill(back_at);
            return Ok(());
        }
        self.coverage.saw("trouble: server lost its memory");
        self.note_damage();
        let endangered = self.only_on(server);
        let kept = self.mutation == Some(Mutation::IncarnationKept);
        let times = (self.now, back_at);
        self.donors[server].kill_and_lose(&self.network, kept, times);
        let verdict = self.judge_loss(server, &endangered);
        self.damage.way_is_bad(server, back_at);
        verdict
    }

    fn flip(&mut self, server: usize, draw: u64) -> Verdict {
        let places = self.used_places(server);
        if places.is_empty() {
            return Ok(());
        }
        self.coverage.saw("trouble: bit flipped in a server");
        let index = usize::try_from(draw >> 16).unwrap_or_default() % places.len();
        let (page, slot, offset) = places[index];
        let endangered = if self.is_held_by(page, server) && self.copies_of(page).len() == 1 {
            vec![page]
        } else {
            Vec::new()
        };
        let bit = usize::try_from(draw & 0x7fff).unwrap_or_default();
        self.donors[server].with_page(slot, offset, |bytes| bytes[bit / 8] ^= 1 << (bit % 8));
        self.story.tell(self.now, || {
            format!("page {page}: a bit of donor {server}'s copy flips")
        });
        self.judge_loss(server, &endangered)
    }

    fn change_class(&mut self, copies: u32) {
        let most = u32::try_from(self.scenario.servers - 1).unwrap_or(1);
        if let Ok(copies) = Copies::try_from(copies.min(most))
            && copies != self.plane.wanted()
        {
            self.coverage.saw("trouble: class changed");
            self.story
                .tell(self.now, || format!("the policy asks for {copies} copies"));
            self.plane.want(copies);
        }
    }

    fn hurt_disk(&mut self, failing: bool, gap: Duration) {
        let until = self.now.after(gap);
        match (self.scenario.has_disk(), failing) {
            (true, true) => {
                self.coverage.saw("trouble: disk failing");
                self.disk.failing_until = until;
            }
            (true, false) => {
                self.coverage.saw("trouble: disk slow");
                self.disk.slow_until = until;
            }
            (false, _) => {}
        }
    }

    fn change_way(&mut self, server: usize, gap: Duration, change: impl Fn(&mut Faults)) {
        let (faults, until) = &mut self.faults[server];
        change(faults);
        *until = (*until).max(self.now.after(gap));
        self.tell_ways(server);
    }

    fn tell_ways(&mut self, server: usize) {
        let index = ServerIndex::new(u16::try_from(server).unwrap_or_default());
        let faults = self.faults[server].0;
        if let Some(process) = &mut self.process {
            process.transport.set_faults(index, faults);
        }
    }

    /// Ways whose trouble is over.
    fn clear_ways(&mut self) {
        for server in 0..self.faults.len() {
            let (faults, until) = &mut self.faults[server];
            if *faults != Faults::default() && *until <= self.now {
                *faults = Faults::default();
                self.tell_ways(server);
            }
        }
    }

    /// Donors whose time has come start again.
    pub(super) fn donors_return(&mut self) {
        for (number, donor) in self.donors.iter_mut().enumerate() {
            if donor.back_at.is_some_and(|at| at <= self.now) {
                donor.start();
                self.story
                    .tell(self.now, || format!("donor {number} is back"));
            }
        }
    }

    /// Every trouble ends.
    pub(super) fn calm_down(&mut self) {
        self.story.tell(self.now, || "trouble is over".to_owned());
        self.calm = true;
        for server in 0..self.faults.len() {
            self.faults[server] = (Faults::default(), self.now);
            self.tell_ways(server);
            let donor = &mut self.donors[server];
            donor.agent_away = self.now;
            donor.back_at = donor.back_at.map(|_| self.now);
        }
        self.plane_away = self.now;
        self.plane.calm_down();
        self.disk.slow_until = self.now;
        self.disk.failing_until = self.now;
        if let Some(process) = &mut self.process {
            process.effects_left = None;
            process.last_word = None;
        }
        self.damage.is_over(self.now);
    }

    /// What a transport's faults have done, into the coverage.
    pub(super) fn count(&mut self, transport: &Network) {
        let counters = transport.counters();
        self.coverage.count("operation lost", counters.lost);
        self.coverage.count("payload corrupted", counters.corrupted);
        self.coverage
            .count("late write after its link was down", counters.late);
    }

    /// The same for the process that is left at the end.
    pub(super) fn count_transport(&mut self) {
        if let Some(process) = self.process.take() {
            self.count(&process.transport);
            self.process = Some(process);
        }
    }

    /// When the way or the process of anybody changes by time alone.
    pub(super) fn next_transport_time(&self) -> Option<dynamicswap_types::MonotonicTime> {
        let process = self.process.as_ref().filter(|process| !process.hung);
        let own = process.and_then(|process| process.transport.next_deadline());
        let ghosts = self.ghosts.iter().map(|ghost| {
            let next = ghost.transport.next_deadline();
            let own = ghost.thaw.unwrap_or(ghost.until);
            next.map_or(own, |next| next.min(own))
        });
        ghosts.chain(own).min()
    }
}
