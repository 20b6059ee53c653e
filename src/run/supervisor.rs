//! Supervisor of a process with its services: it starts, serves and reloads until it is asked to
//! stop, and drains, or hands over to a successor.
//!
//! It decides, and leaves the work to others: services do their own work, control receives
//! requests, and startup handles files.

use std::mem::take;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, anyhow};
use nix::sys::signal::Signal;
use nix::unistd::geteuid;
use tokio::task::AbortHandle;
use tokio::time::{sleep, timeout};
use tracing::{error, info, warn};

use super::control::{Control, Request, StopCause};
use super::services::Services;
use super::startup::Startup;
use super::{Failure, Outcome, Plan, Process, Reread, prepare};
use crate::admin::Done;
use crate::admin::protocol::ReloadedReply;
use crate::admin::registry::Phase;
use crate::files::place::user_name;
use crate::frontend::workers;
use crate::service::ServiceOptions;
use crate::sys::activation::KEPT;
use crate::sys::child::{Keeper, RunningCommand};
use crate::sys::handover::Successor;
use crate::sys::notify::Manager;
use crate::tasks::{Panicked, blocking, caught, restarting};

/// Pause after a fault in receiving a request.
const ASK_AGAIN: Duration = Duration::from_secs(1);

/// Parts of a running process.
pub(super) struct Supervisor {
    services: Services,
    control: Control,
    startup: Startup,
    manager: Manager,
    reread: Reread,
    /// Keeper of the command beside the services, until that is started.
    keeper: Option<Keeper>,
    /// The command that runs beside the services.
    command: Option<RunningCommand>,
    /// Task that feeds the manager's watchdog.
    signs_of_life: Option<AbortHandle>,
    /// Time in which new connections are still accepted after the first signal.
    window: Duration,
}

impl Supervisor {
    pub(super) fn new(
        services: Services,
        control: Control,
        mut process: Process,
        reread: Reread,
    ) -> Self {
        let keeper = process.keeper.take();
        let manager = Manager::from_environment();
        let window = process.drain_accept;
        let startup = Startup::new(process);
        Self {
            services,
            control,
            startup,
            manager,
            reread,
            keeper,
            command: None,
            signs_of_life: None,
            window,
        }
    }

    /// Runs the services of `plan`, and those of later reloads, until all is finished.
    ///
    /// # Errors
    /// When they cannot start; nothing is left behind then.
    pub(super) async fn run(mut self, plan: Vec<ServiceOptions>) -> anyhow::Result<Outcome> {
        let started = self.start(plan).await;
        let outcome = match started {
            Ok(None) => {
                let cause = self.until_stopped().await;
                let drain = self.services.longest_drain();
                let outcome = self.drain(cause).await;
                Ok(self.with_command(outcome, drain).await)
            }
            Ok(Some(signal)) => {
                info!(signal, "stopped before it was ready");
                Ok(Outcome::Clean)
            }
            Err(error) => Err(error),
        };
        self.control.close().await;
        outcome
    }

    /// Prepares everything, and serves. Returns the signal if one stops it before that.
    async fn start(&mut self, plan: Vec<ServiceOptions>) -> anyhow::Result<Option<&'static str>> {
        let Self { services, control, startup, .. } = self;
        let enter = async {
            let inherited = startup.inherit().await?;
            // A predecessor has the same addresses, and keeps them until it leaves.
            let ours = !startup.takes_over();
            let admin =
                if ours { Some(startup.open_admin(services.registry()).await?) } else { None };
            anyhow::Ok((inherited, admin))
        };
        let inherited = tokio::select! {
            entered = enter => {
                let (inherited, admin) = entered?;
                admin.into_iter().for_each(|admin| control.open(admin));
                inherited
            }
            signal = control.stop_before_ready() => return Ok(Some(signal)),
        };
        tokio::select! {
            launched = services.launch(plan, inherited, startup) => launched?,
            // A name server can take its time, and with -D for ever.
            signal = control.stop_before_ready() => return Ok(Some(signal)),
        }
        let has_predecessor = self.startup.takes_over();
        if has_predecessor {
            self.take_over().await;
        } else {
            self.offer()?;
            self.startup.signal_ready()?;
        }
        if let Some(keeper) = self.keeper.take() {
            self.command = Some(keeper.run().await.context("cannot start the command of --run")?);
        }
        self.manager.ready("serving").await;
        if let Some(memory) = self.services.memory() {
            self.manager.keep(KEPT, &memory).await;
        }
        // A program that waits for a successor finds that the manager already knows it.
        if has_predecessor && let Err(error) = self.startup.signal_ready() {
            not_everything(&error);
        }
        let manager = self.manager.clone();
        let signs_of_life = restarting("the watchdog", move || {
            manager.clone().keep_watchdog_quiet(workers::answered)
        });
        self.signs_of_life = Some(tokio::spawn(signs_of_life).abort_handle());
        Ok(None)
    }

    /// Opens and writes what a predecessor had until now. Only the services of this process serve
    /// by now: a failure is logged, and no reason to end.
    async fn take_over(&mut self) {
        self.startup.await_predecessor_exit().await;
        self.services.take_over();
        let opened = self.startup.open_admin(self.services.registry()).await;
        let opened = opened.map(|admin| self.control.open(admin)).map_err(Into::into);
        for done in [opened, self.offer(), self.startup.write_pid_file()] {
            if let Err(error) = done {
                not_everything(&error);
            }
        }
    }

    /// Lets a successor ask for the sockets from now on.
    fn offer(&mut self) -> anyhow::Result<()> {
        self.startup.handover().map_or(Ok(()), |path| self.control.offer(path))
    }

    /// Serves, and reloads, until there is a cause to stop.
    async fn until_stopped(&mut self) -> StopCause {
        let Self { services, control, startup, manager, reread, command, .. } = self;
        loop {
            let next = tokio::select! {
                biased;
                next = caught(control.next(services)) => next,
                () = ended(command) => return StopCause::CommandEnded,
            };
            let reply = match next {
                Ok(Request::Stop(cause)) => return cause,
                Ok(Request::Reload(reply)) => reply,
                Err(Panicked) => {
                    sleep(ASK_AGAIN).await;
                    continue;
                }
            };
            // Other requests, except a signal to stop, wait meanwhile.
            let result = tokio::select! {
                biased;
                reloaded = reload(services, manager, reread) => {
                    tell(reloaded, startup.is_confined())
                }
                signal = control.stop() => {
                    reply.answer(Err("stopped before it was done"));
                    return StopCause::Asked(signal);
                }
            };
            services.registry().reloaded(result.clone());
            // Also if nothing is read again: the operator may know that the network is another.
            services.knock_again();
            reply.answer(
                result.as_ref().map(|done| Done::Reloaded(done.clone())).map_err(|it| &**it),
            );
        }
    }

    /// Continues accepting for the window, then stops and waits until all is finished, the deadline
    /// of each service, or a second signal. Stops accepting at once if a successor is ready.
    async fn drain(&mut self, cause: StopCause) -> Outcome {
        self.control.withdraw();
        if self.control.has_successor() {
            // The successor accepts soon, or ends without having touched the files.
            self.services.give_away();
        }
        self.services.registry().set_phase(Phase::Draining);
        let draining = format!("draining {} sessions", self.services.sessions());
        // A manager that stops a service means the successor, but signals all of its processes.
        let mut has_heir = false;
        let signal = match cause {
            StopCause::Asked(signal) => {
                self.command.iter().for_each(|command| command.signal(number(signal)));
                signal
            }
            StopCause::CommandEnded => {
                info!("the command has ended: ending now");
                self.services.stop();
                self.services.cut().await;
                return self.outcome();
            }
            StopCause::HandedOver(successor) => {
                has_heir = successor.heir().is_some();
                self.hand_over(successor).await
            }
        };
        if !has_heir {
            self.manager.stopping(&draining).await;
        }
        if self.services.is_accepting() && !self.window.is_zero() {
            let accept_s = self.window.as_secs_f64();
            info!(signal, accept_s, "stopping soon: new connections are still accepted");
        }
        let mut window_is_over = pin!(sleep(self.window));
        loop {
            tokio::select! {
                biased;
                () = self.services.finished(), if !self.services.is_accepting() => break,
                () = &mut window_is_over, if self.services.is_accepting() => self.stop(signal),
                meanwhile = self.control.while_draining() => match meanwhile {
                    StopCause::HandedOver(successor) => {
                        self.hand_over(successor).await;
                    }
                    StopCause::Asked(signal) if take(&mut has_heir) => {
                        info!(signal, "already finishing sessions; a second signal ends them now");
                    }
                    StopCause::CommandEnded => {}
                    StopCause::Asked(signal) => {
                        warn!(signal, "second signal: ending now");
                        self.command.iter().for_each(|command| command.signal(Signal::SIGKILL));
                        self.services.stop();
                        self.services.cut().await;
                        break;
                    }
                },
            }
        }
        self.outcome()
    }

    /// Waits for the command beside the services, for `drain` at most. Its exit status is that of
    /// the process.
    async fn with_command(&mut self, outcome: Outcome, drain: Duration) -> Outcome {
        let Some(command) = &mut self.command else { return outcome };
        let status = match timeout(drain, command.ended()).await {
            Ok(status) => status,
            Err(_) => {
                warn!(drain_s = drain.as_secs_f64(), "the command does not end; killing it");
                command.signal(Signal::SIGKILL);
                command.ended().await
            }
        };
        info!(status, "the command has ended");
        Outcome::Command(status)
    }

    /// Stops accepting, because of `signal`.
    fn stop(&mut self, signal: &'static str) {
        let drain_s = self.services.longest_drain().as_secs_f64();
        info!(signal, sessions = self.services.sessions(), drain_s, "stopping: no new connections");
        self.services.stop();
    }

    /// Lets a successor accept, and open its own sockets and files instead of ours.
    async fn hand_over(&mut self, successor: Successor) -> &'static str {
        let signal = "handover";
        self.services.give_away();
        if self.services.is_accepting() {
            self.stop(signal);
        }
        self.control.close().await;
        self.startup.remove_pid_file();
        if let Some(pid) = successor.heir() {
            // From here on only the successor reports to the manager.
            self.signs_of_life.take().iter().for_each(AbortHandle::abort);
            self.manager.main_process_is(pid).await;
        }
        // The successor waits for this.
        drop(successor);
        signal
    }

    fn outcome(&self) -> Outcome {
        let most_sessions = self.services.most_sessions();
        match self.services.sessions_cut() {
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

/// Waits for the end of the command, if there is one. Cancel safe.
async fn ended(command: &mut Option<RunningCommand>) {
    match command {
        Some(command) => drop(command.ended().await),
        None => std::future::pending().await,
    }
}

/// Returns the signal that a command gets for a request to stop.
fn number(asked: &str) -> Signal {
    if asked == "SIGINT" { Signal::SIGINT } else { Signal::SIGTERM }
}

fn not_everything(error: &anyhow::Error) {
    let error = format!("{error:#}");
    error!(error, "handover incomplete");
}

/// Makes the services match their files; all of it or nothing.
async fn reload(
    services: &mut Services,
    manager: &Manager,
    reread: &Reread,
) -> anyhow::Result<ReloadedReply> {
    manager.reloading().await;
    let reloaded = caught(change(services, Arc::clone(reread))).await;
    let reloaded = reloaded.unwrap_or_else(|panicked| Err(panicked.into()));
    // The process serves in either case.
    manager.ready(if reloaded.is_ok() { "serving" } else { "serving, not reloaded" }).await;
    reloaded
}

async fn change(services: &mut Services, reread: Reread) -> anyhow::Result<ReloadedReply> {
    // Reading files and looking up users may be slow.
    let plan = blocking(move || reread().map_err(|failure| unread(&failure))).await;
    let Plan { services: plan, restart } = plan.context("cannot read the configuration")??;
    prepare::keep(&plan);
    let changes = services.reload(plan).await?;
    if !restart.is_empty() {
        let settings = restart.join(" ");
        warn!(settings, "settings of [process] have changed; they take effect at the next start");
    }
    Ok(ReloadedReply { restart, ..changes })
}

/// Returns the reason why files were not read, with the user that read them, if that may be the
/// cause: root started the process, and after `-u` another user reads.
fn unread(failure: &Failure) -> anyhow::Error {
    let error = failure.to_string();
    if !is_about_rights(&error) {
        return anyhow!(error);
    }
    let user = user_name(geteuid());
    anyhow!("{error}; it is read as user '{user}', who needs access to it and to its directories")
}

/// Returns true if an error is about missing permissions.
fn is_about_rights(error: &str) -> bool {
    ["Permission denied", "no permission"].iter().any(|it| error.contains(it))
}

/// Logs the outcome of a reload, and returns it for the requester.
fn tell(
    reloaded: anyhow::Result<ReloadedReply>,
    is_confined: bool,
) -> Result<ReloadedReply, String> {
    match reloaded {
        Ok(changes) => {
            let ReloadedReply { added, changed, removed, same, .. } = &changes;
            let added = added.len();
            let changed = changed.len();
            let removed = removed.len();
            info!(added, changed, removed, same, detail = %changes, "reloaded");
            Ok(changes)
        }
        Err(error) => {
            let mut error = format!("{error:#}");
            // Examining the file shows no problem.
            if is_confined && is_about_rights(&error) {
                error += "; if it may, the sandbox does not: restart for a directory that is new, \
                          or for a file that took the place of another in a directory of many \
                          programs, such as / or /tmp";
            }
            error!(error, detail = "nothing was changed", "cannot reload");
            Err(error)
        }
    }
}
