//! Why steps happen and what waits, as data; printed as sentences.

use std::fmt;

use dynamicswap_types::{Copies, NodeName};

use crate::filter::Refusal;
use crate::health::Cause;
use crate::ledger::IntegrityLack;

/// A reason, without the number of times that it applies.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Reason {
    /// Waits: a large part of the donors is gone at once.
    BrakeOn {
        /// Donors gone.
        gone: usize,
        /// Donors known.
        known: usize,
    },
    /// Waits: a donor holds slots that another controller store granted.
    ForeignGrants {
        /// The donor.
        donor: NodeName,
    },
    /// Waits: the class wants a disk that the device does not have.
    NoSpillFile {
        /// The borrower.
        borrower: NodeName,
    },
    /// Waits: the device protects its pages less than a policy asks for.
    IntegrityTooWeak {
        /// The borrower.
        borrower: NodeName,
        /// What it lacks.
        lack: IntegrityLack,
    },
    /// Waits: dead copies have no live copy beside them to rebuild from.
    NoLiveCopy {
        /// The borrower.
        borrower: NodeName,
    },
    /// Waits: no donor fits.
    NoDonor {
        /// The borrower.
        borrower: NodeName,
        /// Why each donor was refused, counted.
        refusals: Vec<(Refusal, usize)>,
    },
    /// Waits: the class rises when every set has the copies.
    ClassPending {
        /// The borrower.
        borrower: NodeName,
        /// Copies wanted.
        wanted: Copies,
    },
    /// Waits: nobody hears the borrower.
    BorrowerSilent {
        /// The borrower.
        borrower: NodeName,
    },
    /// Waits: a donor seems gone, the grace is not over.
    Suspect {
        /// The borrower.
        borrower: NodeName,
        /// The donor.
        donor: NodeName,
    },
    /// Waits: a donor has not granted slots yet.
    GrantPending {
        /// The donor.
        donor: NodeName,
    },
    /// Waits: a borrower has not taken a document yet.
    TakePending {
        /// The borrower.
        borrower: NodeName,
    },
    /// Waits: a donor has not taken slots back yet.
    FreePending {
        /// The donor.
        donor: NodeName,
    },
    /// Waits: a donor wants copies back whose turn has not come.
    RevokePending {
        /// The donor.
        donor: NodeName,
    },
    /// Waits: copies that a donor wants back are being made elsewhere.
    MovePending {
        /// The borrower.
        borrower: NodeName,
        /// The donor.
        donor: NodeName,
    },
    /// Waits: a donor's time is over, and what it holds is held by nobody else.
    LastCopyStays {
        /// The borrower.
        borrower: NodeName,
        /// The donor.
        donor: NodeName,
    },
    /// Done: a donor wants copies back, and these are chosen.
    Revoke {
        /// The donor.
        donor: NodeName,
    },
    /// Done: a donor no longer wants copies back.
    Pardon {
        /// The donor.
        donor: NodeName,
    },
    /// Done: copies are begun elsewhere for those that a donor wants back.
    Move {
        /// The borrower.
        borrower: NodeName,
        /// The donor.
        donor: NodeName,
    },
    /// Done: copies leave a donor that wants them back; others are whole.
    Moved {
        /// The borrower.
        borrower: NodeName,
        /// The donor.
        donor: NodeName,
    },
    /// Done: a donor's time is over, and copies leave it that are held elsewhere, if by fewer than
    /// the class asks for.
    Forced {
        /// The borrower.
        borrower: NodeName,
        /// The donor.
        donor: NodeName,
    },
    /// Waits: donors are unevenly full, and something more urgent is under way.
    RebalanceHeld,
    /// Waits: donors are unevenly full, and no copy of the fuller ones may go to an emptier one.
    RebalanceStuck {
        /// The fullest of them.
        donor: NodeName,
    },
    /// Done: copies are begun on an emptier donor for those on a fuller one.
    Rebalance {
        /// The fuller one.
        from: NodeName,
        /// The emptier one.
        to: NodeName,
    },
    /// Done: copies leave a donor that was fuller than others; others are whole.
    Rebalanced {
        /// The donor.
        donor: NodeName,
    },
    /// Done: copies that were to move for the balance stay.
    RebalanceGivenUp {
        /// The donor.
        donor: NodeName,
    },
    /// Done: copies that were to leave stay, because no other is whole any more.
    Recall {
        /// The borrower.
        borrower: NodeName,
    },
    /// Done: dead copies are replaced.
    Replace {
        /// The borrower.
        borrower: NodeName,
        /// The donor.
        donor: NodeName,
        /// Why it counts as dead.
        cause: Cause,
    },
    /// Done: slots of a new memory are asked for in the place of the old ones.
    Reborn {
        /// The donor.
        donor: NodeName,
    },
    /// Done: copies are added for a stricter class, or for slots that are gone.
    Raise {
        /// The borrower.
        borrower: NodeName,
    },
    /// Done: copies above the class are given back.
    Lower {
        /// The borrower.
        borrower: NodeName,
    },
    /// Done: sets for the reserve.
    Reserve {
        /// The borrower.
        borrower: NodeName,
    },
    /// Done: granted sets and copies enter the borrower's document.
    Offer {
        /// The borrower.
        borrower: NodeName,
    },
    /// Done: sets that the borrower released are taken back.
    Released {
        /// The borrower.
        borrower: NodeName,
    },
    /// Done: sets of a device that is gone are taken back.
    DeviceGone {
        /// The borrower.
        borrower: NodeName,
    },
    /// Done: a slot that was asked for is not needed any more.
    Abandon {
        /// The donor.
        donor: NodeName,
    },
}

impl Reason {
    /// One CamelCase word, for events.
    #[must_use]
    pub const fn kind(&self) -> &'static str {
        match self {
            Self::BrakeOn { .. } => "BrakeOn",
            Self::ForeignGrants { .. } => "ForeignGrants",
            Self::NoSpillFile { .. } => "NoSpillFile",
            Self::IntegrityTooWeak { .. } => "IntegrityTooWeak",
            Self::NoLiveCopy { .. } => "NoLiveCopy",
            Self::NoDonor { .. } => "NoDonor",
            Self::ClassPending { .. } => "ClassPending",
            Self::BorrowerSilent { .. } => "BorrowerSilent",
            Self::Suspect { .. } => "DonorSuspect",
            Self::GrantPending { .. } => "GrantPending",
            Self::TakePending { .. } => "TakePending",
            Self::FreePending { .. } => "FreePending",
            Self::RevokePending { .. } => "RevokePending",
            Self::MovePending { .. } => "MovePending",
            Self::LastCopyStays { .. } => "LastCopyStays",
            Self::Revoke { .. } => "CopiesRevoked",
            Self::Pardon { .. } => "CopiesPardoned",
            Self::Move { .. } => "MovesBegun",
            Self::Moved { .. } => "CopiesMoved",
            Self::Forced { .. } => "RevokeForced",
            Self::RebalanceHeld => "RebalanceHeld",
            Self::RebalanceStuck { .. } => "RebalanceStuck",
            Self::Rebalance { .. } => "RebalanceBegun",
            Self::Rebalanced { .. } => "CopiesRebalanced",
            Self::RebalanceGivenUp { .. } => "RebalanceGivenUp",
            Self::Recall { .. } => "CopiesRecalled",
            Self::Replace { .. } => "CopiesReplaced",
            Self::Reborn { .. } => "SlotsRegranted",
            Self::Raise { .. } => "CopiesAdded",
            Self::Lower { .. } => "CopiesReturned",
            Self::Reserve { .. } => "SetsComposed",
            Self::Offer { .. } => "SetsOffered",
            Self::Released { .. } => "SetsReleased",
            Self::DeviceGone { .. } => "DeviceFreed",
            Self::Abandon { .. } => "SlotsAbandoned",
        }
    }

    /// The node whose event it is, and for what waits: when it begins. Somebody has to do something, or
    /// should know.
    #[must_use]
    pub const fn told_on(&self) -> Option<&NodeName> {
        match self {
            Self::IntegrityTooWeak { borrower, .. }
            | Self::NoDonor { borrower, .. }
            | Self::NoSpillFile { borrower }
            | Self::NoLiveCopy { borrower } => Some(borrower),
            Self::LastCopyStays { donor, .. } | Self::Forced { donor, .. } => Some(donor),
            _ => None,
        }
    }

    /// Whether something waits, as opposed to happens.
    #[must_use]
    pub const fn is_wait(&self) -> bool {
        matches!(
            self,
            Self::BrakeOn { .. }
                | Self::ForeignGrants { .. }
                | Self::NoSpillFile { .. }
                | Self::IntegrityTooWeak { .. }
                | Self::NoLiveCopy { .. }
                | Self::NoDonor { .. }
                | Self::ClassPending { .. }
                | Self::BorrowerSilent { .. }
                | Self::Suspect { .. }
                | Self::GrantPending { .. }
                | Self::TakePending { .. }
                | Self::FreePending { .. }
                | Self::RevokePending { .. }
                | Self::MovePending { .. }
                | Self::LastCopyStays { .. }
                | Self::RebalanceHeld
                | Self::RebalanceStuck { .. }
        )
    }

    /// Whether donors that are unevenly full wait for this: copies are missing, or wanted back.
    #[must_use]
    pub const fn comes_before_balance(&self) -> bool {
        matches!(
            self,
            Self::BrakeOn { .. }
                | Self::NoLiveCopy { .. }
                | Self::ClassPending { .. }
                | Self::Suspect { .. }
                | Self::RevokePending { .. }
                | Self::LastCopyStays { .. }
                | Self::Revoke { .. }
                | Self::Move { .. }
                | Self::Replace { .. }
                | Self::Reborn { .. }
                | Self::Raise { .. }
        )
    }
}

/// One line of a plan's report.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ReportLine {
    /// Why.
    pub reason: Reason,
    /// How many sets, copies or slots it is about.
    pub count: usize,
}

impl fmt::Display for ReportLine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.reason.is_wait() {
            self.fmt_wait(f)
        } else {
            self.fmt_done(f)
        }
    }
}

impl ReportLine {
    fn fmt_wait(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let count = self.count;
        match &self.reason {
            Reason::BrakeOn { gone, known } => write!(
                f,
                "waits to replace {count} copies: {gone} of {known} donors are gone at once, \
                 which is more likely the network than the donors"
            ),
            Reason::ForeignGrants { donor } => write!(
                f,
                "leaves {donor} alone: it holds slots that another controller store granted; give \
                 that store back, or empty the donor"
            ),
            Reason::NoSpillFile { borrower } => write!(
                f,
                "keeps {borrower}'s class as it is: the one wanted spills to disk and its swapd has \
                 no spill file; start it with --spill-file (dynamicswap up --spill), or write spill: None"
            ),
            Reason::IntegrityTooWeak { borrower, lack } => {
                write!(f, "does not attach {borrower}'s swap device: {lack}")
            }
            Reason::NoLiveCopy { borrower } => write!(
                f,
                "waits with {count} sets of {borrower}: no live copy is left to rebuild from \
                 until a donor comes back"
            ),
            Reason::NoDonor { borrower, refusals } => {
                write!(f, "waits with {count} sets for {borrower}: no donor fits")?;
                refusals
                    .iter()
                    .enumerate()
                    .try_for_each(|(index, (refusal, donors))| {
                        let separator = if index == 0 { " (" } else { ", " };
                        write!(f, "{separator}{donors} {refusal}")
                    })?;
                f.write_str(if refusals.is_empty() {
                    " (none is known)"
                } else {
                    ")"
                })
            }
            Reason::ClassPending { borrower, wanted } => write!(
                f,
                "holds back the class of {wanted} copies on {borrower}: {count} sets do not have \
                 them yet"
            ),
            Reason::BorrowerSilent { borrower } => {
                write!(f, "waits with {count} sets of {borrower}: it is not heard")
            }
            Reason::Suspect { borrower, donor } => write!(
                f,
                "waits for {donor} to come back to {borrower}, with {count} copies"
            ),
            Reason::GrantPending { donor } => {
                write!(f, "waits for {donor} to grant {count} slots")
            }
            Reason::TakePending { borrower } => {
                write!(f, "waits for {borrower} to let go of {count} slots")
            }
            Reason::FreePending { donor } => {
                write!(f, "waits for {donor} to take back {count} slots")
            }
            _ => self.fmt_move(f),
        }
    }

    fn fmt_done(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let count = self.count;
        match &self.reason {
            Reason::Replace {
                borrower,
                donor,
                cause,
            } => write!(
                f,
                "replaces {count} copies of {borrower} on {donor}: {cause}"
            ),
            Reason::Reborn { donor } => write!(
                f,
                "grants {count} slots of {donor} anew: its memory is a new one"
            ),
            Reason::Raise { borrower } => {
                write!(
                    f,
                    "adds {count} copies for {borrower}: its class asks for them"
                )
            }
            Reason::Lower { borrower } => write!(
                f,
                "gives back {count} copies of {borrower}: its class no longer asks for them"
            ),
            Reason::Reserve { borrower } => {
                write!(f, "composes {count} sets for the reserve of {borrower}")
            }
            Reason::Offer { borrower } => {
                write!(
                    f,
                    "offers {count} sets to {borrower}: every slot is granted"
                )
            }
            Reason::Released { borrower } => {
                write!(f, "takes back {count} sets that {borrower} released")
            }
            Reason::DeviceGone { borrower } => write!(
                f,
                "takes back {count} sets of an earlier device of {borrower}"
            ),
            Reason::Abandon { donor } => {
                write!(f, "no longer asks {donor} for {count} slots")
            }
            _ => self.fmt_move(f),
        }
    }

    /// What concerns donors that want memory back.
    fn fmt_move(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let count = self.count;
        match &self.reason {
            Reason::RevokePending { donor } => write!(
                f,
                "waits to move {count} copies off {donor}: those before them are not done"
            ),
            Reason::MovePending { borrower, donor } => write!(
                f,
                "waits for {borrower} to copy {count} slabs that leave {donor}"
            ),
            Reason::LastCopyStays { borrower, donor } => write!(
                f,
                "leaves {count} copies of {borrower} on {donor}, whose time is over: nobody else \
                 holds their pages; add a donor with room, or let the class spill to disk"
            ),
            Reason::Revoke { donor } => {
                write!(
                    f,
                    "takes {count} copies back for {donor}, the coldest first"
                )
            }
            Reason::Pardon { donor } => write!(
                f,
                "leaves {count} copies on {donor} after all: it wants fewer back"
            ),
            Reason::Move { borrower, donor } => {
                write!(f, "moves {count} copies of {borrower} off {donor}")
            }
            Reason::Moved { borrower, donor } => write!(
                f,
                "frees {count} copies of {borrower} on {donor}: they are whole elsewhere"
            ),
            Reason::Forced { borrower, donor } => write!(
                f,
                "frees {count} copies of {borrower} on {donor} with fewer left than the class asks \
                 for: its time is over"
            ),
            Reason::Recall { borrower } => write!(
                f,
                "keeps {count} copies of {borrower} that were to leave: no other is whole any more"
            ),
            _ => self.fmt_balance(f),
        }
    }

    /// What concerns donors that are unevenly full.
    fn fmt_balance(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let count = self.count;
        match &self.reason {
            Reason::RebalanceHeld => f.write_str(
                "waits to even out the donors: copies that are missing or wanted back come first",
            ),
            Reason::RebalanceStuck { donor } => write!(
                f,
                "leaves {donor} fuller than others: no copy on it may go to an emptier donor"
            ),
            Reason::Rebalance { from, to } => write!(
                f,
                "moves {count} copies from {from} to {to}, which lends less of what it can"
            ),
            Reason::Rebalanced { donor } => write!(
                f,
                "frees {count} copies on {donor}, which was fuller than others: they are whole \
                 elsewhere"
            ),
            Reason::RebalanceGivenUp { donor } => write!(
                f,
                "leaves {count} copies on {donor} after all: nothing came of their moves"
            ),
            _ => Ok(()),
        }
    }
}
