//! The kept document: the last one taken, on disk, so that a restarted agent goes on without the
//! controller.

use std::fs::{self, File};
use std::io::Write as _;
use std::path::{Path, PathBuf};

use dynamicswap_proto::control::v1::DesiredDocument;
use prost::Message as _;
use thiserror::Error;

/// Why a document is not taken or kept.
#[derive(Debug, Error)]
pub enum DocumentError {
    /// Older than the kept one.
    #[error("generation {offered} is older than {kept}, which is kept: it is refused")]
    Old {
        /// The refused document's.
        offered: u64,
        /// The kept one's.
        kept: u64,
    },
    /// The state directory.
    #[error("cannot {what} the kept document {}", path.display())]
    Io {
        /// The deed.
        what: &'static str,
        /// The file.
        path: PathBuf,
        /// What the host says.
        #[source]
        source: std::io::Error,
    },
    /// The file holds something else.
    #[error("{} holds no document: remove it, the controller sends a new one", path.display())]
    Malformed {
        /// The file.
        path: PathBuf,
    },
}

/// The document in force and its file.
#[derive(Debug)]
pub struct KeptDocument {
    path: PathBuf,
    current: DesiredDocument,
    /// Documents refused because they were older.
    pub refused: u64,
}

impl KeptDocument {
    /// Reads what is kept in `state_dir`; without a file, a document of generation 0.
    ///
    /// # Errors
    /// [`DocumentError`] if the file cannot be read or holds something else.
    pub fn load(state_dir: &Path) -> Result<Self, DocumentError> {
        let path = state_dir.join("document.pb");
        let current = match fs::read(&path) {
            Ok(bytes) => DesiredDocument::decode(&bytes[..])
                .map_err(|_| DocumentError::Malformed { path: path.clone() })?,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
                DesiredDocument::default()
            }
            Err(source) => {
                return Err(DocumentError::Io {
                    what: "read",
                    path,
                    source,
                });
            }
        };
        Ok(Self {
            path,
            current,
            refused: 0,
        })
    }

    /// The document in force.
    #[must_use]
    pub fn current(&self) -> &DesiredDocument {
        &self.current
    }

    /// Takes a document: on disk first, then in force. True if it is another one than before.
    ///
    /// # Errors
    /// [`DocumentError::Old`], counted; or the host's.
    pub fn take(&mut self, document: DesiredDocument) -> Result<bool, DocumentError> {
        let (offered, kept) = (document.generation, self.current.generation);
        if offered < kept {
            self.refused += 1;
            return Err(DocumentError::Old { offered, kept });
        }
        if document == self.current {
            return Ok(false);
        }
        self.write(&document)?;
        self.current = document;
        Ok(true)
    }

    /// Writes to another name and renames, so that no restart reads half of it.
    fn write(&self, document: &DesiredDocument) -> Result<(), DocumentError> {
        let new = self.path.with_extension("new");
        let written = File::create(&new)
            .and_then(|mut file| {
                file.write_all(&document.encode_to_vec())?;
                file.sync_all()
            })
            .and_then(|()| fs::rename(&new, &self.path));
        written.map_err(|source| DocumentError::Io {
            what: "write",
            path: self.path.clone(),
            source,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn document(generation: u64) -> DesiredDocument {
        DesiredDocument {
            generation,
            term: 1,
            ..DesiredDocument::default()
        }
    }

    #[test]
    fn document_outlives_the_agent_and_an_older_one_is_refused() {
        let directory = tempfile::tempdir().expect("a directory");
        let mut kept = KeptDocument::load(directory.path()).expect("empty");
        assert_eq!(kept.current().generation, 0);
        assert!(kept.take(document(5)).expect("newer"));
        assert!(!kept.take(document(5)).expect("the same"));
        assert!(matches!(
            kept.take(document(4)),
            Err(DocumentError::Old {
                offered: 4,
                kept: 5
            })
        ));
        assert_eq!(kept.refused, 1);
        let kept = KeptDocument::load(directory.path()).expect("kept");
        assert_eq!(kept.current(), &document(5));
    }

    #[test]
    fn file_with_something_else_is_named() {
        let directory = tempfile::tempdir().expect("a directory");
        fs::write(directory.path().join("document.pb"), [0xff; 9]).expect("written");
        let error = KeptDocument::load(directory.path()).expect_err("malformed");
        assert!(error.to_string().contains("document.pb"), "{error}");
    }
}
