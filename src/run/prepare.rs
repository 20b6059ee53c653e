//! Prepares the process while it has a single thread: sockets are taken over
//! from systemd, keys are kept in memory, and the sandbox is entered.

use std::fs;
use std::path::Path;

use nix::fcntl::OFlag;
use tracing::{info, warn};

use super::sandbox_rules::is_shared_id;
use crate::files::place::{FileId, Place};
use crate::keys::KeyRing;
use crate::net::service_files;
use crate::service::ServiceOptions;
use crate::sys::activation::Inherited;
use crate::sys::memory;
use crate::sys::pidfile::READABLE;
use crate::sys::sandbox::{self, Landlock, Report, Rules, SharedDirectory};

/// Resources that are prepared before there are threads.
#[derive(Debug)]
pub struct Prepared {
    /// Sockets that systemd handed over.
    pub(super) inherited: Inherited,
    report: Report,
    rules: Option<Rules>,
    /// Removes the file that was made for a pid file that was not written.
    _place: Option<PidPlace>,
    keys: std::io::Result<()>,
}

impl Prepared {
    /// Prepares the process for `keys`, inside a sandbox with `rules`, or
    /// without landlock where there are none. Call it once, before any thread is
    /// started, the log's included.
    pub fn new<'a>(keys: impl Iterator<Item = &'a KeyRing>, rules: Option<Rules>) -> Self {
        Self::keeping(keys, rules, false)
    }

    /// Does the same for services, of which some may start programs.
    pub fn for_services(plan: &[ServiceOptions], rules: Option<Rules>) -> Self {
        let firewalls = || plan.iter().filter_map(ServiceOptions::as_firewall);
        let needs_net_admin = firewalls().any(|options| options.backend.needs_net_admin());
        let rules = rules.filter(|_| !firewalls().any(|options| options.backend.is_unconfined()));
        Self::keeping(plan.iter().filter_map(ServiceOptions::keys), rules, needs_net_admin)
    }

    fn keeping<'a>(
        keys: impl Iterator<Item = &'a KeyRing>,
        rules: Option<Rules>,
        net_admin: bool,
    ) -> Self {
        let keys = memory::lock(keys);
        let inherited = Inherited::take_over();
        let report = sandbox::enter(rules.as_ref(), net_admin);
        if matches!(report.landlock, Landlock::Holds(_)) {
            service_files::confine();
        }
        Self { inherited, report, rules, _place: None, keys }
    }

    /// Keeps the reserved pid file for as long as the process runs.
    #[must_use]
    pub fn with_place(self, place: Option<PidPlace>) -> Self {
        Self { _place: place, ..self }
    }

    /// Returns true if the sandbox limits files to the directories of the start.
    pub(super) fn is_confined(&self) -> bool {
        matches!(self.report.landlock, Landlock::Holds(_))
    }

    /// Logs it, in a line at the start.
    pub(super) fn announce(&self) {
        let Report { landlock, no_new_privs, no_dumps, bounded } = &self.report;
        let lacks = landlock.lacks();
        let rules = self.rules.as_ref();
        let tcp = rules.filter(|_| landlock.restricts_tcp()).map(Rules::tcp);
        let confined = rules.filter(|_| self.is_confined());
        let reads = confined.map(Rules::reads);
        let writes = confined.map(Rules::writes);
        let key_memory = match &self.keys {
            Ok(()) => "locked".to_owned(),
            Err(error) => format!("not locked: {error}"),
        };
        info!(
            %landlock, lacks, reads, writes, tcp, no_new_privs, no_dumps,
            no_new_capabilities = bounded, key_memory, "sandbox"
        );
        for SharedDirectory { path, open } in confined.into_iter().flat_map(|it| &it.shared) {
            warn!(
                directory = %path.display(),
                detail = open.detail(),
                "sandbox wider than necessary: a shared directory is used"
            );
        }
    }
}

/// Locks the keys of a new set of services in memory as well. Logs one line if that fails for some
/// of them.
pub(super) fn keep(plan: &[ServiceOptions]) {
    if let Err(error) = memory::lock(plan.iter().filter_map(ServiceOptions::keys)) {
        let detail = "they may reach the swap space; raise ulimit -l (LimitMEMLOCK=) and restart";
        warn!(%error, detail, "keys are not locked in memory");
    }
}

/// An empty file at the path of the pid file, in a directory that many programs share: a sandbox
/// rule can name the file, so that the directory stays closed. Dropping it removes a file that is
/// still empty.
#[derive(Debug)]
pub struct PidPlace {
    place: Place,
    /// Held open, so that no other file can get its inode and be mistaken for it.
    file: fs::File,
}

impl PidPlace {
    /// Makes the file, if the directory is shared and there is none. Errors are reported when the
    /// pid file is written.
    pub fn take(path: &Path) -> Option<Self> {
        let place = Place::find(path).ok()?;
        if !is_shared_id(FileId::from(&place.directory().ok()?)) {
            return None;
        }
        let flags = OFlag::O_WRONLY | OFlag::O_CREAT | OFlag::O_EXCL;
        let file = place.open(flags, READABLE).ok()?;
        Some(Self { place, file })
    }
}

impl Drop for PidPlace {
    fn drop(&mut self) {
        if let Ok(made) = self.file.metadata()
            && made.len() == 0
        {
            let _ = self.place.remove(FileId::from(&made));
        }
    }
}
