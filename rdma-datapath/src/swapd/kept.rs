//! The kept document: the last one taken, on the noswap tmpfs beside the tables, so that the next
//! engine process needs no agent.

use std::fs;
use std::io;
use std::path::Path;

use dynamicswap_proto::common::v1::SwapDeviceDocument;
use dynamicswap_proto::daemon::v1::KeptDocument;
use prost::Message;
use thiserror::Error;

/// Why the document could not be kept or read.
#[derive(Debug, Error)]
pub enum KeptError {
    /// The host's answer.
    #[error("{action} the kept document {path}")]
    Host {
        /// What was tried.
        action: &'static str,
        /// With which file.
        path: String,
        /// The host's answer.
        #[source]
        source: io::Error,
    },
    /// The bytes are no document.
    #[error("the kept document {path} is damaged: the agent has to send it again")]
    Damaged {
        /// The file.
        path: String,
        /// What is wrong.
        #[source]
        source: prost::DecodeError,
    },
}

/// Reads it; `None` if none was ever taken.
///
/// # Errors
/// [`KeptError`].
pub fn load(path: &Path) -> Result<Option<KeptDocument>, KeptError> {
    let bytes = match fs::read(path) {
        Ok(bytes) => bytes,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(host("read", path, error)),
    };
    let document = KeptDocument::decode(bytes.as_slice()).map_err(|source| KeptError::Damaged {
        path: path.display().to_string(),
        source,
    })?;
    Ok(Some(document))
}

/// Replaces it: whoever reads sees the old one or the new one, whole.
///
/// # Errors
/// [`KeptError`]; the old one then stays.
pub fn store(path: &Path, document: &KeptDocument) -> Result<(), KeptError> {
    let new = path.with_extension("new");
    fs::write(&new, document.encode_to_vec())
        .and_then(|()| fs::rename(&new, path))
        .map_err(|error| host("write", path, error))
}

/// The newest of the kept documents that `apply` takes, told of those that it does not take. An
/// engine that died while it was being given one has left it here unproven, with the one before it.
pub fn put_in_force(
    mut kept: KeptDocument,
    mut apply: impl FnMut(&SwapDeviceDocument, &[String]) -> Result<(), String>,
) -> KeptDocument {
    while let Some(document) = &kept.document
        && let Err(error) = apply(document, &kept.server_nodes)
    {
        let generation = document.generation;
        tracing::error!("the kept document of generation {generation} is not in force: {error}");
        match kept.fallback.take() {
            Some(before) => kept = *before,
            None => kept.document = None,
        }
    }
    kept
}

fn host(action: &'static str, path: &Path, source: io::Error) -> KeptError {
    KeptError::Host {
        action,
        path: path.display().to_string(),
        source,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn kept(generation: u64, fallback: Option<KeptDocument>) -> KeptDocument {
        KeptDocument {
            document: Some(SwapDeviceDocument {
                generation,
                ..SwapDeviceDocument::default()
            }),
            server_nodes: vec!["a".to_owned()],
            fallback: fallback.map(Box::new),
        }
    }

    #[test]
    fn document_that_is_refused_gives_way_to_the_one_before() {
        let refuse_from = |generation| {
            move |document: &SwapDeviceDocument, _: &[String]| {
                let refused = document.generation >= generation;
                if refused {
                    Err("too new".to_owned())
                } else {
                    Ok(())
                }
            }
        };
        let both = kept(7, Some(kept(6, None)));
        assert_eq!(put_in_force(both.clone(), refuse_from(8)), both);
        assert_eq!(put_in_force(both.clone(), refuse_from(7)), kept(6, None));
        assert_eq!(put_in_force(both, refuse_from(6)).document, None);
        let none = KeptDocument::default();
        assert_eq!(put_in_force(none.clone(), refuse_from(0)), none);
    }

    #[test]
    fn next_engine_reads_the_last_document() {
        let directory = tempfile::tempdir().expect("a directory");
        let path = directory.path().join("document");
        assert_eq!(load(&path).expect("none yet"), None);
        for generation in [1, 2] {
            let kept = kept(generation, None);
            store(&path, &kept).expect("kept");
            assert_eq!(load(&path).expect("read"), Some(kept));
        }
    }

    #[test]
    fn damaged_document_is_named() {
        let directory = tempfile::tempdir().expect("a directory");
        let path = directory.path().join("document");
        fs::write(&path, [0xff; 3]).expect("written");
        let error = load(&path).expect_err("damaged");
        assert!(error.to_string().contains("document"), "{error}");
    }
}
