//! The process around the tunnels, from a command line to the end.
//!
//! ```text
//!   prepare    what is due before there are threads: keys, the sandbox
//!   running    the one who has all of the following, and goes by what is asked
//!   startup    what is due once: a predecessor, the pid file, privileges
//!   requests   signals, operators at the doors, a successor
//!   fleet      the tunnels, how one set becomes another
//!   doors      their listening sockets
//!   leaving    tunnels that accept no more
//!   announce   what the log says of a tunnel at first
//!   changed    which settings of a tunnel a reload changed
//! ```
//!
//! Signals are caught before anything is made, so that none leaves something behind.

mod announce;
mod changed;
mod doors;
mod fleet;
mod leaving;
mod prepare;
mod requests;
mod running;
mod startup;

use std::io;
use std::mem::take;
use std::path::PathBuf;
use std::pin::pin;
use std::sync::{Arc, mpsc};
use std::thread;
use std::time::Duration;

use anyhow::Context;
use tokio::runtime::Runtime;
use tokio_util::sync::CancellationToken;

pub use prepare::{Around, PidPlace, Ports, Prepared, rules_of_pipe, rules_of_tunnels};

use crate::admin::{DoorOptions, Roster};
use crate::demo;
use crate::frontend::workers;
use crate::observe::panics;
use crate::sys::background::Readiness;
use crate::sys::nofile;
use crate::sys::privileges::User;
use crate::sys::reaper;
use crate::sys::signals::Signals;
use crate::tasks;
use crate::tunnel::preflight::{Finding, bind_all, preflight};
use crate::tunnel::{self, Options, PipeOptions};
use fleet::Fleet;
use requests::Requests;
use running::Running;

/// What the process around the tunnels is told.
#[derive(Debug)]
pub struct Process {
    /// Where to write the pid.
    pub pid_file: Option<PathBuf>,
    /// Who to become after binding.
    pub user: Option<User>,
    /// Where an operator can ask.
    pub doors: DoorOptions,
    /// Whom to tell when ready.
    pub readiness: Readiness,
    /// How long new connections are still accepted after the first signal.
    pub drain_accept: Duration,
    /// Where this process takes its sockets from one that runs, and hands them
    /// over to the next.
    pub handover: Option<PathBuf>,
    /// Whether it takes the place of that process in its service too, and starts only
    /// if there is one.
    pub replaces: bool,
    /// What was done before there were threads.
    pub prepared: Prepared,
}

/// How a run that did not fail ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// Everything was finished: exit status 0.
    Clean,
    /// Some sessions were cut, as the log told: exit status 1.
    SessionsCut,
    /// A signal ended it, with this exit status.
    Signalled(u8),
}

/// Why a run failed: one line that names cause and remedy.
#[derive(Debug, thiserror::Error)]
pub enum Failure {
    /// What was asked for makes no sense, or a key file is bad: exit status 2.
    #[error("{0:#}")]
    Usage(anyhow::Error),
    /// It made sense but did not work: exit status 1.
    #[error("{0:#}")]
    Runtime(anyhow::Error),
}

/// Reads again what the tunnels are told: files, and the keys that they name.
pub type Reread = Arc<dyn Fn() -> Result<Plan, Failure> + Send + Sync>;

/// The plan that was read again.
#[derive(Debug)]
pub struct Plan {
    /// The options of the tunnels.
    pub tunnels: Vec<Options>,
    /// The flags of the process that differ from those at its start.
    pub restart: Vec<String>,
}

/// Runs tunnel ends until they are stopped. On SIGHUP they become what `reread` gives.
///
/// # Errors
/// [`Failure`]; nothing is left behind then.
pub fn tunnels(plan: Vec<Options>, process: Process, reread: Reread) -> Result<Outcome, Failure> {
    serve(plan, process, reread).map_err(Failure::Runtime)
}

/// Tries what each tunnel connects to; what was found, in their order.
///
/// # Errors
/// [`Failure::Runtime`] of the system.
pub fn try_all(plan: &[Options]) -> Result<Vec<Vec<Finding>>, Failure> {
    let runtime = runtime().map_err(Failure::Runtime)?;
    let found = runtime.block_on(async {
        let mut found = Vec::with_capacity(plan.len());
        for options in plan {
            found.push(preflight(options).await);
        }
        found
    });
    runtime.shutdown_background();
    Ok(found)
}

/// Tries one tunnel: with `binds` whether this host can listen on its sources, and then
/// what it connects to.
///
/// # Errors
/// [`Failure::Runtime`] of the system.
pub fn try_one(options: &Options, binds: bool) -> Result<Vec<Finding>, Failure> {
    let runtime = runtime().map_err(Failure::Runtime)?;
    let found = runtime.block_on(async {
        let mut found = if binds { bind_all(options).await } else { vec![] };
        found.extend(preflight(options).await);
        found
    });
    runtime.shutdown_background();
    Ok(found)
}

/// Carries standard input and output through a tunnel, in a process that is `prepared`.
///
/// # Errors
/// [`Failure`]
pub fn pipe(options: PipeOptions, prepared: &Prepared) -> Result<Outcome, Failure> {
    prepared.announce();
    let runtime = runtime().map_err(Failure::Runtime)?;
    let piped = runtime.block_on(async {
        let mut signals = Signals::catch().context("cannot catch signals")?;
        let stop = CancellationToken::new();
        let mut piped = pin!(tunnel::pipe::run(options, stop.clone()));
        tokio::select! {
            biased;
            ended = &mut piped => ended.map(|()| Outcome::Clean).map_err(Into::into),
            signal = signals.ending() => {
                stop.cancel();
                // However it ended: it is the signal that a caller wants to know of.
                let _ = piped.await;
                Ok(Outcome::Signalled(signal.status()))
            }
        }
    });
    // A read of standard input cannot be called back; it must not hold us.
    runtime.shutdown_background();
    piped.map_err(Failure::Runtime)
}

/// Shows what a tunnel does, on standard output.
///
/// # Errors
/// [`Failure`] when something did not go as shown.
pub fn demo() -> Result<Outcome, Failure> {
    let shown = || {
        runtime()?.block_on(async {
            let mut signals = Signals::catch().context("cannot catch signals")?;
            let mut out = io::stdout();
            tokio::select! {
                shown = demo::run(&mut out) => shown,
                // Dropping the demo ends its redis-server.
                signal = signals.stop() => anyhow::bail!("stopped by {signal}"),
            }
        })
    };
    shown().map(|()| Outcome::Clean).map_err(Failure::Runtime)
}

fn serve(plan: Vec<Options>, mut process: Process, reread: Reread) -> anyhow::Result<Outcome> {
    let descriptors = nofile::raise().context("cannot read the limit of file descriptors")?;
    let roster = Roster::new(descriptors);
    let for_workers = workers::start(descriptors)
        .context(
        "cannot start the threads that serve; raise the limits of threads (ulimit -u, TasksMax=, a container's limit of pids) and memory",
    )?;
    let left = descriptors.saturating_sub(process.doors.descriptors() + for_workers);
    let systemd = take(&mut process.prepared.inherited);
    let fleet = Fleet::new(left, systemd, roster);
    // Before anything is made that would have to be undone.
    fleet.shares(&plan)?;
    let runtime = runtime()?;
    let outcome = runtime.block_on(async {
        // Before anything is created, so that a signal leaves nothing behind.
        let signals = Signals::catch().context("cannot catch signals")?;
        reaper::start().context("cannot catch signals")?;
        Running::new(fleet, Requests::of(signals), process, reread).run(plan).await
    });
    // A lookup in a name server that hangs must not hold us.
    runtime.shutdown_background();
    outcome
}

/// An error with the name of the tunnel that it is about, where there are several.
fn about<T, E: Into<anyhow::Error>>(options: &Options, result: Result<T, E>) -> anyhow::Result<T> {
    let result = result.map_err(Into::into);
    match &options.name {
        Some(name) => result.with_context(|| format!("tunnel {name}")),
        None => result,
    }
}

/// The runtime of the process, and the threads for what blocks.
fn runtime() -> anyhow::Result<Runtime> {
    tasks::start()?;
    start_runtime().context(
        "cannot start the runtime; raise the limits of threads (ulimit -u, TasksMax=, a container's limit of pids) and memory",
    )
}

/// Started in a thread of its own: where the system gives too few threads, tokio panics
/// and then waits for those that it has, for ever. That thread is left behind then, in a
/// process that ends.
fn start_runtime() -> io::Result<Runtime> {
    let ((panicked, panic), (started, runtime)) = (mpsc::channel(), mpsc::channel());
    let start = move || {
        panics::tell(panicked);
        // Nobody waits for it after a panic.
        let _ = started.send(Runtime::new());
        panics::tell_nobody();
    };
    thread::Builder::new().name("start".to_owned()).spawn(start)?;
    match panic.recv() {
        Ok(panic) => Err(io::Error::other(panic)),
        Err(_) => runtime.recv().unwrap_or_else(|_| Err(io::ErrorKind::Interrupted.into())),
    }
}
