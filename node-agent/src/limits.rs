//! Every limit of the agent, in one place, with its reason.

use std::time::Duration;

use dynamicswap_types::Bytes;

/// Shortest time between two reports, and between two looks at pressure: triggers and daemons may
/// storm, the controller and this node's processor shall not notice.
pub const REPORT_SPACING: Duration = Duration::from_millis(50);
/// Longest time between two reports, so that figures stay fresh and a silent agent is known to be
/// gone; also the time until a document that a daemon refused is offered again.
pub const TICK: Duration = Duration::from_secs(1);
/// Longest `--look-every-ms`, a minute: above, an average over 10 s is missed.
pub const LOOK_EVERY_MS_MAX: u64 = 60_000;
/// Time between two refreshes of the kernel's counts of a container that stale ones could kill: a
/// fast device turns over a sixth of a second's pages in it, a list that is balanced holds half.
pub const COUNTS_REFRESH: Duration = Duration::from_millis(100);
/// First pause before a session is opened again; doubled for each failure in a row.
pub const BACK_OFF_MIN: Duration = Duration::from_millis(100);
/// Longest of these pauses: a controller that is back is found within it.
pub const BACK_OFF_MAX: Duration = Duration::from_secs(2);
/// A session that lasted so long has worked, even if no document came.
pub const SESSION_WORKED: Duration = Duration::from_secs(5);
/// Time that a connection and the controller's answer may take together.
pub const SESSION_OPEN_LIMIT: Duration = Duration::from_secs(4);
/// Time that a connection and a certificate may take together: the controller asks the API server,
/// which has 4 s.
pub const ENROLL_LIMIT: Duration = Duration::from_secs(10);
/// Time until a renewal that failed is tried again: a third of a day is left for it.
pub const RENEWAL_RETRY: Duration = Duration::from_secs(300);
/// Longest file with certificates, a key or a token: a bundle of two authorities has 2 KiB.
pub const CERTIFICATE_FILE_BYTES_MAX: u64 = 256 << 10;
/// A controller that has vanished without a word is noticed within this time and the next.
pub const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(5);
/// Time that it has to answer: below the time in which another one leads.
pub const KEEPALIVE_TIMEOUT: Duration = Duration::from_secs(10);
/// Longest document: a daemon's frame takes no longer one.
pub const DOCUMENT_BYTES_MAX: usize = 16 << 20;

/// Longest wait for a daemon's change: a report at least this often keeps the counters fresh.
pub const LONG_POLL: Duration = Duration::from_secs(1);
/// A daemon that takes longer to answer than this is as good as gone.
pub const ANSWER_LIMIT: Duration = Duration::from_secs(5);
/// Pause before a daemon that is gone is looked for again.
pub const DAEMON_RETRY: Duration = Duration::from_millis(100);
/// Shortest time between two questions to a daemon, should it answer without waiting.
pub const POLL_SPACING: Duration = Duration::from_millis(10);
/// Longest path of a unix socket: the kernel's address has 108 bytes with the zero at the end.
pub const SOCKET_PATH_MAX: usize = 107;

/// Containers that are watched; a kubelet runs 110 pods as a rule, 500 at most.
pub const CONTAINERS_MAX: usize = 1024;
/// Pods that are known; see above.
pub const PODS_MAX: usize = 1024;
/// Directories that one walk for cgroups looks at: 1024 pods with a sandbox and two containers
/// each are 4096.
pub const CGROUPS_MAX: usize = 16 << 10;
/// Levels that such a walk goes down: kubelet's own, kubepods, a class of service, a pod.
pub const CGROUP_DEPTH_MAX: usize = 4;
/// Longest wait for an answer of the API server or the kubelet.
pub const API_ANSWER_LIMIT: Duration = Duration::from_secs(10);
/// Time until the kubelet's configuration is asked for again, while it keeps the device off.
pub const KUBELET_LOOK: Duration = Duration::from_secs(30);
/// Time to the second look, doubled for each that follows: a node that has just come up may only be slow
/// to answer, and its device waits for it.
pub const KUBELET_LOOK_FIRST: Duration = Duration::from_secs(1);
/// Time that a starting agent waits for its node's labels before it takes the last known ones.
pub const LABELS_WAIT: Duration = Duration::from_secs(10);
/// Longest descriptor of a container: names, some labels and two paths.
pub const DESCRIPTOR_BYTES_MAX: u64 = 64 << 10;
/// Longest kernel file that is read: memory.stat, the longest of a cgroup, has a few KiB.
pub const KERNEL_FILE_BYTES_MAX: usize = 64 << 10;
/// What is read of one at once. memory.stat has 2 KiB on Linux 6.18, twice that with the events of
/// huge pages and NUMA.
pub const KERNEL_FILE_BYTES_USUAL: usize = 8 << 10;
/// Kernel files of one kind of look that are kept open, each with 4 KiB in the kernel: two for each of 250
/// containers, which is what a kubelet runs as a rule and twice that. Others are opened each time.
pub const KEPT_FILES_MAX: usize = 500;
/// Time between two looks at all figures of a container to which nothing happens: each look reads its
/// memory and its pressure, and only what moves is worth the other seven files. Half of the 6 s from
/// one probe to the next, so that none is late.
pub const QUIET_LOOK: Duration = Duration::from_secs(3);
/// How far a container's memory may be from where it was at the last such look: less is the noise of
/// logs and timers, and an eighth of the least room that is kept below a limit.
pub const QUIET_BYTES: Bytes = Bytes::from_mib(1);
/// Share of the time since then, as a divisor, in which its tasks may have waited for memory: a tenth
/// of what counts as a stall.
pub const QUIET_STALL_DIVISOR: u32 = 1_000;
/// Pages that one order to bring pages home finds: 512 MiB, whose list has 5 MiB.
pub const HOMECOMING_PAGES_MAX: usize = 128 << 10;
/// Pages that come home together: 1 MiB is read at once, and a stop takes no longer than that.
pub const HOMECOMING_BATCH_PAGES: u64 = 256;
/// Decisions that are kept and that each report carries, some 200 bytes each.
pub const DECISIONS_MAX: usize = 32;
/// Warnings that a report carries.
pub const WARNINGS_MAX: usize = 16;

const _: () = {
    assert!(REPORT_SPACING.as_nanos() < TICK.as_nanos());
    assert!(BACK_OFF_MIN.as_nanos() < BACK_OFF_MAX.as_nanos());
    assert!(LONG_POLL.as_nanos() < ANSWER_LIMIT.as_nanos());
    assert!(WARNINGS_MAX < CONTAINERS_MAX);
    assert!(CONTAINERS_MAX < CGROUPS_MAX);
    assert!(TICK.as_nanos() <= QUIET_LOOK.as_nanos());
    assert!(KERNEL_FILE_BYTES_USUAL < KERNEL_FILE_BYTES_MAX);
};
