//! `list`, `export` and `history`.
//!
//! Entries are held in memory for sorting, in some 60 bytes each and their notes; with
//! `--unsorted` they are printed in the order of the store.

use std::net::IpAddr;
use std::time::Duration;

use clap::Args;
use serde_json::{Map, Value, json};

use super::super::Done;
use super::super::output::{Form, Output, date, left, notice};
use super::CommonArgs;
use super::note;
use super::opened_store::{Absent, OpenedStore, each, runtime};
use crate::gate::owners::Notes;
use crate::gate::store::{Grant, is_implausible};
use crate::gate::{Entry, Expiry, Item, Member, UnixMillis};
use crate::net::clock::now;
use crate::run::Failure;

/// `gate list`.
#[derive(Debug, Args)]
pub(super) struct ListArgs {
    /// Print entries as they come, without holding them for sorting
    #[arg(long)]
    unsorted: bool,

    #[command(flatten)]
    common: CommonArgs,
}

/// `gate export`.
#[derive(Debug, Args)]
pub(super) struct ExportArgs {
    /// Print entries as they come, without holding them for sorting
    #[arg(long)]
    unsorted: bool,

    #[command(flatten)]
    store: super::find_gate::SourceArgs,
}

/// `gate history`.
#[derive(Debug, Args)]
pub(super) struct HistoryArgs {
    #[command(flatten)]
    common: CommonArgs,
}

/// The two kinds of entries, as lines and imports call them.
pub(super) const ALLOWED: &str = "allowed";
pub(super) const BANNED: &str = "banned";

/// An entry with its note.
struct Listed {
    entry: Entry,
    notes: Option<Box<Notes>>,
}

/// An entry as an object.
type Json = fn(&'static str, &Listed) -> Value;

/// Entries that are being printed.
struct Listing {
    output: Output,
    form: Json,
    /// Entries held back for sorting; `None` prints them at once.
    held: Option<Vec<Listed>>,
    /// The key of the set, and the time when it ends with all its members, where that is shown.
    set: Option<(String, UnixMillis)>,
    /// Entries with a score that is probably in milliseconds: their number, and one of them.
    suspicious: (usize, Option<Member>),
}

/// Lists the allow-set and the bans.
///
/// # Errors
/// [`Failure`]
pub(super) async fn list(args: ListArgs) -> Result<Done, Failure> {
    let place = OpenedStore::open(&args.common.store, Absent::Refuse)?;
    let with_ttl = |kind, listed: &Listed| {
        let mut line = exported(kind, listed);
        line["ttl_s"] = json!(listed.entry.ttl(now()).map(|ttl| ttl.as_secs()));
        line
    };
    let held = (!args.unsorted).then(Vec::new);
    let mut listing = Listing::new(args.common.output(), with_ttl, held);
    let set_end = place.store().set_end().await.map_err(runtime)?;
    listing.set = place.set().map(str::to_owned).zip(set_end.moment());
    listing.run(&place).await
}

/// Prints entries in the form that `import` reads.
///
/// # Errors
/// [`Failure`]
pub(super) async fn export(args: ExportArgs) -> Result<Done, Failure> {
    let place = OpenedStore::open(&args.store, Absent::Refuse)?;
    let held = (!args.unsorted).then(Vec::new);
    Listing::new(Output::new(Form::Json), exported, held).run(&place).await
}

fn exported(kind: &'static str, Listed { entry, notes }: &Listed) -> Value {
    let mut object = Map::new();
    object.insert("kind".to_owned(), json!(kind));
    object.insert("member".to_owned(), json!(entry.member.to_string()));
    object.insert("expires_ms".to_owned(), json!(entry.expiry.as_millis()));
    if let Some(notes) = notes {
        note::add_all(notes, &mut object);
    }
    Value::Object(object)
}

impl Listing {
    fn new(output: Output, form: Json, held: Option<Vec<Listed>>) -> Self {
        Self { output, form, held, set: None, suspicious: (0, None) }
    }

    async fn run(mut self, place: &OpenedStore) -> Result<Done, Failure> {
        let store = place.store();
        let allowed = each(|to| store.list_grants(to), |batch| self.take_grants(batch)).await?;
        self.flush(ALLOWED)?;
        self.print_set()?;
        let foreign = each(|to| store.list_bans(to), |batch| self.take_bans(batch)).await?;
        self.flush(BANNED)?;
        self.output.finish()?;
        if let Some(why) = allowed.without_notes {
            notice(&format!(
                "notes of entries are missing, since they cannot be read: {why}; an ACL user needs the rights that the documents name"
            ));
        }
        if allowed.garbage > 0 {
            let garbage = allowed.garbage;
            notice(&format!(
                "{garbage} entries of the set are not addresses or networks and admit no client; remove them there"
            ));
        }
        if let (count, Some(example)) = self.suspicious {
            notice(&format!(
                "{count} scores of the set look like milliseconds, such as that of {example}: scores are unix seconds, so these end in some 50,000 years; write them again as seconds"
            ));
        }
        if foreign > 0 {
            notice(&format!("{foreign} bans are of something else than an address; see GitLab"));
        }
        Ok(Done::Clean)
    }

    /// Prints the key of the set, if it ends (EXPIRE).
    fn print_set(&mut self) -> Result<(), Failure> {
        let Some((key, end)) = self.set.take() else { return Ok(()) };
        let ttl = end.saturating_since(now());
        self.output.say(
            || format!("{:<8} {key:<20} {}, with all members", "key", left(Some(ttl))),
            || json!({ "kind": "key", "key": key, "expires_ms": end.0, "ttl_s": ttl.as_secs() }),
        )
    }

    fn take_grants(&mut self, batch: Vec<Grant>) -> Result<(), Failure> {
        let listed = batch.into_iter().map(|Grant { member, expiry, note, others }| Listed {
            entry: Entry { member, expiry },
            notes: note.map(|note| Box::new(Notes { note, others })),
        });
        self.take(ALLOWED, listed.collect())
    }

    fn take_bans(&mut self, batch: Vec<Item>) -> Result<(), Failure> {
        let listed = batch.into_iter().map(|item| match item {
            Item::Allowed(member, expiry) | Item::Banned(member, expiry) => {
                Listed { entry: Entry { member, expiry }, notes: None }
            }
        });
        self.take(BANNED, listed.collect())
    }

    fn take(&mut self, kind: &'static str, batch: Vec<Listed>) -> Result<(), Failure> {
        for Listed { entry, .. } in batch.iter().filter(|it| is_implausible(it.entry.expiry)) {
            self.suspicious.0 += 1;
            self.suspicious.1.get_or_insert(entry.member);
        }
        match &mut self.held {
            Some(held) => held.extend(batch),
            None => {
                for listed in &batch {
                    print(&mut self.output, self.form, kind, listed)?;
                }
            }
        }
        Ok(())
    }

    fn flush(&mut self, kind: &'static str) -> Result<(), Failure> {
        let Some(held) = &mut self.held else { return Ok(()) };
        held.sort_unstable_by_key(|listed| listed.entry.member);
        for listed in held.drain(..) {
            print(&mut self.output, self.form, kind, &listed)?;
        }
        Ok(())
    }
}

fn print(
    output: &mut Output,
    form: Json,
    kind: &'static str,
    listed: &Listed,
) -> Result<(), Failure> {
    let text = || {
        let Listed { entry, notes } = listed;
        let (left, notes) = (left(entry.ttl(now())), note::all(notes.as_deref()));
        let line = format!("{kind:<8} {:<20} {left:<9} {notes}", entry.member.to_string());
        line.trim_end().to_owned()
    };
    output.say(text, || form(kind, listed))
}

/// Lists when addresses were last admitted.
///
/// # Errors
/// [`Failure`]
pub(super) async fn history(args: HistoryArgs) -> Result<Done, Failure> {
    let place = OpenedStore::open(&args.common.store, Absent::Refuse)?;
    let mut output = args.common.output();
    let (mut seen, garbage) = read_history(&place).await?;
    seen.sort_unstable_by_key(|(ip, at)| (*at, *ip));
    let now = now().as_secs();
    for (ip, at) in seen {
        let idle = Duration::from_secs(now.saturating_sub(at));
        output.say(
            || format!("{} {:<20} {} ago", date(at), ip.to_string(), left(Some(idle))),
            || json!({ "address": ip.to_string(), "seen": at, "idle_s": idle.as_secs() }),
        )?;
    }
    output.finish()?;
    if garbage > 0 {
        notice(&format!("{garbage} entries of the history are not an address with a time"));
    }
    Ok(Done::Clean)
}

/// Reads all addresses that were admitted, with the unix second, and counts garbage entries.
///
/// # Errors
/// [`Failure::Runtime`]
pub(super) async fn read_history(
    place: &OpenedStore,
) -> Result<(Vec<(IpAddr, u64)>, u64), Failure> {
    let mut seen = vec![];
    let garbage = each(
        |to| place.store().history(to),
        |batch| {
            seen.extend(batch);
            Ok(())
        },
    );
    let garbage = garbage.await?;
    Ok((seen, garbage))
}

/// Reads all entries of the store.
///
/// # Errors
/// [`Failure::Runtime`]
pub(super) async fn read_entries(
    place: &OpenedStore,
    mut note: impl FnMut(&'static str, Member, Expiry),
) -> Result<(), Failure> {
    let mut take = |batch: Vec<Item>| {
        for item in batch {
            match item {
                Item::Allowed(member, end) => note(ALLOWED, member, end),
                Item::Banned(member, end) => note(BANNED, member, end),
            }
        }
        Ok(())
    };
    each(|to| place.store().list_allowed(to), &mut take).await?;
    each(|to| place.store().list_bans(to), &mut take).await?;
    Ok(())
}
