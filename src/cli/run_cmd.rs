//! `run`: what a configuration file says, done.

use std::path::PathBuf;
use std::sync::Arc;

use clap::Args;
use tracing::warn;

use super::config::Config;
use crate::run::{Failure, Outcome, Ports, Reread};
use crate::sys::background::Readiness;

/// Where the file is unless `-c` says otherwise.
pub(super) const DEFAULT_FILE: &str = "/etc/knockpipe/knockpipe.toml";

/// What stands under the flags of `run`.
pub(super) const RUN_EXAMPLES: &str = "\
Example of a file:
  [keys]
  db = \"db.key\"                      # next to this file; from 'knockpipe keygen'
  [tunnels.redis]
  mode = \"encrypt\"
  source = \"127.0.0.1:6379\"
  target = \"db.example.org:6380\"
  key = \"db\"
  service = \"redis\"
Keys are the long flags of 'knockpipe encrypt' and 'knockpipe decrypt'. [defaults] holds for all
tunnels, [process] has the flags about the process and its log. docs/OPERATING.md tells the rest.";

/// `knockpipe run`.
#[derive(Debug, Args)]
pub(super) struct RunArgs {
    /// The configuration file
    #[arg(short, long, value_name = "FILE", default_value = DEFAULT_FILE)]
    config: PathBuf,
}

/// Runs the tunnels of a file until they are stopped.
///
/// # Errors
/// [`Failure`] of the file or the run.
pub(super) fn run(args: RunArgs) -> Result<Outcome, Failure> {
    let config = Config::load(&args.config)?;
    let plan = config.plan()?;
    let files = config.files();
    let process = config.process;
    let before = process.clone();
    let reread: Reread = Arc::new(move || {
        let config = Config::load(&args.config)?;
        let plan = config.plan()?;
        if config.process != before {
            warn!("settings of [process] have changed; they take effect at the next start");
        }
        Ok(plan)
    });
    process.run(Readiness::foreground(), plan, (reread, files, Ports::Any))
}
