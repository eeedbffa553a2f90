//! The scenarios. Each is a function over a fresh lab.

mod daemons;
mod link_faults;
mod rdma_choice;
mod rdma_engine;
mod rdma_pages;
mod rdma_rules;
mod rdma_strangers;
mod repaging;
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
    /// Plays it.
    pub play: fn(&mut Lab) -> Result<()>,
}

/// All of them, in the order of a whole run.
pub const ALL: &[Scenario] = &[
    Scenario {
        name: "repaging",
        proves: "on cgroup v2 pages leave ahead of a limit and come home when there is room, 0 wrong pages",
        play: repaging::play,
    },
    Scenario {
        name: "rdma_rules",
        proves: "slots, keys, epochs: the rules of the data path hold over RDMA",
        play: rdma_rules::play,
    },
    Scenario {
        name: "rdma_choice",
        proves: "a host or a way without RDMA is served over TCP, with the reason in the report",
        play: rdma_choice::play,
    },
    Scenario {
        name: "rdma_pages",
        proves: "a guest swaps over RDMA, also across a kill -9 of the memory server, 0 wrong pages",
        play: rdma_pages::play,
    },
    Scenario {
        name: "rdma_engine",
        proves: "engines killed under a swap storm are replaced, the old queue pair fenced, 0 wrong pages",
        play: rdma_engine::play,
    },
    Scenario {
        name: "rdma_strangers",
        proves: "foreign and guessed keys fault, close their own session only, and move no page",
        play: rdma_strangers::play,
    },
    Scenario {
        name: "two_machines",
        proves: "every command of docs/two-machines.md, run literally on two machines with systemd",
        play: two_machines::play,
    },
    Scenario {
        name: "ublk_choice",
        proves: "ublk serves where it can, never silently; its parameters, its orphans, its last resort",
        play: ublk_choice::play,
    },
    Scenario {
        name: "ublk_kills",
        proves: "a ublk device outlives 50 killed engines, a hung one, and its holder, under a swap storm, 0 wrong pages",
        play: ublk_kills::play,
    },
    Scenario {
        name: "ublk_rdma",
        proves: "a ublk device's pages go by RDMA, also after a kill -9 of its engine under load, 0 wrong pages",
        play: ublk_rdma::play,
    },
    Scenario {
        name: "link_cut",
        proves: "a link that flaps and is then cut for 5 s costs no word and no process",
        play: link_faults::cut,
    },
    Scenario {
        name: "link_slow",
        proves: "a network that takes 50 ms there and back costs no word and no process",
        play: link_faults::slow,
    },
    Scenario {
        name: "link_lossy",
        proves: "a network that loses 5 % each way costs no word and no process",
        play: link_faults::lossy,
    },
    Scenario {
        name: "donor_off",
        proves: "a donor whose power fails costs no word and no process where the disk has its pages",
        play: link_faults::donor_off,
    },
];
