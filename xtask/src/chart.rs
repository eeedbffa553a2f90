//! `cargo xtask chart`: the Helm chart as the real helm renders it, compared with golden files.
//!
//! Owns the cases below `tests/chart`: a folder with `values.yaml` and `golden.yaml` is rendered
//! and compared; a file in `refused` must be refused with the words on its first line. What needs no
//! helm is checked by tidy.

#[cfg(test)]
mod tests;

use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, Output};

use anyhow::{Context as _, Result, bail};
use clap::Args;

use crate::exec;

/// Folder of the chart.
pub const CHART: &str = "charts/dynamicswap";
/// Folder of the cases.
pub const CASES: &str = "tests/chart";
/// Cases of values that must be refused.
const REFUSED: &str = "refused";
/// How a refused case begins; the words follow.
const SAYS: &str = "# says: ";
/// The oldest Kubernetes that everything in the chart works on.
const KUBERNETES: &str = "1.33.0";

/// What to do.
#[derive(Debug, Args)]
pub struct Options {
    /// Writes the golden files anew instead of comparing. Read the difference before you commit it.
    #[arg(long)]
    update: bool,
    /// The helm program; by default one in PATH, or the one that `cargo xtask cluster` built.
    #[arg(long, value_name = "PATH")]
    helm: Option<PathBuf>,
}

/// Compares, prints a line for each case; code 1 if one is not as it should be.
pub fn run(root: &Path, options: &Options) -> Result<ExitCode> {
    let Some(helm) = options.helm.clone().or_else(find_helm) else {
        bail!("{}", no_helm());
    };
    let findings = check(root, &helm, options.update)?;
    Ok(ExitCode::from(u8::from(findings > 0)))
}

/// Why the chart cannot be rendered here; `None` if it can.
pub fn obstacle() -> Option<String> {
    find_helm().is_none().then(no_helm)
}

fn no_helm() -> String {
    "there is no helm: install it, have `cargo xtask cluster` build one, or name it with --helm"
        .to_owned()
}

fn find_helm() -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let in_path = std::env::split_paths(&path).map(|folder| folder.join("helm"));
    let cache = std::env::var_os("HOME").map(|home| Path::new(&home).join(".cache/dynamicswap"));
    let built = cache.and_then(|cache| std::fs::read_dir(cache).ok());
    let mut built: Vec<PathBuf> = built
        .into_iter()
        .flatten()
        .filter_map(Result::ok)
        .filter(|entry| entry.file_name().to_string_lossy().starts_with("cluster-"))
        .map(|entry| entry.path().join("bin/helm"))
        .collect();
    built.sort();
    in_path.chain(built).find(|program| program.is_file())
}

/// Checks every case with the helm that was found; the number of those that are not as they should
/// be.
pub fn check_found(root: &Path) -> Result<usize> {
    let helm = find_helm().with_context(no_helm)?;
    check(root, &helm, false)
}

fn check(root: &Path, helm: &Path, update: bool) -> Result<usize> {
    let helm = Helm {
        root,
        program: helm,
    };
    let mut bad = 0;
    let mut say = |case: &str, outcome: Result<()>| match outcome {
        Ok(()) => println!("  {case:<30} ok"),
        Err(error) => {
            bad += 1;
            println!("  {case:<30} NOT OK: {error:#}");
        }
    };
    for case in cases(root)? {
        let folder = Path::new(CASES).join(&case);
        say(&format!("{case}: lint"), helm.lint(&folder));
        say(&format!("{case}: render"), helm.compare(&folder, update));
    }
    for case in refused(root)? {
        say(&format!("{REFUSED}/{case}"), helm.is_refused(&case));
    }
    match definitions(root) {
        0 => println!("SKIPPED definitions: {CHART}/files/crds holds none"),
        files => say("definitions", helm.definitions(files)),
    }
    println!("chart: {bad} to mend");
    Ok(bad)
}

/// Names of the folders with values to render.
pub fn cases(root: &Path) -> Result<Vec<String>> {
    let mut names = list(&root.join(CASES))?;
    names.retain(|name| root.join(CASES).join(name).join("values.yaml").is_file());
    if names.is_empty() {
        bail!("{CASES} holds no folder with a values.yaml");
    }
    Ok(names)
}

fn refused(root: &Path) -> Result<Vec<String>> {
    list(&root.join(CASES).join(REFUSED))
}

/// How many definitions the chart installs.
fn definitions(root: &Path) -> usize {
    let files = list(&root.join(CHART).join("files/crds")).unwrap_or_default();
    files.iter().filter(|name| name.ends_with(".yaml")).count()
}

/// Names in a folder, sorted.
pub fn list(folder: &Path) -> Result<Vec<String>> {
    let entries = std::fs::read_dir(folder)
        .with_context(|| format!("{} could not be read", folder.display()))?;
    let mut names = Vec::new();
    for entry in entries {
        let entry = entry.with_context(|| format!("reading {}", folder.display()))?;
        names.push(entry.file_name().to_string_lossy().into_owned());
    }
    names.sort();
    Ok(names)
}

/// The real helm, on this workspace's chart.
struct Helm<'a> {
    root: &'a Path,
    program: &'a Path,
}

impl Helm<'_> {
    fn call(&self, arguments: &[&str]) -> Result<Output> {
        let mut command = Command::new(self.program);
        command.current_dir(self.root).args(arguments);
        command
            .output()
            .with_context(|| format!("'{}' could not be started", exec::describe(&command)))
    }

    /// What helm prints; an error with its words if it refuses.
    fn printed(&self, arguments: &[&str]) -> Result<String> {
        let output = self.call(arguments)?;
        if !output.status.success() {
            bail!("{}", words(&output));
        }
        String::from_utf8(output.stdout).context("helm printed something that is no text")
    }

    fn lint(&self, folder: &Path) -> Result<()> {
        let values = folder.join("values.yaml").display().to_string();
        let arguments = ["lint", CHART, "--strict", "--quiet", "--values", &values];
        self.printed(&[&arguments[..], &["--kube-version", KUBERNETES]].concat())?;
        Ok(())
    }

    fn template(&self, more: &[&str]) -> Result<Output> {
        let arguments = [
            "template",
            "dynamicswap",
            CHART,
            "--kube-version",
            KUBERNETES,
        ];
        let namespace = ["--namespace", "dynamicswap-system"];
        self.call(&[&arguments[..], &namespace, more].concat())
    }

    /// Without the definitions, which are a copy of `crds/yaml`.
    fn render(&self, values: &str) -> Result<String> {
        let output = self.template(&["--set", "crds.install=false", "--values", values])?;
        if !output.status.success() {
            bail!("{}", words(&output));
        }
        String::from_utf8(output.stdout).context("helm printed something that is no text")
    }

    fn compare(&self, folder: &Path, update: bool) -> Result<()> {
        let rendered = self.render(&folder.join("values.yaml").display().to_string())?;
        let golden = self.root.join(folder).join("golden.yaml");
        if update {
            return std::fs::write(&golden, rendered)
                .with_context(|| format!("{} could not be written", golden.display()));
        }
        let expected = std::fs::read_to_string(&golden)
            .with_context(|| format!("{} could not be read", golden.display()))?;
        match first_difference(&expected, &rendered) {
            None => Ok(()),
            Some(difference) => bail!(
                "golden.yaml {difference}\n    if that is right: cargo xtask chart --update, and read git diff"
            ),
        }
    }

    fn is_refused(&self, case: &str) -> Result<()> {
        let values = Path::new(CASES).join(REFUSED).join(case);
        let text = std::fs::read_to_string(self.root.join(&values))
            .with_context(|| format!("{} could not be read", values.display()))?;
        let says = text.lines().next().and_then(|line| line.strip_prefix(SAYS));
        let says = says.with_context(|| format!("its first line is no '{SAYS}WORDS'"))?;
        let output = self.template(&["--values", &values.display().to_string()])?;
        if output.status.success() {
            bail!("helm takes it");
        }
        let words = words(&output);
        if !words.contains(says) {
            bail!("helm does not say '{says}' but: {words}");
        }
        Ok(())
    }

    /// Each definition is rendered, stays when the chart goes, and goes with it if that is wanted.
    fn definitions(&self, files: usize) -> Result<()> {
        let count = |keep: &str, words: &str| -> Result<usize> {
            let only = ["--show-only", "templates/crds.yaml", "--set", keep];
            let output = self.template(&only)?;
            if !output.status.success() {
                bail!("{}", self::words(&output));
            }
            let text = String::from_utf8_lossy(&output.stdout).into_owned();
            Ok(text.lines().filter(|line| line.trim() == words).count())
        };
        let policy = "helm.sh/resource-policy: keep";
        let counts = [
            count("crds.keep=true", "kind: CustomResourceDefinition")?,
            count("crds.keep=true", policy)?,
            count("crds.keep=false", policy)?,
        ];
        if counts != [files, files, 0] {
            bail!(
                "of {files} definitions, {counts:?} are rendered, kept, and kept against crds.keep"
            );
        }
        Ok(())
    }
}

/// What helm complains of, on one line.
fn words(output: &Output) -> String {
    let both = [&output.stderr[..], &output.stdout[..]].concat();
    let text = String::from_utf8_lossy(&both).into_owned();
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}

/// Where two texts differ first, with the lines of both.
fn first_difference(expected: &str, found: &str) -> Option<String> {
    if expected == found {
        return None;
    }
    let mut expected = expected.lines();
    let mut found = found.lines();
    let mut line = 1;
    loop {
        let (left, right) = (expected.next(), found.next());
        if left != right || left.is_none() {
            let mut text = format!("differs at line {line}:");
            for (whose, line) in [("expected", left), ("rendered", right)] {
                let shown = line.unwrap_or("(the end)");
                // Writing to a string cannot fail.
                let _written = write!(text, "\n    {whose} {shown}");
            }
            return Some(text);
        }
        line += 1;
    }
}
