//! Answers `GET /metrics`, each time with the agent as it is then.

use std::net::SocketAddr;
use std::time::Duration;

use anyhow::{Context as _, Result};
use axum::Router;
use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric as _, MetricEncoder, text};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::counter::ConstCounter;
use prometheus_client::metrics::gauge::ConstGauge;
use prometheus_client::registry::Registry;
use tokio::net::TcpListener;
use tokio::sync::{mpsc, oneshot};

use super::{Family, Kind, Snapshot, families};

/// Scrapes that may wait for the agent at once; more are told to come again.
const SCRAPES_MAX: usize = 4;
/// The agent answers in milliseconds; after this time something is wrong with it.
const ANSWER_TIME_MAX: Duration = Duration::from_secs(5);
const CONTENT_TYPE: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// Where a scrape wants its answer.
pub type Scrape = oneshot::Sender<Snapshot>;

/// Begins to answer at `address`; gives the agent's end.
///
/// # Errors
/// If the address is not this host's or is taken.
pub async fn start(address: SocketAddr) -> Result<mpsc::Receiver<Scrape>> {
    let listener = TcpListener::bind(address)
        .await
        .with_context(|| format!("cannot listen on {address} (--metrics-listen)"))?;
    let (ask, asked) = mpsc::channel(SCRAPES_MAX);
    let router = Router::new().route("/metrics", get(answer)).with_state(ask);
    tokio::spawn(async move {
        if let Err(error) = axum::serve(listener, router).await {
            tracing::warn!("metrics are no longer served: {error}");
        }
    });
    Ok(asked)
}

async fn answer(State(ask): State<mpsc::Sender<Scrape>>) -> Response {
    let (answer, answered) = oneshot::channel();
    if ask.try_send(answer).is_err() {
        return unavailable("too many scrapes at once");
    }
    match tokio::time::timeout(ANSWER_TIME_MAX, answered).await {
        Ok(Ok(snapshot)) => match encode(families(&snapshot)) {
            Ok(text) => ([(header::CONTENT_TYPE, CONTENT_TYPE)], text).into_response(),
            Err(_) => unavailable("the metrics cannot be written"),
        },
        Ok(Err(_)) | Err(_) => unavailable("the agent does not answer"),
    }
}

fn unavailable(why: &'static str) -> Response {
    (StatusCode::SERVICE_UNAVAILABLE, why).into_response()
}

#[derive(Debug)]
struct Families(Vec<Family>);

impl Collector for Families {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), std::fmt::Error> {
        for family in &self.0 {
            let kind = match family.kind {
                Kind::Gauge => MetricType::Gauge,
                Kind::Counter => MetricType::Counter,
            };
            let mut metric = encoder.encode_descriptor(family.name, family.help, None, kind)?;
            for sample in &family.samples {
                if sample.labels.is_empty() {
                    // The one sample of its family.
                    one(sample.value, family.kind, metric)?;
                    break;
                }
                one(
                    sample.value,
                    family.kind,
                    metric.encode_family(&sample.labels)?,
                )?;
            }
        }
        Ok(())
    }
}

fn one(value: f64, kind: Kind, metric: MetricEncoder<'_>) -> Result<(), std::fmt::Error> {
    match kind {
        Kind::Gauge => ConstGauge::new(value).encode(metric),
        Kind::Counter => ConstCounter::new(value).encode(metric),
    }
}

/// In the OpenMetrics text format.
fn encode(families: Vec<Family>) -> Result<String, std::fmt::Error> {
    let mut registry = Registry::default();
    registry.register_collector(Box::new(Families(families)));
    let mut text = String::new();
    text::encode(&mut text, &registry)?;
    Ok(text)
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

    #[test]
    fn families_are_openmetrics_text() {
        let family = Family::new("dynamicswap_x_bytes", "What x is", Kind::Counter)
            .with(&[("op", "read")], 7_u64);
        let gauge = Family::gauge("dynamicswap_y", "What y is", true);
        let text = encode(vec![family, gauge]).expect("text");
        let lines: Vec<&str> = text.lines().collect();
        assert_eq!(
            lines,
            [
                "# HELP dynamicswap_x_bytes What x is",
                "# TYPE dynamicswap_x_bytes counter",
                "dynamicswap_x_bytes_total{op=\"read\"} 7.0",
                "# HELP dynamicswap_y What y is",
                "# TYPE dynamicswap_y gauge",
                "dynamicswap_y 1.0",
                "# EOF"
            ]
        );
    }

    async fn get(address: SocketAddr, path: &str) -> String {
        let mut stream = tokio::net::TcpStream::connect(address).await.expect("up");
        let request = format!("GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n");
        stream.write_all(request.as_bytes()).await.expect("sent");
        let mut said = String::new();
        stream.read_to_string(&mut said).await.expect("an answer");
        said
    }

    #[tokio::test]
    async fn scrape_asks_the_agent_and_nothing_else_is_served() {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let address = listener.local_addr().expect("its address");
        drop(listener);
        let mut asked = start(address).await.expect("it serves");
        assert!(start(address).await.is_err(), "the port is taken");
        let agent = tokio::spawn(async move {
            let answer = asked.recv().await.expect("a scrape");
            answer.send(Snapshot::default()).expect("it waits");
        });
        let said = get(address, "/metrics").await;
        assert!(said.starts_with("HTTP/1.1 200"), "{said}");
        assert!(said.contains(CONTENT_TYPE) && said.contains("dynamicswap_agent_session_up 0.0"));
        agent.await.expect("it answered");
        assert!(get(address, "/").await.starts_with("HTTP/1.1 404"));
        // The agent is gone.
        assert!(get(address, "/metrics").await.starts_with("HTTP/1.1 503"));
    }
}
