//! The signals that end the process: SIGTERM and SIGINT.

use std::io;

use tokio::signal::unix::{Signal, SignalKind, signal};

/// SIGTERM and SIGINT, caught from the moment this is made.
#[derive(Debug)]
pub struct StopSignals {
    terminate: Signal,
    interrupt: Signal,
}

impl StopSignals {
    /// Catches both signals; they no longer end the process by themselves. Call
    /// it inside the runtime.
    ///
    /// # Errors
    /// When the system refuses a handler.
    pub fn catch() -> io::Result<Self> {
        Ok(Self {
            terminate: signal(SignalKind::terminate())?,
            interrupt: signal(SignalKind::interrupt())?,
        })
    }

    /// Waits for the next of them and returns its name. No signal is lost when
    /// the future is dropped and asked for again.
    pub async fn next(&mut self) -> &'static str {
        tokio::select! {
            _ = self.terminate.recv() => "SIGTERM",
            _ = self.interrupt.recv() => "SIGINT",
        }
    }
}

#[cfg(test)]
mod tests {
    use nix::sys::signal::{Signal, raise};

    use super::*;

    #[tokio::test]
    async fn first_and_second_are_told_apart() {
        let mut signals = StopSignals::catch().unwrap();
        raise(Signal::SIGTERM).unwrap();
        assert_eq!(signals.next().await, "SIGTERM");
        raise(Signal::SIGINT).unwrap();
        assert_eq!(signals.next().await, "SIGINT");
    }
}
