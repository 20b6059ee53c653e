//! `run`: runs the tunnels of a configuration file.

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use clap::Args;

use super::Done;
use super::config::Config;
use super::output::print;
use super::process_args::Reloading;
use crate::run::{Failure, Outcome, Plan, Ports, Reread};
use crate::sys::background::{self, Readiness, Side};
use crate::sys::notify::WATCHED;
use crate::sys::visit::{self, ProcessInfo, VisitError};

/// Default path of the configuration file.
pub(super) const DEFAULT_FILE: &str = "/etc/knockpipe/knockpipe.toml";

/// Notes and examples under the flags of `run`.
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
tunnels, [process] has the flags about the process and its log. docs/operating/configuration.md tells the rest.";

/// `knockpipe run`.
#[derive(Debug, Args)]
pub(super) struct RunArgs {
    /// The configuration file
    #[arg(short, long, value_name = "FILE", default_value = DEFAULT_FILE)]
    config: PathBuf,

    /// Take the sockets from the process that listens on this unix socket, if one does, and hand
    /// them over there to the next. Overrides 'handover' in the file
    #[arg(long, value_name = "PATH")]
    handover: Option<PathBuf>,

    /// Make the process at --handover read its file again, and report the result; if it runs
    /// another program than this one, as after an upgrade, replace it in the background
    #[arg(long, requires = "handover")]
    reload_or_replace: bool,
}

/// Runs the tunnels of a file until they are stopped, or makes a running process reload it.
///
/// # Errors
/// [`Failure`] of the file or the run.
pub(super) fn run(args: RunArgs, arguments: &[OsString]) -> Result<Done, Failure> {
    let Some(handover) = args.handover.as_deref().filter(|_| args.reload_or_replace) else {
        return serve(args, Readiness::foreground()).map(Done::from);
    };
    let side = background::adopted(arguments).map_err(|error| Failure::Runtime(error.into()))?;
    match side {
        Some(Side::Child(readiness)) => serve(args, readiness).map(Done::from),
        Some(Side::Parent(status)) => Ok(Done::Background(status)),
        None => reload_or_replace(&args, handover, arguments).map(|()| Done::Clean),
    }
}

/// Makes the process that listens at `path` read its file again, or replaces it.
fn reload_or_replace(args: &RunArgs, path: &Path, arguments: &[OsString]) -> Result<(), Failure> {
    let failure = |error: anyhow::Error| Failure::Runtime(error);
    let config = load(args);
    let user = config.as_ref().ok().and_then(|config| config.process.uid());
    let theirs = match visit::who(path, user) {
        Ok(theirs) => theirs,
        // Its user may be the one that the file names.
        Err(error @ VisitError::Failed { .. }) => {
            config?;
            return Err(failure(error.into()));
        }
        Err(error) => return Err(failure(error.into())),
    };
    if theirs.is_same_program(&ProcessInfo::own()) {
        let done = visit::reload(path, user).map_err(|error| failure(error.into()))?;
        let done = done.map_err(|why| failure(anyhow::anyhow!("not reloaded: {why}")))?;
        return print(&format!("reloaded: {done}\n")).map(drop);
    }
    // These variables are for the running process; its successor is watched in the same way.
    let without = [WATCHED, "LISTEN_PID", "LISTEN_FDS", "LISTEN_FDNAMES"];
    let is_ready = background::orphan(arguments, &theirs.manager, &without)
        .map_err(|error| failure(error.into()))?;
    if is_ready {
        return print(
            "replaced: another process serves, and the one before finishes its sessions\n",
        )
        .map(drop);
    }
    Err(failure(anyhow::anyhow!(
        "this program did not start in the place of the one that runs, which goes on; the line before tells why"
    )))
}

/// Loads the file, with the overrides of the command line.
fn load(args: &RunArgs) -> Result<Config, Failure> {
    let mut config = Config::load(&args.config)?;
    if let Some(handover) = &args.handover {
        config.process.handover = Some(handover.clone());
    }
    config.process.replaces = args.reload_or_replace;
    Ok(config)
}

fn serve(args: RunArgs, readiness: Readiness) -> Result<Outcome, Failure> {
    let config = load(&args)?;
    let plan = config.plan()?;
    let files = config.files();
    let process = config.process.clone();
    let reread: Reread = Arc::new(move || {
        let now = load(&args)?;
        Ok(Plan { services: now.plan()?, restart: now.process_changes(&config) })
    });
    process.run(readiness, plan, Reloading { reread, files, ports: Ports::Any })
}
