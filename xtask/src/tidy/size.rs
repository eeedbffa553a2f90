//! Rules: files under 800 lines without their tests, functions under 71 lines of code.

use super::Finding;
use super::source::RustFile;

/// Lines of a file without its tests; the aim is 300.
const FILE_LINES_MAX: usize = 800;
/// Lines of code in a function's body; the aim is 25.
const FUNCTION_LINES_MAX: usize = 70;

/// Files and functions within their limits.
pub fn limits(file: &RustFile) -> Vec<Finding> {
    let mut findings = Vec::new();
    let lines = if file.is_test {
        0
    } else {
        file.product_lines()
    };
    if lines > FILE_LINES_MAX {
        let what = format!("{lines} lines without tests, over {FILE_LINES_MAX}");
        findings.push(Finding::new(&file.path, 1, what, "split it by concept"));
    }
    for function in &file.functions {
        let lines = file.code_lines(&function.body);
        if lines > FUNCTION_LINES_MAX {
            let name = &function.name;
            let what = format!("'{name}' has {lines} lines of code, over {FUNCTION_LINES_MAX}");
            let remedy = "keep the branching here and move the leaves out";
            findings.push(Finding::new(&file.path, function.line, what, remedy));
        }
    }
    findings
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tidy::source::sample;

    #[test]
    fn long_file_is_found_and_its_tests_are_not_counted() {
        let long = format!("//! A.\n{}", "const _: () = ();\n".repeat(FILE_LINES_MAX));
        assert_eq!(limits(&sample("a/src/lib.rs", &long)).len(), 1);
        let tests = format!(
            "//! A.\n#[cfg(test)]\nmod tests {{\n{}}}\n",
            "const _: () = ();\n".repeat(900)
        );
        assert!(limits(&sample("a/src/lib.rs", &tests)).is_empty());
    }

    #[test]
    fn long_function_is_found_and_comments_are_not_counted() {
        let long = format!("fn f() {{\n{}}}\n", "g();\n".repeat(FUNCTION_LINES_MAX));
        let findings = limits(&sample("a/src/lib.rs", &long));
        assert_eq!(findings.len(), 1);
        assert_eq!(findings[0].line, 1);
        let commented = format!("fn f() {{\n{}}}\n", "// why\n\n".repeat(FUNCTION_LINES_MAX));
        assert!(limits(&sample("a/src/lib.rs", &commented)).is_empty());
    }
}
