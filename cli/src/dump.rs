//! `dump`: everything that somebody needs who helps from afar, in one folder, without secrets.
//!
//! Owns what is asked for and what is left out. What cannot be had is said in its file; the rest is
//! still worth something.

use std::fs;
use std::path::Path;
use std::process::ExitCode;

use anyhow::{Context as _, Result};

use crate::args::DumpArgs;
use crate::failure::Refusal;
use crate::kubectl::Place;
use crate::ui::Ui;

/// Lines of each container's log, from its end.
const LOG_LINES: &str = "--tail=5000";
/// What stands where something was taken out.
const REDACTED: &str = "[redacted]";
/// How a signed token begins: `{"` in base64.
const TOKEN: &str = "eyJ";
/// Shorter words that begin so are none.
const TOKEN_LENGTH_MIN: usize = 40;

/// A file, and what kubectl is asked for it.
const QUESTIONS: [(&str, &[&str]); 10] = [
    ("version.txt", &["version"]),
    ("nodes.txt", &["get", "nodes", "--output=wide"]),
    (
        "policies.yaml",
        &[
            "get",
            "remotememorypolicies",
            "--all-namespaces",
            "--output=yaml",
        ],
    ),
    (
        "memory-servers.yaml",
        &["get", "memoryservers", "--output=yaml"],
    ),
    (
        "swap-devices.yaml",
        &["get", "swapdevices", "--output=yaml"],
    ),
    ("slab-maps.yaml", &["get", "slabmaps", "--output=yaml"]),
    ("pods.txt", &["describe", "pods"]),
    ("events.txt", &["get", "events", "--sort-by=.lastTimestamp"]),
    // Those on our own objects lie in the policies' namespaces, and in 'default' for objects without one.
    (
        "events-on-objects.txt",
        &[
            "get",
            "events",
            "--all-namespaces",
            "--field-selector=involvedObject.apiVersion=dynamicswap.io/v1alpha1",
        ],
    ),
    ("leases.yaml", &["get", "leases", "--output=yaml"]),
];

/// Writes the folder.
///
/// # Errors
/// A refusal if it is there already, or nothing could be asked.
pub fn run(args: &DumpArgs) -> Result<ExitCode> {
    let place = args.place.place();
    let out = &args.out;
    if out.exists() {
        let sentence = format!(
            "{} is there already: name another folder with --out",
            out.display()
        );
        return Err(Refusal::error(sentence));
    }
    // Before anything is written: whether there is anything to ask.
    let pods = place.ask(&["get", "pods", "--output=name"])?;
    let logs = out.join("logs");
    fs::create_dir_all(&logs).with_context(|| format!("cannot make {}", logs.display()))?;
    let mut missing = 0;
    for (file, question) in QUESTIONS {
        missing += usize::from(!keep(&place, &out.join(file), question)?);
    }
    for pod in pods.lines() {
        let name = pod.rsplit('/').next().unwrap_or(pod);
        let now = ["logs", pod, "--all-containers", "--timestamps", LOG_LINES];
        missing += usize::from(!keep(&place, &logs.join(format!("{name}.log")), &now)?);
        let before = [&now[..], &["--previous"]].concat();
        // Most containers had no life before this one.
        if let Ok(said) = place.ask(&before) {
            write(&logs.join(format!("{name}.previous.log")), &said)?;
        }
    }
    let mut ui = Ui::new();
    ui.done("written", &out.display().to_string());
    if missing > 0 {
        ui.warn(
            "missing",
            &format!("{missing} files hold only why they could not be had"),
        );
    }
    Ok(ExitCode::SUCCESS)
}

/// Asks, and writes the answer or why there is none; true if there is one.
fn keep(place: &Place, path: &Path, question: &[&str]) -> Result<bool> {
    let (said, answered) = match place.ask(question) {
        Ok(said) => (said, true),
        Err(error) => (format!("{error:#}\n"), false),
    };
    write(path, &said)?;
    Ok(answered)
}

fn write(path: &Path, text: &str) -> Result<()> {
    fs::write(path, redact(text)).with_context(|| format!("cannot write {}", path.display()))
}

/// The same text without keys and tokens: blocks of private keys, and words that are signed tokens.
fn redact(text: &str) -> String {
    let mut kept = String::with_capacity(text.len());
    let mut in_key = false;
    for line in text.split_inclusive('\n') {
        let edge = line.contains("PRIVATE KEY-----");
        if edge && line.contains("-----BEGIN") {
            in_key = true;
            kept.push_str(REDACTED);
            kept.push('\n');
        }
        if !in_key {
            push_without_tokens(&mut kept, line);
        }
        if edge && line.contains("-----END") {
            in_key = false;
        }
    }
    kept
}

fn push_without_tokens(kept: &mut String, line: &str) {
    let is_of_token = |letter: char| letter.is_ascii_alphanumeric() || "-_.=".contains(letter);
    let mut rest = line;
    while let Some(start) = rest.find(TOKEN) {
        let (before, word) = rest.split_at(start);
        let end = word.find(|letter| !is_of_token(letter));
        let (word, after) = word.split_at(end.unwrap_or(word.len()));
        kept.push_str(before);
        kept.push_str(if word.len() < TOKEN_LENGTH_MIN {
            word
        } else {
            REDACTED
        });
        rest = after;
    }
    kept.push_str(rest);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_and_tokens_are_left_out_and_nothing_else() {
        let token = format!("eyJ{}.{}", "a1B_".repeat(9), "x-9".repeat(20));
        let text = format!(
            "first\nkey: |\n  -----BEGIN EC PRIVATE KEY-----\n  secret\n  -----END EC PRIVATE KEY-----\n\
             token={token}; end\neyJshort stays\nlast"
        );
        assert_eq!(
            redact(&text),
            "first\nkey: |\n[redacted]\ntoken=[redacted]; end\neyJshort stays\nlast"
        );
    }

    #[test]
    fn no_secret_is_asked_for() {
        for (file, question) in QUESTIONS {
            let words = question.iter();
            assert!(words.clone().all(|word| !word.contains("secret")), "{file}");
            assert!(
                ["get", "describe", "version"].contains(&question[0]),
                "{file}"
            );
        }
    }
}
