//! What nodes boot: kernel, initramfs and root file system with Kubernetes' programs for a node,
//! made once and kept; and the drives that are made for each cluster.

use std::fs;
use std::hash::{DefaultHasher, Hash as _, Hasher as _};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context as _, Result, ensure};
use dynamicswap_cli::failure::Refusal;

use crate::programs::{NODE, Programs};

const BUILD: &str = include_str!("../node/build.sh");
/// Files of the recipe, by name.
const RECIPE: [(&str, &str); 8] = [
    ("early-init", include_str!("../node/early-init")),
    ("node-network", include_str!("../node/node-network")),
    ("containerd.toml", include_str!("../node/containerd.toml")),
    ("kubelet.yaml", include_str!("../node/kubelet.yaml")),
    (
        "node-network.service",
        include_str!("../node/node-network.service"),
    ),
    (
        "containerd.service",
        include_str!("../node/containerd.service"),
    ),
    ("kubelet.service", include_str!("../node/kubelet.service")),
    (
        "kube-proxy.service",
        include_str!("../node/kube-proxy.service"),
    ),
];

/// What a file system takes beside the files in it, at most: a tenth, and 16 MiB.
const DRIVE_OVERHEAD: u64 = 16 << 20;

/// Files that nodes boot from.
#[derive(Debug, Clone)]
pub struct Image {
    kept: PathBuf,
    programs: PathBuf,
}

impl Image {
    /// The kept image, made if it is not there: a minute or two. Builds its programs if they are
    /// not there.
    ///
    /// # Errors
    /// With the step that failed.
    pub fn prepare() -> Result<Self> {
        let programs = Programs::prepare(&NODE)?;
        let kept = programs
            .folder()
            .with_file_name(format!("node-{}", version()));
        if !kept.exists() {
            eprintln!(
                "making the nodes' image in {} (a minute or two)",
                kept.display()
            );
            make(&kept, &programs)?;
        }
        Ok(Self {
            kept,
            programs: programs.folder(),
        })
    }

    /// The kernel.
    #[must_use]
    pub fn kernel(&self) -> PathBuf {
        self.kept.join("vmlinuz")
    }

    /// The initramfs.
    #[must_use]
    pub fn initrd(&self) -> PathBuf {
        self.kept.join("initrd.gz")
    }

    /// The root file system; nodes must not write to it.
    #[must_use]
    pub fn root(&self) -> PathBuf {
        self.kept.join("root.ext4")
    }

    /// The archive of the image that every pod's first container is of.
    #[must_use]
    pub fn sandbox(&self) -> PathBuf {
        self.kept.join("sandbox.tar")
    }

    /// A program that nodes run, to be run here.
    #[must_use]
    pub fn program(&self, name: &str) -> PathBuf {
        self.programs.join(name)
    }
}

/// The recipe's name. It stands below the programs' folder, which has theirs.
fn version() -> String {
    let mut hasher = DefaultHasher::new();
    (BUILD, RECIPE).hash(&mut hasher);
    format!("{:016x}", hasher.finish())
}

fn make(kept: &Path, programs: &Programs) -> Result<()> {
    let fresh = kept.with_extension("new");
    if fresh.exists() {
        fs::remove_dir_all(&fresh).context("cannot remove a half-made image")?;
    }
    let recipe = fresh.join("recipe");
    fs::create_dir_all(&recipe).context("cannot make the image's folder")?;
    for (name, text) in RECIPE {
        fs::write(recipe.join(name), text).with_context(|| format!("cannot write {name}"))?;
    }
    let script = recipe.join("build.sh");
    fs::write(&script, BUILD).context("cannot write build.sh")?;
    run(Command::new("bash")
        .arg(&script)
        .arg(&fresh)
        .arg(programs.folder()))?;
    fs::rename(&fresh, kept).context("cannot name the image")
}

/// Makes a drive at `drive` with the files of `folder` and room for `more` bytes.
///
/// # Errors
/// With the step that failed.
pub fn make_drive(folder: &Path, drive: &Path, more: u64) -> Result<()> {
    let size = size_of(folder)? + more;
    let file =
        fs::File::create(drive).and_then(|file| file.set_len(size + size / 10 + DRIVE_OVERHEAD));
    file.with_context(|| format!("cannot make {}", drive.display()))?;
    run(Command::new("mke2fs")
        .args(["-q", "-F", "-t", "ext4", "-d"])
        .arg(folder)
        .arg(drive))
}

/// The image archives of a folder, in the order of their names.
///
/// # Errors
/// A refusal if there is none.
pub fn archives(folder: &Path) -> Result<Vec<PathBuf>> {
    let entries = fs::read_dir(folder).map_err(|error| {
        Refusal::error(format!(
            "cannot read --images {}: {error}",
            folder.display()
        ))
    })?;
    let is_archive = |path: &PathBuf| path.extension().is_some_and(|kind| kind == "tar");
    let paths = entries.flatten().map(|entry| entry.path());
    let mut archives: Vec<PathBuf> = paths.filter(is_archive).collect();
    if archives.is_empty() {
        return Err(Refusal::error(format!(
            "--images {}: there is no image archive (*.tar) in it",
            folder.display()
        )));
    }
    archives.sort();
    Ok(archives)
}

/// Bytes of the files in a folder and below it.
fn size_of(folder: &Path) -> Result<u64> {
    let entries =
        fs::read_dir(folder).with_context(|| format!("cannot read {}", folder.display()))?;
    let mut size = 0;
    for entry in entries {
        let entry = entry.with_context(|| format!("cannot read {}", folder.display()))?;
        let facts = entry
            .metadata()
            .with_context(|| format!("cannot look at {}", entry.path().display()))?;
        size += if facts.is_dir() {
            size_of(&entry.path())?
        } else {
            facts.len()
        };
    }
    Ok(size)
}

/// Runs a program to its end.
///
/// # Errors
/// With what it says, if it fails.
pub fn run(command: &mut Command) -> Result<()> {
    let name = command.get_program().to_string_lossy().into_owned();
    let output = command
        .stdin(Stdio::null())
        .output()
        .with_context(|| format!("cannot start {name}"))?;
    ensure!(
        output.status.success(),
        "{name} ended with {}: {}",
        output.status,
        String::from_utf8_lossy(&output.stderr)
    );
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn folder_without_archives_is_refused() {
        let folder = tempfile::tempdir().expect("a folder");
        let refused = archives(folder.path()).expect_err("empty");
        assert!(refused.to_string().contains("no image archive"));
        fs::write(folder.path().join("a.tar"), [0; 1000]).expect("written");
        let found = archives(folder.path()).expect("an archive");
        assert_eq!(found, [folder.path().join("a.tar")]);
        assert_eq!(size_of(folder.path()).expect("readable"), 1000);
    }

    #[test]
    fn every_unit_that_the_script_enables_is_in_the_recipe() {
        let line = BUILD
            .lines()
            .find_map(|line| line.strip_prefix("for unit in node-"));
        let units = line.expect("the units").trim_end_matches("; do");
        for unit in format!("node-{units}").split(' ') {
            let file = format!("{unit}.service");
            assert!(RECIPE.iter().any(|(name, _)| *name == file), "{file}");
        }
    }
}
