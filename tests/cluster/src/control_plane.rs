//! A control plane: etcd, API server, controller manager and scheduler, with certificates of
//! their own.
//!
//! Owns their command lines and their readiness. Knows nothing of nodes.

use std::fs;
use std::net::{IpAddr, Ipv4Addr, TcpListener};
use std::os::unix::fs::DirBuilderExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use dynamicswap_cli::interrupt::Interrupt;
use dynamicswap_cli::process::ProcessRecord;

use crate::certificates::{Authority, Certificate, token_keys};
use crate::client::{Client, Place};
use crate::family::{Family, Lifetime};
use crate::kubeconfig;
use crate::namespace::GATEWAY;
use crate::programs::{CONTROL_PLANE, Programs};

/// The API server answers within it, on a busy machine; 2 s on an idle one.
const READY_TIME_MAX: Duration = Duration::from_secs(180);
/// Time between two looks.
const LOOK_EVERY: Duration = Duration::from_millis(200);
/// Free ports are looked for and then listened to: another process may be faster, but not often.
const ATTEMPTS_MAX: u32 = 3;
/// Addresses of services.
const SERVICES: &str = "10.96.0.0/16";
/// The API server's own, the first of them.
const SERVICE: Ipv4Addr = Ipv4Addr::new(10, 96, 0, 1);

/// The group that may do everything.
const ADMINISTRATORS: &str = "system:masters";

/// How a control plane is started.
#[derive(Debug, Clone, Default)]
pub struct Options {
    /// Where its network is.
    pub place: Place,
    /// Its folder, which must not exist; one in the system's folder of temporary files if none.
    pub folder: Option<PathBuf>,
    /// Whether it may outlive this process.
    pub lifetime: Lifetime,
    /// What ends a start early.
    pub interrupt: Interrupt,
}

/// A running control plane. Dropping it ends its processes and removes its folder.
#[derive(Debug)]
pub struct ControlPlane {
    client: Client,
    authority: Authority,
    endpoint: String,
    /// None once it was given to who keeps it.
    family: Option<Family>,
}

impl ControlPlane {
    /// Starts one, and waits until objects can be made. Builds its programs if they are not
    /// there.
    ///
    /// # Errors
    /// Names the process that failed and the end of its log.
    pub fn start(options: &Options) -> Result<Self> {
        let programs = Programs::prepare(&CONTROL_PLANE)?;
        let folder = make_folder(options.folder.as_deref())?;
        let client = Client {
            place: options.place.clone(),
            folder: folder.clone(),
            programs: programs.folder(),
        };
        // From here on, a failure removes the folder again.
        let mut plane = Self {
            client,
            authority: Authority::new()?,
            endpoint: String::new(),
            family: Some(Family::new(&folder.join("logs"), options.lifetime)?),
        };
        plane.write_server_keys()?;
        for attempt in 1.. {
            let ports = Ports::choose(&options.place)?;
            match plane.bring_up(&ports, &options.interrupt) {
                Err(error) if attempt < ATTEMPTS_MAX && is_port_taken(&error) => {
                    plane.end();
                    fs::remove_dir_all(folder.join("etcd")).context("cannot remove etcd's data")?;
                    plane.family = Some(Family::new(&folder.join("logs"), options.lifetime)?);
                }
                other => return other.map(|()| plane),
            }
        }
        bail!("no free ports")
    }

    /// The way to it: kubectl, and commands of one's own.
    #[must_use]
    pub const fn client(&self) -> &Client {
        &self.client
    }

    /// The administrator's kubeconfig.
    #[must_use]
    pub fn kubeconfig(&self) -> PathBuf {
        self.client.kubeconfig()
    }

    /// The API server's address, `https://ADDRESS:PORT`.
    #[must_use]
    pub fn endpoint(&self) -> &str {
        &self.endpoint
    }

    /// Its processes.
    #[must_use]
    pub fn processes(&self) -> Vec<ProcessRecord> {
        self.family
            .as_ref()
            .map(Family::records)
            .unwrap_or_default()
    }

    /// The text of a kubeconfig for another user than the administrator.
    ///
    /// # Errors
    /// If there is no randomness to make keys of.
    pub fn kubeconfig_of(&self, user: &str, group: Option<&str>) -> Result<String> {
        let client = self.authority.client(user, group)?;
        Ok(kubeconfig::text(
            &self.endpoint,
            &self.authority.certificate(),
            &client,
        ))
    }

    /// The certificate of its authority, as PEM.
    #[must_use]
    pub fn authority(&self) -> String {
        self.authority.certificate()
    }

    /// Leaves it running, for who ends it by its records.
    #[must_use]
    pub fn keep(mut self) -> Vec<ProcessRecord> {
        self.family.take().map(Family::keep).unwrap_or_default()
    }

    fn end(&mut self) {
        if let Some(family) = &mut self.family {
            family.end();
        }
    }

    /// What the API server needs, whatever its port.
    fn write_server_keys(&self) -> Result<()> {
        let addresses = [Ipv4Addr::LOCALHOST, SERVICE, GATEWAY].map(IpAddr::V4);
        let names = ["localhost", "kubernetes.default.svc", "kubernetes.default"];
        let authority = &self.authority;
        self.write("pki/ca.crt", &authority.certificate())?;
        let server = authority.server("kube-apiserver", &addresses, &names)?;
        self.write_pair("server", &server)?;
        let kubelets = authority.client("kube-apiserver", Some(ADMINISTRATORS))?;
        self.write_pair("kubelets", &kubelets)?;
        let (private, public) = token_keys()?;
        self.write("pki/tokens.key", &private)?;
        self.write("pki/tokens.pub", &public)
    }

    fn write_pair(&self, name: &str, pair: &Certificate) -> Result<()> {
        self.write(&format!("pki/{name}.crt"), &pair.certificate)?;
        self.write(&format!("pki/{name}.key"), &pair.key)
    }

    fn write(&self, name: &str, text: &str) -> Result<()> {
        let path = self.client.file(name);
        fs::write(&path, text).with_context(|| format!("cannot write {}", path.display()))
    }

    fn bring_up(&mut self, ports: &Ports, interrupt: &Interrupt) -> Result<()> {
        let address = match self.client.place {
            Place::Host => Ipv4Addr::LOCALHOST,
            Place::Namespace(_) => GATEWAY,
        };
        self.endpoint = format!("https://{address}:{}", ports.api);
        let administrator = self.kubeconfig_of("administrator", Some(ADMINISTRATORS))?;
        self.write("kubeconfig", &administrator)?;
        for name in ["kube-controller-manager", "kube-scheduler"] {
            let text = self.kubeconfig_of(&format!("system:{name}"), None)?;
            self.write(&format!("pki/{name}.kubeconfig"), &text)?;
        }
        let deadline = Instant::now() + READY_TIME_MAX;
        self.start_one("etcd", &self.etcd(ports))?;
        self.start_one("kube-apiserver", &self.api_server(ports, address))?;
        let ready = ["get", "--raw", "/readyz", "--request-timeout=2s"];
        self.wait_for(&ready, deadline, interrupt)?;
        self.start_one("kube-controller-manager", &self.controller_manager())?;
        self.start_one("kube-scheduler", &self.client_of("kube-scheduler"))?;
        // The last that pods need, and the first thing that the controller manager makes.
        let account = ["get", "serviceaccount", "default", "--request-timeout=2s"];
        self.wait_for(&account, deadline, interrupt)
    }

    fn start_one(&mut self, name: &str, arguments: &[String]) -> Result<()> {
        let mut command: Command = self.client.place.command(self.client.program(name));
        command.args(arguments);
        let family = self.family.as_mut().context("the processes have ended")?;
        family.start(name, command)
    }

    /// Repeats a kubectl command until it succeeds.
    fn wait_for(
        &mut self,
        arguments: &[&str],
        deadline: Instant,
        interrupt: &Interrupt,
    ) -> Result<()> {
        loop {
            if let Some(loss) = self.family.as_mut().and_then(Family::loss) {
                bail!(loss);
            }
            match self.client.kubectl(arguments) {
                Ok(_) => return Ok(()),
                Err(error) if Instant::now() > deadline => {
                    return Err(error)
                        .with_context(|| format!("not ready after {READY_TIME_MAX:?}"));
                }
                Err(_) => interrupt.wait(LOOK_EVERY)?,
            }
        }
    }

    fn pki(&self, name: &str) -> String {
        self.client.file("pki").join(name).display().to_string()
    }

    fn etcd(&self, ports: &Ports) -> Vec<String> {
        let client = format!("http://127.0.0.1:{}", ports.etcd);
        let peer = format!("http://127.0.0.1:{}", ports.etcd_peer);
        vec![
            format!("--data-dir={}", self.client.file("etcd").display()),
            // What is in it ends with it.
            "--unsafe-no-fsync".to_owned(),
            format!("--listen-client-urls={client}"),
            format!("--advertise-client-urls={client}"),
            format!("--listen-peer-urls={peer}"),
            format!("--initial-advertise-peer-urls={peer}"),
            format!("--initial-cluster=default={peer}"),
        ]
    }

    fn api_server(&self, ports: &Ports, address: Ipv4Addr) -> Vec<String> {
        let (listen, endpoints) = match self.client.place {
            // The service "kubernetes" may not have a loopback address for its endpoint.
            Place::Host => (Ipv4Addr::LOCALHOST, "none"),
            Place::Namespace(_) => (Ipv4Addr::UNSPECIFIED, "lease"),
        };
        let pki = |name| self.pki(name);
        vec![
            format!("--etcd-servers=http://127.0.0.1:{}", ports.etcd),
            format!("--bind-address={listen}"),
            format!("--secure-port={}", ports.api),
            format!("--advertise-address={address}"),
            format!("--endpoint-reconciler-type={endpoints}"),
            format!("--client-ca-file={}", pki("ca.crt")),
            format!("--tls-cert-file={}", pki("server.crt")),
            format!("--tls-private-key-file={}", pki("server.key")),
            format!("--kubelet-client-certificate={}", pki("kubelets.crt")),
            format!("--kubelet-client-key={}", pki("kubelets.key")),
            "--kubelet-preferred-address-types=InternalIP".to_owned(),
            "--service-account-issuer=https://kubernetes.default.svc".to_owned(),
            format!("--service-account-key-file={}", pki("tokens.pub")),
            format!("--service-account-signing-key-file={}", pki("tokens.key")),
            format!("--service-cluster-ip-range={SERVICES}"),
            "--authorization-mode=Node,RBAC".to_owned(),
            "--enable-admission-plugins=NodeRestriction".to_owned(),
            "--allow-privileged".to_owned(),
        ]
    }

    fn controller_manager(&self) -> Vec<String> {
        let mut arguments = self.client_of("kube-controller-manager");
        arguments.extend([
            format!(
                "--service-account-private-key-file={}",
                self.pki("tokens.key")
            ),
            format!("--root-ca-file={}", self.pki("ca.crt")),
            "--use-service-account-credentials".to_owned(),
        ]);
        arguments
    }

    /// What the API server's own clients have in common: there is one of each, and none serves.
    fn client_of(&self, name: &str) -> Vec<String> {
        vec![
            format!("--kubeconfig={}", self.pki(&format!("{name}.kubeconfig"))),
            "--leader-elect=false".to_owned(),
            "--secure-port=0".to_owned(),
        ]
    }
}

impl Drop for ControlPlane {
    fn drop(&mut self) {
        if self.family.is_none() {
            return;
        }
        self.end();
        let folder = &self.client.folder;
        if let Err(error) = fs::remove_dir_all(folder) {
            eprintln!("cannot remove {}: {error}", folder.display());
        }
    }
}

/// Where its processes listen.
#[derive(Debug)]
struct Ports {
    etcd: u16,
    etcd_peer: u16,
    api: u16,
}

impl Ports {
    fn choose(place: &Place) -> Result<Self> {
        if let Place::Namespace(_) = place {
            return Ok(Self {
                etcd: 2379,
                etcd_peer: 2380,
                api: 6443,
            });
        }
        // Held until all are chosen, so that they differ.
        let held = [free_port()?, free_port()?, free_port()?];
        let [etcd, etcd_peer, api] = held.each_ref().map(|(_, port)| *port);
        Ok(Self {
            etcd,
            etcd_peer,
            api,
        })
    }
}

fn free_port() -> Result<(TcpListener, u16)> {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).context("there is no free port")?;
    let address = listener.local_addr().context("a port without a number")?;
    Ok((listener, address.port()))
}

fn is_port_taken(error: &anyhow::Error) -> bool {
    format!("{error:#}").contains("address already in use")
}

/// Makes the cluster's folder, for nobody else to read: private keys are in it.
fn make_folder(wanted: Option<&Path>) -> Result<PathBuf> {
    let folder = match wanted {
        Some(folder) => {
            let made = fs::DirBuilder::new().mode(0o700).create(folder);
            made.with_context(|| format!("cannot make {}", folder.display()))?;
            folder.to_owned()
        }
        None => {
            let mut builder = tempfile::Builder::new();
            let made = builder.prefix("dynamicswap-cluster-").tempdir();
            made.context("cannot make a folder")?.keep()
        }
    };
    for part in ["pki", "logs"] {
        fs::create_dir(folder.join(part))
            .with_context(|| format!("cannot make a folder in {}", folder.display()))?;
    }
    Ok(folder)
}
