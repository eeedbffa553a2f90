//! Rule: the pure crates know no clock, no I/O, no thread, no random source and no hash order.

use super::Finding;
use super::layers::PURE;
use super::source::{RustFile, Token};

/// Names that a pure crate does not say outside of tests, with what to do instead.
const NAMES: [(&str, &str); 7] = [
    ("Instant", "take a MonotonicTime as an argument"),
    ("SystemTime", "take the time as an argument"),
    (
        "HashMap",
        "use BTreeMap: its order is the same in every run",
    ),
    (
        "HashSet",
        "use BTreeSet: its order is the same in every run",
    ),
    ("RandomState", "take randomness as an argument"),
    ("println", "return the fact; shells print"),
    ("eprintln", "return the fact; shells print"),
];

/// Modules of std that a pure crate does not use outside of tests.
const MODULES: [&str; 5] = ["fs", "thread", "process", "env", "os"];

/// Nothing in a pure crate reads a clock or has an effect.
pub fn no_effects(file: &RustFile) -> Vec<Finding> {
    if !PURE.iter().any(|pure| pure.folder == file.crate_folder()) {
        return Vec::new();
    }
    let product = |line: usize| !file.in_test(line);
    let names = file
        .tokens
        .iter()
        .filter(|token| product(token.line))
        .filter_map(|token| {
            let (name, remedy) = NAMES.iter().find(|(name, _)| token.text == *name)?;
            Some(Finding::new(
                &file.path,
                token.line,
                format!("'{name}' in a pure crate"),
                remedy,
            ))
        });
    let modules = file.tokens.windows(4).filter_map(|tokens| {
        let module = std_module(tokens).filter(|module| MODULES.contains(module))?;
        let line = tokens[0].line;
        let what = format!("'std::{module}' in a pure crate");
        product(line).then(|| {
            Finding::new(
                &file.path,
                line,
                what,
                "return an effect; shells carry it out",
            )
        })
    });
    names.chain(modules).collect()
}

/// The module in `std :: module`.
fn std_module(tokens: &[Token]) -> Option<&str> {
    let texts: Vec<&str> = tokens.iter().map(|token| token.text.as_str()).collect();
    match texts.as_slice() {
        ["std", ":", ":", module] => Some(module),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tidy::source::sample;

    const TEXT: &str = "use std::time::Instant;\nuse std::collections::HashMap;\nfn f() { std::fs::read(\"a\"); }\n";

    #[test]
    fn clock_hash_order_and_files_are_found_in_a_pure_crate() {
        let findings = no_effects(&sample("types/src/lib.rs", TEXT));
        let mut lines: Vec<usize> = findings.iter().map(|finding| finding.line).collect();
        lines.sort_unstable();
        assert_eq!(lines, [1, 2, 3]);
    }

    #[test]
    fn shells_and_tests_may_use_them() {
        assert!(no_effects(&sample("node-agent/src/lib.rs", TEXT)).is_empty());
        let test = "#[cfg(test)]\nmod tests {\n use std::collections::HashMap;\n}\n";
        assert!(no_effects(&sample("types/src/lib.rs", test)).is_empty());
    }
}
