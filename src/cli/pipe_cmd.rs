//! `pipe`: standard input and output through a tunnel.

use std::path::PathBuf;

use clap::Args;

use super::connection_args::ConnectionArgs;
use super::errors::UsageError;
use super::key_cmd;
use super::process_args::{LogArgs, SandboxArgs};
use super::values::{Level, Target, one_target};
use super::wish_args::KnockWishArgs;
use crate::addr::{Address, ServiceName};
use crate::knocker::KnockWish;
use crate::observe::log::Output;
use crate::run::{self, Failure, Outcome, Prepared};
use crate::tunnel::PipeOptions;

/// `knockpipe pipe`.
#[derive(Debug, Args)]
pub(super) struct PipeArgs {
    /// Address of the decrypt end: host:port, [ip]:port or /path/to/socket
    #[arg(short, long, value_name = "ADDR", value_parser = one_target)]
    target: Target,

    /// Key file, or - for standard input (then there is nothing left to send); repeatable: the
    /// first dials
    #[arg(short, long = "key", value_name = "FILE", required = true)]
    keys: Vec<PathBuf>,

    #[command(flatten)]
    knock: KnockWishArgs,

    #[command(flatten)]
    shared: SharedPipeArgs,
}

/// Flags that `pipe` and the `spipe` spelling share.
#[derive(Debug, Args)]
pub(super) struct SharedPipeArgs {
    /// Ask the decrypt end for this service (its -t NAME=ADDR) instead of its default target
    #[arg(long, value_name = "NAME")]
    service: Option<ServiceName>,

    #[command(flatten)]
    connection: ConnectionArgs,

    #[command(flatten)]
    log: LogArgs,

    #[command(flatten)]
    sandbox: SandboxArgs,
}

/// Runs `knockpipe pipe` until both directions have ended.
///
/// # Errors
/// [`Failure`] of the arguments, the keys or the run.
pub(super) fn pipe(args: PipeArgs) -> Result<Outcome, Failure> {
    if args.target.service.is_some() {
        return Err(UsageError::NamedTarget.into());
    }
    args.shared.connection.refuse_zero()?;
    let knock = args.knock.wish(std::slice::from_ref(&args.target.address))?;
    args.shared.run(args.target.address, &args.keys, knock)
}

impl SharedPipeArgs {
    /// Reads the keys and carries the streams.
    ///
    /// # Errors
    /// [`Failure`] of the keys or the run.
    pub(super) fn run(
        self,
        target: Address,
        keys: &[PathBuf],
        knock: Option<KnockWish>,
    ) -> Result<Outcome, Failure> {
        let keys = key_cmd::ring(keys, self.connection.access(None))?;
        let options = PipeOptions {
            target,
            service: self.service.unwrap_or_default(),
            keys,
            bind: self.connection.bind,
            timeout: self.connection.timeout(),
            keepalive: !self.connection.no_keepalive,
            padding: self.connection.padding,
            suites: self.connection.suite.0,
            heartbeat: self.connection.heartbeat.0,
            idle_timeout: self.connection.idle_timeout.0,
            knock,
        };
        let rules = self.sandbox.rules(|| run::rules_of_pipe(&options));
        let prepared = Prepared::new([&options.keys].into_iter(), rules);
        // The caller's terminal or ssh shares our standard error: only problems are logged.
        let _log = self.log.start(Level::Warn, Output::Stderr)?;
        run::pipe(options, &prepared)
    }
}
