//! `knockd`: runs a service of knocks over HTTP, or manages its tokens.

use std::sync::Arc;

use clap::{Args, Subcommand};

use super::Done;
use super::knockd_args::KnockdArgs;
use super::process_args::{ProcessArgs, Reloading};
use super::token_cmd;
use crate::run::{Failure, Plan, Ports};
use crate::service::ServiceOptions;
use crate::sys::background::Readiness;

/// Notes and examples under the flags of `knockd`.
pub(super) const EXAMPLES: &str = "\
\
A request with the header X-Api-Key: TOKEN lets its sender in: POST /knock. GET /knock tells until
when, DELETE /knock ends it. The API is that of Knocker, whose clients work unchanged.

Examples:
  Make a token, which is printed once, for a phone that is let in at one place at a time:
    knockpipe knockd token new phone --tokens tokens --max-ttl 12h --one-address
  With TLS, on every address:
    knockpipe knockd -s '[::]:443' --tls-cert cert.pem --tls-key key.pem --tokens tokens \\
        --gate redis://127.0.0.1 --allow-prefix ip-allowed:
  Behind a proxy on the same host that has the TLS and sends X-Forwarded-For:
    knockpipe knockd -s '[127.0.0.1]:8000' --trusted-proxies 127.0.0.1 --tokens tokens \\
        --gate file:/var/lib/knockpipe/gate";

/// `knockpipe knockd`.
#[derive(Debug, Args)]
#[command(args_conflicts_with_subcommands = true, subcommand_negates_reqs = true)]
pub(super) struct KnockdCommandArgs {
    #[command(subcommand)]
    command: Option<KnockdCommand>,

    #[command(flatten)]
    knockd: KnockdArgs,

    #[command(flatten)]
    process: ProcessArgs,
}

#[derive(Debug, Subcommand)]
enum KnockdCommand {
    /// Make, list and revoke the tokens that may knock
    Token(token_cmd::CommandArgs),
}

impl KnockdCommandArgs {
    /// Runs the service until it is stopped.
    ///
    /// # Errors
    /// [`Failure`] of the arguments or the run.
    pub(super) fn run(self) -> Result<Done, Failure> {
        let Self { command, knockd, process } = self;
        if let Some(KnockdCommand::Token(args)) = command {
            return token_cmd::run(args);
        }
        let user = process.uid();
        let plan: Vec<ServiceOptions> = vec![knockd.options(None, user)?.into()];
        let files = knockd.files();
        let reread = Arc::new(move || {
            let services = vec![knockd.options(None, user)?.into()];
            Ok(Plan { services, restart: vec![] })
        });
        let reloading = Reloading { reread, files, ports: Ports::Fixed };
        process.run(Readiness::foreground(), plan, reloading).map(Done::from)
    }
}
