//! A controller and its agents in guests, and an operator who tells them something.

use std::time::Duration;

use anyhow::Result;

use crate::daemons::{LONG, SHORT, spawn};
use crate::guest::Guest;
use crate::wait_for;

/// Where the controller listens, on its guest's address.
const PORT: u16 = 7700;
/// An operator's command: it asks the controller, which may be at work.
const COMMAND: Duration = Duration::from_secs(60);

/// A running controller, as the other guests know it.
#[derive(Debug, Clone)]
pub struct Controller {
    url: String,
}

impl Controller {
    /// Starts it. It moves nothing for the balance: a scenario knows which copies move, and why.
    ///
    /// # Errors
    /// If a guest, or what runs in it, does not do it in time.
    pub fn start(guest: &mut Guest) -> Result<Self> {
        let address = format!("{}:{PORT}", guest.address());
        let command = format!(
            "/lab/dynamicswap-controller --listen {address} --store /run/ds/store.redb \
             --rebalance never --ready-file /run/ds/controller.ready"
        );
        spawn(guest, "controller", &command)?;
        let ready = "test -e /run/ds/controller.ready || { cat /run/ds/controller.log; false; }";
        wait_for(guest, "the controller", SHORT, ready)?;
        let url = format!("http://{address}");
        Ok(Self { url })
    }

    /// Starts a guest's agent, which drives its memory server.
    ///
    /// # Errors
    /// If a guest, or what runs in it, does not do it in time.
    pub fn donor_agent(&self, guest: &mut Guest) -> Result<()> {
        self.agent(guest, "--memory-server-socket /run/ds/server.sock")
    }

    /// Starts a guest's agent, which drives its swap device.
    ///
    /// # Errors
    /// If a guest, or what runs in it, does not do it in time.
    pub fn borrower_agent(&self, guest: &mut Guest) -> Result<()> {
        self.agent(guest, "--swapd-socket /run/ds/swapd.sock")
    }

    fn agent(&self, guest: &mut Guest, daemon: &str) -> Result<()> {
        let (name, url) = (guest.name().to_owned(), &self.url);
        let command = format!(
            "/lab/dynamicswap-agent --node {name} --failure-domain {name} --controller {url} \
             --state-dir /run/ds/agent {daemon}"
        );
        spawn(guest, "agent", &command)
    }

    /// Runs a command of the CLI in a guest, until it succeeds: a node may not be known yet.
    ///
    /// # Errors
    /// If a guest, or what runs in it, does not do it in time.
    pub fn tell(&self, guest: &mut Guest, command: &str) -> Result<String> {
        let whole = format!("/lab/dynamicswap {command} --controller {}", self.url);
        wait_for(guest, command, LONG, &whole)
    }

    /// Applies a policy: its `spec`, in YAML.
    ///
    /// # Errors
    /// If a guest, or what runs in it, does not do it in time.
    pub fn apply(&self, guest: &mut Guest, spec: &str) -> Result<()> {
        let policy = format!(
            "cat > /run/policy.yaml <<'E'\napiVersion: dynamicswap.io/v1alpha1\n\
             kind: RemoteMemoryPolicy\nmetadata: {{name: lab, namespace: default}}\n\
             spec: {spec}\nE\n"
        );
        guest.succeed(&policy, SHORT)?;
        let apply = format!(
            "/lab/dynamicswap apply -f /run/policy.yaml --controller {}",
            self.url
        );
        guest.succeed(&apply, COMMAND)?;
        Ok(())
    }
}
