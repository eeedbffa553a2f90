//! The way to the leader: the `EndpointSlice` behind the controller's Service.
//!
//! The Service selects no pods, because all of them are ready and only one leads. Whoever leads
//! names itself here, and does so again if somebody changes the slice.

use std::net::SocketAddr;
use std::sync::Arc;

use k8s_openapi::api::discovery::v1::{Endpoint, EndpointConditions, EndpointPort, EndpointSlice};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::api::{DeleteParams, Patch, PatchParams};
use kube::{Api, Client};
use tracing::info;

use super::error::{ApiError, Trouble, within};
use super::lease::Leadership;
use super::resources::FIELD_MANAGER;
use crate::limits::ENDPOINT_LOOK;

/// Name of the Service, and of its slice.
const SERVICE: &str = "dynamicswap-controller";
/// Name of the Service's port, as the chart has it.
const PORT: &str = "grpc";

/// The slice that leads to `address`.
fn slice(address: SocketAddr) -> EndpointSlice {
    let labels = [
        ("kubernetes.io/service-name", SERVICE),
        ("endpointslice.kubernetes.io/managed-by", FIELD_MANAGER),
    ];
    let labels = labels.map(|(key, value)| (key.to_owned(), value.to_owned()));
    let ready = EndpointConditions {
        ready: Some(true),
        ..EndpointConditions::default()
    };
    EndpointSlice {
        metadata: ObjectMeta {
            name: Some(SERVICE.to_owned()),
            labels: Some(labels.into()),
            ..ObjectMeta::default()
        },
        address_type: if address.is_ipv6() { "IPv6" } else { "IPv4" }.to_owned(),
        endpoints: vec![Endpoint {
            addresses: vec![address.ip().to_string()],
            conditions: Some(ready),
            ..Endpoint::default()
        }],
        ports: Some(vec![EndpointPort {
            name: Some(PORT.to_owned()),
            port: Some(i32::from(address.port())),
            protocol: Some("TCP".to_owned()),
            ..EndpointPort::default()
        }]),
    }
}

/// Whether the slice that is there leads where `wanted` does.
fn leads_there(found: &EndpointSlice, wanted: &EndpointSlice) -> bool {
    let addresses = |slice: &EndpointSlice| -> Vec<Vec<String>> {
        let all = slice.endpoints.iter();
        all.map(|endpoint| endpoint.addresses.clone()).collect()
    };
    let ports = |slice: &EndpointSlice| -> Vec<Option<i32>> {
        let all = slice.ports.iter().flatten();
        all.map(|port| port.port).collect()
    };
    let service = |slice: &EndpointSlice| {
        let labels = slice.metadata.labels.as_ref();
        labels.and_then(|labels| labels.get("kubernetes.io/service-name").cloned())
    };
    addresses(found) == addresses(wanted)
        && ports(found) == ports(wanted)
        && service(found) == service(wanted)
}

/// Has the Service lead to `address` while the leadership holds.
pub async fn lead_here(
    client: Client,
    namespace: String,
    address: SocketAddr,
    leadership: Arc<Leadership>,
) {
    let api: Api<EndpointSlice> = Api::namespaced(client, &namespace);
    let wanted = slice(address);
    let mut trouble = Trouble::default();
    while leadership.holds() {
        let settled = settle(&api, &wanted, &leadership).await;
        if let Ok(true) = settled {
            info!(%address, "agents are led here");
        }
        trouble.note(
            "agents may not find this controller",
            settled.as_ref().err(),
        );
        tokio::time::sleep(ENDPOINT_LOOK).await;
    }
}

/// Writes the slice unless it is right. Tells whether it wrote.
async fn settle(
    api: &Api<EndpointSlice>,
    wanted: &EndpointSlice,
    leadership: &Leadership,
) -> Result<bool, ApiError> {
    let what = format!("the EndpointSlice {SERVICE}");
    let found = within(format!("read {what}"), api.get_opt(SERVICE)).await?;
    let other_family = found
        .as_ref()
        .is_some_and(|found| found.address_type != wanted.address_type);
    let is_right = found.is_some_and(|found| leads_there(&found, wanted));
    if is_right || !leadership.holds() {
        return Ok(false);
    }
    if other_family {
        // A slice keeps its family for life.
        let params = DeleteParams::default();
        let gone = api.delete(SERVICE, &params);
        within(format!("delete {what}"), gone).await?;
    }
    let params = PatchParams::apply(FIELD_MANAGER).force();
    let patch = Patch::Apply(wanted);
    let applied = api.patch(SERVICE, &params, &patch);
    within(format!("write {what}"), applied).await?;
    Ok(true)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slice_leads_to_one_address_of_its_family() {
        let four = slice(SocketAddr::from(([10, 0, 0, 7], 7700)));
        assert_eq!(four.address_type, "IPv4");
        assert_eq!(four.endpoints[0].addresses, ["10.0.0.7"]);
        let six = slice("[fd00::7]:7700".parse().expect("an address"));
        assert_eq!(six.address_type, "IPv6");
        assert_eq!(six.endpoints[0].addresses, ["fd00::7"]);
    }

    #[test]
    fn what_the_server_fills_in_is_no_difference_and_another_leader_is() {
        let wanted = slice(SocketAddr::from(([10, 0, 0, 7], 7700)));
        let mut found = wanted.clone();
        found.metadata.resource_version = Some("9".to_owned());
        found.metadata.uid = Some("u".to_owned());
        assert!(leads_there(&found, &wanted));
        for other in [([10, 0, 0, 8], 7700), ([10, 0, 0, 7], 7701)] {
            assert!(!leads_there(&slice(SocketAddr::from(other)), &wanted));
        }
        found.metadata.labels = None;
        assert!(!leads_there(&found, &wanted), "no Service finds it");
    }
}
