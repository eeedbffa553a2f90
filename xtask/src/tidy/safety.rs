//! Rules: unsafe code only in listed files, each block under a SAFETY comment, and every other
//! crate forbids it.

use super::Finding;
use super::allowed::UNSAFE_FILES;
use super::source::{RustFile, Tree};

/// How far above a block its comment may begin.
const COMMENT_LINES_MAX: usize = 12;

/// Lines with an `unsafe` block, function or impl.
fn unsafe_lines(file: &RustFile) -> impl Iterator<Item = (usize, &str)> {
    let pairs = file
        .tokens
        .windows(2)
        .filter(|pair| pair[0].text == "unsafe");
    pairs.map(|pair| (pair[0].line, pair[1].text.as_str()))
}

/// Whether the file holds unsafe code.
pub fn has_unsafe(file: &RustFile) -> bool {
    unsafe_lines(file).next().is_some()
}

/// Unsafe code stands in listed files and is explained.
pub fn unsafe_code(file: &RustFile) -> Vec<Finding> {
    let listed = UNSAFE_FILES
        .iter()
        .any(|exception| exception.path == file.path);
    let first = unsafe_lines(file).next().filter(|_| !listed);
    let remedy = "use a safe call, or list the file with its reason in xtask/src/tidy/allowed.rs";
    let what = "unsafe code in a file that is not listed for it";
    let unlisted = first.map(|(line, _)| Finding::new(&file.path, line, what, remedy));
    let mut findings: Vec<Finding> = unlisted.into_iter().collect();
    for (line, next) in unsafe_lines(file) {
        let block = next == "{" || next == "impl";
        if block && !is_explained(&file.text, line) {
            let remedy = "name the invariant above it in a '// SAFETY:' comment";
            findings.push(Finding::new(
                &file.path,
                line,
                "unsafe code without its proof",
                remedy,
            ));
        }
    }
    findings
}

/// Whether a SAFETY comment stands in the lines above, with no empty line between.
fn is_explained(text: &str, line: usize) -> bool {
    let lines: Vec<&str> = text.lines().take(line).collect();
    let above = lines
        .iter()
        .rev()
        .take(COMMENT_LINES_MAX)
        .take_while(|line| !line.trim().is_empty());
    above.into_iter().any(|line| line.contains("SAFETY:"))
}

/// Crates without a listed file forbid unsafe code at their roots.
pub fn crate_roots(tree: &Tree) -> Vec<Finding> {
    let is_root = |file: &&RustFile| {
        let folder = file.crate_folder();
        file.path == format!("{folder}/src/lib.rs")
            || file.path == format!("{folder}/src/main.rs")
            || file.path.starts_with(&format!("{folder}/src/bin/"))
                && !file.path[folder.len() + 9..].contains('/')
    };
    let roots = tree.rust.iter().filter(is_root);
    let lacking = roots.filter(|file| {
        let library = format!("{}/src/", file.crate_folder());
        let needs_unsafe = UNSAFE_FILES
            .iter()
            .any(|exception| exception.path.starts_with(&library));
        !needs_unsafe && !file.text.contains("#![forbid(unsafe_code)]")
    });
    lacking
        .map(|file| {
            let remedy = "add #![forbid(unsafe_code)] below the header";
            Finding::new(
                &file.path,
                1,
                "the crate does not forbid unsafe code",
                remedy,
            )
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tidy::source::sample;

    #[test]
    fn unsafe_in_an_unlisted_file_is_found() {
        let file = sample(
            "a/src/lib.rs",
            "// SAFETY: it is fine.\nunsafe impl Send for S {}\n",
        );
        let findings = unsafe_code(&file);
        assert_eq!(findings.len(), 1);
        assert!(findings[0].what.contains("not listed"));
    }

    #[test]
    fn block_without_a_safety_comment_is_found() {
        assert!(!is_explained("fn f() {\n    unsafe { g() }\n}\n", 2));
        assert!(!is_explained("// SAFETY: far away.\n\nunsafe { g() }\n", 3));
        assert!(is_explained(
            "// SAFETY: g checks.\nlet a =\n    unsafe { g() };\n",
            3
        ));
    }

    #[test]
    fn crate_that_does_not_forbid_unsafe_is_found() {
        let root = |text| Tree {
            rust: vec![sample("a/src/lib.rs", text)],
            texts: Vec::new(),
        };
        assert_eq!(crate_roots(&root("//! A.\n")).len(), 1);
        assert!(crate_roots(&root("//! A.\n#![forbid(unsafe_code)]\n")).is_empty());
    }
}
