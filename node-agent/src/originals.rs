//! What limits were before the agent first changed them, and which guards it has set where there were
//! none: on disk before each change, so that a restarted agent, or `dynamicswap-agent restore`, can put
//! them back.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::Write as _;
use std::path::{Component, Path, PathBuf};

use dynamicswap_policy::SwapLimit;
use dynamicswap_types::Bytes;
use serde::{Deserialize, Serialize};
use thiserror::Error;

use crate::cgroup::{CgroupError, SwapLimits};

/// Where the kernel tells one boot from another.
const BOOT_ID: &str = "/proc/sys/kernel/random/boot_id";

/// Why limits are not noted or not put back.
#[derive(Debug, Error)]
pub enum OriginalsError {
    /// The state directory.
    #[error("cannot {what} the original limits {}", path.display())]
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
        "the original limits {} are damaged: remove the file; containers that were let out keep \
         their memory.swap.max and memory.high until they end",
        path.display()
    )]
    Damaged {
        /// The file.
        path: PathBuf,
    },
    /// A cgroup's file.
    #[error("a limit is not put back")]
    Cgroup(#[from] CgroupError),
}

/// The file's form. Limits are bytes in decimal, or `max`; guards are bytes.
#[derive(Debug, Serialize, Deserialize)]
struct Content {
    boot_id: String,
    limits: BTreeMap<PathBuf, String>,
    #[serde(default)]
    guards: BTreeMap<PathBuf, u64>,
}

/// What is noted.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
struct Noted {
    limits: BTreeMap<PathBuf, SwapLimit>,
    guards: BTreeMap<PathBuf, Bytes>,
}

/// The original limits and their file.
#[derive(Debug)]
pub struct Originals {
    path: PathBuf,
    boot_id: String,
    noted: Noted,
}

impl Originals {
    /// Reads what is kept in `state_dir`. What another boot of the host has left is forgotten:
    /// its cgroups are gone.
    ///
    /// # Errors
    /// [`OriginalsError`] if the file cannot be read or holds something else.
    pub fn load(state_dir: &Path) -> Result<Self, OriginalsError> {
        let boot_id = fs::read_to_string(BOOT_ID).unwrap_or_default();
        Self::load_in(state_dir, boot_id.trim())
    }

    fn load_in(state_dir: &Path, boot_id: &str) -> Result<Self, OriginalsError> {
        let path = state_dir.join("swap-limits.json");
        let noted = match fs::read(&path) {
            Ok(bytes) => decode(&bytes, boot_id)
                .ok_or_else(|| OriginalsError::Damaged { path: path.clone() })?,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Noted::default(),
            Err(source) => {
                return Err(OriginalsError::Io {
                    what: "read",
                    path,
                    source,
                });
            }
        };
        Ok(Self {
            path,
            boot_id: boot_id.to_owned(),
            noted,
        })
    }

    /// A cgroup's limit before it was first changed.
    #[must_use]
    pub fn of(&self, cgroup: &Path) -> Option<SwapLimit> {
        self.noted.limits.get(cgroup).copied()
    }

    /// The `memory.high` that a cgroup was last given.
    #[must_use]
    pub fn guard_of(&self, cgroup: &Path) -> Option<Bytes> {
        self.noted.guards.get(cgroup).copied()
    }

    /// All of them.
    #[must_use]
    pub const fn guards(&self) -> &BTreeMap<PathBuf, Bytes> {
        &self.noted.guards
    }

    /// Whether nothing is changed.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.noted == Noted::default()
    }

    /// Notes limits that are about to be changed, on disk first. One that is noted already stays
    /// as it is.
    ///
    /// # Errors
    /// [`OriginalsError::Io`]; nothing is noted then, and nothing may be changed.
    pub fn note(
        &mut self,
        limits: impl IntoIterator<Item = (PathBuf, SwapLimit)>,
    ) -> Result<(), OriginalsError> {
        let mut limits = limits.into_iter().peekable();
        if limits.peek().is_none() {
            return Ok(());
        }
        let mut noted = self.noted.clone();
        for (cgroup, limit) in limits {
            noted.limits.entry(cgroup).or_insert(limit);
        }
        self.replace(noted)
    }

    /// Notes guards that are about to be set, or lifted where there is none.
    ///
    /// # Errors
    /// [`OriginalsError::Io`]; nothing is noted then, and nothing may be changed.
    pub fn note_guards(
        &mut self,
        guards: impl IntoIterator<Item = (PathBuf, Option<Bytes>)>,
    ) -> Result<(), OriginalsError> {
        let mut guards = guards.into_iter().peekable();
        if guards.peek().is_none() {
            return Ok(());
        }
        let mut noted = self.noted.clone();
        for (cgroup, guard) in guards {
            match guard {
                Some(guard) => noted.guards.insert(cgroup, guard),
                None => noted.guards.remove(&cgroup),
            };
        }
        self.replace(noted)
    }

    /// Forgets what `keep` does not want.
    ///
    /// # Errors
    /// [`OriginalsError::Io`]; nothing is forgotten then.
    pub fn retain(&mut self, keep: impl Fn(&Path) -> bool) -> Result<(), OriginalsError> {
        if self.noted.limits.keys().all(|cgroup| keep(cgroup)) {
            return Ok(());
        }
        let mut kept = self.noted.clone();
        kept.limits.retain(|cgroup, _| keep(cgroup));
        self.replace(kept)
    }

    /// Puts each limit of which `which` is true back, lifts every guard that is still the agent's, and
    /// forgets them; how many there were. A cgroup that is gone needs nothing.
    ///
    /// # Errors
    /// The first that could not be put back, after all others were.
    pub fn restore(
        &mut self,
        cgroups: &SwapLimits,
        which: impl Fn(&Path) -> bool,
    ) -> Result<usize, OriginalsError> {
        let (mut restored, mut left) = (0, Noted::default());
        let mut first = None;
        for (cgroup, guard) in &self.noted.guards {
            let lifted = cgroups.held_at(cgroup).and_then(|[high, _]| {
                let is_own = high == Some(*guard);
                // What somebody else has written since is theirs.
                is_own.then(|| cgroups.set_high(cgroup, None)).transpose()
            });
            match lifted {
                Ok(lifted) => restored += usize::from(lifted.is_some()),
                Err(error) if error.is_gone() => {}
                Err(error) => {
                    left.guards.insert(cgroup.clone(), *guard);
                    first = first.or(Some(error));
                }
            }
        }
        for (cgroup, limit) in &self.noted.limits {
            if !which(cgroup) {
                left.limits.insert(cgroup.clone(), *limit);
                continue;
            }
            match cgroups.set(cgroup, *limit) {
                Ok(()) => restored += 1,
                Err(error) if error.is_gone() => {}
                Err(error) => {
                    left.limits.insert(cgroup.clone(), *limit);
                    first = first.or(Some(error));
                }
            }
        }
        self.replace(left)?;
        first.map_or(Ok(restored), |error| Err(error.into()))
    }

    fn replace(&mut self, noted: Noted) -> Result<(), OriginalsError> {
        if noted == self.noted {
            return Ok(());
        }
        let content = encode(&self.boot_id, &noted);
        self.write(&content).map_err(|source| OriginalsError::Io {
            what: "write",
            path: self.path.clone(),
            source,
        })?;
        self.noted = noted;
        Ok(())
    }

    /// Writes to another name and renames, so that nobody reads half of it.
    fn write(&self, content: &Content) -> std::io::Result<()> {
        let new = self.path.with_extension("new");
        let mut file = File::create(&new)?;
        file.write_all(&serde_json::to_vec_pretty(content)?)?;
        file.sync_all()?;
        fs::rename(&new, &self.path)?;
        // The name is part of what must survive.
        let directory = self.path.parent().unwrap_or(Path::new("."));
        File::open(directory)?.sync_all()
    }
}

fn encode(boot_id: &str, noted: &Noted) -> Content {
    let text = |limit: &SwapLimit| match limit {
        SwapLimit::Bytes(bytes) => bytes.get().to_string(),
        SwapLimit::Max => "max".to_owned(),
    };
    Content {
        boot_id: boot_id.to_owned(),
        limits: noted
            .limits
            .iter()
            .map(|(cgroup, limit)| (cgroup.clone(), text(limit)))
            .collect(),
        guards: noted
            .guards
            .iter()
            .map(|(cgroup, guard)| (cgroup.clone(), guard.get()))
            .collect(),
    }
}

/// None if it is no such file.
fn decode(bytes: &[u8], boot_id: &str) -> Option<Noted> {
    let content: Content = serde_json::from_slice(bytes).ok()?;
    if content.boot_id != boot_id {
        return Some(Noted::default());
    }
    // What is written to must lie below the root.
    let is_below = |cgroup: &Path| {
        let mut parts = cgroup.components();
        parts.all(|part| matches!(part, Component::Normal(_)))
    };
    let limit = |(cgroup, text): (PathBuf, String)| {
        let limit = match &*text {
            "max" => SwapLimit::Max,
            number => SwapLimit::Bytes(Bytes::new(number.parse().ok()?)),
        };
        is_below(&cgroup).then_some((cgroup, limit))
    };
    let guard =
        |(cgroup, guard): (PathBuf, u64)| is_below(&cgroup).then_some((cgroup, Bytes::new(guard)));
    Some(Noted {
        limits: content
            .limits
            .into_iter()
            .map(limit)
            .collect::<Option<_>>()?,
        guards: content
            .guards
            .into_iter()
            .map(guard)
            .collect::<Option<_>>()?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cgroup::Layout;
    use crate::cgroup::fixture::{Files, Host};

    fn limit(mib: u32) -> SwapLimit {
        SwapLimit::Bytes(Bytes::from_mib(mib))
    }

    fn noted(directory: &Path) -> Originals {
        let mut originals = Originals::load_in(directory, "boot").expect("empty");
        let limits = [("web", limit(3)), ("db", SwapLimit::Max)];
        let limits = limits.map(|(cgroup, limit)| (PathBuf::from(cgroup), limit));
        originals.note(limits).expect("written");
        originals
    }

    #[test]
    fn originals_outlive_the_agent_and_the_first_one_stays() {
        let directory = tempfile::tempdir().expect("a directory");
        let mut originals = noted(directory.path());
        let again = [(PathBuf::from("web"), limit(9))];
        originals.note(again).expect("written");
        let originals = Originals::load_in(directory.path(), "boot").expect("kept");
        assert_eq!(originals.of(Path::new("web")), Some(limit(3)));
        assert_eq!(originals.of(Path::new("db")), Some(SwapLimit::Max));
        let other = Originals::load_in(directory.path(), "another").expect("readable");
        assert_eq!(other.of(Path::new("web")), None, "of another boot");
    }

    #[test]
    fn restore_puts_back_what_is_still_there_and_forgets_all() {
        let host = Host::unified();
        let files = Files {
            swap_max: "max",
            ..Files::default()
        };
        host.container("web", files);
        let limits = Layout::probe(host.root()).expect("one").swap_limits();
        let limits = limits.expect("cgroup v2");
        let directory = tempfile::tempdir().expect("a directory");
        let mut originals = noted(directory.path());
        assert_eq!(originals.restore(&limits, |_| true).expect("restored"), 1);
        assert_eq!(host.read("web/memory.swap.max"), "3145728");
        assert!(
            !host.root().join("db").exists(),
            "it is gone and stays gone"
        );
        assert_eq!(
            originals.restore(&limits, |_| true).expect("nothing left"),
            0
        );
        let kept = Originals::load_in(directory.path(), "boot").expect("kept");
        assert!(kept.is_empty());
    }

    #[test]
    fn guards_are_lifted_unless_somebody_else_has_written_since() {
        let host = Host::unified();
        let mib = Bytes::from_mib;
        for (name, high) in [("web", mib(60)), ("db", mib(50))] {
            let files = Files {
                high: Some(high),
                max: Some(mib(64)),
                ..Files::default()
            };
            host.container(name, files);
        }
        let limits = Layout::probe(host.root()).expect("one").swap_limits();
        let limits = limits.expect("cgroup v2");
        let directory = tempfile::tempdir().expect("a directory");
        let load = || Originals::load_in(directory.path(), "boot").expect("readable");
        let guards = ["web", "db", "gone"].map(|name| (PathBuf::from(name), Some(mib(60))));
        load().note_guards(guards).expect("written");
        let mut originals = load();
        assert_eq!(originals.guard_of(Path::new("web")), Some(mib(60)));
        assert_eq!(originals.restore(&limits, |_| false).expect("lifted"), 1);
        assert_eq!(host.read("web/memory.high"), "max");
        assert_eq!(host.read("db/memory.high"), (50 << 20).to_string());
        assert!(load().is_empty());
    }

    #[test]
    fn damaged_file_is_named_and_writes_nowhere() {
        let directory = tempfile::tempdir().expect("a directory");
        let path = directory.path().join("swap-limits.json");
        let entry = |cgroup: &str, limit: &str| {
            format!(r#"{{"boot_id":"boot","limits":{{"{cgroup}":"{limit}"}}}}"#)
        };
        for text in [
            "{".to_owned(),
            entry("web", "many"),
            entry("../web", "max"),
            entry("/etc", "max"),
        ] {
            fs::write(&path, &text).expect("written");
            let error = Originals::load_in(directory.path(), "boot").expect_err("damaged");
            assert!(error.to_string().contains("swap-limits.json"), "{error}");
        }
    }

    #[test]
    fn what_cannot_be_noted_is_not_noted() {
        let directory = tempfile::tempdir().expect("a directory");
        let mut originals = noted(directory.path());
        fs::remove_dir_all(directory.path()).expect("was there");
        let more = [(PathBuf::from("more"), SwapLimit::Max)];
        assert!(originals.note(more).is_err());
        assert_eq!(originals.of(Path::new("more")), None);
    }
}
