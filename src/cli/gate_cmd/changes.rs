//! `allow`, `deny`, `remove`, `ban` and `unban`.

use std::time::Duration;

use clap::Args;
use serde_json::{Value, json};

use super::super::Done;
use super::super::output::left;
use super::find_gate::Source;
use super::note::Operator;
use super::opened_store::{Absent, OpenedStore};
use super::{CommonArgs, GateCommandError, SafetyArgs};
use crate::duration;
use crate::gate::Member;
use crate::gate::store::{Edit, EditResult};
use crate::proto::knock::Label;
use crate::run::Failure;

/// `gate allow`.
#[derive(Debug, Args)]
pub(super) struct AllowArgs {
    /// Addresses and networks to admit
    #[arg(value_name = "ADDR|NET", required = true)]
    members: Vec<Member>,

    /// Lifetime, such as 30m, 12h or 30d [default: for ever]
    #[arg(
        long, value_name = "DURATION", value_parser = duration::parse, allow_hyphen_values = true
    )]
    ttl: Option<Duration>,

    /// Label of the entries, shown by 'list' and 'why'
    #[arg(long, value_name = "TEXT")]
    label: Option<Label>,

    /// Admit even a network wider than /16 (IPv4) or /64 (IPv6)
    #[arg(long)]
    force: bool,

    #[command(flatten)]
    common: CommonArgs,
}

/// `gate ban` and `gate deny`.
#[derive(Debug, Args)]
pub(super) struct BanArgs {
    /// Addresses, or IPv6 /64s, to ban
    #[arg(value_name = "ADDR", required = true)]
    addresses: Vec<Member>,

    /// Lifetime, such as 30m, 12h or 30d
    #[arg(
        long, value_name = "DURATION", value_parser = duration::parse,
        allow_hyphen_values = true, default_value = "1d"
    )]
    ttl: Duration,

    #[command(flatten)]
    spare: SafetyArgs,

    #[command(flatten)]
    common: CommonArgs,
}

/// `gate remove`.
#[derive(Debug, Args)]
pub(super) struct RemoveArgs {
    /// Addresses and networks to remove
    #[arg(value_name = "ADDR|NET", required = true)]
    members: Vec<Member>,

    #[command(flatten)]
    common: CommonArgs,
}

/// `gate unban`.
#[derive(Debug, Args)]
pub(super) struct UnbanArgs {
    /// Addresses to unban, for an IPv6 address its /64 too
    #[arg(value_name = "ADDR", required = true)]
    addresses: Vec<Member>,

    #[command(flatten)]
    common: CommonArgs,
}

/// Names of a change.
#[derive(Clone, Copy)]
struct Wording {
    action: &'static str,
    done: &'static str,
    /// Reason why there was nothing to do.
    idle: &'static str,
}

const ALLOW: Wording = Wording { action: "allow", done: "allowed", idle: "is allowed" };
const REMOVE: Wording = Wording { action: "remove", done: "removed", idle: "not in the set" };
const BAN: Wording = Wording { action: "ban", done: "banned", idle: "is banned" };
const UNBAN: Wording = Wording { action: "unban", done: "unbanned", idle: "not banned" };

/// A change, with the words that describe it.
struct Change {
    words: Wording,
    edit: Edit,
    subject: Member,
    ttl: Option<Duration>,
}

/// Admits addresses and networks.
///
/// # Errors
/// [`Failure`]
pub(super) async fn allow(args: AllowArgs) -> Result<Done, Failure> {
    if let Some(wide) = args.members.iter().find(|member| member.needs_force() && !args.force) {
        return Err(GateCommandError::Wide(*wide).into());
    }
    let note = Operator::of_process().note(args.label.as_ref());
    let allow = |subject| Change {
        words: ALLOW,
        edit: Edit::Allow { member: subject, lasting: args.ttl, note: Some(note.clone()) },
        subject,
        ttl: args.ttl,
    };
    let source = args.common.store.find()?;
    make(&args.common, &OpenedStore::of(source, Absent::Make)?, args.members.into_iter().map(allow))
        .await
}

/// Bans addresses and removes them from the set.
///
/// # Errors
/// [`Failure`]
pub(super) async fn deny(args: BanArgs) -> Result<Done, Failure> {
    let source = args.source()?;
    let both = |subject| [banning(subject, args.ttl), removal(subject)];
    make(
        &args.common,
        &OpenedStore::of(source, Absent::Make)?,
        args.addresses.into_iter().flat_map(both),
    )
    .await
}

/// Removes addresses and networks.
///
/// # Errors
/// [`Failure`]
pub(super) async fn remove(args: RemoveArgs) -> Result<Done, Failure> {
    let source = args.common.store.find()?;
    make(
        &args.common,
        &OpenedStore::of(source, Absent::Refuse)?,
        args.members.into_iter().map(removal),
    )
    .await
}

/// Bans addresses.
///
/// # Errors
/// [`Failure`]
pub(super) async fn ban(args: BanArgs) -> Result<Done, Failure> {
    let source = args.source()?;
    let ban = |subject| banning(subject, args.ttl);
    make(&args.common, &OpenedStore::of(source, Absent::Make)?, args.addresses.into_iter().map(ban))
        .await
}

/// Lifts bans: of addresses, with those of their /64, and of IPv6 /64s.
///
/// # Errors
/// [`Failure`]
pub(super) async fn unban(args: UnbanArgs) -> Result<Done, Failure> {
    if let Some(network) = args.addresses.iter().find(|member| !member.can_be_banned()) {
        return Err(GateCommandError::NetworkBan(*network).into());
    }
    let unban = |subject| Change { words: UNBAN, edit: Edit::Unban(subject), subject, ttl: None };
    let source = args.common.store.find()?;
    make(
        &args.common,
        &OpenedStore::of(source, Absent::Refuse)?,
        args.addresses.into_iter().map(unban),
    )
    .await
}

fn removal(subject: Member) -> Change {
    Change { words: REMOVE, edit: Edit::Remove(subject), subject, ttl: None }
}

fn banning(subject: Member, ttl: Duration) -> Change {
    Change { words: BAN, edit: Edit::Ban(subject, ttl), subject, ttl: Some(ttl) }
}

impl BanArgs {
    /// Finds the gate. Checks all addresses before any is banned.
    fn source(&self) -> Result<Source, Failure> {
        let known = |spared: &[_]| {
            let check = |member: &Member| self.spare.check_ban(*member, spared);
            self.addresses.iter().try_for_each(check)
        };
        // Checked even if its store cannot be found.
        known(&[])?;
        let source = self.common.store.find()?;
        known(&source.spared)?;
        Ok(source)
    }
}

/// Makes all changes together, and prints each.
async fn make(
    common: &CommonArgs,
    place: &OpenedStore,
    changes: impl Iterator<Item = Change>,
) -> Result<Done, Failure> {
    let changes: Vec<Change> = changes.collect();
    let mut receipts = vec![];
    let edits = changes.iter().map(|change| change.edit.clone()).collect();
    let made = place.edit_all(edits, |receipt| receipts.push(receipt)).await;
    let mut output = common.output();
    for (change, receipt) in changes.iter().zip(&receipts) {
        output.say(|| change.text(receipt, place), || change.object(receipt, place))?;
    }
    output.finish()?;
    made?;
    let changed = receipts.iter().any(|receipt| receipt.changed);
    Ok(if changed { Done::Clean } else { Done::Unchanged })
}

impl Change {
    /// Describes the result, for people.
    fn text(&self, receipt: &EditResult, place: &OpenedStore) -> String {
        let Self { words, subject, ttl, .. } = self;
        let location = place.location(receipt);
        let (word, how) = match (receipt.changed, words.action, ttl) {
            (false, ..) => ("unchanged", words.idle.to_owned()),
            (true, "allow" | "ban", Some(ttl)) => (words.done, format!("for {}", left(Some(*ttl)))),
            (true, "allow", None) => (words.done, "for ever".to_owned()),
            (true, ..) => (words.done, String::new()),
        };
        let has_end = words.action == "allow" && ttl.is_some();
        let note = if has_end { place.of_an_end(receipt) } else { "" };
        format!("{word:<10} {:<20} {how:<15} {location}{note}", subject.to_string())
    }

    /// Describes the result, as JSON.
    fn object(&self, receipt: &EditResult, place: &OpenedStore) -> Value {
        let mut fields = place.fields(receipt);
        fields.insert("action".to_owned(), json!(self.words.action));
        fields.insert("subject".to_owned(), json!(self.subject.to_string()));
        fields.insert("changed".to_owned(), json!(receipt.changed));
        fields.insert("ttl_s".to_owned(), json!(self.ttl.map(|ttl| ttl.as_secs())));
        Value::Object(fields)
    }
}
