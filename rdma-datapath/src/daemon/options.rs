//! Command lines: value parsers, logging, and the two ways to end with an error.

use std::process::ExitCode;

use dynamicswap_types::{Bytes, SlabSize};
use thiserror::Error;
use tracing_subscriber::EnvFilter;

/// Something that the caller can mend: one sentence, exit code 2.
#[derive(Debug, Error)]
#[error("{0}")]
pub struct BadInput(String);

impl BadInput {
    /// What is wrong, with what, and what to do next.
    #[must_use]
    pub fn new(sentence: impl ToString) -> Self {
        Self(sentence.to_string())
    }
}

/// Exit code of [`BadInput`]; clap uses the same.
pub const EXIT_BAD_INPUT: u8 = 2;

/// Turns how `main` ended into an exit code, and says what went wrong on stderr: 2 if a
/// [`BadInput`] is anywhere in the chain, else 1.
#[must_use]
pub fn exit_code(program: &str, result: anyhow::Result<()>) -> ExitCode {
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => match error.chain().find_map(|e| e.downcast_ref::<BadInput>()) {
            Some(input) => {
                eprintln!("{program}: {input}");
                ExitCode::from(EXIT_BAD_INPUT)
            }
            None => {
                eprintln!("{program}: {error:#}");
                ExitCode::FAILURE
            }
        },
    }
}

/// Logs to stderr; `RUST_LOG` chooses what, `info` by default.
pub fn start_log() {
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new("info"));
    let log = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .with_ansi(false)
        .finish();
    // Fails only if a log exists already, which then stays.
    let _ = tracing::subscriber::set_global_default(log);
}

/// clap value parser of a slab size such as `64Mi`.
///
/// # Errors
/// A sentence that says which sizes there are.
pub fn parse_slab_size(text: &str) -> Result<SlabSize, String> {
    let bytes: Bytes = text.parse().map_err(|error| format!("{error}"))?;
    SlabSize::try_from(bytes).map_err(|error| error.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;
    use anyhow::Context as _;

    #[test]
    fn bad_input_exits_with_two_even_under_context() {
        let code = |result| format!("{:?}", exit_code("test", result));
        let two = format!("{:?}", ExitCode::from(2));
        assert_eq!(code(Err(BadInput::new("wrong").into())), two);
        let wrapped = Err::<(), _>(BadInput::new("wrong")).context("start");
        assert_eq!(code(wrapped), two);
        assert_eq!(
            code(Err(anyhow::anyhow!("broken"))),
            format!("{:?}", ExitCode::FAILURE)
        );
        assert_eq!(code(Ok(())), format!("{:?}", ExitCode::SUCCESS));
    }

    #[test]
    fn slab_sizes_are_quantities_in_range() {
        assert!(parse_slab_size("16Mi").is_ok());
        assert!(parse_slab_size("3Mi").is_err_and(|e| e.contains("power of two")));
        assert!(parse_slab_size("x").is_err_and(|e| e.contains("quantity")));
    }
}
