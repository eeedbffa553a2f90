//! Rules: nothing panics outside of tests, and each exception to a lint says why.

use syn::visit::Visit;

use super::Finding;
use super::source::{RustFile, Token};

/// Methods that panic.
const METHODS: [&str; 4] = ["unwrap", "unwrap_err", "expect", "expect_err"];
/// Macros that panic. `assert!` and `unreachable!` state invariants and stay.
const MACROS: [&str; 3] = ["panic", "todo", "unimplemented"];

/// No panicking call outside of tests, but where a reasoned `#[expect]` in the same function
/// carries the proof.
pub fn outside_tests(file: &RustFile) -> Vec<Finding> {
    let calls = file.tokens.windows(4).filter_map(panicking_call);
    let found = calls.filter(|(line, _)| !file.in_test(*line) && !is_proven(file, *line));
    found
        .map(|(line, name)| {
            let remedy = "return an error, or prove it impossible under #[expect(clippy::…, reason = \"…\")]";
            Finding::new(&file.path, line, format!("'{name}' outside of tests"), remedy)
        })
        .collect()
}

/// Panicking calls outside of tests, proven ones included; for the report.
pub fn count(file: &RustFile) -> usize {
    let calls = file.tokens.windows(4).filter_map(panicking_call);
    calls.filter(|(line, _)| !file.in_test(*line)).count()
}

fn panicking_call(tokens: &[Token]) -> Option<(usize, &str)> {
    let [first, name, open, argument] = tokens else {
        return None;
    };
    let method = first.text == "." && open.text == "(" && METHODS.contains(&name.text.as_str());
    // Another type's method of the same name takes no message.
    let own = name.text.starts_with("expect") && !argument.text.starts_with('"');
    let call = name.text == "!" && MACROS.contains(&first.text.as_str());
    match (method && !own, call) {
        (true, _) => Some((name.line, &name.text)),
        (_, true) => Some((first.line, &first.text)),
        _ => None,
    }
}

fn is_proven(file: &RustFile, line: usize) -> bool {
    let Some(function) = file.function_at(line) else {
        return false;
    };
    let before = file
        .text
        .lines()
        .skip(function.start - 1)
        .take(line + 1 - function.start);
    let text: String = before.collect();
    ["expect_used", "unwrap_used", "panic"]
        .iter()
        .any(|lint| text.contains(&format!("clippy::{lint}")))
}

/// `#[allow]` and `#[expect]` carry a reason.
pub fn reasons_of_exceptions(file: &RustFile) -> Vec<Finding> {
    let mut walk = Walk {
        file,
        findings: Vec::new(),
    };
    walk.visit_file(&file.syntax);
    walk.findings
}

struct Walk<'a> {
    file: &'a RustFile,
    findings: Vec<Finding>,
}

impl<'ast> Visit<'ast> for Walk<'_> {
    fn visit_attribute(&mut self, attribute: &'ast syn::Attribute) {
        let excepts = attribute.path().is_ident("allow") || attribute.path().is_ident("expect");
        let Ok(list) = attribute.meta.require_list() else {
            return;
        };
        if excepts && !list.tokens.to_string().contains("reason =") {
            let line = attribute.pound_token.span.start().line;
            let remedy = "use #[expect(lint, reason = \"…\")]";
            let finding = Finding::new(&self.file.path, line, "exception without a reason", remedy);
            self.findings.push(finding);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tidy::source::sample;

    #[test]
    fn panicking_calls_are_found_inside_macros_too() {
        let file = sample(
            "a/src/lib.rs",
            "fn f() {\n g().unwrap();\n println!(\"{}\", g().expect(\"x\"));\n panic!();\n}\n",
        );
        let lines: Vec<usize> = outside_tests(&file)
            .iter()
            .map(|finding| finding.line)
            .collect();
        assert_eq!(lines, [2, 3, 4]);
        assert_eq!(count(&file), 3);
    }

    #[test]
    fn tests_and_proofs_may_panic() {
        let file = sample(
            "a/src/lib.rs",
            "#[expect(clippy::expect_used, reason = \"proven\")]\nfn f() { g().expect(\"p\"); }\n#[test]\nfn t() { g().unwrap(); }\n",
        );
        assert!(outside_tests(&file).is_empty());
    }

    #[test]
    fn similar_names_pass() {
        let file = sample(
            "a/src/lib.rs",
            "fn f() { g().unwrap_or(1); expect(2); a.panic(); a.expect(b); }\n",
        );
        assert!(outside_tests(&file).is_empty());
    }

    #[test]
    fn exception_without_reason_is_found() {
        let file = sample(
            "a/src/lib.rs",
            "#[allow(dead_code)]\nfn f() {}\n#[expect(unused, reason = \"why\")]\nfn g() {}\n",
        );
        let lines: Vec<usize> = reasons_of_exceptions(&file)
            .iter()
            .map(|finding| finding.line)
            .collect();
        assert_eq!(lines, [1]);
    }
}
