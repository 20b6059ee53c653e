//! The follower: one session after the other, each with connections of its own,
//! from the first full read until a connection is lost.
//!
//! Reports that the store is unavailable once for each absence. The number of attempts is
//! not reported, and the cause of the last one is kept with the store.

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
use super::aliases::AliasIndex;
use super::connection::{Connection, Role};
use super::connections::{Connections, SetType};
use super::error::{Kind, RedisFailure};
use super::keys::Subject;
use super::lookup::KeyCache;
use super::pushes::{Pending, Pushes};
use super::scan_limit::ScanLimit;
use super::schedule::RefreshSchedule;
use crate::net::clock::Clock;
use crate::unix_time::Expiry;

const FIRST_WAIT: Duration = Duration::from_millis(50);
const LONGEST_WAIT: Duration = Duration::from_secs(1);
/// The longest time between two reads of a store that has too much.
const LONGEST_REST: Duration = Duration::from_secs(30);
/// The length from which a session is no part of the failure before it.
const CALM: Duration = Duration::from_secs(5);
/// Queries that are answered before a full read goes on.
const ASKS_PER_STEP: usize = 4;

/// A session: from connecting to the next loss.
pub(super) struct Session<'a> {
    pub(super) store: &'a RedisStore,
    pub(super) connections: Connections,
    pub(super) schedule: RefreshSchedule,
    pub(super) aliases: AliasIndex,
    pub(super) key_cache: KeyCache,
    pub(super) set_type: SetType,
    /// The end of the set's key, with all its members.
    pub(super) set_end: Expiry,
    /// The entries that the full read found, and those that were reported singly since.
    pub(super) scan_limit: ScanLimit,
    /// A full read was completed.
    fresh: bool,
    roles: Vec<Role>,
    pushes: Arc<Pushes>,
    clock: Clock,
    events: &'a mpsc::Sender<Event>,
    queries: &'a mut mpsc::Receiver<Vec<IpAddr>>,
}

impl RedisStore {
    /// Reports everything and then every change to `events`, and answers `queries`. Ends only
    /// when events are not received any more.
    pub async fn follow(
        &self,
        events: mpsc::Sender<Event>,
        mut queries: mpsc::Receiver<Vec<IpAddr>>,
    ) {
        let mut away = false;
        let mut wait = FIRST_WAIT;
        loop {
            let began = Instant::now();
            let Ended { failure, fresh } = select! {
                end = session(self, &events, &mut queries) => end,
                () = events.closed() => return,
            };
            let took = began.elapsed();
            let calm = took >= CALM;
            if calm {
                wait = FIRST_WAIT;
            }
            away &= !fresh;
            // A master that moved is found again at once, or else its loss is reported.
            let moved = failure.kind == Kind::Elsewhere && fresh && calm;
            if !moved {
                let why = failure.to_string();
                self.note_away(Some(why.clone()));
                if !away && events.send(Event::Unavailable(why)).await.is_err() {
                    return;
                }
                away = true;
            }
            pause(rest(failure.kind, wait, took), &mut queries).await;
            wait = (wait * 2).min(LONGEST_WAIT);
        }
    }
}

/// The pause after a session that `took` so long. A store that holds, or sends,
/// more than there can be was read in vain and will be again: so most of the time
/// is left to others.
fn rest(kind: Kind, wait: Duration, took: Duration) -> Duration {
    match kind {
        Kind::TooMuch => wait.max(took * 4).min(LONGEST_REST),
        _ => wait,
    }
}

/// Waits, and drops queries that cannot be answered, so that no peer waits for them.
async fn pause(wait: Duration, queries: &mut mpsc::Receiver<Vec<IpAddr>>) {
    let until = Instant::now() + wait.mul_f64(rand::rng().random_range(0.5..1.0));
    loop {
        select! {
            () = sleep_until(until) => return,
            Some(_) = queries.recv() => {}
        }
    }
}

/// The end of a session.
struct Ended {
    failure: RedisFailure,
    /// A full read was completed in it.
    fresh: bool,
}

/// Runs a session until it fails.
async fn session(
    store: &RedisStore,
    events: &mpsc::Sender<Event>,
    queries: &mut mpsc::Receiver<Vec<IpAddr>>,
) -> Ended {
    let mut session = match Session::open(store, events, queries).await {
        Ok(session) => session,
        Err(failure) => return Ended { failure, fresh: false },
    };
    let map = session.connections.map.clone();
    let failure = select! {
        failure = session.run() => failure,
        () = store.topology.moved_from(&map) => {
            RedisFailure::new(Kind::Elsewhere, session.connections.names(), "the master moved")
        }
    };
    Ended { failure, fresh: session.fresh }
}

impl<'a> Session<'a> {
    async fn open(
        store: &'a RedisStore,
        events: &'a mpsc::Sender<Event>,
        queries: &'a mut mpsc::Receiver<Vec<IpAddr>>,
    ) -> Result<Self, RedisFailure> {
        let pushes = Arc::new(Pushes::default());
        let connections = Connections::find(&store.topology, &store.access, Some(&pushes)).await?;
        let roles = roles(&connections).await?;
        // Tracked before the first read, so that nothing changes unnoticed in between.
        for connection in &connections.all {
            let mut tracking = redis::cmd("CLIENT");
            tracking.arg("TRACKING").arg("ON").arg("BCAST");
            for prefix in store.keys.tracked() {
                tracking.arg("PREFIX").arg(prefix);
            }
            connection.ask(&tracking).await?;
        }
        match connections.of(&store.keys.allow_set).subscribe(&store.keys.channel()).await {
            // Then only the set's own change announces what others write.
            Err(failure) if failure.kind == Kind::Denied => {}
            done => done?,
        }
        Ok(Self {
            store,
            connections,
            schedule: RefreshSchedule::new(Instant::now()),
            aliases: AliasIndex::default(),
            key_cache: KeyCache::default(),
            set_type: SetType::Absent,
            set_end: Expiry::Never,
            scan_limit: ScanLimit::default(),
            fresh: false,
            roles,
            pushes,
            clock: Clock::start(),
            events,
            queries,
        })
    }

    async fn run(&mut self) -> RedisFailure {
        loop {
            if let Err(failure) = self.step().await {
                return failure;
            }
        }
    }

    /// Waits for the next task, and does it.
    async fn step(&mut self) -> Result<(), RedisFailure> {
        let pushes = Arc::clone(&self.pushes);
        select! {
            () = pushes.wait() => self.take_pushes().await?,
            Some(ips) = self.queries.recv() => self.answer_query(ips).await?,
            () = sleep_until(self.schedule.next()) => {}
        }
        self.ping_if_due().await?;
        if let Some(read) = self.schedule.due(Instant::now()) {
            self.read(read).await?;
            self.fresh = true;
            self.store.note_away(None);
        }
        Ok(())
    }

    /// Does the tasks that cannot wait until a full read is complete.
    pub(super) async fn between_pages(&mut self) -> Result<(), RedisFailure> {
        self.take_pushes().await?;
        for _ in 0..ASKS_PER_STEP {
            let Ok(ips) = self.queries.try_recv() else { break };
            self.answer_query(ips).await?;
        }
        self.ping_if_due().await
    }

    async fn take_pushes(&mut self) -> Result<(), RedisFailure> {
        let Pending { keys, members, everything, disconnected, .. } = self.pushes.take();
        if disconnected {
            let cause = "the connection was closed";
            let failure = self.connections.all.iter().find_map(Connection::failure);
            let lost = || RedisFailure::new(Kind::Lost, self.connections.names(), cause);
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
                Some(Subject::Beside) | None => {}
            }
        }
        if set {
            self.schedule.set_changed(now);
            self.send(Event::Invalidated).await?;
        }
        if everything {
            self.schedule.everything_changed(now);
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

    /// Checks that all servers live and have the roles that they had.
    async fn ping_if_due(&mut self) -> Result<(), RedisFailure> {
        if !self.schedule.take_ping(Instant::now()) {
            return Ok(());
        }
        if self.clock.was_set() {
            // The server reports ends of keys as remaining times, which were counted from
            // a wrong moment.
            self.schedule.everything_changed(Instant::now());
        }
        if roles(&self.connections).await? != self.roles {
            let cause = "a server became a replica, or the reverse";
            return Err(RedisFailure::new(Kind::Elsewhere, self.connections.names(), cause));
        }
        Ok(())
    }

    /// Sends an event, however long it takes to be received.
    pub(super) async fn send(&self, event: Event) -> Result<(), RedisFailure> {
        let sent = self.events.send(event).await;
        sent.map_err(|_| {
            RedisFailure::new(Kind::Other, self.connections.names(), "its follower has ended")
        })
    }
}

/// The role of each server; a replica that is out of step cannot be relied on.
async fn roles(connections: &Connections) -> Result<Vec<Role>, RedisFailure> {
    let mut roles = Vec::with_capacity(connections.all.len());
    for connection in &connections.all {
        let role = connection.role().await?;
        if let Role::Replica { master, in_step: false } = &role {
            let cause = format!("is a replica without its master {master}");
            return Err(RedisFailure::new(Kind::Loading, connection.node(), cause));
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
