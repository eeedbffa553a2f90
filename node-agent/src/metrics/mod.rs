//! Metrics for Prometheus: what a report to the controller says, as families of samples.
//!
//! Owns names, units and labels. They are bounded: a server, an operation, a state, never a container.
//! Pure; [`serve`] is the shell.

mod device;
mod donor;
mod node;
pub mod serve;

use dynamicswap_proto::control::v1::NodeReport;

/// What is scraped: the agent as it is now.
#[derive(Debug, Clone, Default)]
pub struct Snapshot {
    /// What it would report.
    pub report: NodeReport,
    /// Whether it has a session with the controller.
    pub has_session: bool,
}

/// How a value moves.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Up and down.
    Gauge,
    /// Up only; its name gets the suffix `_total`.
    Counter,
}

/// One value with its labels.
#[derive(Debug, Clone, PartialEq)]
pub struct Sample {
    /// Names and values.
    pub labels: Vec<(&'static str, String)>,
    /// In the unit that the name ends with.
    pub value: f64,
}

/// All values of one name.
#[derive(Debug, Clone, PartialEq)]
pub struct Family {
    /// Without the suffix of a counter.
    pub name: &'static str,
    /// One sentence, without its full stop.
    pub help: &'static str,
    /// How it moves.
    pub kind: Kind,
    /// None if there is nothing of that kind on this node.
    pub samples: Vec<Sample>,
}

impl Family {
    fn new(name: &'static str, help: &'static str, kind: Kind) -> Self {
        Self {
            name,
            help,
            kind,
            samples: Vec::new(),
        }
    }

    fn gauge(name: &'static str, help: &'static str, value: impl Into<Value>) -> Self {
        Self::new(name, help, Kind::Gauge).with(&[], value)
    }

    fn counter(name: &'static str, help: &'static str, value: impl Into<Value>) -> Self {
        Self::new(name, help, Kind::Counter).with(&[], value)
    }

    fn with(mut self, labels: &[(&'static str, &str)], value: impl Into<Value>) -> Self {
        self.add(labels, value);
        self
    }

    fn add(&mut self, labels: &[(&'static str, &str)], value: impl Into<Value>) {
        let labels = labels
            .iter()
            .map(|(name, value)| (*name, (*value).to_owned()));
        self.samples.push(Sample {
            labels: labels.collect(),
            value: value.into().0,
        });
    }
}

/// A number as Prometheus has it.
struct Value(f64);

impl From<f64> for Value {
    fn from(value: f64) -> Self {
        Self(value)
    }
}

impl From<u64> for Value {
    #[expect(
        clippy::cast_precision_loss,
        reason = "Prometheus has nothing but doubles; above 2^53 the last bits do not matter"
    )]
    fn from(value: u64) -> Self {
        Self(value as f64)
    }
}

impl From<u32> for Value {
    fn from(value: u32) -> Self {
        Self(f64::from(value))
    }
}

impl From<bool> for Value {
    fn from(value: bool) -> Self {
        Self(f64::from(u8::from(value)))
    }
}

/// Microseconds as seconds.
fn seconds(us: u32) -> f64 {
    f64::from(us) / 1e6
}

/// Everything there is to say, in the order in which it is told.
#[must_use]
pub fn families(snapshot: &Snapshot) -> Vec<Family> {
    let report = &snapshot.report;
    let mut families = node::families(snapshot);
    if let Some(device) = &report.swap_device {
        families.extend(device::families(device));
    }
    if let Some(server) = &report.memory_server {
        families.extend(donor::families(server));
    }
    families
}

#[cfg(test)]
mod tests {
    use super::*;
    use dynamicswap_proto::common::v1::{
        DeviceCounters, LinkReport, LinkState, MemoryServerReport, SwapDeviceReport,
    };

    fn snapshot() -> Snapshot {
        let link = LinkReport {
            node: "donor-1".to_owned(),
            state: LinkState::Up.into(),
            bytes_read: 4096,
            transport: "rdma".to_owned(),
            ..LinkReport::default()
        };
        let device = SwapDeviceReport {
            size_bytes: 1 << 30,
            pages_used: 3,
            attached: true,
            counters: Some(DeviceCounters {
                reads: 7,
                pages_lost: 1,
                ..DeviceCounters::default()
            }),
            links: vec![link],
            ..SwapDeviceReport::default()
        };
        let server = MemoryServerReport {
            slots_total: 8,
            slot_bytes: 1 << 20,
            slots_ready: 2,
            ..MemoryServerReport::default()
        };
        Snapshot {
            report: NodeReport {
                swap_device: Some(device),
                memory_server: Some(server),
                ..NodeReport::default()
            },
            has_session: true,
        }
    }

    fn value(families: &[Family], name: &str, labels: &[(&'static str, &str)]) -> f64 {
        let family = families.iter().find(|family| family.name == name);
        let family = family.unwrap_or_else(|| panic!("no {name}"));
        let wanted: Vec<_> = labels.iter().map(|(k, v)| (*k, (*v).to_owned())).collect();
        let sample = family.samples.iter().find(|sample| sample.labels == wanted);
        sample.unwrap_or_else(|| panic!("{family:?}")).value
    }

    #[test]
    #[expect(clippy::float_cmp, reason = "small whole numbers")]
    fn report_becomes_samples() {
        let families = families(&snapshot());
        let at = |name: &str, labels: &[(&'static str, &str)]| value(&families, name, labels);
        assert_eq!(at("dynamicswap_agent_session_up", &[]), 1.0);
        assert_eq!(at("dynamicswap_device_used_bytes", &[]), 12288.0);
        assert_eq!(at("dynamicswap_device_pages_lost", &[]), 1.0);
        let read = [("op", "read")];
        assert_eq!(at("dynamicswap_device_requests", &read), 7.0);
        let link = [("server", "donor-1"), ("transport", "rdma")];
        assert_eq!(at("dynamicswap_link_up", &link), 1.0);
        let bytes = [("server", "donor-1"), ("op", "read")];
        assert_eq!(at("dynamicswap_link_bytes", &bytes), 4096.0);
        let ready = [("state", "ready")];
        assert_eq!(at("dynamicswap_memory_server_slots", &ready), 2.0);
    }

    #[test]
    fn names_are_unique_of_one_prefix_and_explained() {
        let families = families(&snapshot());
        let mut names: Vec<&str> = families.iter().map(|family| family.name).collect();
        names.sort_unstable();
        let count = names.len();
        names.dedup();
        assert_eq!(names.len(), count);
        for family in &families {
            assert!(family.name.starts_with("dynamicswap_"), "{}", family.name);
            assert!(!family.name.ends_with("_total"), "{}", family.name);
            assert!(!family.help.is_empty() && !family.help.ends_with('.'));
        }
    }

    #[test]
    fn node_without_daemons_says_nothing_of_them() {
        let told = families(&Snapshot::default());
        assert!(told.iter().all(|family| !family.name.contains("device")));
        assert!(told.iter().all(|family| !family.name.contains("server")));
    }
}
