//! Building the programs of the images: static where nothing is loaded at run time.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result, bail};

use super::{PARTS, Profile};
use crate::exec;

/// What static programs are built for. `crt-static` would apply to procedural macros too, and fail,
/// if the target were not named.
const TARGET: &str = "x86_64-unknown-linux-gnu";

/// Built programs.
#[derive(Debug)]
pub struct Programs {
    /// How they were built.
    pub profile: Profile,
    dynamic: PathBuf,
    fixed: PathBuf,
    stripped: PathBuf,
}

impl Programs {
    /// Builds every program of every image.
    pub fn build(root: &Path, target: &Path, profile: Profile) -> Result<Self> {
        if std::env::consts::ARCH != "x86_64" {
            bail!(
                "images are made on x86_64 and for it; this is {}",
                std::env::consts::ARCH
            );
        }
        // Apart from what a developer builds: other flags and other packages.
        let own = target.join("image");
        let (dynamic, fixed) = match profile {
            Profile::Dev => (target.join("debug"), target.join("debug")),
            Profile::Release | Profile::Dist => {
                let folder = profile.name();
                (own.join(folder), own.join(TARGET).join(folder))
            }
        };
        for mut command in commands(root, &own, profile) {
            exec::run(&mut command)?;
        }
        let stripped = own.join("stripped").join(profile.name());
        std::fs::create_dir_all(&stripped)
            .with_context(|| format!("{} cannot be made", stripped.display()))?;
        Ok(Self {
            profile,
            dynamic,
            fixed,
            stripped,
        })
    }

    /// Where the program was built.
    fn built(&self, name: &str, is_dynamic: bool) -> PathBuf {
        let folder = if is_dynamic {
            &self.dynamic
        } else {
            &self.fixed
        };
        folder.join(name)
    }

    /// The dynamic ones, as built.
    pub fn all(&self) -> Vec<PathBuf> {
        let is_wanted = |is_dynamic| is_dynamic || self.profile == Profile::Dev;
        let parts = PARTS.iter().filter(|part| is_wanted(part.is_dynamic));
        let programs = parts.flat_map(|part| part.programs.iter().map(move |name| (name, part)));
        programs
            .map(|(name, part)| self.built(name, part.is_dynamic))
            .collect()
    }

    /// A copy without what only a debugger reads. Names of functions stay, for backtraces.
    pub fn stripped(&self, name: &str, is_dynamic: bool) -> Result<PathBuf> {
        let copy = self.stripped.join(name);
        let mut strip = Command::new("strip");
        strip.args(["--strip-debug", "--enable-deterministic-archives", "-o"]);
        exec::run(strip.arg(&copy).arg(self.built(name, is_dynamic)))?;
        Ok(copy)
    }
}

fn commands(root: &Path, own: &Path, profile: Profile) -> Vec<Command> {
    if profile == Profile::Dev {
        // As the tests and the lab build it: another choice would build half of it again.
        let mut all = exec::cargo(root);
        all.args(["build", "--workspace", "--all-targets", "--quiet"]);
        return vec![all];
    }
    // Where sources lay must not tell in the programs.
    let cargo_home = std::env::var_os("CARGO_HOME").map(PathBuf::from);
    let home = std::env::var_os("HOME").map(|home| Path::new(&home).join(".cargo"));
    let mut flags = vec![remapped(root, "/dynamicswap")];
    flags.extend(cargo_home.or(home).map(|home| remapped(&home, "/cargo")));
    let build = |is_dynamic: bool, flags: &[String]| {
        let mut command = exec::cargo(root);
        // Unlike RUSTFLAGS, it survives spaces in paths.
        command.env("CARGO_ENCODED_RUSTFLAGS", flags.join("\x1f"));
        command.args(["build", "--bins", "--locked", "--profile", profile.name()]);
        command.arg("--target-dir").arg(own);
        let packages: &[&str] = if is_dynamic {
            &["dynamicswap-datapath"]
        } else {
            &[
                "dynamicswap-controller",
                "dynamicswap-agent",
                "dynamicswap-cli",
                "dynamicswap-workload",
            ]
        };
        for package in packages {
            command.args(["--package", package]);
        }
        command
    };
    let dynamic = build(true, &flags);
    flags.push("-Ctarget-feature=+crt-static".to_owned());
    let mut fixed = build(false, &flags);
    fixed.args(["--target", TARGET]);
    vec![dynamic, fixed]
}

fn remapped(from: &Path, to: &str) -> String {
    format!("--remap-path-prefix={}={to}", from.display())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn static_programs_are_built_for_a_named_target_and_the_data_plane_is_not_static() {
        let commands = commands(Path::new("."), Path::new("own"), Profile::Release);
        let lines: Vec<String> = commands.iter().map(exec::describe).collect();
        let is_static = |command: &Command| {
            let mut values = command.get_envs().filter_map(|(_, value)| value);
            values.any(|value| value.to_string_lossy().contains("crt-static"))
        };
        assert_eq!(lines.len(), 2);
        assert!(lines[0].contains("dynamicswap-datapath") && !is_static(&commands[0]));
        assert!(!lines[0].contains(TARGET), "{}", lines[0]);
        assert!(lines[1].contains(&format!("--target {TARGET}")) && is_static(&commands[1]));
        assert!(!lines[1].contains("dynamicswap-datapath"), "{}", lines[1]);
    }
}
