//! The controller: what it takes for 1,000 nodes that borrow and lend, and 100,000 slabs of two copies.
//!
//! The nodes' agents are simulated, each with a session of its own to a real controller with its file
//! store. Their devices fill, so that sets are placed, granted and taken into use step by step.

use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};

use super::daemons::{Daemons, Shape};
use super::plane::Controller;
use super::process::Figures;
use super::session::Session;
use crate::Args;
use crate::report::{Bar, Report};

/// Nodes.
const NODES: u32 = 1_000;
/// Slabs that each has in hand: those that are full, and an eighth more in reserve.
const SLABS: u32 = 100;
/// Copies of each.
const COPIES: u32 = 2;
/// A node: lends half as much again as all together use, and borrows half of its device.
const SHAPE: Shape = Shape {
    slots: SLABS * COPIES / 2 * 3,
    slabs: SLABS * 2,
    bound: 89,
};
const RESIDENT_MIB_MAX: f64 = 128.0;
/// Longest time until all is placed.
const PLACED_WAIT: Duration = Duration::from_secs(900);
/// Time between two looks at it.
const LOOK: Duration = Duration::from_millis(250);
const POLICY: &str = "{podSelector: {}, durability: {copies: 2, spill: None}}";

/// Measures it.
pub fn measure(_args: &Args, report: &mut Report) -> Result<()> {
    super::block_on(place(report))
}

async fn place(report: &mut Report) -> Result<()> {
    let controller = Controller::start().await?;
    controller.apply(POLICY).await?;
    let began = Instant::now();
    let sessions = join(&controller).await?;
    let placed = wait(&controller, &sessions, began).await?;
    let (after, percent, _wakes) = Figures::at_rest(controller.pid()).await?;
    let of = |what: &str| {
        format!(
            "controller, {NODES} agents, {} slabs: {what}",
            NODES * SLABS
        )
    };
    report.absolute(
        &of("resident memory, most [MiB]"),
        after.peak_mib(),
        Bar::AtMost(RESIDENT_MIB_MAX),
    );
    let name = of("resident memory once all is placed [MiB]");
    report.absolute(&name, after.resident_mib(), Bar::None);
    let name = of("all placed and granted after [s]");
    report.absolute(&name, placed.as_secs_f64(), Bar::None);
    let name = of("processor, idle [% of a core]");
    report.absolute(&name, percent, Bar::None);
    ensure_open(&sessions)
}

/// Opens the sessions, whose reports come evenly over a second.
async fn join(controller: &Controller) -> Result<Vec<Session>> {
    let mut sessions = Vec::new();
    for number in 0..NODES {
        let node = format!("node-{number:04}.cluster.example");
        let daemons = Daemons::new(number, SHAPE);
        let first = Duration::from_secs(1) * number / NODES;
        let session = Session::open(controller.address(), node, daemons, first).await;
        sessions.push(session.with_context(|| format!("session {number} of {NODES}"))?);
    }
    Ok(sessions)
}

/// Waits until every device has its sets and every copy is granted; the time since `began`.
async fn wait(controller: &Controller, sessions: &[Session], began: Instant) -> Result<Duration> {
    let wanted = usize::try_from(SLABS)?;
    let wanted_grants = usize::try_from(NODES * SLABS * COPIES)?;
    let mut told = Instant::now();
    loop {
        let sets = sessions.iter().map(|it| it.daemons(Daemons::sets));
        let (sets, done) = sets.fold((0, 0), |(all, done), sets| {
            (all + sets, done + usize::from(sets >= wanted))
        });
        let grants: usize = sessions.iter().map(|it| it.daemons(Daemons::grants)).sum();
        if done == sessions.len() && grants >= wanted_grants {
            return Ok(began.elapsed());
        }
        ensure_open(sessions)?;
        if told.elapsed() >= Duration::from_secs(10) {
            told = Instant::now();
            let resident = Figures::of(controller.pid())?.resident_kib / 1024;
            eprintln!("bench: {sets} sets, {grants} slots granted, {resident} MiB");
        }
        if began.elapsed() >= PLACED_WAIT {
            bail!(
                "after {PLACED_WAIT:?} {done} of {NODES} devices have {SLABS} sets, {sets} in all, \
                 and {grants} slots are granted"
            );
        }
        tokio::time::sleep(LOOK).await;
    }
}

fn ensure_open(sessions: &[Session]) -> Result<()> {
    let ended = sessions.iter().filter(|it| it.has_ended()).count();
    ensure!(ended == 0, "{ended} of {NODES} sessions have ended");
    Ok(())
}
