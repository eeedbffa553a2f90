//! The promised ratios, out of the samples of all runs.

use super::link::{READ, STREAM, TCP_READ, WRITE};
use super::peers::{ALL, NBD, NVME_RDMA, NVME_TCP, RDMA, RDMA_PLAIN, RDMA_TWO, TCP};
use super::samples::Samples;
use super::swap::{busy_p50, crowded_p99, donor, fill, p50};
use crate::plot::Bar as Drawn;
use crate::report::{Bar, Report};

/// Adds every figure that was measured.
pub fn add(samples: &Samples, report: &mut Report) {
    for (peer, bar) in [
        (NBD, Bar::AtMost(0.85)),
        (NVME_TCP, Bar::AtMost(1.0)),
        (NVME_RDMA, Bar::AtMost(0.8)),
    ] {
        ratio(samples, report, (&p50(RDMA), &p50(peer)), bar);
    }
    for peer in ALL.iter().map(|peer| peer.name) {
        if ![RDMA, NBD, NVME_TCP, NVME_RDMA].contains(&peer) {
            ratio(samples, report, (&p50(RDMA), &p50(peer)), Bar::None);
        }
    }
    let crowded = (crowded_p99(RDMA), crowded_p99(NBD));
    ratio(samples, report, (&crowded.0, &crowded.1), Bar::AtMost(0.6));
    let busy = (busy_p50(RDMA), busy_p50(NBD));
    ratio(samples, report, (&busy.0, &busy.1), Bar::None);
    ratio(samples, report, (&p50(TCP), &p50(NBD)), Bar::None);
    for ([ours, theirs], bar) in [
        (READ, Bar::AtMost(1.15)),
        (WRITE, Bar::AtMost(1.2)),
        (STREAM, Bar::AtLeast(0.9)),
    ] {
        ratio(samples, report, (ours, theirs), bar);
    }
    ratio(samples, report, (READ[0], TCP_READ), Bar::None);
    let copies = (fill(RDMA_TWO), fill(RDMA));
    ratio(samples, report, (&copies.0, &copies.1), Bar::AtMost(1.3));
    if let Some(spread) = samples.difference(&p50(RDMA), &p50(RDMA_PLAIN)) {
        let name = "encryption's share of a swap-in's median [us]";
        let figure = report.absolute(name, spread.median, Bar::AtMost(5.0));
        figure.spread = Some([spread.least, spread.most]);
    }
    ratio(
        samples,
        report,
        (&donor(TCP), &donor(NBD)),
        Bar::AtMost(0.7),
    );
    ratio(samples, report, (&donor(RDMA), &donor(NBD)), Bar::None);
}

fn ratio(samples: &Samples, report: &mut Report, (ours, theirs): (&str, &str), bar: Bar) {
    let (Some(ratio), Some(value), Some(peer)) = (
        samples.ratio(ours, theirs),
        samples.spread(ours),
        samples.spread(theirs),
    ) else {
        return;
    };
    let figure = report.between(
        ours,
        value.median,
        (theirs, peer.median),
        (ratio.median, bar),
    );
    figure.spread = Some([ratio.least, ratio.most]);
}

/// Medians of a swap-in, one bar a device, with their spread.
pub fn bars(samples: &Samples) -> Vec<Drawn> {
    let drawn = ALL.iter().filter_map(|peer| {
        let spread = samples.spread(&p50(peer.name))?;
        Some(Drawn {
            name: peer.name.to_owned(),
            value: spread.median,
            least: spread.least,
            most: spread.most,
            ours: peer.name.starts_with("ours"),
        })
    });
    drawn.collect()
}
