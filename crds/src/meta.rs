//! What every object carries: group, version, name, namespace, labels.

use std::collections::BTreeMap;
use std::fmt;
use std::str::FromStr;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use serde::{Deserialize, Serialize};
use thiserror::Error;

/// The API group.
pub const GROUP: &str = "dynamicswap.io";
/// The only version so far, as `apiVersion` has it.
pub const API_VERSION: &str = "dynamicswap.io/v1alpha1";
/// The namespace of an object that names none.
const NAMESPACE_DEFAULT: &str = "default";

/// Why a text is no object name.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error(
    "'{0}' is not a name: use 1 to 63 lower-case letters, digits and '-', beginning and ending \
     with a letter or digit"
)]
pub struct ObjectNameError(
    /// The refused text.
    pub String,
);

/// Name of an object or a namespace (RFC 1123 label).
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(into = "String", try_from = "String")]
pub struct ObjectName(String);

impl ObjectName {
    /// The name as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The namespace of an object that names none.
    #[must_use]
    pub fn default_namespace() -> Self {
        Self(NAMESPACE_DEFAULT.to_owned())
    }
}

impl FromStr for ObjectName {
    type Err = ObjectNameError;
    fn from_str(text: &str) -> Result<Self, ObjectNameError> {
        let inner = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-';
        let ok = !text.is_empty()
            && text.len() <= 63
            && text.bytes().all(inner)
            && !text.starts_with('-')
            && !text.ends_with('-');
        if ok {
            Ok(Self(text.to_owned()))
        } else {
            Err(ObjectNameError(text.to_owned()))
        }
    }
}

impl TryFrom<String> for ObjectName {
    type Error = ObjectNameError;
    fn try_from(text: String) -> Result<Self, ObjectNameError> {
        text.parse()
    }
}

impl From<ObjectName> for String {
    fn from(name: ObjectName) -> Self {
        name.0
    }
}

impl fmt::Display for ObjectName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Namespace and name: what tells objects of one kind apart.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ObjectKey {
    /// The namespace.
    pub namespace: ObjectName,
    /// The name.
    pub name: ObjectName,
}

impl fmt::Display for ObjectKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.namespace, self.name)
    }
}

impl ObjectKey {
    /// What a namespaced object is called; one without a namespace is in `default`.
    ///
    /// # Errors
    /// [`ObjectNameError`] if it has no name, or one that no object of the group can have.
    pub fn of(metadata: &ObjectMeta) -> Result<Self, ObjectNameError> {
        let namespace = metadata.namespace.as_deref();
        Ok(Self {
            namespace: namespace.map_or_else(|| Ok(ObjectName::default_namespace()), str::parse)?,
            name: metadata.name.as_deref().unwrap_or_default().parse()?,
        })
    }
}

/// The metadata that a user writes into a file. Fields that a server fills in are not taken.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct WrittenMeta {
    name: ObjectName,
    #[serde(default)]
    namespace: Option<ObjectName>,
    #[serde(default)]
    labels: BTreeMap<String, String>,
    #[serde(default)]
    annotations: BTreeMap<String, String>,
}

impl WrittenMeta {
    /// Namespace and name.
    pub fn key(&self) -> ObjectKey {
        let namespace = self.namespace.clone();
        ObjectKey {
            namespace: namespace.unwrap_or_else(ObjectName::default_namespace),
            name: self.name.clone(),
        }
    }
}

impl From<WrittenMeta> for ObjectMeta {
    fn from(written: WrittenMeta) -> Self {
        let key = written.key();
        let some = |map: BTreeMap<String, String>| (!map.is_empty()).then_some(map);
        Self {
            name: Some(key.name.into()),
            namespace: Some(key.namespace.into()),
            labels: some(written.labels),
            annotations: some(written.annotations),
            ..Self::default()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_labels_are_names() {
        assert!("web-1".parse::<ObjectName>().is_ok());
        for bad in ["", "-a", "a-", "A", "a.b", "a/b", &"x".repeat(64)] {
            assert!(bad.parse::<ObjectName>().is_err(), "{bad}");
        }
    }

    #[test]
    fn object_without_namespace_is_in_default() {
        let meta = |name: Option<&str>| ObjectMeta {
            name: name.map(str::to_owned),
            ..ObjectMeta::default()
        };
        let key = ObjectKey::of(&meta(Some("web"))).expect("named");
        assert_eq!(key.to_string(), "default/web");
        assert!(ObjectKey::of(&meta(Some("a.b"))).is_err());
        assert!(ObjectKey::of(&meta(None)).is_err());
    }
}
