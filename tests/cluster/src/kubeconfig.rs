//! kubeconfig files: how a client reaches the API server, and who it is there.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::json;

use crate::certificates::Certificate;

/// The text of a kubeconfig that stands alone: as JSON, which is YAML as well.
#[must_use]
pub fn text(endpoint: &str, authority: &str, client: &Certificate) -> String {
    let encode = |pem: &str| STANDARD.encode(pem);
    let config = json!({
        "apiVersion": "v1",
        "kind": "Config",
        "clusters": [{"name": "dynamicswap", "cluster": {
            "server": endpoint,
            "certificate-authority-data": encode(authority),
        }}],
        "users": [{"name": "user", "user": {
            "client-certificate-data": encode(&client.certificate),
            "client-key-data": encode(&client.key),
        }}],
        "contexts": [{"name": "dynamicswap", "context": {
            "cluster": "dynamicswap",
            "user": "user",
        }}],
        "current-context": "dynamicswap",
    });
    format!("{config:#}\n")
}
