//! The follower: one session after the other, each with connections of its own,
//! from the first full read until something is lost.
//!
//! Reports that the store is away once for each absence; how often it tried is
//! nobody's news, and why it failed last is there for whoever asks the store.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use rand::RngExt;
use tokio::select;
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep_until};

use super::super::member::Member;
use super::super::store::Event;
use super::RedisStore;
use super::keys::Subject;
use super::link::{Link, Role};
use super::links::{Form, Links};
use super::odd::Odd;
use super::plan::Plan;
use super::pushes::{Pending, Pushes};
use super::recheck::KeyMemory;
use super::trouble::{Kind, Trouble};
use super::walk::Walk;
use crate::net::clock::Clock;

const FIRST_WAIT: Duration = Duration::from_millis(50);
const LONGEST_WAIT: Duration = Duration::from_secs(1);
/// The longest time between two reads of a store that has too much.
const LONGEST_REST: Duration = Duration::from_secs(30);
/// A session that lasted so long was no part of the trouble before it.
const CALM: Duration = Duration::from_secs(5);
/// How many asks are answered before a full read goes on.
const ASKS_PER_STEP: usize = 4;

/// From one connecting to the next loss.
pub(super) struct Session<'a> {
    pub(super) store: &'a RedisStore,
    pub(super) links: Links,
    pub(super) plan: Plan,
    pub(super) odd: Odd,
    pub(super) memory: KeyMemory,
    pub(super) form: Form,
    /// The end of the set's key, with all its members.
    pub(super) set_end: Option<u64>,
    /// What the full read found, and what was told singly since.
    pub(super) walk: Walk,
    /// Whether a full read was completed.
    fresh: bool,
    roles: Vec<Role>,
    pushes: Arc<Pushes>,
    clock: Clock,
    events: &'a mpsc::Sender<Event>,
    asks: &'a mut mpsc::Receiver<Vec<IpAddr>>,
}

pub(super) async fn follow(
    store: &RedisStore,
    events: mpsc::Sender<Event>,
    mut asks: mpsc::Receiver<Vec<IpAddr>>,
) {
    let mut away = false;
    let mut wait = FIRST_WAIT;
    loop {
        let began = Instant::now();
        let (trouble, fresh) = select! {
            end = session(store, &events, &mut asks) => end,
            () = events.closed() => return,
        };
        let took = began.elapsed();
        let calm = took >= CALM;
        if calm {
            wait = FIRST_WAIT;
        }
        away &= !fresh;
        // A master that moved is found again at once, or else it is news.
        let moved = trouble.kind == Kind::Elsewhere && fresh && calm;
        if !moved {
            let why = trouble.to_string();
            store.note_away(Some(why.clone()));
            if !away && events.send(Event::Away(why)).await.is_err() {
                return;
            }
            away = true;
        }
        pause(rest(trouble.kind, wait, took), &mut asks).await;
        wait = (wait * 2).min(LONGEST_WAIT);
    }
}

/// The pause after a session that `took` so long. A store that holds, or says,
/// more than there can be was read for nothing and will be again: most of the time
/// is for others.
fn rest(kind: Kind, wait: Duration, took: Duration) -> Duration {
    match kind {
        Kind::TooMuch => wait.max(took * 4).min(LONGEST_REST),
        _ => wait,
    }
}

/// Waits, and lets nobody wait for an answer that cannot be given.
async fn pause(wait: Duration, asks: &mut mpsc::Receiver<Vec<IpAddr>>) {
    let until = Instant::now() + wait.mul_f64(rand::rng().random_range(0.5..1.0));
    loop {
        select! {
            () = sleep_until(until) => return,
            Some(_) = asks.recv() => {}
        }
    }
}

/// A session; why it ended, and whether a full read was completed in it.
async fn session(
    store: &RedisStore,
    events: &mpsc::Sender<Event>,
    asks: &mut mpsc::Receiver<Vec<IpAddr>>,
) -> (Trouble, bool) {
    let mut session = match Session::open(store, events, asks).await {
        Ok(session) => session,
        Err(trouble) => return (trouble, false),
    };
    let map = session.links.map.clone();
    let trouble = select! {
        trouble = session.run() => trouble,
        () = store.topology.moved_from(&map) => {
            Trouble::new(Kind::Elsewhere, session.links.names(), "the master moved")
        }
    };
    (trouble, session.fresh)
}

impl<'a> Session<'a> {
    async fn open(
        store: &'a RedisStore,
        events: &'a mpsc::Sender<Event>,
        asks: &'a mut mpsc::Receiver<Vec<IpAddr>>,
    ) -> Result<Self, Trouble> {
        let pushes = Arc::new(Pushes::default());
        let links = Links::find(&store.topology, &store.access, Some(&pushes)).await?;
        let roles = roles(&links).await?;
        // Tracked before the first read, so that nothing changes unnoticed in between.
        for link in &links.all {
            let mut tracking = redis::cmd("CLIENT");
            tracking.arg("TRACKING").arg("ON").arg("BCAST");
            for prefix in store.keys.tracked() {
                tracking.arg("PREFIX").arg(prefix);
            }
            link.ask(&tracking).await?;
        }
        match links.of(&store.keys.allow_set).subscribe(&store.keys.channel()).await {
            // Then only the set's own change announces what others write.
            Err(trouble) if trouble.kind == Kind::Denied => {}
            done => done?,
        }
        Ok(Self {
            store,
            links,
            plan: Plan::new(Instant::now()),
            odd: Odd::default(),
            memory: KeyMemory::default(),
            form: Form::Absent,
            set_end: None,
            walk: Walk::default(),
            fresh: false,
            roles,
            pushes,
            clock: Clock::start(),
            events,
            asks,
        })
    }

    async fn run(&mut self) -> Trouble {
        loop {
            if let Err(trouble) = self.step().await {
                return trouble;
            }
        }
    }

    /// Waits for one thing to do, and does it.
    async fn step(&mut self) -> Result<(), Trouble> {
        let pushes = Arc::clone(&self.pushes);
        select! {
            () = pushes.wait() => self.take_pushes().await?,
            Some(ips) = self.asks.recv() => self.answer_ask(ips).await?,
            () = sleep_until(self.plan.next()) => {}
        }
        self.ping_if_due().await?;
        if let Some(read) = self.plan.due(Instant::now()) {
            self.read(read).await?;
            self.fresh = true;
            self.store.note_away(None);
        }
        Ok(())
    }

    /// What cannot wait until a full read is complete.
    pub(super) async fn between_pages(&mut self) -> Result<(), Trouble> {
        self.take_pushes().await?;
        for _ in 0..ASKS_PER_STEP {
            let Ok(ips) = self.asks.try_recv() else { break };
            self.answer_ask(ips).await?;
        }
        self.ping_if_due().await
    }

    async fn take_pushes(&mut self) -> Result<(), Trouble> {
        let Pending { keys, members, everything, disconnected, .. } = self.pushes.take();
        if disconnected {
            let cause = "the connection was closed";
            let failure = self.links.all.iter().find_map(Link::failure);
            let lost = || Trouble::new(Kind::Lost, self.links.names(), cause);
            return Err(failure.unwrap_or_else(lost));
        }
        let now = Instant::now();
        let mut bans: Vec<Member> = vec![];
        let mut allowed: Vec<Member> = vec![];
        let mut set = everything;
        for key in keys {
            match self.store.keys.subject(&key) {
                Some(Subject::AllowSet) => set = true,
                Some(subject @ Subject::Ban(member)) => {
                    self.note_key(subject, &key);
                    bans.push(member);
                }
                Some(subject @ Subject::AllowKey(ip)) => {
                    self.note_key(subject, &key);
                    allowed.push(ip.into());
                }
                None => {}
            }
        }
        if set {
            self.plan.set_changed(now);
            self.send(Event::Unsure).await?;
        }
        if everything {
            self.plan.everything_changed(now);
        }
        allowed.extend(members.iter().filter_map(|member| member.parse::<Member>().ok()));
        let free = self.tell_bans(&bans).await?;
        let (addresses, networks): (Vec<Member>, Vec<Member>) =
            free.into_iter().partition(|member| matches!(member, Member::Address(_)));
        let addresses = addresses.iter().filter_map(|member| match member {
            Member::Address(ip) => Some(*ip),
            Member::Network(_) => None,
        });
        self.answer(addresses.collect()).await?;
        self.tell_members(&allowed).await?;
        self.tell_free(&networks).await
    }

    /// Sees whether all servers live and still are what they were.
    async fn ping_if_due(&mut self) -> Result<(), Trouble> {
        if !self.plan.take_ping(Instant::now()) {
            return Ok(());
        }
        if self.clock.was_set() {
            // Ends of keys were told as time that is left, and counted from a
            // moment that was wrong.
            self.plan.everything_changed(Instant::now());
        }
        if roles(&self.links).await? != self.roles {
            let cause = "a server became a replica, or the reverse";
            return Err(Trouble::new(Kind::Elsewhere, self.links.names(), cause));
        }
        Ok(())
    }

    /// Reports to the keeper, however long it takes to listen.
    pub(super) async fn send(&self, event: Event) -> Result<(), Trouble> {
        let sent = self.events.send(event).await;
        sent.map_err(|_| Trouble::new(Kind::Other, self.links.names(), "nobody listens"))
    }
}

/// What each server is; a replica that is out of step cannot be relied on.
async fn roles(links: &Links) -> Result<Vec<Role>, Trouble> {
    let mut roles = Vec::with_capacity(links.all.len());
    for link in &links.all {
        let role = link.role().await?;
        if let Role::Replica { master, in_step: false } = &role {
            let cause = format!("is a replica without its master {master}");
            return Err(Trouble::new(Kind::Loading, link.node(), cause));
        }
        roles.push(role);
    }
    Ok(roles)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_store_that_has_too_much_takes_a_fifth_of_the_time() {
        let (wait, took) = (Duration::from_millis(50), Duration::from_secs(2));
        assert_eq!(rest(Kind::TooMuch, wait, took), Duration::from_secs(8));
        assert_eq!(rest(Kind::TooMuch, wait, Duration::from_secs(60)), LONGEST_REST);
        assert_eq!(rest(Kind::TooMuch, wait, Duration::from_millis(1)), wait);
        assert_eq!(rest(Kind::Lost, wait, took), wait, "it may be back at once");
    }
}
