//! Queries to the store after the allow-set changed in an unknown way: about peers
//! that wait for admission, and about addresses that are connected, or
//! were denied lately.
//!
//! One query at a time, so that the load that all peers can cause together is bounded:
//! peers have [`PEERS`] addresses every [`EVERY`], few enough to be answered
//! exactly; [`MOST_WAITING`] of them wait, for [`MOST_ADDRESSES`] at most, and those
//! of one address for the same answer.
//! An address that was answered since the last change is not asked about again.

use std::collections::{HashMap, HashSet, VecDeque};
use std::net::IpAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::Notify;
use tokio::time::{Instant, timeout_at};

use super::store::MOST_EXACT;
use crate::addr::SourceKey;

/// The most addresses of peers in one question, and the time from one to the next.
const PEERS: usize = MOST_EXACT;
const EVERY: Duration = Duration::from_millis(50);

/// The most peers that wait for an answer at once, of all sources and of one.
pub(super) const MOST_WAITING: usize = 1_024;
pub(super) const MOST_OF_SOURCE: usize = 64;

/// Addresses that they wait to be asked about: what four questions hold, so that the
/// last of them is answered within the 250 ms that a grant may take. And the most of
/// one source; clients of one /64 have addresses of their own.
pub(super) const MOST_ADDRESSES: usize = 256;
const ADDRESSES_OF_SOURCE: usize = 8;

/// The most connected and lately denied addresses in one question.
const OTHERS: usize = 500;

/// A round through all of them is followed by an equally long time without one, however
/// often the set changes; by this at most.
const REST: Duration = Duration::from_millis(100);

/// The time after which a question without an answer counts as lost.
const LOST: Duration = Duration::from_millis(500);

/// The most answered addresses that are remembered.
const MOST_ANSWERED: usize = 65_536;

/// Questions to one store.
#[derive(Debug, Default)]
pub(super) struct Inquiry {
    state: Mutex<State>,
    /// There may be something to do.
    wake: Notify,
}

/// The next thing to do.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Task {
    /// Ask the store about these.
    Ask(Vec<IpAddr>),
    /// Name the addresses that are connected or were denied lately: [`Inquiry::others_are`].
    NameOthers,
}

#[derive(Debug)]
enum Step {
    Do(Task),
    WaitUntil(Instant),
    Wait,
}

#[derive(Debug, Default)]
struct State {
    /// The number of peers that wait, of each source.
    waiting: HashMap<SourceKey, usize>,
    waiting_in_total: usize,
    /// Addresses of peers to be asked about, in their order.
    peers: VecDeque<IpAddr>,
    /// The query under way, and the moment at which it began.
    asked: Option<(Vec<IpAddr>, Instant)>,
    /// The addresses that the store answered since the last change.
    answered: HashSet<IpAddr>,
    /// The others to be asked about in this round.
    others: Vec<IpAddr>,
    /// The set changed since this round began.
    others_due: bool,
    peers_asked: Option<Instant>,
    round_began: Option<Instant>,
    /// The moment at which the next may begin, once this one is over.
    next_round: Option<Instant>,
}

/// A peer that waits, until this is dropped.
#[derive(Debug)]
pub(super) struct Waiting {
    inquiry: Arc<Inquiry>,
    source: SourceKey,
}

impl Inquiry {
    /// Returns true if a peer with this address should wait for an answer about it.
    pub(super) fn has_room(&self, ip: IpAddr) -> bool {
        self.lock().has_room(ip)
    }

    /// Returns true if the store answered about this address since the last change.
    pub(super) fn is_answered(&self, ip: IpAddr) -> bool {
        self.lock().answered.contains(&ip)
    }

    /// Enters a peer that waits for an answer about its address; `None` where it should not.
    pub(super) fn wait(self: &Arc<Self>, ip: IpAddr) -> Option<Waiting> {
        let source = SourceKey::from(ip);
        let mut state = self.lock();
        if !state.has_room(ip) {
            return None;
        }
        *state.waiting.entry(source).or_default() += 1;
        state.waiting_in_total += 1;
        if !state.is_asked(ip) {
            state.peers.push_back(ip);
            self.wake.notify_one();
        }
        Some(Waiting { inquiry: Arc::clone(self), source })
    }

    /// Notes that the set changed, so that earlier answers are not certain any more.
    pub(super) fn set_changed(&self) {
        let mut state = self.lock();
        state.answered.clear();
        state.others_due = true;
        self.wake.notify_one();
    }

    /// Notes that the store answered about these.
    pub(super) fn answered(&self, ips: &[IpAddr]) {
        let mut state = self.lock();
        state.asked = None;
        let room = MOST_ANSWERED.saturating_sub(state.answered.len());
        state.answered.extend(ips.iter().take(room));
        self.wake.notify_one();
    }

    /// Forgets all queries: nothing is uncertain any more, or no answer comes.
    pub(super) fn forget(&self) {
        let mut state = self.lock();
        let State { waiting, waiting_in_total, .. } = std::mem::take(&mut *state);
        (state.waiting, state.waiting_in_total) = (waiting, waiting_in_total);
    }

    /// Takes the addresses that are connected, or were denied lately.
    pub(super) fn others_are(&self, ips: Vec<IpAddr>) {
        self.lock().others = ips;
        self.wake.notify_one();
    }

    /// Waits for something to do. Cancel safe.
    pub(super) async fn task(&self) -> Task {
        loop {
            let step = self.lock().step(Instant::now());
            match step {
                Step::Do(task) => return task,
                Step::Wait => self.wake.notified().await,
                // The state at that moment is looked up again.
                Step::WaitUntil(at) => drop(timeout_at(at, self.wake.notified()).await),
            }
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn has_room(&self, ip: IpAddr) -> bool {
        let source = SourceKey::from(ip);
        let of_source = self.waiting.get(&source).copied().unwrap_or(0);
        !self.answered.contains(&ip)
            && of_source < MOST_OF_SOURCE
            && self.waiting_in_total < MOST_WAITING
            && (self.is_asked(ip) || self.has_room_to_ask(source))
    }

    /// Returns true if there is room for one more address in queries.
    fn has_room_to_ask(&self, source: SourceKey) -> bool {
        let of_source = self.peers.iter().filter(|peer| SourceKey::from(**peer) == source);
        self.peers.len() < MOST_ADDRESSES && of_source.count() < ADDRESSES_OF_SOURCE
    }

    /// Returns true if an address is in a query that is on its way, or will be in one. A
    /// question about many is not answered exactly.
    fn is_asked(&self, ip: IpAddr) -> bool {
        let exact = self.asked.as_ref().filter(|(ips, _)| ips.len() <= PEERS);
        let on_its_way = exact.is_some_and(|(ips, _)| ips.contains(&ip));
        on_its_way || self.peers.contains(&ip)
    }

    fn step(&mut self, now: Instant) -> Step {
        if let Some((_, since)) = &self.asked {
            if now < *since + LOST {
                return Step::WaitUntil(*since + LOST);
            }
            self.asked = None;
        }
        let peers_at = self.peers_asked.map_or(now, |asked| asked + EVERY);
        if !self.peers.is_empty() && peers_at <= now {
            self.peers_asked = Some(now);
            let count = self.peers.len().min(PEERS);
            let ips = self.peers.drain(..count).collect();
            return self.ask(ips, now);
        }
        if !self.others.is_empty() {
            let rest = self.others.len().saturating_sub(OTHERS);
            let ips = self.others.split_off(rest);
            return self.ask(ips, now);
        }
        if let Some(began) = self.round_began.take() {
            self.next_round = Some(now + (now - began).min(REST));
        }
        let round_at = self.next_round.unwrap_or(now);
        if self.others_due && round_at <= now {
            (self.others_due, self.round_began) = (false, Some(now));
            return Step::Do(Task::NameOthers);
        }
        let due =
            [(!self.peers.is_empty()).then_some(peers_at), self.others_due.then_some(round_at)];
        due.into_iter().flatten().min().map_or(Step::Wait, Step::WaitUntil)
    }

    fn ask(&mut self, ips: Vec<IpAddr>, now: Instant) -> Step {
        self.asked = Some((ips.clone(), now));
        Step::Do(Task::Ask(ips))
    }
}

impl Drop for Waiting {
    fn drop(&mut self) {
        let mut state = self.inquiry.lock();
        state.waiting_in_total -= 1;
        if let Some(count) = state.waiting.get_mut(&self.source) {
            *count -= 1;
            if *count == 0 {
                state.waiting.remove(&self.source);
            }
        }
    }
}

#[cfg(test)]
#[path = "inquiry_tests.rs"]
mod tests;
