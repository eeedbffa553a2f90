//! The images that nodes run, in a drive with containerd's own store, filled here: on an emulated
//! processor each import takes minutes, on this one a second.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};
use dynamicswap_cli::interrupt::Interrupt;

use crate::family::{Family, Lifetime};
use crate::image::{Image, archives, make_drive, run};

/// A start that takes longer hangs.
const START_TIME_MAX: Duration = Duration::from_secs(30);
const LOOK_EVERY: Duration = Duration::from_millis(100);
/// Where Kubernetes' images are.
const NAMESPACE: &str = "k8s.io";
/// For what containers write: the file is sparse, and each node has its own copy of what changes.
const ROOM: u64 = 2 << 30;

/// A containerd that fills a store, and runs nothing.
#[derive(Debug)]
pub struct Store<'a> {
    /// Where it works; it is left there.
    pub folder: &'a Path,
    /// Has its program.
    pub image: &'a Image,
    /// Ends the wait for it.
    pub interrupt: &'a Interrupt,
}

impl Store<'_> {
    /// Makes a drive of a store with the sandbox image and those of a folder.
    ///
    /// # Errors
    /// With the step that failed.
    pub fn fill(&self, images: Option<&Path>) -> Result<PathBuf> {
        fs::create_dir_all(self.folder)
            .with_context(|| format!("cannot make {}", self.folder.display()))?;
        let mut wanted = vec![self.image.sandbox()];
        if let Some(folder) = images {
            wanted.extend(archives(folder)?);
        }
        let mut family = Family::new(self.folder, Lifetime::Handle)?;
        family.start("containerd", self.containerd()?)?;
        let filled = self.import(&mut family, &wanted);
        family.end();
        filled?;
        let drive = self.folder.with_extension("ext4");
        make_drive(&self.root(), &drive, ROOM)?;
        Ok(drive)
    }

    fn root(&self) -> PathBuf {
        self.folder.join("root")
    }

    fn socket(&self) -> PathBuf {
        self.folder.join("containerd.sock")
    }

    fn containerd(&self) -> Result<Command> {
        let config = self.folder.join("config.toml");
        let text = format!(
            "version = 3\nroot = '{}'\nstate = '{}'\n\
             disabled_plugins = ['io.containerd.grpc.v1.cri', 'io.containerd.cri.v1.runtime']\n\
             [grpc]\naddress = '{}'\n",
            self.root().display(),
            self.folder.join("state").display(),
            self.socket().display(),
        );
        fs::write(&config, text).with_context(|| format!("cannot write {}", config.display()))?;
        let mut command = Command::new(self.image.program("containerd"));
        command.arg("--config").arg(config);
        Ok(command)
    }

    fn import(&self, family: &mut Family, archives: &[PathBuf]) -> Result<()> {
        self.wait_for_it(family)?;
        for archive in archives {
            self.ctr(&["images", "import"], Some(archive))?;
        }
        Ok(())
    }

    fn wait_for_it(&self, family: &mut Family) -> Result<()> {
        let begun = Instant::now();
        while let Err(error) = self.ctr(&["version"], None) {
            if let Some(loss) = family.loss() {
                bail!(loss);
            }
            ensure!(
                begun.elapsed() < START_TIME_MAX,
                "containerd does not answer: {error:#}"
            );
            self.interrupt.wait(LOOK_EVERY)?;
        }
        Ok(())
    }

    fn ctr(&self, arguments: &[&str], archive: Option<&Path>) -> Result<()> {
        let mut command = Command::new(self.image.program("ctr"));
        command.arg("--address").arg(self.socket());
        command.args(["--namespace", NAMESPACE]).args(arguments);
        command.args(archive);
        run(&mut command)
    }
}
