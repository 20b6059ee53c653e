//! A table of networks with a value each, found by longest prefix.
//!
//! One hash table, and the prefix lengths that occur in it: a look-up probes
//! once for each length, so its cost depends on how many lengths people use and
//! not on how many networks there are. It compares canonical forms only (see
//! [`Member`]), and says nothing about time.

use std::collections::HashMap;
use std::net::IpAddr;

use ipnet::IpNet;

use crate::member::{Member, canonical};

/// Networks of both families, each with a `T`.
#[derive(Clone, Debug, PartialEq)]
pub struct Nets<T> {
    entries: HashMap<IpNet, T>,
    v4: Lengths,
    v6: Lengths,
}

/// The prefix lengths that occur, longest first, each with how often.
#[derive(Clone, Debug, Default, PartialEq)]
struct Lengths(Vec<(u8, usize)>);

// === impl Nets ===

impl<T> Nets<T> {
    /// Sets the value of a network. Returns the one before.
    pub fn insert(&mut self, network: IpNet, value: T) -> Option<T> {
        let network = canonical(network);
        let old = self.entries.insert(network, value);
        if old.is_none() {
            self.lengths(network).add(network.prefix_len());
        }
        old
    }

    /// Removes a network. Returns its value.
    pub fn remove(&mut self, network: IpNet) -> Option<T> {
        let network = canonical(network);
        let old = self.entries.remove(&network);
        if old.is_some() {
            self.lengths(network).take(network.prefix_len());
        }
        old
    }

    /// The value of exactly this network.
    pub fn get(&self, network: IpNet) -> Option<&T> {
        self.entries.get(&canonical(network))
    }

    /// The longest network that contains `ip`.
    pub fn lookup(&self, ip: IpAddr) -> Option<(IpNet, &T)> {
        self.matches(ip).next()
    }

    /// Every network that contains `ip`, longest first.
    pub fn matches(&self, ip: IpAddr) -> impl Iterator<Item = (IpNet, &T)> {
        let ip = ip.to_canonical();
        let lengths = if ip.is_ipv4() { &self.v4 } else { &self.v6 };
        lengths.0.iter().filter_map(move |(length, _)| {
            let network = IpNet::new(ip, *length).ok()?.trunc();
            Some((network, self.entries.get(&network)?))
        })
    }

    /// All networks, in no order.
    pub fn iter(&self) -> impl Iterator<Item = (IpNet, &T)> {
        self.entries.iter().map(|(network, value)| (*network, value))
    }

    /// Keeps the networks for which `keep` returns true.
    pub fn retain(&mut self, mut keep: impl FnMut(&IpNet, &mut T) -> bool) {
        let Self { entries, v4, v6 } = self;
        entries.retain(|network, value| {
            let kept = keep(network, value);
            if !kept {
                let lengths = if matches!(network, IpNet::V4(_)) { &mut *v4 } else { &mut *v6 };
                lengths.take(network.prefix_len());
            }
            kept
        });
    }

    /// The number of networks.
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// Returns true if there is none.
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// Frees the memory of networks that are gone.
    pub(crate) fn shrink_to_fit(&mut self) {
        self.entries.shrink_to_fit();
    }

    pub(crate) fn capacity(&self) -> usize {
        self.entries.capacity()
    }

    fn lengths(&mut self, network: IpNet) -> &mut Lengths {
        match network {
            IpNet::V4(_) => &mut self.v4,
            IpNet::V6(_) => &mut self.v6,
        }
    }
}

impl<T> Default for Nets<T> {
    fn default() -> Self {
        Self { entries: HashMap::new(), v4: Lengths::default(), v6: Lengths::default() }
    }
}

impl FromIterator<Member> for Nets<()> {
    fn from_iter<I: IntoIterator<Item = Member>>(members: I) -> Self {
        let mut nets = Self::default();
        for member in members {
            nets.insert(member.into(), ());
        }
        nets
    }
}

// === impl Lengths ===

impl Lengths {
    fn add(&mut self, length: u8) {
        match self.position(length) {
            Ok(at) => self.0[at].1 += 1,
            Err(at) => self.0.insert(at, (length, 1)),
        }
    }

    fn take(&mut self, length: u8) {
        if let Ok(at) = self.position(length) {
            self.0[at].1 -= 1;
            if self.0[at].1 == 0 {
                self.0.remove(at);
            }
        }
    }

    fn position(&self, length: u8) -> Result<usize, usize> {
        self.0.binary_search_by(|(own, _)| length.cmp(own))
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use rand::rngs::StdRng;
    use rand::{RngExt, SeedableRng};

    use super::*;

    fn net(text: &str) -> IpNet {
        text.parse().unwrap()
    }

    fn ip(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    #[test]
    fn the_longest_prefix_wins() {
        let texts = ["0.0.0.0/0", "203.0.0.0/8", "203.0.113.0/24", "203.0.113.7/32", "::/0"];
        let nets: Nets<()> = texts.iter().map(|text| text.parse::<Member>().unwrap()).collect();
        let found = |text: &str| nets.lookup(ip(text)).map(|(network, ())| network.to_string());
        assert_eq!(found("203.0.113.7").unwrap(), "203.0.113.7/32");
        assert_eq!(found("::ffff:203.0.113.8").unwrap(), "203.0.113.0/24");
        assert_eq!(found("203.9.9.9").unwrap(), "203.0.0.0/8");
        assert_eq!(found("8.8.8.8").unwrap(), "0.0.0.0/0");
        assert_eq!(found("2001:db8::1").unwrap(), "::/0");
        let all: Vec<_> = nets.matches(ip("203.0.113.7")).map(|(n, ())| n.prefix_len()).collect();
        assert_eq!(all, [32, 24, 8, 0]);
    }

    #[test]
    fn spellings_of_a_network_are_one() {
        let mut nets = Nets::default();
        assert_eq!(nets.insert(net("::ffff:203.0.113.7/120"), 1), None);
        assert_eq!(nets.insert(net("203.0.113.99/24"), 2), Some(1));
        assert_eq!((nets.len(), nets.get(net("203.0.113.0/24"))), (1, Some(&2)));
        assert_eq!(nets.remove(net("::ffff:203.0.113.0/120")), Some(2));
        assert_eq!(nets.remove(net("203.0.113.0/24")), None);
        assert!(nets.is_empty() && nets.v4.0.is_empty());
    }

    /// Addresses of few distinct bits, so that networks overlap and repeat.
    fn random_ip(random: &mut StdRng) -> IpAddr {
        let bits = random.random_range(0..16u32);
        if random.random() {
            IpAddr::from((bits << 28 | random.random_range(0..4u32)).to_be_bytes())
        } else {
            let low = random.random_range(0..4u128);
            IpAddr::from((u128::from(bits) << 124 | low).to_be_bytes())
        }
    }

    fn random_net(random: &mut StdRng) -> IpNet {
        let ip = random_ip(random);
        let most = if ip.is_ipv4() { 32 } else { 128 };
        IpNet::new(ip, random.random_range(0..=most)).unwrap()
    }

    #[test]
    fn it_answers_as_a_plain_list_does() {
        let mut random = StdRng::seed_from_u64(7);
        let mut nets = Nets::default();
        let mut list: BTreeMap<IpNet, u32> = BTreeMap::new();
        for round in 0..20_000 {
            let network = random_net(&mut random);
            match random.random_range(0..100) {
                0 => {
                    nets.retain(|_, value| *value % 2 == 0);
                    list.retain(|_, value| *value % 2 == 0);
                }
                1..50 => {
                    assert_eq!(nets.insert(network, round), list.insert(network.trunc(), round))
                }
                _ => assert_eq!(nets.remove(network), list.remove(&network.trunc())),
            }
            let ip = random_ip(&mut random);
            let mut want: Vec<_> = list.iter().filter(|(n, _)| n.contains(&ip)).collect();
            want.sort_by_key(|(network, _)| u8::MAX - network.prefix_len());
            assert!(nets.matches(ip).eq(want.into_iter().map(|(n, value)| (*n, value))), "{ip}");
        }
        assert_eq!(nets.len(), list.len());
        let all: BTreeMap<_, _> = nets.iter().map(|(network, value)| (network, *value)).collect();
        assert_eq!(all, list);
        nets.retain(|_, _| false);
        assert!(nets.v4.0.is_empty() && nets.v6.0.is_empty());
    }
}
