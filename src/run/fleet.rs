//! All tunnels of the process, and how one set of them becomes another.
//!
//! What can fail is made first: sockets, addresses, gates. Only when all of it
//! is there do tunnels change, without a moment in which nobody accepts. A
//! tunnel whose options stay is not touched. One that changes gets a successor
//! for new connections, on the same sockets; those that it has go on as they
//! began, until they end. One that is gone drains.

use std::io;
use std::os::fd::OwnedFd;
use std::sync::{Arc, Weak};
use std::time::Duration;

use anyhow::Context;
use tokio::time::timeout;
use tracing::warn;

use super::about;
use super::announce::announce;
use super::changed::changed;
use super::doors::{Bound, Door, bind_first, bind_missing, open};
use super::leaving::Leaving;
use super::startup::Startup;
use crate::addr::Source;
use crate::admin::Roster;
use crate::admin::protocol::{ChangedReply, ReloadedReply};
use crate::admin::roster::Phase;
use crate::gate::{Gate, GateOptions};
use crate::net::SocketOptions;
use crate::sys::activation::{Inherited, KEPT};
use crate::sys::handover::Given;
use crate::tunnel::{Capacity, Memory, Options, Parts, TooFewDescriptors, Tunnel};

/// Begins the name under which a socket of systemd's is handed over. That of a tunnel's
/// has a tab.
const SYSTEMD: &str = "systemd:";

/// The tunnels of the process.
pub(super) struct Fleet {
    descriptors: u64,
    /// Knows what there is, for whoever asks.
    roster: Arc<Roster>,
    /// Sockets of systemd's, which stay there for every reload.
    systemd: Inherited,
    members: Vec<Member>,
    /// Tunnels that accept no more.
    leaving: Leaving,
    most_sessions: usize,
    /// The first messages that were answered. Begins when the first sockets listen.
    memory: Option<Arc<Memory>>,
}

/// A tunnel that accepts.
struct Member {
    options: Options,
    capacity: Capacity,
    tunnel: Arc<Tunnel>,
    /// Those in whose place it stands, one after the other, as long as they have sessions.
    predecessors: Vec<Weak<Tunnel>>,
    doors: Vec<Door>,
}

/// A tunnel of the next set.
enum Next {
    /// The member at this place, as it is.
    Same(usize, Capacity),
    /// A new one, with all that it needs.
    New(Box<Ready>),
}

struct Ready {
    /// The member that it stands in for.
    before: Option<usize>,
    options: Options,
    capacity: Capacity,
    parts: Parts,
    doors: Vec<Door>,
    /// It listens where the one before could not.
    has_new_door: bool,
}

/// Gates for the next set. Each is held for no tunnel here, so those that no tunnel
/// takes, and that none had, end with this.
#[derive(Default)]
struct Fresh(Vec<Gate>);

/// Gives the name of a tunnel for operators.
fn name(options: &Options) -> &str {
    options.name.as_deref().unwrap_or_else(|| options.role.mode())
}

/// Goes on with the memory of the process before, or begins one.
fn remember(before: Option<OwnedFd>) -> Memory {
    let Some(before) = before else { return Memory::begin() };
    Memory::adopt(before).unwrap_or_else(|error| {
        let detail = "encrypt ends that connect at this very moment need a second attempt";
        warn!(%error, detail, "the memory of the process before cannot be read");
        Memory::begin()
    })
}

impl Fleet {
    /// No tunnel yet; `descriptors` is what all of them may have, and `roster`
    /// hears of each.
    pub(super) fn new(descriptors: u64, systemd: Inherited, roster: Arc<Roster>) -> Self {
        let leaving = Leaving::new(Arc::clone(&roster));
        let members = vec![];
        Self { descriptors, roster, systemd, members, leaving, most_sessions: 0, memory: None }
    }

    /// What each tunnel of a plan can hold.
    pub(super) fn shares(&self, plan: &[Options]) -> Result<Vec<Capacity>, TooFewDescriptors> {
        Capacity::of_all(plan, self.descriptors)
    }

    /// Starts the first tunnels of the process, on the sockets that were
    /// `inherited` where they fit, and once a predecessor accepts no more.
    pub(super) async fn launch(
        &mut self,
        plan: Vec<Options>,
        mut inherited: Vec<Given>,
        startup: &mut Startup,
    ) -> anyhow::Result<()> {
        self.adopt(&mut inherited);
        let before = inherited.extract_if(.., |given| given.name == KEPT).next();
        let before = before.map(|given| given.socket).or_else(|| self.systemd.take_kept());
        let bound = bind_first(&plan, (inherited, &self.systemd), startup).await?;
        // What comes from now on was sent to this process, unless it is a recording.
        self.memory = Some(Arc::new(remember(before)));
        startup.write_pid_file()?;
        startup.drop_privileges()?;
        let mut fresh = Fresh::default();
        let next = self.prepare(plan, bound, &mut fresh).await?;
        startup.announce();
        // Whoever comes meanwhile waits in the backlog.
        fresh.settle(&next).await;
        if startup.takes_over() {
            startup.wait_our_turn().await?;
        }
        self.commit(next);
        Ok(())
    }

    /// The sockets that systemd gave to a predecessor: a later reload may ask for them.
    fn adopt(&mut self, inherited: &mut Vec<Given>) {
        let theirs = inherited.extract_if(.., |given| given.name.starts_with(SYSTEMD));
        let named = |given: Given| (given.name[SYSTEMD.len()..].to_owned(), given.socket);
        self.systemd.adopt(theirs.map(named).collect());
    }

    /// All listening sockets and the memory of first messages, for a successor.
    pub(super) fn sockets(&self) -> io::Result<Vec<Given>> {
        let memory = self.memory();
        let memory = memory.map(|socket| Ok(Given { name: KEPT.to_owned(), socket }));
        let systemd = self.systemd.share().map(|shared| {
            let (name, socket) = shared?;
            Ok(Given { name: format!("{SYSTEMD}{name}"), socket })
        });
        self.doors().flat_map(Door::given).chain(memory).chain(systemd).collect()
    }

    /// The memory of first messages, for the process after this one.
    pub(super) fn memory(&self) -> Option<OwnedFd> {
        self.memory.as_ref().and_then(|memory| memory.share().ok())
    }

    /// A successor has the sockets, and their files.
    pub(super) fn give_away(&self) {
        self.doors().flat_map(|door| &door.listeners).for_each(|socket| socket.give_away());
    }

    /// The files of the sockets that were handed to us are ours from now on.
    pub(super) fn take_over(&self) {
        self.doors().flat_map(|door| &door.listeners).for_each(|socket| socket.take_over());
    }

    fn doors(&self) -> impl Iterator<Item = &Door> {
        self.members.iter().flat_map(|member| &member.doors)
    }

    /// Makes the tunnels what `plan` says.
    ///
    /// # Errors
    /// What cannot be had; then nothing has changed.
    pub(super) async fn reload(&mut self, plan: Vec<Options>) -> anyhow::Result<ReloadedReply> {
        let is_open = |options: &Options, source: &Source| self.door(options, source).is_some();
        let bound = bind_missing(&plan, &self.systemd, is_open).await?;
        let mut fresh = Fresh::default();
        let next = self.prepare(plan, bound, &mut fresh).await?;
        fresh.settle(&next).await;
        Ok(self.commit(next))
    }

    /// Everything that the tunnels of `plan` need and that may not be there.
    async fn prepare(
        &self,
        plan: Vec<Options>,
        bound: Vec<Bound>,
        fresh: &mut Fresh,
    ) -> anyhow::Result<Vec<Next>> {
        let capacities = self.shares(&plan)?;
        let new_doors = open(bound)?;
        let memory = self.memory.as_ref().context("nothing was launched yet")?;
        let mut next = Vec::with_capacity(plan.len());
        for (options, capacity) in plan.into_iter().zip(capacities) {
            let before = self.members.iter().position(|member| member.options.name == options.name);
            // One that can listen where it could not before has changed as well.
            let has_new_door = options
                .sources
                .iter()
                .any(|source| new_doors.iter().any(|door| door.fits(&options, source)));
            let is_same = |place: &usize| self.members[*place].options == options && !has_new_door;
            match before.filter(is_same) {
                Some(place) => next.push(Next::Same(place, capacity)),
                None => {
                    let gate = about(&options, self.gate(options.gate.as_ref(), fresh))?;
                    let meters = self.roster.meters(name(&options));
                    let parts = about(&options, Parts::get(&options, gate, meters, memory).await)?;
                    let has = |source: &Source| {
                        let new = new_doors.iter().find(|door| door.fits(&options, source));
                        new.or_else(|| self.door(&options, source)).cloned()
                    };
                    let doors = options.sources.iter().filter_map(has).collect();
                    let ready = Ready { before, options, capacity, parts, doors, has_new_door };
                    next.push(Next::New(Box::new(ready)));
                }
            }
        }
        Ok(next)
    }

    /// The gate with these options, of a tunnel that has it, or a fresh one.
    fn gate(
        &self,
        options: Option<&Arc<GateOptions>>,
        fresh: &mut Fresh,
    ) -> anyhow::Result<Option<Gate>> {
        let Some(options) = options else { return Ok(None) };
        let there = self.members.iter().filter_map(|member| member.tunnel.gate());
        let found = there.chain(&fresh.0).find(|gate| gate.options() == *options);
        let gate = match found {
            // Held by itself, since the tunnel that has it may give it up.
            Some(gate) => gate.another(),
            None => Gate::start(Arc::clone(options))?,
        };
        fresh.0.push(gate.clone());
        Ok(Some(gate))
    }

    /// Changes the tunnels. Nothing here can fail, or waits.
    fn commit(&mut self, next: Vec<Next>) -> ReloadedReply {
        self.leaving.forget_cuts();
        let old = std::mem::take(&mut self.members);
        let mut old: Vec<Option<Member>> = old.into_iter().map(Some).collect();
        let (mut changes, mut news) = (ReloadedReply::default(), vec![]);
        for next in next {
            let member = match next {
                Next::Same(place, capacity) => {
                    changes.same += 1;
                    let mut member = old[place].take().expect("each member has one name");
                    member.resize(capacity);
                    member
                }
                Next::New(ready) => {
                    let before = ready.before.and_then(|place| old[place].take());
                    let tunnel = name(&ready.options).to_owned();
                    match &before {
                        Some(before) => {
                            let settings =
                                changed(&before.options, &ready.options, ready.has_new_door);
                            changes.changed.push(ChangedReply { tunnel, settings });
                        }
                        None => changes.added.push(tunnel),
                    }
                    news.push((self.members.len(), ready.capacity));
                    let mut member = ready.start(before.as_ref());
                    self.roster.add(Arc::clone(&member.tunnel));
                    if let Some(before) = before {
                        member.predecessors = self.replaced(before, member.tunnel.gate().is_some());
                    }
                    member
                }
            };
            self.members.push(member);
        }
        for member in old.into_iter().flatten() {
            changes.removed.push(name(&member.options).to_owned());
            self.removed(member);
        }
        self.roster.set_phase(Phase::Serving);
        // Only now, so that whoever reads 'ready' finds all of it ready.
        for (place, capacity) in news {
            let Member { options, doors, .. } = &self.members[place];
            let listeners: Vec<_> = doors.iter().flat_map(|door| &door.listeners).collect();
            announce(options, capacity, &listeners);
        }
        changes
    }

    /// Its sessions go on, and count as its successor's. Gives the predecessors of that.
    fn replaced(&mut self, member: Member, has_gate: bool) -> Vec<Weak<Tunnel>> {
        let Member { tunnel, mut predecessors, .. } = member;
        if let (Some(gate), false) = (tunnel.gate(), has_gate) {
            gate.dismiss();
        }
        predecessors.retain(|before| before.strong_count() > 0);
        predecessors.push(Arc::downgrade(&tunnel));
        self.leaving.replaced(tunnel);
        predecessors
    }

    /// Its sessions, and those of its predecessors, may finish within its drain.
    fn removed(&mut self, member: Member) {
        let Member { options, tunnel, predecessors, doors, .. } = member;
        // What is not in the next set closes here, before the first session ends.
        drop(doors);
        self.leaving.removed(tunnel, &predecessors, (options.name, options.drain));
    }

    /// Accepts no more. What there is may finish within each tunnel's drain. Does
    /// nothing the second time.
    pub(super) fn stop(&mut self) {
        if !self.members.is_empty() {
            // What a removal cut before is no business of the end.
            self.leaving.forget_cuts();
        }
        let most = self.members.iter().map(|member| member.tunnel.most_sessions()).sum();
        self.most_sessions = self.most_sessions.max(most);
        for member in std::mem::take(&mut self.members) {
            self.removed(member);
        }
    }

    /// Resolves when a stopped fleet has ended. Cancel safe.
    pub(super) async fn finished(&mut self) {
        self.leaving.finished().await;
    }

    /// Ends what goes on, now.
    pub(super) async fn cut(&mut self) {
        self.leaving.cut().await;
    }

    /// Who knows what there is.
    pub(super) fn roster(&self) -> &Arc<Roster> {
        &self.roster
    }

    /// Whether it was not stopped yet.
    pub(super) fn is_accepting(&self) -> bool {
        !self.members.is_empty()
    }

    /// Sessions now.
    pub(super) fn sessions(&self) -> usize {
        self.members.iter().map(|member| member.tunnel.sessions()).sum()
    }

    /// Most sessions at once, summed over the tunnels that there were at the end.
    pub(super) fn most_sessions(&self) -> usize {
        self.most_sessions
    }

    /// Sessions that could not finish.
    pub(super) fn sessions_cut(&self) -> usize {
        self.leaving.sessions_cut()
    }

    /// How long the slowest tunnel may take to drain.
    pub(super) fn longest_drain(&self) -> Duration {
        self.members.iter().map(|member| member.options.drain).max().unwrap_or_default()
    }

    /// Where a source of a tunnel is listened on already.
    fn door(&self, options: &Options, source: &Source) -> Option<&Door> {
        self.doors().find(|door| door.fits(options, source))
    }
}

impl Member {
    /// Its share of the descriptors may have changed, although nothing else did.
    fn resize(&mut self, capacity: Capacity) {
        if capacity != self.capacity {
            self.capacity = capacity;
            self.tunnel.set_capacity(capacity);
            capacity.warn_if_less_than(&self.options);
        }
    }
}

impl Ready {
    /// The tunnel, which accepts from now on.
    fn start(self, before: Option<&Member>) -> Member {
        let Self { options, capacity, parts, doors, .. } = self;
        let before = before.map(|member| &*member.tunnel);
        let tunnel = Arc::new(Tunnel::new(&options, parts, capacity, before));
        let listeners: Vec<_> = doors.iter().flat_map(|door| &door.listeners).collect();
        tunnel.begin();
        for listener in listeners {
            listener.set(&SocketOptions { keepalive: options.keepalive });
            tunnel.serve(Arc::clone(listener));
        }
        Member { options, capacity, tunnel, predecessors: vec![], doors }
    }
}

impl Fresh {
    /// Waits until the stores were read, or could not be, as long as a tunnel would
    /// wait for a peer. Peers that are served before would be turned away.
    async fn settle(&self, next: &[Next]) {
        let patience = |next: &Next| match next {
            Next::New(ready) => ready.options.timeout,
            Next::Same(..) => Duration::ZERO,
        };
        let patience = next.iter().map(patience).max().unwrap_or_default();
        let all = async {
            for gate in &self.0 {
                gate.settled().await;
            }
        };
        // A store that is away is no reason not to serve: its policy holds.
        if timeout(patience, all).await.is_err() {
            let after_s = patience.as_secs_f64();
            warn!(after_s, "the gate's store is not read yet; until then it lets nobody in");
        }
    }
}

impl Drop for Fresh {
    fn drop(&mut self) {
        for gate in &self.0 {
            gate.dismiss();
        }
    }
}
