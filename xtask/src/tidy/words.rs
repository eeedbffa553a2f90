//! Rules on words, in sources and documents alike: terms to avoid, notes without an issue, paths
//! of somebody's machine.

use super::Finding;
use super::allowed::WORDS;
use super::source::TextFile;

/// Terms to avoid and what to say (docs/glossary.md). Written in two parts, so that this file
/// passes its own rule.
const TERMS: [(&str, &str); 5] = [
    (
        concat!("mas", "ter"),
        "say controller, leader or primary, whichever it is",
    ),
    (
        concat!("sla", "ve"),
        "say donor, follower or replica, whichever it is",
    ),
    (
        concat!("chu", "nk"),
        "say slab, page run or part, whichever it is",
    ),
    (concat!("black", "list"), "say deny list"),
    (concat!("white", "list"), "say allow list"),
];

/// Names in the standard library that hold such a term; free as a method or path segment.
const LIBRARY_NAMES: [&str; 11] = [
    "chunks",
    "chunks_exact",
    "chunks_mut",
    "chunks_exact_mut",
    "rchunks",
    "as_chunks",
    "as_chunks_mut",
    "chunk_by",
    "first_chunk",
    "last_chunk",
    "split_first_chunk",
];

/// Marks of unfinished work.
const NOTES: [&str; 3] = [
    concat!("TO", "DO"),
    concat!("FIX", "ME"),
    concat!("XX", "X"),
];

/// Beginnings of paths that exist on one machine only.
const PATHS: [&str; 5] = [
    concat!("/ho", "me/"),
    concat!("/Us", "ers/"),
    concat!("/ro", "ot/"),
    concat!("/tmp/", "wt"),
    concat!("/wo", "rk/"),
];

/// A word and what surrounds it.
struct Word<'a> {
    text: &'a str,
    before: &'a str,
    after: &'a str,
}

fn words(line: &str) -> impl Iterator<Item = Word<'_>> {
    let is_part = |c: char| c.is_alphanumeric() || c == '_';
    let mut rest = 0;
    std::iter::from_fn(move || {
        let start = rest + line[rest..].find(is_part)?;
        let length = line[start..]
            .find(|c| !is_part(c))
            .unwrap_or(line.len() - start);
        rest = start + length;
        Some(Word {
            text: &line[start..rest],
            before: &line[..start],
            after: &line[rest..],
        })
    })
}

/// The term to avoid in an identifier or word, if any.
fn term_in(word: &Word<'_>) -> Option<(&'static str, &'static str)> {
    let member = word.before.ends_with('.') || word.before.ends_with("::");
    if member && LIBRARY_NAMES.contains(&word.text) {
        return None;
    }
    let parts = identifier_parts(word.text);
    let is_term = |term: &str| {
        parts.iter().any(|part| {
            part == term
                || part
                    .strip_prefix(term)
                    .is_some_and(|end| matches!(end, "s" | "ed" | "ing"))
        })
    };
    TERMS.iter().find(|(term, _)| is_term(term)).copied()
}

/// Lower-case parts of `snake_case` and `CamelCase`.
fn identifier_parts(word: &str) -> Vec<String> {
    let mut parts = vec![String::new()];
    let mut previous_lower = false;
    for c in word.chars() {
        if c == '_' || (c.is_uppercase() && previous_lower) {
            parts.push(String::new());
        }
        previous_lower = c.is_lowercase();
        if let Some(part) = parts.last_mut()
            && c != '_'
        {
            part.extend(c.to_lowercase());
        }
    }
    parts
}

/// Whether the text holds the term.
pub fn has_word(text: &str, term: &str) -> bool {
    text.lines()
        .flat_map(words)
        .any(|word| term_in(&word).is_some_and(|(found, _)| found == term))
}

fn is_excused(path: &str, word: &str) -> bool {
    let covers =
        |listed: &str| path == listed || (listed.ends_with('/') && path.starts_with(listed));
    WORDS
        .iter()
        .any(|exception| exception.word == word && covers(exception.path))
}

/// Every finding of these rules in one file.
pub fn check(file: &TextFile) -> Vec<Finding> {
    let lines = file.text.lines().enumerate();
    lines
        .flat_map(|(index, line)| check_line(&file.path, index + 1, line))
        .collect()
}

fn check_line(path: &str, number: usize, line: &str) -> Vec<Finding> {
    let mut findings = Vec::new();
    for word in words(line) {
        if let Some((term, remedy)) = term_in(&word)
            && !is_excused(path, term)
        {
            findings.push(Finding::new(
                path,
                number,
                format!("'{term}' is a term to avoid"),
                remedy,
            ));
        }
        if NOTES.contains(&word.text) && !names_issue(word.after) {
            let what = format!("'{}' without an issue", word.text);
            findings.push(Finding::new(
                path,
                number,
                what,
                "finish it, or name the issue as in (#12)",
            ));
        }
    }
    let foreign = PATHS.iter().find(|start| holds_path(line, start));
    findings.extend(foreign.map(|start| {
        let what = format!("a path under {start}, which exists on one machine only");
        Finding::new(
            path,
            number,
            what,
            "make it relative, or take it from the environment",
        )
    }));
    findings
}

/// Whether a path that begins so stands in the line, and not in the middle of another path.
fn holds_path(line: &str, start: &str) -> bool {
    line.match_indices(start).any(|(at, _)| {
        let before = line[..at].chars().next_back();
        !before.is_some_and(|c| c.is_alphanumeric() || "._-/}~*".contains(c))
    })
}

/// Whether the text begins with an issue's number in parentheses.
fn names_issue(text: &str) -> bool {
    let number = text
        .strip_prefix("(#")
        .and_then(|rest| rest.split_once(')'));
    number
        .is_some_and(|(digits, _)| !digits.is_empty() && digits.bytes().all(|b| b.is_ascii_digit()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn whats(text: &str) -> Vec<String> {
        let file = TextFile {
            path: "a/src/lib.rs".to_owned(),
            text: text.to_owned(),
        };
        check(&file)
            .into_iter()
            .map(|finding| finding.what)
            .collect()
    }

    #[test]
    fn terms_are_found_in_identifiers_and_prose() {
        for (term, _) in TERMS {
            assert_eq!(whats(&format!("// the {term} here")).len(), 1, "{term}");
            assert_eq!(whats(&format!("let old_{term}s = 1;")).len(), 1, "{term}");
        }
        let camel = format!("struct Old{}{};", "Chu", "nkList");
        assert_eq!(whats(&camel).len(), 1);
    }

    #[test]
    fn other_words_and_library_names_pass() {
        assert!(whats("remastered mastery bytes.chunks_exact(8) slice::chunks").is_empty());
        assert_eq!(whats(concat!("// two chu", "nks")).len(), 1);
    }

    #[test]
    fn note_needs_an_issue() {
        for note in NOTES {
            assert_eq!(whats(&format!("// {note}: later")).len(), 1);
            assert!(whats(&format!("// {note}(#12): later")).is_empty());
        }
    }

    #[test]
    fn paths_of_one_machine_are_found() {
        for start in PATHS {
            assert_eq!(
                whats(&format!("let path = \"{start}me\";")).len(),
                1,
                "{start}"
            );
        }
        assert!(whats("/sys/fs/cgroup/work/x target/work/").is_empty());
    }
}
