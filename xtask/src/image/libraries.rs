//! The layer under dynamic programs: the loader, glibc and rdma-core, out of Debian packages.
//!
//! Packages are fetched by apt into a cache, checked against apt's digests, and unpacked; of each only
//! what the programs can load is taken. Nothing is installed on this machine.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result, bail};

use super::archive::{Entry, digest};
use super::elf;
use crate::exec;

/// Packages that the libraries come from.
const PACKAGES: [&str; 7] = [
    "ibverbs-providers",
    "libc6",
    "libgcc-s1",
    "libibverbs1",
    "libnl-3-200",
    "libnl-route-3-200",
    "librdmacm1",
];
/// What the daemons load by name at run time (`rdma-datapath/src/verbs/library.rs`).
const LOADED: [&str; 2] = ["libibverbs.so.1", "librdmacm.so.1"];
/// What starts every dynamic program.
const LOADER: &str = "ld-linux-x86-64.so.2";
/// Where libraries lie in the image, and in packages before the merge of / and /usr.
const FOLDERS: [&str; 2] = ["usr/lib/x86_64-linux-gnu", "lib/x86_64-linux-gnu"];
/// The drivers of RDMA devices, which libibverbs loads, and the list of them.
const DRIVERS: &str = "usr/lib/x86_64-linux-gnu/libibverbs";
const DRIVER_LIST: &str = "etc/libibverbs.d";

/// The layer's content.
#[derive(Debug)]
pub struct Libraries {
    /// Packages as `name=version`.
    pub packages: Vec<String>,
    /// Files and links.
    pub entries: Vec<Entry>,
    /// Libraries on this machine, by file name.
    found: BTreeMap<String, PathBuf>,
}

/// A package as apt offers it.
#[derive(Debug, PartialEq, Eq)]
struct Offer {
    /// File name: `name_version_architecture.deb`.
    file: String,
    /// SHA-256.
    digest: String,
}

impl Libraries {
    /// Everything that these programs need or may load.
    pub fn fetch(programs: &[PathBuf]) -> Result<Self> {
        let home = std::env::var_os("HOME").context("HOME is not set: packages are kept there")?;
        let cache = Path::new(&home).join(".cache/dynamicswap/packages");
        let offers = download(&cache)?;
        let tree = unpack(&cache, &offers)?;
        let found = closure(&tree, programs)?;
        let mut entries = vec![
            Entry::link("lib", "usr/lib"),
            Entry::link("lib64", FOLDERS[0]),
        ];
        for (name, path) in &found {
            entries.push(Entry::file(&format!("{}/{name}", FOLDERS[0]), 0o755, path)?);
        }
        for folder in [DRIVERS, DRIVER_LIST] {
            for path in files(&tree.join(folder))? {
                let name = file_name(&path);
                entries.push(Entry::file(&format!("{folder}/{name}"), 0o644, &path)?);
            }
        }
        // Whoever passes the libraries on must pass their licences on.
        for package in PACKAGES {
            let path = format!("usr/share/doc/{package}/copyright");
            if tree.join(&path).is_file() {
                entries.push(Entry::file(&path, 0o644, &tree.join(&path))?);
            }
        }
        Ok(Self {
            packages: offers.iter().map(Offer::name_and_version).collect(),
            entries,
            found,
        })
    }

    /// An error if the program does not even print its version with these libraries.
    pub fn check_runs(&self, program: &Path) -> Result<()> {
        let loader = self.found.get(LOADER).context("no loader")?;
        let folders: BTreeSet<&Path> = self
            .found
            .values()
            .filter_map(|path| path.parent())
            .collect();
        let folders: Vec<String> = folders
            .iter()
            .map(|path| path.display().to_string())
            .collect();
        let mut command = Command::new(loader);
        command.args(["--inhibit-cache", "--library-path", &folders.join(":")]);
        command.arg(program).arg("--version");
        let output = command.output();
        let output = output.with_context(|| format!("'{}'", exec::describe(&command)))?;
        if !output.status.success() {
            let reason = String::from_utf8_lossy(&output.stderr).into_owned();
            bail!(
                "{} does not run with the image's libraries: {}",
                program.display(),
                reason.trim()
            );
        }
        Ok(())
    }
}

fn apt(arguments: &[&str]) -> Command {
    let mut command = Command::new("apt-get");
    // As root, apt would download as a user who may not write into the cache.
    command.args(["-qq", "-o", "APT::Sandbox::User=root"]);
    command.args(arguments);
    command
}

/// Fetches those packages that are not in the cache yet.
fn download(cache: &Path) -> Result<Vec<Offer>> {
    std::fs::create_dir_all(cache)
        .with_context(|| format!("{} cannot be made", cache.display()))?;
    let mut command = apt(&["download", "--print-uris"]);
    let output = command.args(PACKAGES).output();
    let output =
        output.context("'apt-get' could not be started: images are made on Debian or Ubuntu")?;
    if !output.status.success() {
        let reason = String::from_utf8_lossy(&output.stderr).into_owned();
        bail!(
            "apt knows not all of {}; run 'apt-get update': {}",
            PACKAGES.join(", "),
            reason.trim()
        );
    }
    let offers = offers_in(&String::from_utf8_lossy(&output.stdout));
    if offers.len() != PACKAGES.len() {
        bail!(
            "apt offers {} packages instead of {}",
            offers.len(),
            PACKAGES.len()
        );
    }
    if offers.iter().any(|offer| !offer.is_in(cache)) {
        let mut command = apt(&["download"]);
        exec::run(command.current_dir(cache).args(PACKAGES))?;
    }
    if let Some(offer) = offers.iter().find(|offer| !offer.is_in(cache)) {
        bail!(
            "{} in {} is not what apt's list says: delete it",
            offer.file,
            cache.display()
        );
    }
    Ok(offers)
}

/// Lines as `'URI' FILE SIZE SHA256:DIGEST`, sorted by file.
fn offers_in(text: &str) -> Vec<Offer> {
    let offer = |line: &str| {
        let mut fields = line.split_whitespace().skip(1);
        // The name in the list is the one that the download gets, but for an encoded colon.
        let file = fields.next()?.to_owned();
        let digest = fields.nth(1)?.strip_prefix("SHA256:")?.to_owned();
        Some(Offer { file, digest })
    };
    let mut offers: Vec<Offer> = text.lines().filter_map(offer).collect();
    offers.sort_by(|a, b| a.file.cmp(&b.file));
    offers
}

impl Offer {
    fn is_in(&self, cache: &Path) -> bool {
        std::fs::read(cache.join(&self.file)).is_ok_and(|bytes| digest(&bytes) == self.digest)
    }

    fn name_and_version(&self) -> String {
        let mut fields = self.file.split('_');
        let name = fields.next().unwrap_or_default();
        let version = fields.next().unwrap_or_default().replace("%3a", ":");
        format!("{name}={version}")
    }
}

/// Unpacks the packages into a folder that is named after them.
fn unpack(cache: &Path, offers: &[Offer]) -> Result<PathBuf> {
    let all: String = offers.iter().map(|offer| offer.digest.as_str()).collect();
    let tree = cache.join(format!("tree-{}", &digest(all.as_bytes())[..16]));
    if tree.is_dir() {
        return Ok(tree);
    }
    let half = tree.with_extension("half");
    if half.exists() {
        std::fs::remove_dir_all(&half).with_context(|| format!("removing {}", half.display()))?;
    }
    for offer in offers {
        let mut dpkg = Command::new("dpkg");
        exec::run(dpkg.arg("-x").arg(cache.join(&offer.file)).arg(&half))?;
    }
    std::fs::rename(&half, &tree).with_context(|| format!("naming {}", tree.display()))?;
    Ok(tree)
}

/// The loader and every library that programs, drivers and libraries name, by file name.
fn closure(tree: &Path, programs: &[PathBuf]) -> Result<BTreeMap<String, PathBuf>> {
    let mut found = BTreeMap::new();
    let mut wanted: Vec<(String, PathBuf)> = Vec::new();
    for name in LOADED.iter().chain([&LOADER]) {
        wanted.push(((*name).to_owned(), PathBuf::from("a program, at run time")));
    }
    for file in programs.iter().cloned().chain(files(&tree.join(DRIVERS))?) {
        wanted.extend(
            elf::needed(&file)?
                .into_iter()
                .map(|name| (name, file.clone())),
        );
    }
    while let Some((name, by)) = wanted.pop() {
        if found.contains_key(&name) {
            continue;
        }
        let paths = FOLDERS.iter().map(|folder| tree.join(folder).join(&name));
        let Some(path) = paths.into_iter().find(|path| path.is_file()) else {
            bail!(
                "{name}, which {} wants, is in none of the packages: add its package to xtask/src/image/libraries.rs",
                by.display()
            );
        };
        wanted.extend(
            elf::needed(&path)?
                .into_iter()
                .map(|name| (name, path.clone())),
        );
        found.insert(name, path);
    }
    Ok(found)
}

/// Files in a folder, sorted; links to files count.
fn files(folder: &Path) -> Result<Vec<PathBuf>> {
    let entries = std::fs::read_dir(folder)
        .with_context(|| format!("{} could not be read", folder.display()))?;
    let mut paths = Vec::new();
    for entry in entries {
        let path = entry
            .with_context(|| format!("reading {}", folder.display()))?
            .path();
        if path.is_file() {
            paths.push(path);
        }
    }
    paths.sort();
    Ok(paths)
}

fn file_name(path: &Path) -> String {
    path.file_name()
        .unwrap_or_default()
        .to_string_lossy()
        .into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn apt_s_offers_are_read_and_sorted() {
        let text = "\
'http://mirror/pool/libn/libnl3/libnl-3-200_3.7.0-0.2%2bb1_amd64.deb' libnl-3-200_3.7.0-0.2+b1_amd64.deb 63100 SHA256:bb
'http://mirror/pool/g/gcc/libgcc-s1_1%3a12.2_amd64.deb' libgcc-s1_1%3a12.2_amd64.deb 49912 SHA256:aa
";
        let offers = offers_in(text);
        assert_eq!(offers.len(), 2);
        assert_eq!(offers[0].name_and_version(), "libgcc-s1=1:12.2");
        assert_eq!(offers[1].name_and_version(), "libnl-3-200=3.7.0-0.2+b1");
        assert_eq!(offers[1].digest, "bb");
    }

    #[test]
    fn damaged_package_is_not_taken() {
        let cache = std::env::temp_dir().join(format!("dynamicswap-debs-{}", std::process::id()));
        std::fs::create_dir_all(&cache).expect("a folder");
        let offer = Offer {
            file: "x_1_amd64.deb".to_owned(),
            digest: digest(b"whole"),
        };
        assert!(!offer.is_in(&cache), "it is not there");
        std::fs::write(cache.join(&offer.file), b"half").expect("a file");
        assert!(!offer.is_in(&cache), "it is another");
        std::fs::write(cache.join(&offer.file), b"whole").expect("a file");
        assert!(offer.is_in(&cache));
        std::fs::remove_dir_all(&cache).expect("removed");
    }
}
