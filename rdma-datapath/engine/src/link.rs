//! State of the link to one memory server, as the transport tells it to the engine.

use dynamicswap_types::IncarnationId;

/// What a transport says about a server.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Link {
    /// Handshake done: operations may be posted, and every session of an older epoch is fenced.
    Up {
        /// The memory that answered.
        incarnation: IncarnationId,
    },
    /// Not reachable. Every operation under way has been completed with `LinkDown` before.
    Down,
    /// The server refused the handshake because it knows a newer epoch of this device.
    Refused,
}
