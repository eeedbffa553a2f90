//! The node's swap device.

use dynamicswap_proto::common::v1::{
    DeviceCounters, LatencyReport, LinkReport, LinkState, Protection, SwapDeviceReport,
};
use dynamicswap_types::PAGE_SIZE;

use super::{Family, Kind, seconds};

pub(super) fn families(device: &SwapDeviceReport) -> Vec<Family> {
    let mut families = vec![
        Family::gauge(
            "dynamicswap_device_attached",
            "Whether the device is in use as swap",
            device.attached,
        ),
        Family::gauge(
            "dynamicswap_device_size_bytes",
            "Size of the device",
            device.size_bytes,
        ),
        Family::gauge(
            "dynamicswap_device_used_bytes",
            "Bytes of pages that the device holds",
            bytes(device.pages_used),
        ),
        Family::gauge(
            "dynamicswap_device_degraded_bytes",
            "Bytes of pages that have fewer copies than their class asks for",
            bytes(device.pages_degraded),
        ),
        Family::gauge(
            "dynamicswap_device_disk_only_bytes",
            "Bytes of pages that only the spill file holds",
            bytes(device.pages_spilled),
        ),
        Family::counter(
            "dynamicswap_device_engine_starts",
            "Engine processes that were started in the device's life",
            device.engine_starts,
        ),
        Family::gauge(
            "dynamicswap_device_own_swap_bytes",
            "Pages of the engine that are swapped out themselves, which must be 0",
            device.own_swap_bytes,
        ),
        Family::gauge(
            "dynamicswap_device_resident_bytes",
            "Resident memory of the engine",
            device.rss_bytes,
        ),
        Family::gauge(
            "dynamicswap_device_warnings",
            "Protections of the engine that the host does not permit: locked memory, I/O flusher, OOM score",
            device.warnings.len() as u64,
        ),
        latencies(device),
    ];
    families.extend(device.protection.map(|it| {
        let name = "dynamicswap_device_protected";
        protected(
            name,
            "Whether the host permits the engine to protect itself",
            it,
        )
    }));
    families.extend(device.counters.as_ref().into_iter().flat_map(counters));
    families.extend(links(&device.links));
    families
}

/// What a daemon on the swap path has of what protects it from the shortage that it is there for.
pub(super) fn protected(name: &'static str, help: &'static str, it: Protection) -> Family {
    Family::new(name, help, Kind::Gauge)
        .with(&[("what", "locked")], it.locked)
        .with(&[("what", "io_flusher")], it.io_flusher)
        .with(&[("what", "oom_score")], it.oom_score)
        .with(&[("what", "not_dumpable")], it.not_dumpable)
}

fn bytes(pages: u64) -> u64 {
    pages.saturating_mul(PAGE_SIZE.get())
}

fn counters(counters: &DeviceCounters) -> Vec<Family> {
    let of = |name, help, read, write| {
        Family::new(name, help, Kind::Counter)
            .with(&[("op", "read")], read)
            .with(&[("op", "write")], write)
    };
    vec![
        of(
            "dynamicswap_device_requests",
            "Requests of the kernel",
            counters.reads,
            counters.writes,
        ),
        of(
            "dynamicswap_device_bytes",
            "Bytes that the kernel read and wrote",
            bytes(counters.pages_read),
            bytes(counters.pages_written),
        ),
        of(
            "dynamicswap_device_failures",
            "Requests that failed: a read that fails ends a process, a write that fails keeps the page in RAM",
            counters.read_failures,
            counters.write_failures,
        ),
        Family::counter(
            "dynamicswap_device_writes_held",
            "Writes that waited for enough copies",
            counters.writes_held,
        ),
        Family::counter(
            "dynamicswap_device_integrity_failures",
            "Pages that came back wrong and were refused",
            counters.integrity_failures,
        ),
        Family::counter(
            "dynamicswap_device_pages_lost",
            "Pages without any right copy left",
            counters.pages_lost,
        ),
        Family::counter(
            "dynamicswap_device_pages_rebuilt",
            "Pages that were copied again to have their copies",
            counters.pages_rebuilt,
        ),
    ]
}

fn latencies(device: &SwapDeviceReport) -> Family {
    let mut family = Family::new(
        "dynamicswap_device_latency_seconds",
        "Time of a request in the engine: reads of the last 10 to 20 s, writes of the engine's life",
        Kind::Gauge,
    );
    let all = [
        ("read", &device.recent_read_latency),
        ("write", &device.write_latency),
    ];
    for (op, latency) in all {
        let Some(LatencyReport { p50_us, p99_us, .. }) = latency else {
            continue;
        };
        family.add(&[("op", op), ("quantile", "0.5")], seconds(*p50_us));
        family.add(&[("op", op), ("quantile", "0.99")], seconds(*p99_us));
    }
    family
}

fn links(links: &[LinkReport]) -> [Family; 2] {
    let mut up = Family::new(
        "dynamicswap_link_up",
        "Whether a memory server answers, and which way",
        Kind::Gauge,
    );
    let mut bytes = Family::new(
        "dynamicswap_link_bytes",
        "Bytes read from and written to a memory server",
        Kind::Counter,
    );
    for link in links {
        let server = ("server", link.node.as_str());
        let is_up = link.state() == LinkState::Up;
        up.add(&[server, ("transport", &link.transport)], is_up);
        bytes.add(&[server, ("op", "read")], link.bytes_read);
        bytes.add(&[server, ("op", "write")], link.bytes_written);
    }
    [up, bytes]
}
