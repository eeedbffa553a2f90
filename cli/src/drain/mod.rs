//! `drain`: a donor is closed, what it holds moves elsewhere, and somebody sees how far that is.
//!
//! Owns the order of things: look, refuse what cannot be done, give the order, follow it to its end.
//! Nothing is lost by a drain however it ends: a copy leaves only when its pages are held elsewhere.

pub mod args;
#[cfg(test)]
mod fixture;
mod guard;
mod progress;

use std::process::ExitCode;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use dynamicswap_crds::{Kind, MemoryServer};
use dynamicswap_proto::control::v1::{Admission, ClusterStatus, GetRequest};
use dynamicswap_proto::identity::Right;

use crate::admission::Order;
use crate::client::Client;
use crate::connect;
use crate::failure::Refusal;
use crate::interrupt::Interrupt;
use crate::ui::Ui;
use args::{DrainArgs, DrainKind};
use guard::Subject;
use progress::{Course, Progress, Step};

/// Time between two looks.
const LOOK_EVERY: Duration = Duration::from_millis(500);

/// Drains a donor, or what a node lends.
///
/// # Errors
/// A refusal if there is nothing to drain, or its slabs have nowhere to go; if it is not empty in time.
pub fn run(args: &DrainArgs) -> Result<ExitCode> {
    let node = args.object.as_str();
    let order = Order {
        node,
        admission: Admission::Draining,
        within: Some(args.within),
    };
    let is_object = args.connect.kubernetes;
    if is_object && args.no_wait && args.kind == DrainKind::Server {
        // Whoever may only change the object needs no look at the controller.
        print!("{}", order.give(&args.connect)?);
        return Ok(ExitCode::SUCCESS);
    }
    let right = if is_object { Right::Look } else { Right::Order };
    let (mut client, _) = connect(&args.connect, right)?;
    let interrupt = Interrupt::listen()?;
    let status = client.status(0)?;
    let subject = Subject::find(&status, args.kind, node).map_err(Refusal::error)?;
    let mut ui = Ui::new();
    if let Some(sentence) = guard::borrows(&status, node).filter(|_| args.kind == DrainKind::Node) {
        ui.warn("borrows", &sentence);
    }
    if subject == Subject::LendsNothing {
        ui.done("nothing to drain", &format!("{node} lends nothing"));
        return Ok(ExitCode::SUCCESS);
    }
    refuse_stuck(args, &status)?;
    let said = if is_object {
        order.patch(&args.connect.place.place())?
    } else {
        order.tell(&mut client)?
    };
    ui.line(said.trim_end());
    if args.no_wait {
        return Ok(ExitCode::SUCCESS);
    }
    let mut watch = Watch {
        args,
        client: &mut client,
        ui: &mut ui,
    };
    watch.follow(&interrupt)?;
    Ok(ExitCode::SUCCESS)
}

/// Refuses to begin where a slab whose only copy lies there could not go anywhere. A drain that goes on
/// already is only followed.
fn refuse_stuck(args: &DrainArgs, status: &ClusterStatus) -> Result<()> {
    match guard::nowhere_to_go(status, &args.object) {
        Some(sentence) if !args.allow_stuck => Err(Refusal::error(sentence)),
        _ => Ok(()),
    }
}

/// A drain that is followed.
struct Watch<'a> {
    args: &'a DrainArgs,
    client: &'a mut Client,
    ui: &'a mut Ui,
}

impl Watch<'_> {
    /// Looks until nothing lies there any more.
    fn follow(&mut self, interrupt: &Interrupt) -> Result<()> {
        let node = self.args.object.as_str();
        let begun = Instant::now();
        let timeout = self.args.timeout.as_duration();
        let mut course = Course::default();
        loop {
            // One look may fail: the controller may just be replaced by another.
            let now = match self.look().map(|progress| course.after(&progress)) {
                Ok(Step::Drained(moved)) => {
                    self.end(&moved, begun);
                    return Ok(());
                }
                Ok(Step::Ended(left)) => {
                    self.ui.clear_live();
                    bail!(
                        "somebody has ended the drain of {node}: {left}; the same command begins it \
                         again"
                    );
                }
                Ok(Step::GoesOn { now, news }) => {
                    for line in news {
                        self.ui.note(&line);
                    }
                    now
                }
                Err(error) => format!("{error:#}"),
            };
            if begun.elapsed() >= timeout {
                self.ui.clear_live();
                bail!(
                    "{node} is not empty after {}: {now}; the drain goes on: the same command \
                     follows it again, 'uncordon server {node}' ends it",
                    self.args.timeout
                );
            }
            self.ui.live(&now);
            let waited = interrupt.wait(LOOK_EVERY);
            waited.with_context(|| format!("the drain of {node} goes on"))?;
        }
    }

    fn look(&mut self) -> Result<Progress> {
        let request = GetRequest {
            kind: Kind::MemoryServer.name().to_owned(),
            name: self.args.object.clone(),
            ..GetRequest::default()
        };
        let texts = self.client.get(request)?;
        let text = texts.first();
        let text = text.context("its memory server has not reported yet")?;
        let server: MemoryServer =
            serde_json::from_str(text).context("the controller's MemoryServer is none")?;
        Ok(Progress::of(
            &server,
            &self.client.status(0)?,
            &self.args.object,
        ))
    }

    fn end(&mut self, moved: &str, begun: Instant) {
        let node = &self.args.object;
        let seconds = begun.elapsed().as_secs_f64();
        let detail = format!("{moved} left {node} in {seconds:.0} s; nothing lies on it any more");
        self.ui.done("drained", &detail);
        self.ui
            .note(&format!("'uncordon server {node}' opens it again"));
    }
}
