//! Networks that may connect, each with its end: the one form for what is wanted and what is there.
//!
//! A sorted list, which is made anew for each change: with 100,000 entries a tree takes five times
//! as long.

use std::cmp::Reverse;
use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;

use ipnet::IpNet;
use knockpipe_base::unix_time::{Expiry, UnixMillis};

/// A network that may connect. A single address is a network of one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// The network, without host bits.
    pub network: IpNet,
    /// Its end and its label.
    pub lasting: Lasting,
}

/// The end and the label of an entry.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Lasting {
    /// The moment from which the network may not connect any more.
    pub end: Expiry,
    /// The name that the entry has in firewalls with names, for people only.
    pub label: Option<Arc<str>>,
}

/// Entries in the order of their networks, each once.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Entries(Vec<Entry>);

/// One change of a firewall.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Step {
    /// Lets a network in that is not there.
    Add(Entry),
    /// Gives a network that is there another end or label.
    Change(Entry),
    /// Takes a network away.
    Remove(IpNet),
}

/// Returns the place of a network in the order: a network comes before those inside it.
pub(crate) fn order(network: &IpNet) -> (bool, u128, u8) {
    match network.addr() {
        IpAddr::V4(ip) => (false, u128::from(ip.to_bits()), network.prefix_len()),
        IpAddr::V6(ip) => (true, ip.to_bits(), network.prefix_len()),
    }
}

// === impl Entry ===

impl Entry {
    /// Creates an entry without a label.
    pub fn new(network: IpNet, end: Expiry) -> Self {
        Self { network, lasting: Lasting { end, label: None } }
    }

    /// Returns true if the network is one address.
    pub fn is_address(&self) -> bool {
        self.network.prefix_len() == self.network.max_prefix_len()
    }
}

// === impl Step ===

impl Step {
    /// Returns the network that it is about.
    pub fn network(&self) -> IpNet {
        match self {
            Self::Add(entry) | Self::Change(entry) => entry.network,
            Self::Remove(network) => *network,
        }
    }
}

// === impl Entries ===

impl Entries {
    /// Returns the number of entries.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Returns true if there are none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Returns the end and label of exactly this network.
    pub fn get(&self, network: IpNet) -> Option<&Lasting> {
        let place = self.place(network).ok()?;
        Some(&self.0[place].lasting)
    }

    /// Returns all, in the order of their networks.
    pub fn iter(&self) -> impl Iterator<Item = (&IpNet, &Lasting)> + Clone {
        self.0.iter().map(|Entry { network, lasting }| (network, lasting))
    }

    /// Adds an entry. Of two with one network the one that lasts longer stays.
    pub fn add(&mut self, entry: Entry) {
        match self.place(entry.network) {
            Ok(place) if self.0[place].lasting.end < entry.lasting.end => self.0[place] = entry,
            Ok(_) => {}
            Err(place) => self.0.insert(place, entry),
        }
    }

    /// Gives the entry of exactly this network a label, if there is one.
    pub fn label(&mut self, network: IpNet, label: &Arc<str>) {
        if let Ok(place) = self.place(network) {
            self.0[place].lasting.label = Some(Arc::clone(label));
        }
    }

    /// Makes the entries what they are after these steps.
    pub fn take(&mut self, steps: &[Step]) {
        let mut changed: BTreeMap<IpNet, Option<&Lasting>> = BTreeMap::new();
        for step in steps {
            match step {
                Step::Add(entry) | Step::Change(entry) => {
                    changed.insert(entry.network, Some(&entry.lasting));
                }
                Step::Remove(network) => {
                    changed.insert(*network, None);
                }
            }
        }
        self.0.retain(|entry| !changed.contains_key(&entry.network));
        let new = changed
            .into_iter()
            .filter_map(|(network, lasting)| Some(Entry { network, lasting: lasting?.clone() }));
        self.0.extend(new);
        // Two sorted parts, which a merge takes a pass for.
        self.0.sort_by_key(|entry| order(&entry.network));
    }

    /// Forgets the entries that end by `now`.
    pub fn expire(&mut self, now: UnixMillis) {
        self.0.retain(|entry| !entry.lasting.end.is_past(now));
    }

    fn place(&self, network: IpNet) -> Result<usize, usize> {
        self.0.binary_search_by_key(&order(&network), |entry| order(&entry.network))
    }
}

impl FromIterator<Entry> for Entries {
    fn from_iter<I: IntoIterator<Item = Entry>>(all: I) -> Self {
        let mut all: Vec<Entry> = all.into_iter().collect();
        all.sort_by_key(|entry| (order(&entry.network), Reverse(entry.lasting.end)));
        all.dedup_by_key(|entry| entry.network);
        Self(all)
    }
}
