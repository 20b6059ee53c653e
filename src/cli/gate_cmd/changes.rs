//! `allow`, `deny`, `remove`, `ban` and `unban`.

use std::time::Duration;

use clap::Args;
use serde_json::{Value, json};

use super::super::Done;
use super::super::output::left;
use super::place::{Absent, Place};
use super::source::Source;
use super::{CommonArgs, GateCommandError, SpareArgs};
use crate::duration;
use crate::gate::Member;
use crate::gate::store::{Edit, Receipt};
use crate::run::Failure;

/// `gate allow`.
#[derive(Debug, Args)]
pub(super) struct AllowArgs {
    /// Who may come in
    #[arg(value_name = "ADDR|NET", required = true)]
    members: Vec<Member>,

    /// For so long, such as 30m, 12h or 30d [default: for ever]
    #[arg(
        long, value_name = "DURATION", value_parser = duration::parse, allow_hyphen_values = true
    )]
    ttl: Option<Duration>,

    /// Let in a network wider than /16 (IPv4) or /64 (IPv6)
    #[arg(long)]
    force: bool,

    #[command(flatten)]
    common: CommonArgs,
}

/// `gate ban` and `gate deny`.
#[derive(Debug, Args)]
pub(super) struct BanArgs {
    /// Who is banned: addresses, or IPv6 /64s
    #[arg(value_name = "ADDR", required = true)]
    addresses: Vec<Member>,

    /// For so long, such as 30m, 12h or 30d
    #[arg(
        long, value_name = "DURATION", value_parser = duration::parse,
        allow_hyphen_values = true, default_value = "1d"
    )]
    ttl: Duration,

    #[command(flatten)]
    spare: SpareArgs,

    #[command(flatten)]
    common: CommonArgs,
}

/// `gate remove`.
#[derive(Debug, Args)]
pub(super) struct RemoveArgs {
    /// Who is taken out
    #[arg(value_name = "ADDR|NET", required = true)]
    members: Vec<Member>,

    #[command(flatten)]
    common: CommonArgs,
}

/// `gate unban`.
#[derive(Debug, Args)]
pub(super) struct UnbanArgs {
    /// Whose ban is lifted, for an IPv6 address also that of its /64
    #[arg(value_name = "ADDR", required = true)]
    addresses: Vec<Member>,

    #[command(flatten)]
    common: CommonArgs,
}

/// What a change is called.
#[derive(Clone, Copy)]
struct Words {
    action: &'static str,
    done: &'static str,
    /// Why there was nothing to do.
    idle: &'static str,
}

const ALLOW: Words = Words { action: "allow", done: "allowed", idle: "is allowed" };
const REMOVE: Words = Words { action: "remove", done: "removed", idle: "not in the set" };
const BAN: Words = Words { action: "ban", done: "banned", idle: "is banned" };
const UNBAN: Words = Words { action: "unban", done: "unbanned", idle: "not banned" };

/// A change, and how it is told.
struct Change {
    words: Words,
    edit: Edit,
    subject: Member,
    ttl: Option<Duration>,
}

/// Lets addresses and networks in.
///
/// # Errors
/// [`Failure`]
pub(super) async fn allow(args: AllowArgs) -> Result<Done, Failure> {
    if let Some(wide) = args.members.iter().find(|member| member.needs_force() && !args.force) {
        return Err(GateCommandError::Wide(*wide).into());
    }
    let allow = |subject| Change {
        words: ALLOW,
        edit: Edit::Allow(subject, args.ttl),
        subject,
        ttl: args.ttl,
    };
    let source = args.common.store.find()?;
    make(&args.common, &Place::of(source, Absent::Make)?, args.members.into_iter().map(allow)).await
}

/// Bans addresses and takes them out of the set.
///
/// # Errors
/// [`Failure`]
pub(super) async fn deny(args: BanArgs) -> Result<Done, Failure> {
    let source = args.source()?;
    let both = |subject| [banning(subject, args.ttl), removal(subject)];
    make(&args.common, &Place::of(source, Absent::Make)?, args.addresses.into_iter().flat_map(both))
        .await
}

/// Takes addresses and networks out.
///
/// # Errors
/// [`Failure`]
pub(super) async fn remove(args: RemoveArgs) -> Result<Done, Failure> {
    let source = args.common.store.find()?;
    make(&args.common, &Place::of(source, Absent::Refuse)?, args.members.into_iter().map(removal))
        .await
}

/// Bans addresses.
///
/// # Errors
/// [`Failure`]
pub(super) async fn ban(args: BanArgs) -> Result<Done, Failure> {
    let source = args.source()?;
    let ban = |subject| banning(subject, args.ttl);
    make(&args.common, &Place::of(source, Absent::Make)?, args.addresses.into_iter().map(ban)).await
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
    make(&args.common, &Place::of(source, Absent::Refuse)?, args.addresses.into_iter().map(unban))
        .await
}

fn removal(subject: Member) -> Change {
    Change { words: REMOVE, edit: Edit::Remove(subject), subject, ttl: None }
}

fn banning(subject: Member, ttl: Duration) -> Change {
    Change { words: BAN, edit: Edit::Ban(subject, ttl), subject, ttl: Some(ttl) }
}

impl BanArgs {
    /// The gate. All addresses are checked before any is banned.
    fn source(&self) -> Result<Source, Failure> {
        let known = |spared: &[_]| {
            let check = |member: &Member| self.spare.check_ban(*member, spared);
            self.addresses.iter().try_for_each(check)
        };
        // Also where its store cannot be found.
        known(&[])?;
        let source = self.common.store.find()?;
        known(&source.spared)?;
        Ok(source)
    }
}

/// Makes all changes together, and tells each.
async fn make(
    common: &CommonArgs,
    place: &Place,
    changes: impl Iterator<Item = Change>,
) -> Result<Done, Failure> {
    let changes: Vec<Change> = changes.collect();
    let mut receipts = vec![];
    let edits = changes.iter().map(|change| change.edit.clone()).collect();
    let made = place.edit_all(edits, |receipt| receipts.push(receipt)).await;
    let mut output = common.output();
    for (Change { words, subject, ttl, .. }, receipt) in changes.iter().zip(&receipts) {
        let about = (*subject, *ttl);
        output.say(
            || text(*words, about, receipt, place),
            || object(*words, about, receipt, place),
        )?;
    }
    output.finish()?;
    made?;
    let changed = receipts.iter().any(|receipt| receipt.changed);
    Ok(if changed { Done::Clean } else { Done::Unchanged })
}

fn text(
    words: Words,
    (subject, ttl): (Member, Option<Duration>),
    r: &Receipt,
    p: &Place,
) -> String {
    let place = p.where_to(r);
    let (word, how) = match (r.changed, words.action, ttl) {
        (false, ..) => ("unchanged", words.idle.to_owned()),
        (true, "allow" | "ban", Some(ttl)) => (words.done, format!("for {}", left(Some(ttl)))),
        (true, "allow", None) => (words.done, "for ever".to_owned()),
        (true, ..) => (words.done, String::new()),
    };
    let note = if words.action == "allow" && ttl.is_some() { p.of_an_end(r) } else { "" };
    format!("{word:<10} {:<20} {how:<15} {place}{note}", subject.to_string())
}

fn object(
    words: Words,
    (subject, ttl): (Member, Option<Duration>),
    r: &Receipt,
    p: &Place,
) -> Value {
    let mut fields = p.fields(r);
    fields.insert("action".to_owned(), json!(words.action));
    fields.insert("subject".to_owned(), json!(subject.to_string()));
    fields.insert("changed".to_owned(), json!(r.changed));
    fields.insert("ttl_s".to_owned(), json!(ttl.map(|ttl| ttl.as_secs())));
    Value::Object(fields)
}
