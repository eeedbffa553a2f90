//! What a program or library asks of its host, as `readelf` tells it.

use std::path::Path;
use std::process::Command;

use anyhow::{Context as _, Result, bail};

/// Libraries that the file names as needed.
pub fn needed(file: &Path) -> Result<Vec<String>> {
    Ok(needed_in(&readelf(&["--dynamic"], file)?))
}

/// An error if the program needs a loader or a library: an image without any could not run it.
pub fn check_static(program: &Path) -> Result<()> {
    if let Some(loader) = interpreter_in(&readelf(&["--program-headers"], program)?) {
        bail!("{} is not static: it wants {loader}", program.display());
    }
    match needed(program)?.first() {
        Some(library) => bail!("{} is not static: it wants {library}", program.display()),
        None => Ok(()),
    }
}

fn readelf(flags: &[&str], file: &Path) -> Result<String> {
    let mut command = Command::new("readelf");
    let output = command
        .env("LC_ALL", "C")
        .args(["--wide"])
        .args(flags)
        .arg(file);
    let output = output.output().context("'readelf' could not be started")?;
    if !output.status.success() {
        let reason = String::from_utf8_lossy(&output.stderr).into_owned();
        bail!(
            "{} is no program or library: {}",
            file.display(),
            reason.trim()
        );
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

/// The name in brackets of each line with the mark.
fn needed_in(text: &str) -> Vec<String> {
    let lines = text.lines().filter(|line| line.contains("(NEEDED)"));
    let name = |line: &str| Some(line.split_once('[')?.1.split_once(']')?.0.to_owned());
    lines.filter_map(name).collect()
}

fn interpreter_in(text: &str) -> Option<&str> {
    let (_, rest) = text.split_once("Requesting program interpreter: ")?;
    rest.split(']').next()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn needed_libraries_and_the_loader_are_read() {
        let dynamic = "\
 0x0000000000000001 (NEEDED)             Shared library: [libgcc_s.so.1]
 0x0000000000000001 (NEEDED)             Shared library: [libc.so.6]
 0x000000000000000e (SONAME)             Library soname: [libx.so.1]
";
        assert_eq!(needed_in(dynamic), ["libgcc_s.so.1", "libc.so.6"]);
        let headers = "      [Requesting program interpreter: /lib64/ld-linux-x86-64.so.2]\n";
        assert_eq!(interpreter_in(headers), Some("/lib64/ld-linux-x86-64.so.2"));
        assert_eq!(interpreter_in("Program Headers:\n"), None);
    }

    #[test]
    fn test_program_itself_is_not_static() {
        let own = std::env::current_exe().expect("this program");
        let error = check_static(&own).expect_err("it is dynamic");
        assert!(error.to_string().contains("is not static"), "{error}");
        assert!(needed(&own).expect("ELF").contains(&"libc.so.6".to_owned()));
        assert!(needed(Path::new("Cargo.toml")).is_err());
    }
}
