//! What ends a command early, and the exit code that says so.
//!
//! Owns the rule: 2 for what the user can mend (bad input, a missing privilege, a cluster that is
//! not up), 1 for what the system did wrong, 130 for Ctrl-C.

use std::process::ExitCode;

use thiserror::Error;

/// One clear sentence for the user: what, to what, what next. Exit code 2.
#[derive(Debug, Error)]
#[error("{0}")]
pub struct Refusal(pub String);

impl Refusal {
    /// Says `sentence` to the user.
    #[must_use]
    pub fn error(sentence: impl Into<String>) -> anyhow::Error {
        Self(sentence.into()).into()
    }
}

/// Ctrl-C, or a request to terminate. Exit code 130.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
#[error("interrupted")]
pub struct Interrupted;

/// The exit code that an error stands for.
#[must_use]
pub fn exit_code(error: &anyhow::Error) -> ExitCode {
    if error.downcast_ref::<Interrupted>().is_some() {
        ExitCode::from(130)
    } else if error.downcast_ref::<Refusal>().is_some() {
        ExitCode::from(2)
    } else {
        ExitCode::from(1)
    }
}

/// Returns early with a [`Refusal`] unless a condition holds.
#[macro_export]
macro_rules! refuse_unless {
    ($condition:expr, $($sentence:tt)+) => {
        if !$condition {
            return Err($crate::failure::Refusal::error(format!($($sentence)+)));
        }
    };
}

#[cfg(test)]
mod tests {
    use super::*;
    use anyhow::Context;

    fn code(error: &anyhow::Error) -> String {
        format!("{:?}", exit_code(error))
    }

    #[test]
    fn refusal_is_two_even_with_context_and_the_rest_is_one() {
        let refused = Err::<(), _>(Refusal::error("no")).context("while starting");
        assert_eq!(
            code(&refused.expect_err("refused")),
            format!("{:?}", ExitCode::from(2))
        );
        assert_eq!(
            code(&anyhow::anyhow!("broken")),
            format!("{:?}", ExitCode::from(1))
        );
        assert_eq!(
            code(&Interrupted.into()),
            format!("{:?}", ExitCode::from(130))
        );
    }
}
