//! Deliberately broken rules: a simulation that does not notice them proves nothing.
//!
//! None of them is in the product's code: each is a lie told to the engine from outside, or a
//! step of the shell left out, with the same effect as the broken rule.

/// A broken rule.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mutation {
    /// Writes count as acknowledged before the server has them.
    EarlyAcknowledge,
    /// A write that failed counts as acknowledged.
    FailureAsSuccess,
    /// A new engine takes the old one's epoch: nobody is fenced.
    EpochKept,
    /// Checksums are not verified: what arrives is right.
    NoVerification,
    /// A server that lost its memory answers with the old incarnation.
    IncarnationKept,
    /// Unfinished requests are not sent again to a new engine.
    NoResend,
    /// A copy leaves its set before the one in its place is whole.
    EarlyDrop,
    /// A document counts as taken while something is still under way to a copy that it drops. No
    /// page suffers here, where servers refuse by themselves; an RDMA link would break.
    EarlyReport,
}

impl Mutation {
    /// All of them.
    pub const ALL: [Self; 8] = [
        Self::EarlyAcknowledge,
        Self::FailureAsSuccess,
        Self::EpochKept,
        Self::NoVerification,
        Self::IncarnationKept,
        Self::NoResend,
        Self::EarlyDrop,
        Self::EarlyReport,
    ];

    /// Seeds within which it must be noticed.
    #[must_use]
    pub const fn seeds_max(self) -> u64 {
        match self {
            Self::EarlyAcknowledge | Self::FailureAsSuccess | Self::NoResend => 100,
            Self::NoVerification | Self::IncarnationKept | Self::EarlyDrop | Self::EarlyReport => {
                400
            }
            Self::EpochKept => 2000,
        }
    }
}
