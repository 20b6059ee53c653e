//! The lines of the admin socket: one JSON request, one JSON reply.
//!
//! ```text
//!   {"command":"who","tunnel":"redis"}   ->  {"who":{"sessions":[...],"more":0}}
//!   {"command":"kick","id":7}            ->  {"kicked":1}
//!   anything wrong                       ->  {"error":"cause; remedy"}
//! ```
//!
//! Both ends use these types. A field that a request does not have is an error,
//! so that a misspelt filter never means "all".

mod firewall;
mod gates;
mod memory;
mod reloaded;

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};

pub use firewall::FirewallReply;
pub use gates::{GatePlace, RuleReply, WhyReply};
pub use memory::{EditReply, EditRequest, EntriesReply};
pub use reloaded::{ChangedReply, ReloadReply, ReloadedReply, listed};
use serde::{Deserialize, Serialize};

use crate::gate::store::StoreError;
use crate::observe::Selector;
use crate::service::Kind;
use crate::tunnel::Level;

/// Longest request in bytes, its end of line included.
pub(super) const MAX_REQUEST: usize = 4_096;

/// Most sessions in one reply.
pub(super) const MAX_SESSIONS: usize = 10_000;

/// Most entries of a gate in one reply.
pub(super) const MAX_ENTRIES: usize = 10_000;

/// Longest reply in bytes that a client reads: [`MAX_SESSIONS`] with the longest possible names.
pub(super) const MAX_REPLY: usize = 16 << 20;

/// A request or a command.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "command", rename_all = "lowercase", deny_unknown_fields)]
pub enum Request {
    /// Status of the process.
    Status {},
    /// Lists the live sessions that match all of these.
    Who {
        /// Only of this tunnel.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        tunnel: Option<String>,
        /// Only from this address: IP, or IP:PORT.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        peer: Option<String>,
    },
    /// End sessions, chosen by exactly one of these.
    Kick {
        /// The one of this number.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        id: Option<u64>,
        /// Those from this address: IP, or IP:PORT.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        peer: Option<String>,
        /// Those of this tunnel.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        tunnel: Option<String>,
        /// Those under this key.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        key: Option<String>,
    },
    /// Lists the gates, and the places of their stores.
    Gates {
        /// Only of this tunnel.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        tunnel: Option<String>,
    },
    /// Explains the current decisions of the gates about an address.
    Why {
        /// The address; `unknown` for a client without one.
        address: String,
        /// It is from a PROXY header.
        #[serde(default)]
        announced: bool,
        /// The gate of this tunnel.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        tunnel: Option<String>,
    },
    /// Lists what the gate of this tunnel has in the memory of the process.
    Entries {
        /// The tunnel.
        tunnel: String,
    },
    /// Changes what the gate of this tunnel has in the memory of the process.
    Change {
        /// The tunnel.
        tunnel: String,
        /// The change.
        edit: EditRequest,
    },
    /// Read the configuration again.
    Reload {},
    /// Accept no more connections, and end when the present ones have ended.
    Drain {},
}

/// Reply to a request.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Reply {
    /// To `status`.
    Status(Box<StatusReply>),
    /// To `who`.
    Who(WhoReply),
    /// To `kick`: the number of sessions that end.
    Kicked(usize),
    /// To `reload`, when it was done.
    Reloaded(ReloadedReply),
    /// To `gates`.
    Gates(Vec<GatePlace>),
    /// To `why`: for each tunnel with a gate.
    Why(Vec<WhyReply>),
    /// To `entries`.
    Entries(EntriesReply),
    /// To `change`.
    Changed(EditReply),
    /// To another command: the result.
    Done(String),
    /// Reason for a refused request.
    Error(String),
}

/// Status of a process.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct StatusReply {
    /// Version of the program.
    pub version: String,
    /// Process id.
    pub pid: u32,
    /// Seconds since it started.
    pub uptime_s: u64,
    /// `starting`, `ready`, `not ready` or `draining`.
    pub state: String,
    /// Reason why it is not ready.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub why: Option<String>,
    /// Open descriptors; `None` when the system does not report them.
    pub descriptors: Option<u64>,
    /// Limit of open descriptors.
    pub descriptor_limit: u64,
    /// Outcome of the last reload.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reload: Option<ReloadReply>,
    /// The tunnels by name.
    pub tunnels: Vec<TunnelReply>,
}

/// Status of a tunnel.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct TunnelReply {
    /// Its name.
    pub name: String,
    /// Kind of the service: `tunnel`.
    #[serde(default)]
    pub kind: Kind,
    /// `encrypt` or `decrypt`.
    pub mode: String,
    /// `serving` or `draining`.
    pub state: String,
    /// Addresses that it listens on.
    pub listeners: Vec<String>,
    /// Targets that it forwards to, by service and in order.
    pub targets: Vec<TargetReply>,
    /// Ids of its keys, in order.
    pub keys: Vec<String>,
    /// Sessions.
    pub sessions: Level,
    /// Connections that have proven nothing.
    pub handshakes: Level,
    /// Tunnels that wait to be opened (decrypt only).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub unopened: Option<Level>,
    /// The pool (encrypt only).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pool: Option<PoolReply>,
    /// The gate.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub gate: Option<GateReply>,
    /// The firewall that it keeps.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub firewall: Option<FirewallReply>,
    /// The receiver of knocks.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub knocks: Option<KnocksReply>,
    /// The knocks that it sends.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub knocks_sent: Option<SentKnocksReply>,
    /// Its problems, the worst first.
    #[serde(default)]
    pub wrong: Vec<WrongReply>,
    /// Connections accepted so far.
    pub accepted: u64,
    /// Number of connections that ended with their own log line, by reason.
    pub closed: BTreeMap<String, u64>,
    /// Number of connections that ended before their peer was known, by reason.
    pub refused: BTreeMap<String, u64>,
    /// Stream bytes from the plain side to the sealed side.
    pub sent: u64,
    /// Stream bytes from the sealed side to the plain side.
    pub received: u64,
}

/// A problem of a tunnel.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct WrongReply {
    /// The problem, in stable words.
    pub what: String,
    /// True if new connections do not get through.
    pub broken: bool,
    /// Details of this case.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub detail: Option<String>,
}

/// Status of a target.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TargetReply {
    /// The service that it is for, if it has a name.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub service: Option<String>,
    /// Its address as it was written.
    pub target: String,
    /// `up`, `down`, or `unknown` until it was tried; none where it is not checked.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub state: Option<String>,
    /// Seconds since the state began.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub since_s: Option<u64>,
    /// Seconds since which connections to it fail, where it has no state; none after a success.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub failing_s: Option<u64>,
    /// True if new connections try it first.
    pub in_use: bool,
    /// Cause of its last failure, also when it is up again.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_error: Option<String>,
}

/// Status of a pool.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PoolReply {
    /// Tunnels that are ready.
    pub warm: usize,
    /// Wanted number of tunnels.
    pub size: usize,
    /// Clients that got one.
    pub taken: u64,
    /// Clients that found none.
    pub missed: u64,
    /// Tunnels that could not be made, or that the far end ended.
    pub failed: u64,
}

/// Status of a gate.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct GateReply {
    /// `fresh`, `stale`, `open` or `closed`.
    pub stance: String,
    /// Addresses in the allow-set.
    pub addresses: usize,
    /// Networks in the allow-set.
    pub networks: usize,
    /// Banned addresses.
    pub bans: usize,
    /// Seconds since the store was last read completely.
    pub since_read_s: Option<u64>,
    /// The reason why the store is unavailable; `None` while it is not.
    #[serde(default)]
    pub unavailable: Option<String>,
    /// Connections that were denied.
    pub denied: u64,
    /// Connections that were allowed and then revoked.
    pub revoked: u64,
    /// Failed handshakes noted.
    pub strikes: u64,
    /// Bans made of those.
    pub bans_made: u64,
}

/// Status of a receiver of knocks.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct KnocksReply {
    /// Addresses that it receives at.
    pub listeners: Vec<String>,
    /// Datagrams by what became of them.
    pub results: BTreeMap<String, u64>,
}

/// Knocks that an end has sent to its far ends.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SentKnocksReply {
    /// Those that left this host, by reason.
    pub sent: BTreeMap<String, u64>,
    /// Those that did not.
    pub failed: u64,
}

/// The requested live sessions.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct WhoReply {
    /// Oldest first.
    pub sessions: Vec<SessionReply>,
    /// Number of further sessions that do not fit into a reply.
    pub more: usize,
}

/// A live session.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SessionReply {
    /// Its number.
    pub id: u64,
    /// The tunnel's name.
    pub tunnel: String,
    /// The peer that connected to this end.
    pub peer: String,
    /// At the decrypt end, the client that connected to the encrypt end.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub client: Option<String>,
    /// The address that this end forwards to.
    pub target: String,
    /// The service that was asked for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub service: Option<String>,
    /// The key's id.
    pub key: String,
    /// The record suite.
    pub suite: String,
    /// Milliseconds since it began to relay.
    pub age_ms: u64,
    /// Stream bytes from the plain side to the sealed side.
    pub sent: u64,
    /// Stream bytes from the sealed side to the plain side.
    pub received: u64,
}

/// Fault of a request.
#[derive(Debug, thiserror::Error)]
pub enum RequestError {
    /// More than [`MAX_REQUEST`].
    #[error(
        "the request is longer than {MAX_REQUEST} bytes; send one line of JSON as docs/operating/admin-socket.md has it"
    )]
    TooLong,
    /// No JSON, or not of a request.
    #[error("this is not a request: {0}; see docs/operating/admin-socket.md")]
    Unreadable(#[from] serde_json::Error),
    /// No IP address.
    #[error("\"{0}\" is not an address of a peer; give IP or IP:PORT")]
    Peer(String),
    /// No IP address.
    #[error("\"{0}\" is not an address; give one such as 203.0.113.7, or unknown")]
    Address(String),
    /// No such tunnel.
    #[error("there is no tunnel '{0}'; choose one of: {1}")]
    NoTunnel(String, String),
    /// There is no gate to ask.
    #[error(
        "{0} no gate, so every holder of the key is admitted; start it with --gate, --allow or --deny"
    )]
    NoGate(String),
    /// The store of a gate is not here.
    #[error(
        "the gate of tunnel {0} is not in the memory of the process; its store is what 'gates' says"
    )]
    NotInMemory(String),
    /// No change of a gate.
    #[error("this is no change of a gate; see docs/operating/admin-socket.md")]
    Change,
    /// The store refused a change.
    #[error("{0}")]
    Store(#[from] StoreError),
    /// No key id.
    #[error("\"{0}\" is not a key id; give the 8 hex digits that knockpipe key-id prints")]
    Key(String),
    /// None, or more than one.
    #[error("choose the sessions to end by exactly one of id, peer, tunnel and key")]
    NotOne,
}

/// Parses the selector of an address: IP, or IP:PORT.
///
/// # Errors
/// [`RequestError::Peer`]
pub fn peer(text: &str) -> Result<Selector, RequestError> {
    let bare = text.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')).unwrap_or(text);
    let ip = bare.parse::<IpAddr>().map(Selector::Ip);
    let selector = ip.or_else(|_| text.parse::<SocketAddr>().map(Selector::Peer));
    selector.map_err(|_| RequestError::Peer(text.to_owned()))
}

/// Parses the selector of a key.
///
/// # Errors
/// [`RequestError::Key`]
pub fn key(text: &str) -> Result<Selector, RequestError> {
    let is_id = text.len() == 8 && text.bytes().all(|byte| byte.is_ascii_hexdigit());
    let id = text.to_ascii_lowercase();
    if is_id { Ok(Selector::Key(id)) } else { Err(RequestError::Key(text.to_owned())) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_reads_as_it_is_written() {
        let text = r#"{"command":"who","tunnel":"redis"}"#;
        let who = Request::Who { tunnel: Some("redis".to_owned()), peer: None };
        assert_eq!(serde_json::from_str::<Request>(text).unwrap(), who);
        assert_eq!(serde_json::to_string(&who).unwrap(), text);
        let status = serde_json::to_string(&Request::Status {}).unwrap();
        assert_eq!(status, r#"{"command":"status"}"#);
    }

    #[test]
    fn a_misspelt_field_is_refused() {
        for text in [
            r#"{"command":"who","tunel":"redis"}"#,
            r#"{"command":"kick","ids":1}"#,
            r#"{"command":"drain","now":true}"#,
            r#"{"command":"stop"}"#,
            r#"{"command":"kick","id":-1}"#,
            "[]",
        ] {
            assert!(serde_json::from_str::<Request>(text).is_err(), "{text}");
        }
    }

    #[test]
    fn addresses_and_keys_are_checked() {
        assert_eq!(peer("192.0.2.1").unwrap(), Selector::Ip("192.0.2.1".parse().unwrap()));
        assert_eq!(peer("[::1]").unwrap(), peer("::1").unwrap());
        assert_eq!(peer("[::1]:5").unwrap(), Selector::Peer("[::1]:5".parse().unwrap()));
        assert!(peer("localhost").is_err() && peer("").is_err());
        assert_eq!(key("00FFaa11").unwrap(), Selector::Key("00ffaa11".to_owned()));
        assert!(key("00ffaa1").is_err() && key("00ffaa1g").is_err());
    }
}
