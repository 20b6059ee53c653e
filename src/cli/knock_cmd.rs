//! `knock`: lets this host in at a gate, without a tunnel.

use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::time::Duration;

use clap::Args;
use hyper::header::HeaderValue;
use ipnet::IpNet;
use serde_json::json;

use super::connection_args::DEFAULT_TIMEOUT;
use super::errors::UsageError;
use super::key_cmd;
use super::output::{Form, FormArgs, print};
use super::process_args::{LogArgs, SandboxArgs};
use super::times;
use super::values::Level;
use super::wish_args::whole_seconds;
use crate::addr::{Address, BindAddress, ServiceName};
use crate::duration;
use crate::gate::Member;
use crate::http::{BadUrl, CaFile, ClientTls, WebUrl};
use crate::knocker::{DEFAULT_LASTING, KnockWish};
use crate::observe::log::Output;
use crate::printable::printable;
use crate::proto::knock::Label;
use crate::run::{self, Failure, KnockAt, KnockEvent, KnockingOptions, Outcome, Prepared};
use crate::sys::keyfile::Access;
use crate::sys::tls_key;

/// Notes and examples under the flags of `knock`.
pub(super) const EXAMPLES: &str = "\
A datagram under the key goes to every address of HOST, IPv4 and IPv6; the gate lets the source of
each in that arrives, or what --address names. It is never answered, so all that can be told is whether
it left, and with --wait-for whether a port opened. A tunnel needs none of this: see --knock of
'knockpipe encrypt' and 'knockpipe pipe'.

With --keep it stays, and knocks again before the grant ends, at once when the addresses of this host
change, when it wakes up, and on SIGHUP. SIGTERM and SIGINT end it.

A knockd is knocked at with https:// and a token; it answers with what it granted, for the address
that the request came from or that --address names.

Exit status: 0 sent or granted, and with --wait-for the port opened, or --keep was stopped; 1 nothing
could be sent, it was refused, or the port did not open; 2 the command line, a key or a token is wrong;
128 + N signal N ended it without --keep.

Examples:
  Open the gate for this host, and see that the port opens:
    knockpipe knock db.example.org:6380 -k redis.key --wait-for db.example.org:6380
  For as long as this host is in use, wherever it is:
    knockpipe knock db.example.org:6380 -k redis.key --keep --label laptop
  At a knockd, whose token is in a file that only you can read:
    knockpipe knock https://knock.example.org/ --token-file token --keep
  For a colleague, for the rest of the day:
    knockpipe knock db.example.org:6380 -k redis.key --address 203.0.113.7 --ttl 8h";

/// `knockpipe knock`.
#[derive(Debug, Args)]
pub(super) struct KnockCommandArgs {
    /// Address of a decrypt end with --knock, host:port or [ip]:port; or of a knockd, https://HOST/
    #[arg(value_name = "HOST:PORT|URL")]
    gate: Receiver,

    /// Key file, or - for standard input; the first of several is used
    #[arg(short, long = "key", value_name = "FILE")]
    keys: Vec<PathBuf>,

    /// File with the token of a knockd: with https:// in the place of -k
    #[arg(long, value_name = "FILE", conflicts_with = "keys")]
    token_file: Option<PathBuf>,

    /// File with certificates (PEM) to check a knockd with instead of the system's
    #[arg(long, value_name = "FILE", requires = "token_file")]
    ca: Option<PathBuf>,

    /// Time to ask for [default: as long as the gate allows; with --keep 60s]
    #[arg(
        id = "asked_ttl", long = "ttl", value_name = "DURATION", value_parser = times::parse,
        allow_negative_numbers = true
    )]
    ttl: Option<Duration>,

    /// Address or network to let in [default: the address that the knock comes from]
    #[arg(id = "asked_address", long = "address", value_name = "NET")]
    address: Option<Member>,

    /// Gate to ask for [default: the one without a name]
    #[arg(id = "asked_gate", long = "gate", value_name = "NAME")]
    gate_name: Option<ServiceName>,

    /// Words that are shown beside the grant
    #[arg(id = "asked_label", long = "label", value_name = "TEXT")]
    label: Option<Label>,

    /// Stay, and knock again before the grant ends
    #[arg(long)]
    keep: bool,

    /// Wait until this port opens, for -o at most, and knock again meanwhile; with --keep after
    /// each knock
    #[arg(long, value_name = "HOST:PORT")]
    wait_for: Option<Place>,

    /// Time for a look-up, and for the port of --wait-for [default: 5s]
    #[arg(
        short = 'o', long, value_name = "DURATION", value_parser = times::parse,
        allow_negative_numbers = true
    )]
    timeout: Option<Duration>,

    /// Local address of datagrams and connections: ip, [ip] or [ip]:port; the port is for
    /// connections of --wait-for only
    #[arg(short, long, value_name = "ADDR")]
    bind: Option<BindAddress>,

    /// Accept a key file that its group or others can read or change
    #[arg(long)]
    allow_readable_key: bool,

    #[command(flatten)]
    form: FormArgs,

    #[command(flatten)]
    log: LogArgs,

    #[command(flatten)]
    sandbox: SandboxArgs,
}

/// The one that knocks are for.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Receiver {
    /// A gate that datagrams open.
    Gate(Place),
    /// A service of HTTP.
    Web(WebUrl),
}

impl FromStr for Receiver {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if text.contains("://") {
            return text.parse().map(Self::Web).map_err(|error: BadUrl| error.to_string());
        }
        text.parse().map(Self::Gate).map_err(|error: BadPlace| error.to_string())
    }
}

/// Flags that do not fit the receiver.
#[derive(Debug, thiserror::Error)]
enum BadSecret {
    /// A gate without a key.
    #[error(
        "there is no key to seal the datagram with; add -k FILE, or write https://HOST/ for a knockd"
    )]
    NoKey,
    /// A service without a token.
    #[error("a knockd asks for a token; add --token-file FILE")]
    NoToken,
    /// A key for a service.
    #[error("-k is for datagrams, and {0} is a knockd; give --token-file FILE in its place")]
    KeyForWeb(WebUrl),
    /// A token for a gate.
    #[error(
        "--token-file is for a knockd, and {0} gets a datagram; write https://HOST/, or give -k FILE"
    )]
    TokenForGate(Address),
    /// The file has no token.
    #[error("--token-file {file} holds no token; it has to be one line of printable characters", file = .0.display())]
    Token(PathBuf),
}

impl From<BadSecret> for Failure {
    fn from(error: BadSecret) -> Self {
        Self::Usage(error.into())
    }
}

/// A host and port that can be knocked at.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Place(Address);

/// A text that is no [`Place`].
#[derive(Debug, thiserror::Error)]
enum BadPlace {
    /// A path.
    #[error("'{0}' is a unix socket, which has no gate for addresses; write HOST:PORT")]
    Socket(String),
    /// No address.
    #[error("{0}")]
    Address(String),
}

impl FromStr for Place {
    type Err = BadPlace;

    fn from_str(text: &str) -> Result<Self, BadPlace> {
        match text.parse() {
            Ok(Address::Unix(_)) => Err(BadPlace::Socket(text.to_owned())),
            Ok(address) => Ok(Self(address)),
            Err(error) => Err(BadPlace::Address(error.to_string())),
        }
    }
}

/// Runs `knockpipe knock`.
///
/// # Errors
/// [`Failure`] of the arguments, the keys or the run.
pub(super) fn knock(args: KnockCommandArgs) -> Result<Outcome, Failure> {
    let options = args.options()?;
    let rules = args.sandbox.rules(|| run::rules_of_knock(&options));
    let prepared = Prepared::new(options.keys().into_iter(), rules);
    let level = if options.keeps { Level::Info } else { Level::Warn };
    let _log = args.log.start(level, Output::Stderr)?;
    let form = args.form.form();
    let ttl_s = options.wish.ttl_s;
    let mut failures = vec![];
    let mut report = |event: KnockEvent| {
        let is_failure = matches!(event, KnockEvent::Failed { .. } | KnockEvent::Closed { .. });
        match form {
            Form::Json => line(&json(&event, ttl_s.map(std::num::NonZeroU32::get))),
            // The log tells people of one that stays.
            Form::Text if options.keeps => Ok(()),
            Form::Text if is_failure => {
                failures.push(text(&event));
                Ok(())
            }
            Form::Text => line(&text(&event)),
        }
    };
    let done = run::knock(&options, &prepared, &mut report);
    // A single one that is the failure of all is told by that.
    if done.is_ok() || failures.len() > 1 {
        failures.iter().try_for_each(|failure| line(failure))?;
    }
    done
}

fn line(text: &str) -> Result<(), Failure> {
    print(&format!("{text}\n")).map(drop)
}

impl KnockCommandArgs {
    /// Returns the receiver, with the secret that it asks for.
    fn at(&self, access: Access) -> Result<KnockAt, Failure> {
        match &self.gate {
            Receiver::Gate(Place(target)) => {
                if self.token_file.is_some() {
                    return Err(BadSecret::TokenForGate(target.clone()).into());
                }
                if self.keys.is_empty() {
                    return Err(BadSecret::NoKey.into());
                }
                let keys = key_cmd::ring(&self.keys, access)?;
                Ok(KnockAt::Gate { target: target.clone(), keys })
            }
            Receiver::Web(url) => {
                if !self.keys.is_empty() {
                    return Err(BadSecret::KeyForWeb(url.clone()).into());
                }
                let file = self.token_file.as_ref().ok_or(BadSecret::NoToken)?;
                let ca = self.ca.as_deref().map(|path| CaFile { flag: "--ca", path });
                let tls = ClientTls::read(ca);
                let tls = tls.map_err(|error| Failure::Usage(error.into()))?;
                Ok(KnockAt::Web { url: url.clone(), token: token(file, access)?, tls })
            }
        }
    }

    fn options(&self) -> Result<KnockingOptions, Failure> {
        let access = Access { by_others: self.allow_readable_key, user: None };
        if self.timeout.is_some_and(|time| time.is_zero()) {
            let remedy = "give a time such as 5s, or leave it out";
            return Err(UsageError::ZeroSeconds { flag: "-o/--timeout", remedy }.into());
        }
        // One who stays and gets no answer asks for the time that its intervals are made for.
        let is_answered = matches!(self.gate, Receiver::Web(_));
        let ttl = self.ttl.or_else(|| (self.keep && !is_answered).then_some(DEFAULT_LASTING));
        let ttl_s = ttl.map(|ttl| whole_seconds("--ttl", ttl)).transpose()?;
        let wish = KnockWish {
            ttl_s,
            gate: self.gate_name.clone(),
            label: self.label.clone(),
            address: self.address.map(IpNet::from),
        };
        Ok(KnockingOptions {
            at: self.at(access)?,
            wish,
            bind: self.bind,
            wait_for: self.wait_for.as_ref().map(|port| port.0.clone()),
            timeout: self.timeout.unwrap_or(DEFAULT_TIMEOUT),
            keeps: self.keep,
        })
    }
}

/// Reads a token, which is one line.
fn token(file: &Path, access: Access) -> Result<HeaderValue, Failure> {
    let bytes = tls_key::read("--token-file", file, access);
    let bytes = bytes.map_err(|error| Failure::Usage(error.into()))?;
    let token = bytes.trim_ascii();
    let value = HeaderValue::from_bytes(token).ok().filter(|_| !token.is_empty());
    let mut value = value.ok_or_else(|| BadSecret::Token(file.to_owned()))?;
    value.set_sensitive(true);
    Ok(value)
}

fn text(event: &KnockEvent) -> String {
    match event {
        KnockEvent::Granted { by, entry, lasting, reason, .. } => {
            let lasting = duration::format(*lasting);
            printable(&format!("{by} let {entry} in for {lasting} ({reason})")).into_owned()
        }
        KnockEvent::Sent { to, from, reason } => format!("knocked at {to} from {from} ({reason})"),
        KnockEvent::Failed { to, error } => format!("not knocked at {to}: {error}"),
        KnockEvent::Opened(port) => format!("{port} is open"),
        KnockEvent::Closed { port, .. } => format!("{port} is closed"),
    }
}

fn json(event: &KnockEvent, ttl_s: Option<u32>) -> String {
    let value = match event {
        KnockEvent::Granted { by, entry, lasting, expires_at, reason } => {
            let (lasting_s, reason) = (lasting.as_secs(), reason.as_str());
            json!({
                "event": "granted", "by": by, "address": entry, "lasting_s": lasting_s,
                "expires_at": expires_at, "reason": reason
            })
        }
        KnockEvent::Sent { to, from, reason } => {
            let (to, from, reason) = (to.to_string(), from.to_string(), reason.as_str());
            json!({"event": "sent", "to": to, "from": from, "reason": reason, "ttl_s": ttl_s})
        }
        KnockEvent::Failed { to, error } => json!({"event": "failed", "to": to, "error": error}),
        KnockEvent::Opened(port) => json!({"event": "opened", "port": port}),
        KnockEvent::Closed { port, error } => {
            json!({"event": "closed", "port": port, "error": error})
        }
    };
    value.to_string()
}

#[cfg(test)]
mod tests {
    use std::net::IpAddr;

    use super::*;
    use crate::observe::KnockReason;

    #[test]
    fn only_a_host_with_a_port_can_be_knocked_at() {
        for right in ["db.example.org:6380", "[2001:db8::1]:6380", "203.0.113.1:6380"] {
            assert!(right.parse::<Place>().is_ok(), "{right}");
        }
        for (wrong, said) in [("/run/socket", "is a unix socket"), ("db.example.org", "port")] {
            let error = wrong.parse::<Place>().unwrap_err().to_string();
            assert!(error.contains(said) && error.contains("; "), "{error}");
        }
    }

    #[test]
    fn a_line_says_what_happened() {
        let to = "203.0.113.1:6380".parse().unwrap();
        let from: IpAddr = "192.0.2.7".parse().unwrap();
        let event = KnockEvent::Sent { to, from, reason: KnockReason::Start };
        assert_eq!(text(&event), "knocked at 203.0.113.1:6380 from 192.0.2.7 (start)");
        let line: serde_json::Value = serde_json::from_str(&json(&event, Some(60))).unwrap();
        assert_eq!(line["event"], "sent");
        assert_eq!(line["ttl_s"], 60);
    }
}
