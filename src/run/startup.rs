//! What is due once between the command line and the first connection:
//! listeners, the pid file, privileges, and the word to whoever waits.

use std::time::Duration;

use tokio::task::block_in_place;
use tokio::time::sleep;
use tracing::warn;

use super::Process;
use crate::addr::{Address, Source};
use crate::net::{BindError, Listener};
use crate::sys::background::Readiness;
use crate::sys::handover::{Given, Predecessor, ask};
use crate::sys::pidfile::PidFile;
use crate::sys::privileges::User;
use crate::sys::sandbox::forbid_dumps;

/// Connections that the kernel may hold for us; it caps this at `net.core.somaxconn`.
pub(super) const BACKLOG: i32 = 4096;

/// Pause before a listening name that does not resolve yet is tried again.
const RESOLVE_AGAIN: Duration = Duration::from_secs(1);

/// What is due once on the way to ready, and undone at the end.
pub(super) struct Startup {
    process: Process,
    pid_file: Option<PidFile>,
}

impl Startup {
    pub(super) fn new(process: Process) -> Self {
        Self { process, pid_file: None }
    }

    /// The sockets of a process that runs, if there is one to take over from.
    pub(super) fn inherit(&self) -> anyhow::Result<(Vec<Given>, Option<Predecessor>)> {
        let Some(path) = &self.process.handover else { return Ok((vec![], None)) };
        let user = self.process.user.as_ref().and_then(User::uid);
        let asked = block_in_place(|| ask(path, user))?;
        Ok(asked.map_or_else(|| (vec![], None), |(given, predecessor)| (given, Some(predecessor))))
    }

    /// Binds a source of a tunnel that may wait for name service: tries until it
    /// resolves; whoever waits for us is released before that.
    pub(super) async fn bind_patiently(
        &mut self,
        source: &Address,
        others: &[Source],
    ) -> anyhow::Result<Vec<Listener>> {
        loop {
            match Listener::bind(source, others, BACKLOG) {
                Err(error @ BindError::Unresolvable { .. }) => {
                    warn!(%source, %error, "waiting for DNS");
                    self.release()?;
                    sleep(RESOLVE_AGAIN).await;
                }
                bound => return Ok(bound?),
            }
        }
    }

    pub(super) fn write_pid_file(&mut self) -> anyhow::Result<()> {
        if let Some(path) = self.process.pid_file.take() {
            self.pid_file = Some(PidFile::write(&path)?);
        }
        Ok(())
    }

    /// Who the process becomes, if anybody else.
    pub(super) fn user(&self) -> Option<&User> {
        self.process.user.as_ref()
    }

    pub(super) fn remove_pid_file(&mut self) {
        self.pid_file = None;
    }

    /// The system keeps an identity for each thread; the C library changes all of them.
    pub(super) fn drop_privileges(&self) -> anyhow::Result<()> {
        if let Some(user) = &self.process.user {
            user.become_for_good()?;
            // The change of user may have undone it.
            forbid_dumps();
        }
        Ok(())
    }

    /// What the process can no longer do, for the log.
    pub(super) fn announce(&self) {
        self.process.prepared.announce();
    }

    /// Tells whoever waits that it need not wait any longer; the pid file is there by then.
    pub(super) fn release(&mut self) -> anyhow::Result<()> {
        self.write_pid_file()?;
        let waiting = std::mem::replace(&mut self.process.readiness, Readiness::foreground());
        Ok(waiting.report_ready()?)
    }
}
