//! The kinds as the API server is told of them, and the files that hold them.

use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use kube::CustomResourceExt as _;

use crate::kind::Kind;
use crate::memory_server::MemoryServer;
use crate::policy::RemoteMemoryPolicy;
use crate::slab_map::SlabMap;
use crate::swap_device::SwapDevice;

/// First line of each file.
const HEADER: &str = "# Generated from the types in crds/src by `cargo xtask crd`: do not edit.\n";

/// The definition of each kind.
#[must_use]
pub fn crds() -> [(Kind, CustomResourceDefinition); 4] {
    Kind::ALL.map(|kind| {
        let definition = match kind {
            Kind::RemoteMemoryPolicy => RemoteMemoryPolicy::crd(),
            Kind::MemoryServer => MemoryServer::crd(),
            Kind::SwapDevice => SwapDevice::crd(),
            Kind::SlabMap => SlabMap::crd(),
        };
        (kind, definition)
    })
}

/// Name and content of a definition's file.
///
/// # Errors
/// If the definition has no YAML form.
pub fn crd_file(
    kind: Kind,
    definition: &CustomResourceDefinition,
) -> Result<(String, String), serde_saphyr::ser::Error> {
    let yaml = serde_saphyr::to_string(definition)?;
    let plural = kind.plural();
    Ok((format!("{plural}.yaml"), format!("{HEADER}{yaml}")))
}
