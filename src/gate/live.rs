//! The live connections that a gate admitted, so that a change reaches them.
//!
//! A connection is entered before the final decision, so that a change in
//! between finds it. Knows no rule: it only finds the connections that a change affects.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};

use tokio_util::sync::CancellationToken;

use super::changed::Changed;
use super::decision::Peer;
use super::member::Member;
use crate::keys::KeyId;

/// Live connections by address, in the order of arrival.
#[derive(Debug, Default)]
pub(super) struct LiveSet {
    next: u64,
    /// Connections by address; first come those that have none.
    entries: BTreeMap<(Option<IpAddr>, u64), Entry>,
}

#[derive(Clone, Debug)]
struct Entry {
    peer: Peer,
    revocation: Arc<Revocation>,
}

/// The other end of a [`Permit`].
#[derive(Debug, Default)]
pub(super) struct Revocation {
    token: CancellationToken,
    why: OnceLock<&'static str>,
    /// The key that the peer has proven possession of.
    proven: OnceLock<KeyId>,
}

/// Proof that the gate admitted a connection, for as long as it is held. Revoked
/// when the gate would not admit it any more.
#[derive(Debug)]
#[must_use = "dropping the permit forgets the connection"]
pub struct Permit {
    key: (Option<IpAddr>, u64),
    revocation: Arc<Revocation>,
    live: Arc<Mutex<LiveSet>>,
}

impl Permit {
    /// Enters a connection of `peer`.
    pub(super) fn enter(live: &Arc<Mutex<LiveSet>>, peer: Peer) -> Self {
        let revocation = Arc::new(Revocation::default());
        let mut entries = lock(live);
        let key = (peer.ip(), entries.next);
        entries.next += 1;
        entries.entries.insert(key, Entry { peer, revocation: Arc::clone(&revocation) });
        drop(entries);
        Self { key, revocation, live: Arc::clone(live) }
    }

    /// Resolves, to the reason, when the gate would not admit this connection any more.
    pub async fn revoked(&self) -> &'static str {
        self.revocation.token.cancelled().await;
        self.revocation.why.get().copied().unwrap_or("revoked")
    }

    /// Notes that the peer has proven possession of `key`: from now on the connection counts as use
    /// of its grant, if that key may knock.
    pub fn prove(&self, key: KeyId) {
        self.revocation.proven.get_or_init(|| key);
    }

    /// Returns true if it is revoked already.
    pub fn is_revoked(&self) -> bool {
        self.revocation.token.is_cancelled()
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        lock(&self.live).entries.remove(&self.key);
    }
}

impl Revocation {
    /// Revokes the permit. Returns false if it was revoked before.
    pub(super) fn revoke(&self, why: &'static str) -> bool {
        let is_new = self.why.set(why).is_ok();
        self.token.cancel();
        is_new
    }
}

impl LiveSet {
    /// Every live connection that `changed` may affect.
    pub(super) fn affected(&self, changed: &Changed) -> Vec<(Peer, Arc<Revocation>)> {
        let of = |entry: &Entry| (entry.peer, Arc::clone(&entry.revocation));
        match changed {
            Changed::Everything => self.entries.values().map(of).collect(),
            Changed::Subjects(members) => {
                let mut found = vec![];
                for member in members {
                    match member {
                        Member::Address(ip) => {
                            let range = (Some(*ip), 0)..=(Some(*ip), u64::MAX);
                            found.extend(self.entries.range(range).map(|(_, entry)| of(entry)));
                        }
                        Member::Network(_) => {
                            let inside = self
                                .entries
                                .iter()
                                .filter(|((ip, _), _)| ip.is_some_and(|ip| member.contains(ip)));
                            found.extend(inside.map(|(_, entry)| of(entry)));
                        }
                    }
                }
                found
            }
        }
    }

    /// The addresses of connections whose peers have proven possession of a key of these, each
    /// once.
    pub(super) fn proven(&self, is_of: impl Fn(KeyId) -> bool) -> Vec<Peer> {
        let is_proven =
            |entry: &&Entry| entry.revocation.proven.get().is_some_and(|key| is_of(*key));
        let mut all: Vec<Peer> =
            self.entries.values().filter(is_proven).map(|entry| entry.peer).collect();
        all.dedup();
        all
    }

    /// The addresses of all live connections, each once.
    pub(super) fn addresses(&self) -> Vec<IpAddr> {
        let mut all: Vec<IpAddr> = self.entries.keys().filter_map(|(ip, _)| *ip).collect();
        all.dedup();
        all
    }
}

pub(super) fn lock(live: &Mutex<LiveSet>) -> MutexGuard<'_, LiveSet> {
    live.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn peer(ip: &str) -> Peer {
        Peer::Socket(ip.parse().unwrap())
    }

    #[test]
    fn a_change_finds_the_connections_that_it_affects() {
        let live = Arc::new(Mutex::new(LiveSet::default()));
        let held: Vec<Permit> = ["192.0.2.1", "192.0.2.1", "192.0.2.9", "2001:db8::1"]
            .iter()
            .map(|ip| Permit::enter(&live, peer(ip)))
            .collect();
        let found = |changed| lock(&live).affected(&changed).len();
        let subject = |text: &str| Changed::Subjects(vec![text.parse().unwrap()]);
        assert_eq!(found(subject("192.0.2.1")), 2);
        assert_eq!(found(subject("192.0.2.0/28")), 3);
        assert_eq!(found(subject("2001:db8::/32")), 1);
        assert_eq!(found(subject("198.51.100.1")), 0);
        assert_eq!(found(Changed::Everything), 4);
        assert_eq!(lock(&live).addresses().len(), 3);
        drop(held);
        assert_eq!(lock(&live).entries.len(), 0);
    }

    #[test]
    fn only_proven_connections_count_as_use_of_a_grant() {
        let live = Arc::new(Mutex::new(LiveSet::default()));
        let held: Vec<Permit> = ["192.0.2.1", "192.0.2.1", "192.0.2.9"]
            .iter()
            .map(|ip| Permit::enter(&live, peer(ip)))
            .collect();
        let key = |byte| KeyId::from_bytes([byte; 4]);
        let proven = |of: KeyId| lock(&live).proven(|key| key == of);
        assert_eq!(proven(key(1)), []);
        held[..2].iter().for_each(|permit| permit.prove(key(1)));
        held[2].prove(key(2));
        assert_eq!(proven(key(1)), [peer("192.0.2.1")]);
        assert_eq!(proven(key(2)), [peer("192.0.2.9")]);
        assert_eq!(proven(key(3)), []);
    }

    #[tokio::test]
    async fn a_revocation_reaches_the_permit_with_its_reason() {
        let live = Arc::new(Mutex::new(LiveSet::default()));
        let permit = Permit::enter(&live, peer("192.0.2.1"));
        assert!(!permit.is_revoked());
        lock(&live).affected(&Changed::Everything)[0].1.revoke("banned");
        assert!(permit.is_revoked());
        assert_eq!(permit.revoked().await, "banned");
    }
}
