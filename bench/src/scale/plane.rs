//! A real controller with its file store, in a directory of its own, and what an operator asks of it.

use std::path::PathBuf;
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use dynamicswap_proto::control::v1::operator_client::OperatorClient;
use dynamicswap_proto::control::v1::{ApplyRequest, ClusterStatus, StatusRequest};
use tonic::transport::Channel;

use super::process::Program;
use crate::workload::beside;

/// Longest time until it serves.
const READY_WAIT: Duration = Duration::from_secs(20);
/// Longest answer to an operator: a status with a thousand nodes' reports.
const STATUS_BYTES_MAX: usize = 256 << 20;

/// A controller; killed, with its store, when dropped.
#[derive(Debug)]
pub struct Controller {
    program: Program,
    address: String,
    _directory: tempfile::TempDir,
}

impl Controller {
    /// Starts one and waits until it serves.
    pub async fn start() -> Result<Self> {
        let directory = tempfile::tempdir().context("cannot make a directory")?;
        let ready: PathBuf = directory.path().join("ready");
        let mut command = Command::new(beside("dynamicswap-controller")?);
        command.args(["--listen", "127.0.0.1:0"]);
        command
            .arg("--store")
            .arg(directory.path().join("store.redb"));
        command.arg("--ready-file").arg(&ready);
        let program = Program::start(&mut command)?;
        let deadline = Instant::now() + READY_WAIT;
        while !ready.exists() {
            ensure!(
                Instant::now() < deadline,
                "the controller does not serve after {READY_WAIT:?}"
            );
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        let address = std::fs::read_to_string(&ready).context("cannot read the ready file")?;
        Ok(Self {
            program,
            address: format!("http://{}", address.trim()),
            _directory: directory,
        })
    }

    /// Its process id.
    pub fn pid(&self) -> u32 {
        self.program.pid()
    }

    /// Where it serves, as a URL.
    pub fn address(&self) -> &str {
        &self.address
    }

    async fn operator(&self) -> Result<OperatorClient<Channel>> {
        let client = OperatorClient::connect(self.address.clone()).await;
        let client = client.context("cannot reach the controller")?;
        Ok(client.max_decoding_message_size(STATUS_BYTES_MAX))
    }

    /// Applies a policy for every container of the namespace `default`, with this spec.
    pub async fn apply(&self, spec: &str) -> Result<()> {
        let yaml = format!(
            "apiVersion: dynamicswap.io/v1alpha1\nkind: RemoteMemoryPolicy\n\
             metadata: {{name: bench}}\nspec: {spec}\n"
        );
        let mut operator = self.operator().await?;
        let applied = operator.apply(ApplyRequest { yaml }).await;
        applied.context("the policy is refused").map(drop)
    }

    /// What `dynamicswap status` shows.
    pub async fn status(&self) -> Result<ClusterStatus> {
        let request = StatusRequest {
            events_after: u64::MAX,
        };
        let status = self.operator().await?.status(request).await;
        Ok(status.context("no status")?.into_inner())
    }
}
