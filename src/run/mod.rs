//! The process around the tunnels. The only place that knows all of what is
//! due between a command line and the end, in this order: descriptors,
//! listeners, pid file, privileges (`startup`), tunnels (`fleet`), signals, drain.

mod announce;
mod doors;
mod fleet;
mod leaving;
mod prepare;
mod requests;
mod startup;

use std::mem::take;
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use tokio::runtime::Runtime;
use tokio::task::{block_in_place, spawn_blocking};
use tokio::time::sleep;
use tracing::{error, info, warn};

pub use prepare::{Around, Ports, Prepared, rules_of_pipe, rules_of_tunnels};

use crate::admin::roster::Phase;
use crate::admin::{DoorOptions, Doors, Roster};
use crate::demo;
use crate::sys::background::Readiness;
use crate::sys::handover::Predecessor;
use crate::sys::nofile;
use crate::sys::notify::Manager;
use crate::sys::privileges::User;
use crate::sys::reaper;
use crate::sys::signals::Signals;
use crate::tunnel::trial::{Finding, trial};
use crate::tunnel::{self, Options, PipeOptions};
use fleet::{Changes, Fleet};
use requests::{Cause, Request, Requests};
use startup::Startup;

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
    let roster = Roster::new(descriptors);
    let left = descriptors.saturating_sub(process.doors.descriptors());
    let systemd = take(&mut process.prepared.inherited);
    let mut fleet = Fleet::new(left, systemd, Arc::clone(&roster));
    // Before anything is made that would have to be undone.
    fleet.shares(&plan)?;
    let runtime = runtime()?;
    let outcome = runtime.block_on(async {
        // Before anything is created, so that a signal leaves nothing behind.
        let signals = Signals::catch().context("cannot catch signals")?;
        reaper::start().context("cannot catch signals")?;
        let mut requests = Requests::of(signals);
        let ran = run(plan, process, (&mut fleet, &mut requests, reread)).await;
        requests.close().await;
        ran
    });
    // A lookup in a name server that hangs must not hold us.
    runtime.shutdown_background();
    outcome
}

async fn run(
    plan: Vec<Options>,
    process: Process,
    (fleet, requests, reread): (&mut Fleet, &mut Requests, &Reread),
) -> anyhow::Result<Outcome> {
    let (window, handover) = (process.drain_accept, process.handover.clone());
    let doors = process.doors.clone();
    let mut startup = Startup::new(process);
    let (inherited, predecessor) = startup.inherit()?;
    // A predecessor has the same doors, and keeps them until it is relieved.
    if predecessor.is_none() {
        requests.open(Doors::open(&doors, fleet.roster(), startup.user()).await?);
    }
    tokio::select! {
        started = fleet.launch(plan, inherited, (&mut startup, predecessor.is_some())) => started?,
        // A name server can take its time, and with -D for ever.
        signal = requests.stop_before_ready() => {
            info!(signal, "stopped before it was ready");
            return Ok(Outcome::Clean);
        }
    }
    match predecessor {
        None => {
            handover.map_or(Ok(()), |path| requests.offer(&path))?;
            startup.release()?;
        }
        Some(predecessor) => {
            relieve(predecessor);
            fleet.take_over();
            // The tunnels serve already, and nobody else does: what fails now is
            // told, and no reason to end.
            let opened = Doors::open(&doors, fleet.roster(), None).await.map_err(Into::into);
            tell_failure(opened.map(|opened| requests.open(opened)));
            tell_failure(handover.map_or(Ok(()), |path| requests.offer(&path)));
            tell_failure(startup.release());
        }
    }
    let manager = Manager::from_environment();
    manager.ready("serving").await;
    tokio::spawn(manager.clone().keep_watchdog_quiet());
    let cause = until_stopped(fleet, requests, (reread, &manager)).await;
    requests.withdraw();
    if requests.has_successor() {
        // It accepts soon, or ends without having touched the files.
        fleet.give_away();
    }
    fleet.roster().set_phase(Phase::Draining);
    manager.stopping(&format!("draining {} sessions", fleet.sessions())).await;
    match cause {
        Cause::Asked(signal) => Ok(drain(fleet, requests, (signal, window, None)).await),
        Cause::HandedOver(successor) => {
            fleet.give_away();
            // The successor waits until it can make its own.
            requests.close().await;
            startup.remove_pid_file();
            let stopping = ("handover", Duration::ZERO, Some(successor));
            Ok(drain(fleet, requests, stopping).await)
        }
    }
}

fn tell_failure(result: anyhow::Result<()>) {
    if let Err(error) = result {
        let error = format!("{error:#}");
        error!(error, "took over, but not everything");
    }
}

/// The process that had the sockets accepts no more, or is gone.
fn relieve(predecessor: Predecessor) {
    match block_in_place(|| predecessor.relieve()) {
        Ok(()) => info!("took over from a process that ran before"),
        Err(error) => warn!(%error, "the process that ran before did not answer to the end"),
    }
}

/// Serves, and reloads, until there is a cause to stop.
async fn until_stopped(
    fleet: &mut Fleet,
    requests: &mut Requests,
    (reread, manager): (&Reread, &Manager),
) -> Cause {
    loop {
        let asker = match requests.next(fleet).await {
            Request::Stop(cause) => return cause,
            Request::Reload(asker) => asker,
        };
        // What comes meanwhile but a signal to stop waits for its turn.
        let result = tokio::select! {
            biased;
            reloaded = reload(fleet, (reread, manager)) => tell(reloaded),
            signal = requests.stop() => {
                asker.answer(Err("stopped before it was done"));
                return Cause::Asked(signal);
            }
        };
        fleet.roster().reloaded(result.clone());
        asker.answer(result.as_ref().map(String::as_str).map_err(String::as_str));
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

/// What the log, and whoever asked, hear of a reload.
fn tell(reloaded: anyhow::Result<Changes>) -> Result<String, String> {
    match reloaded {
        Ok(Changes { added, changed, removed, same }) => {
            info!(added, changed, removed, same, "reloaded");
            Ok(format!("{added} added, {changed} changed, {removed} removed, {same} as before"))
        }
        Err(error) => {
            let error = format!("{error:#}");
            error!(error, detail = "nothing was changed", "cannot reload");
            Err(error)
        }
    }
}

/// Goes on accepting for the window, then accepts no more and waits until all is
/// finished, the deadline of each tunnel, or a second signal.
async fn drain(
    fleet: &mut Fleet,
    requests: &mut Requests,
    (signal, window, successor): (&'static str, Duration, Option<UnixStream>),
) -> Outcome {
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
        signal = requests.second() => Some(signal),
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

/// An error with the name of the tunnel that it is about, where there are several.
fn about<T, E: Into<anyhow::Error>>(options: &Options, result: Result<T, E>) -> anyhow::Result<T> {
    let result = result.map_err(Into::into);
    match &options.name {
        Some(name) => result.with_context(|| format!("tunnel {name}")),
        None => result,
    }
}

fn runtime() -> anyhow::Result<Runtime> {
    Runtime::new().context("cannot start the runtime; check the limits of threads and memory")
}
