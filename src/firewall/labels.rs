//! Labels of entries, for firewalls that have names for rules: those of the notes in the store.
//!
//! The copy of the store in memory has no notes, so they are listed. A store that does not answer
//! leaves the labels as they were: they are for people, and no entry waits for them.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use ipnet::IpNet;
use knockpipe_firewall::Entries;

use crate::gate::Gate;
use crate::gate::store::Grant;

/// The most entries with labels that are known. A firewall with names has room for fewer.
const MOST: usize = 10_000;

/// Longest wait for the list.
const PATIENCE: Duration = Duration::from_secs(2);

/// The labels by network.
#[derive(Debug, Default)]
pub struct Labels(HashMap<IpNet, Arc<str>>);

impl Labels {
    /// Reads the labels of the gate's store.
    pub async fn read(&mut self, gate: &Gate) {
        let has_label =
            |grant: &Grant| grant.note.as_ref().is_some_and(|note| note.label.is_some());
        if let Ok(grants) = gate.grants(MOST, PATIENCE, has_label).await {
            let label = |grant: Grant| Some((grant.member.into(), grant.note?.label?.into()));
            self.0 = grants.into_iter().filter_map(label).collect();
        }
    }

    /// Gives entries their labels.
    pub fn give(&self, entries: &mut Entries) {
        for (network, label) in &self.0 {
            entries.label(*network, label);
        }
    }
}
