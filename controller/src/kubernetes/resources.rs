//! The resources that the controller reads and writes, by name.

use dynamicswap_crds::{Kind, MemoryServer, RemoteMemoryPolicy, SlabMap, SwapDevice};
use k8s_openapi::api::core::v1::ConfigMap;
use kube::api::{ApiResource, DynamicObject};
use kube::{Api, Client};

/// The controller's name among the writers of an object's fields.
pub const FIELD_MANAGER: &str = "dynamicswap-controller";

fn resource(kind: Kind) -> ApiResource {
    match kind {
        Kind::RemoteMemoryPolicy => ApiResource::erase::<RemoteMemoryPolicy>(&()),
        Kind::MemoryServer => ApiResource::erase::<MemoryServer>(&()),
        Kind::SwapDevice => ApiResource::erase::<SwapDevice>(&()),
        Kind::SlabMap => ApiResource::erase::<SlabMap>(&()),
    }
}

/// All objects of one of the group's kinds, in every namespace.
#[must_use]
pub fn group_objects(client: &Client, kind: Kind) -> Api<DynamicObject> {
    Api::all_with(client.clone(), &resource(kind))
}

/// Objects of one of the group's kinds where one of them is: in its namespace, if it has one.
#[must_use]
pub fn group_objects_beside(
    client: &Client,
    kind: Kind,
    namespace: Option<&str>,
) -> Api<DynamicObject> {
    match namespace {
        Some(namespace) => Api::namespaced_with(client.clone(), namespace, &resource(kind)),
        None => group_objects(client, kind),
    }
}

/// The namespace's `ConfigMap`s, untyped as the other records are.
#[must_use]
pub fn config_maps(client: &Client, namespace: &str) -> Api<DynamicObject> {
    let resource = ApiResource::erase::<ConfigMap>(&());
    Api::namespaced_with(client.clone(), namespace, &resource)
}
