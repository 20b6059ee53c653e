//! Steps that are done once between the command line and the first connection: a predecessor, the
//! pid file, privileges, and the signal that the process is ready.
//!
//! Nothing here blocks the task that handles signals.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::sleep;
use tracing::{info, warn};

use super::Process;
use crate::addr::{Address, Source};
use crate::admin::{AdminError, AdminServer, Registry};
use crate::net::{BindError, Listener};
use crate::sys::background::Readiness;
use crate::sys::handover::{Given, Predecessor, ask};
use crate::sys::pidfile::PidFile;
use crate::sys::privileges::User;
use crate::sys::sandbox::forbid_dumps;
use crate::tasks::blocking;

/// Connections that the kernel may hold for us; it caps this at `net.core.somaxconn`.
pub(super) const BACKLOG: i32 = 4096;

/// Pause before the next look-up of a name to listen on that does not resolve yet.
const RESOLVE_AGAIN: Duration = Duration::from_secs(1);

/// State of the steps on the way to ready, and of those that are undone at the end.
pub(super) struct Startup {
    process: Process,
    pid_file: Option<PidFile>,
    /// Another process had our sockets, and keeps our addresses and files until it exits.
    takes_over: bool,
    /// That process, unless it is gone.
    predecessor: Option<Predecessor>,
}

impl Startup {
    pub(super) fn new(process: Process) -> Self {
        Self { process, pid_file: None, takes_over: false, predecessor: None }
    }

    /// Takes the sockets of a running process, if there is one to take over from.
    ///
    /// # Errors
    /// When it refuses them.
    pub(super) async fn inherit(&mut self) -> anyhow::Result<Vec<Given>> {
        let Some(path) = self.process.handover.clone() else { return Ok(vec![]) };
        let user = self.process.user.as_ref().and_then(User::uid);
        let Some((given, predecessor)) = blocking(move || ask(&path, user)).await?? else {
            anyhow::ensure!(!self.process.replaces, "the process that ran is gone; start it anew");
            return Ok(vec![]);
        };
        (self.takes_over, self.predecessor) = (true, Some(predecessor));
        Ok(given)
    }

    /// Returns the path of the handover socket.
    pub(super) fn handover(&self) -> Option<&Path> {
        self.process.handover.as_deref()
    }

    /// Returns true if another process had our sockets.
    pub(super) fn takes_over(&self) -> bool {
        self.takes_over
    }

    /// Waits until a predecessor accepts no more. Everything is ready by then.
    ///
    /// # Errors
    /// When it continues instead.
    pub(super) async fn wait_our_turn(&mut self) -> anyhow::Result<()> {
        if let Some(predecessor) = self.predecessor.take() {
            let heir = self.process.replaces;
            self.predecessor = blocking(move || predecessor.give_way(heir)).await??;
        }
        Ok(())
    }

    /// Waits until the addresses and files of a predecessor are ours.
    pub(super) async fn await_predecessor_exit(&mut self) {
        let left = match self.predecessor.take() {
            Some(predecessor) => {
                let left = blocking(move || predecessor.leave()).await;
                left.unwrap_or_else(|undone| Err(undone.into()))
            }
            None => Err(std::io::ErrorKind::UnexpectedEof.into()),
        };
        match left {
            Ok(()) => info!("took over from predecessor"),
            Err(error) => warn!(%error, "predecessor ended before confirming handover"),
        }
        self.takes_over = false;
    }

    /// Opens the admin interface, which answers from `registry`.
    ///
    /// # Errors
    /// [`AdminError`]
    pub(super) async fn open_admin(
        &self,
        registry: &Arc<Registry>,
    ) -> Result<AdminServer, AdminError> {
        AdminServer::open(&self.process.admin, registry, self.process.user.as_ref()).await
    }

    /// Binds a source of a service that may wait for name service: tries until it resolves; a
    /// process that waits for us is released before that.
    pub(super) async fn bind_patiently(
        &mut self,
        source: &Address,
        others: &[Source],
    ) -> anyhow::Result<Vec<Listener>> {
        loop {
            match Listener::bind_apart(source, others, BACKLOG).await {
                Err(error @ BindError::Unresolvable { .. }) => {
                    warn!(%source, %error, "waiting for DNS");
                    self.signal_ready()?;
                    sleep(RESOLVE_AGAIN).await;
                }
                bound => return Ok(bound?),
            }
        }
    }

    /// Writes the pid file, unless it is there or still a predecessor's.
    pub(super) fn write_pid_file(&mut self) -> anyhow::Result<()> {
        if !self.takes_over
            && let Some(path) = self.process.pid_file.take()
        {
            self.pid_file = Some(PidFile::write(&path)?);
        }
        Ok(())
    }

    pub(super) fn remove_pid_file(&mut self) {
        self.pid_file = None;
    }

    /// Drops privileges: the system keeps an identity for each thread; the C library changes all of
    /// them.
    pub(super) fn drop_privileges(&mut self) -> anyhow::Result<()> {
        if let Some(user) = self.process.user.take() {
            user.become_for_good()?;
            // The change of user may have reset it.
            forbid_dumps();
        }
        Ok(())
    }

    /// Returns true if the sandbox limits files to the directories of the start.
    pub(super) fn is_confined(&self) -> bool {
        self.process.prepared.is_confined()
    }

    /// Logs what the process can no longer do.
    pub(super) fn announce(&self) {
        self.process.prepared.announce();
    }

    /// Signals that the process is ready to one that waits for it. The pid file is there by then,
    /// unless it is a predecessor's.
    pub(super) fn signal_ready(&mut self) -> anyhow::Result<()> {
        self.write_pid_file()?;
        let waiting = std::mem::replace(&mut self.process.readiness, Readiness::foreground());
        Ok(waiting.report_ready()?)
    }
}
