//! `cargo xtask image`: the images that the Helm chart names, as archives, without a container engine.
//!
//! Owns which programs are in which image. The same programs and packages make the same bytes:
//! nothing in an archive tells when or where it was made.

mod archive;
mod elf;
mod libraries;
mod programs;

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context as _, Result};
use clap::{Args, ValueEnum};
use serde_json::json;

use crate::{demo, host};
use archive::{Entry, Image, Layer};
use libraries::Libraries;
use programs::Programs;

/// The tag of every image, and of the chart that names them.
const VERSION: &str = env!("CARGO_PKG_VERSION");
/// Who runs programs that need no rights: nobody that the node knows.
const NOBODY: &str = "65532:65532";

/// What to make.
#[derive(Debug, Args)]
pub struct Options {
    /// Folder for the archives; by default target/images.
    #[arg(long, value_name = "DIR")]
    out: Option<PathBuf>,
    /// How the programs are built.
    #[arg(long, value_enum, default_value = "release")]
    profile: Profile,
    /// What the images' names begin with: a registry, with a path or without.
    #[arg(long, value_name = "NAME", default_value = "localhost")]
    registry: String,
}

impl Options {
    /// Images of the programs that the tests build, into this folder.
    #[must_use]
    pub fn of_tests(out: PathBuf) -> Self {
        Self {
            out: Some(out),
            profile: Profile::Dev,
            registry: "localhost".to_owned(),
        }
    }
}

/// How programs are built.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Profile {
    /// As the tests build them, linked dynamically: nothing is compiled a second time.
    Dev,
    /// Optimised. Programs of the control plane are static, and alone in their images.
    Release,
    /// As release, with optimisation across crates: what is shipped. Takes longer.
    Dist,
}

impl Profile {
    /// The name of cargo's profile, and of its folder.
    const fn name(self) -> &'static str {
        match self {
            Self::Dev => "dev",
            Self::Release => "release",
            Self::Dist => "dist",
        }
    }
}

/// An image and what is in it.
#[derive(Debug)]
struct Part {
    /// Its name after `dynamicswap-`.
    name: &'static str,
    /// What it is, for whoever finds it.
    title: &'static str,
    /// Programs; the first is what the image runs.
    programs: &'static [&'static str],
    /// Who runs them; root where it is empty.
    user: &'static str,
    /// Whether its programs load libraries, and so cannot be static.
    is_dynamic: bool,
}

const PARTS: [Part; 5] = [
    Part {
        name: "controller",
        title: "DynamicSwap controller",
        programs: &["dynamicswap-controller"],
        user: NOBODY,
        is_dynamic: false,
    },
    Part {
        name: "agent",
        title: "DynamicSwap node agent",
        programs: &["dynamicswap-agent"],
        user: "",
        is_dynamic: false,
    },
    Part {
        name: "cli",
        title: "DynamicSwap command line",
        programs: &["dynamicswap"],
        user: NOBODY,
        is_dynamic: false,
    },
    Part {
        name: "datapath",
        title: "DynamicSwap swapd and memory server",
        programs: &[
            "dynamicswap-swapd",
            "dynamicswap-swapd-engine",
            "dynamicswap-memory-server",
        ],
        user: "",
        is_dynamic: true,
    },
    Part {
        name: "workload",
        title: "DynamicSwap workload that verifies every page it owns",
        programs: &["dynamicswap-workload"],
        user: NOBODY,
        is_dynamic: false,
    },
];

/// Builds, packs, and prints what was made.
pub fn run(root: &Path, options: &Options) -> Result<ExitCode> {
    host::install(&host::IMAGE_NEEDS)?;
    let target = demo::target_folder(root);
    let out = options.out.clone().unwrap_or_else(|| target.join("images"));
    std::fs::create_dir_all(&out).with_context(|| format!("{} cannot be made", out.display()))?;
    let programs = Programs::build(root, &target, options.profile)?;
    let libraries = Libraries::fetch(&programs.all())?;
    println!("libraries: {}", libraries.packages.join(" "));
    for part in &PARTS {
        let reference = format!(
            "{}/dynamicswap-{}:{VERSION}",
            options.registry.trim_end_matches('/'),
            part.name
        );
        let bytes = pack(part, &programs, &libraries)?.archive(&reference)?;
        let path = out.join(format!("dynamicswap-{}.tar", part.name));
        std::fs::write(&path, &bytes)
            .with_context(|| format!("{} cannot be written", path.display()))?;
        println!(
            "{reference}  {}  sha256:{}  {}",
            mebibytes(bytes.len()),
            archive::digest(&bytes),
            path.display()
        );
    }
    println!("to a node: ctr -n k8s.io images import FILE");
    Ok(ExitCode::SUCCESS)
}

fn pack(part: &Part, programs: &Programs, libraries: &Libraries) -> Result<Image> {
    let is_dynamic = part.is_dynamic || programs.profile == Profile::Dev;
    let mut layers = Vec::new();
    let mut labels = json!({
        "org.opencontainers.image.title": part.title,
        "org.opencontainers.image.version": VERSION,
        "org.opencontainers.image.licenses": env!("CARGO_PKG_LICENSE"),
    });
    if is_dynamic {
        labels["dynamicswap.io/packages"] = libraries.packages.join(" ").into();
        layers.push(Layer::of("libraries", libraries.entries.clone())?);
    }
    let mut entries = vec![Entry::folder("tmp", 0o1777)];
    for name in part.programs {
        let program = programs.stripped(name, part.is_dynamic)?;
        if is_dynamic {
            libraries.check_runs(&program)?;
        } else {
            elf::check_static(&program)?;
        }
        entries.push(Entry::file(&format!("usr/bin/{name}"), 0o755, &program)?);
    }
    layers.push(Layer::of("programs", entries)?);
    let config = json!({
        "Entrypoint": [format!("/usr/bin/{}", part.programs[0])],
        "Env": ["PATH=/usr/bin"],
        "Labels": labels,
        "User": part.user,
        "WorkingDir": "/",
    });
    Ok(Image { config, layers })
}

fn mebibytes(bytes: usize) -> String {
    format!("{}.{} MiB", bytes >> 20, ((bytes & 0xf_ffff) * 10) >> 20)
}
