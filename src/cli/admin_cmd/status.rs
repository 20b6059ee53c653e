//! `knockpipe status`: all tunnels of a process in one line each, or all about one.

use std::collections::HashMap;
use std::thread::sleep;
use std::time::{Duration, Instant};

use clap::Args;
use serde_json::{Value, json};

use super::overview::overview;
use super::rates::Rates;
use super::view;
use super::{AskArgs, BETWEEN_LOOKS, known};
use crate::admin::protocol::{StatusReply, TunnelReply};
use crate::cli::errors::UsageError;
use crate::cli::output::{Screen, clear, print};
use crate::cli::{Done, times};
use crate::run::Failure;

/// The text under the flags of `status`.
pub(in crate::cli) const STATUS_EXAMPLES: &str = "\
One line for each tunnel, what is wrong first; of a single one all that there is to say. A terminal
gets as many lines as it has, none longer than it is wide. Rates are measured over half a second, or
between two looks of --watch.

Examples:
  knockpipe status --admin /run/knockpipe/admin.sock
  knockpipe status --tunnel redis
  knockpipe status --watch
  knockpipe status --json | jq '.tunnels[].sessions'";

/// `knockpipe status`.
#[derive(Debug, Args)]
pub(in crate::cli) struct StatusArgs {
    /// Show all about this tunnel
    #[arg(long, value_name = "NAME")]
    tunnel: Option<String>,

    /// Show every tunnel, even if the terminal has fewer lines
    #[arg(long, conflicts_with = "tunnel")]
    all: bool,

    /// Repeat at this interval [default: 2s]
    #[arg(
        long, value_name = "DURATION", value_parser = times::parse, num_args = 0..=1,
        default_missing_value = "2s", allow_negative_numbers = true
    )]
    watch: Option<Duration>,

    #[command(flatten)]
    ask: AskArgs,
}

/// State of a process at one moment.
struct Look {
    at: Instant,
    status: StatusReply,
}

/// Shows the state of a process.
///
/// # Errors
/// [`Failure`] of the arguments or the process.
pub(in crate::cli) fn status(args: &StatusArgs) -> Result<Done, Failure> {
    if args.watch.is_some_and(|every| every.is_zero()) {
        let remedy = "give a time such as 2s";
        return Err(UsageError::ZeroSeconds { flag: "--watch", remedy }.into());
    }
    let mut before = args.look()?;
    let mut pause = BETWEEN_LOOKS;
    loop {
        sleep(pause);
        let now = args.look()?;
        let is_read = args.show(&now.status, &now.rates(&before))?;
        match args.watch {
            Some(every) if is_read => (before, pause) = (now, every),
            _ => return Ok(Done::Clean),
        }
    }
}

impl StatusArgs {
    fn look(&self) -> Result<Look, Failure> {
        let mut status = self.ask.status()?;
        if let Some(tunnel) = &self.tunnel {
            known(&status, tunnel)?;
            status.tunnels.retain(|one| one.name == *tunnel);
        }
        Ok(Look { at: Instant::now(), status })
    }

    /// Prints a look. Returns false once the output has no reader.
    fn show(&self, status: &StatusReply, rates: &HashMap<&str, Rates>) -> Result<bool, Failure> {
        let screen = Screen::of_stdout();
        if self.watch.is_some() && !self.ask.is_json() && screen.is_some() {
            clear()?;
        }
        let details = |tunnel: &TunnelReply| view::tunnel(tunnel, rates.get(&*tunnel.name));
        let text = |status: &StatusReply| match (&self.tunnel, &status.tunnels[..]) {
            (Some(_), tunnels) => tunnels.iter().map(details).collect(),
            // A single tunnel: there is nothing to choose.
            (None, [only]) => overview(status, rates, screen, self.all) + "\n" + &details(only),
            (None, _) => overview(status, rates, screen, self.all),
        };
        print(&self.ask.form(status, |status| with_rates(status, rates), text))
    }
}

impl Look {
    /// Computes the rates of each tunnel since `before`; none where it is another process.
    fn rates<'a>(&'a self, before: &Self) -> HashMap<&'a str, Rates> {
        if self.status.pid != before.status.pid {
            return HashMap::new();
        }
        let time = self.at.duration_since(before.at);
        let before: HashMap<&str, &TunnelReply> =
            before.status.tunnels.iter().map(|tunnel| (&*tunnel.name, tunnel)).collect();
        let both =
            self.status.tunnels.iter().filter_map(|now| Some((now, *before.get(&*now.name)?)));
        both.map(|(now, old)| (&*now.name, Rates::between(old, now, time))).collect()
    }
}

/// Returns the answer as it came, with the rates beside the counts.
fn with_rates(status: &StatusReply, rates: &HashMap<&str, Rates>) -> Value {
    let mut value = json!(status);
    let tunnels = value["tunnels"].as_array_mut().into_iter().flatten();
    for (shown, tunnel) in tunnels.zip(&status.tunnels) {
        if let Some(Rates { accepted, sent, received }) = rates.get(&*tunnel.name) {
            shown["accepted_per_s"] = json!(accepted);
            shown["sent_per_s"] = json!(sent);
            shown["received_per_s"] = json!(received);
        }
    }
    value
}
