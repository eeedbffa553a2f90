//! Containers of a local cluster: one JSON file each, with the cgroups to look at.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use dynamicswap_proto::control::v1::{ContainerReport, PressureLine};
use procfs::{FromBufRead as _, MemoryPressure, PressureRecord};
use serde::Deserialize;

/// A container's descriptor.
#[derive(Debug, Clone, Deserialize)]
pub struct Container {
    /// Namespace.
    pub namespace: String,
    /// Name.
    pub name: String,
    /// Labels, by which policies select it.
    pub labels: BTreeMap<String, String>,
    /// Cgroup with its memory figures.
    pub memory_cgroup: PathBuf,
    /// Cgroup with its PSI.
    pub unified_cgroup: PathBuf,
}

/// Reads every descriptor of a directory; what cannot be read is left out.
#[must_use]
pub fn discover(directory: &Path) -> Vec<Container> {
    let entries = fs::read_dir(directory).into_iter().flatten().flatten();
    let mut found: Vec<Container> = entries
        .filter(|entry| entry.path().extension().is_some_and(|e| e == "json"))
        .filter_map(|entry| serde_json::from_slice(&fs::read(entry.path()).ok()?).ok())
        .collect();
    found.sort_by(|a, b| (&a.namespace, &a.name).cmp(&(&b.namespace, &b.name)));
    found
}

/// A PSI line as the controller takes it.
#[must_use]
pub fn pressure_line(record: &PressureRecord) -> PressureLine {
    PressureLine {
        avg10: f64::from(record.avg10),
        avg60: f64::from(record.avg60),
        avg300: f64::from(record.avg300),
        total_us: record.total,
    }
}

fn number(path: &Path) -> Option<u64> {
    fs::read_to_string(path).ok()?.trim().parse().ok()
}

/// What a container is doing.
#[must_use]
pub fn report(container: &Container) -> ContainerReport {
    let pressure = fs::read(container.unified_cgroup.join("memory.pressure")).ok();
    let pressure = pressure.and_then(|bytes| MemoryPressure::from_buf_read(&bytes[..]).ok());
    let memory = &container.memory_cgroup;
    let figure = |v2: &str, v1: &str| {
        number(&memory.join(v2))
            .or_else(|| number(&memory.join(v1)))
            .unwrap_or(0)
    };
    let used = figure("memory.current", "memory.usage_in_bytes");
    let swap = number(&memory.join("memory.swap.current")).unwrap_or_else(|| {
        number(&memory.join("memory.memsw.usage_in_bytes"))
            .unwrap_or(0)
            .saturating_sub(used)
    });
    ContainerReport {
        namespace: container.namespace.clone(),
        name: container.name.clone(),
        some: pressure
            .as_ref()
            .map(|pressure| pressure_line(&pressure.some)),
        full: pressure
            .as_ref()
            .map(|pressure| pressure_line(&pressure.full)),
        memory_bytes: used,
        memory_limit_bytes: figure("memory.high", "memory.limit_in_bytes"),
        swap_bytes: swap,
        noticed_by: "timer".to_owned(),
        ..ContainerReport::default()
    }
}
