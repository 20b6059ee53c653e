//! One look at a firewall and at the store that it should follow, for an operator. Nothing is
//! changed.

use std::time::Duration;

use anyhow::Context;
use knockpipe_firewall::exec::Exec;
use knockpipe_firewall::firewalld::Firewalld;
use knockpipe_firewall::nftables::Nftables;
use knockpipe_firewall::{Backend, Entries, Lasting, Step, Wanted, reconcile, wanted};
use tokio::time::timeout;

use super::{Failure, runtime};
use crate::firewall::{BackendOptions, Labels, Options, lighthouse};
use crate::gate::{Gate, UnixMillis};

/// A firewall and the store that it should follow, at one moment.
#[derive(Debug)]
pub struct FirewallLook {
    /// What it changes.
    pub place: String,
    /// Word for the state of the store.
    pub store: &'static str,
    /// Entries that are there, with the time that is left.
    pub entries: Vec<String>,
    /// Steps to what is wanted, for people.
    pub differing: Vec<String>,
    /// The same as commands, with those that make what they need.
    pub commands: Vec<String>,
    /// What else on this host stands in the way.
    pub obstacles: Vec<String>,
}

/// Looks at a firewall and its store.
///
/// # Errors
/// [`Failure`] when either cannot be read.
pub fn look_at_firewall(options: Options) -> Result<FirewallLook, Failure> {
    let looked = || -> anyhow::Result<FirewallLook> {
        let runtime = runtime()?;
        let looked = runtime.block_on(async {
            match options.backend.clone() {
                BackendOptions::Nftables(own) => look(&options, Nftables::new(own)).await,
                BackendOptions::Firewalld(own) => look(&options, Firewalld::new(own)).await,
                BackendOptions::Lighthouse(own) => look(&options, lighthouse(*own)).await,
                BackendOptions::Exec(own) => look(&options, Exec::new(own)).await,
            }
        });
        runtime.shutdown_background();
        looked
    };
    looked().map_err(Failure::Runtime)
}

async fn look<B: Backend>(options: &Options, mut backend: B) -> anyhow::Result<FirewallLook> {
    let gate = Gate::start(options.gate.clone())?;
    if timeout(options.timeout, gate.settled()).await.is_err() {
        let after_s = options.timeout.as_secs_f64();
        anyhow::bail!(
            "the gate's store does not answer within {after_s} s; see whether it runs, or give more time with -o"
        );
    }
    let content = gate.watch();
    let (Wanted { entries: mut wanted, left_out }, store, now) = content.read(|content| {
        let policy = content.policy;
        let all = wanted(content.rules, content.store, policy, content.now);
        (all, policy.as_str(), content.now)
    });
    if let Some(why) = gate.status().unavailable {
        anyhow::bail!("the gate's store is unavailable: {why}; look at it, and try again");
    }
    if backend.keeps().labels {
        let mut labels = Labels::default();
        labels.read(&gate).await;
        labels.give(&mut wanted);
    }
    gate.dismiss();
    let present = backend.present().await.context("cannot read the firewall")?;
    if let Some(error) = backend.trouble() {
        return Err(error).context("cannot read the firewall");
    }
    let mut keeps = backend.keeps();
    let has_ends = options.backend.reads_ends();
    if !has_ends {
        keeps.ends = None;
    }
    let steps = reconcile(&wanted, &present, keeps);
    let damage = backend.damage();
    let commands = match damage {
        Some(_) => backend.describe(&reconcile(&wanted, &Entries::default(), keeps)),
        None => backend.describe(&steps),
    };
    let mut obstacles = backend.obstacles().await.context("cannot read the rules of this host")?;
    obstacles.extend(left_out.iter().map(|network| {
        format!("{network} is left out, because too many parts of it are banned; remove bans in it")
    }));
    Ok(FirewallLook {
        place: options.backend.place(),
        store,
        entries: if has_ends { entries(&present, now) } else { networks(&present) },
        differing: damage
            .into_iter()
            .chain(steps.iter().map(|step| described(step, now)))
            .collect(),
        commands,
        obstacles,
    })
}

fn entries(all: &Entries, now: UnixMillis) -> Vec<String> {
    all.iter().map(|(network, lasting)| format!("{network} {}", left(lasting, now))).collect()
}

fn networks(all: &Entries) -> Vec<String> {
    all.iter().map(|(network, _)| network.to_string()).collect()
}

fn described(step: &Step, now: UnixMillis) -> String {
    match step {
        Step::Add(entry) => format!("{} is missing ({})", entry.network, left(&entry.lasting, now)),
        Step::Change(entry) => {
            format!("{} should be let in {}", entry.network, left(&entry.lasting, now))
        }
        Step::Remove(network) => format!("{network} is let in and should not be"),
    }
}

fn left(lasting: &Lasting, now: UnixMillis) -> String {
    let seconds = |left: Duration| format!("for {} s", left.as_secs());
    lasting.end.left(now).map_or_else(|| "for ever".to_owned(), seconds)
}
