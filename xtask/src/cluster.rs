//! `cargo xtask cluster`: builds the cluster harness and becomes it.

use std::path::Path;
use std::process::{Command, ExitCode};

use anyhow::Result;

use crate::{demo, exec, host, image};

/// Program of the harness.
const PROGRAM: &str = "dynamicswap-cluster";

/// Becomes the harness with these arguments. Features are the workspace's, as in every other
/// build, or half of the dependencies would be built again.
pub fn run(root: &Path, arguments: &[String]) -> Result<ExitCode> {
    let mut arguments = arguments.to_vec();
    if arguments.first().is_some_and(|command| command == "up") {
        host::install(&host::CLUSTER_NEEDS)?;
        if wants_images(&arguments) {
            let folder = demo::target_folder(root).join("cluster-images");
            let arguments_of_image = image::Options::of_tests(folder.clone());
            image::run(root, &arguments_of_image)?;
            arguments.push(format!("--images={}", folder.display()));
        }
    }
    exec::run(exec::cargo(root).args(["build", "--workspace", "--bin", PROGRAM, "--quiet"]))?;
    let program = demo::target_folder(root).join("debug").join(PROGRAM);
    exec::become_program(Command::new(program).args(arguments))
}

/// Whether the product is to be installed, of images that nobody has given.
fn wants_images(arguments: &[String]) -> bool {
    let given = |name: &str| {
        let with_value = format!("{name}=");
        arguments
            .iter()
            .any(|it| it == name || it.starts_with(&with_value))
    };
    given("--install") && !given("--images") && !given("--help") && !given("-h")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn images_are_made_for_an_installation_that_has_none() {
        let wants = |line: &str| {
            let arguments: Vec<String> = line.split(' ').map(str::to_owned).collect();
            wants_images(&arguments)
        };
        assert!(wants("up --install"));
        assert!(!wants("up --nodes 3"));
        assert!(!wants("up --install --images DIR"));
        assert!(!wants("up --install --images=DIR"));
        assert!(!wants("up --install --help"));
    }
}
