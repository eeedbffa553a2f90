//! The Lease that makes one controller the leader: taken, renewed, given up.
//!
//! A leader that could not renew in time is none any more by its own clock, before anybody else
//! can take the lease. So one that was frozen writes nothing when it wakes up.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use dynamicswap_proto::identity::LEASE;
use dynamicswap_types::{MonotonicTime, Term};
use k8s_openapi::api::coordination::v1::{Lease, LeaseSpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{MicroTime, ObjectMeta};
use k8s_openapi::jiff::Timestamp;
use kube::api::PostParams;
use kube::{Api, Client};
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use super::elect::{Candidate, LeaseView, Move};
use super::error::{ApiError, Trouble, with_cause, within};
use super::resources::FIELD_MANAGER;
use crate::clock::Clock;
use crate::limits::{LEASE_DURATION, LEASE_LOOK, LEASE_RENEW, LEASE_RENEW_DEADLINE, LEASE_RETRY};

/// What the rest of the controller may ask about its leadership.
#[derive(Debug)]
pub struct Leadership {
    term: Term,
    clock: Clock,
    /// Until when it holds without a renewal, in nanoseconds on `clock`.
    until: AtomicU64,
}

impl Leadership {
    fn renewed(&self, at: MonotonicTime) {
        let until = at.after(LEASE_RENEW_DEADLINE);
        self.until.store(until.as_nanos(), Ordering::Release);
    }

    fn until(&self) -> MonotonicTime {
        MonotonicTime::from_nanos(self.until.load(Ordering::Acquire))
    }

    /// How long it holds yet.
    fn left(&self) -> Duration {
        self.clock.until(self.until())
    }

    /// Its term.
    #[must_use]
    pub const fn term(&self) -> Term {
        self.term
    }

    /// Whether it holds now.
    #[must_use]
    pub fn holds(&self) -> bool {
        self.clock.now() < self.until()
    }
}

/// The leader's seat: whoever has it renews the lease.
#[derive(Debug)]
pub struct Seat {
    api: Api<Lease>,
    lease: Lease,
    leadership: Arc<Leadership>,
}

/// Waits until the lease is ours, also while the API server does not answer. `floor` gives the
/// highest term that the store has seen, at the moment of the take.
pub async fn acquire(
    client: &Client,
    namespace: &str,
    identity: &str,
    mut floor: impl AsyncFnMut() -> Result<Term, ApiError>,
) -> Seat {
    let api: Api<Lease> = Api::namespaced(client.clone(), namespace);
    let (clock, mut candidate) = (Clock::start(), Candidate::default());
    let (mut told, mut trouble) = (String::new(), Trouble::default());
    loop {
        let pause = match look(&api, &mut floor).await {
            Ok((lease, floor)) => {
                let view = lease.as_ref().map(view);
                let holder = view.as_ref().map_or("", |view| &view.holder);
                if !holder.is_empty() && told != holder {
                    info!(holder, "waiting for the lease");
                    holder.clone_into(&mut told);
                }
                match candidate.judge(view.as_ref(), floor, clock.now()) {
                    Move::Wait(time) => Ok(time.min(LEASE_LOOK)),
                    Move::Take(term) => {
                        let now = clock.now();
                        match take(&api, lease, identity, term).await {
                            Ok(lease) => return Seat::taken(api, lease, (term, clock, now)),
                            // Another was quicker, or the server is away.
                            Err(error) => Err(error),
                        }
                    }
                }
            }
            Err(error) => Err(error),
        };
        let failure = pause.as_ref().err().map(|error| with_cause(error));
        trouble.note("waiting for the lease", failure.as_ref());
        tokio::time::sleep(pause.unwrap_or(LEASE_LOOK)).await;
    }
}

/// The lease as it is now, and the term that the next one must be above.
async fn look(
    api: &Api<Lease>,
    floor: &mut impl AsyncFnMut() -> Result<Term, ApiError>,
) -> Result<(Option<Lease>, Term), ApiError> {
    let lease = within("read the lease", api.get_opt(LEASE)).await?;
    Ok((lease, floor().await?))
}

fn view(lease: &Lease) -> LeaseView {
    let none = LeaseSpec::default();
    let spec = lease.spec.as_ref().unwrap_or(&none);
    let seconds = spec.lease_duration_seconds.unwrap_or(0);
    let transitions = spec.lease_transitions.unwrap_or(0);
    LeaseView {
        holder: spec.holder_identity.clone().unwrap_or_default(),
        term: Term::new(u64::try_from(transitions).unwrap_or(0)),
        duration: u64::try_from(seconds)
            .ok()
            .filter(|seconds| *seconds > 0)
            .map_or(LEASE_DURATION, Duration::from_secs),
        version: lease.metadata.resource_version.clone().unwrap_or_default(),
    }
}

/// Takes the lease as it was read; the server refuses if it has changed since.
async fn take(
    api: &Api<Lease>,
    found: Option<Lease>,
    identity: &str,
    term: Term,
) -> Result<Lease, ApiError> {
    let now = MicroTime(Timestamp::now());
    let spec = LeaseSpec {
        acquire_time: Some(now.clone()),
        holder_identity: Some(identity.to_owned()),
        lease_duration_seconds: i32::try_from(LEASE_DURATION.as_secs()).ok(),
        // Leaderships are seconds apart: 2^31 of them are never reached.
        lease_transitions: Some(i32::try_from(term.get()).unwrap_or(i32::MAX)),
        renew_time: Some(now),
        ..LeaseSpec::default()
    };
    match found {
        Some(mut lease) => {
            lease.spec = Some(spec);
            let params = params();
            let replace = api.replace(LEASE, &params, &lease);
            within("let the lease be taken", replace).await
        }
        None => {
            let metadata = ObjectMeta {
                name: Some(LEASE.to_owned()),
                ..ObjectMeta::default()
            };
            let lease = Lease {
                metadata,
                spec: Some(spec),
            };
            let params = params();
            let create = api.create(&params, &lease);
            within("make the lease", create).await
        }
    }
}

fn params() -> PostParams {
    PostParams {
        field_manager: Some(FIELD_MANAGER.to_owned()),
        ..PostParams::default()
    }
}

/// What came of a renewal.
enum Renewal {
    /// The lease is renewed: it is this now.
    Renewed(Box<Lease>),
    /// It is somebody else's.
    Lost,
}

impl Seat {
    fn taken(
        api: Api<Lease>,
        lease: Lease,
        (term, clock, at): (Term, Clock, MonotonicTime),
    ) -> Self {
        let leadership = Leadership {
            term,
            clock,
            until: AtomicU64::new(0),
        };
        leadership.renewed(at);
        let leadership = Arc::new(leadership);
        Self {
            api,
            lease,
            leadership,
        }
    }

    /// What the rest of the controller may ask.
    #[must_use]
    pub fn leadership(&self) -> Arc<Leadership> {
        Arc::clone(&self.leadership)
    }

    /// Renews the lease until `stop`, then gives it up. Ends earlier only if it is lost; then the
    /// reason is returned. A leadership that has run out is never taken up again: whoever asked
    /// about it meanwhile has stopped.
    pub async fn keep(mut self, stop: CancellationToken) -> Option<String> {
        let mut pause = LEASE_RENEW;
        loop {
            tokio::select! {
                () = tokio::time::sleep(pause.min(self.leadership.left())) => {}
                () = stop.cancelled() => {
                    self.give_up().await;
                    return None;
                }
            }
            let asked = self.leadership.clock.now();
            let left = self.leadership.left();
            let renewed = tokio::time::timeout(left, self.renew()).await;
            if !self.leadership.holds() {
                let seconds = LEASE_RENEW_DEADLINE.as_secs();
                return Some(format!("the lease could not be renewed for {seconds} s"));
            }
            pause = match renewed {
                Ok(Ok(Renewal::Renewed(lease))) => {
                    self.lease = *lease;
                    self.leadership.renewed(asked);
                    LEASE_RENEW
                }
                Ok(Ok(Renewal::Lost)) => {
                    return Some("the lease has another holder now".to_owned());
                }
                Ok(Err(error)) => {
                    warn!("the lease is not renewed: {}", with_cause(&error));
                    LEASE_RETRY
                }
                // Just at the end.
                Err(_) => LEASE_RETRY,
            };
        }
    }

    /// Renews the lease as it was last written; or as it is now, if that is ours still: an answer
    /// may have been lost, or somebody may have put a label on it.
    async fn renew(&self) -> Result<Renewal, ApiError> {
        let renewed = match self.write(&self.lease).await {
            Err(error) if error.is_conflict() => {
                let found = within("read the lease", self.api.get_opt(LEASE)).await?;
                match found.filter(|found| self.is_ours(found)) {
                    Some(found) => self.write(&found).await?,
                    None => return Ok(Renewal::Lost),
                }
            }
            Err(error) if error.is_not_found() => return Ok(Renewal::Lost),
            written => written?,
        };
        Ok(Renewal::Renewed(Box::new(renewed)))
    }

    /// Whether a lease that was found is the one that was taken: another process may have the same
    /// name, but not the same term.
    fn is_ours(&self, found: &Lease) -> bool {
        let (found, ours) = (view(found), view(&self.lease));
        (found.holder, found.term) == (ours.holder, ours.term)
    }

    async fn write(&self, lease: &Lease) -> Result<Lease, ApiError> {
        let mut lease = lease.clone();
        if let Some(spec) = &mut lease.spec {
            spec.renew_time = Some(MicroTime(Timestamp::now()));
        }
        let params = params();
        let replace = self.api.replace(LEASE, &params, &lease);
        within("renew the lease", replace).await
    }

    /// So that the next leader need not wait. Nothing of ours is written after this.
    async fn give_up(mut self) {
        self.leadership.until.store(0, Ordering::Release);
        if let Some(spec) = &mut self.lease.spec {
            spec.holder_identity = Some(String::new());
        }
        let params = params();
        let replace = self.api.replace(LEASE, &params, &self.lease);
        if let Err(error) = within("take the lease back", replace).await {
            warn!(
                "the next leader waits for the lease to run out: {}",
                with_cause(&error)
            );
        }
    }
}
