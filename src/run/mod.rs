//! The process around its services, from a command line to the end.
//!
//! ```text
//!   prepare        steps that need a single thread: keys, the sandbox
//!   sandbox_rules  the rules of the sandbox, from the options of services
//!   supervisor     starts, serves, reloads and drains: it owns all of the following
//!   startup        steps that are done once: a predecessor, the pid file, privileges
//!   control        signals, commands of operators, a successor
//!   services       the services, and the change from one set to another
//!   planned        the next set
//!   new_gates      the gates of the next set
//!   descriptors    shares of the file descriptors
//!   listeners      the listening sockets
//!   knock_sockets  the sockets for knocks
//!   draining       services that accept no more
//!   knock          knocks without a tunnel
//!   web_knocks     the same over HTTP
//!   announce       the first lines of a service in the log
//!   changed        the settings of a tunnel that a reload changed
//! ```
//!
//! Signals are caught before anything is created, so that none leaves something behind.

mod announce;
mod changed_flags;
mod control;
mod descriptors;
mod draining;
mod firewall;
mod knock;
mod knock_sockets;
mod knocking_options;
mod listeners;
mod new_gates;
mod planned;
mod prepare;
mod sandbox_rules;
mod services;
mod startup;
mod supervisor;
mod web_knocks;

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

pub use firewall::{FirewallLook, look_at_firewall};
pub use knock::{KnockEvent, knock};
pub use knocking_options::{KnockAt, KnockingOptions};
pub use prepare::{PidPlace, Prepared};
pub use sandbox_rules::{Ports, ProcessPaths, rules_of_knock, rules_of_pipe, rules_of_services};

use crate::admin::{AdminOptions, Registry};
use crate::demo;
use crate::frontend::workers;
use crate::observe::panics;
use crate::service::ServiceOptions;
use crate::sys::background::Readiness;
use crate::sys::child::Keeper;
use crate::sys::nofile;
use crate::sys::privileges::User;
use crate::sys::reaper;
use crate::sys::signals::Signals;
use crate::tasks;
use crate::tunnel::preflight::{CheckResult, bind_all, preflight};
use crate::tunnel::{self, Options, PipeOptions};
use control::Control;
use services::Services;
use supervisor::Supervisor;

/// Settings of the process around the services.
#[derive(Debug)]
pub struct Process {
    /// Path of the pid file.
    pub pid_file: Option<PathBuf>,
    /// The user that the process becomes after binding.
    pub user: Option<User>,
    /// Addresses of the admin interface.
    pub admin: AdminOptions,
    /// Signal that the process is ready, if another process waits for it.
    pub readiness: Readiness,
    /// Time in which new connections are still accepted after the first signal.
    pub drain_accept: Duration,
    /// Path at which this process takes over its sockets from a running one, and hands them to the
    /// next.
    pub handover: Option<PathBuf>,
    /// True if it also replaces that process in its service, and starts only if there is one.
    pub replaces: bool,
    /// Keeper of the command that runs beside the services, and was not started yet.
    pub keeper: Option<Keeper>,
    /// The process as it was prepared before there were threads.
    pub prepared: Prepared,
}

/// Outcome of a run that did not fail.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// Everything was finished: exit status 0.
    Clean,
    /// Some sessions were cut, as the log says: exit status 1.
    SessionsCut,
    /// A signal ended it, with this exit status.
    Signalled(u8),
    /// The command that ran beside it ended, with this exit status.
    Command(u8),
}

/// Cause of a failed run: one line that names cause and remedy.
#[derive(Debug, thiserror::Error)]
pub enum Failure {
    /// The command line or a key file is invalid: exit status 2.
    #[error("{0:#}")]
    Usage(anyhow::Error),
    /// A failure while running: exit status 1.
    #[error("{0:#}")]
    Runtime(anyhow::Error),
}

/// Reads the options of the services again: files, and the keys that they name.
pub type Reread = Arc<dyn Fn() -> Result<Plan, Failure> + Send + Sync>;

/// The plan that was read again.
#[derive(Debug)]
pub struct Plan {
    /// The options of the services.
    pub services: Vec<ServiceOptions>,
    /// The flags of the process that differ from those at its start.
    pub restart: Vec<String>,
}

/// Runs services until they are stopped. On SIGHUP they are replaced by those of `reread`.
///
/// # Errors
/// [`Failure`]; nothing is left behind then.
pub fn services(
    plan: Vec<ServiceOptions>,
    process: Process,
    reread: Reread,
) -> Result<Outcome, Failure> {
    serve(plan, process, reread).map_err(Failure::Runtime)
}

/// Tests everything that each tunnel connects to; returns the results in the order of the tunnels.
///
/// # Errors
/// [`Failure::Runtime`] of the system.
pub fn try_all(plan: &[&Options]) -> Result<Vec<Vec<CheckResult>>, Failure> {
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

/// Tests one tunnel: with `binds` the listening on its sources, and then everything that it
/// connects to.
///
/// # Errors
/// [`Failure::Runtime`] of the system.
pub fn try_one(options: &Options, binds: bool) -> Result<Vec<CheckResult>, Failure> {
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
                // The result does not matter: the caller needs to know the signal.
                let _ = piped.await;
                Ok(Outcome::Signalled(signal.status()))
            }
        }
    });
    // A read of standard input cannot be cancelled; it must not delay the end.
    runtime.shutdown_background();
    piped.map_err(Failure::Runtime)
}

/// Shows what a tunnel does, on standard output.
///
/// # Errors
/// [`Failure`] when a step failed.
pub fn demo() -> Result<Outcome, Failure> {
    let shown = || {
        runtime()?.block_on(async {
            let mut signals = Signals::catch().context("cannot catch signals")?;
            // Without colours in a pipe, and with NO_COLOR.
            let mut out = anstream::AutoStream::auto(io::stdout());
            tokio::select! {
                shown = demo::run(&mut out) => shown,
                // Dropping the demo ends its redis-server.
                signal = signals.stop() => anyhow::bail!("stopped by {signal}"),
            }
        })
    };
    shown().map(|()| Outcome::Clean).map_err(Failure::Runtime)
}

fn serve(
    plan: Vec<ServiceOptions>,
    mut process: Process,
    reread: Reread,
) -> anyhow::Result<Outcome> {
    let descriptors = nofile::raise().context("cannot read the limit of file descriptors")?;
    let registry = Registry::new(descriptors);
    let for_workers = workers::start(descriptors)
        .context(
        "cannot start the threads that serve; raise the limits of threads (ulimit -u, TasksMax=, a container's limit of pids) and memory",
    )?;
    let left = descriptors.saturating_sub(process.admin.descriptors() + for_workers);
    let systemd = take(&mut process.prepared.inherited);
    let services = Services::new(left, systemd, registry);
    // Checked before anything is created that would have to be undone.
    services.shares(&plan)?;
    let runtime = runtime()?;
    let outcome = runtime.block_on(async {
        // Caught before anything is created, so that a signal leaves nothing behind.
        let signals = Signals::catch().context("cannot catch signals")?;
        // Programs that a firewall starts are waited for where they are started.
        if !plan.iter().any(|options| options.as_firewall().is_some()) {
            reaper::start().context("cannot catch signals")?;
        }
        Supervisor::new(services, Control::new(signals), process, reread).run(plan).await
    });
    // A look-up at a name server that hangs must not delay the end.
    runtime.shutdown_background();
    outcome
}

/// Adds the name of the service to its error, where there are several.
fn about<T, E: Into<anyhow::Error>>(
    options: &ServiceOptions,
    result: Result<T, E>,
) -> anyhow::Result<T> {
    let result = result.map_err(Into::into);
    match options.name() {
        Some(name) => result.with_context(|| format!("tunnel {name}")),
        None => result,
    }
}

/// Starts the runtime of the process, and the threads for blocking work.
fn runtime() -> anyhow::Result<Runtime> {
    tasks::start()?;
    start_runtime().context(
        "cannot start the runtime; raise the limits of threads (ulimit -u, TasksMax=, a container's limit of pids) and memory",
    )
}

/// Starts the runtime in a separate thread: where the system gives too few threads, tokio panics
/// and then waits for ever for those that it has. That thread is then abandoned, in a process that
/// ends.
fn start_runtime() -> io::Result<Runtime> {
    let (panicked, panic) = mpsc::channel();
    let (started, runtime) = mpsc::channel();
    let start = move || {
        panics::listen(panicked);
        // No thread waits for it after a panic.
        let _ = started.send(Runtime::new());
        panics::stop_listening();
    };
    thread::Builder::new().name("start".to_owned()).spawn(start)?;
    match panic.recv() {
        Ok(panic) => Err(io::Error::other(panic)),
        Err(_) => runtime.recv().unwrap_or_else(|_| Err(io::ErrorKind::Interrupted.into())),
    }
}
