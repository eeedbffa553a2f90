//! Ctrl-C and termination, as a condition that every wait of a command looks at.
//!
//! Owns the one thread that listens for signals. Nothing is cleaned up here: a wait that is
//! interrupted returns an error, and the drop guards on its way out do the rest.

use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::time::Duration;

use anyhow::{Context, Result};
use tokio::signal::unix::{SignalKind, signal};

use crate::failure::Interrupted;

/// Shared by everything that waits.
#[derive(Debug, Clone, Default)]
pub struct Interrupt {
    inner: Arc<Inner>,
}

#[derive(Debug, Default)]
struct Inner {
    signals: Mutex<u32>,
    changed: Condvar,
}

impl Interrupt {
    /// Starts to listen for SIGINT, SIGTERM and SIGHUP.
    ///
    /// # Errors
    /// If the process may not handle signals.
    pub fn listen() -> Result<Self> {
        let interrupt = Self::default();
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_io()
            .build()
            .context("cannot listen for Ctrl-C")?;
        let mut signals = {
            let _guard = runtime.enter();
            let kinds = [
                SignalKind::interrupt(),
                SignalKind::terminate(),
                SignalKind::hangup(),
            ];
            kinds.map(signal)
        };
        let listener = interrupt.clone();
        std::thread::Builder::new()
            .name("signals".to_owned())
            .spawn(move || {
                runtime.block_on(async {
                    let [Ok(interrupt), Ok(terminate), Ok(hangup)] = &mut signals else {
                        return;
                    };
                    loop {
                        tokio::select! {
                            _ = interrupt.recv() => {}
                            _ = terminate.recv() => {}
                            _ = hangup.recv() => {}
                        }
                        listener.raise();
                    }
                });
            })
            .context("cannot start the thread that listens for Ctrl-C")?;
        Ok(interrupt)
    }

    /// As if a signal had come.
    pub fn raise(&self) {
        let mut signals = self
            .inner
            .signals
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        *signals += 1;
        if *signals == 2 {
            eprintln!("\ncleaning up; this takes some seconds");
        }
        self.inner.changed.notify_all();
    }

    /// Fails once a signal has come.
    ///
    /// # Errors
    /// [`Interrupted`].
    pub fn check(&self) -> Result<(), Interrupted> {
        self.wait(Duration::ZERO)
    }

    /// Waits for `duration`, unless a signal comes.
    ///
    /// # Errors
    /// [`Interrupted`].
    pub fn wait(&self, duration: Duration) -> Result<(), Interrupted> {
        let signals = self
            .inner
            .signals
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        let waited = self
            .inner
            .changed
            .wait_timeout_while(signals, duration, |signals| *signals == 0);
        let (signals, _timed_out) = waited.unwrap_or_else(PoisonError::into_inner);
        if *signals == 0 {
            Ok(())
        } else {
            Err(Interrupted)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn signal_ends_a_wait_and_all_later_ones() {
        let interrupt = Interrupt::default();
        assert_eq!(interrupt.wait(Duration::from_millis(1)), Ok(()));
        let raiser = interrupt.clone();
        let thread = std::thread::spawn(move || raiser.raise());
        assert_eq!(interrupt.wait(Duration::from_secs(60)), Err(Interrupted));
        assert_eq!(interrupt.check(), Err(Interrupted));
        thread.join().expect("raised");
    }
}
