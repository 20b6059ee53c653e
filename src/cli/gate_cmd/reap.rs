//! `reap`: forgets who was not seen for long.

use std::time::Duration;

use clap::Args;
use serde_json::{Value, json};

use super::super::Done;
use super::CommonArgs;
use super::list::read_history;
use super::output::{date, left, remark};
use super::place::{Absent, Place, now_ms};
use crate::duration;
use crate::gate::store::Edit;
use crate::run::Failure;

/// `gate reap`.
#[derive(Debug, Args)]
pub(super) struct ReapArgs {
    /// Who was last let in before so long, such as 30d
    #[arg(long, value_name = "DURATION", value_parser = duration::parse)]
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
    let now = now_ms() / 1000;
    let limit = now.saturating_sub(args.idle.as_secs());
    let (mut seen, _) = read_history(&place).await?;
    seen.retain(|(_, at)| *at < limit);
    seen.sort_unstable_by_key(|(ip, at)| (*at, *ip));
    let mut changed = args.dry_run && !seen.is_empty();
    for (ip, at) in seen {
        let idle = left(Some(Duration::from_secs(now.saturating_sub(at))));
        let mut fields = serde_json::Map::new();
        let (word, place) = if args.dry_run {
            ("would-reap", String::new())
        } else {
            let receipt = place.edit(Edit::Forget(ip)).await?;
            changed |= receipt.changed;
            fields = place.fields(&receipt);
            ("reaped", format!(" {}", place.where_to(&receipt)))
        };
        fields.insert("action".to_owned(), json!("reap"));
        fields.insert("subject".to_owned(), json!(ip.to_string()));
        fields.insert("seen".to_owned(), json!(at));
        fields.insert("changed".to_owned(), json!(!args.dry_run));
        output.say(
            || format!("{word:<10} {:<20} {} {idle:<7}{place}", ip.to_string(), date(at)),
            || Value::Object(fields),
        )?;
    }
    output.finish()?;
    if !changed {
        remark("nobody was idle for that long");
    }
    Ok(if changed { Done::Clean } else { Done::Unchanged })
}
