//! The firewall of Tencent Cloud Lighthouse, through its API.
//!
//! Each network has one rule for each list of ports on each instance. The rules' descriptions are
//! the mark: `<prefix><label>@@YYYYMMDD`. The cloud ends no rule by itself, so a rule goes when its
//! entry does, and the date says when it was last wanted, should this program not come back. No
//! request is repeated without bounds, and no secret is shown.

mod account;
mod api;
mod credentials;
mod exposed;
mod instance;
mod naming;
mod plan;
mod sign;
mod turns;

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use ipnet::IpNet;
use knockpipe_base::civil::Date;
use knockpipe_base::unix_time::Expiry;

use crate::backend::{AtExit, Backend, BackendError, Keeps, Retry};
use crate::clock::now;
use crate::entries::{Entries, Entry, Lasting};
use crate::ports::Ports;
use crate::reconcile::Step;

use account::Account;
use api::{ApiError, Kind};
use instance::{Failed, Instance, Task};
use plan::{Form, Key};
use turns::Turns;

pub use account::{Header, Reply, Transport};
pub use credentials::{BadCredentials, Credentials};
pub use naming::{BadPrefix, Prefix};
pub use sign::Signed;

/// Age in days from which rules that no entry stands for go to make room.
const OLD: u64 = 2;

/// Time between two looks at the rules. Every look counts for the account's limit.
const REREAD: Duration = Duration::from_secs(60);

/// The same while a part of it fails.
const REREAD_SOON: Duration = Duration::from_secs(10);

/// Pause after an error that an operator has to remedy, perhaps without this program.
const PAUSE: Duration = Duration::from_secs(60);

/// Label of an entry that is not as it should be. No entry that is wanted has it.
const NOT_AS_WANTED: &str = "";

/// Settings.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Options {
    /// Ids of the instances, at least one.
    pub instances: Vec<String>,
    /// Their region.
    pub region: String,
    /// The account.
    pub credentials: Credentials,
    /// Beginning of the rules' descriptions.
    pub prefix: Prefix,
    /// Age in days from which rules with the prefix go that no entry stands for; 0: at once. For
    /// instances on which other programs make rules with the same prefix.
    pub days: u32,
    /// Ports that are guarded.
    pub ports: Ports,
}

/// The firewall.
pub struct Lighthouse<T> {
    account: Account<T>,
    instances: Vec<Instance>,
    form: Form,
    ports: Ports,
    days: u64,
    /// Networks that were let in by this process, with their labels.
    told: HashMap<IpNet, Option<Arc<str>>>,
    trouble: Option<BackendError>,
}

/// Rules for a network on all instances.
#[derive(Default)]
struct Found {
    /// Labels of ours.
    labels: HashSet<Option<String>>,
    /// Date of the oldest of ours.
    oldest: Option<Date>,
    /// Number of those that are as they should be.
    right: usize,
}

impl<T: Transport> Lighthouse<T> {
    /// Creates the firewall; nothing is asked yet.
    pub fn new(options: Options, transport: T) -> Self {
        let Options { instances, region, credentials, prefix, days, ports } = options;
        Self {
            account: Account { transport, region, credentials, turns: Turns::default() },
            instances: instances.into_iter().map(Instance::new).collect(),
            form: Form { prefix, ports: plan::port_texts(&ports) },
            ports,
            days: days.into(),
            told: HashMap::new(),
            trouble: None,
        }
    }

    /// Returns what is known of networks on instances of which the rules were read: of those with a
    /// rule of ours, and of those that were let in. A foreign rule counts where it does the same.
    fn found(&self, today: Date) -> BTreeMap<IpNet, Found> {
        let mut all: BTreeMap<IpNet, Found> = BTreeMap::new();
        for rule in self.instances.iter().filter_map(|one| one.rules.as_ref()).flatten() {
            let Some(key) = Key::of(rule) else { continue };
            let is_for_ports = self.form.ports.iter().any(|ports| key.is_for(ports));
            let found = all.entry(key.network).or_default();
            let text = rule.firewall_rule_description.as_deref().unwrap_or_default();
            let Some(name) = self.form.prefix.read(text) else {
                found.right += usize::from(is_for_ports);
                continue;
            };
            let told = self.told.get(&key.network);
            let wanted = told.map(|label| self.form.prefix.describe(label.as_deref(), today));
            let is_right = wanted.map_or(name.date == today, |wanted| wanted == text);
            found.right += usize::from(is_for_ports && is_right);
            found.labels.insert(name.label().map(str::to_owned));
            found.oldest = Some(found.oldest.map_or(name.date, |oldest| oldest.min(name.date)));
        }
        all.retain(|network, found| found.oldest.is_some() || self.told.contains_key(network));
        all
    }

    /// Returns the entries that the rules stand for.
    fn entries(&self) -> Entries {
        let seconds = now().as_secs();
        let today = Date::of_unix(seconds);
        let last = Date::days_before(seconds, self.days);
        let known = self.instances.iter().filter(|one| one.rules.is_some()).count();
        let whole = known * self.form.ports.len();
        let counts = |network: &IpNet, found: &Found| {
            let is_old = found.oldest.is_some_and(|oldest| oldest <= last);
            self.days == 0 || is_old || self.told.contains_key(network)
        };
        let found = self.found(today).into_iter();
        let found = found.filter(|(network, found)| counts(network, found));
        let entry = |(network, found): (IpNet, Found)| {
            let is_whole = found.labels.len() < 2 && found.right == whole;
            let label = match self.told.get(&network) {
                _ if !is_whole => Some(NOT_AS_WANTED.into()),
                Some(told) => told.clone(),
                None => found.labels.into_iter().next().flatten().map(Into::into),
            };
            Entry { network, lasting: Lasting { end: Expiry::Never, label } }
        };
        found.map(entry).collect()
    }

    /// Remembers what is to be let in.
    fn tell(&mut self, steps: &[Step]) {
        for step in steps {
            match step {
                Step::Add(Entry { network, lasting })
                | Step::Change(Entry { network, lasting }) => {
                    self.told.insert(*network, lasting.label.clone());
                }
                Step::Remove(network) => {
                    self.told.remove(network);
                }
            }
        }
    }

    /// Carries steps out on every instance, also after one has failed: where they were on any, the
    /// failure is of a part.
    async fn carry_out(&mut self, steps: &[Step]) -> Result<(), BackendError> {
        let seconds = now().as_secs();
        let keep: HashSet<IpNet> = self.told.keys().copied().collect();
        let task = Task {
            form: &self.form,
            steps,
            today: Date::of_unix(seconds),
            old: Date::days_before(seconds, OLD),
            keep: &keep,
        };
        let (mut first, mut is_done) = (None, false);
        for instance in &mut self.instances {
            match instance.carry_out(&mut self.account, &task).await {
                Ok(()) => is_done = true,
                Err(failed) => {
                    is_done |= failed.is_done;
                    first.get_or_insert(failed);
                }
            }
        }
        self.trouble = first.as_ref().map(error);
        match &self.trouble {
            Some(error) if !is_done => Err(error.clone()),
            _ => Ok(()),
        }
    }
}

impl<T: Transport> Backend for Lighthouse<T> {
    fn name(&self) -> &'static str {
        "lighthouse"
    }

    fn keeps(&self) -> Keeps {
        Keeps { ends: None, labels: true }
    }

    async fn prepare(&mut self) -> Result<(), BackendError> {
        Ok(())
    }

    /// Reads the rules. What cannot be read is as it was, and [`Backend::trouble`] says so.
    async fn present(&mut self) -> Result<Entries, BackendError> {
        let mut first = None;
        for instance in &mut self.instances {
            if let Err(cause) = instance.read(&mut self.account).await {
                first.get_or_insert_with(|| instance.failed(cause, 0, false));
            }
        }
        self.trouble = first.as_ref().map(error);
        Ok(self.entries())
    }

    async fn apply(&mut self, steps: &[Step]) -> Result<(), BackendError> {
        if steps.is_empty() {
            return Ok(());
        }
        self.tell(steps);
        self.carry_out(steps).await
    }

    fn trouble(&self) -> Option<BackendError> {
        self.trouble.clone()
    }

    fn reread(&self) -> Duration {
        if self.trouble.is_some() { REREAD_SOON } else { REREAD }
    }

    async fn altered(&mut self) {
        std::future::pending().await
    }

    async fn at_exit(&mut self, wish: AtExit) -> Result<(), BackendError> {
        if wish == AtExit::Keep {
            return Ok(());
        }
        let present = self.present().await?;
        let steps: Vec<Step> = present.iter().map(|(network, _)| Step::Remove(*network)).collect();
        self.apply(&steps).await
    }

    fn describe(&self, steps: &[Step]) -> Vec<String> {
        let today = Date::of_unix(now().as_secs());
        let all = self.instances.iter().flat_map(|one| steps.iter().map(move |step| (one, step)));
        all.flat_map(|(instance, step)| {
            let id = &instance.id;
            let line = |verb: &str, entry: &Entry| {
                let rules = self.form.rules(entry, today);
                let lines = rules.map(|rule| format!("{id}: {verb} {}", exposed::text(&rule)));
                lines.collect::<Vec<String>>()
            };
            match step {
                Step::Add(entry) => line("create", entry),
                Step::Change(entry) => line("renew", entry),
                Step::Remove(network) => {
                    vec![format!("{id}: delete the rules of {}", plan::address(*network))]
                }
            }
        })
        .collect()
    }

    async fn obstacles(&mut self) -> Result<Vec<String>, BackendError> {
        let mut lines = vec![];
        for instance in &mut self.instances {
            let read = instance.read(&mut self.account).await;
            read.map_err(|cause| error(&instance.failed(cause, 0, false)))?;
            let foreign = instance.rules.iter().flatten();
            let foreign = foreign.filter(|rule| self.form.own(rule).is_none());
            lines.extend(foreign.filter_map(|rule| exposed::line(rule, &self.ports, &instance.id)));
        }
        Ok(lines)
    }
}

/// Returns the failure of an instance as one line with a remedy.
fn error(failed: &Failed) -> BackendError {
    let Failed { instance, error, left_out, .. } = failed;
    let cause = format!("Lighthouse refused a request for instance {instance}: {error}");
    let after = |cause: String, remedy: &str| BackendError {
        cause,
        remedy: remedy.to_owned(),
        retry: Retry::After(PAUSE),
    };
    match error.kind() {
        Kind::Passing => {
            let cause =
                format!("Lighthouse did not serve a request for instance {instance}: {error}");
            let remedy = match error {
                ApiError::Away(_) => {
                    "check the network and --lighthouse-endpoint; it is tried again"
                }
                _ => "it is tried again",
            };
            BackendError::passing(cause, remedy)
        }
        Kind::Often => BackendError::passing(
            cause,
            "let other programs use the account less; it is tried again",
        ),
        Kind::Changed | Kind::Exists => BackendError::passing(
            cause,
            "find out which other program changes the rules; it is tried again",
        ),
        Kind::Full => after(
            format!("there is no room for {left_out} more rules on instance {instance}: {error}"),
            "delete rules that are not needed, or have the provider raise the quota",
        ),
        Kind::Denied => after(
            cause,
            "check --lighthouse-credentials, and that the account may describe, create, modify and delete firewall rules",
        ),
        Kind::Clock => after(cause, "set this host's clock"),
        Kind::NoInstance => after(cause, "correct --lighthouse-instances or --lighthouse-region"),
        Kind::Wrong => after(cause, "correct the setting that it names, or report it"),
    }
}

#[cfg(test)]
#[path = "lighthouse_tests.rs"]
mod tests;
