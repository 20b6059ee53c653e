//! Networks that may connect, each with its end: the one form for what is wanted and what is there.

use std::collections::BTreeMap;
use std::collections::btree_map;
use std::sync::Arc;

use ipnet::IpNet;
use knockpipe_base::unix_time::{Expiry, UnixMillis};

use crate::reconcile::Step;

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

/// Entries by their network, in its order.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Entries(BTreeMap<IpNet, Lasting>);

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
        self.0.get(&network)
    }

    /// Returns all, in the order of their networks.
    pub fn iter(&self) -> btree_map::Iter<'_, IpNet, Lasting> {
        self.0.iter()
    }

    /// Adds an entry. Of two with one network the one that lasts longer stays.
    pub fn add(&mut self, Entry { network, lasting }: Entry) {
        match self.0.entry(network) {
            btree_map::Entry::Occupied(mut known) if known.get().end < lasting.end => {
                known.insert(lasting);
            }
            btree_map::Entry::Occupied(_) => {}
            btree_map::Entry::Vacant(new) => {
                new.insert(lasting);
            }
        }
    }

    /// Makes the entries what they are after these steps.
    pub fn take(&mut self, steps: &[Step]) {
        for step in steps {
            match step {
                Step::Add(entry) | Step::Change(entry) => {
                    self.0.insert(entry.network, entry.lasting.clone());
                }
                Step::Remove(network) => {
                    self.0.remove(network);
                }
            }
        }
    }

    /// Forgets the entries that have ended, where a firewall removes these by itself.
    pub fn expire(&mut self, now: UnixMillis) {
        self.0.retain(|_, lasting| !lasting.end.is_past(now));
    }
}

impl FromIterator<Entry> for Entries {
    fn from_iter<I: IntoIterator<Item = Entry>>(all: I) -> Self {
        let mut entries = Self::default();
        all.into_iter().for_each(|entry| entries.add(entry));
        entries
    }
}
