//! The sources as rules see them: text, syntax, tokens, and which lines are tests.

use std::collections::BTreeSet;
use std::ops::RangeInclusive;
use std::path::Path;
use std::process::Command;

use anyhow::{Context as _, Result, bail};
use proc_macro2::{Delimiter, TokenStream, TokenTree};
use syn::spanned::Spanned as _;
use syn::visit::Visit;

/// Names of files that are text but not Rust, and are read for words.
const TEXT_KINDS: [&str; 9] = [
    ".md", ".proto", ".toml", ".yml", ".yaml", ".sh", ".svg", ".html", ".ci/run",
];

/// A file's name and text.
#[derive(Debug, Clone)]
pub struct TextFile {
    /// Path from the workspace's folder.
    pub path: String,
    /// Content.
    pub text: String,
}

/// A Rust file.
pub struct RustFile {
    /// Path from the workspace's folder.
    pub path: String,
    /// Content.
    pub text: String,
    /// Parsed.
    pub syntax: syn::File,
    /// Functions with a body, in order.
    pub functions: Vec<Function>,
    /// Every token that is no delimiter, in order, with its line.
    pub tokens: Vec<Token>,
    /// Whether the whole file is tests.
    pub is_test: bool,
    test_lines: Vec<RangeInclusive<usize>>,
}

/// A function with a body.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Function {
    /// Its name.
    pub name: String,
    /// First line, attributes included.
    pub start: usize,
    /// Line of the name.
    pub line: usize,
    /// Lines of the body, braces included.
    pub body: RangeInclusive<usize>,
}

/// A token and its line. Brackets stand as their opening character only.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Token {
    /// Identifier, punctuation or literal as written.
    pub text: String,
    /// Line, from 1.
    pub line: usize,
}

/// All files that git knows or would take.
pub struct Tree {
    /// Rust files.
    pub rust: Vec<RustFile>,
    /// All text files, the Rust ones included.
    pub texts: Vec<TextFile>,
}

impl Tree {
    /// Reads the workspace at `root`.
    pub fn load(root: &Path) -> Result<Self> {
        let mut texts = Vec::new();
        for path in list(root)? {
            let known = path.ends_with(".rs") || TEXT_KINDS.iter().any(|kind| path.ends_with(kind));
            // A file that was deleted but not yet committed is still listed.
            if known && root.join(&path).is_file() {
                let text = std::fs::read_to_string(root.join(&path))
                    .with_context(|| format!("{path} could not be read"))?;
                texts.push(TextFile { path, text });
            }
        }
        let rust = texts.iter().filter(|file| file.path.ends_with(".rs"));
        let mut rust: Vec<RustFile> = rust.map(RustFile::parse).collect::<Result<_>>()?;
        mark_test_files(&mut rust);
        Ok(Self { rust, texts })
    }

    /// The text file with this path.
    pub fn text(&self, path: &str) -> Option<&TextFile> {
        self.texts.iter().find(|file| file.path == path)
    }
}

fn list(root: &Path) -> Result<Vec<String>> {
    let output = Command::new("git")
        .current_dir(root)
        .args(["ls-files", "--cached", "--others", "--exclude-standard"])
        .output()
        .context("'git ls-files' could not be started; install git")?;
    if !output.status.success() {
        let reason = String::from_utf8_lossy(&output.stderr);
        bail!("'git ls-files' failed: {}", reason.trim());
    }
    let text = String::from_utf8(output.stdout).context("a file's name is not UTF-8")?;
    Ok(text.lines().map(str::to_owned).collect())
}

impl RustFile {
    /// Parses the file.
    pub fn parse(file: &TextFile) -> Result<Self> {
        let TextFile { path, text } = file.clone();
        let syntax = syn::parse_file(&text).map_err(|error| {
            let line = error.span().start().line;
            anyhow::anyhow!("{path}:{line}: no Rust: {error}")
        })?;
        let stream: TokenStream = text
            .parse()
            .map_err(|error| anyhow::anyhow!("{path}: no Rust tokens: {error}"))?;
        let mut tokens = Vec::new();
        flatten(stream, &mut tokens);
        let mut walk = Walk::default();
        walk.visit_file(&syntax);
        let is_test = ["tests", "benches", "examples"]
            .iter()
            .any(|folder| is_in_folder(&path, folder));
        let Walk {
            functions,
            test_lines,
        } = walk;
        Ok(Self {
            path,
            text,
            syntax,
            functions,
            tokens,
            is_test,
            test_lines,
        })
    }

    /// Whether the line belongs to tests.
    pub fn in_test(&self, line: usize) -> bool {
        self.is_test || self.test_lines.iter().any(|range| range.contains(&line))
    }

    /// Number of lines outside of tests.
    pub fn product_lines(&self) -> usize {
        (1..=self.text.lines().count())
            .filter(|line| !self.in_test(*line))
            .count()
    }

    /// Number of lines that are neither empty nor only a comment.
    pub fn code_lines(&self, lines: &RangeInclusive<usize>) -> usize {
        let inside = self
            .text
            .lines()
            .skip(lines.start() - 1)
            .take(lines.end() + 1 - lines.start());
        let is_code = |line: &&str| !line.trim().is_empty() && !line.trim().starts_with("//");
        inside.filter(is_code).count()
    }

    /// The innermost function around the line.
    pub fn function_at(&self, line: usize) -> Option<&Function> {
        let around = |function: &&Function| (function.start..=*function.body.end()).contains(&line);
        self.functions
            .iter()
            .filter(around)
            .max_by_key(|function| function.start)
    }

    /// Name of the workspace folder that holds the crate.
    pub fn crate_folder(&self) -> &str {
        let end = ["/src/", "/tests/", "/benches/", "/build.rs"]
            .iter()
            .filter_map(|part| self.path.find(part))
            .min();
        end.map_or("", |end| &self.path[..end])
    }
}

/// Whether the path lies in a crate's folder of this name beside its `src`. The workspace's own
/// `tests/` holds crates, whose sources are product code of the test tools.
fn is_in_folder(path: &str, folder: &str) -> bool {
    let inside = path.contains(&format!("/{folder}/"));
    inside && !path.contains("/src/")
}

fn flatten(stream: TokenStream, tokens: &mut Vec<Token>) {
    for tree in stream {
        let line = tree.span().start().line;
        match tree {
            TokenTree::Group(group) => {
                let text = match group.delimiter() {
                    Delimiter::Parenthesis => "(",
                    Delimiter::Brace => "{",
                    Delimiter::Bracket => "[",
                    Delimiter::None => "",
                };
                tokens.push(Token {
                    text: text.to_owned(),
                    line,
                });
                flatten(group.stream(), tokens);
            }
            other => tokens.push(Token {
                text: other.to_string(),
                line,
            }),
        }
    }
}

/// Whether these attributes make an item a test.
fn is_test_item(attributes: &[syn::Attribute]) -> bool {
    attributes.iter().any(|attribute| {
        if attribute.path().is_ident("test") {
            return true;
        }
        let Ok(list) = attribute.meta.require_list() else {
            return false;
        };
        let condition = list.tokens.to_string();
        attribute.path().is_ident("cfg")
            && (condition == "test" || condition.starts_with("all (test"))
    })
}

/// Collects functions and the lines of tests.
#[derive(Default)]
struct Walk {
    functions: Vec<Function>,
    test_lines: Vec<RangeInclusive<usize>>,
}

impl Walk {
    fn note_test(&mut self, attributes: &[syn::Attribute], item: proc_macro2::Span) {
        if is_test_item(attributes) {
            self.test_lines.push(item.start().line..=item.end().line);
        }
    }

    fn note_function(
        &mut self,
        whole: proc_macro2::Span,
        signature: &syn::Signature,
        body: &syn::Block,
    ) {
        self.functions.push(Function {
            name: signature.ident.to_string(),
            start: whole.start().line,
            line: signature.ident.span().start().line,
            body: body.span().start().line..=body.span().end().line,
        });
    }
}

impl<'ast> Visit<'ast> for Walk {
    fn visit_item_mod(&mut self, item: &'ast syn::ItemMod) {
        self.note_test(&item.attrs, item.span());
        syn::visit::visit_item_mod(self, item);
    }

    fn visit_item_fn(&mut self, item: &'ast syn::ItemFn) {
        self.note_test(&item.attrs, item.span());
        self.note_function(item.span(), &item.sig, &item.block);
        syn::visit::visit_item_fn(self, item);
    }

    fn visit_item_impl(&mut self, item: &'ast syn::ItemImpl) {
        self.note_test(&item.attrs, item.span());
        syn::visit::visit_item_impl(self, item);
    }

    fn visit_item_use(&mut self, item: &'ast syn::ItemUse) {
        self.note_test(&item.attrs, item.span());
    }

    fn visit_impl_item_fn(&mut self, item: &'ast syn::ImplItemFn) {
        self.note_test(&item.attrs, item.span());
        self.note_function(item.span(), &item.sig, &item.block);
        syn::visit::visit_impl_item_fn(self, item);
    }

    fn visit_trait_item_fn(&mut self, item: &'ast syn::TraitItemFn) {
        if let Some(body) = &item.default {
            self.note_function(item.span(), &item.sig, body);
        }
        syn::visit::visit_trait_item_fn(self, item);
    }
}

/// Marks the files of `#[cfg(test)] mod name;` and everything below them.
fn mark_test_files(files: &mut [RustFile]) {
    let mut stems = BTreeSet::new();
    for file in files.iter() {
        let folder = module_folder(&file.path);
        for item in &file.syntax.items {
            if let syn::Item::Mod(module) = item
                && module.content.is_none()
                && is_test_item(&module.attrs)
            {
                stems.insert(format!("{folder}/{}", module.ident));
            }
        }
    }
    for file in files {
        let stem = module_folder(&file.path);
        let below = |test: &String| stem == *test || stem.starts_with(&format!("{test}/"));
        file.is_test |= stems.iter().any(below);
    }
}

/// Folder in which a file's child modules lie.
fn module_folder(path: &str) -> String {
    let stem = path.strip_suffix(".rs").unwrap_or(path);
    let root = ["/lib", "/main", "/mod"]
        .iter()
        .find_map(|name| stem.strip_suffix(name));
    root.unwrap_or(stem).to_owned()
}

/// Parses a sample, for the rules' tests.
#[cfg(test)]
pub fn sample(path: &str, text: &str) -> RustFile {
    let file = TextFile {
        path: path.to_owned(),
        text: text.to_owned(),
    };
    RustFile::parse(&file).expect("the sample is Rust")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_of_test_modules_are_tests() {
        let file = sample(
            "a/src/lib.rs",
            "fn f() {}\n#[cfg(test)]\nmod tests {\n fn g() {}\n}\n",
        );
        assert!(!file.in_test(1));
        assert!(file.in_test(2) && file.in_test(5));
        assert_eq!(file.product_lines(), 1);
        assert_eq!(file.functions.len(), 2);
    }

    #[test]
    fn code_that_is_built_without_tests_is_no_test() {
        let file = sample("a/src/lib.rs", "#[cfg(not(test))]\nfn f() {}\n");
        assert!(!file.in_test(2));
    }

    #[test]
    fn files_of_test_modules_are_tests() {
        let mut files = [
            sample("a/src/table.rs", "#[cfg(test)]\nmod tests;\nmod rows;\n"),
            sample("a/src/table/tests.rs", "fn f() {}\n"),
            sample("a/src/table/tests/deep.rs", "fn f() {}\n"),
            sample("a/src/table/rows.rs", "fn f() {}\n"),
        ];
        mark_test_files(&mut files);
        assert_eq!(files.map(|file| file.is_test), [false, true, true, false]);
    }

    #[test]
    fn sources_of_a_test_tool_are_product_code() {
        assert!(!sample("tests/sim/src/lib.rs", "").is_test);
        assert!(sample("types/tests/golden.rs", "").is_test);
        assert_eq!(
            sample("tests/sim/src/lib.rs", "").crate_folder(),
            "tests/sim"
        );
    }
}
