//! Events as people read them: a kind of one word, and a sentence.

use dynamicswap_engine::effect::EngineEvent;
use dynamicswap_engine::link::Link;
use dynamicswap_types::ServerIndex;

use super::mailbox::IoEvent;
use crate::transport::LinkError;
use crate::transport::remote::Way;

/// Names of servers by index.
#[derive(Debug, Clone, Copy)]
pub struct Nodes<'a>(pub &'a [String]);

impl Nodes<'_> {
    /// The node's name.
    #[must_use]
    pub fn name(&self, server: ServerIndex) -> &str {
        self.0
            .get(server.as_usize())
            .map_or("an unknown server", String::as_str)
    }
}

/// The event in words.
#[must_use]
pub fn of(event: IoEvent, nodes: Nodes<'_>) -> (&'static str, String) {
    match event {
        IoEvent::Engine(event) => of_engine(event, nodes),
        IoEvent::Link(server, link, way, error) => of_link(nodes.name(server), link, way, error),
    }
}

fn of_engine(event: EngineEvent, nodes: Nodes<'_>) -> (&'static str, String) {
    let name = |server| nodes.name(server);
    match event {
        EngineEvent::SlabBound(slab, set) => {
            ("SlabBound", format!("slab {slab} is kept by set {set}"))
        }
        EngineEvent::SlabReturned(slab, set) => (
            "SlabReturned",
            format!("slab {slab} is empty: set {set} is in the reserve again"),
        ),
        EngineEvent::SetReleased(set) => (
            "SetReleased",
            format!("set {set} is not needed: its donors can have it back"),
        ),
        EngineEvent::RebuildStarted(set, server) => (
            "RebuildStarted",
            format!("a copy of set {set} is being made on {}", name(server)),
        ),
        EngineEvent::RebuildFinished(set, server) => (
            "RebuildFinished",
            format!("the copy of set {set} on {} is whole", name(server)),
        ),
        EngineEvent::ReplicaStale(set, server) => (
            "ReplicaStale",
            format!("the copy of set {set} on {} is out of date", name(server)),
        ),
        EngineEvent::IntegrityFailure(page, server) => (
            "IntegrityFailure",
            format!(
                "page {page} from {} does not match its checksum",
                name(server)
            ),
        ),
        EngineEvent::PageRepaired(page, server) => (
            "PageRepaired",
            format!(
                "page {page} on {} was written anew from a good copy",
                name(server)
            ),
        ),
        EngineEvent::PageLost(page) => (
            "PageLost",
            format!("every copy of page {page} is lost: whoever reads it is killed"),
        ),
        EngineEvent::WritesHeld(slab) => (
            "WritesHeld",
            format!("writes wait for enough reachable copies, one to slab {slab} among them"),
        ),
        EngineEvent::ReserveEmpty(slab) => (
            "ReserveEmpty",
            format!("no set is left for slab {slab}: its pages stay in memory"),
        ),
        EngineEvent::SpillFailed(page) => (
            "SpillFailed",
            format!("the spill file refused page {page}: look at the disk"),
        ),
        EngineEvent::Fenced(server) => (
            "Fenced",
            format!("{} knows a newer engine of this device", name(server)),
        ),
    }
}

fn of_link(
    node: &str,
    link: Link,
    way: Option<Way>,
    error: Option<LinkError>,
) -> (&'static str, String) {
    let by = way.map_or(String::new(), |way| format!(" over {}: {way}", way.name()));
    let reason = error.map_or(String::new(), |error| format!(": {error}"));
    match link {
        Link::Up { incarnation } => (
            "LinkUp",
            format!("the memory server of {node} answers (incarnation {incarnation}){by}"),
        ),
        Link::Down => (
            "LinkDown",
            format!("the memory server of {node} is not reachable{reason}"),
        ),
        Link::Refused => (
            "LinkRefused",
            format!("the memory server of {node} refuses this device{reason}"),
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use dynamicswap_types::{PageIndex, SetId};

    #[test]
    fn sentence_names_the_node_and_what_it_is_about() {
        let nodes = ["donor-1".to_owned()];
        let nodes = Nodes(&nodes);
        let event = EngineEvent::RebuildFinished(SetId::new(9), ServerIndex::new(0));
        let (kind, sentence) = of(IoEvent::Engine(event), nodes);
        assert_eq!(kind, "RebuildFinished");
        assert_eq!(sentence, "the copy of set 9 on donor-1 is whole");
        let failure = EngineEvent::IntegrityFailure(PageIndex::new(4), ServerIndex::new(7));
        let (_, sentence) = of(IoEvent::Engine(failure), nodes);
        assert!(
            sentence.contains("page 4 from an unknown server"),
            "{sentence}"
        );
        let server = ServerIndex::new(0);
        let down = IoEvent::Link(server, Link::Down, Some(Way::Rdma), Some(LinkError::Closed));
        assert!(
            of(down, nodes)
                .1
                .contains("donor-1 is not reachable: the memory server closed")
        );
        let incarnation = dynamicswap_types::IncarnationId::from_bytes([1; 16]);
        let instead = Some(Way::TcpInstead(LinkError::NotListening));
        let up = IoEvent::Link(server, Link::Up { incarnation }, instead, None);
        let (_, sentence) = of(up, nodes);
        assert!(
            sentence.contains("over tcp: RDMA does not reach"),
            "{sentence}"
        );
    }
}
