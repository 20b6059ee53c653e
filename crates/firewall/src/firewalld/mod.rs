//! firewalld, over D-Bus: rich rules at runtime with timeouts, in a zone that the operator names.
//!
//! A zone judges the packets of its interfaces and sources, and no others; which these are is the
//! operator's choice, and so nothing here makes a zone or binds one. A reload takes all rules at
//! runtime away, those of others too, so nothing here asks for one; when another asks, the signal
//! says so and the rules are made anew. Running connections go on, since firewalld lets them pass
//! before any zone.

mod bus;
mod exposed;
mod rules;

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use ipnet::IpNet;
use knockpipe_base::printable::printable;
use knockpipe_base::unix_time::{Expiry, UnixMillis};

use crate::backend::{AtExit, Backend, BackendError, Keeps, Retry};
use crate::clock::now;
use crate::entries::{Entries, Entry};
use crate::ports::{PortRange, Ports};
use crate::reconcile::Step;

use bus::{Bus, Signal};
use rules::{KeepOut, LetIn, Own};

/// Timeouts are whole seconds, and firewalld's timer has some of its own.
const TOLERANCE: Duration = Duration::from_secs(3);

/// Pause before an operator can have remedied something.
const PAUSE: Duration = Duration::from_secs(15);

/// End of an entry with a timeout that is not known. No entry that is wanted has it.
const UNKNOWN: Expiry = Expiry::At(UnixMillis(u64::MAX));

/// Settings.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Options {
    /// The zone, which exists.
    pub zone: String,
    /// Ports that are guarded.
    pub ports: Ports,
    /// Others are told that they are kept out.
    pub reject: bool,
    /// Address of the bus; `None` is the system's.
    pub bus: Option<String>,
}

/// The firewall.
pub struct Firewalld {
    options: Options,
    bus: Option<Bus>,
    /// The rules that let in, with their ends as far as these are known.
    there: BTreeMap<LetIn, Option<Expiry>>,
}

impl Firewalld {
    /// Creates the firewall; nothing is asked yet.
    pub fn new(options: Options) -> Self {
        Self { options, bus: None, there: BTreeMap::new() }
    }

    /// Returns the connection, a new one if there is none.
    async fn bus(&mut self) -> Result<&mut Bus, BackendError> {
        if self.bus.is_none() {
            let connected = Bus::connect(self.options.bus.as_deref()).await;
            self.bus = Some(connected.map_err(|error| no_bus(&error))?);
        }
        self.bus.as_mut().ok_or_else(not_running)
    }

    /// Reads our rules of the zone.
    async fn read(&mut self) -> Result<Vec<Own>, BackendError> {
        let zone = self.options.zone.clone();
        let bus = self.bus().await?;
        let rules = bus.zone.rich_rules(&zone).await;
        let rules = rules.map_err(|error| self.failed(&error))?;
        Ok(rules.iter().filter_map(|rule| Own::read(rule)).collect())
    }

    async fn add(&mut self, rule: &str, timeout: i32) -> Result<(), BackendError> {
        let zone = self.options.zone.clone();
        match self.bus().await?.zone.add_rich_rule(&zone, rule, timeout).await {
            Err(error) if !says(&error, "ALREADY_ENABLED") => Err(self.failed(&error)),
            _ => Ok(()),
        }
    }

    async fn remove(&mut self, rule: &str) -> Result<(), BackendError> {
        let zone = self.options.zone.clone();
        match self.bus().await?.zone.remove_rich_rule(&zone, rule).await {
            Err(error) if !says(&error, "NOT_ENABLED") => Err(self.failed(&error)),
            _ => Ok(()),
        }
    }

    /// Adds a rule that lets in until `end`. A rule that is there with another end goes after it.
    async fn let_in(
        &mut self,
        network: IpNet,
        ports: PortRange,
        end: Expiry,
    ) -> Result<(), BackendError> {
        let first = LetIn { network, ports, second: false };
        let (mut new, mut old) = (first, first.other());
        if self.there.contains_key(&new) {
            if self.there.contains_key(&old) {
                self.take_away(old).await?;
            }
            (new, old) = (old, new);
        }
        let timeout = end.left(now()).map_or(0, seconds);
        self.add(&new.text(), timeout).await?;
        self.there.insert(new, Some(end));
        if self.there.contains_key(&old) {
            self.take_away(old).await?;
        }
        Ok(())
    }

    async fn take_away(&mut self, rule: LetIn) -> Result<(), BackendError> {
        // Forgotten first, so that the signal of the removal is known as our own.
        self.there.remove(&rule);
        self.remove(&rule.text()).await
    }

    /// Removes the rules of a network, without those for `keep`.
    async fn shut(&mut self, network: IpNet, keep: &[PortRange]) -> Result<(), BackendError> {
        let is_old = |rule: &&LetIn| rule.network == network && !keep.contains(&rule.ports);
        let old: Vec<LetIn> = self.there.keys().filter(is_old).copied().collect();
        for rule in old {
            self.take_away(rule).await?;
        }
        Ok(())
    }

    async fn step(&mut self, step: &Step) -> Result<(), BackendError> {
        match step {
            Step::Add(Entry { network, lasting }) | Step::Change(Entry { network, lasting }) => {
                let ports = self.options.ports.clone();
                for range in ports.ranges() {
                    self.let_in(*network, *range, lasting.end).await?;
                }
                self.shut(*network, ports.ranges()).await
            }
            Step::Remove(network) => self.shut(*network, &[]).await,
        }
    }

    /// Makes the rules that keep others out, and removes those of settings that were.
    async fn keep_out(&mut self, wanted: &[KeepOut]) -> Result<(), BackendError> {
        let read = self.read().await?;
        let present: Vec<KeepOut> = read
            .iter()
            .filter_map(|own| match own {
                Own::KeepOut(rule) => Some(*rule),
                Own::LetIn(_) => None,
            })
            .collect();
        for rule in wanted.iter().filter(|rule| !present.contains(rule)) {
            self.add(&rule.text(), 0).await?;
        }
        for rule in present.iter().filter(|rule| !wanted.contains(rule)) {
            self.remove(&rule.text()).await?;
        }
        Ok(())
    }

    /// Returns an error of a call as one line with a remedy. The connection is made anew then.
    fn failed(&mut self, error: &zbus::Error) -> BackendError {
        let zone = printable(&self.options.zone).into_owned();
        if let zbus::Error::MethodError(name, text, _) = error {
            let text = text.as_deref().unwrap_or_default();
            let cause = format!("firewalld refused a call: {}", printable(text));
            return match name.as_str() {
                name if name.ends_with("NotAuthorizedException")
                    || name.ends_with("AccessDenied") =>
                {
                    paused(
                        cause,
                        "run this as root, or let polkit permit its user org.fedoraproject.FirewallD1.all",
                    )
                }
                name if name.ends_with("ServiceUnknown") || name.ends_with("NameHasNoOwner") => {
                    not_running()
                }
                _ if text.starts_with("INVALID_ZONE") => no_zone(&zone),
                _ => BackendError::passing(cause, "see the log of firewalld; it is tried again"),
            };
        }
        self.bus = None;
        no_bus(error)
    }
}

impl Backend for Firewalld {
    fn name(&self) -> &'static str {
        "firewalld"
    }

    fn keeps(&self) -> Keeps {
        Keeps { ends: Some(TOLERANCE), labels: false }
    }

    /// Checks that firewalld runs and has the zone, and keeps others out.
    async fn prepare(&mut self) -> Result<(), BackendError> {
        let zone = self.options.zone.clone();
        let bus = self.bus().await?;
        let asked = async {
            if !bus.is_there().await? {
                return Ok(None);
            }
            Ok(Some((bus.main.version().await?, bus.zone.zones().await?)))
        };
        let (version, zones) = match asked.await {
            Ok(Some(answers)) => answers,
            Ok(None) => return Err(not_running()),
            Err(error) => return Err(self.failed(&error)),
        };
        if version.starts_with("0.") {
            let cause = format!("firewalld has version {}", printable(&version));
            return Err(BackendError::lasting(cause, "install version 1.0 or later"));
        }
        if !zones.contains(&zone) {
            return Err(no_zone(&printable(&zone)));
        }
        let reject = self.options.reject;
        let ports = self.options.ports.clone();
        let wanted: Vec<KeepOut> =
            ports.ranges().iter().map(|ports| KeepOut { ports: *ports, reject }).collect();
        self.keep_out(&wanted).await
    }

    async fn present(&mut self) -> Result<Entries, BackendError> {
        let read = self.read().await?;
        let known = std::mem::take(&mut self.there);
        self.there = read
            .iter()
            .filter_map(|own| match own {
                Own::LetIn(rule) => Some((*rule, known.get(rule).copied().flatten())),
                Own::KeepOut(_) => None,
            })
            .collect();
        Ok(entries(&self.there, &self.options.ports))
    }

    async fn apply(&mut self, steps: &[Step]) -> Result<(), BackendError> {
        for step in steps {
            self.step(step).await?;
        }
        Ok(())
    }

    async fn altered(&mut self) {
        let Some(bus) = &mut self.bus else { return std::future::pending().await };
        loop {
            match bus.signal().await {
                Signal::Anew => {
                    self.there.clear();
                    return;
                }
                Signal::Removed { zone, rule } if zone == self.options.zone => {
                    let known = match Own::read(&rule) {
                        Some(Own::LetIn(rule)) => self.there.get(&rule),
                        // Of settings that were, or our own doing at the end.
                        Some(Own::KeepOut(_)) => return,
                        None => None,
                    };
                    let is_early =
                        |end: &Option<Expiry>| !end.is_some_and(|end| end.is_past(now()));
                    if known.is_some_and(is_early) {
                        return;
                    }
                }
                Signal::Removed { .. } => {}
            }
        }
    }

    async fn at_exit(&mut self, wish: AtExit) -> Result<(), BackendError> {
        if wish == AtExit::Keep {
            return Ok(());
        }
        // Those that keep others out go first: no right is lost before all have it.
        self.keep_out(&[]).await?;
        let present = self.present().await?;
        let networks: BTreeSet<IpNet> = present.iter().map(|(network, _)| *network).collect();
        for network in networks {
            self.shut(network, &[]).await?;
        }
        Ok(())
    }

    fn describe(&self, steps: &[Step]) -> Vec<String> {
        let zone = &self.options.zone;
        let line = |verb: &str, network: &IpNet, end: Option<Expiry>| {
            let timeout = end.and_then(|end| end.left(now())).map(seconds);
            let timeout =
                timeout.map_or_else(String::new, |timeout| format!(" --timeout={timeout}"));
            let rules = self.options.ports.ranges().iter();
            let rules =
                rules.map(|ports| LetIn { network: *network, ports: *ports, second: false });
            rules
                .map(|rule| {
                    format!(
                        "firewall-cmd --zone={zone} --{verb}-rich-rule='{}'{timeout}",
                        rule.text()
                    )
                })
                .collect::<Vec<String>>()
        };
        steps
            .iter()
            .flat_map(|step| match step {
                Step::Add(Entry { network, lasting })
                | Step::Change(Entry { network, lasting }) => {
                    line("add", network, Some(lasting.end))
                }
                Step::Remove(network) => line("remove", network, None),
            })
            .collect()
    }

    async fn obstacles(&mut self) -> Result<Vec<String>, BackendError> {
        let zone = self.options.zone.clone();
        let ports = self.options.ports.clone();
        let bus = self.bus().await?;
        let found = exposed::find(bus, &zone, &ports).await;
        found.map_err(|error| self.failed(&error))
    }
}

/// Returns the entries that rules stand for.
fn entries(there: &BTreeMap<LetIn, Option<Expiry>>, ports: &Ports) -> Entries {
    let mut all: BTreeMap<IpNet, Vec<(&LetIn, Expiry)>> = BTreeMap::new();
    for (rule, end) in there {
        all.entry(rule.network).or_default().push((rule, end.unwrap_or(UNKNOWN)));
    }
    let entry = |(network, rules): (IpNet, Vec<(&LetIn, Expiry)>)| {
        let is_one_for_each = rules.len() == ports.ranges().len()
            && ports
                .ranges()
                .iter()
                .all(|range| rules.iter().any(|(rule, _)| rule.ports == *range));
        let first = rules.first().map_or(UNKNOWN, |(_, end)| *end);
        let is_one_end = rules.iter().all(|(_, end)| *end == first);
        let end = if is_one_for_each && is_one_end { first } else { UNKNOWN };
        Entry::new(network, end)
    };
    all.into_iter().map(entry).collect()
}

/// Returns whole seconds, at least one and as many as firewalld counts.
fn seconds(left: Duration) -> i32 {
    i32::try_from(left.as_millis().div_ceil(1_000)).unwrap_or(i32::MAX).max(1)
}

fn says(error: &zbus::Error, code: &str) -> bool {
    matches!(error, zbus::Error::MethodError(_, Some(text), _) if text.starts_with(code))
}

fn paused(cause: String, remedy: &str) -> BackendError {
    BackendError { cause, remedy: remedy.to_owned(), retry: Retry::After(PAUSE) }
}

fn no_bus(error: &zbus::Error) -> BackendError {
    let error = error.to_string();
    let cause = format!("no D-Bus to reach firewalld with: {}", printable(&error));
    BackendError::passing(
        cause,
        "start it and firewalld, or set DBUS_SYSTEM_BUS_ADDRESS; it is tried again",
    )
}

fn not_running() -> BackendError {
    BackendError::passing(
        "firewalld does not run",
        "run 'systemctl start firewalld'; it is tried again",
    )
}

fn no_zone(zone: &str) -> BackendError {
    paused(
        format!("firewalld has no zone {zone}"),
        &format!(
            "run 'firewall-cmd --permanent --new-zone={zone}', bind an interface to it and reload firewalld, or name another one with --firewalld-zone"
        ),
    )
}
