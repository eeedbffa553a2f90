//! The kept document: the last one taken, on disk, so that a restarted agent goes on without the
//! controller.
//!
//! The file is 8 bytes of magic, a CRC-64 of the rest, and the document. Half of a document could
//! read as a whole one that grants less: the checksum tells.

use std::fs::{self, File};
use std::io::Write as _;
use std::path::{Path, PathBuf};

use crc_fast::CrcAlgorithm;
use dynamicswap_proto::control::v1::DesiredDocument;
use prost::Message as _;
use thiserror::Error;

const MAGIC: &[u8; 8] = b"DYNSWAPd";
const HEADER_BYTES: usize = 16;

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
    /// Of a controller that no longer leads.
    #[error(
        "the document is of term {offered}, and one of term {kept} was taken already: another \
         controller leads, this one's documents are refused"
    )]
    Deposed {
        /// The refused document's term.
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
    #[error(
        "the kept document {} is damaged: remove it, the controller sends a new one",
        path.display()
    )]
    Damaged {
        /// The file.
        path: PathBuf,
    },
}

/// The document in force and its file.
#[derive(Debug)]
pub struct KeptDocument {
    path: PathBuf,
    current: DesiredDocument,
    refused: u64,
}

impl KeptDocument {
    /// Reads what is kept in `state_dir`; without a file, a document of generation 0.
    ///
    /// # Errors
    /// [`DocumentError`] if the file cannot be read or holds something else.
    pub fn load(state_dir: &Path) -> Result<Self, DocumentError> {
        let path = state_dir.join("document");
        let current = match fs::read(&path) {
            Ok(bytes) => {
                decode(&bytes).ok_or_else(|| DocumentError::Damaged { path: path.clone() })?
            }
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

    /// A sentence about documents that were refused, if any were.
    #[must_use]
    pub fn warning(&self) -> Option<String> {
        let (refused, kept) = (self.refused, self.current.generation);
        (refused > 0).then(|| {
            format!("documents older than generation {kept}, or of an older term, were refused: {refused}")
        })
    }

    /// Takes a document: on disk first, then in force. True if it is another one than before.
    ///
    /// # Errors
    /// [`DocumentError::Old`], counted; or the host's.
    pub fn take(&mut self, document: DesiredDocument) -> Result<bool, DocumentError> {
        let (offered, kept) = (document.term, self.current.term);
        if offered < kept {
            self.refused += 1;
            return Err(DocumentError::Deposed { offered, kept });
        }
        let (offered, kept) = (document.generation, self.current.generation);
        if offered < kept {
            self.refused += 1;
            return Err(DocumentError::Old { offered, kept });
        }
        if document == self.current {
            return Ok(false);
        }
        self.write(&document).map_err(|source| DocumentError::Io {
            what: "write",
            path: self.path.clone(),
            source,
        })?;
        self.current = document;
        Ok(true)
    }

    /// Writes to another name and renames, so that no restart reads half of it.
    fn write(&self, document: &DesiredDocument) -> std::io::Result<()> {
        let new = self.path.with_extension("new");
        let mut file = File::create(&new)?;
        file.write_all(&encode(document))?;
        file.sync_all()?;
        fs::rename(&new, &self.path)?;
        // The name is part of what must survive.
        let directory = self.path.parent().unwrap_or(Path::new("."));
        File::open(directory)?.sync_all()
    }
}

fn checksum(body: &[u8]) -> [u8; 8] {
    crc_fast::checksum(CrcAlgorithm::Crc64Nvme, body).to_le_bytes()
}

fn encode(document: &DesiredDocument) -> Vec<u8> {
    let body = document.encode_to_vec();
    [&MAGIC[..], &checksum(&body), &body].concat()
}

fn decode(bytes: &[u8]) -> Option<DesiredDocument> {
    let (header, body) = bytes.split_at_checked(HEADER_BYTES)?;
    let whole = header.starts_with(MAGIC) && header.ends_with(&checksum(body));
    whole.then(|| DesiredDocument::decode(body).ok()).flatten()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn document(generation: u64) -> DesiredDocument {
        DesiredDocument {
            generation,
            term: 1,
            policies_json: vec!["{}".to_owned(); 3],
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
        assert_eq!(kept.warning(), None);
        assert!(matches!(
            kept.take(document(4)),
            Err(DocumentError::Old {
                offered: 4,
                kept: 5
            })
        ));
        let warning = kept.warning().expect("one");
        assert!(warning.contains("older than generation 5"), "{warning}");
        assert!(warning.ends_with("were refused: 1"), "{warning}");
        let kept = KeptDocument::load(directory.path()).expect("kept");
        assert_eq!(kept.current(), &document(5));
    }

    #[test]
    fn controller_that_no_longer_leads_is_refused_whatever_its_generation() {
        let directory = tempfile::tempdir().expect("a directory");
        let mut kept = KeptDocument::load(directory.path()).expect("empty");
        let of_term = |term, generation| DesiredDocument {
            term,
            ..document(generation)
        };
        assert!(kept.take(of_term(2, 5)).expect("newer"));
        assert!(matches!(
            kept.take(of_term(1, 6)),
            Err(DocumentError::Deposed {
                offered: 1,
                kept: 2
            })
        ));
        assert!(kept.take(of_term(3, 5)).expect("the same, of a new leader"));
        assert_eq!(kept.current().term, 3);
    }

    #[test]
    fn damage_anywhere_in_the_file_is_noticed_and_the_file_named() {
        let directory = tempfile::tempdir().expect("a directory");
        let path = directory.path().join("document");
        let whole = encode(&document(5));
        let damaged = (0..whole.len()).flat_map(|at| {
            let mut flipped = whole.clone();
            flipped[at] ^= 0x10;
            [flipped, whole[..at].to_vec()]
        });
        for bytes in damaged {
            fs::write(&path, &bytes).expect("written");
            let error = KeptDocument::load(directory.path()).expect_err("damaged");
            let sentence = error.to_string();
            assert!(sentence.contains("document is damaged"), "{sentence}");
        }
    }
}
