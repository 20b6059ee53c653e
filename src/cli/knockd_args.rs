//! The flags of `knockd`, and their options.

use std::path::PathBuf;
use std::sync::Arc;

use clap::Args;
use nix::unistd::Uid;

use super::errors::UsageError;
use super::gate_args::StoreRuleArgs;
use super::process_args::{ProcessArgs, Reloading};
use super::tunnel_args::LIMITS;
use super::values::HandshakeLimit;
use super::web_args::WebArgs;
use crate::knockd::Options;
use crate::run::{Failure, Outcome, Plan, Ports};
use crate::service::ServiceOptions;
use crate::sys::background::Readiness;
use crate::web::ConnectionLimit;

/// Notes and examples under the flags of `knockd`.
pub(super) const EXAMPLES: &str = "\
Example:
  Behind a proxy with TLS on the same host:
    knockpipe knockd -s '[127.0.0.1]:8000' --gate redis://127.0.0.1 --allow-prefix allow:
  docs/operating/http-knock.md tells the rest.";

/// `knockpipe knockd`.
#[derive(Debug, Args)]
pub(super) struct KnockdCommandArgs {
    #[command(flatten)]
    knockd: KnockdArgs,

    #[command(flatten)]
    process: ProcessArgs,
}

/// The flags of a service of knocks over HTTP.
#[derive(Debug, Args)]
pub(super) struct KnockdArgs {
    #[command(flatten)]
    pub(super) web: WebArgs,

    /// Connections at once; beyond it the source with most loses one
    #[arg(
        short = 'n', long, value_name = "N", default_value = "1024",
        allow_negative_numbers = true, help_heading = LIMITS
    )]
    max_sessions: HandshakeLimit,

    #[command(flatten)]
    pub(super) gate: StoreRuleArgs,
}

impl KnockdCommandArgs {
    /// Runs the service until it is stopped.
    ///
    /// # Errors
    /// [`Failure`] of the arguments or the run.
    pub(super) fn run(self) -> Result<Outcome, Failure> {
        let Self { knockd, process } = self;
        let user = process.uid();
        let plan: Vec<ServiceOptions> = vec![knockd.options(None, user)?.into()];
        let files = knockd.files();
        let reread = Arc::new(move || {
            let services = vec![knockd.options(None, user)?.into()];
            Ok(Plan { services, restart: vec![] })
        });
        process.run(Readiness::foreground(), plan, Reloading { reread, files, ports: Ports::Fixed })
    }
}

impl KnockdArgs {
    /// Returns the files that are read again on a reload.
    pub(super) fn files(&self) -> Vec<PathBuf> {
        self.web.files().chain(self.gate.files()).cloned().collect()
    }

    /// Returns the service that these arguments describe, by this name.
    ///
    /// # Errors
    /// [`Failure`] of the arguments, or of the files that they name.
    pub(super) fn options(
        &self,
        name: Option<Arc<str>>,
        user: Option<Uid>,
    ) -> Result<Options, Failure> {
        let connections = ConnectionLimit::Evict(self.max_sessions.0);
        let gate = self.gate.options(self.web.access(user))?;
        let gate = gate.ok_or(UsageError::NoStore)?;
        Ok(Options { web: self.web.options(name, user, connections)?, gate })
    }
}
