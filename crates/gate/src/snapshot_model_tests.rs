//! The rule of full reads, against a plain model that random events are applied to as well.

use std::collections::HashMap;
use std::time::Duration;

use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};

use super::tests::member;
use super::*;

/// Bans and members, with their ends.
type Known = HashMap<(bool, Member), Expiry>;

/// Changes during a read.
type Truths = HashMap<(bool, Member), Option<Expiry>>;

/// A plain model of the snapshot.
#[derive(Default)]
struct Model {
    known: Known,
    /// During a read: what it found, and what changed meanwhile.
    read: Option<(Known, Truths)>,
}

impl Model {
    fn item(&mut self, key: (bool, Member), expiry: Expiry) {
        let Some((found, set)) = &mut self.read else { return };
        let found = found.entry(key).and_modify(|old| *old = expiry.max(*old));
        let expiry = *found.or_insert(expiry);
        if !set.contains_key(&key) {
            self.known.insert(key, expiry);
        }
    }

    fn set(&mut self, key: (bool, Member), truth: Option<Expiry>) {
        if let Some((_, set)) = &mut self.read {
            set.insert(key, truth);
        }
        match truth {
            Some(expiry) => _ = self.known.insert(key, expiry),
            None => _ = self.known.remove(&key),
        }
    }

    fn end(&mut self) {
        let Some((found, set)) = self.read.take() else { return };
        self.known = found;
        for (key, truth) in set {
            match truth {
                Some(expiry) => _ = self.known.insert(key, expiry),
                None => _ = self.known.remove(&key),
            }
        }
    }

    fn allowed(&self, ip: IpAddr, now: UnixMillis) -> Option<Entry> {
        let speaks = |member: &Member| member.contains(ip);
        let entries = self.known.iter().filter(|((ban, member), _)| !ban && speaks(member));
        let live = entries.filter(|(_, end)| !end.is_past(now));
        live.map(|((_, member), end)| Entry { member: *member, expiry: *end })
            .max_by_key(|entry| IpNet::from(entry.member).prefix_len())
    }

    fn entries(&self, now: UnixMillis) -> Known {
        self.known
            .iter()
            .filter(|(_, end)| !end.is_past(now))
            .map(|(key, end)| (*key, *end))
            .collect()
    }

    fn banned(&self, ip: IpAddr, now: UnixMillis) -> Option<Entry> {
        let expiry = *self.known.get(&(true, ip.into()))?;
        (!expiry.is_past(now)).then(|| Entry { member: ip.into(), expiry })
    }
}

/// All entries of the snapshot, each of which it may name once only.
fn entries(snapshot: &Snapshot, now: UnixMillis) -> Known {
    let mut known = Known::new();
    for item in snapshot.entries(now) {
        let before = match item {
            Item::Allowed(member, expiry) => known.insert((false, member), expiry),
            Item::Banned(member, expiry) => known.insert((true, member), expiry),
        };
        assert_eq!(before, None, "{item:?} is named twice");
    }
    known
}

fn random_member(random: &mut StdRng) -> Member {
    let low = random.random_range(0..6u8);
    match random.random_range(0..4) {
        0 => IpAddr::from([203, 0, 113, low]).into(),
        1 => IpAddr::from([0x2001, 0xdb8, 0, 0, 0, 0, 0, u16::from(low)]).into(),
        2 => member(&format!("203.0.113.{low}/{}", random.random_range(28..32))),
        _ => member(&format!("2001:db8::{low}/{}", random.random_range(124..128))),
    }
}

#[test]
fn it_agrees_with_a_plain_model() {
    let everyone: Vec<IpAddr> = (0..8u16)
        .flat_map(|low| {
            [[203, 0, 113, low as u8].into(), [0x2001, 0xdb8, 0, 0, 0, 0, 0, low].into()]
        })
        .collect();
    let mut random = StdRng::seed_from_u64(3);
    let (mut snapshot, mut model) = (Snapshot::default(), Model::default());
    let mut now = UnixMillis(1);
    for step in 0..60_000 {
        let before: Vec<_> = everyone
            .iter()
            .map(|ip| (snapshot.allowed(*ip, now), snapshot.banned(*ip, now)))
            .collect();
        let member = random_member(&mut random);
        let time = Duration::from_millis(random.random_range(0..60));
        let expiry = Expiry::after(now, random.random::<bool>().then_some(time));
        let item = match (random.random_range(0..3), member) {
            (0, Member::Address(ip)) => Item::Banned(ip.into(), expiry),
            _ => Item::Allowed(member, expiry),
        };
        let key = (matches!(item, Item::Banned(..)), member);
        let truth = random.random::<bool>().then_some(expiry);
        let mut changed = Changed::default();
        match random.random_range(0..100) {
            0..4 => {
                snapshot.begin();
                model.read = Some(<_>::default());
            }
            4..50 if model.read.is_some() => {
                model.item(key, expiry);
                changed = snapshot.items(&[item]);
            }
            50..54 => {
                model.end();
                changed = snapshot.end(now);
            }
            54 => {
                model.read = None;
                changed = snapshot.set_unavailable(now);
            }
            55..65 => {
                // Time passes: what ends now has to be named now.
                now = now.moved_by(random.random_range(0..5));
                changed = snapshot.expire(now);
                assert!(snapshot.next_expiry().is_none_or(|next| next > now));
            }
            _ => {
                model.set(key, truth);
                changed = match item {
                    Item::Banned(member, _) => snapshot.set_banned(member, truth),
                    Item::Allowed(member, _) => snapshot.set_allowed(member, truth),
                };
            }
        }
        for (ip, before) in everyone.iter().zip(before) {
            let after = (snapshot.allowed(*ip, now), snapshot.banned(*ip, now));
            assert_eq!(after, (model.allowed(*ip, now), model.banned(*ip, now)), "{step} {ip}");
            assert!(before == after || changed.affects(*ip), "{step} {ip}: {changed:?}");
        }
        if step % 100 == 0 {
            assert_eq!(entries(&snapshot, now), model.entries(now), "{step}");
        }
    }
}
