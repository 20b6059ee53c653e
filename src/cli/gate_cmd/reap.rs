//! `reap`: forgets who was not seen for long.

use std::net::IpAddr;
use std::time::Duration;

use clap::Args;
use serde_json::{Value, json};

use super::super::Done;
use super::super::output::{date, left, remark};
use super::CommonArgs;
use super::list::read_history;
use super::place::{Absent, Place};
use crate::duration;
use crate::gate::store::{Edit, Receipt};
use crate::net::clock;
use crate::run::Failure;

/// `gate reap`.
#[derive(Debug, Args)]
pub(super) struct ReapArgs {
    /// Who was last let in before so long, such as 30d
    #[arg(
        long, value_name = "DURATION", value_parser = duration::parse, allow_hyphen_values = true
    )]
    idle: Duration,

    /// Only say who it would be
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
    let place = Place::open(&args.common.store, Absent::Refuse)?;
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
    for (place_of, (ip, at)) in seen.into_iter().take(told).enumerate() {
        let receipt = receipts.get(place_of);
        let idle = left(Some(Duration::from_secs(now.saturating_sub(at))));
        output
            .say(|| text(&place, receipt, (ip, at), &idle), || object(&place, receipt, (ip, at)))?;
    }
    output.finish()?;
    made?;
    // Somebody else may have been quicker, or the address is in use again.
    let changed = told > 0 && (args.dry_run || receipts.iter().any(|receipt| receipt.changed));
    if !changed {
        remark("nobody was idle for that long");
    }
    Ok(if changed { Done::Clean } else { Done::Unchanged })
}

/// `receipt` is that of the change, if it was made.
fn text(place: &Place, receipt: Option<&Receipt>, (ip, at): (IpAddr, u64), idle: &str) -> String {
    let (word, place) = match receipt {
        None => ("would-reap", String::new()),
        Some(receipt) if receipt.changed => ("reaped", place.where_to(receipt)),
        Some(receipt) => ("unchanged", place.where_to(receipt)),
    };
    let line = format!("{word:<10} {:<20} {} {idle:<7} {place}", ip.to_string(), date(at));
    line.trim_end().to_owned()
}

fn object(place: &Place, receipt: Option<&Receipt>, (ip, at): (IpAddr, u64)) -> Value {
    let mut fields = receipt.map(|receipt| place.fields(receipt)).unwrap_or_default();
    fields.insert("action".to_owned(), json!("reap"));
    fields.insert("subject".to_owned(), json!(ip.to_string()));
    fields.insert("seen".to_owned(), json!(at));
    fields.insert("changed".to_owned(), json!(receipt.is_some_and(|receipt| receipt.changed)));
    Value::Object(fields)
}
