//! A follower with a small mirror behind it: events in, the state out.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use knockpipe::gate::any_store::AnyStore;
use knockpipe::gate::store::{BATCH, Event};
use knockpipe::gate::{Expiry, Item, Member};
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio::time::timeout;

use testkit::wait::NEVER;

/// State of a mirror after some events.
#[derive(Debug, Default)]
pub(crate) struct State {
    pub allowed: HashMap<Member, Expiry>,
    pub bans: HashMap<Member, Expiry>,
    pub garbage: u64,
    /// True if a full read was completed since the store was lost.
    pub fresh: bool,
    pub reading: bool,
    pub away: Vec<String>,
    pub unsure: usize,
    pub answered: Vec<IpAddr>,
    pub reads: usize,
    /// Exact changes outside full reads.
    pub exact: Vec<Event>,
    pub largest_batch: usize,
}

impl State {
    fn apply(&mut self, event: Event) {
        match event {
            Event::Begin => {
                self.reading = true;
                self.allowed.clear();
                self.bans.clear();
            }
            Event::Items(items) => {
                assert!(self.reading && items.len() <= BATCH, "{} items", items.len());
                self.largest_batch = self.largest_batch.max(items.len());
                for item in items {
                    match item {
                        Item::Allowed(member, end) => drop(self.allowed.insert(member, end)),
                        Item::Banned(member, end) => drop(self.bans.insert(member, end)),
                    }
                }
            }
            Event::End { garbage } => {
                assert!(std::mem::replace(&mut self.reading, false), "End without Begin");
                (self.garbage, self.fresh) = (garbage, true);
                self.reads += 1;
            }
            Event::Allowed(member, truth) => {
                match truth {
                    Some(end) => drop(self.allowed.insert(member, end)),
                    None => drop(self.allowed.remove(&member)),
                }
                self.exact.push(event);
            }
            Event::Banned(member, truth) => {
                match truth {
                    Some(end) => drop(self.bans.insert(member, end)),
                    None => drop(self.bans.remove(&member)),
                }
                self.exact.push(event);
            }
            Event::Invalidated => self.unsure += 1,
            Event::Answered(ips) => self.answered.extend(ips),
            Event::Unavailable(why) => {
                assert!(!why.contains('\n'), "{why}");
                self.away.push(why);
                (self.fresh, self.reading) = (false, false);
            }
        }
    }

    pub(crate) fn allows(&self, member: &str) -> bool {
        self.allowed.contains_key(&member.parse().unwrap())
    }

    pub(crate) fn bans(&self, ip: &str) -> bool {
        self.bans.contains_key(&ip.parse().unwrap())
    }
}

pub(crate) struct Follower {
    pub state: State,
    events: mpsc::Receiver<Event>,
    asks: mpsc::Sender<Vec<IpAddr>>,
    task: JoinHandle<()>,
}

impl Follower {
    /// Follows, without waiting for anything.
    pub(crate) fn begin(store: &Arc<AnyStore>) -> Self {
        let (to, events) = mpsc::channel(16);
        let (asks, asked) = mpsc::channel(16);
        let store = Arc::clone(store);
        let task = tokio::spawn(async move { store.follow(to, asked).await });
        Self { state: State::default(), events, asks, task }
    }

    /// Follows, and waits for the first full read.
    pub(crate) async fn start(store: &Arc<AnyStore>) -> Self {
        let mut follower = Self::begin(store);
        follower.until("the first full read", |state| state.fresh).await;
        follower
    }

    /// Waits until the events so far make `condition` hold; returns the time that it took.
    #[track_caller]
    pub(crate) fn until<'a>(
        &'a mut self,
        what: &'a str,
        condition: impl Fn(&State) -> bool + 'a,
    ) -> impl Future<Output = Duration> + 'a {
        let caller = std::panic::Location::caller();
        async move {
            let began = Instant::now();
            while !condition(&self.state) {
                let left = NEVER.saturating_sub(began.elapsed());
                match timeout(left, self.events.recv()).await {
                    Ok(Some(event)) => self.state.apply(event),
                    Ok(None) => panic!("{caller}: the follower ended before: {what}"),
                    Err(_) => panic!("{caller}: never: {what}; away {:?}", self.state.away),
                }
            }
            began.elapsed()
        }
    }

    /// Takes in the events of so much time.
    pub(crate) async fn listen(&mut self, time: Duration) {
        let end = tokio::time::Instant::now() + time;
        while let Ok(Some(event)) = tokio::time::timeout_at(end, self.events.recv()).await {
            self.state.apply(event);
        }
    }

    pub(crate) async fn ask(&self, ips: &[&str]) {
        let ips = ips.iter().map(|ip| ip.parse().unwrap()).collect();
        self.asks.send(ips).await.expect("the follower listens");
    }

    /// Stops receiving; the follower has to end by itself.
    pub(crate) async fn stop(self) {
        drop(self.events);
        timeout(NEVER, self.task).await.expect("it ends").expect("it does not panic");
    }
}
