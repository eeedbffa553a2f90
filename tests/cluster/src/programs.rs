//! Kubernetes' programs: built from the Go modules that `go/` pins, once, and kept.
//!
//! Owns the folder `~/.cache/dynamicswap/cluster-HASH`, where HASH names the modules' files and
//! how they are built: other versions make another folder.

use std::fs::{self, File};
use std::hash::{DefaultHasher, Hash as _, Hasher as _};
use std::path::PathBuf;
use std::process::Command;

use anyhow::{Context as _, Result, ensure};
use dynamicswap_cli::failure::Refusal;
use rustix::fs::{FlockOperation, flock};

/// Version of Kubernetes, as its programs tell it; `go/kubernetes/go.mod` pins the same.
const KUBERNETES: &str = "v1.36.3";
/// The oldest Go that builds it: 1.26.
const GO_MINOR_MIN: u32 = 26;
/// Drivers of container file systems that no node here uses; two of them want C libraries.
const CONTAINERD_TAGS: &str = "no_btrfs no_zfs no_devmapper";

/// A Go module that pins programs: its folder's name and its files.
struct Module {
    name: &'static str,
    files: [(&'static str, &'static str); 3],
}

macro_rules! module {
    ($name:literal) => {
        Module {
            name: $name,
            files: [
                ("go.mod", include_str!(concat!("../go/", $name, "/go.mod"))),
                ("go.sum", include_str!(concat!("../go/", $name, "/go.sum"))),
                (
                    "tools.go",
                    include_str!(concat!("../go/", $name, "/tools.go")),
                ),
            ],
        }
    };
}

const MODULES: [Module; 4] = [
    module!("etcd"),
    module!("kubernetes"),
    module!("containerd"),
    module!("helm"),
];

/// A program that the harness builds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Program {
    /// Its file's name.
    pub name: &'static str,
    module: &'static str,
    package: &'static str,
}

const fn program(name: &'static str, module: &'static str, package: &'static str) -> Program {
    Program {
        name,
        module,
        package,
    }
}

/// What a control plane consists of, and the command line to it.
pub const CONTROL_PLANE: [Program; 5] = [
    program("etcd", "etcd", "go.etcd.io/etcd/server/v3"),
    program(
        "kube-apiserver",
        "kubernetes",
        "k8s.io/kubernetes/cmd/kube-apiserver",
    ),
    program("kubectl", "kubernetes", "k8s.io/kubernetes/cmd/kubectl"),
    program(
        "kube-controller-manager",
        "kubernetes",
        "k8s.io/kubernetes/cmd/kube-controller-manager",
    ),
    program(
        "kube-scheduler",
        "kubernetes",
        "k8s.io/kubernetes/cmd/kube-scheduler",
    ),
];

/// What runs on a node.
pub const NODE: [Program; 5] = [
    program("kubelet", "kubernetes", "k8s.io/kubernetes/cmd/kubelet"),
    program(
        "kube-proxy",
        "kubernetes",
        "k8s.io/kubernetes/cmd/kube-proxy",
    ),
    program(
        "containerd",
        "containerd",
        "github.com/containerd/containerd/v2/cmd/containerd",
    ),
    program(
        "containerd-shim-runc-v2",
        "containerd",
        "github.com/containerd/containerd/v2/cmd/containerd-shim-runc-v2",
    ),
    program(
        "ctr",
        "containerd",
        "github.com/containerd/containerd/v2/cmd/ctr",
    ),
];

/// What a person at a cluster wants besides.
pub const PERSON: [Program; 1] = [program("helm", "helm", "helm.sh/helm/v4/cmd/helm")];

/// The folder with the built programs.
#[derive(Debug, Clone)]
pub struct Programs {
    root: PathBuf,
}

impl Programs {
    /// The folder, with `wanted` in it: what is missing is built, which takes minutes. Another
    /// process that builds is waited for.
    ///
    /// # Errors
    /// A refusal without Go; or the build's failure.
    pub fn prepare(wanted: &[Program]) -> Result<Self> {
        let home = std::env::var_os("HOME").context("HOME is not set")?;
        let cache = PathBuf::from(home).join(".cache/dynamicswap");
        let programs = Self {
            root: cache.join(format!("cluster-{}", version())),
        };
        let missing = programs.missing(wanted);
        if !missing.is_empty() {
            check_go()?;
            programs.build(&missing)?;
        }
        Ok(programs)
    }

    /// Where the programs lie, for PATH.
    #[must_use]
    pub fn folder(&self) -> PathBuf {
        self.root.join("bin")
    }

    /// A program's file.
    #[must_use]
    pub fn path(&self, name: &str) -> PathBuf {
        self.folder().join(name)
    }

    fn missing(&self, wanted: &[Program]) -> Vec<Program> {
        let absent = |program: &&Program| !self.path(program.name).exists();
        wanted.iter().filter(absent).copied().collect()
    }

    fn build(&self, missing: &[Program]) -> Result<()> {
        fs::create_dir_all(self.folder())
            .with_context(|| format!("cannot make {}", self.folder().display()))?;
        let lock = File::create(self.root.join("lock")).context("cannot make the build's lock")?;
        flock(&lock, FlockOperation::LockExclusive).context("cannot lock the build")?;
        let all = CONTROL_PLANE.len() + NODE.len() + PERSON.len();
        // Another process may have built some meanwhile.
        let missing = self.missing(missing);
        for (built, program) in missing.iter().enumerate() {
            eprintln!(
                "building {} by Go, {} of {}, once (all {all} programs: about 11 minutes on two \
                 processors)",
                program.name,
                built + 1,
                missing.len(),
            );
            self.build_one(program)?;
        }
        Ok(())
    }

    fn build_one(&self, program: &Program) -> Result<()> {
        let sources = self.sources(program.module)?;
        let fresh = self.path(&format!("{}.new", program.name));
        let status = Command::new("go")
            .current_dir(sources)
            .env("CGO_ENABLED", "0")
            .env("GOFLAGS", "-mod=readonly")
            .args(["build", "-trimpath"])
            .args(flags(program))
            .arg("-o")
            .arg(&fresh)
            .arg(program.package)
            .status()
            .context("cannot start go")?;
        ensure!(
            status.success(),
            "building {} ended with {status}: see above (the sources come from Go's module proxy)",
            program.package
        );
        fs::rename(&fresh, self.path(program.name))
            .with_context(|| format!("cannot name {}", fresh.display()))
    }

    /// The folder of a module, written out.
    fn sources(&self, name: &str) -> Result<PathBuf> {
        let folder = self.root.join("go").join(name);
        fs::create_dir_all(&folder).with_context(|| format!("cannot make {}", folder.display()))?;
        for module in MODULES.iter().filter(|module| module.name == name) {
            for (file, text) in module.files {
                let path = folder.join(file);
                fs::write(&path, text)
                    .with_context(|| format!("cannot write {}", path.display()))?;
            }
        }
        Ok(folder)
    }
}

/// How a program is built, beyond what all have in common.
fn flags(program: &Program) -> Vec<String> {
    // No symbol tables: the programs are half as large.
    let mut linker = "-s -w".to_owned();
    if program.module == "kubernetes" {
        let place = "k8s.io/component-base/version";
        linker += &format!(" -X {place}.gitVersion={KUBERNETES}");
        let numbers = KUBERNETES.trim_start_matches('v').split('.');
        for (name, number) in ["gitMajor", "gitMinor"].into_iter().zip(numbers) {
            linker += &format!(" -X {place}.{name}={number}");
        }
    }
    let mut flags = vec!["-ldflags".to_owned(), linker];
    if program.module == "containerd" {
        flags.extend(["-tags".to_owned(), CONTAINERD_TAGS.to_owned()]);
    }
    flags
}

/// Names the modules' files and the flags: others make another folder.
fn version() -> String {
    let mut hasher = DefaultHasher::new();
    for module in MODULES {
        (module.name, module.files).hash(&mut hasher);
    }
    for program in CONTROL_PLANE.iter().chain(&NODE).chain(&PERSON) {
        (program, flags(program)).hash(&mut hasher);
    }
    format!("{:016x}", hasher.finish())
}

fn check_go() -> Result<()> {
    let asked = Command::new("go")
        .args(["env", "GOVERSION"])
        .current_dir("/")
        .output();
    let said = asked.map(|output| String::from_utf8_lossy(&output.stdout).trim().to_owned());
    match said {
        Ok(version) if go_minor(&version).is_some_and(|minor| minor >= GO_MINOR_MIN) => Ok(()),
        Ok(version) => Err(Refusal::error(format!(
            "'go' in PATH is {version}: building Kubernetes {KUBERNETES} needs Go \
             1.{GO_MINOR_MIN} or later"
        ))),
        Err(_) => Err(Refusal::error(format!(
            "there is no 'go' in PATH: building Kubernetes {KUBERNETES} needs Go \
             1.{GO_MINOR_MIN} or later"
        ))),
    }
}

/// The 26 of `go1.26.8`.
fn go_minor(version: &str) -> Option<u32> {
    let rest = version.strip_prefix("go1.")?;
    let digits = rest.split(|c: char| !c.is_ascii_digit()).next()?;
    digits.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn go_versions_are_read() {
        assert_eq!(go_minor("go1.26.8"), Some(26));
        assert_eq!(go_minor("go1.27rc1"), Some(27));
        assert_eq!(go_minor("devel"), None);
    }

    #[test]
    fn every_program_is_pinned_by_its_module() {
        for program in CONTROL_PLANE.iter().chain(&NODE).chain(&PERSON) {
            let module = MODULES.iter().find(|module| module.name == program.module);
            let [_, _, (_, tools)] = module.expect("a module").files;
            assert!(tools.contains(&format!("\"{}\"", program.package)));
        }
    }

    #[test]
    fn version_is_the_one_that_go_mod_pins() {
        let kubernetes = MODULES.iter().find(|module| module.name == "kubernetes");
        let [(_, pinned), ..] = kubernetes.expect("a module").files;
        assert!(pinned.contains(&format!("require k8s.io/kubernetes {KUBERNETES}\n")));
        let kubectl = flags(&CONTROL_PLANE[2]);
        assert!(kubectl[1].ends_with("gitMajor=1 -X k8s.io/component-base/version.gitMinor=36"));
    }
}
