//! What a host's facts mean for lending and borrowing. Pure.

use dynamicswap_types::Bytes;
use serde::Serialize;

use super::facts::Facts;
use crate::cluster::caution::{CAP_IPC_LOCK, CAP_SYS_ADMIN, KERNEL_RESEND, kernel_version};
use crate::cluster::host::KERNEL_MIN;

/// How bad a line is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum State {
    /// As it should be.
    Good,
    /// Works without it, less well or less safely.
    Lacking,
    /// Does not work without it.
    Missing,
}

/// One line of the answer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Line {
    /// What was looked at.
    pub check: &'static str,
    /// How it stands.
    pub state: State,
    /// What was found.
    pub found: String,
    /// What to do; none where nothing is.
    pub cure: Option<String>,
}

/// The answer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Verdict {
    /// Whether a memory server would start here.
    pub can_lend: bool,
    /// Whether a swap device would be attached here.
    pub can_borrow: bool,
    /// Line by line.
    pub checks: Vec<Line>,
}

/// Who needs something.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Needs {
    Both,
    Borrower,
    Nobody,
}

const CAP_SYS_RESOURCE: u32 = 24;
/// The first kernel whose tmpfs can be kept out of swap.
const KERNEL_NOSWAP: (u32, u32) = (6, 4);
/// The first kernel whose ublk tells its features, and copies data on demand.
const KERNEL_UBLK: (u32, u32) = (6, 5);
/// Less is not worth lending.
const LENDABLE_MIN: Bytes = Bytes::from_mib(256);

struct Judge {
    verdict: Verdict,
}

impl Judge {
    fn good(&mut self, check: &'static str, found: impl Into<String>) {
        self.verdict.checks.push(Line {
            check,
            state: State::Good,
            found: found.into(),
            cure: None,
        });
    }

    fn lacks(&mut self, needs: Needs, check: &'static str, found: impl Into<String>, cure: &str) {
        self.verdict.can_lend &= needs != Needs::Both;
        self.verdict.can_borrow &= needs == Needs::Nobody;
        let state = if needs == Needs::Nobody {
            State::Lacking
        } else {
            State::Missing
        };
        self.verdict.checks.push(Line {
            check,
            state,
            found: found.into(),
            cure: Some(cure.to_owned()),
        });
    }
}

/// Judges a host.
#[must_use]
pub fn judge(facts: &Facts) -> Verdict {
    let mut judge = Judge {
        verdict: Verdict {
            can_lend: true,
            can_borrow: true,
            checks: Vec::new(),
        },
    };
    judge_kernel(facts, &mut judge);
    judge_privileges(facts, &mut judge);
    judge_device(facts, &mut judge);
    judge_memory(facts, &mut judge);
    judge_network(facts, &mut judge);
    judge.verdict
}

fn judge_kernel(facts: &Facts, judge: &mut Judge) {
    let found = format!("Linux {}", facts.kernel);
    let version = kernel_version(&facts.kernel);
    let older = |than| version.is_some_and(|version| version < than);
    if older(KERNEL_MIN) {
        let cure = "the swap device needs Linux 5.8, and 6.9 to outlive its engine";
        judge.lacks(Needs::Borrower, "kernel", found, cure);
    } else if older(KERNEL_RESEND) {
        let cure = "before 6.9, what the engine works on when it is killed waits for ever";
        judge.lacks(Needs::Nobody, "kernel", found, cure);
    } else {
        judge.good("kernel", found);
    }
    if older(KERNEL_NOSWAP) {
        let cure = "before 6.4, memory files stay out of swap only while they are locked";
        judge.lacks(Needs::Nobody, "noswap tmpfs", "none", cure);
    } else {
        judge.good("noswap tmpfs", "memory files never leave RAM");
    }
}

fn judge_privileges(facts: &Facts, judge: &mut Judge) {
    let has = |bit: u32| facts.capabilities >> bit & 1 == 1;
    if facts.is_root && has(CAP_SYS_ADMIN) {
        judge.good("privileges", "root with CAP_SYS_ADMIN");
    } else {
        let cure = "mounts, loop devices and swapon need root with CAP_SYS_ADMIN: use sudo";
        judge.lacks(Needs::Both, "privileges", "not enough", cure);
    }
    if has(CAP_IPC_LOCK) {
        judge.good("locked memory", "CAP_IPC_LOCK");
    } else {
        let cure = "the engine could be swapped out to its own device: give CAP_IPC_LOCK";
        judge.lacks(Needs::Borrower, "locked memory", "no CAP_IPC_LOCK", cure);
    }
    if has(CAP_SYS_RESOURCE) {
        judge.good("self-protection", "CAP_SYS_RESOURCE");
    } else {
        let cure = "no PR_SET_IO_FLUSHER, no protection from the OOM killer, and pressure is \
                    noticed by a timer of 1 s: give CAP_SYS_RESOURCE";
        judge.lacks(
            Needs::Nobody,
            "self-protection",
            "no CAP_SYS_RESOURCE",
            cure,
        );
    }
}

fn judge_device(facts: &Facts, judge: &mut Judge) {
    judge_front_ends(facts, judge);
    if !facts.tools_missing.is_empty() {
        let found = format!("{} not installed", facts.tools_missing.join(", "));
        judge.lacks(Needs::Borrower, "tools", found, "apt-get install mount");
    }
    match &facts.other_swap {
        None => judge.good("other swap", "none"),
        Some(trouble) => {
            let cure = "swapoff -a, and take it out of /etc/fstab";
            judge.lacks(Needs::Nobody, "other swap", trouble, cure);
        }
    }
    match facts.io_uring_disabled {
        Some(0) => judge.good("io_uring", "allowed"),
        None => judge.good("io_uring", "no switch to forbid it"),
        Some(_) => {
            let cure = "ublk and spill files need it: sysctl kernel.io_uring_disabled=0";
            judge.lacks(Needs::Nobody, "io_uring", "forbidden", cure);
        }
    }
}

/// What hands the device's requests over: ublk where the host has all of it, else a loop device over
/// a FUSE mount, which then is a need.
fn judge_front_ends(facts: &Facts, judge: &mut Judge) {
    let has_ublk = match ublk_trouble(facts) {
        None => {
            judge.good("ublk", "/dev/ublk-control; the device is a ublk device");
            true
        }
        Some((trouble, cure)) => {
            let found = format!("{trouble}; the device is a loop device over FUSE");
            judge.lacks(Needs::Nobody, "ublk", found, cure);
            false
        }
    };
    let needs = if has_ublk {
        Needs::Nobody
    } else {
        Needs::Borrower
    };
    match &facts.fuse_trouble {
        None => judge.good("FUSE", "/dev/fuse can be opened"),
        Some(trouble) => {
            let cure = if facts.is_root {
                "modprobe fuse, or in a container --device /dev/fuse"
            } else {
                "use sudo; if it is missing then too, modprobe fuse"
            };
            judge.lacks(needs, "FUSE", trouble, cure);
        }
    }
    if facts.has_loop {
        judge.good("loop devices", "/dev/loop-control");
    } else {
        let cure = "modprobe loop";
        judge.lacks(needs, "loop devices", "no /dev/loop-control", cure);
    }
}

/// Why ublk does not serve, and what to do. swapd asks the driver itself for what it can do.
fn ublk_trouble(facts: &Facts) -> Option<(String, &'static str)> {
    let version = kernel_version(&facts.kernel);
    if !facts.has_ublk {
        let cure = "modprobe ublk_drv, where the kernel has it (Linux 6.5 and later)";
        return Some(("no /dev/ublk-control".to_owned(), cure));
    }
    if version.is_some_and(|version| version < KERNEL_UBLK) {
        let found = format!("Linux {} lacks what the device needs of it", facts.kernel);
        return Some((found, "use Linux 6.5 or later, best 6.12 or later"));
    }
    // 1 forbids it to those without CAP_SYS_ADMIN.
    if facts.io_uring_disabled.is_some_and(|level| level > 1) {
        return Some((
            "io_uring is forbidden".to_owned(),
            "sysctl kernel.io_uring_disabled=0",
        ));
    }
    None
}

fn judge_memory(facts: &Facts, judge: &mut Judge) {
    match (facts.has_memory_v2, facts.has_memory_v1) {
        (true, _) => judge.good("memory cgroups", "version 2"),
        (false, true) => judge.good("memory cgroups", "version 1 beside version 2"),
        (false, false) => {
            let cure =
                "boot with systemd.unified_cgroup_hierarchy=1, without cgroup_disable=memory";
            judge.lacks(Needs::Borrower, "memory cgroups", "none", cure);
        }
    }
    if facts.has_psi {
        judge.good("pressure (PSI)", "/proc/pressure/memory");
    } else {
        let cure = "boot with psi=1";
        judge.lacks(Needs::Borrower, "pressure (PSI)", "off", cure);
    }
    let found = format!("{:.1} GiB available", facts.available.as_mib_f64() / 1024.0);
    if facts.available >= LENDABLE_MIN {
        judge.good("memory", found);
    } else {
        judge.lacks(Needs::Nobody, "memory", found, "too little to lend any");
    }
}

fn judge_network(facts: &Facts, judge: &mut Judge) {
    if facts.rdma_devices.is_empty() {
        judge.good("RDMA", "no device; pages go over TCP");
    } else {
        judge.good("RDMA", facts.rdma_devices.join(", "));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn able() -> Facts {
        Facts {
            kernel: "6.12.9".to_owned(),
            is_root: true,
            capabilities: u64::MAX,
            has_loop: true,
            has_ublk: true,
            has_memory_v2: true,
            has_psi: true,
            available: Bytes::from_mib(4096),
            ..Facts::default()
        }
    }

    fn line(verdict: &Verdict, check: &str) -> Line {
        let mut lines = verdict.checks.iter();
        let found = lines.find(|line| line.check == check);
        found.expect("a line of that name").clone()
    }

    #[test]
    fn able_host_lends_and_borrows_and_needs_no_cure() {
        let verdict = judge(&able());
        assert!(verdict.can_lend && verdict.can_borrow);
        assert!(verdict.checks.iter().all(|line| line.cure.is_none()));
    }

    #[test]
    fn host_without_a_device_lends_only() {
        let trouble = Some("no FUSE".to_owned());
        for facts in [
            Facts {
                fuse_trouble: trouble,
                has_ublk: false,
                ..able()
            },
            Facts {
                has_loop: false,
                io_uring_disabled: Some(2),
                ..able()
            },
            Facts {
                kernel: "5.4".to_owned(),
                ..able()
            },
            Facts {
                has_memory_v2: false,
                ..able()
            },
            Facts {
                has_psi: false,
                ..able()
            },
            Facts {
                tools_missing: vec!["losetup"],
                ..able()
            },
        ] {
            let verdict = judge(&facts);
            assert!(verdict.can_lend && !verdict.can_borrow, "{facts:?}");
            let missing = verdict.checks.iter().filter(|l| l.state == State::Missing);
            assert!(missing.clone().all(|line| line.cure.is_some()));
            assert_eq!(missing.count(), 1, "{facts:?}");
        }
    }

    #[test]
    fn ublk_makes_fuse_and_loop_needless_and_its_lack_is_said() {
        let without = Facts {
            fuse_trouble: Some("no FUSE".to_owned()),
            has_loop: false,
            ..able()
        };
        let verdict = judge(&without);
        assert!(verdict.can_borrow);
        assert_eq!(line(&verdict, "FUSE").state, State::Lacking);
        for facts in [
            Facts {
                has_ublk: false,
                ..able()
            },
            Facts {
                kernel: "6.4.1".to_owned(),
                ..able()
            },
            Facts {
                io_uring_disabled: Some(2),
                ..able()
            },
        ] {
            let verdict = judge(&facts);
            assert!(verdict.can_borrow);
            assert_eq!(line(&verdict, "ublk").state, State::Lacking, "{facts:?}");
            assert!(
                line(&verdict, "ublk")
                    .found
                    .contains("loop device over FUSE")
            );
        }
    }

    #[test]
    fn host_without_root_does_neither() {
        for facts in [
            Facts {
                is_root: false,
                ..able()
            },
            Facts {
                capabilities: 0,
                ..able()
            },
        ] {
            let verdict = judge(&facts);
            assert!(!verdict.can_lend && !verdict.can_borrow);
            assert_eq!(line(&verdict, "privileges").state, State::Missing);
        }
    }

    #[test]
    fn what_is_less_safe_is_said_and_stops_nothing() {
        let facts = Facts {
            kernel: "6.3".to_owned(),
            capabilities: 1 << CAP_SYS_ADMIN | 1 << CAP_IPC_LOCK,
            io_uring_disabled: Some(2),
            other_swap: Some("other swap is on".to_owned()),
            ..able()
        };
        let verdict = judge(&facts);
        assert!(verdict.can_lend && verdict.can_borrow);
        for check in [
            "kernel",
            "noswap tmpfs",
            "self-protection",
            "io_uring",
            "other swap",
        ] {
            let line = line(&verdict, check);
            assert_eq!(line.state, State::Lacking, "{check}");
            assert!(line.cure.is_some(), "{check}");
        }
    }
}
