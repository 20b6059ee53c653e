//! `run` and `check`: what a configuration file says, done or only looked at.

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use clap::Args;
use tracing::warn;

use super::Done;
use super::config::{Config, show};
use super::output::print;
use crate::addr::{Address, Source};
use crate::net::look_up;
use crate::printable::printable;
use crate::run::{self, Failure, Outcome, Ports, Reread};
use crate::sys::background::{self, Readiness, Side};
use crate::sys::notify::WATCHED;
use crate::sys::visit::{self, Card};
use crate::tunnel::Options;
use crate::tunnel::trial::Finding;

/// Where the file is unless `-c` says otherwise.
const DEFAULT_FILE: &str = "/etc/knockpipe/knockpipe.toml";

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

/// What stands under the flags of `check`.
pub(super) const CHECK_EXAMPLES: &str = "\
Exit status: 0 the file can be run, 1 --connect found something that does not work, 2 the file or
something that it names is wrong.

Example:
  knockpipe check -c /etc/knockpipe/knockpipe.toml --connect";

/// `knockpipe run`.
#[derive(Debug, Args)]
pub(super) struct RunArgs {
    /// The configuration file
    #[arg(short, long, value_name = "FILE", default_value = DEFAULT_FILE)]
    config: PathBuf,

    /// Take the sockets from the process that listens on this unix socket, if one does, and hand
    /// them over there to the next. Goes before 'handover' in the file
    #[arg(long, value_name = "PATH")]
    handover: Option<PathBuf>,

    /// Make the process at --handover read its file again, and tell what came of it; if it runs
    /// another program than this one, as after an upgrade, take its place in the background
    #[arg(long, requires = "handover")]
    reload_or_replace: bool,
}

/// `knockpipe check`.
#[derive(Debug, Args)]
pub(super) struct CheckArgs {
    /// The configuration file
    #[arg(short, long, value_name = "FILE", default_value = DEFAULT_FILE)]
    config: PathBuf,

    /// Also try each far end and target: name, connection, key, gate, target
    #[arg(long)]
    connect: bool,
}

/// Runs the tunnels of a file until they are stopped, or has another process do so.
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
        None => reload_or_replace(handover, arguments).map(|()| Done::Clean),
    }
}

/// Makes the process that listens at `path` read its file again, or take its leave.
fn reload_or_replace(path: &Path, arguments: &[OsString]) -> Result<(), Failure> {
    let failure = |error: anyhow::Error| Failure::Runtime(error);
    let theirs = visit::who(path).map_err(|error| failure(error.into()))?;
    if theirs.is_same_program(&Card::own()) {
        let done = visit::reload(path).map_err(|error| failure(error.into()))?;
        let done = done.map_err(|why| failure(anyhow::anyhow!("not reloaded: {why}")))?;
        return print(&format!("reloaded: {done}\n")).map(drop);
    }
    // Meant for the one that runs; whoever takes its place is watched in the same way.
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

/// The file, with what the command line has instead.
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
    let process = config.process;
    let before = process.clone();
    let reread: Reread = Arc::new(move || {
        let config = load(&args)?;
        let plan = config.plan()?;
        if config.process != before {
            warn!("settings of [process] have changed; they take effect at the next start");
        }
        Ok(plan)
    });
    process.run(readiness, plan, (reread, files, Ports::Any))
}

/// Says what a file comes to.
///
/// # Errors
/// [`Failure`] of the file, or of a connection that was tried.
pub(super) fn check(args: &CheckArgs) -> Result<(), Failure> {
    let config = Config::load(&args.config)?;
    let plan = config.plan()?;
    print(&show(&config, &plan))?;
    for name in plan.iter().flat_map(names) {
        print(&resolved(&name))?;
    }
    if args.connect { connect(&plan, &args.config) } else { Ok(()) }
}

/// The host names of a tunnel, with their ports.
fn names(options: &Options) -> Vec<Address> {
    let sources = options.sources.iter().filter_map(Source::address);
    sources.chain(options.role.targets()).filter(|address| !address.is_literal()).cloned().collect()
}

/// What a name means now, as a comment. Another answer may be right later.
fn resolved(name: &Address) -> String {
    let Address::Tcp { host, port } = name else { return String::new() };
    match look_up(host, port) {
        Ok(found) => {
            let found: Vec<String> = found.iter().map(ToString::to_string).collect();
            format!("# {name} is {} now\n", found.join(" "))
        }
        Err(error) => format!("# {name} does not resolve now: {error}\n"),
    }
}

/// Tries what the tunnels connect to, and prints how far that came.
fn connect(plan: &[Options], file: &Path) -> Result<(), Failure> {
    let mut broken = 0;
    for (options, findings) in plan.iter().zip(run::try_all(plan)?) {
        let name = options.name.as_deref().unwrap_or_default();
        for Finding { target, passed, failed } in findings {
            let passed = passed.join(", ");
            let line = match failed {
                None => format!("{name} -> {target}: ok ({passed})"),
                Some((step, why)) => {
                    broken += 1;
                    format!("{name} -> {target}: FAILED at {step}: {why} (passed: {passed})")
                }
            };
            print(&format!("{}\n", printable(&line)))?;
        }
    }
    if broken == 0 {
        return Ok(());
    }
    Err(Failure::Runtime(anyhow::anyhow!(
        "{broken} of the targets of {} cannot be used; the lines above tell why",
        file.display()
    )))
}
