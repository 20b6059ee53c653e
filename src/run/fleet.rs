//! All tunnels of the process, and how one set of them becomes another.
//!
//! What can fail is made first: sockets, addresses, gates. Only when all of it
//! is there do tunnels change, without a moment in which nobody accepts. A
//! tunnel whose options stay is not touched. One that changes gets a successor
//! for new connections, on the same sockets; those that it has go on as they
//! began, until they end. One that is gone drains.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use tokio::task::{JoinSet, block_in_place};
use tokio::time::{sleep, timeout};
use tokio_util::sync::CancellationToken;
use tracing::warn;

use super::announce::announce;
use super::startup::{BACKLOG, Bound, Startup};
use crate::addr::Source;
use crate::admin::Roster;
use crate::admin::roster::Phase;
use crate::gate::{Gate, GateOptions};
use crate::net::{AsyncListener, Listener, SocketOptions};
use crate::sys::activation::Inherited;
use crate::sys::handover::Given;
use crate::tunnel::{Capacity, Options, Parts, TooFewDescriptors, Tunnel};

/// How long sessions that were cut may take to say goodbye.
const GOODBYES: Duration = Duration::from_secs(2);

/// How long what a dialer has sent may be on its way to a predecessor.
const ON_THE_WAY: Duration = Duration::from_millis(250);

/// The tunnels of the process.
pub(super) struct Fleet {
    descriptors: u64,
    /// Knows what there is, for whoever asks.
    roster: Arc<Roster>,
    /// Sockets of systemd's, which stay there for every reload.
    systemd: Inherited,
    members: Vec<Member>,
    /// Tunnels that accept no more, each with a task that sees it off.
    leaving: Vec<Leaving>,
    /// Gives how many sessions were cut.
    seen_off: JoinSet<usize>,
    sessions_cut: usize,
    most_sessions: usize,
}

/// What a reload did, in tunnels.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Changes {
    pub(super) added: usize,
    pub(super) changed: usize,
    pub(super) removed: usize,
    pub(super) same: usize,
}

/// A tunnel that accepts.
struct Member {
    options: Options,
    tunnel: Arc<Tunnel>,
    doors: Vec<Door>,
}

/// The sockets of a source, and the tunnel that they were opened for.
#[derive(Clone)]
struct Door {
    owner: Option<Arc<str>>,
    source: Source,
    listeners: Vec<Arc<AsyncListener>>,
}

/// A tunnel that accepts no more.
#[derive(Clone)]
struct Leaving {
    name: Option<Arc<str>>,
    tunnel: Arc<Tunnel>,
    /// Cancelled when its sessions have only the drain left.
    hurry: CancellationToken,
    /// Has no successor, with which its sessions are counted.
    is_last: bool,
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
}

/// Gates that were started for the next set. Their own handles have no tunnel, so
/// those that no tunnel took end with this.
#[derive(Default)]
struct Fresh(Vec<Gate>);

impl Fleet {
    /// No tunnel yet; `descriptors` is what all of them may have, and `roster`
    /// hears of each.
    pub(super) fn new(descriptors: u64, systemd: Inherited, roster: Arc<Roster>) -> Self {
        Self {
            descriptors,
            roster,
            systemd,
            members: vec![],
            leaving: vec![],
            seen_off: JoinSet::new(),
            sessions_cut: 0,
            most_sessions: 0,
        }
    }

    /// What each tunnel of a plan can hold.
    pub(super) fn shares(&self, plan: &[Options]) -> Result<Vec<Capacity>, TooFewDescriptors> {
        Capacity::of_all(plan, self.descriptors)
    }

    /// Starts the first tunnels of the process, on the sockets that were
    /// `inherited` where they fit. A predecessor that still accepts is not hurried.
    pub(super) async fn launch(
        &mut self,
        plan: Vec<Options>,
        inherited: Vec<Given>,
        (startup, takes_over): (&mut Startup, bool),
    ) -> anyhow::Result<()> {
        let bound = bind_first(&plan, (inherited, &self.systemd), startup).await?;
        if !takes_over {
            startup.write_pid_file()?;
        }
        startup.drop_privileges()?;
        let mut fresh = Fresh::default();
        let next = self.prepare(plan, bound, &mut fresh).await?;
        if takes_over {
            fresh.read(&next).await;
            // What a dialer sent before we began to remember first messages is
            // for the predecessor, which still accepts.
            sleep(ON_THE_WAY).await;
        }
        startup.announce();
        self.commit(next);
        Ok(())
    }

    /// All listening sockets, for a successor.
    pub(super) fn sockets(&self) -> io::Result<Vec<Given>> {
        let doors = self.members.iter().flat_map(|member| &member.doors);
        let each = doors.flat_map(|door| door.listeners.iter().map(|socket| (door.name(), socket)));
        each.map(|(name, socket)| Ok(Given { name, socket: socket.share()? })).collect()
    }

    /// A successor has the sockets.
    pub(super) fn give_away(&self) {
        let doors = self.members.iter().flat_map(|member| &member.doors);
        doors.flat_map(|door| &door.listeners).for_each(|socket| socket.give_away());
    }

    /// Makes the tunnels what `plan` says.
    ///
    /// # Errors
    /// What cannot be had; then nothing has changed.
    pub(super) async fn reload(&mut self, plan: Vec<Options>) -> anyhow::Result<Changes> {
        let bound = block_in_place(|| self.bind_missing(&plan))?;
        let mut fresh = Fresh::default();
        let next = self.prepare(plan, bound, &mut fresh).await?;
        fresh.read(&next).await;
        Ok(self.commit(next))
    }

    /// Sockets for those sources that no tunnel has yet.
    fn bind_missing(&self, plan: &[Options]) -> anyhow::Result<Vec<Bound>> {
        let all = sources(plan);
        let mut bound = vec![];
        for options in plan {
            for source in options.sources.iter().filter(|one| self.door(options, one).is_none()) {
                let listeners = about(options, listen(source, &all, &self.systemd))?;
                bound.push(Bound::new(options, source, listeners));
            }
        }
        Ok(bound)
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
        let mut next = Vec::with_capacity(plan.len());
        for (options, capacity) in plan.into_iter().zip(capacities) {
            let before = self.members.iter().position(|member| member.options.name == options.name);
            match before.filter(|place| self.members[*place].options == options) {
                Some(place) => next.push(Next::Same(place, capacity)),
                None => {
                    let gate = about(&options, self.gate(options.gate.as_ref(), fresh))?;
                    let name = options.name.as_deref().unwrap_or_else(|| options.role.mode());
                    let meters = self.roster.meters(name);
                    let parts = about(&options, Parts::get(&options, gate, meters).await)?;
                    let has = |source: &Source| {
                        let new = new_doors.iter().find(|door| door.fits(&options, source));
                        new.or_else(|| self.door(&options, source)).cloned()
                    };
                    let doors = options.sources.iter().filter_map(has).collect();
                    let ready = Ready { before, options, capacity, parts, doors };
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
        let found = there.chain(&fresh.0).find(|gate| gate.options() == &**options).cloned();
        Ok(Some(match found {
            Some(gate) => gate,
            None => {
                let gate = Gate::start(Arc::clone(options))?;
                fresh.0.push(gate.clone());
                gate
            }
        }))
    }

    /// Changes the tunnels. Nothing here can fail, or waits.
    fn commit(&mut self, next: Vec<Next>) -> Changes {
        let old = std::mem::take(&mut self.members);
        let mut old: Vec<Option<Member>> = old.into_iter().map(Some).collect();
        let (mut changes, mut news) = (Changes::default(), vec![]);
        for next in next {
            let member = match next {
                Next::Same(place, capacity) => {
                    changes.same += 1;
                    let member = old[place].take().expect("each member has one name");
                    member.tunnel.set_capacity(capacity);
                    member
                }
                Next::New(ready) => {
                    let before = ready.before.and_then(|place| old[place].take());
                    let count =
                        if before.is_some() { &mut changes.changed } else { &mut changes.added };
                    *count += 1;
                    news.push((self.members.len(), ready.capacity));
                    let member = ready.start(before.as_ref());
                    self.roster.add(Arc::clone(&member.tunnel));
                    if let Some(before) = before {
                        self.replaced(before, member.tunnel.gate().is_some());
                    }
                    member
                }
            };
            self.members.push(member);
        }
        for member in old.into_iter().flatten() {
            changes.removed += 1;
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

    /// Its sessions go on, and count as its successor's.
    fn replaced(&mut self, member: Member, has_gate: bool) {
        if let (Some(gate), false) = (member.tunnel.gate(), has_gate) {
            gate.dismiss();
        }
        self.see_off(member, false);
    }

    /// Its sessions, and those of its predecessors, may finish within its drain.
    fn removed(&mut self, member: Member) {
        let name = member.options.name.clone();
        self.see_off(member, true);
        for leaving in self.leaving.iter().filter(|leaving| leaving.name == name) {
            leaving.hurry.cancel();
        }
    }

    fn see_off(&mut self, member: Member, is_last: bool) {
        let Member { options, tunnel, doors } = member;
        // What is not in the next set closes here, before the first session ends.
        drop(doors);
        tunnel.stop();
        let hurry = CancellationToken::new();
        let leaving = Leaving { name: options.name, tunnel, hurry, is_last };
        self.seen_off.spawn(see_off(leaving.clone(), options.drain));
        self.leaving.push(leaving);
        self.leaving.retain(|leaving| !leaving.tunnel.is_finished());
    }

    /// Accepts no more. What there is may finish within each tunnel's drain. Does
    /// nothing the second time.
    pub(super) fn stop(&mut self) {
        // What a removal cut before is no business of the end.
        while !self.members.is_empty() && self.seen_off.try_join_next().is_some() {}
        let most = self.members.iter().map(|member| member.tunnel.most_sessions()).sum();
        self.most_sessions = self.most_sessions.max(most);
        for member in std::mem::take(&mut self.members) {
            self.removed(member);
        }
    }

    /// Resolves when a stopped fleet has ended. Cancel safe.
    pub(super) async fn finished(&mut self) {
        while let Some(cut) = self.seen_off.join_next().await {
            self.sessions_cut += cut.unwrap_or(0);
        }
    }

    /// Ends what goes on, now.
    pub(super) async fn cut(&mut self) {
        for leaving in &self.leaving {
            self.sessions_cut += leaving.cut();
        }
        self.finished().await;
    }

    /// Who knows what there is.
    pub(super) fn roster(&self) -> &Arc<Roster> {
        &self.roster
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
        self.sessions_cut
    }

    /// How long the slowest tunnel may take to drain.
    pub(super) fn longest_drain(&self) -> Duration {
        self.members.iter().map(|member| member.options.drain).max().unwrap_or_default()
    }

    /// Where a source of a tunnel is listened on already.
    fn door(&self, options: &Options, source: &Source) -> Option<&Door> {
        let mut doors = self.members.iter().flat_map(|member| &member.doors);
        doors.find(|door| door.fits(options, source))
    }
}

impl Leaving {
    /// Ends what goes on; how many sessions that were. Those of a tunnel that was
    /// replaced are its successor's.
    fn cut(&self) -> usize {
        let sessions = if self.is_last { self.tunnel.sessions() } else { 0 };
        self.tunnel.cut();
        sessions
    }
}

impl Door {
    /// What it is called between two processes.
    fn name(&self) -> String {
        socket_name(self.owner.as_deref(), &self.source)
    }

    /// Whether this is the source of that tunnel. Port 0 is another port for each.
    fn fits(&self, options: &Options, source: &Source) -> bool {
        self.source == *source && (self.owner == options.name || !source.is_any_port())
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
        Member { options, tunnel, doors }
    }
}

impl Fresh {
    /// Waits until the stores were read, as long as a tunnel would wait for a
    /// peer. Peers that come before would be turned away.
    async fn read(&self, next: &[Next]) {
        let patience = |next: &Next| match next {
            Next::New(ready) => ready.options.timeout,
            Next::Same(..) => Duration::ZERO,
        };
        let patience = next.iter().map(patience).max().unwrap_or_default();
        let all = async {
            for gate in &self.0 {
                gate.read().await;
            }
        };
        // A store that is away is no reason to keep what was: its policy holds.
        let _ = timeout(patience, all).await;
    }
}

impl Drop for Fresh {
    fn drop(&mut self) {
        for gate in &self.0 {
            gate.dismiss();
        }
    }
}

/// Waits until a tunnel that accepts no more has ended; how many sessions its
/// deadline cut.
async fn see_off(leaving: Leaving, drain: Duration) -> usize {
    let too_late = async {
        leaving.hurry.cancelled().await;
        sleep(drain).await;
        let (tunnel, drain_s) = (leaving.name.as_deref(), drain.as_secs_f64());
        warn!(tunnel, drain_s, "drain deadline reached: ending now");
        leaving.cut()
    };
    let tunnel = &leaving.tunnel;
    let sessions_cut = tokio::select! {
        biased;
        () = tunnel.finished() => 0,
        () = tunnel.is_cut() => 0,
        sessions_cut = too_late => sessions_cut,
    };
    // Best effort: the far ends should hear why.
    let _ = timeout(GOODBYES, tunnel.finished()).await;
    tunnel.flush_failures();
    if let (Some(gate), true) = (tunnel.gate(), leaving.is_last) {
        gate.dismiss();
    }
    sessions_cut
}

/// What the sockets of a source are called between two processes.
fn socket_name(owner: Option<&str>, source: &Source) -> String {
    format!("{}\t{source}", owner.unwrap_or_default())
}

/// Binds every source that was not handed to us. Names come first, so that
/// nothing is created while one is waited for.
async fn bind_first(
    plan: &[Options],
    (mut inherited, systemd): (Vec<Given>, &Inherited),
    startup: &mut Startup,
) -> anyhow::Result<Vec<Bound>> {
    let all = sources(plan);
    let mut bound = vec![];
    for is_literal in [false, true] {
        for options in plan {
            for source in options.sources.iter().filter(|one| one.is_literal() == is_literal) {
                let name = socket_name(options.name.as_deref(), source);
                let mut listeners = vec![];
                for given in inherited.extract_if(.., |given| given.name == name) {
                    let adopt = match source {
                        Source::Address(_) => Listener::adopt,
                        Source::Inherited(_) => Listener::inherited,
                    };
                    listeners.push(adopt(given.socket).context("cannot take over")?);
                }
                if listeners.is_empty() {
                    let new = match source {
                        Source::Address(address) if options.wait_for_dns => {
                            startup.bind_patiently(address, &all).await
                        }
                        _ => listen(source, &all, systemd),
                    };
                    listeners = about(options, new)?;
                }
                bound.push(Bound::new(options, source, listeners));
            }
        }
    }
    let used = all.iter().filter_map(Source::inherited).collect::<Vec<_>>();
    let names = systemd.unused(&used);
    if !names.is_empty() {
        let detail = "clients of it wait in vain; add -s systemd:NAME, or take it out of the unit";
        warn!(names, detail, "a socket of systemd's is not used");
    }
    Ok(bound)
}

/// Binds a source, or takes what systemd bound.
fn listen(source: &Source, all: &[Source], systemd: &Inherited) -> anyhow::Result<Vec<Listener>> {
    match source {
        Source::Address(address) => Ok(Listener::bind(address, all, BACKLOG)?),
        Source::Inherited(name) => {
            let listeners: io::Result<_> =
                systemd.get(name)?.into_iter().map(Listener::inherited).collect();
            listeners.with_context(|| format!("cannot listen on {source}"))
        }
    }
}

fn sources(plan: &[Options]) -> Vec<Source> {
    plan.iter().flat_map(|options| options.sources.clone()).collect()
}

fn open(bound: Vec<Bound>) -> anyhow::Result<Vec<Door>> {
    let mut doors = Vec::with_capacity(bound.len());
    for Bound { owner, source, listeners } in bound {
        let open =
            |listener: Listener| Ok(Arc::new(listener.into_async(&SocketOptions::default())?));
        let listeners: io::Result<Vec<_>> = listeners.into_iter().map(open).collect();
        doors.push(Door { owner, source, listeners: listeners.context("cannot listen")? });
    }
    Ok(doors)
}

/// An error with the name of the tunnel that it is about, where there are several.
fn about<T, E: Into<anyhow::Error>>(options: &Options, result: Result<T, E>) -> anyhow::Result<T> {
    let result = result.map_err(Into::into);
    match &options.name {
        Some(name) => result.with_context(|| format!("tunnel {name}")),
        None => result,
    }
}
