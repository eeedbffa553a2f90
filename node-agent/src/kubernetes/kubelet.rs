//! Whether this node's kubelet starts again while swap is on, `failSwapOn`, and whether it gives pods
//! swap by itself, `swapBehavior`.
//!
//! A kubelet that does not start is one restart away from a lost node, so the device is not attached
//! before this is known. Owns the ways to the kubelet's configuration and what is made of it.

use std::net::IpAddr;
use std::path::Path;

use anyhow::{Context as _, Result};
use dynamicswap_types::{Backoff, NodeName};
use kube::Client;
use kube::api::GetParams;
use kube::core::Request;
use serde::Deserialize;
use tokio::sync::watch;

use crate::limits::{API_ANSWER_LIMIT, KUBELET_LOOK, KUBELET_LOOK_FIRST};

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
    Tolerant {
        /// It lets pods swap by itself (`LimitedSwap`), whatever policies say.
        gives_swap: bool,
    },
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
            Self::Tolerant { .. } => None,
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

    /// What its user should know of it, while the device is attached as well.
    #[must_use]
    pub fn caution(&self) -> Option<String> {
        let gives = matches!(self, Self::Tolerant { gives_swap: true });
        gives.then(|| {
            "this node's kubelet lets Burstable pods swap by itself (swapBehavior: LimitedSwap), \
             also to the swap device and also those that no policy selects, and writes their limits \
             as the agent does: set memorySwap.swapBehavior: NoSwap there, and say in policies who \
             may swap"
                .to_owned()
        })
    }
}

/// What a kubelet's configuration says of swap.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SwapSettings {
    /// It does not start while swap is on.
    pub fails: bool,
    /// It lets pods swap by itself.
    pub gives: bool,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Configuration {
    fail_swap_on: Option<bool>,
    #[serde(default)]
    memory_swap: MemorySwap,
}

#[derive(Deserialize, Default)]
#[serde(rename_all = "camelCase")]
struct MemorySwap {
    #[serde(default)]
    swap_behavior: String,
}

impl Configuration {
    fn settings(&self) -> Option<SwapSettings> {
        Some(SwapSettings {
            fails: self.fail_swap_on?,
            // Not said is NoSwap, since Kubernetes 1.30.
            gives: self.memory_swap.swap_behavior == "LimitedSwap",
        })
    }
}

#[derive(Deserialize)]
struct Configz {
    kubeletconfig: Configuration,
}

/// What the kubelet's `configz` says: the configuration in force, flags included.
///
/// # Errors
/// A sentence, if it is something else or says nothing about swap.
pub fn of_configz(json: &str) -> Result<SwapSettings, String> {
    let configz: Configz = serde_json::from_str(json)
        .map_err(|error| format!("the kubelet's configz is not understood: {error}"))?;
    let said = configz.kubeletconfig.settings();
    said.ok_or_else(|| "the kubelet's configz says nothing about failSwapOn".to_owned())
}

/// What a kubelet's configuration file says. One that says nothing leaves the default, true,
/// which the kubelet's command line may have changed.
///
/// # Errors
/// A sentence, if it is something else or says nothing about swap.
pub fn of_file(yaml: &str) -> Result<SwapSettings, String> {
    let configuration: Configuration =
        serde_saphyr::from_str(yaml).map_err(|error| format!("it is not understood: {error}"))?;
    let said = configuration.settings();
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
        let mut pauses = Backoff::new(KUBELET_LOOK_FIRST, KUBELET_LOOK);
        while !known.is_closed() {
            let found = self.look().await;
            let tolerant = matches!(found, Kubelet::Tolerant { .. });
            known.send_if_modified(|before| {
                let is_news = *before != found;
                *before = found;
                is_news
            });
            if tolerant {
                return;
            }
            tokio::time::sleep(pauses.pause()).await;
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
                Ok(settings) => return verdict(settings, "its configz"),
                Err(why) => failures.push(why),
            },
            Err(error) => failures.push(format!("by the API server: {error:#}")),
        }
        if let Some(address) = self.address {
            match in_time(ask_directly(address)).await {
                Ok(text) => match of_configz(&text) {
                    Ok(settings) => return verdict(settings, "its configz"),
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
                Ok(settings) => return verdict(settings, &path.display().to_string()),
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

fn verdict(settings: SwapSettings, source: &str) -> Kubelet {
    if settings.fails {
        Kubelet::Intolerant {
            source: source.to_owned(),
        }
    } else {
        Kubelet::Tolerant {
            gives_swap: settings.gives,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn configz_is_the_configuration_in_force() {
        let configz = |fails, behavior| {
            format!(
                r#"{{"kubeletconfig":{{"enableServer":true,"failSwapOn":{fails},
                    "memorySwap":{{{behavior}}}}}}}"#
            )
        };
        let said =
            |fails, behavior| of_configz(&configz(fails, behavior)).map(|it| (it.fails, it.gives));
        assert_eq!(
            said("true", r#""swapBehavior":"NoSwap""#),
            Ok((true, false))
        );
        assert_eq!(said("false", ""), Ok((false, false)));
        assert_eq!(
            said("false", r#""swapBehavior":"LimitedSwap""#),
            Ok((false, true))
        );
        for text in ["", "{}", r#"{"kubeletconfig":{}}"#, &configz("3", "")] {
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
        let said = |more: &str| of_file(&file(more)).map(|it| (it.fails, it.gives));
        assert_eq!(said("failSwapOn: false\n"), Ok((false, false)));
        assert_eq!(said("failSwapOn: true\n"), Ok((true, false)));
        let limited = "failSwapOn: false\nmemorySwap:\n  swapBehavior: LimitedSwap\n";
        assert_eq!(said(limited), Ok((false, true)));
        assert!(of_file(&file("")).is_err());
        assert!(of_file("failSwapOn: [").is_err());
    }

    #[test]
    fn device_is_held_back_with_what_to_set() {
        let settings = |fails, gives| SwapSettings { fails, gives };
        let tolerant = verdict(settings(false, false), "its configz");
        assert_eq!((tolerant.hold(false), tolerant.caution()), (None, None));
        let generous = verdict(settings(false, true), "its configz");
        assert_eq!(generous.hold(false), None);
        let caution = generous.caution().expect("it gives swap");
        assert!(caution.contains("swapBehavior: NoSwap"), "{caution}");
        let intolerant = verdict(settings(true, true), "its configz");
        assert_eq!(
            intolerant.caution(),
            None,
            "what holds the device is enough"
        );
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
