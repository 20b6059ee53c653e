//! A process with its tunnels: it starts, serves and reloads until it is asked to
//! stop, and drains, or hands over to a successor.
//!
//! What is to be done is known here, and how is not: tunnels are the fleet's
//! business, whoever asks is that of requests, and files are that of startup.

use std::mem::take;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use tokio::task::spawn_blocking;
use tokio::time::sleep;
use tracing::{error, info, warn};

use super::fleet::{Changes, Fleet};
use super::requests::{Cause, Request, Requests};
use super::startup::Startup;
use super::{Failure, Outcome, Process, Reread, prepare};
use crate::admin::roster::Phase;
use crate::sys::activation::KEPT;
use crate::sys::handover::Successor;
use crate::sys::notify::Manager;
use crate::tunnel::{Options, workers};

/// All that a process has while it runs.
pub(super) struct Running {
    fleet: Fleet,
    requests: Requests,
    startup: Startup,
    manager: Manager,
    reread: Reread,
    /// How long new connections are still accepted after the first signal.
    window: Duration,
}

impl Running {
    pub(super) fn new(fleet: Fleet, requests: Requests, process: Process, reread: Reread) -> Self {
        let (manager, window) = (Manager::from_environment(), process.drain_accept);
        Self { fleet, requests, startup: Startup::new(process), manager, reread, window }
    }

    /// Runs the tunnels of `plan`, and those that they become, until all is finished.
    ///
    /// # Errors
    /// When they cannot be had; nothing is left behind then.
    pub(super) async fn run(mut self, plan: Vec<Options>) -> anyhow::Result<Outcome> {
        let started = self.start(plan).await;
        let outcome = match started {
            Ok(None) => {
                let cause = self.until_stopped().await;
                Ok(self.drain(cause).await)
            }
            Ok(Some(signal)) => {
                info!(signal, "stopped before it was ready");
                Ok(Outcome::Clean)
            }
            Err(error) => Err(error),
        };
        self.requests.close().await;
        outcome
    }

    /// Gets everything ready, and serves; the signal of who wants it to stop before that.
    async fn start(&mut self, plan: Vec<Options>) -> anyhow::Result<Option<&'static str>> {
        let Self { fleet, requests, startup, .. } = self;
        let enter = async {
            let inherited = startup.inherit().await?;
            // A predecessor has the same doors, and keeps them until it leaves.
            let ours = !startup.takes_over();
            let doors = if ours { Some(startup.open_doors(fleet.roster()).await?) } else { None };
            anyhow::Ok((inherited, doors))
        };
        let inherited = tokio::select! {
            entered = enter => {
                let (inherited, doors) = entered?;
                doors.into_iter().for_each(|doors| requests.open(doors));
                inherited
            }
            signal = requests.stop_before_ready() => return Ok(Some(signal)),
        };
        tokio::select! {
            launched = fleet.launch(plan, inherited, startup) => launched?,
            // A name server can take its time, and with -D for ever.
            signal = requests.stop_before_ready() => return Ok(Some(signal)),
        }
        let has_predecessor = self.startup.takes_over();
        if has_predecessor {
            self.take_over().await;
        } else {
            self.offer()?;
            self.startup.release()?;
        }
        self.manager.ready("serving").await;
        if let Some(memory) = self.fleet.memory() {
            self.manager.keep(KEPT, &memory).await;
        }
        // Whoever waits for one that takes over finds the manager knowing all of it.
        if has_predecessor && let Err(error) = self.startup.release() {
            not_everything(&error);
        }
        tokio::spawn(self.manager.clone().keep_watchdog_quiet(workers::answered));
        Ok(None)
    }

    /// Opens and writes what a predecessor had until now. The tunnels serve already,
    /// and nobody else does: what fails is told, and no reason to end.
    async fn take_over(&mut self) {
        self.startup.relieve().await;
        self.fleet.take_over();
        let opened = self.startup.open_doors(self.fleet.roster()).await;
        let opened = opened.map(|doors| self.requests.open(doors)).map_err(Into::into);
        for done in [opened, self.offer(), self.startup.write_pid_file()] {
            if let Err(error) = done {
                not_everything(&error);
            }
        }
    }

    /// A successor may ask for the sockets from now on.
    fn offer(&mut self) -> anyhow::Result<()> {
        self.startup.handover().map_or(Ok(()), |path| self.requests.offer(path))
    }

    /// Serves, and reloads, until there is a cause to stop.
    async fn until_stopped(&mut self) -> Cause {
        let Self { fleet, requests, startup, manager, reread, .. } = self;
        loop {
            let asker = match requests.next(fleet).await {
                Request::Stop(cause) => return cause,
                Request::Reload(asker) => asker,
            };
            // What comes meanwhile but a signal to stop waits for its turn.
            let result = tokio::select! {
                biased;
                reloaded = reload(fleet, manager, reread) => tell(reloaded, startup.is_confined()),
                signal = requests.stop() => {
                    asker.answer(Err("stopped before it was done"));
                    return Cause::Asked(signal);
                }
            };
            fleet.roster().reloaded(result.clone());
            asker.answer(result.as_ref().map(String::as_str).map_err(String::as_str));
        }
    }

    /// Goes on accepting for the window, then accepts no more and waits until all is
    /// finished, the deadline of each tunnel, or a second signal. A successor that
    /// is ready accepts at once.
    async fn drain(&mut self, cause: Cause) -> Outcome {
        self.requests.withdraw();
        if self.requests.has_successor() {
            // It accepts soon, or ends without having touched the files.
            self.fleet.give_away();
        }
        self.fleet.roster().set_phase(Phase::Draining);
        let draining = format!("draining {} sessions", self.fleet.sessions());
        // Whoever stops a service means the successor, and reaches all of its processes.
        let mut has_heir = false;
        let signal = match cause {
            Cause::Asked(signal) => signal,
            Cause::HandedOver(successor) => {
                has_heir = successor.heir().is_some();
                self.hand_over(successor).await
            }
        };
        if !has_heir {
            self.manager.stopping(&draining).await;
        }
        if self.fleet.is_accepting() && !self.window.is_zero() {
            let accept_s = self.window.as_secs_f64();
            info!(signal, accept_s, "stopping soon: new connections are still accepted");
        }
        let mut window_is_over = pin!(sleep(self.window));
        loop {
            tokio::select! {
                biased;
                () = self.fleet.finished(), if !self.fleet.is_accepting() => break,
                () = &mut window_is_over, if self.fleet.is_accepting() => self.stop(signal),
                meanwhile = self.requests.while_draining() => match meanwhile {
                    Cause::HandedOver(successor) => {
                        self.hand_over(successor).await;
                    }
                    Cause::Asked(signal) if take(&mut has_heir) => {
                        info!(signal, "finishing sessions already; a second signal ends them now");
                    }
                    Cause::Asked(signal) => {
                        warn!(signal, "second signal: ending now");
                        self.fleet.stop();
                        self.fleet.cut().await;
                        break;
                    }
                },
            }
        }
        self.outcome()
    }

    /// Accepts no more, because of `signal`.
    fn stop(&mut self, signal: &'static str) {
        let drain_s = self.fleet.longest_drain().as_secs_f64();
        info!(signal, sessions = self.fleet.sessions(), drain_s, "stopping: no new connections");
        self.fleet.stop();
    }

    /// A successor accepts, and makes doors and files of its own where ours were.
    async fn hand_over(&mut self, successor: Successor) -> &'static str {
        let signal = "handover";
        self.fleet.give_away();
        if self.fleet.is_accepting() {
            self.stop(signal);
        }
        self.requests.close().await;
        self.startup.remove_pid_file();
        if let Some(pid) = successor.heir() {
            self.manager.main_process_is(pid).await;
        }
        // It waits for this.
        drop(successor);
        signal
    }

    fn outcome(&self) -> Outcome {
        let most_sessions = self.fleet.most_sessions();
        match self.fleet.sessions_cut() {
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
}

fn not_everything(error: &anyhow::Error) {
    let error = format!("{error:#}");
    error!(error, "took over, but not everything");
}

/// Makes the tunnels what their files say now; all of it or nothing.
async fn reload(fleet: &mut Fleet, manager: &Manager, reread: &Reread) -> anyhow::Result<Changes> {
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
fn tell(reloaded: anyhow::Result<Changes>, is_confined: bool) -> Result<String, String> {
    match reloaded {
        Ok(Changes { added, changed, removed, same }) => {
            info!(added, changed, removed, same, "reloaded");
            Ok(format!("{added} added, {changed} changed, {removed} removed, {same} as before"))
        }
        Err(error) => {
            let mut error = format!("{error:#}");
            // Whoever looks at the file finds nothing wrong with it.
            if is_confined
                && ["Permission denied", "no permission"].iter().any(|it| error.contains(it))
            {
                error += "; if it may, the sandbox does not: restart for a directory that is new, or for a file that \
                          took the place of another in a directory of many programs, such as / or /tmp";
            }
            error!(error, detail = "nothing was changed", "cannot reload");
            Err(error)
        }
    }
}
