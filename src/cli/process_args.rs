//! The flags about the process around the tunnels: its log, its user, its sandbox, its observation
//! and its stop.
//!
//! A configuration file has them in `[process]`, so nothing about a single
//! tunnel belongs here.

use std::path::PathBuf;
use std::time::Duration;

use clap::Args;
use nix::unistd::Uid;
use tracing::warn;

use super::misspellings;
use super::times;
use super::values::{Format, Level, MetricsAddress};
use crate::admin::AdminOptions;
use crate::observe::log;
use crate::run::{
    self, Failure, Outcome, PidPlace, Ports, Prepared, Process, ProcessPaths, Reread,
};
use crate::service::ServiceOptions;
use crate::sys::background::Readiness;
use crate::sys::child::{CommandLine, Keeper};
use crate::sys::privileges::User;
use crate::sys::sandbox::Rules;

/// Heading of these flags.
pub(super) const PROCESS: &str = "Process and log";

/// Flags about the process around the tunnels.
#[derive(Clone, Debug, PartialEq, Args)]
pub(super) struct ProcessArgs {
    /// Write the process id to this file, and remove it at the end
    #[arg(short, long, value_name = "FILE", help_heading = PROCESS)]
    pub(super) pid_file: Option<PathBuf>,

    /// Become this user once ports are bound and keys are read
    #[arg(short, long, value_name = "USER[:GROUP]|:GROUP", help_heading = PROCESS)]
    pub(super) user: Option<User>,

    /// Take the sockets from the process that listens on this unix socket, if one does, and hand
    /// them over there to the next, so that a restart refuses no client
    #[arg(long, value_name = "PATH", help_heading = PROCESS)]
    pub(super) handover: Option<PathBuf>,

    /// After SIGTERM or SIGINT, keep accepting for this long, so that load balancers notice first
    #[arg(
        long, value_name = "DURATION", default_value = "0s", value_parser = times::parse,
        allow_negative_numbers = true, help_heading = PROCESS
    )]
    pub(super) drain_accept: Duration,

    /// Serve /metrics, /healthz, /readyz and a page for browsers there; a port alone is for this
    /// machine only
    #[arg(long, value_name = "ADDR", help_heading = PROCESS)]
    pub(super) metrics: Option<MetricsAddress>,

    /// Show sessions, with the addresses of their clients, on the page of --metrics
    #[arg(long, requires = "metrics", help_heading = PROCESS)]
    pub(super) status_clients: bool,

    /// Answer 'knockpipe status' and the like at this unix socket, for the same user and root
    #[arg(long, value_name = "PATH", help_heading = PROCESS)]
    pub(super) admin: Option<PathBuf>,

    #[command(flatten)]
    pub(super) log: LogArgs,

    /// Log to syslog instead of standard error
    #[arg(long, help_heading = PROCESS)]
    pub(super) syslog: bool,

    #[command(flatten)]
    pub(super) sandbox: SandboxArgs,

    /// The process replaces another, or does not start (`run --reload-or-replace`).
    #[arg(skip)]
    pub(super) replaces: bool,
}

/// Flags of every command that runs in a sandbox.
#[derive(Clone, Copy, Debug, PartialEq, Args)]
pub(super) struct SandboxArgs {
    /// Do not restrict files and TCP ports to those in use (landlock)
    #[arg(long, help_heading = PROCESS)]
    no_sandbox: bool,
}

/// Flags about the log.
#[derive(Clone, Copy, Debug, PartialEq, Args)]
pub(super) struct LogArgs {
    /// Lowest level to log [default: info; warn for pipe, and for knock without
    /// --keep]
    #[arg(long, value_name = "LEVEL", help_heading = PROCESS)]
    log_level: Option<Level>,

    /// Form of log lines
    #[arg(long, value_name = "FORMAT", default_value = "text", help_heading = PROCESS)]
    log_format: Format,
}

/// The tunnels after a reload.
pub(super) struct Reloading {
    /// Function that reads them again.
    pub(super) reread: Reread,
    /// Files that are read for that.
    pub(super) files: Vec<PathBuf>,
    /// TCP ports that they may listen on and dial.
    pub(super) ports: Ports,
}

impl ProcessArgs {
    /// Returns the user that the process becomes.
    pub(super) fn uid(&self) -> Option<Uid> {
        self.user.as_ref().and_then(User::uid)
    }

    /// Runs services. A reload replaces them by those of `reloading`.
    ///
    /// # Errors
    /// [`Failure`] of the run.
    pub(super) fn run(
        &self,
        readiness: Readiness,
        plan: Vec<ServiceOptions>,
        reloading: Reloading,
    ) -> Result<Outcome, Failure> {
        self.run_beside(readiness, plan, reloading, None)
    }

    /// Does the same beside a command, which lives as long as the process.
    ///
    /// # Errors
    /// [`Failure`] of the run, or of the command's start.
    pub(super) fn run_beside(
        &self,
        readiness: Readiness,
        plan: Vec<ServiceOptions>,
        reloading: Reloading,
        command: Option<CommandLine>,
    ) -> Result<Outcome, Failure> {
        let Reloading { reread, files, ports } = reloading;
        self.refuse_user_without_rights(&plan)?;
        // Before the sandbox, which the command would inherit.
        let keeper = command.map(|command| Keeper::start(&command, self.user.as_ref()));
        let keeper = keeper.transpose().map_err(|error| {
            Failure::Runtime(anyhow::anyhow!(
                "cannot start a process for --run: {error}; raise the limit of processes (ulimit -u)"
            ))
        })?;
        // Done before the log is started: its thread would escape the sandbox.
        let prepared = self.prepare(&plan, files, ports);
        let output = if self.syslog { log::Output::Syslog } else { log::Output::Stderr };
        let _log = self.log.start(Level::Info, output)?;
        for (variable, meant) in misspellings() {
            warn!(variable, meant, "unknown environment variable");
        }
        let process = Process { keeper, ..self.process(readiness, prepared) };
        run::services(plan, process, reread)
    }

    /// Refuses `-u` where the user that it names could not change the firewall.
    fn refuse_user_without_rights(&self, plan: &[ServiceOptions]) -> Result<(), Failure> {
        let mut firewalls = plan.iter().filter_map(ServiceOptions::as_firewall);
        let needs_rights = firewalls.any(|options| options.backend.needs_net_admin());
        match self.uid().filter(|_| needs_rights) {
            Some(_) => Err(Failure::Usage(anyhow::anyhow!(
                "-u/--user takes the right to change the firewall away; leave it out, and give the capability CAP_NET_ADMIN alone, as the unit knockpipe-firewall@ does"
            ))),
            None => Ok(()),
        }
    }

    fn prepare(&self, plan: &[ServiceOptions], files: Vec<PathBuf>, ports: Ports) -> Prepared {
        let sockets = [&self.handover, &self.admin].into_iter().flatten().cloned().collect();
        let pid_file = self.pid_file.clone();
        let metrics = self.admin().metrics;
        let is_pid_file_ours = self.is_pid_file_ours();
        let paths = ProcessPaths { pid_file, is_pid_file_ours, sockets, metrics, files };
        let place = self.pid_place();
        let rules = self.sandbox.rules(|| run::rules_of_services(plan, &paths, ports));
        Prepared::for_services(plan, rules).with_place(place)
    }

    /// Reserves the place of the pid file, if it is ours: with a predecessor the file is its own,
    /// and another user could not write it.
    fn pid_place(&self) -> Option<PidPlace> {
        let is_wanted = self.is_pid_file_ours() && !self.sandbox.no_sandbox;
        self.pid_file.as_ref().filter(|_| is_wanted).and_then(|path| PidPlace::take(path))
    }

    fn is_pid_file_ours(&self) -> bool {
        self.handover.is_none() && self.user.is_none()
    }

    fn admin(&self) -> AdminOptions {
        let metrics = self.metrics.as_ref().map(|address| address.0.clone());
        AdminOptions { metrics, shows_clients: self.status_clients, socket: self.admin.clone() }
    }

    fn process(&self, readiness: Readiness, prepared: Prepared) -> Process {
        Process {
            pid_file: self.pid_file.clone(),
            user: self.user.clone(),
            admin: self.admin(),
            readiness,
            drain_accept: self.drain_accept,
            handover: self.handover.clone(),
            replaces: self.replaces,
            keeper: None,
            prepared,
        }
    }
}

impl SandboxArgs {
    /// Returns the rules of `make`, unless the sandbox is disabled.
    pub(super) fn rules(self, make: impl FnOnce() -> Rules) -> Option<Rules> {
        (!self.no_sandbox).then(make)
    }
}

impl LogArgs {
    /// Starts the log. Keep the guard until the run has ended: it writes the last lines.
    ///
    /// # Errors
    /// [`Failure`] of the system.
    pub(super) fn start(self, default: Level, output: log::Output) -> Result<log::Guard, Failure> {
        let level = self.log_level.unwrap_or(default).into();
        let started = log::start(log::Settings { level, format: self.log_format.into(), output });
        started.map_err(|error| Failure::Runtime(error.into()))
    }
}
