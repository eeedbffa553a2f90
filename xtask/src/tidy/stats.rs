//! `tidy --report`: sizes and shares of the tree as it stands, for people and for the CI log.

use super::source::{RustFile, Tree};
use super::{docs, panics};

/// Median, 90th percentile and largest of a list.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
struct Spread {
    median: usize,
    p90: usize,
    max: usize,
}

impl Spread {
    fn of(mut values: Vec<usize>) -> Self {
        values.sort_unstable();
        let at = |share: usize| {
            values
                .get((values.len().saturating_sub(1)) * share / 100)
                .copied()
        };
        let value = |share| at(share).unwrap_or_default();
        Self {
            median: value(50),
            p90: value(90),
            max: value(100),
        }
    }
}

/// The report as text.
pub fn table(tree: &Tree) -> String {
    let product: Vec<&RustFile> = tree.rust.iter().filter(|file| !file.is_test).collect();
    let files = Spread::of(product.iter().map(|file| file.product_lines()).collect());
    let functions = product.iter().flat_map(|file| {
        let outside = file
            .functions
            .iter()
            .filter(|function| !file.in_test(function.line));
        outside.map(|function| file.code_lines(&function.body))
    });
    let functions = Spread::of(functions.collect());
    let lines: usize = tree.rust.iter().map(|file| file.text.lines().count()).sum();
    let outside: usize = product.iter().map(|file| file.product_lines()).sum();
    let (documented, public) = product
        .iter()
        .map(|file| docs::documented(file))
        .fold((0, 0), |sum, it| (sum.0 + it.0, sum.1 + it.1));
    let panics: usize = product.iter().map(|file| panics::count(file)).sum();
    [
        format!("files: {} with {lines} lines", tree.rust.len()),
        format!("lines of a file without tests: {}", row(files)),
        format!("lines of a function: {}", row(functions)),
        format!(
            "share of lines in tests: {} %",
            percent(lines - outside, lines)
        ),
        format!("public items documented: {documented} of {public}"),
        format!(
            "panicking calls outside of tests: {panics}, {} per 1000 lines",
            per_thousand(panics, outside)
        ),
    ]
    .join("\n")
}

fn row(spread: Spread) -> String {
    let Spread { median, p90, max } = spread;
    format!("median {median}, p90 {p90}, max {max}")
}

fn percent(part: usize, whole: usize) -> usize {
    part * 100 / whole.max(1)
}

fn per_thousand(part: usize, whole: usize) -> String {
    let tenths = part * 10_000 / whole.max(1);
    format!("{}.{}", tenths / 10, tenths % 10)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tidy::source::sample;

    #[test]
    fn spread_of_a_list() {
        let spread = Spread::of((1..=101).collect());
        assert_eq!(
            spread,
            Spread {
                median: 51,
                p90: 91,
                max: 101
            }
        );
        assert_eq!(Spread::of(Vec::new()), Spread::default());
    }

    #[test]
    fn report_counts_tests_apart() {
        let file = sample(
            "a/src/lib.rs",
            "//! A.\nfn f() {}\n#[cfg(test)]\nmod tests {\n}\n",
        );
        let text = table(&Tree {
            rust: vec![file],
            texts: Vec::new(),
        });
        assert!(text.contains("share of lines in tests: 60 %"), "{text}");
    }
}
