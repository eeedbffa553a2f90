//! The agent on a Kubernetes node: what the API server knows of it and of its pods.
//!
//! Owns every request to the API server and the kubelet. While they are away, the last known
//! facts stay in force.

mod kubelet;
mod path;
mod pods;
mod source;
mod station;

use std::net::IpAddr;
use std::path::Path;
use std::pin::pin;
use std::time::Duration;

use anyhow::{Context as _, Result, anyhow};
use dynamicswap_types::NodeName;
use k8s_openapi::api::core::v1::{Node, Pod};
use kube::core::PartialObjectMeta;
use kube::runtime::{WatchStreamExt as _, watcher};
use kube::{Api, Client};
use tokio::sync::watch;
use tokio_stream::StreamExt as _;
use tracing::{info, warn};

use crate::limits::LABELS_WAIT;

pub use kubelet::{Kubelet, KubeletWays, SwapSettings, of_configz, of_file};
pub use path::{ContainerCgroup, container_of, leads_to_containers};
pub use pods::{PodView, Pods};
pub use source::PodSource;
pub use station::Station;

/// What is followed of a node.
#[derive(Debug)]
pub struct Cluster {
    /// What its labels said when the agent started.
    pub station: Station,
    stations: watch::Receiver<Option<Station>>,
    /// Its pods.
    pub pods: watch::Receiver<Pods>,
    /// Its kubelet.
    pub kubelet: watch::Receiver<Kubelet>,
}

impl Cluster {
    /// Starts to follow `node`, and waits until it has a role. If the API server is away, the
    /// one that is kept in `state_dir` is taken.
    ///
    /// # Errors
    /// If this process does not know how to reach an API server, or cannot keep what it learns.
    pub async fn join(node: &NodeName, kubelet: Option<IpAddr>, state_dir: &Path) -> Result<Self> {
        let client = Client::try_default().await.context(
            "--kubernetes needs an API server: run the agent in a pod with a service account, or \
             set KUBECONFIG",
        )?;
        let (station_sender, mut stations) = watch::channel(None);
        tokio::spawn(follow_node(client.clone(), node.clone(), station_sender));
        let (pod_sender, pods) = watch::channel(Pods::default());
        tokio::spawn(follow_pods(client.clone(), node.clone(), pod_sender));
        let station = settle(node, &mut stations, Station::kept(state_dir), LABELS_WAIT).await?;
        info!("node {node}: {station}");
        station
            .keep(state_dir)
            .with_context(|| format!("cannot write in --state-dir {}", state_dir.display()))?;
        let (kubelet_sender, known) = watch::channel(Kubelet::not_asked());
        if station.borrower {
            let ways = KubeletWays::new(client, node.clone(), kubelet);
            tokio::spawn(ways.follow(kubelet_sender));
        }
        Ok(Self {
            station,
            stations,
            pods,
            kubelet: known,
        })
    }

    /// Whether the node's labels have taken the role of a borrower from it.
    #[must_use]
    pub fn borrows_no_more(&self) -> bool {
        let now = self.stations.borrow();
        self.station.borrower && now.as_ref().is_some_and(|now| !now.borrower)
    }

    /// Waits until the node's labels say something else than when the agent started; what.
    pub async fn moved(&mut self) -> Station {
        let is_other = |now: &Option<Station>| now.as_ref().is_some_and(|now| *now != self.station);
        match self.stations.wait_for(is_other).await {
            Ok(now) => {
                if let Some(now) = &*now {
                    return now.clone();
                }
            }
            Err(_) => warn!("the node's labels are not followed any more"),
        }
        std::future::pending().await
    }
}

/// The first station with a role; the kept one if the API server does not answer within `wait`.
async fn settle(
    node: &NodeName,
    stations: &mut watch::Receiver<Option<Station>>,
    kept: Option<Station>,
    wait: Duration,
) -> Result<Station> {
    let first = tokio::time::timeout(wait, stations.wait_for(Option::is_some));
    let answered = first.await.is_ok();
    match kept.filter(Station::has_role) {
        Some(kept) if !answered => {
            warn!("the API server does not tell the labels of node {node}: going on as {kept}");
            return Ok(kept);
        }
        _ => {}
    }
    let has_role = |station: &Option<Station>| station.as_ref().is_some_and(Station::has_role);
    let known = stations.borrow().clone();
    if answered && !has_role(&known) {
        warn!("{}", station::how_to_label(node));
    }
    let found = stations.wait_for(has_role).await;
    let found = found.ok().and_then(|station| station.clone());
    found.ok_or_else(|| anyhow!("the labels of node {node} cannot be followed"))
}

/// Publishes what the node's labels say, for ever.
async fn follow_node(client: Client, node: NodeName, sender: watch::Sender<Option<Station>>) {
    let api: Api<PartialObjectMeta<Node>> = Api::all(client);
    let config = watcher::Config::default().fields(&format!("metadata.name={node}"));
    let mut events = pin!(watcher(api, config).default_backoff());
    let mut away = Away::new("the node's labels");
    while let Some(event) = events.next().await {
        let seen = match away.note(event) {
            Some(watcher::Event::Apply(seen) | watcher::Event::InitApply(seen)) => seen,
            // A node that is deleted takes its agent along; until then it is what it was.
            _ => continue,
        };
        let labels = seen.metadata.labels.unwrap_or_default();
        match Station::of(&node, &labels) {
            Ok(station) => sender.send_if_modified(|before| {
                let is_news = before.as_ref() != Some(&station);
                *before = Some(station);
                is_news
            }),
            Err(sentence) => {
                warn!("{sentence}");
                false
            }
        };
    }
}

/// Publishes the node's pods, for ever.
async fn follow_pods(client: Client, node: NodeName, sender: watch::Sender<Pods>) {
    let api: Api<Pod> = Api::all(client);
    let config = watcher::Config::default().fields(&format!("spec.nodeName={node}"));
    let mut events = pin!(watcher(api, config).default_backoff());
    let mut away = Away::new("this node's pods");
    while let Some(event) = events.next().await {
        if let Some(event) = away.note(event) {
            sender.send_if_modified(|pods| pods.take(event));
        }
    }
}

/// Logs a watch's break and its end once each.
struct Away {
    what: &'static str,
    away: bool,
}

impl Away {
    const fn new(what: &'static str) -> Self {
        Self { what, away: false }
    }

    fn note<T>(&mut self, event: Result<T, watcher::Error>) -> Option<T> {
        let what = self.what;
        match event {
            Ok(event) => {
                if std::mem::take(&mut self.away) {
                    info!("{what} are followed again");
                }
                Some(event)
            }
            Err(error) => {
                if !std::mem::replace(&mut self.away, true) {
                    warn!("{what} are not told, going on with the last known ones: {error}");
                }
                None
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn station(borrower: bool) -> Station {
        Station {
            borrower,
            donor: false,
            failure_domain: "r1".parse().expect("a name"),
            zone: None,
        }
    }

    fn node() -> NodeName {
        "n1".parse().expect("a name")
    }

    const WAIT: Duration = Duration::from_millis(20);

    #[tokio::test]
    async fn kept_station_stands_in_for_an_api_server_that_is_away() {
        let (_sender, mut stations) = watch::channel(None);
        let found = settle(&node(), &mut stations, Some(station(true)), WAIT).await;
        assert_eq!(found.ok(), Some(station(true)));
    }

    #[tokio::test]
    async fn labels_count_more_than_what_is_kept_and_a_role_is_waited_for() {
        let (sender, mut stations) = watch::channel(Some(station(false)));
        let kept = Some(station(true));
        let waiting =
            tokio::spawn(async move { settle(&node(), &mut stations, kept, WAIT).await.ok() });
        tokio::time::sleep(WAIT * 3).await;
        assert!(!waiting.is_finished(), "no role, nothing to do");
        sender.send_replace(Some(station(true)));
        assert_eq!(waiting.await.expect("ended"), Some(station(true)));
    }
}
