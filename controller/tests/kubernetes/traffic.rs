//! What an idle cluster costs the API server: requests are counted between it and the controller.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use super::proxy::{Proxy, Seen};
use super::stage::FIRST;
use super::support::{Agent, Daemons, PATIENCE, policy};
use super::{Candidate, Server, eventually};

const DONORS: u8 = 6;
const BORROWERS: u8 = 4;
/// What has just happened is written by then: figures are, each half minute.
const CALM: Duration = Duration::from_secs(40);
/// How long it is watched.
const WATCHED: Duration = Duration::from_secs(90);
/// Writes of an idle node in a minute, below which they must stay.
const WRITES_A_MINUTE: f64 = 2.0;

/// Requests a minute under a name.
fn rate(count: usize, time: Duration) -> f64 {
    f64::from(u32::try_from(count).expect("small")) * 60.0 / time.as_secs_f64()
}

fn table(seen: &[Seen], time: Duration) {
    let mut counts = BTreeMap::<String, usize>::new();
    for seen in seen {
        *counts.entry(seen.call.kind_of_call()).or_default() += 1;
    }
    for (what, count) in counts {
        println!("{what:40} {:6.2} a minute", rate(count, time));
    }
}

/// Donors and borrowers with open sessions.
async fn join(address: &str) -> Vec<Agent> {
    let mut agents = Vec::new();
    for number in 1..=DONORS {
        let name = format!("donor-{number}");
        let daemons = Daemons::donor(&name, number, 32);
        agents.push(Agent::join(address, &name, daemons).await);
    }
    for number in 1..=BORROWERS {
        let name = format!("borrower-{number}");
        let daemons = Daemons::borrower(100 + number, 32);
        agents.push(Agent::join(address, &name, daemons).await);
    }
    agents
}

#[tokio::test(flavor = "multi_thread")]
async fn idle_cluster_writes_less_than_twice_a_minute_and_node() {
    let Some(server) = Server::start() else {
        return;
    };
    let proxy = Proxy::start(&server, "only").await;
    let controller = Candidate::start_through(&server, proxy.kubeconfig(), "only", FIRST, &[]);
    let agents = join(&controller.leads().await).await;
    let spec = policy("{durability: {copies: 2}}");
    server.apply(&spec).expect("applied");
    for agent in &agents[usize::from(DONORS)..] {
        eventually(PATIENCE, "each borrower has its sets", || {
            agent.sets().len() == 8
        })
        .await;
    }
    tokio::time::sleep(CALM).await;

    let begun = Instant::now();
    tokio::time::sleep(WATCHED).await;
    let (seen, time) = (proxy.since(begun), begun.elapsed());
    table(&seen, time);
    let (lease, rest): (Vec<_>, Vec<_>) = seen
        .into_iter()
        .partition(|seen| seen.call.is_of_the_lease());
    let writes = rest.iter().filter(|seen| seen.call.is_write()).count();
    let nodes = DONORS + BORROWERS;
    let per_node = rate(writes, time) / f64::from(nodes);
    println!(
        "{nodes} idle nodes: {per_node:.2} writes a minute and node, {:.1} requests a minute in all, \
         of which {:.1} are the lease's",
        rate(rest.len() + lease.len(), time),
        rate(lease.len(), time)
    );
    assert!(per_node < WRITES_A_MINUTE, "{per_node} writes a minute");
    assert!(!lease.is_empty(), "the proxy saw no renewal");
    assert!(
        rate(lease.len(), time) <= 25.0,
        "the lease is renewed too often"
    );
}
