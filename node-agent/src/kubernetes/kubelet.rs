//! Whether this node's kubelet starts again while swap is on: its `failSwapOn`.
//!
//! A kubelet that does not is one restart away from a lost node, so the device is not attached
//! before this is known. Owns the ways to the kubelet's configuration and what is made of it.

use std::net::IpAddr;
use std::path::Path;

use anyhow::{Context as _, Result};
use dynamicswap_types::NodeName;
use kube::Client;
use kube::api::GetParams;
use kube::core::Request;
use serde::Deserialize;
use tokio::sync::watch;

use crate::limits::{API_ANSWER_LIMIT, KUBELET_LOOK};

/// Where kubelet's configuration lies on most hosts, should it be mounted.
const FILES: [&str; 2] = [
    "/var/lib/kubelet/config.yaml",
    "/etc/kubernetes/kubelet.yaml",
];
/// The kubelet's own port.
const PORT: u16 = 10_250;

/// What is known of the kubelet.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Kubelet {
    /// It starts with swap on.
    Tolerant,
    /// It does not.
    Intolerant {
        /// Who says so.
        source: String,
    },
    /// Nobody could say.
    Unknown {
        /// Why not.
        why: String,
    },
}

impl Kubelet {
    /// Nobody has been asked yet.
    #[must_use]
    pub fn not_asked() -> Self {
        Self::Unknown {
            why: "it was not asked yet".to_owned(),
        }
    }

    /// Why the device must not be attached; none if it may.
    #[must_use]
    pub fn hold(&self, allow_unknown: bool) -> Option<String> {
        match self {
            Self::Tolerant => None,
            Self::Intolerant { source } => Some(format!(
                "the swap device is not attached, because this node's kubelet would not start \
                 again ({source} has failSwapOn: true): set failSwapOn: false there and restart \
                 the kubelet"
            )),
            Self::Unknown { .. } if allow_unknown => None,
            Self::Unknown { why } => Some(format!(
                "the swap device is not attached, because it is not known whether this node's \
                 kubelet starts again while swap is on ({why}): set failSwapOn: false in its \
                 configuration, and let the agent read it (permission for nodes/proxy, or \
                 {} mounted) or give it --allow-unknown-kubelet",
                FILES[0]
            )),
        }
    }
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Configuration {
    fail_swap_on: Option<bool>,
}

#[derive(Deserialize)]
struct Configz {
    kubeletconfig: Configuration,
}

/// What the kubelet's `configz` says: the configuration in force, flags included.
///
/// # Errors
/// A sentence, if it is something else or says nothing about swap.
pub fn of_configz(json: &str) -> Result<bool, String> {
    let configz: Configz = serde_json::from_str(json)
        .map_err(|error| format!("the kubelet's configz is not understood: {error}"))?;
    let said = configz.kubeletconfig.fail_swap_on;
    said.ok_or_else(|| "the kubelet's configz says nothing about failSwapOn".to_owned())
}

/// What a kubelet's configuration file says. One that says nothing leaves the default, true,
/// which the kubelet's command line may have changed.
///
/// # Errors
/// A sentence, if it is something else or says nothing about swap.
pub fn of_file(yaml: &str) -> Result<bool, String> {
    let configuration: Configuration =
        serde_saphyr::from_str(yaml).map_err(|error| format!("it is not understood: {error}"))?;
    let said = configuration.fail_swap_on;
    said.ok_or_else(|| "it says nothing about failSwapOn".to_owned())
}

/// The ways to one kubelet.
#[derive(Clone)]
pub struct KubeletWays {
    client: Client,
    node: NodeName,
    address: Option<IpAddr>,
}

impl std::fmt::Debug for KubeletWays {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "KubeletWays({})", self.node)
    }
}

impl KubeletWays {
    /// By the API server, and at `address` if one is given.
    #[must_use]
    pub fn new(client: Client, node: NodeName, address: Option<IpAddr>) -> Self {
        Self {
            client,
            node,
            address,
        }
    }

    /// Asks until the kubelet is found to be tolerant, and publishes what is known meanwhile.
    pub async fn follow(self, known: watch::Sender<Kubelet>) {
        while !known.is_closed() {
            let found = self.look().await;
            let tolerant = found == Kubelet::Tolerant;
            known.send_if_modified(|before| {
                let is_news = *before != found;
                *before = found;
                is_news
            });
            if tolerant {
                return;
            }
            tokio::time::sleep(KUBELET_LOOK).await;
        }
    }

    async fn look(&self) -> Kubelet {
        let mut failures = Vec::new();
        let by_api_server = async {
            let request = Request::new("/api/v1/nodes");
            let request = request.get_subresource("proxy/configz", self.node.as_str())?;
            Ok(self.client.request_text(request).await?)
        };
        match in_time(by_api_server).await {
            Ok(text) => match of_configz(&text) {
                Ok(fails) => return verdict(fails, "its configz"),
                Err(why) => failures.push(why),
            },
            Err(error) => failures.push(format!("by the API server: {error:#}")),
        }
        if let Some(address) = self.address {
            match in_time(ask_directly(address)).await {
                Ok(text) => match of_configz(&text) {
                    Ok(fails) => return verdict(fails, "its configz"),
                    Err(why) => failures.push(why),
                },
                Err(error) => failures.push(format!("at {address}:{PORT}: {error:#}")),
            }
        }
        for path in FILES.map(Path::new) {
            let Ok(text) = std::fs::read_to_string(path) else {
                continue;
            };
            match of_file(&text) {
                Ok(fails) => return verdict(fails, &path.display().to_string()),
                Err(why) => failures.push(format!("{}: {why}", path.display())),
            }
        }
        Kubelet::Unknown {
            why: failures.join("; "),
        }
    }
}

/// The kubelet of this node at its own port, with this pod's token.
async fn ask_directly(address: IpAddr) -> Result<String> {
    let mut config = kube::Config::incluster().context("this is no pod")?;
    let host = match address {
        IpAddr::V4(address) => address.to_string(),
        IpAddr::V6(address) => format!("[{address}]"),
    };
    config.cluster_url = format!("https://{host}:{PORT}").parse()?;
    // A kubelet signs its own certificate as a rule. What is asked for never leaves this host. The
    // cluster's authority stays all the same: without one, the host's would be looked for, and an
    // image without any other file has none.
    config.accept_invalid_certs = true;
    let request = Request::new("").get("configz", &GetParams::default())?;
    Ok(Client::try_from(config)?.request_text(request).await?)
}

async fn in_time(asking: impl Future<Output = Result<String>>) -> Result<String> {
    let limited = tokio::time::timeout(API_ANSWER_LIMIT, asking);
    limited.await.context("no answer in time")?
}

fn verdict(fails: bool, source: &str) -> Kubelet {
    if fails {
        Kubelet::Intolerant {
            source: source.to_owned(),
        }
    } else {
        Kubelet::Tolerant
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn configz_is_the_configuration_in_force() {
        let configz = |fails| {
            format!(
                r#"{{"kubeletconfig":{{"enableServer":true,"failSwapOn":{fails},
                    "memorySwap":{{"swapBehavior":"NoSwap"}}}}}}"#
            )
        };
        assert_eq!(of_configz(&configz("true")), Ok(true));
        assert_eq!(of_configz(&configz("false")), Ok(false));
        for text in ["", "{}", r#"{"kubeletconfig":{}}"#, &configz("3")] {
            let sentence = of_configz(text).expect_err("nothing");
            assert!(sentence.contains("configz"), "{sentence}");
        }
    }

    #[test]
    fn file_that_says_nothing_is_not_taken_for_the_default() {
        let file = |more: &str| {
            format!(
                "apiVersion: kubelet.config.k8s.io/v1beta1\nkind: KubeletConfiguration\n\
                 cgroupDriver: systemd\nauthentication:\n  anonymous:\n    enabled: false\n{more}"
            )
        };
        assert_eq!(of_file(&file("failSwapOn: false\n")), Ok(false));
        assert_eq!(of_file(&file("failSwapOn: true\n")), Ok(true));
        assert!(of_file(&file("")).is_err());
        assert!(of_file("failSwapOn: [").is_err());
    }

    #[test]
    fn device_is_held_back_with_what_to_set() {
        assert_eq!(Kubelet::Tolerant.hold(false), None);
        let intolerant = verdict(true, "its configz");
        for allow_unknown in [false, true] {
            let sentence = intolerant.hold(allow_unknown).expect("held");
            assert!(sentence.contains("set failSwapOn: false"), "{sentence}");
        }
        let unknown = Kubelet::not_asked();
        let sentence = unknown.hold(false).expect("held");
        assert!(sentence.contains("--allow-unknown-kubelet"), "{sentence}");
        assert_eq!(unknown.hold(true), None);
    }
}
