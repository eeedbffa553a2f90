//! Writes the custom resource definitions as YAML, one file a kind: `cargo xtask crd`.
//!
//! `dynamicswap-crds [--check] FOLDER...` writes them into each folder, or says which of the files
//! there are not what they would be.
#![forbid(unsafe_code)]

use std::path::Path;
use std::process::ExitCode;

use dynamicswap_crds::{crd_file, crds};

type Failure = Box<dyn std::error::Error>;

fn main() -> ExitCode {
    let mut folders: Vec<String> = std::env::args().skip(1).collect();
    let is_check = folders.first().is_some_and(|first| first == "--check");
    if is_check {
        folders.remove(0);
    }
    if folders.is_empty() {
        eprintln!("dynamicswap-crds: name the folders, as 'cargo xtask crd' does");
        return ExitCode::from(2);
    }
    match folders.iter().try_fold(0, |stale, folder| {
        each(Path::new(folder), is_check).map(|more| stale + more)
    }) {
        Ok(0) => ExitCode::SUCCESS,
        Ok(stale) => {
            eprintln!("dynamicswap-crds: {stale} files are stale: run 'cargo xtask crd'");
            ExitCode::FAILURE
        }
        Err(error) => {
            eprintln!("dynamicswap-crds: {error}");
            ExitCode::from(2)
        }
    }
}

/// Writes the files of a folder, or counts the stale ones.
fn each(folder: &Path, is_check: bool) -> Result<usize, Failure> {
    let mut stale = 0;
    for (kind, definition) in crds() {
        let (name, content) = crd_file(kind, &definition)?;
        let path = folder.join(name);
        let named = |error| format!("{}: {error}", path.display());
        if !is_check {
            std::fs::create_dir_all(folder).map_err(named)?;
            std::fs::write(&path, content).map_err(named)?;
            println!("{}", path.display());
        } else if std::fs::read_to_string(&path).ok().as_deref() != Some(&content) {
            println!("{} is not what the types say", path.display());
            stale += 1;
        }
    }
    Ok(stale)
}
