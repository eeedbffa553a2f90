//! The scenarios. Each is a function over a fresh lab.

mod borrower_frozen;
mod canaries;
mod damaged_pages;
mod demo_in_guest;
mod hard_limit;
mod link_faults;
mod rdma_choice;
mod rdma_engine;
mod rdma_pages;
mod rdma_rules;
mod rdma_strangers;
mod repaging;
mod revoke_under_writes;
mod small_memory;
mod swapoff_killed;
mod two_machines;
mod ublk_choice;
mod ublk_kills;
mod ublk_rdma;

use anyhow::Result;

use crate::Lab;

/// A scenario.
#[derive(Debug)]
pub struct Scenario {
    /// Its name on the command line.
    pub name: &'static str,
    /// What it proves, in a few words.
    pub proves: &'static str,
    /// Whether it is over in a minute or two, so that every test run can play it.
    pub is_short: bool,
    /// Plays it.
    pub play: fn(&mut Lab) -> Result<()>,
}

/// All of them, in the order of a whole run.
pub const ALL: &[Scenario] = &[
    Scenario {
        name: "repaging",
        proves: "on cgroup v2 pages leave ahead of a limit and come home when there is room, 0 wrong pages",
        is_short: true,
        play: repaging::play,
    },
    Scenario {
        name: "rdma_rules",
        proves: "slots, keys, epochs: the rules of the data path hold over RDMA",
        is_short: true,
        play: rdma_rules::play,
    },
    Scenario {
        name: "rdma_choice",
        proves: "a host or a way without RDMA is served over TCP, with the reason in the report",
        is_short: false,
        play: rdma_choice::play,
    },
    Scenario {
        name: "rdma_pages",
        proves: "a guest swaps over RDMA, also across a kill -9 of the memory server, 0 wrong pages",
        is_short: false,
        play: rdma_pages::play,
    },
    Scenario {
        name: "rdma_engine",
        proves: "engines killed under a swap storm are replaced, the old queue pair fenced, 0 wrong pages",
        is_short: false,
        play: rdma_engine::play,
    },
    Scenario {
        name: "rdma_strangers",
        proves: "foreign and guessed keys fault, close their own session only, and move no page",
        is_short: false,
        play: rdma_strangers::play,
    },
    Scenario {
        name: "canaries",
        proves: "slots full of a pattern go to another device, which reads no byte of it, over RDMA and TCP",
        is_short: false,
        play: canaries::play,
    },
    Scenario {
        name: "two_machines",
        proves: "every command of docs/two-machines.md, run literally on two machines with systemd",
        is_short: false,
        play: two_machines::play,
    },
    Scenario {
        name: "ublk_choice",
        proves: "ublk serves where it can, never silently; its parameters, its orphans, its last resort",
        is_short: true,
        play: ublk_choice::play,
    },
    Scenario {
        name: "ublk_kills",
        proves: "a ublk device outlives 50 killed engines, a hung one, and its holder, under a swap storm, 0 wrong pages",
        is_short: false,
        play: ublk_kills::play,
    },
    Scenario {
        name: "ublk_rdma",
        proves: "a ublk device's pages go by RDMA, also after a kill -9 of its engine under load, 0 wrong pages",
        is_short: true,
        play: ublk_rdma::play,
    },
    Scenario {
        name: "link_cut",
        proves: "a link that flaps and is then cut for 5 s costs no word and no process",
        is_short: false,
        play: link_faults::cut,
    },
    Scenario {
        name: "link_slow",
        proves: "a network that takes 50 ms there and back costs no word and no process",
        is_short: false,
        play: link_faults::slow,
    },
    Scenario {
        name: "link_lossy",
        proves: "a network that loses 5 % each way costs no word and no process",
        is_short: false,
        play: link_faults::lossy,
    },
    Scenario {
        name: "donor_off",
        proves: "a donor whose power fails costs no word and no process where the disk has its pages",
        is_short: false,
        play: link_faults::donor_off,
    },
    Scenario {
        name: "link_one_way",
        proves: "a link that carries one way only, either way, costs no word and no process",
        is_short: false,
        play: link_faults::one_way,
    },
    Scenario {
        name: "borrower_frozen",
        proves: "a frozen borrower's slots go to another; it wakes up and cannot touch them, nobody loses a word",
        is_short: false,
        play: borrower_frozen::play,
    },
    Scenario {
        name: "damaged_pages",
        proves: "overwritten, moved and rolled-back pages are refused and come from the disk, 0 wrong pages",
        is_short: false,
        play: damaged_pages::play,
    },
    Scenario {
        name: "revoke_under_writes",
        proves: "slabs leave a donor under a swap storm, live or by force, its memory goes back, 0 wrong pages",
        is_short: false,
        play: revoke_under_writes::play,
    },
    Scenario {
        name: "demo_in_guest",
        proves: "the demo, as a user starts it, on ublk and over RDMA: 0 wrong, 0 lost, nothing left",
        is_short: false,
        play: demo_in_guest::play,
    },
    Scenario {
        name: "swapoff_killed",
        proves: "a swapoff killed halfway, five times, costs no word; one that is left alone ends",
        is_short: false,
        play: swapoff_killed::play,
    },
    Scenario {
        name: "small_memory",
        proves: "192 MiB of RAM, three times what is left of it at work: no hung task, no OOM kill, 0 wrong pages",
        is_short: false,
        play: small_memory::play,
    },
    Scenario {
        name: "hard_limit",
        proves: "a hard limit hit hard, with a server 50 ms away, kills nobody",
        is_short: false,
        play: hard_limit::play,
    },
];
