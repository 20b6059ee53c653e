//! A process with its tunnels: it starts, serves and reloads until it is asked to
//! stop, and drains, or hands over to a successor.
//!
//! What is to be done is known here, and how is not: tunnels are the fleet's
//! business, whoever asks is that of requests, and files are that of startup.

use std::mem::take;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, anyhow};
use nix::unistd::geteuid;
use tokio::task::AbortHandle;
use tokio::time::sleep;
use tracing::{error, info, warn};

use super::fleet::Fleet;
use super::requests::{Cause, Request, Requests};
use super::startup::Startup;
use super::{Failure, Outcome, Plan, Process, Reread, prepare};
use crate::admin::Done;
use crate::admin::protocol::ReloadedReply;
use crate::admin::roster::Phase;
use crate::files::place::user_name;
use crate::frontend::workers;
use crate::sys::activation::KEPT;
use crate::sys::handover::Successor;
use crate::sys::notify::Manager;
use crate::tasks::{Panicked, blocking, caught, lasting};
use crate::tunnel::Options;

/// Pause after a fault in hearing what is asked.
const ASK_AGAIN: Duration = Duration::from_secs(1);

/// All that a process has while it runs.
pub(super) struct Running {
    fleet: Fleet,
    requests: Requests,
    startup: Startup,
    manager: Manager,
    reread: Reread,
    /// Tells the manager that this process is alive.
    signs_of_life: Option<AbortHandle>,
    /// How long new connections are still accepted after the first signal.
    window: Duration,
}

impl Running {
    pub(super) fn new(fleet: Fleet, requests: Requests, process: Process, reread: Reread) -> Self {
        let (manager, window) = (Manager::from_environment(), process.drain_accept);
        let (startup, signs_of_life) = (Startup::new(process), None);
        Self { fleet, requests, startup, manager, reread, signs_of_life, window }
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
        let manager = self.manager.clone();
        let signs_of_life =
            lasting("the watchdog", move || manager.clone().keep_watchdog_quiet(workers::answered));
        self.signs_of_life = Some(tokio::spawn(signs_of_life).abort_handle());
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
            let asker = match caught(requests.next(fleet)).await {
                Ok(Request::Stop(cause)) => return cause,
                Ok(Request::Reload(asker)) => asker,
                Err(Panicked) => {
                    sleep(ASK_AGAIN).await;
                    continue;
                }
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
            asker.answer(
                result.as_ref().map(|done| Done::Reloaded(done.clone())).map_err(|it| &**it),
            );
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
            // From here on the manager hears the other one only.
            self.signs_of_life.take().iter().for_each(AbortHandle::abort);
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
async fn reload(
    fleet: &mut Fleet,
    manager: &Manager,
    reread: &Reread,
) -> anyhow::Result<ReloadedReply> {
    manager.reloading().await;
    let reloaded = caught(change(fleet, Arc::clone(reread))).await;
    let reloaded = reloaded.unwrap_or_else(|panicked| Err(panicked.into()));
    // It serves either way.
    manager.ready(if reloaded.is_ok() { "serving" } else { "serving, not reloaded" }).await;
    reloaded
}

async fn change(fleet: &mut Fleet, reread: Reread) -> anyhow::Result<ReloadedReply> {
    // Files may be slow, and users are looked up.
    let plan = blocking(move || reread().map_err(|failure| unread(&failure))).await;
    let Plan { tunnels, restart } = plan.context("cannot read the configuration")??;
    prepare::keep(&tunnels);
    let changes = fleet.reload(tunnels).await?;
    if !restart.is_empty() {
        let settings = restart.join(" ");
        warn!(settings, "settings of [process] have changed; they take effect at the next start");
    }
    Ok(ReloadedReply { restart, ..changes })
}

/// The reason why files were not read, and as whom, where that may be why: root began, and after
/// `-u` another user reads.
fn unread(failure: &Failure) -> anyhow::Error {
    let error = failure.to_string();
    if !is_about_rights(&error) {
        return anyhow!(error);
    }
    let user = user_name(geteuid());
    anyhow!("{error}; it is read as user '{user}', who needs access to it and to its directories")
}

/// Whether somebody may not read something.
fn is_about_rights(error: &str) -> bool {
    ["Permission denied", "no permission"].iter().any(|it| error.contains(it))
}

/// What the log, and whoever asked, hear of a reload.
fn tell(
    reloaded: anyhow::Result<ReloadedReply>,
    is_confined: bool,
) -> Result<ReloadedReply, String> {
    match reloaded {
        Ok(changes) => {
            let ReloadedReply { added, changed, removed, same, .. } = &changes;
            let (added, changed, removed) = (added.len(), changed.len(), removed.len());
            info!(added, changed, removed, same, detail = %changes, "reloaded");
            Ok(changes)
        }
        Err(error) => {
            let mut error = format!("{error:#}");
            // Whoever looks at the file finds nothing wrong with it.
            if is_confined && is_about_rights(&error) {
                error += "; if it may, the sandbox does not: restart for a directory that is new, or for a file that \
                          took the place of another in a directory of many programs, such as / or /tmp";
            }
            error!(error, detail = "nothing was changed", "cannot reload");
            Err(error)
        }
    }
}
