//! The process around the tunnels. The only place that knows all of what is
//! due between a command line and the end, in this order: descriptors,
//! listeners, pid file, privileges (`startup`), tunnels (`fleet`), signals, drain.

mod announce;
mod fleet;
mod prepare;
mod startup;

use std::future::pending;
use std::mem::take;
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use tokio::runtime::Runtime;
use tokio::task::{JoinSet, block_in_place, spawn_blocking};
use tokio::time::sleep;
use tracing::{error, info, warn};

pub use prepare::{Ports, Prepared, rules_of_pipe, rules_of_tunnels};

use crate::demo;
use crate::sys::background::Readiness;
use crate::sys::handover::{Offer, Predecessor, give};
use crate::sys::nofile;
use crate::sys::notify::Manager;
use crate::sys::privileges::User;
use crate::sys::reaper;
use crate::sys::signals::{Caught, Signals};
use crate::tunnel::trial::{Finding, trial};
use crate::tunnel::{self, Options, PipeOptions};
use fleet::{Changes, Fleet};
use startup::Startup;

/// What the process around the tunnels is told.
#[derive(Debug)]
pub struct Process {
    /// Where to write the pid.
    pub pid_file: Option<PathBuf>,
    /// Who to become after binding.
    pub user: Option<User>,
    /// Whom to tell when ready.
    pub readiness: Readiness,
    /// How long new connections are still accepted after the first signal.
    pub drain_accept: Duration,
    /// Where this process takes its sockets from one that runs, and hands them
    /// over to the next.
    pub handover: Option<PathBuf>,
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
pub type Reread = Arc<dyn Fn() -> Result<Vec<Options>, Failure> + Send + Sync>;

/// Runs tunnel ends until they are stopped. On SIGHUP they become what `reread` gives.
///
/// # Errors
/// [`Failure`]; nothing is left behind then.
pub fn tunnels(plan: Vec<Options>, process: Process, reread: Reread) -> Result<Outcome, Failure> {
    serve(plan, process, &reread).map_err(Failure::Runtime)
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
            found.push(trial(options).await);
        }
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
    let piped = runtime.block_on(tunnel::pipe::run(options));
    // A read of standard input cannot be called back; it must not hold us.
    runtime.shutdown_background();
    match piped {
        Ok(()) => Ok(Outcome::Clean),
        Err(error) => Err(Failure::Runtime(error.into())),
    }
}

/// Shows what a tunnel does, on standard output.
///
/// # Errors
/// [`Failure`] when something did not go as shown.
pub fn demo() -> Result<Outcome, Failure> {
    let shown = || {
        runtime()?.block_on(async {
            let mut signals = Signals::catch().context("cannot catch signals")?;
            let mut out = std::io::stdout();
            tokio::select! {
                shown = demo::run(&mut out) => shown,
                // Dropping the demo ends its redis-server.
                signal = signals.stop() => anyhow::bail!("stopped by {signal}"),
            }
        })
    };
    shown().map(|()| Outcome::Clean).map_err(Failure::Runtime)
}

fn serve(plan: Vec<Options>, mut process: Process, reread: &Reread) -> anyhow::Result<Outcome> {
    let descriptors = nofile::raise().context("cannot read the limit of file descriptors")?;
    let (window, handover) = (process.drain_accept, process.handover.clone());
    let mut fleet = Fleet::new(descriptors, take(&mut process.prepared.inherited));
    // Before anything is made that would have to be undone.
    fleet.shares(&plan)?;
    let runtime = runtime()?;
    let outcome = runtime.block_on(async {
        // Before anything is created, so that a signal leaves nothing behind.
        let mut signals = Signals::catch().context("cannot catch signals")?;
        reaper::start().context("cannot catch signals")?;
        let mut startup = Startup::new(process);
        let predecessor = tokio::select! {
            started = fleet.launch(plan, &mut startup) => started?,
            // A name server can take its time, and with -D for ever.
            signal = signals.stop() => {
                info!(signal, "stopped before it was ready");
                return Ok(Outcome::Clean);
            }
        };
        if let Some(predecessor) = predecessor {
            relieve(predecessor);
        }
        let mut offer = handover.map(|path| Offer::at(&path)).transpose()?;
        startup.release()?;
        let manager = Manager::from_environment();
        manager.ready("serving").await;
        tokio::spawn(manager.clone().keep_watchdog_quiet());
        let cause = until_stopped(&mut fleet, &mut signals, (reread, &offer, &manager)).await;
        let window = match &cause {
            Cause::Signal(_) => window,
            Cause::HandedOver(_) => Duration::ZERO,
        };
        if let Cause::HandedOver(_) = &cause {
            fleet.give_away();
            // The successor waits for this before it makes its own.
            offer = None;
            startup.remove_pid_file();
        }
        manager.stopping(&format!("draining {} sessions", fleet.sessions())).await;
        let outcome = drain(fleet, signals, (cause, window)).await;
        drop(offer);
        Ok(outcome)
    });
    // A lookup in a name server that hangs must not hold us.
    runtime.shutdown_background();
    outcome
}

/// Why it stops.
enum Cause {
    Signal(&'static str),
    /// Another process has the sockets, and waits until this is dropped.
    HandedOver(UnixStream),
}

/// The process that had the sockets accepts no more, or is gone.
fn relieve(predecessor: Predecessor) {
    match block_in_place(|| predecessor.relieve()) {
        Ok(()) => info!("took over from a process that ran before"),
        Err(error) => warn!(%error, "the process that ran before did not answer to the end"),
    }
}

/// Serves, reloads and hands over, until there is a cause to stop.
async fn until_stopped(
    fleet: &mut Fleet,
    signals: &mut Signals,
    (reread, offer, manager): (&Reread, &Option<Offer>, &Manager),
) -> Cause {
    let mut handing_over = JoinSet::new();
    let successor = async || match offer {
        Some(offer) => offer.successor().await,
        None => pending().await,
    };
    loop {
        tokio::select! {
            caught = signals.next() => match caught {
                Caught::Stop(signal) => return Cause::Signal(signal),
                Caught::Reload => tokio::select! {
                    biased;
                    reloaded = reload(fleet, (reread, manager)) => tell(reloaded),
                    signal = signals.stop() => return Cause::Signal(signal),
                },
            },
            stream = successor(), if handing_over.is_empty() => {
                let sockets = fleet.sockets();
                handing_over.spawn_blocking(move || give(stream, &sockets?));
            }
            Some(given) = handing_over.join_next() => match given {
                Ok(Ok(stream)) => return Cause::HandedOver(stream),
                Ok(Err(error)) => warn!(%error, "a successor asked for the sockets and gave up"),
                Err(panic) => std::panic::resume_unwind(panic.into_panic()),
            },
        }
    }
}

/// Makes the tunnels what their files say now; all of it or nothing.
async fn reload(
    fleet: &mut Fleet,
    (reread, manager): (&Reread, &Manager),
) -> anyhow::Result<Changes> {
    manager.reloading().await;
    let reloaded = change(fleet, Arc::clone(reread)).await;
    // It serves either way.
    manager.ready(if reloaded.is_ok() { "serving" } else { "serving, not reloaded" }).await;
    reloaded
}

async fn change(fleet: &mut Fleet, reread: Reread) -> anyhow::Result<Changes> {
    // Files may be slow, and users are looked up.
    let plan = spawn_blocking(move || reread()).await.context("cannot read the configuration")?;
    let plan = plan.map_err(|failure| match failure {
        Failure::Usage(error) | Failure::Runtime(error) => error,
    })?;
    prepare::keep(&plan);
    fleet.reload(plan).await
}

/// What the log says of a reload.
fn tell(reloaded: anyhow::Result<Changes>) {
    match reloaded {
        Ok(Changes { added, changed, removed, same }) => {
            info!(added, changed, removed, same, "reloaded");
        }
        Err(error) => {
            let error = format!("{error:#}");
            error!(error, detail = "nothing was changed", "cannot reload");
        }
    }
}

/// Goes on accepting for the window, then accepts no more and waits until all is
/// finished, the deadline of each tunnel, or a second signal.
async fn drain(
    mut fleet: Fleet,
    mut signals: Signals,
    (cause, window): (Cause, Duration),
) -> Outcome {
    let (signal, successor) = match cause {
        Cause::Signal(signal) => (signal, None),
        Cause::HandedOver(stream) => ("handover", Some(stream)),
    };
    let drained = async {
        if !window.is_zero() {
            let accept_s = window.as_secs_f64();
            info!(signal, accept_s, "stopping soon: new connections are still accepted");
            sleep(window).await;
        }
        let (sessions, drain_s) = (fleet.sessions(), fleet.longest_drain().as_secs_f64());
        info!(signal, sessions, drain_s, "stopping: no new connections");
        fleet.stop();
        // Now the successor is alone.
        drop(successor);
        fleet.finished().await;
    };
    let hurry = tokio::select! {
        biased;
        () = drained => None,
        signal = second(&mut signals) => Some(signal),
    };
    if let Some(signal) = hurry {
        warn!(signal, "second signal: ending now");
        fleet.stop();
        fleet.cut().await;
    }
    let most_sessions = fleet.most_sessions();
    match fleet.sessions_cut() {
        0 => {
            info!(most_sessions, "stopped: all sessions finished");
            Outcome::Clean
        }
        sessions_cut => {
            warn!(sessions_cut, most_sessions, "stopped");
            Outcome::SessionsCut
        }
    }
}

/// The next signal to stop. There is nothing left to reload.
async fn second(signals: &mut Signals) -> &'static str {
    loop {
        match signals.next().await {
            Caught::Stop(signal) => return signal,
            Caught::Reload => info!("stopping already; nothing is reloaded"),
        }
    }
}

fn runtime() -> anyhow::Result<Runtime> {
    Runtime::new().context("cannot start the runtime; check the limits of threads and memory")
}
