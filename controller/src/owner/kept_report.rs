//! A node's last report as it is kept: what is looked at all the time as it came, and what it says of each
//! set, slot and link packed. A thousand nodes have a hundred thousand of these.

use dynamicswap_proto::common::v1 as pb;
use dynamicswap_proto::control::v1::NodeReport;
use prost::Message as _;

/// The report.
#[derive(Debug)]
pub struct KeptReport {
    /// All of it but the device's sets and links and the memory server's grants.
    pub light: Box<NodeReport>,
    /// The rest, as a message.
    packed: Box<[u8]>,
}

impl KeptReport {
    /// Packs a report.
    pub fn pack(mut report: Box<NodeReport>) -> Self {
        let packed = take_rest(&mut report).encode_to_vec().into();
        Self {
            light: report,
            packed,
        }
    }

    /// Looks at the report as it came, without a copy of it.
    pub fn look<T>(&mut self, look: impl FnOnce(&NodeReport) -> T) -> T {
        unpack(&mut self.light, &self.packed);
        let seen = look(&self.light);
        take_rest(&mut self.light);
        seen
    }

    /// The report as it came.
    pub fn whole(&self) -> NodeReport {
        let mut whole = (*self.light).clone();
        unpack(&mut whole, &self.packed);
        whole
    }

    /// What a device says of its sets; nothing if there is no device.
    pub fn sets(&self) -> Vec<pb::SetReport> {
        let rest = NodeReport::decode(&*self.packed).unwrap_or_default();
        rest.swap_device.unwrap_or_default().sets
    }
}

/// Takes sets, links and grants out of a report.
fn take_rest(report: &mut NodeReport) -> NodeReport {
    let swap_device = report.swap_device.as_mut().map(|device| {
        let (sets, links) = (
            std::mem::take(&mut device.sets),
            std::mem::take(&mut device.links),
        );
        pb::SwapDeviceReport {
            sets,
            links,
            ..pb::SwapDeviceReport::default()
        }
    });
    let memory_server = report.memory_server.as_mut().map(|server| {
        let grants = std::mem::take(&mut server.grants);
        pb::MemoryServerReport {
            grants,
            ..pb::MemoryServerReport::default()
        }
    });
    NodeReport {
        swap_device,
        memory_server,
        ..NodeReport::default()
    }
}

/// Puts back what was packed. A message that this process has encoded can be decoded.
fn unpack(report: &mut NodeReport, packed: &[u8]) {
    let merged = report.merge(packed);
    debug_assert_eq!(merged, Ok(()));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn report_comes_back_as_it_was() {
        let set = pb::SetReport {
            set_id: 7,
            slab: Some(0),
            replicas: vec![pb::ReplicaReport {
                node: "d1".to_owned(),
                slot: 3,
                ..pb::ReplicaReport::default()
            }],
            ..pb::SetReport::default()
        };
        let report = NodeReport {
            generation: 5,
            swap_device: Some(pb::SwapDeviceReport {
                device_id: vec![1; 16],
                links: vec![pb::LinkReport::default(); 2],
                sets: vec![set.clone(), pb::SetReport::default()],
                ..pb::SwapDeviceReport::default()
            }),
            memory_server: Some(pb::MemoryServerReport {
                slots_total: 9,
                grants: vec![pb::SlotReport::default(); 3],
                ..pb::MemoryServerReport::default()
            }),
            warnings: vec!["w".to_owned()],
            ..NodeReport::default()
        };
        let mut kept = KeptReport::pack(Box::new(report.clone()));
        kept.look(|seen| assert_eq!(*seen, report));
        assert_eq!(kept.whole(), report);
        assert_eq!(kept.sets(), [set, pb::SetReport::default()]);
        let light = kept.light.swap_device.as_ref().expect("a device");
        assert!(light.sets.is_empty() && light.device_id == vec![1; 16]);
        let nothing = KeptReport::pack(Box::default());
        assert_eq!(nothing.whole(), NodeReport::default());
        assert!(nothing.sets().is_empty());
    }
}
