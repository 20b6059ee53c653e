//! The flags of every command that opens connections: `encrypt`, `decrypt`, `pipe`, and those of
//! spiped and spipe.

use std::time::Duration;

use clap::Args;
use nix::unistd::Uid;

use super::errors::UsageError;
use super::times::{self, HeartbeatTime, IdleTimeout};
use super::values::SuiteChoice;
use crate::addr::BindAddress;
use crate::proto::Padding;
use crate::sys::keyfile::Access;

/// Deadline of a dial, of a handshake, and of a port that should open, unless `-o` says otherwise.
pub(super) const DEFAULT_TIMEOUT: Duration = Duration::from_secs(5);

/// Heading of the flags about single connections.
pub(super) const CONNECTIONS: &str = "Connections";

/// Flags of every command that opens connections.
#[derive(Debug, Args)]
pub(super) struct ConnectionArgs {
    /// Accept key files, and the gate's password file, that their group or others can read or
    /// change
    #[arg(long)]
    pub(super) allow_readable_key: bool,

    /// Deadline of each dial, and of each handshake [default: 5s]
    #[arg(
        short = 'o', long, value_name = "DURATION", value_parser = times::parse,
        allow_negative_numbers = true, help_heading = CONNECTIONS
    )]
    pub(super) timeout: Option<Duration>,

    /// Local address of outgoing connections: ip, [ip] or [ip]:port
    #[arg(short, long, value_name = "ADDR", help_heading = CONNECTIONS)]
    pub(super) bind: Option<BindAddress>,

    /// Do not probe idle connections; only --heartbeat then notices a vanished peer
    #[arg(short = 'j', long, help_heading = CONNECTIONS)]
    pub(super) no_keepalive: bool,

    /// Send a heartbeat on sessions that were silent for this long, and end those where the other
    /// end misses three of its own; the shorter time of both ends counts
    #[arg(
        long, value_name = "DURATION|off", default_value = "60s",
        allow_negative_numbers = true, help_heading = CONNECTIONS
    )]
    pub(super) heartbeat: HeartbeatTime,

    /// End sessions without application data, either way, for this long
    #[arg(
        long, value_name = "DURATION|off", default_value = "off",
        allow_negative_numbers = true, help_heading = CONNECTIONS
    )]
    pub(super) idle_timeout: IdleTimeout,

    /// Hide lengths: pad what is sent to a multiple of this many bytes
    #[arg(long, value_name = "none|BYTES", default_value_t, help_heading = CONNECTIONS)]
    pub(super) padding: Padding,

    /// Cipher of the records: auto, chacha20-poly1305 or aes-256-gcm
    #[arg(long, value_name = "SUITE", default_value = "auto", help_heading = CONNECTIONS)]
    pub(super) suite: SuiteChoice,
}

impl ConnectionArgs {
    /// Returns the tolerated access of others to files with a secret.
    pub(super) fn access(&self, user: Option<Uid>) -> Access {
        Access { by_others: self.allow_readable_key, user }
    }

    /// Returns the deadline; zero means the default, as in spiped.
    pub(super) fn timeout(&self) -> Duration {
        self.timeout.filter(|time| !time.is_zero()).unwrap_or(DEFAULT_TIMEOUT)
    }

    /// Refuses zero, which only the spiped spelling accepts as the default.
    ///
    /// # Errors
    /// [`UsageError::ZeroSeconds`].
    pub(super) fn refuse_zero(&self) -> Result<(), UsageError> {
        if self.timeout.is_some_and(|time| time.is_zero()) {
            let remedy = "give a time such as 5s, or leave it out";
            return Err(UsageError::ZeroSeconds { flag: "-o/--timeout", remedy });
        }
        Ok(())
    }
}
