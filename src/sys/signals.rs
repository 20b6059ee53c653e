//! Signals that are handled: SIGTERM and SIGINT end the process, SIGHUP makes it read its files
//! again, or ends it where it has none.

use std::io;

use tokio::signal::unix::{Signal, SignalKind, signal};

/// Handlers of all of them, from the moment this is made.
#[derive(Debug)]
pub struct Signals {
    terminate: Signal,
    interrupt: Signal,
    hang_up: Signal,
}

/// Request of a signal.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Caught {
    /// Ends the process; the signal's name.
    Stop(&'static str),
    /// Reads the files again.
    Reload,
}

impl Signals {
    /// Catches the signals; none ends the process by itself any more. To be called inside the
    /// runtime.
    ///
    /// # Errors
    /// When the system refuses a handler.
    pub fn catch() -> io::Result<Self> {
        Ok(Self {
            terminate: signal(SignalKind::terminate())?,
            interrupt: signal(SignalKind::interrupt())?,
            hang_up: signal(SignalKind::hangup())?,
        })
    }

    /// Waits for the next one. Several of a kind at once count as one. None is lost when the future
    /// is dropped and created again.
    pub async fn next(&mut self) -> Caught {
        tokio::select! {
            biased;
            _ = self.terminate.recv() => Caught::Stop("SIGTERM"),
            _ = self.interrupt.recv() => Caught::Stop("SIGINT"),
            _ = self.hang_up.recv() => Caught::Reload,
        }
    }

    /// Waits for the next that ends the process, and returns its name. The
    /// others stay for [`Self::next`].
    pub async fn stop(&mut self) -> &'static str {
        tokio::select! {
            _ = self.terminate.recv() => "SIGTERM",
            _ = self.interrupt.recv() => "SIGINT",
        }
    }

    /// Waits for the next, in a process that has no files to read again: all of them end it.
    pub async fn ending(&mut self) -> Ending {
        let kind = tokio::select! {
            biased;
            _ = self.terminate.recv() => SignalKind::terminate(),
            _ = self.interrupt.recv() => SignalKind::interrupt(),
            _ = self.hang_up.recv() => SignalKind::hangup(),
        };
        Ending(kind.as_raw_value())
    }
}

/// A signal that ends a process.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ending(i32);

impl Ending {
    /// Returns the exit status that shells know for it: 128 and its number.
    pub fn status(self) -> u8 {
        u8::try_from(128 + self.0).unwrap_or(u8::MAX)
    }
}

#[cfg(test)]
mod tests {
    use nix::sys::signal::{Signal, raise};

    use super::*;

    #[tokio::test]
    async fn signals_are_distinguished_and_none_is_lost() {
        let mut signals = Signals::catch().unwrap();
        raise(Signal::SIGHUP).unwrap();
        raise(Signal::SIGTERM).unwrap();
        assert_eq!(signals.stop().await, "SIGTERM");
        assert_eq!(signals.next().await, Caught::Reload);
        raise(Signal::SIGINT).unwrap();
        assert_eq!(signals.next().await, Caught::Stop("SIGINT"));
        for (signal, status) in
            [(Signal::SIGHUP, 129), (Signal::SIGINT, 130), (Signal::SIGTERM, 143)]
        {
            raise(signal).unwrap();
            assert_eq!(signals.ending().await.status(), status);
        }
    }
}
