//! Processes killed and stopped under load.

use std::time::{Duration, Instant};

use crate::damage::memory_file;
use anyhow::{Context as _, Result, ensure};
use dynamicswap_native_tests::TWO_COPIES;
use dynamicswap_native_tests::cluster::{Cluster, device};
use dynamicswap_native_tests::workload::{Size, Workload};
use rand::{Rng as _, SeedableRng as _};
use rand_chacha::ChaCha8Rng;
use rustix::process::Signal;

/// Rounds of the kill matrix.
const ROUNDS: u32 = 24;

/// A cluster with the policy applied and a workload that pages.
fn pressed(name: &str) -> Result<(Cluster, Workload)> {
    let mut cluster = Cluster::up(name, &[])?;
    cluster.apply(TWO_COPIES)?;
    let mut workload = Workload::start(&cluster, "verify", Size::HALF_IN_RAM)?;
    workload.wait_churn()?;
    Ok((cluster, workload))
}

pub fn pages_go_to_donors_and_come_back_right() -> Result<()> {
    let (mut cluster, mut workload) = pressed("native-basic")?;
    workload.run_for(Duration::from_secs(2))?;
    cluster.wait("pages on each of the three donors", |status| {
        device(status).is_some_and(|device| {
            let holding = device
                .links
                .iter()
                .filter(|link| link.pages_held > 0)
                .count();
            holding == 3 && device.pages_used > 1000
        })
    })?;
    for donor in ["donor-1", "donor-2", "donor-3"] {
        ensure!(
            !holds_a_readable_page(&cluster, donor)?,
            "{donor} can read the borrower's pages"
        );
    }
    let end = workload.finish()?;
    ensure!(
        end.swap_ins > 1000,
        "the workload has hardly paged: {end:?}"
    );
    let seen = cluster.device()?.counters.context("no counters")?;
    ensure!(
        seen.pages_written > 1000 && seen.pages_read > 1000,
        "{seen:?}"
    );
    ensure!(
        seen.integrity_failures == 0 && seen.pages_lost == 0,
        "{seen:?}"
    );
    cluster.down()
}

/// Whether a page of the workload, each of which begins with the same word, stands in a donor's
/// memory as the workload wrote it.
fn holds_a_readable_page(cluster: &Cluster, donor: &str) -> Result<bool> {
    let memory = std::fs::read(memory_file(cluster, donor)?)?;
    let mut pages = memory.chunks_exact(4096);
    ensure!(
        memory
            .chunks_exact(4096)
            .any(|page| page[512..] != [0; 3584]),
        "{donor} holds nothing"
    );
    Ok(pages.any(|page| page.starts_with(b"DSWPPAGE")))
}

/// What one round of the matrix does to whom.
const VICTIMS: [&str; 6] = [
    "donor-1/memory-server",
    "donor-2/memory-server",
    "borrower/engine",
    "borrower/agent",
    "donor-3/agent",
    "controller",
];

pub fn kill_matrix() -> Result<()> {
    let seed = match std::env::var("DYNAMICSWAP_SEED") {
        Ok(text) => text.parse().context("DYNAMICSWAP_SEED is no number")?,
        Err(_) => rand_seed(),
    };
    eprintln!("kill matrix: replay with DYNAMICSWAP_SEED={seed}");
    let mut random = ChaCha8Rng::seed_from_u64(seed);
    let (mut cluster, mut workload) = pressed("native-kills")?;
    let began = Instant::now();
    for round in 0..ROUNDS {
        // Each victim in turn, each signal in turn: every pair comes up at least twice.
        let victim = VICTIMS[(round % 6) as usize];
        let hard = (round / 6) % 2 == 0;
        workload.run_for(Duration::from_millis(random.random_range(20..700)))?;
        let how = if hard { "kill -9" } else { "SIGSTOP" };
        eprintln!("{round}: {how} of {victim} after {:?}", began.elapsed());
        strike(&mut cluster, &mut workload, victim, hard, &mut random)
            .with_context(|| format!("round {round}: {how} of {victim}, seed {seed}"))?;
    }
    cluster.wait_whole()?;
    let end = workload.finish()?;
    ensure!(end.wrong_pages == 0 && end.swap_ins > 0, "{end:?}");
    cluster.down()
}

fn rand_seed() -> u64 {
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    now.map_or(1, |now| u64::from(now.subsec_nanos()))
}

/// One process dies or stops for a while under load, and comes back as a supervisor would have it.
fn strike(
    cluster: &mut Cluster,
    workload: &mut Workload,
    victim: &str,
    hard: bool,
    random: &mut ChaCha8Rng,
) -> Result<()> {
    let absence = Duration::from_millis(random.random_range(50..1500));
    if !hard {
        cluster.signal(victim, Signal::STOP)?;
        workload.run_for(absence)?;
        // A hung engine has been replaced meanwhile: there is nobody to wake.
        let awake = cluster.signal(victim, Signal::CONT);
        ensure!(awake.is_ok() || victim == "borrower/engine", "{awake:?}");
    } else if victim == "borrower/engine" {
        cluster.signal(victim, Signal::KILL)?;
        workload.run_for(absence)?;
    } else {
        let command = cluster.kill(victim)?;
        workload.run_for(absence)?;
        cluster.start_again(victim, &command)?;
    }
    // One failure at a time is what two copies promise: wait until the copies are whole again.
    cluster.wait_whole()?;
    cluster.check_alive()
}

pub fn hung_engine() -> Result<()> {
    let (mut cluster, mut workload) = pressed("native-hung")?;
    let before = cluster.device()?;
    let first = cluster.pid("borrower/engine")?;
    let stopped = Instant::now();
    cluster.signal("borrower/engine", Signal::STOP)?;
    let replaced = loop {
        match cluster.pid("borrower/engine") {
            Ok(pid) if pid != first => break stopped.elapsed(),
            _ => ensure!(
                stopped.elapsed() < Duration::from_secs(20),
                "no new engine in 20 s"
            ),
        }
        std::thread::park_timeout(Duration::from_millis(10));
    };
    ensure!(
        replaced < Duration::from_secs(3),
        "the hung engine was replaced after {replaced:?}"
    );
    workload.run_for(Duration::from_secs(1))?;
    cluster.wait("the new engine's report", |status| {
        device(status).is_some_and(|device| device.epoch > before.epoch)
    })?;
    workload.finish()?;
    cluster.down()
}

pub fn no_control_plane() -> Result<()> {
    let (mut cluster, mut workload) = pressed("native-alone")?;
    let gone = [
        "controller",
        "borrower/agent",
        "donor-1/agent",
        "donor-2/agent",
        "donor-3/agent",
    ];
    let mut commands = Vec::new();
    for process in gone {
        commands.push(cluster.kill(process)?);
    }
    workload.run_for(Duration::from_secs(3))?;
    let engine = cluster.pid("borrower/engine")?;
    cluster.signal("borrower/engine", Signal::KILL)?;
    workload.run_for(Duration::from_secs(2))?;
    ensure!(
        cluster.pid("borrower/engine")? != engine,
        "no new engine without a control plane"
    );
    for (process, command) in gone.iter().zip(&commands) {
        cluster.start_again(process, command)?;
    }
    cluster.wait_whole()?;
    workload.finish()?;
    cluster.down()
}

pub fn controller_forgets_nothing() -> Result<()> {
    let (mut cluster, mut workload) = pressed("native-memory")?;
    for _ in 0..3 {
        let before = cluster.device()?;
        let command = cluster.kill("controller")?;
        workload.run_for(Duration::from_millis(300))?;
        cluster.start_again("controller", &command)?;
        cluster.wait("the borrower's session", |status| {
            device(status)
                .is_some_and(|after| after.attached && after.generation >= before.generation)
        })?;
        let after = cluster.device()?;
        for set in before.sets.iter().filter(|set| set.slab.is_some()) {
            let kept = after.sets.iter().find(|other| other.set_id == set.set_id);
            let kept = kept.with_context(|| format!("set {} is forgotten", set.set_id))?;
            ensure!(
                kept.replicas == set.replicas,
                "set {} has moved: {kept:?}",
                set.set_id
            );
        }
    }
    workload.finish()?;
    cluster.down()
}
