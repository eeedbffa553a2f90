//! What guests boot: kernel, initramfs, root file system, made once and kept; and a small file
//! system with the project's programs, made for each run.

use std::hash::{DefaultHasher, Hash as _, Hasher as _};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context as _, Result, ensure};

const BUILD: &str = include_str!("../guest/build.sh");
const INIT: &str = include_str!("../guest/init");
/// Where cargo leaves test programs, whose names it gives a hash.
const TESTS: &str = "deps/";

/// Files that guests boot from.
#[derive(Debug, Clone)]
pub struct Image {
    kept: PathBuf,
    programs: PathBuf,
}

impl Image {
    /// The kept image, made if it is not there, and `programs` of those that stand beside this one:
    /// `examples/NAME` is an example, `deps/NAME` a test program, which guests know as `NAME-tests`.
    ///
    /// # Errors
    /// With the step that failed.
    pub fn prepare(directory: &Path, programs: &[&str]) -> Result<Self> {
        let kept = keep()?;
        let packed = directory.join("programs.ext4");
        pack(&packed, programs)?;
        Ok(Self {
            kept,
            programs: packed,
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

    /// The root file system; guests must not write to it.
    #[must_use]
    pub fn root(&self) -> PathBuf {
        self.kept.join("root.ext4")
    }

    /// The project's programs.
    #[must_use]
    pub fn programs(&self) -> &Path {
        &self.programs
    }
}

/// The recipe's name: another recipe makes another image.
fn version() -> String {
    let mut hasher = DefaultHasher::new();
    (BUILD, INIT).hash(&mut hasher);
    format!("{:016x}", hasher.finish())
}

fn keep() -> Result<PathBuf> {
    let home = std::env::var_os("HOME").context("HOME is not set")?;
    let cache = PathBuf::from(home).join(".cache/dynamicswap");
    let kept = cache.join(format!("lab-{}", version()));
    if kept.exists() {
        return Ok(kept);
    }
    println!(
        "making the guests' image in {} (a minute or two)",
        kept.display()
    );
    let fresh = kept.with_extension("new");
    if fresh.exists() {
        std::fs::remove_dir_all(&fresh).context("cannot remove a half-made image")?;
    }
    std::fs::create_dir_all(&fresh).context("cannot make the image's directory")?;
    let (script, init) = (fresh.join("build.sh"), fresh.join("init"));
    std::fs::write(&script, BUILD).context("cannot write build.sh")?;
    std::fs::write(&init, INIT).context("cannot write init")?;
    run(Command::new("bash").arg(&script).args([&fresh, &init]))?;
    std::fs::rename(&fresh, &kept).context("cannot name the image")?;
    Ok(kept)
}

/// Packs the programs that the workspace's build left beside this one.
fn pack(target: &Path, programs: &[&str]) -> Result<()> {
    let own = std::env::current_exe().context("cannot find this program")?;
    let built = own.parent().context("this program is in no directory")?;
    let folder = tempfile::tempdir().context("cannot make a directory")?;
    for program in programs {
        let (from, name) = match program.strip_prefix(TESTS) {
            Some(name) => (test_program(built, name)?, format!("{name}-tests")),
            None => {
                let (_, name) = program.rsplit_once('/').unwrap_or(("", program));
                (built.join(program), name.to_owned())
            }
        };
        let to = folder.path().join(&name);
        ensure!(
            from.exists(),
            "{} is not built: run this by `cargo xtask`",
            from.display()
        );
        std::fs::copy(&from, &to).with_context(|| format!("cannot copy {}", from.display()))?;
        // Only to boot faster: without strip the guests read more.
        let stripped = Command::new("strip")
            .arg(&to)
            .stderr(Stdio::null())
            .status();
        if stripped.is_err() {
            println!("    strip is not there: {name} goes in as it is");
        }
    }
    run(Command::new("truncate").args(["-s", "192M"]).arg(target))?;
    let mut pack = Command::new("mke2fs");
    pack.args(["-q", "-F", "-t", "ext4", "-d"]);
    run(pack.arg(folder.path()).arg(target))
}

/// The newest build of a test program: cargo adds a hash to its name.
fn test_program(built: &Path, name: &str) -> Result<PathBuf> {
    let is_ours = |path: &PathBuf| {
        let file = path.file_name().unwrap_or_default().to_string_lossy();
        let hash = file
            .strip_prefix(name)
            .and_then(|rest| rest.strip_prefix('-'));
        hash.is_some_and(|hash| hash.chars().all(|c| c.is_ascii_hexdigit()))
    };
    let entries = std::fs::read_dir(built.join(TESTS)).context("cannot read the built programs")?;
    let found = entries.flatten().map(|entry| entry.path()).filter(is_ours);
    let newest = found.max_by_key(|path| path.metadata().and_then(|it| it.modified()).ok());
    newest.with_context(|| format!("the {name} tests are not built: run this by `cargo xtask`"))
}

fn run(command: &mut Command) -> Result<()> {
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
