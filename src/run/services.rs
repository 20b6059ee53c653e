//! All services of the process, and the change from one set of them to another.
//!
//! Everything that can fail is prepared first: sockets, addresses, gates. Only when all of it is
//! ready do services change, without a moment in which none accepts. A service with unchanged
//! options is not touched. One that changes gets a successor for new connections, on the same
//! sockets; its sessions continue as they began, until they end. One that is removed drains.

use std::io;
use std::mem::take;
use std::os::fd::OwnedFd;
use std::sync::{Arc, Weak};
use std::time::Duration;

use anyhow::Context;
use tracing::warn;

use super::about;
use super::announce::announce;
use super::descriptors;
use super::draining::Draining;
use super::knock_sockets::{self, KnockSockets, Known, take_given};
use super::listeners::{Handed, SourceListeners, bind_first, bind_missing, sources, watch};
use super::new_gates::NewGates;
use super::planned::{Planned, PreparedService, RunningService, sockets};
use super::startup::Startup;
use crate::addr::Source;
use crate::admin::Registry;
use crate::admin::protocol::ReloadedReply;
use crate::admin::registry::Phase;
use crate::knock;
use crate::service::{
    Capacity, Prepared, Service, ServiceOptions, Surroundings, TooFewDescriptors,
};
use crate::sys::activation::{Inherited, KEPT};
use crate::sys::handover::Given;
use crate::tunnel::ReplayState;

/// Prefix of the name under which a socket of systemd is handed over. The name of a service's
/// socket has a tab.
const SYSTEMD: &str = "systemd:";

/// The services of the process.
pub(super) struct Services {
    descriptors: u64,
    /// Source of status, metrics and readiness.
    registry: Arc<Registry>,
    /// Sockets of systemd, which are kept for every reload.
    systemd: Inherited,
    running: Vec<RunningService>,
    /// Services that accept no more.
    draining: Draining,
    most_sessions: usize,
    /// Memory of first messages. Begins when the first sockets listen.
    memory: Option<Arc<ReplayState>>,
}

/// The sockets of a plan.
struct Opened {
    /// New listening sockets.
    bound: Vec<SourceListeners>,
    /// Sockets for knocks of each service, new ones and those that are open.
    knocks: Vec<Vec<KnockSockets>>,
}

/// State of a commit.
#[derive(Default)]
struct Commit {
    changes: ReloadedReply,
    /// Indices of the services that are new.
    news: Vec<usize>,
}

/// Continues the memory of the predecessor, or begins one.
fn remember(before: Option<OwnedFd>) -> ReplayState {
    let Some(before) = before else { return ReplayState::begin() };
    ReplayState::adopt(before).unwrap_or_else(|error| {
        let detail = "encrypt ends that connect at this very moment need a second attempt";
        warn!(%error, detail, "cannot read the predecessor's replay state");
        ReplayState::begin()
    })
}

impl Services {
    /// Begins without a service; `descriptors` is the limit of all of them together, and `registry`
    /// gets each.
    pub(super) fn new(descriptors: u64, systemd: Inherited, registry: Arc<Registry>) -> Self {
        let draining = Draining::new(Arc::clone(&registry));
        let running = vec![];
        Self { descriptors, registry, systemd, running, draining, most_sessions: 0, memory: None }
    }

    /// Divides the descriptors among the services of a plan.
    pub(super) fn shares(
        &self,
        plan: &[ServiceOptions],
    ) -> Result<Vec<Capacity>, TooFewDescriptors> {
        descriptors::share(plan, self.descriptors)
    }

    /// Starts the first services of the process, on the sockets that were
    /// `inherited` where they fit, and once a predecessor accepts no more.
    pub(super) async fn launch(
        &mut self,
        plan: Vec<ServiceOptions>,
        mut inherited: Vec<Given>,
        startup: &mut Startup,
    ) -> anyhow::Result<()> {
        self.adopt(&mut inherited);
        let before = inherited.extract_if(.., |given| given.name == KEPT).next();
        let before = before.map(|given| given.socket).or_else(|| self.systemd.take_kept());
        let knocks = take_given(&mut inherited);
        let handed = Handed { given: inherited, systemd: &self.systemd };
        let bound = watch(bind_first(&plan, handed, startup).await?)?;
        let knocks = self.open_knocks(&plan, &bound, knocks).await?;
        // Messages from now on were sent to this process, unless they are recordings.
        self.memory = Some(Arc::new(remember(before)));
        startup.write_pid_file()?;
        startup.drop_privileges()?;
        let mut gates = NewGates::default();
        let next = self.prepare(plan, Opened { bound, knocks }, &mut gates).await?;
        startup.announce();
        // Clients that connect meanwhile wait in the backlog.
        gates.settle(patience(&next)).await;
        if startup.takes_over() {
            startup.wait_our_turn().await?;
        }
        self.commit(next);
        Ok(())
    }

    /// Takes the sockets that systemd gave to a predecessor: a later reload may ask for them.
    fn adopt(&mut self, inherited: &mut Vec<Given>) {
        let theirs = inherited.extract_if(.., |given| given.name.starts_with(SYSTEMD));
        let named = |given: Given| (given.name[SYSTEMD.len()..].to_owned(), given.socket);
        self.systemd.adopt(theirs.map(named).collect());
    }

    /// Shares all listening sockets and the memory of first messages, for a successor.
    pub(super) fn sockets(&self) -> io::Result<Vec<Given>> {
        let memory = self.memory();
        let memory = memory.map(|socket| Ok(Given { name: KEPT.to_owned(), socket }));
        let systemd = self.systemd.share().map(|shared| {
            let (name, socket) = shared?;
            Ok(Given { name: format!("{SYSTEMD}{name}"), socket })
        });
        let own = self.listeners().flat_map(SourceListeners::given);
        let knocks = self.running.iter().flat_map(|running| &running.knocks);
        own.chain(knocks.flat_map(KnockSockets::given)).chain(memory).chain(systemd).collect()
    }

    /// Shares the memory of first messages, for the next process.
    pub(super) fn memory(&self) -> Option<OwnedFd> {
        self.memory.as_ref().and_then(|memory| memory.share().ok())
    }

    /// Leaves the files of the sockets to a successor, which has the sockets.
    pub(super) fn give_away(&self) {
        self.listeners().flat_map(|source| &source.listeners).for_each(|it| it.give_away());
        self.running.iter().for_each(|running| running.service.leave());
    }

    /// Owns the files of the sockets that were handed over, from now on.
    pub(super) fn take_over(&self) {
        self.listeners().flat_map(|source| &source.listeners).for_each(|it| it.take_over());
    }

    fn listeners(&self) -> impl Iterator<Item = &SourceListeners> {
        self.running.iter().flat_map(|running| &running.listeners)
    }

    /// Makes the services match `plan`.
    ///
    /// # Errors
    /// The reason why it cannot be met; then nothing has changed.
    pub(super) async fn reload(
        &mut self,
        plan: Vec<ServiceOptions>,
    ) -> anyhow::Result<ReloadedReply> {
        let is_open = |options: &ServiceOptions, source: &Source| {
            self.listeners_of(options, source).is_some()
        };
        let bound = watch(bind_missing(&plan, &self.systemd, is_open).await?)?;
        let knocks = self.open_knocks(&plan, &bound, vec![]).await?;
        let mut gates = NewGates::default();
        let next = self.prepare(plan, Opened { bound, knocks }, &mut gates).await?;
        gates.settle(patience(&next)).await;
        Ok(self.commit(next))
    }

    /// Obtains everything that the services of `plan` need and that may be missing.
    async fn prepare(
        &self,
        plan: Vec<ServiceOptions>,
        opened: Opened,
        gates: &mut NewGates,
    ) -> anyhow::Result<Vec<Planned>> {
        let capacities = self.shares(&plan)?;
        let Opened { bound: new, knocks } = opened;
        let mut next = Vec::with_capacity(plan.len());
        for ((options, capacity), knocks) in plan.into_iter().zip(capacities).zip(knocks) {
            let before = self.place_of(&options);
            // A service that can listen where it could not before has changed as well.
            let is_new = |source: &Source| new.iter().any(|it| it.fits(&options, source));
            let has_new_listener = options.sources().iter().any(is_new);
            let is_same =
                |place: &usize| self.running[*place].options == options && !has_new_listener;
            if let Some(place) = before.filter(is_same) {
                next.push(Planned::Same { place, capacity });
                continue;
            }
            let listeners = self.listeners_for(&options, &new);
            let parts = about(&options, self.parts(&options, gates).await)?;
            let prepared = PreparedService {
                before,
                options,
                capacity,
                parts,
                listeners,
                knocks,
                has_new_listener,
            };
            next.push(Planned::New(Box::new(prepared)));
        }
        Ok(next)
    }

    /// Opens the sockets for knocks of each service of a plan, next to its listeners, of which
    /// those in `bound` are new.
    async fn open_knocks(
        &self,
        plan: &[ServiceOptions],
        bound: &[SourceListeners],
        given: Vec<Given>,
    ) -> anyhow::Result<Vec<Vec<KnockSockets>>> {
        let open = self.running.iter().flat_map(|running| &running.knocks).collect();
        let mut known = Known { given, open, all: sources(plan) };
        let mut knocks = Vec::with_capacity(plan.len());
        for options in plan {
            let listeners = self.listeners_for(options, bound);
            knocks.push(knock_sockets::open(options, &listeners, &mut known).await?);
        }
        if knocks.iter().any(|of_service| !of_service.is_empty()) {
            knock::thread::start().context("cannot start the thread that reads knocks; raise the limits of threads (ulimit -u, TasksMax=, a container's limit of pids) and memory")?;
        }
        Ok(knocks)
    }

    /// Returns the index of the service of that name.
    fn place_of(&self, options: &ServiceOptions) -> Option<usize> {
        self.running.iter().position(|running| running.options.name() == options.name())
    }

    async fn parts(
        &self,
        options: &ServiceOptions,
        gates: &mut NewGates,
    ) -> anyhow::Result<Prepared> {
        let memory = self.memory.as_ref().context("nothing was launched yet")?;
        let there = self.running.iter().filter_map(|running| running.service.gate());
        let gate = gates.get(options.gate(), there)?;
        let meters = self.registry.meters(options.display_name(), options.name().is_some());
        Ok(options.prepare(Surroundings { gate, meters, memory }).await?)
    }

    /// Finds the sockets of a service among the `new` ones and the existing ones.
    fn listeners_for(
        &self,
        options: &ServiceOptions,
        new: &[SourceListeners],
    ) -> Vec<SourceListeners> {
        let find = |source: &Source| {
            let new = new.iter().find(|it| it.fits(options, source));
            new.or_else(|| self.listeners_of(options, source)).cloned()
        };
        options.sources().iter().filter_map(find).collect()
    }

    /// Changes the services. Nothing here can fail or wait.
    fn commit(&mut self, next: Vec<Planned>) -> ReloadedReply {
        self.draining.forget_cuts();
        let old = take(&mut self.running);
        let mut old: Vec<Option<RunningService>> = old.into_iter().map(Some).collect();
        let mut commit = Commit::default();
        for next in next {
            let running = match next {
                Planned::Same { place, capacity } => {
                    commit.changes.same += 1;
                    let mut running = old[place].take().expect("each service has one name");
                    running.resize(capacity);
                    running
                }
                Planned::New(prepared) => {
                    let before = prepared.before.and_then(|place| old[place].take());
                    self.start(*prepared, before, &mut commit)
                }
            };
            self.running.push(running);
        }
        for removed in old.into_iter().flatten() {
            commit.changes.removed.push(removed.options.display_name().to_owned());
            self.removed(removed);
        }
        self.registry.set_phase(Phase::Serving);
        // Logged last, so that a reader of 'ready' finds everything ready.
        for place in commit.news {
            let RunningService { options, capacity, listeners, knocks, .. } = &self.running[place];
            let knocks: Vec<String> =
                knocks.iter().flat_map(|it| &it.sockets).map(|it| it.local()).collect();
            announce(options, *capacity, &sockets(listeners).collect::<Vec<_>>(), &knocks);
        }
        commit.changes
    }

    fn start(
        &mut self,
        prepared: PreparedService,
        before: Option<RunningService>,
        commit: &mut Commit,
    ) -> RunningService {
        match &before {
            Some(before) => commit.changes.changed.push(prepared.changes_from(before)),
            None => commit.changes.added.push(prepared.options.display_name().to_owned()),
        }
        commit.news.push(self.running.len());
        let mut running = prepared.start(before.as_ref());
        self.registry.add(Arc::clone(&running.service));
        if let Some(before) = before {
            running.predecessors = self.replaced(before, running.service.gate().is_some());
        }
        running
    }

    /// Drains a service that has a successor, where its sessions count from now on. Returns the
    /// predecessors of the successor.
    fn replaced(&mut self, replaced: RunningService, has_gate: bool) -> Vec<Weak<Service>> {
        let RunningService { service, mut predecessors, .. } = replaced;
        if let (Some(gate), false) = (service.gate(), has_gate) {
            gate.dismiss();
        }
        predecessors.retain(|before| before.strong_count() > 0);
        predecessors.push(Arc::downgrade(&service));
        self.draining.replaced(service);
        predecessors
    }

    /// Drains a service that was removed: its sessions, and those of its predecessors, may finish
    /// within its drain.
    fn removed(&mut self, removed: RunningService) {
        let RunningService { options, service, predecessors, listeners, knocks, .. } = removed;
        // Sockets that are not in the next set close here, before the first session ends.
        drop((listeners, knocks));
        self.draining.removed(service, &predecessors, &options);
    }

    /// Stops accepting. Sessions may finish within the drain of their service. A second call does
    /// nothing.
    pub(super) fn stop(&mut self) {
        if !self.running.is_empty() {
            // Sessions that a removal cut before do not count for the exit status.
            self.draining.forget_cuts();
        }
        let most = self.running.iter().map(|running| running.service.most_sessions()).sum();
        self.most_sessions = self.most_sessions.max(most);
        for running in take(&mut self.running) {
            self.removed(running);
        }
    }

    /// Lets services knock at once that knock at all.
    pub(super) fn knock_again(&self) {
        self.running.iter().for_each(|running| running.service.knock_again());
    }

    /// Waits until all stopped services have ended. Cancel safe.
    pub(super) async fn finished(&mut self) {
        self.draining.finished().await;
    }

    /// Ends all sessions now.
    pub(super) async fn cut(&mut self) {
        self.draining.cut().await;
    }

    /// Returns the registry of the services.
    pub(super) fn registry(&self) -> &Arc<Registry> {
        &self.registry
    }

    /// Returns true until [`Self::stop`].
    pub(super) fn is_accepting(&self) -> bool {
        !self.running.is_empty()
    }

    /// Returns the number of sessions.
    pub(super) fn sessions(&self) -> usize {
        self.running.iter().map(|running| running.service.sessions()).sum()
    }

    /// Returns the peak of sessions, summed over the services at the end.
    pub(super) fn most_sessions(&self) -> usize {
        self.most_sessions
    }

    /// Returns the number of sessions that could not finish.
    pub(super) fn sessions_cut(&self) -> usize {
        self.draining.sessions_cut()
    }

    /// Returns the longest drain of any service.
    pub(super) fn longest_drain(&self) -> Duration {
        self.running.iter().map(|running| running.options.drain()).max().unwrap_or_default()
    }

    /// Finds the sockets of a source of a service, where it is listened on already.
    fn listeners_of(&self, options: &ServiceOptions, source: &Source) -> Option<&SourceListeners> {
        self.listeners().find(|listeners| listeners.fits(options, source))
    }
}

/// Returns the longest time that any new service waits for its gate.
fn patience(next: &[Planned]) -> Duration {
    next.iter().map(Planned::patience).max().unwrap_or_default()
}
