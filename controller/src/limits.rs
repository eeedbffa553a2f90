//! Every limit of the controller, in one place, with its reason.

use std::time::Duration;

/// Events from sessions and operators that wait for the owner. When it is full, each session keeps its
/// node's latest report until there is room.
pub const EVENTS_QUEUED_MAX: usize = 1024;
/// Events that are taken in before one plan is made of them all: as many as can wait, because a round
/// of a large cluster costs far more than what it is told.
pub const EVENTS_PER_ROUND_MAX: usize = EVENTS_QUEUED_MAX;
/// Cluster events that are kept for `status`.
pub const EVENT_RING_MAX: usize = 1024;
/// Longest message: a report of a 64 GiB device in 1 MiB slabs with three copies stays below.
pub const MESSAGE_BYTES_MAX: usize = 16 << 20;
/// What a peer may send before it is read, the least that HTTP/2 has: a thousand peers with a mebibyte
/// each, which is the library's own default, would be a gibibyte. A report of a device of 64 slabs fits.
pub const SESSION_WINDOW_BYTES: u32 = (1 << 16) - 1;
/// Time that a new session has for its hello.
pub const HELLO_TIMEOUT: Duration = Duration::from_secs(10);
/// A peer that has vanished without a word is noticed within this time and the next.
pub const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(5);
/// Time that a peer has to answer: on a node whose processors are taken, seconds. Nothing waits for it:
/// that a donor has vanished is told by its borrowers' links, within a second.
pub const KEEPALIVE_TIMEOUT: Duration = Duration::from_secs(10);
/// A plan is made at least this often, in case an event was missed.
pub const ROUND_INTERVAL: Duration = Duration::from_secs(1);
/// What the file store keeps of its file in memory. It is read once, when the controller starts, so this
/// is for the pages that commits write; redb's own default is 1 GiB.
pub const STORE_CACHE_BYTES: usize = 8 << 20;
/// Time until a store that failed is tried again, the first time.
pub const STORE_RETRY: Duration = Duration::from_millis(200);
/// The longest such time: each failure doubles it, so that a server in trouble is not asked for the
/// same writes all the time, and one that is back is noticed soon.
pub const STORE_RETRY_MAX: Duration = Duration::from_secs(5);
/// Time that sessions have to end when the controller stops.
pub const STOP_TIMEOUT: Duration = Duration::from_secs(2);
/// Longest `--replace-after-ms`, an hour.
pub const REPLACE_AFTER_MS_MAX: u64 = 3_600_000;
/// Nodes that are known at once; a borrower's engine knows 256 servers.
pub const NODES_MAX: usize = 4096;
/// Policies that are kept.
pub const POLICIES_MAX: usize = 1024;
/// Time that the API server has for one answer. Below [`LEASE_DURATION`] less
/// [`LEASE_RENEW_DEADLINE`], so that a write which began under a leadership ends before the next.
pub const API_REQUEST_TIMEOUT: Duration = Duration::from_secs(4);
/// Pauses before a request is sent again that the API server had no room for, unless it says
/// itself how long to wait.
pub const API_RETRY_MIN: Duration = Duration::from_millis(200);
/// The longest of them.
pub const API_RETRY_MAX: Duration = Duration::from_secs(2);
/// Times that such a request is sent again within [`API_REQUEST_TIMEOUT`].
pub const API_RETRIES_MAX: u32 = 3;
/// Requests that wait for their turn within the client: more than are ever made at once.
pub const API_REQUESTS_QUEUED_MAX: usize = 1024;
/// Time after which the API server ends a watch, and the next goes on where it ended. Short, so that
/// a connection of which nothing comes any more is noticed.
pub const WATCH_SECONDS: u32 = 25;
/// A connection of which nothing comes for so long is broken: longer than a watch lasts.
pub const API_SILENCE: Duration = Duration::from_secs(35);
/// Pause before a watch whose beginning is lost begins anew, the first time and at most.
pub const WATCH_ANEW: Duration = Duration::from_secs(1);
/// See [`WATCH_ANEW`].
pub const WATCH_ANEW_MAX: Duration = Duration::from_secs(30);
/// A lease that has not changed for this long is free, as Kubernetes' own components have it.
pub const LEASE_DURATION: Duration = Duration::from_secs(15);
/// A leader that could not renew for this long is none any more.
pub const LEASE_RENEW_DEADLINE: Duration = Duration::from_secs(10);
/// Time between two renewals.
pub const LEASE_RENEW: Duration = Duration::from_secs(3);
/// Time from a renewal that failed to the next try: two tries that nobody answers end before
/// [`LEASE_RENEW_DEADLINE`].
pub const LEASE_RETRY: Duration = Duration::from_millis(500);
/// Time between two looks at somebody else's lease.
pub const LEASE_LOOK: Duration = Duration::from_secs(1);
/// Time between two looks at what Kubernetes should be told of the events.
pub const NEWS_INTERVAL: Duration = Duration::from_secs(2);
/// Events that Kubernetes is told each time: a storm is told in part, the controller's own ring has
/// all of it.
pub const NEWS_MAX: usize = 10;
/// Characters of such an event: the API server takes no more than 1024 bytes, and a character has
/// four at most.
pub const NEWS_NOTE_MAX: usize = 256;
/// Pause after a connection that could not be taken: descriptors run out for a while, not for good.
pub const ACCEPT_PAUSE: Duration = Duration::from_millis(100);
/// Time between two looks at whether the Service still leads to the leader.
pub const ENDPOINT_LOOK: Duration = Duration::from_secs(10);
/// Records that are written to the API server at once: enough to take over a thousand nodes in
/// seconds, few enough to leave the server to others.
pub const RECORD_WRITES_MAX: usize = 16;
/// Nodes that a condition names; it says how many more there are.
pub const NODES_SHOWN_MAX: usize = 5;
/// Other policies that a condition names; it says how many more there are.
pub const POLICIES_SHOWN_MAX: usize = 5;
/// Times that a record is written anew after a conflict before the commit fails.
pub const RECORD_ATTEMPTS_MAX: usize = 4;
/// Time between two looks at what users are shown.
pub const PUBLISH_INTERVAL: Duration = Duration::from_secs(2);
/// The longest time between two, while the API server does not take what users are to be shown.
pub const PUBLISH_RETRY_MAX: Duration = Duration::from_secs(30);
/// Figures alone (bytes, counts) are written this often at most.
pub const PUBLISH_FIGURES_INTERVAL: Duration = Duration::from_secs(30);
/// Time between two looks at which objects there are: whoever deletes one has it back after that.
pub const PUBLISH_LOOK: Duration = Duration::from_secs(30);
/// What users decided of memory servers is told to the owner again after this time, for a server
/// may become known later than its object.
pub const ADMISSION_RESYNC: Duration = Duration::from_secs(10);
/// Life of an authority. Losing one is a change of a Secret, so a year is no risk; and a cluster in
/// which the controller stands still for months comes back with a new one.
pub const AUTHORITY_LIFE_S: u64 = 365 * 86_400;
/// Age at which an authority gets a successor: a third of its life is left to notice that it does not.
pub const AUTHORITY_RENEW_S: u64 = AUTHORITY_LIFE_S / 3 * 2;
/// Time from the making of a successor to its first signature. A kubelet brings a changed `ConfigMap`
/// to its pods within minutes; an agent that has not heard by then could not verify the controller.
pub const AUTHORITY_ANNOUNCED_S: u64 = 6 * 3_600;
/// Life of a certificate, an agent's or the controller's own. It is not revoked, it runs out; two
/// thirds through it is renewed, which leaves 8 hours for a control plane that is away.
pub const CERTIFICATE_LIFE_S: u64 = 86_400;
/// Certificates are valid from so long before they are made: clocks of two hosts differ.
pub const CERTIFICATE_SKEW_S: u64 = 300;
/// Time between two looks at authorities and certificates: at the Secret, or at files.
pub const CERTIFICATES_LOOK: Duration = Duration::from_secs(60);
/// Time until such a look is tried again after it failed.
pub const CERTIFICATES_RETRY: Duration = Duration::from_secs(5);
/// Time that a peer has for its TLS handshake.
pub const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(10);
/// Handshakes at once; whoever comes then waits in the listener's queue.
pub const HANDSHAKES_MAX: usize = 64;
/// Reviews of tokens at once: each is two requests to the API server, and anybody may ask for one.
pub const REVIEWS_MAX: usize = 16;
/// Longest token: a projected one has about 1 KiB.
pub const TOKEN_BYTES_MAX: usize = 16 << 10;
/// Longest request for a certificate: one for a P-256 key has about 300 bytes.
pub const REQUEST_BYTES_MAX: usize = 4 << 10;

const _: () = assert!(AUTHORITY_ANNOUNCED_S + CERTIFICATE_LIFE_S < AUTHORITY_LIFE_S / 3);
const _: () = assert!(WATCH_SECONDS as u128 * 1_000 + 5_000 < API_SILENCE.as_millis());
const _: () = assert!(
    LEASE_RENEW.as_millis() + API_REQUEST_TIMEOUT.as_millis() + LEASE_RETRY.as_millis()
        < LEASE_RENEW_DEADLINE.as_millis()
);
const _: () = assert!(
    LEASE_RENEW_DEADLINE.as_millis() + API_REQUEST_TIMEOUT.as_millis() < LEASE_DURATION.as_millis()
);
