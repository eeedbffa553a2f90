//! YAML documents in, checked policies out; every refusal says where and what to write instead.

use serde::Deserialize;
use serde::de::IgnoredAny;
use serde_saphyr::{Options, Spanned};
use thiserror::Error;

use crate::kind::Kind;
use crate::meta::{API_VERSION, ObjectKey, WrittenMeta};
use crate::policy::{PolicyRuleError, RemoteMemoryPolicy, RemoteMemoryPolicySpec};

/// Longest text that is read: a policy has some hundred bytes.
const YAML_BYTES_MAX: usize = 1 << 20;

/// Why a text is refused. Lines and columns count from 1.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum DocumentError {
    /// Over the limit.
    #[error(
        "the text has {0} bytes, over the limit of {YAML_BYTES_MAX}: apply fewer objects at once"
    )]
    TooLong(usize),
    /// No document at all.
    #[error("there is no object in the text: write at least one {kind}", kind = RemoteMemoryPolicy::KIND)]
    Empty,
    /// No YAML, a field that does not exist, or an impossible value.
    #[error("line {line}, column {column}: {message}")]
    Syntax {
        /// Line of the error.
        line: u64,
        /// Column of the error.
        column: u64,
        /// What is wrong there.
        message: String,
    },
    /// Another group or version.
    #[error("line {line}: apiVersion '{found}' is not known: write {API_VERSION}")]
    ApiVersion {
        /// Line of the apiVersion.
        line: u64,
        /// What stands there.
        found: String,
    },
    /// A kind that is not of this group, or that only the controller writes.
    #[error(
        "line {line}: kind '{found}' {why}: only {kind} objects can be applied",
        kind = RemoteMemoryPolicy::KIND
    )]
    Kind {
        /// Line of the kind.
        line: u64,
        /// What stands there.
        found: String,
        /// Why it is refused.
        why: &'static str,
    },
    /// A rule between fields.
    #[error("line {line}: RemoteMemoryPolicy {name}: {source}")]
    Rule {
        /// Line of the object's kind.
        line: u64,
        /// The object.
        name: ObjectKey,
        /// The rule.
        source: PolicyRuleError,
    },
    /// Two objects of one name in one text.
    #[error("line {line}: RemoteMemoryPolicy {name} stands twice in the text: remove one")]
    Twice {
        /// Line of the second one's kind.
        line: u64,
        /// The name.
        name: ObjectKey,
    },
}

/// The two fields that say what the rest of a document is.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Header {
    api_version: Spanned<String>,
    kind: Spanned<String>,
}

/// A policy as a file has it: what a server fills in is not taken.
#[derive(Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
struct PolicyDocument {
    #[serde(rename = "apiVersion")]
    _api_version: IgnoredAny,
    #[serde(rename = "kind")]
    _kind: IgnoredAny,
    metadata: WrittenMeta,
    spec: RemoteMemoryPolicySpec,
}

/// Reads one or more policies from YAML documents separated by `---`.
///
/// # Errors
/// A [`DocumentError`] for the first thing that is wrong; nothing is taken then.
pub fn parse_policies(yaml: &str) -> Result<Vec<RemoteMemoryPolicy>, DocumentError> {
    if yaml.len() > YAML_BYTES_MAX {
        return Err(DocumentError::TooLong(yaml.len()));
    }
    let headers: Vec<Header> = read(yaml)?;
    if headers.is_empty() {
        return Err(DocumentError::Empty);
    }
    headers.iter().try_for_each(check_header)?;
    let documents: Vec<PolicyDocument> = read(yaml)?;
    let mut policies: Vec<RemoteMemoryPolicy> = Vec::new();
    let mut keys = std::collections::BTreeSet::new();
    for (document, header) in documents.into_iter().zip(&headers) {
        let line = header.kind.referenced.line();
        let name = document.metadata.key();
        let rule = document.spec.check();
        rule.map_err(|source| DocumentError::Rule {
            line,
            name: name.clone(),
            source,
        })?;
        if !keys.insert(name.clone()) {
            return Err(DocumentError::Twice { line, name });
        }
        policies.push(RemoteMemoryPolicy {
            metadata: document.metadata.into(),
            spec: document.spec,
            status: None,
        });
    }
    Ok(policies)
}

/// Strict YAML: no snippets in messages (the caller has the text), `no` and `on` are words.
fn options() -> Options {
    serde_saphyr::options! {
        with_snippet: false,
        strict_booleans: true,
    }
}

fn read<T: for<'de> Deserialize<'de>>(yaml: &str) -> Result<Vec<T>, DocumentError> {
    serde_saphyr::from_multiple_with_options(yaml, options()).map_err(|error| {
        let location = error.location();
        DocumentError::Syntax {
            line: location.map_or(1, |location| location.line()),
            column: location.map_or(1, |location| location.column()),
            message: message_of(&error),
        }
    })
}

/// The parser's own sentence, without the place that [`DocumentError::Syntax`] says already,
/// and in words that say what to write where its own do not.
fn message_of(error: &serde_saphyr::Error) -> String {
    let full = error.to_string();
    let message = full
        .rsplit_once(" at line ")
        .map_or(&*full, |parts| parts.0);
    if let Some(rest) = message.strip_prefix("duplicate mapping key: ") {
        let key = rest.split(',').next().unwrap_or(rest);
        return format!("'{key}' stands twice: remove one");
    }
    if message.starts_with("invalid boolean") {
        return "this is neither true nor false: write one of them".to_owned();
    }
    if message.starts_with("expected mapping start") {
        return "a value stands where fields belong: write 'name: value' lines".to_owned();
    }
    message.replace('\n', " ")
}

fn check_header(header: &Header) -> Result<(), DocumentError> {
    if header.api_version.value != API_VERSION {
        return Err(DocumentError::ApiVersion {
            line: header.api_version.referenced.line(),
            found: header.api_version.value.clone(),
        });
    }
    let found = &header.kind.value;
    let why = match Kind::ALL.iter().find(|kind| kind.name() == found) {
        Some(Kind::RemoteMemoryPolicy) => return Ok(()),
        Some(_) => "is written by the controller alone",
        None => "does not exist in this group",
    };
    Err(DocumentError::Kind {
        line: header.kind.referenced.line(),
        found: found.clone(),
        why,
    })
}
