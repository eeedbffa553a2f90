//! The same random work on each swap device: what a page costs to bring in and to send out, and what
//! serving it costs the donor.

use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use dynamicswap_workload::line::{End, Line, Phase, Progress};

use super::guests::Guests;
use super::peers::{ALL, NBD, Peer, RDMA};
use super::samples::Samples;
use crate::Args;

/// What the workload owns, at twice its limit.
const SIZE_MIB: u32 = 64;
const LIMIT_MIB: u32 = 32;
/// The workload's longest time.
const WORK: Duration = Duration::from_secs(300);
/// Devices that four threads work on as well, and one whose processor others want too.
const CROWDED: [&str; 2] = [RDMA, NBD];
/// What it owns then, and its limit: every page is looked at in the end, which takes its time.
const BUSY_SIZE_MIB: u32 = 16;
const BUSY_LIMIT_MIB: u32 = 8;
/// Loops that want the borrower's only processor beside the work.
const OTHERS: usize = 3;
/// Intervals with fewer swap-ins say nothing.
const SWAP_INS_MIN: u64 = 20;
/// The same where others take most of the processor.
const BUSY_SWAP_INS_MIN: u64 = 3;
/// Jiffies a second.
const JIFFIES: f64 = 100.0;

/// Microseconds of a swap-in: median.
pub fn p50(peer: &str) -> String {
    format!("swap-in p50, {peer} [us]")
}

/// Microseconds of a swap-in with four threads: 99th percentile.
pub fn crowded_p99(peer: &str) -> String {
    format!("swap-in p99, 4 threads, {peer} [us]")
}

/// Microseconds of a swap-in beside others that compute: median.
pub fn busy_p50(peer: &str) -> String {
    format!("swap-in p50, processor taken, {peer} [us]")
}

/// Seconds until memory of twice the limit is written once.
pub fn fill(peer: &str) -> String {
    format!("fill, {peer} [s]")
}

/// Seconds that the donor's processor works for a GiB.
pub fn donor(peer: &str) -> String {
    format!("donor's processor, {peer} [s/GiB]")
}

/// Measures every device. One that cannot be set up takes the others with it: the guests are not what
/// they were.
pub fn measure(args: &Args, guests: &mut Guests, samples: &mut Samples) -> Result<()> {
    for peer in ALL.into_iter().filter(|peer| args.wants_device(peer.name)) {
        (peer.on)(guests).with_context(|| format!("setting up {}", peer.name))?;
        one(args, guests, samples, peer).with_context(|| peer.name.to_owned())?;
        (peer.off)(guests).with_context(|| format!("taking away {}", peer.name))?;
    }
    Ok(())
}

fn one(args: &Args, guests: &mut Guests, samples: &mut Samples, peer: Peer) -> Result<()> {
    let (work, bytes) = (guests.donor_work()?, guests.swapped()?);
    let done = work_on(args, guests, 1, 0)?;
    let (work, bytes) = (guests.donor_work()? - work, guests.swapped()? - bytes);
    samples.add(
        p50(peer.name),
        done.median_of(SWAP_INS_MIN, |progress| progress.p50_us)?,
    );
    samples.add(fill(peer.name), done.fill_s()?);
    let seconds = work / JIFFIES;
    samples.add(donor(peer.name), seconds / (bytes / f64::from(1 << 30)));
    if CROWDED.contains(&peer.name) {
        let done = work_on(args, guests, 4, 0)?;
        let p99 = done.median_of(SWAP_INS_MIN, |progress| progress.p99_us)?;
        samples.add(crowded_p99(peer.name), p99);
        let done = work_on(args, guests, 1, OTHERS)?;
        let p50 = done.median_of(BUSY_SWAP_INS_MIN, |progress| progress.p50_us)?;
        samples.add(busy_p50(peer.name), p50);
    }
    Ok(())
}

/// What the workload told.
#[derive(Debug)]
struct Done {
    progress: Vec<Progress>,
}

fn work_on(args: &Args, guests: &mut Guests, threads: u32, others: usize) -> Result<Done> {
    let (size, limit) = match others {
        0 => (SIZE_MIB, LIMIT_MIB),
        _ => (BUSY_SIZE_MIB, BUSY_LIMIT_MIB),
    };
    let command = format!(
        "others=; for _ in $(seq {others}); do (while :; do :; done) & others=\"$others $!\"; done; \
         /lab/dynamicswap-workload contain --limit {limit}Mi -- /lab/dynamicswap-workload verify \
         --size {size}Mi --threads {threads} --seconds {} --progress-ms 250 --write-percent 50 --seed 7; \
         ended=$?; test -z \"$others\" || kill $others; (exit $ended)",
        args.seconds
    );
    let said = guests.borrower.succeed(&command, WORK)?;
    Done::of(&said)
}

impl Done {
    fn of(said: &str) -> Result<Self> {
        let (mut progress, mut ended) = (Vec::new(), None::<End>);
        for line in said.lines() {
            match serde_json::from_str(line) {
                Ok(Line::Progress(one)) => progress.push(one),
                Ok(Line::End(end)) => ended = Some(end),
                _ => {}
            }
        }
        let end = ended.with_context(|| format!("the workload did not end: {said}"))?;
        ensure!(end.wrong_pages == 0, "{} pages were wrong", end.wrong_pages);
        Ok(Self { progress })
    }

    fn of_phase(&self, phase: Phase) -> impl Iterator<Item = &Progress> {
        self.progress
            .iter()
            .filter(move |progress| progress.phase == Some(phase))
    }

    /// Median over the churn's intervals.
    fn median_of(&self, least: u64, figure: fn(&Progress) -> u64) -> Result<f64> {
        let told = self
            .of_phase(Phase::Churn)
            .filter(|progress| progress.swap_ins >= least);
        let mut values: Vec<u64> = told.map(figure).collect();
        values.sort_unstable();
        let median = values.get(values.len() / 2).context("hardly a swap-in")?;
        Ok(*median as f64)
    }

    fn fill_s(&self) -> Result<f64> {
        let last = self.of_phase(Phase::Fill).last().context("no fill")?;
        Ok(last.elapsed_ms as f64 / 1e3)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn line(phase: Phase, elapsed_ms: u64, swap_ins: u64, p50_us: u64) -> String {
        let progress = Progress {
            phase: Some(phase),
            elapsed_ms,
            swap_ins,
            p50_us,
            ..Progress::default()
        };
        serde_json::to_string(&Line::Progress(progress)).expect("plain")
    }

    #[test]
    fn figures_are_those_of_the_phases_and_a_wrong_page_is_an_error() {
        let end = |wrong_pages| {
            let end = End {
                wrong_pages,
                ..End::default()
            };
            serde_json::to_string(&Line::End(end)).expect("plain")
        };
        let mut said = vec![
            "a word of the kernel".to_owned(),
            line(Phase::Fill, 2_500, 500, 9),
            line(Phase::Churn, 3_000, 100, 400),
            line(Phase::Churn, 3_100, 1, 90_000),
            line(Phase::Churn, 3_500, 100, 600),
            line(Phase::Check, 4_000, 900, 8),
            end(0),
        ];
        let done = Done::of(&said.join("\n")).expect("an end");
        assert_eq!(done.fill_s().expect("a fill"), 2.5);
        assert_eq!(
            done.median_of(SWAP_INS_MIN, |it| it.p50_us).expect("churn"),
            600.0
        );
        said.pop();
        assert!(Done::of(&said.join("\n")).is_err());
        said.push(end(1));
        assert!(Done::of(&said.join("\n")).is_err());
    }
}
