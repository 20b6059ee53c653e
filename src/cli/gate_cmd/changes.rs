//! `allow`, `deny`, `remove`, `ban` and `unban`.

use std::time::Duration;

use clap::Args;
use serde_json::{Value, json};

use super::super::Done;
use super::super::output::{Output, left};
use super::place::{Absent, Place};
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

/// Changes that are told one by one, as they are made.
struct Changes {
    place: Place,
    output: Output,
    changed: bool,
}

/// Lets addresses and networks in.
///
/// # Errors
/// [`Failure`]
pub(super) async fn allow(args: AllowArgs) -> Result<Done, Failure> {
    if let Some(wide) = args.members.iter().find(|member| member.needs_force() && !args.force) {
        return Err(GateCommandError::Wide(*wide).into());
    }
    let mut changes = Changes::begin(&args.common, Absent::Make)?;
    for member in args.members {
        changes.make(ALLOW, Edit::Allow(member, args.ttl), (member, args.ttl)).await?;
    }
    changes.end()
}

/// Bans addresses and takes them out of the set, in this order: if the second
/// fails, they are out all the same.
///
/// # Errors
/// [`Failure`]
pub(super) async fn deny(args: BanArgs) -> Result<Done, Failure> {
    args.check()?;
    let mut changes = Changes::begin(&args.common, Absent::Make)?;
    for member in args.addresses {
        changes.make(BAN, Edit::Ban(member, args.ttl), (member, Some(args.ttl))).await?;
        changes.make(REMOVE, Edit::Remove(member), (member, None)).await?;
    }
    changes.end()
}

/// Takes addresses and networks out.
///
/// # Errors
/// [`Failure`]
pub(super) async fn remove(args: RemoveArgs) -> Result<Done, Failure> {
    let mut changes = Changes::begin(&args.common, Absent::Refuse)?;
    for member in args.members {
        changes.make(REMOVE, Edit::Remove(member), (member, None)).await?;
    }
    changes.end()
}

/// Bans addresses.
///
/// # Errors
/// [`Failure`]
pub(super) async fn ban(args: BanArgs) -> Result<Done, Failure> {
    args.check()?;
    let mut changes = Changes::begin(&args.common, Absent::Make)?;
    for member in args.addresses {
        changes.make(BAN, Edit::Ban(member, args.ttl), (member, Some(args.ttl))).await?;
    }
    changes.end()
}

/// Lifts bans: of addresses, with those of their /64, and of IPv6 /64s.
///
/// # Errors
/// [`Failure`]
pub(super) async fn unban(args: UnbanArgs) -> Result<Done, Failure> {
    if let Some(network) = args.addresses.iter().find(|member| !member.can_be_banned()) {
        return Err(GateCommandError::NetworkBan(*network).into());
    }
    let mut changes = Changes::begin(&args.common, Absent::Refuse)?;
    for member in args.addresses {
        changes.make(UNBAN, Edit::Unban(member), (member, None)).await?;
    }
    changes.end()
}

impl BanArgs {
    /// All of them are checked before any is banned.
    fn check(&self) -> Result<(), GateCommandError> {
        self.addresses.iter().try_for_each(|member| self.spare.check_ban(*member))
    }
}

impl Changes {
    fn begin(common: &CommonArgs, absent: Absent) -> Result<Self, Failure> {
        let place = Place::open(&common.store, absent)?;
        Ok(Self { place, output: common.output(), changed: false })
    }

    async fn make(
        &mut self,
        words: Words,
        edit: Edit,
        (subject, ttl): (Member, Option<Duration>),
    ) -> Result<(), Failure> {
        let receipt = self.place.edit(edit).await?;
        self.changed |= receipt.changed;
        let place = &self.place;
        self.output.say(
            || text(words, (subject, ttl), &receipt, place),
            || object(words, (subject, ttl), &receipt, place),
        )
    }

    fn end(self) -> Result<Done, Failure> {
        self.output.finish()?;
        Ok(if self.changed { Done::Clean } else { Done::Unchanged })
    }
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
