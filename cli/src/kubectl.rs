//! The way to the controller of a Kubernetes cluster: whatever kubectl is set up for.
//!
//! Owns the `kubectl` processes. kubectl knows the cluster, who calls, and how that is proven; so what
//! a user may do here is what the cluster's RBAC lets that user do. One process forwards a port of this
//! machine to the leading controller for as long as the [`Way`] lives.

use std::io::{BufRead as _, BufReader, Write as _};
use std::process::{Child, ChildStdout, Command, Output, Stdio};

use anyhow::{Context as _, Result};
use dynamicswap_proto::identity::{AUDIENCE, CONTROLLER_NAME, LEASE, Right, TRUST, TRUST_KEY};

use crate::failure::Refusal;

/// As long as somebody may look at `top`.
const TOKEN_LIFE: &str = "--duration=8h";

/// Where DynamicSwap is installed, as kubectl finds it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Place {
    /// A context of the kubeconfig; none for the current one.
    pub context: Option<String>,
    /// The namespace of the release.
    pub namespace: String,
}

impl Place {
    fn kubectl(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new("kubectl");
        if let Some(context) = &self.context {
            command.arg(format!("--context={context}"));
        }
        command
            .arg(format!("--namespace={}", self.namespace))
            .args(arguments)
            .stdin(Stdio::null());
        command
    }

    /// Runs kubectl; gives what it prints.
    ///
    /// # Errors
    /// A refusal with kubectl's own words: they say what to mend.
    pub fn ask(&self, arguments: &[&str]) -> Result<String> {
        let output = self.kubectl(arguments).output().map_err(not_there)?;
        answer(arguments, output)
    }

    /// The same with something to read.
    ///
    /// # Errors
    /// A refusal with kubectl's own words.
    pub fn feed(&self, arguments: &[&str], input: &str) -> Result<String> {
        let mut command = self.kubectl(arguments);
        command.stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut kubectl = command.stderr(Stdio::piped()).spawn().map_err(not_there)?;
        let stdin = kubectl.stdin.take().context("kubectl has no input")?;
        // It may have ended already, and its own words then say why.
        let _unread = { stdin }.write_all(input.as_bytes());
        let output = kubectl.wait_with_output().context("cannot read kubectl")?;
        answer(arguments, output)
    }

    /// The same cluster, elsewhere in it.
    #[must_use]
    pub fn in_namespace(&self, namespace: &str) -> Self {
        Self {
            context: self.context.clone(),
            namespace: namespace.to_owned(),
        }
    }

    /// Who has signed the controller's certificate, PEM; none where it serves without TLS.
    ///
    /// # Errors
    /// A refusal with kubectl's own words.
    pub fn authorities(&self) -> Result<Option<String>> {
        let key = TRUST_KEY.replace('.', r"\.");
        let path = format!("--output=jsonpath={{.data.{key}}}");
        let said = self.ask(&["get", "configmap", TRUST, "--ignore-not-found", &path])?;
        Ok((!said.trim().is_empty()).then_some(said))
    }

    /// A token with which the controller gives its bearer a right.
    ///
    /// # Errors
    /// A refusal with kubectl's own words: who calls may not make one, say.
    pub fn token(&self, right: Right) -> Result<String> {
        let audience = format!("--audience={AUDIENCE}");
        let token = self.ask(&["create", "token", right.account(), &audience, TOKEN_LIFE])?;
        Ok(token.trim().to_owned())
    }

    /// The controller's port: the Service has the same as its pods.
    fn port(&self) -> Result<u16> {
        let path = "--output=jsonpath={.spec.ports[0].port}";
        let said = self.ask(&["get", "service", CONTROLLER_NAME, path])?;
        said.trim()
            .parse()
            .with_context(|| format!("the Service {CONTROLLER_NAME} has no port: '{said}'"))
    }

    /// The pod of the controller that leads.
    fn leader(&self) -> Result<String> {
        let path = "--output=jsonpath={.spec.holderIdentity}";
        let holder = self.ask(&["get", "lease", LEASE, path])?;
        if holder.is_empty() {
            let sentence = format!(
                "no controller leads in the namespace '{}': see 'kubectl get pods --namespace {}'",
                self.namespace, self.namespace
            );
            return Err(Refusal::error(sentence));
        }
        Ok(holder)
    }
}

/// What kubectl printed, if it did what it was asked.
fn answer(arguments: &[&str], output: Output) -> Result<String> {
    if !output.status.success() {
        return Err(refused(arguments, &output.stderr));
    }
    String::from_utf8(output.stdout).context("kubectl's answer is no text")
}

fn not_there(error: std::io::Error) -> anyhow::Error {
    Refusal::error(format!(
        "cannot run kubectl ({error}): install it, or name a controller with --controller"
    ))
}

fn refused(arguments: &[&str], said: &[u8]) -> anyhow::Error {
    let said = String::from_utf8_lossy(said);
    Refusal::error(format!(
        "'kubectl {}' failed: {}",
        arguments.join(" "),
        said.trim()
    ))
}

/// A port of this machine that leads to the leading controller.
#[derive(Debug)]
pub struct Way {
    place: Place,
    forwarding: Forwarding,
}

/// The process that forwards.
#[derive(Debug)]
struct Forwarding {
    kubectl: Child,
    port: u16,
    /// Kept: kubectl tells of each connection, and would die of a closed pipe.
    _told: BufReader<ChildStdout>,
}

impl Forwarding {
    fn end(&mut self) {
        // It may have ended by itself, when the connection did.
        let _ended = self.kubectl.kill();
        let _reaped = self.kubectl.wait();
    }
}

impl Drop for Forwarding {
    fn drop(&mut self) {
        self.end();
    }
}

impl Way {
    /// Opens it.
    ///
    /// # Errors
    /// A refusal with kubectl's own words.
    pub fn open(place: Place) -> Result<Self> {
        let forwarding = forward(&place, 0)?;
        Ok(Self { place, forwarding })
    }

    /// The port, on 127.0.0.1.
    #[must_use]
    pub const fn port(&self) -> u16 {
        self.forwarding.port
    }

    /// Leads the same port to whoever leads now: the controller may be another one.
    ///
    /// # Errors
    /// A refusal with kubectl's own words.
    pub fn renew(&mut self) -> Result<()> {
        let port = self.port();
        // Before the next one wants the port.
        self.forwarding.end();
        self.forwarding = forward(&self.place, port)?;
        Ok(())
    }
}

/// Starts the forwarding of `port`, or of any that is free if 0, and waits until it works.
fn forward(place: &Place, port: u16) -> Result<Forwarding> {
    let pod = format!("pod/{}", place.leader()?);
    let local = if port == 0 {
        String::new()
    } else {
        port.to_string()
    };
    let ports = format!("{local}:{}", place.port()?);
    let arguments = ["port-forward", "--address=127.0.0.1", &pod, &ports];
    let mut kubectl = place
        .kubectl(&arguments)
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .map_err(not_there)?;
    let stdout = kubectl.stdout.take().context("kubectl has no output")?;
    let mut told = BufReader::new(stdout);
    let mut line = String::new();
    let _read = told.read_line(&mut line);
    if let Some(port) = port_of(&line) {
        return Ok(Forwarding {
            kubectl,
            port,
            _told: told,
        });
    }
    let _ended = kubectl.kill();
    let output = kubectl.wait_with_output().context("cannot read kubectl")?;
    Err(refused(&arguments, &output.stderr))
}

/// The port in "Forwarding from 127.0.0.1:41235 -> 7700".
fn port_of(line: &str) -> Option<u16> {
    let (from, _) = line.strip_prefix("Forwarding from ")?.split_once(" -> ")?;
    from.rsplit_once(':')?.1.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn port_is_the_one_that_kubectl_announces() {
        assert_eq!(
            port_of("Forwarding from 127.0.0.1:41235 -> 7700\n"),
            Some(41235)
        );
        assert_eq!(port_of("Forwarding from [::1]:5 -> 7700"), Some(5));
        assert_eq!(port_of("error: unable to forward"), None);
        assert_eq!(port_of(""), None);
    }

    #[test]
    fn kubectl_is_asked_in_the_context_and_namespace_that_were_named() {
        let place = Place {
            context: Some("lab".to_owned()),
            namespace: "swap".to_owned(),
        };
        let command = place.kubectl(&["get", "pods"]);
        let arguments: Vec<_> = command.get_args().collect();
        assert_eq!(
            arguments,
            ["--context=lab", "--namespace=swap", "get", "pods"]
        );
    }
}
