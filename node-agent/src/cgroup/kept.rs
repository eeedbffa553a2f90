//! Kernel files that every look reads, kept open: to open one takes as long as to read it.
//!
//! Owns the open files. The kernel prints such a file anew whenever it is read from its beginning, and an
//! open one keeps nobody from removing its cgroup.

use std::collections::BTreeMap;
use std::fs::File;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use rustix::fs::fstatfs;

use super::{CgroupError, open, text_of};
use crate::limits::KEPT_FILES_MAX;

/// Filesystems whose files cannot be read any more once they are removed.
const OF_KERNEL: [libc::c_long; 3] = [
    libc::CGROUP2_SUPER_MAGIC,
    libc::CGROUP_SUPER_MAGIC,
    libc::PROC_SUPER_MAGIC,
];

/// A file, and whether it was read since the last [`KeptFiles::close_unread`].
#[derive(Debug)]
struct Kept {
    file: File,
    read: bool,
    /// A removed one says so itself.
    of_kernel: bool,
}

impl Kept {
    /// What stands in it; nothing if it was removed or cannot be read.
    fn text(&self, path: &Path) -> Option<String> {
        let is_there = || self.file.metadata().is_ok_and(|file| file.nlink() > 0);
        if self.of_kernel || is_there() {
            text_of(path, &self.file).ok()
        } else {
            None
        }
    }
}

/// Open files by their paths.
#[derive(Debug, Default)]
pub struct KeptFiles {
    files: BTreeMap<PathBuf, Kept>,
}

impl KeptFiles {
    /// What stands in the file now. One that cannot be read any more is opened anew: another cgroup may
    /// have its path.
    ///
    /// # Errors
    /// [`CgroupError::Io`] if it can be neither read nor opened.
    pub(super) fn read_text(&mut self, path: &Path) -> Result<String, CgroupError> {
        if let Some(kept) = self.files.get_mut(path) {
            kept.read = true;
            if let Some(text) = kept.text(path) {
                return Ok(text);
            }
            self.files.remove(path);
        }
        let file = open(path)?;
        let text = text_of(path, &file)?;
        if self.files.len() < KEPT_FILES_MAX {
            let of_kernel = fstatfs(&file).is_ok_and(|it| OF_KERNEL.contains(&it.f_type));
            let kept = Kept {
                file,
                read: true,
                of_kernel,
            };
            self.files.insert(path.to_owned(), kept);
        }
        Ok(text)
    }

    /// Closes what was not read since this was last called: their containers are gone.
    pub fn close_unread(&mut self) {
        self.files
            .retain(|_, kept| std::mem::replace(&mut kept.read, false));
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    fn scratch() -> (tempfile::TempDir, PathBuf) {
        let directory = tempfile::tempdir().expect("a directory");
        let path = directory.path().join("memory.current");
        fs::write(&path, "1\n").expect("written");
        (directory, path)
    }

    #[test]
    fn kept_file_is_read_from_its_beginning_each_time() {
        let (_directory, path) = scratch();
        let mut files = KeptFiles::default();
        for text in ["1\n", "22\n", "3\n"] {
            fs::write(&path, text).expect("written");
            assert_eq!(files.read_text(&path).expect("read"), text);
        }
        assert_eq!(files.files.len(), 1);
    }

    #[test]
    fn file_that_nobody_reads_is_closed_and_one_that_is_gone_is_told() {
        let (_directory, path) = scratch();
        let mut files = KeptFiles::default();
        files.read_text(&path).expect("read");
        files.close_unread();
        assert_eq!(files.files.len(), 1, "it was read since");
        files.close_unread();
        assert_eq!(files.files.len(), 0);
        fs::remove_file(&path).expect("was there");
        assert!(files.read_text(&path).expect_err("gone").is_gone());
    }

    #[test]
    fn more_files_than_may_be_open_are_read_all_the_same() {
        let (directory, _) = scratch();
        let mut files = KeptFiles::default();
        for number in 0..=KEPT_FILES_MAX {
            let path = directory.path().join(number.to_string());
            fs::write(&path, "7\n").expect("written");
            assert_eq!(files.read_text(&path).expect("read"), "7\n");
        }
        assert_eq!(files.files.len(), KEPT_FILES_MAX);
    }
}
