//! The resources that the controller reads and writes, by name.

use dynamicswap_crds::{GROUP, Kind};
use kube::api::ApiResource;
use kube::core::GroupVersionKind;
use kube::{Api, Client, api::DynamicObject};

/// The controller's name among the writers of an object's fields.
pub const FIELD_MANAGER: &str = "dynamicswap-controller";
/// Version of the group.
const VERSION: &str = "v1alpha1";

fn resource(kind: Kind) -> ApiResource {
    let [_, plural, ..] = kind.words() else {
        // Every kind has at least its singular and its plural.
        return ApiResource::from_gvk(&GroupVersionKind::gvk(GROUP, VERSION, kind.name()));
    };
    let named = GroupVersionKind::gvk(GROUP, VERSION, kind.name());
    ApiResource::from_gvk_with_plural(&named, plural)
}

/// All objects of one of the group's kinds, in every namespace.
#[must_use]
pub fn group_objects(client: &Client, kind: Kind) -> Api<DynamicObject> {
    Api::all_with(client.clone(), &resource(kind))
}

/// Objects of one of the group's kinds in a namespace.
#[must_use]
pub fn group_objects_in(client: &Client, kind: Kind, namespace: &str) -> Api<DynamicObject> {
    Api::namespaced_with(client.clone(), namespace, &resource(kind))
}

/// The namespace's `ConfigMap`s, untyped as the other records are.
#[must_use]
pub fn config_maps(client: &Client, namespace: &str) -> Api<DynamicObject> {
    let named = GroupVersionKind::gvk("", "v1", "ConfigMap");
    let resource = ApiResource::from_gvk_with_plural(&named, "configmaps");
    Api::namespaced_with(client.clone(), namespace, &resource)
}
