//! `reap`: removes addresses that were not seen for long.

use std::net::IpAddr;
use std::time::Duration;

use clap::Args;
use serde_json::{Value, json};

use super::super::Done;
use super::super::output::{date, left, notice};
use super::CommonArgs;
use super::list::read_history;
use super::opened_store::{Absent, OpenedStore};
use crate::duration;
use crate::gate::store::{Edit, EditResult};
use crate::net::clock;
use crate::run::Failure;

/// `gate reap`.
#[derive(Debug, Args)]
pub(super) struct ReapArgs {
    /// Remove addresses that were last admitted longer ago, such as 30d
    #[arg(
        long, value_name = "DURATION", value_parser = duration::parse, allow_hyphen_values = true
    )]
    idle: Duration,

    /// Only print the addresses, and remove none
    #[arg(long)]
    dry_run: bool,

    #[command(flatten)]
    common: CommonArgs,
}

/// Removes idle addresses.
///
/// # Errors
/// [`Failure`]
pub(super) async fn reap(args: ReapArgs) -> Result<Done, Failure> {
    let place = OpenedStore::open(&args.common.store, Absent::Refuse)?;
    let mut output = args.common.output();
    let now = clock::now().as_secs();
    let limit = now.saturating_sub(args.idle.as_secs());
    let (mut seen, _) = read_history(&place).await?;
    seen.retain(|(_, at)| *at < limit);
    seen.sort_unstable_by_key(|(ip, at)| (*at, *ip));
    let mut receipts = vec![];
    let made = if args.dry_run {
        Ok(())
    } else {
        let forget = |(ip, _): &(IpAddr, u64)| Edit::Forget { ip: *ip, before_s: limit };
        let edits = seen.iter().map(forget).collect();
        place.edit_all(edits, |receipt| receipts.push(receipt)).await
    };
    let told = if args.dry_run { seen.len() } else { receipts.len() };
    for (number, (ip, seen)) in seen.into_iter().take(told).enumerate() {
        let idle = Idle { ip, seen, receipt: receipts.get(number) };
        output.say(|| idle.text(&place, now), || idle.object(&place))?;
    }
    output.finish()?;
    made?;
    // Another process may have removed it first, or the address is in use again.
    let changed = told > 0 && (args.dry_run || receipts.iter().any(|receipt| receipt.changed));
    if !changed {
        notice("no address was idle for that long");
    }
    Ok(if changed { Done::Clean } else { Done::Unchanged })
}

/// An idle address.
struct Idle<'a> {
    ip: IpAddr,
    /// The unix second when it was last admitted.
    seen: u64,
    /// Result of the change, if it was made.
    receipt: Option<&'a EditResult>,
}

impl Idle<'_> {
    fn text(&self, place: &OpenedStore, now: u64) -> String {
        let Self { ip, seen, receipt } = self;
        let (word, place) = match receipt {
            None => ("would-reap", String::new()),
            Some(receipt) if receipt.changed => ("reaped", place.location(receipt)),
            Some(receipt) => ("unchanged", place.location(receipt)),
        };
        let idle = left(Some(Duration::from_secs(now.saturating_sub(*seen))));
        let line = format!("{word:<10} {:<20} {} {idle:<7} {place}", ip.to_string(), date(*seen));
        line.trim_end().to_owned()
    }

    fn object(&self, place: &OpenedStore) -> Value {
        let Self { ip, seen, receipt } = self;
        let mut fields = receipt.map(|receipt| place.fields(receipt)).unwrap_or_default();
        fields.insert("action".to_owned(), json!("reap"));
        fields.insert("subject".to_owned(), json!(ip.to_string()));
        fields.insert("seen".to_owned(), json!(seen));
        fields.insert("changed".to_owned(), json!(receipt.is_some_and(|receipt| receipt.changed)));
        Value::Object(fields)
    }
}
