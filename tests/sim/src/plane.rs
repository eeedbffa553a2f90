//! The control plane of a seed: the real planner and its ledger, or one that takes any legal step.
//!
//! Owns what both hear and what both hand out.

mod any_step;
mod controller;

use std::collections::BTreeMap;
use std::time::Duration;

use dynamicswap_engine::document::Document;
use dynamicswap_engine::engine::LinkState;
use dynamicswap_engine::report::SetView;
use dynamicswap_engine::slots::GrantDocument;
use dynamicswap_types::{
    Copies, Generation, IncarnationId, MonotonicTime, NameError, SwapDeviceId,
};

use crate::scenario::{Planning, Scenario};
use any_step::AnyStep;
use controller::Controller;

/// Time from the loss of a donor to the replacement of its copies.
pub const REPLACE_AFTER: Duration = Duration::from_millis(300);

/// What the borrower's agent last said.
#[derive(Debug, Clone)]
pub struct DeviceReport {
    /// Generation in force.
    pub generation: Generation,
    /// Its sets.
    pub sets: Vec<SetView>,
    /// The link to each donor that the document names, and since when it is as it is.
    pub links: Vec<Option<(LinkState, MonotonicTime)>>,
}

/// What a donor's agent last said.
#[derive(Debug, Clone)]
pub struct ServerReport {
    /// The life of its memory.
    pub incarnation: IncarnationId,
    /// The last document that it took.
    pub generation: Generation,
    /// Granted slots, with the set that each is for.
    pub grants: BTreeMap<u32, u64>,
}

/// What is heard of a donor.
#[derive(Debug, Clone)]
pub enum Heard {
    /// Its agent has no session.
    Nothing,
    /// Its agent says that the memory server does not answer.
    ServerSilent,
    /// Its agent reports.
    Server(ServerReport),
}

impl Heard {
    /// The report, if there is one.
    #[must_use]
    pub const fn server(&self) -> Option<&ServerReport> {
        match self {
            Self::Server(report) => Some(report),
            Self::Nothing | Self::ServerSilent => None,
        }
    }
}

/// Everything that was heard; absent for who does not answer.
#[derive(Debug, Clone, Default)]
pub struct Reports {
    /// The borrower's.
    pub device: Option<DeviceReport>,
    /// The donors'.
    pub servers: Vec<Heard>,
}

/// Documents to hand out.
#[derive(Debug, Default)]
pub struct Documents {
    /// For the borrower.
    pub device: Option<Document>,
    /// For donors, by number.
    pub servers: Vec<(usize, GrantDocument)>,
}

/// What a step did, for the story and the coverage.
pub type Deeds = Vec<(&'static str, String)>;

/// The control plane.
#[derive(Debug)]
pub enum Plane {
    /// Any legal step, by seed.
    AnyStep(Box<AnyStep>),
    /// The product's planner.
    Planner(Box<Controller>),
}

impl Plane {
    /// The plane of a scenario, before it has heard of anybody.
    ///
    /// # Errors
    /// If a name is not one.
    pub fn new(
        scenario: &Scenario,
        device: SwapDeviceId,
        domains: &[u16],
        early_drop: bool,
    ) -> Result<Self, NameError> {
        Ok(match scenario.planning {
            Planning::AnyStep => {
                let plane = AnyStep::new(scenario, device, domains, early_drop);
                Self::AnyStep(Box::new(plane))
            }
            Planning::Planner => {
                Self::Planner(Box::new(Controller::new(scenario, device, domains)?))
            }
        })
    }

    /// Hears reports, plans, gives the documents that are to be sent.
    ///
    /// # Errors
    /// A plan that the planner's own checker refuses, or a step that its ledger does.
    pub fn round(
        &mut self,
        reports: &Reports,
        now: MonotonicTime,
    ) -> Result<(Documents, Deeds), String> {
        match self {
            Self::AnyStep(plane) => Ok(plane.round(reports, now)),
            Self::Planner(plane) => plane.round(reports, now),
        }
    }

    /// The controller's process is another one: it knows what it had kept, and nothing else.
    pub fn restart(&mut self, now: MonotonicTime) {
        if let Self::Planner(plane) = self {
            plane.restart(now);
        }
    }

    /// Moves a copy of a healthy set, as a drain would.
    pub fn move_any(&mut self, draw: u64, device: &DeviceReport, now: MonotonicTime) {
        match self {
            Self::AnyStep(plane) => plane.move_any(draw, device, now),
            Self::Planner(plane) => plane.close_any(draw),
        }
    }

    /// Copies that the policy asks for.
    #[must_use]
    pub const fn wanted(&self) -> Copies {
        match self {
            Self::AnyStep(plane) => plane.wanted,
            Self::Planner(plane) => plane.wanted(),
        }
    }

    /// The policy asks for another number of copies.
    pub const fn want(&mut self, copies: Copies) {
        match self {
            Self::AnyStep(plane) => plane.wanted = copies,
            Self::Planner(plane) => plane.want(copies),
        }
    }

    /// Operators and nodes are well again.
    pub fn calm_down(&mut self) {
        if let Self::Planner(plane) = self {
            plane.open_all();
        }
    }
}
