//! The answers of a store that holds all of its content in memory: the embedded store and the
//! memory store give the same ones, so they are made here.
//!
//! It takes a state and a moment, and neither waits for a lock nor changes anything.

use std::net::IpAddr;
use std::time::Duration;

use tokio::sync::mpsc;
use tokio::sync::mpsc::error::SendError;

use super::file_record::{Record, Subject};
use super::file_state::State;
use super::member::{Entry, Item, Member};
use super::store::{
    AddressRecord, AllowEntry, BATCH, Ban, Edit, EditResult, Event, Grant, StoreError,
};
use crate::unix_time::{Expiry, UnixMillis};

const KEY: &str = "allowed";
const BANS: &str = "bans";
const HISTORY: &str = "history";
const STRIKES: &str = "strikes";

/// The next report to a follower.
pub(super) enum Report {
    Everything(Vec<Item>),
    Changes(Vec<Event>),
}

impl Report {
    /// The present state of subjects that changed.
    pub(super) fn changes(state: &State, subjects: Vec<Subject>, now: UnixMillis) -> Self {
        Self::Changes(subjects.into_iter().map(|subject| event(state, subject, now)).collect())
    }
}

/// The result of an edit, by the records that it made.
pub(super) fn receipt(server: &str, edit: &Edit, records: &[Record]) -> EditResult {
    let strikes = records.iter().find_map(|record| match record {
        Record::Strikes(_, strikes) => Some(strikes.count),
        _ => None,
    });
    let banned = records.iter().any(|record| matches!(record, Record::Ban(..)));
    let key = match edit {
        Edit::Allow { .. }
        | Edit::Grant { .. }
        | Edit::Renew { .. }
        | Edit::Remove(_)
        | Edit::TakeBack { .. } => KEY,
        Edit::Ban(..) | Edit::Unban(_) => BANS,
        Edit::RecordSeen(_) | Edit::Forget { .. } => HISTORY,
        Edit::Strike { .. } if banned || strikes.is_none() => BANS,
        Edit::Strike { .. } | Edit::ClearStrikes { .. } => STRIKES,
    };
    let touched = matches!(edit, Edit::RecordSeen(_)).then_some(records.len() as u64);
    EditResult {
        server: server.to_owned(),
        key: key.to_owned(),
        changed: !records.is_empty(),
        count: strikes.or(touched),
    }
}

/// Everything about one address, with the failures of the current window of `findtime`.
pub(super) fn address_record(
    server: &str,
    state: &State,
    ip: IpAddr,
    findtime: Option<Duration>,
    now: UnixMillis,
) -> AddressRecord {
    let ip = ip.to_canonical();
    let allowed = |Grant { member, expiry, note, others }| AllowEntry {
        key: KEY.to_owned(),
        member,
        expiry,
        note,
        others,
    };
    let ban = |Entry { member, expiry }| Ban { member, key: BANS.to_owned(), expiry };
    let source = Member::source_of(ip);
    let count = |time: Duration| state.strikes(&source, time.as_secs().max(1), now);
    AddressRecord {
        server: server.to_owned(),
        allow_entries: state.around(ip, now).into_iter().map(allowed).collect(),
        ban: state.ban_on(ip, now).map(ban),
        seen: state.seen.get(&ip).copied(),
        strikes: findtime.map(count),
        set_expiry: Expiry::Never,
    }
}

/// The present state of a subject.
fn event(state: &State, subject: Subject, now: UnixMillis) -> Event {
    match subject {
        Subject::Member(member) => Event::Allowed(member, state.member(&member, now)),
        Subject::Ban(member) => Event::Banned(member, state.ban(&member, now)),
    }
}

/// Sends a report to a follower.
///
/// # Errors
/// When it receives no more.
pub(super) async fn tell(
    events: &mpsc::Sender<Event>,
    changes: Report,
) -> Result<(), SendError<Event>> {
    match changes {
        Report::Changes(changes) => {
            for change in changes {
                events.send(change).await?;
            }
            Ok(())
        }
        Report::Everything(items) => {
            events.send(Event::Begin).await?;
            for items in items.chunks(BATCH) {
                events.send(Event::Items(items.to_vec())).await?;
            }
            events.send(Event::End { garbage: 0 }).await
        }
    }
}

/// Sends a listing in batches. Returns the number of garbage entries, of which there are none.
///
/// # Errors
/// When its reader stops before its end.
pub(super) async fn send<T: Clone>(
    found: Vec<T>,
    to: &mpsc::Sender<Vec<T>>,
) -> Result<u64, StoreError> {
    for batch in found.chunks(BATCH) {
        to.send(batch.to_vec()).await.map_err(|_| StoreError::CutOff)?;
    }
    Ok(0)
}
