//! `knockpipe status`, `who`, `kick`, `reload` and `drain`: requests to a running process over
//! its admin socket.
//!
//! Each command is one request with one answer, `who` and `status` two, since a rate is the change
//! between them. Nothing here knows how an answer is made.

mod overview;
mod rates;
mod status;
mod view;

use std::path::{Path, PathBuf};
use std::thread::sleep;
use std::time::Duration;

use anyhow::anyhow;
use clap::{ArgGroup, Args};
use nix::unistd::Uid;
use serde_json::{Value, json};

use self::view::{Rated, rated};
use super::Done;
use super::output::{Form, FormArgs, notice, print};
use crate::admin::client::{AskError, PeerReply, ask, ask_with_peer};
use crate::admin::protocol::{
    self, ReloadedReply, Reply, Request, RequestError, StatusReply, WhoReply, listed,
};
use crate::printable::{printable, printable_json};
use crate::run::Failure;
use crate::sys::privileges::uid_of;

pub(super) use self::status::{STATUS_EXAMPLES, StatusArgs, status};

/// Default path of a process's admin socket.
const DEFAULT_PATH: &str = "/run/knockpipe/admin.sock";

/// Time between the two looks that a rate needs.
const BETWEEN_LOOKS: Duration = Duration::from_millis(500);

/// Examples under the flags of `who`.
pub(super) const WHO_EXAMPLES: &str = "\
One line for each live connection. With --json one object for each, with bytes and milliseconds.

Examples:
  knockpipe who --tunnel redis
  knockpipe who --peer 203.0.113.7 --json";

/// Examples under the flags of `kick`.
pub(super) const KICK_EXAMPLES: &str = "\
Ends live connections; the far end hears the same as when this end shuts down. A kicked client may
reconnect: to keep its address out, see 'knockpipe gate deny'.

Examples:
  knockpipe kick 17
  knockpipe kick --peer 203.0.113.7
  knockpipe kick --key 1f2e3d4c

Exit status: 0 ended, 1 failed at run time, 2 wrong usage or no such tunnel, 3 no such connection.";

/// Examples under the flags of `reload`.
pub(super) const RELOAD_EXAMPLES: &str = "\
Like SIGHUP. Prints the tunnels that were added, changed (with their settings) and removed, and the
settings of [process] that need a restart; a file with an error changes nothing, and the error is
printed.

Example:
  knockpipe reload";

/// Examples under the flags of `drain`.
pub(super) const DRAIN_EXAMPLES: &str = "\
Like SIGTERM: no new connections are accepted, and the process ends once the open ones have ended,
or at its --drain deadline.

Example:
  knockpipe drain";

/// The process to ask, and the form of its answer.
#[derive(Debug, Args)]
pub(super) struct AskArgs {
    /// The process's --admin
    #[arg(long, value_name = "PATH", default_value = DEFAULT_PATH)]
    admin: PathBuf,

    /// The user that the process runs as, unless it is root or you
    #[arg(id = "admin_user", long = "user", value_name = "USER", value_parser = uid_of)]
    user: Option<Uid>,

    #[command(flatten)]
    form: FormArgs,
}

/// `knockpipe who`.
#[derive(Debug, Args)]
pub(super) struct WhoArgs {
    /// Only connections of this tunnel
    #[arg(long, value_name = "NAME")]
    tunnel: Option<String>,

    /// Only connections from this address: IP, or IP:PORT
    #[arg(long, value_name = "ADDR", value_parser = peer)]
    peer: Option<String>,

    #[command(flatten)]
    ask: AskArgs,
}

/// `knockpipe kick`.
#[derive(Debug, Args)]
#[command(group = ArgGroup::new("selector").required(true).args(["id", "peer", "tunnel", "key_id"]))]
pub(super) struct KickArgs {
    /// The connection of this id, as 'knockpipe who' shows it
    #[arg(value_name = "ID", value_parser = connection)]
    id: Option<u64>,

    /// All connections from this address: IP, or IP:PORT
    #[arg(long, value_name = "ADDR", value_parser = peer)]
    peer: Option<String>,

    /// All connections of this tunnel
    #[arg(long, value_name = "NAME")]
    tunnel: Option<String>,

    /// All connections under the key of this id, as 'knockpipe key-id' prints it
    #[arg(id = "key_id", long = "key", value_name = "ID", value_parser = key)]
    key: Option<String>,

    #[command(flatten)]
    ask: AskArgs,
}

/// `knockpipe reload` and `knockpipe drain`.
#[derive(Debug, Args)]
pub(super) struct OrderArgs {
    #[command(flatten)]
    ask: AskArgs,
}

/// Lists live connections.
///
/// # Errors
/// [`Failure`] of the process.
pub(super) fn who(args: &WhoArgs) -> Result<Done, Failure> {
    let request = Request::Who { tunnel: args.tunnel.clone(), peer: args.peer.clone() };
    let look = || match args.ask.ask(&request)? {
        Reply::Who(reply) => Ok(reply),
        _ => Err(unexpected_reply()),
    };
    let before: WhoReply = look()?;
    if let Some(tunnel) = args.tunnel.as_ref().filter(|_| before.sessions.is_empty()) {
        args.ask.refuse_unknown(tunnel)?;
    }
    sleep(BETWEEN_LOOKS);
    let WhoReply { sessions, more } = look()?;
    let sessions = rated(&before.sessions, sessions);
    let lines = |sessions: &Vec<Rated>| {
        let json = |one| printable_json(&json!(one).to_string()).into_owned();
        sessions.iter().map(|one| format!("{}\n", json(one))).collect::<String>()
    };
    let text = if args.ask.is_json() { lines(&sessions) } else { view::who(&sessions) };
    print(&text)?;
    if more > 0 {
        notice(&format!("{more} more are not shown; choose with --tunnel or --peer"));
    }
    Ok(Done::Clean)
}

/// Ends connections.
///
/// # Errors
/// [`Failure`] of the process.
pub(super) fn kick(args: KickArgs) -> Result<Done, Failure> {
    let KickArgs { id, peer, tunnel, key, ask } = args;
    let request = Request::Kick { id, peer, tunnel: tunnel.clone(), key };
    let Reply::Kicked(kicked) = ask.ask(&request)? else { return Err(unexpected_reply()) };
    if let Some(tunnel) = tunnel.filter(|_| kicked == 0) {
        ask.refuse_unknown(&tunnel)?;
    }
    let json = |kicked: &usize| json!({ "kicked": kicked });
    print(&ask.form(&kicked, json, |kicked| match kicked {
        0 => "no such connection\n".to_owned(),
        1 => "1 connection ends\n".to_owned(),
        many => format!("{many} connections end\n"),
    }))?;
    Ok(if kicked == 0 { Done::Unchanged } else { Done::Clean })
}

/// Orders a process to read its configuration again.
///
/// # Errors
/// [`Failure`] of the process, also when nothing was changed.
pub(super) fn reload(args: &OrderArgs) -> Result<Done, Failure> {
    let ask = &args.ask;
    match ask.ask(&Request::Reload {})? {
        Reply::Reloaded(changes) => {
            let json = |changes: &ReloadedReply| json!({ "reloaded": changes });
            print(&ask.form(&changes, json, |changes| format!("{changes}\n")))?;
            Ok(Done::Clean)
        }
        reply => done(ask, &reply),
    }
}

/// Orders a process to end once its connections have.
///
/// # Errors
/// [`Failure`] of the process.
pub(super) fn drain(args: &OrderArgs) -> Result<Done, Failure> {
    done(&args.ask, &args.ask.ask(&Request::Drain {})?)
}

fn done(ask: &AskArgs, reply: &Reply) -> Result<Done, Failure> {
    let Reply::Done(done) = reply else { return Err(unexpected_reply()) };
    print(&ask.form(&done, |done| json!({ "done": done }), |done| format!("{done}\n")))?;
    Ok(Done::Clean)
}

impl AskArgs {
    fn ask(&self, request: &Request) -> Result<Reply, Failure> {
        let reply =
            ask(&self.admin, self.user, request).map_err(|error| Failure::Runtime(error.into()))?;
        // JSON escapes it by itself, so the values stay unchanged.
        if self.is_json() { Ok(reply) } else { Ok(printable_reply(&reply)) }
    }

    fn status(&self) -> Result<StatusReply, Failure> {
        match self.ask(&Request::Status {})? {
            Reply::Status(status) => Ok(*status),
            _ => Err(unexpected_reply()),
        }
    }

    /// Refuses the name of a tunnel that does not exist: an empty result would mislead.
    fn refuse_unknown(&self, tunnel: &str) -> Result<(), Failure> {
        known(&self.status()?, tunnel)
    }

    fn form<T>(
        &self,
        reply: &T,
        json: impl FnOnce(&T) -> Value,
        text: impl FnOnce(&T) -> String,
    ) -> String {
        match self.is_json() {
            true => format!("{}\n", printable_json(&json(reply).to_string())),
            false => text(reply),
        }
    }

    fn is_json(&self) -> bool {
        self.form.form() == Form::Json
    }
}

/// Replaces characters of a reply that cannot be seen.
fn printable_reply(reply: &Reply) -> Reply {
    let shown = serde_json::to_value(reply).map(|mut value| {
        make_printable(&mut value);
        value
    });
    let shown = shown.and_then(serde_json::from_value);
    shown.expect("an answer that was read can be written, and texts stay texts")
}

fn make_printable(value: &mut Value) {
    match value {
        Value::String(text) => *text = printable(text).into_owned(),
        Value::Array(all) => all.iter_mut().for_each(make_printable),
        Value::Object(fields) => {
            let shown = std::mem::take(fields).into_iter().map(|(name, mut value)| {
                make_printable(&mut value);
                (printable(&name).into_owned(), value)
            });
            *fields = shown.collect();
        }
        Value::Null | Value::Bool(_) | Value::Number(_) => {}
    }
}

fn peer(text: &str) -> Result<String, RequestError> {
    protocol::peer(text).map(|_| text.to_owned())
}

/// A word that is not an id of a connection.
#[derive(Debug, thiserror::Error)]
#[error("'{text}' is not an id of a connection; write {meant}")]
struct NoId {
    text: String,
    meant: String,
}

fn connection(text: &str) -> Result<u64, NoId> {
    text.parse().map_err(|_| {
        let is_name = |c: char| c.is_ascii_alphanumeric() || "-_.".contains(c);
        let meant = match text {
            "all" | "everybody" | "*" => {
                "--tunnel NAME for all of a tunnel, or end them all with 'knockpipe drain'"
                    .to_owned()
            }
            _ if protocol::peer(text).is_ok() => format!("--peer {text}"),
            _ if protocol::key(text).is_ok() => format!("--key {text}"),
            _ if text.starts_with(|c: char| c.is_ascii_alphabetic())
                && text.chars().all(is_name) =>
            {
                format!("--tunnel {text} for a tunnel, or an id that 'knockpipe who' shows")
            }
            _ => "one that 'knockpipe who' shows, or --peer, --tunnel or --key".to_owned(),
        };
        NoId { text: text.to_owned(), meant }
    })
}

fn key(text: &str) -> Result<String, RequestError> {
    protocol::key(text).map(|_| text.to_owned())
}

/// # Errors
/// [`Failure::Usage`] where there is no such tunnel, with the names of the existing ones.
fn known(status: &StatusReply, tunnel: &str) -> Result<(), Failure> {
    let names: Vec<String> = status.tunnels.iter().map(|one| one.name.clone()).collect();
    if names.iter().any(|name| name == tunnel) {
        return Ok(());
    }
    let remedy = match names.is_empty() {
        true => "there is none yet, it is starting".to_owned(),
        false => format!("choose one of: {}", listed(&names)),
    };
    Err(Failure::Usage(anyhow!("there is no tunnel '{tunnel}'; {remedy}")))
}

/// Asks the process with its admin socket at `path`, for another command.
///
/// # Errors
/// [`Failure`] of the process.
pub(super) fn ask_at(
    path: &Path,
    user: Option<Uid>,
    request: &Request,
) -> Result<PeerReply, Failure> {
    ask_with_peer(path, user, request).map_err(|error| Failure::Runtime(error.into()))
}

/// Makes the error about an answer of the wrong kind.
pub(super) fn unexpected_reply() -> Failure {
    let error = AskError::Refused(
        "the process answers another question; use the program that runs there".to_owned(),
    );
    Failure::Runtime(anyhow!(error))
}
