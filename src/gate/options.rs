//! The options of a gate. The command line builds them; nothing here depends on
//! their origin.

use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

use super::any_store::AnyStore;
use super::embedded_store::EmbeddedStore;
use super::memory_store::MemoryStore;
use super::redis_store::{RedisOptions, RedisStore};
use super::rules::Rules;
use super::store::StoreError;
use super::strikes::BanAfter;

/// All options of one gate.
#[derive(Clone, Debug, PartialEq)]
pub struct GateOptions {
    /// The store of the allow-set, bans and history.
    pub store: StoreOptions,
    /// The rules besides the store.
    pub rules: Rules,
    /// The treatment of denied peers.
    pub denied: Denied,
    /// The treatment of live connections that would not be admitted any more.
    pub on_revoke: OnRevoke,
    /// The number of failed handshakes that make a ban; `None` counts none.
    pub ban_after: Option<BanAfter>,
    /// The time after which unused addresses are removed; `None` removes none.
    pub reap_idle: Option<Duration>,
    /// The name of the store, for other processes that request it.
    pub named: StoreName,
}

/// The name of a store, by which another process finds it: no secret is in it.
#[derive(Clone, Debug, Default)]
pub struct StoreName {
    /// The flags of the command line that name it; paths are absolute.
    pub arguments: Vec<String>,
    /// True if the password came from the environment, which other processes do not have.
    pub has_password_of_environment: bool,
}

impl StoreName {
    /// The flag of the file that the password is in.
    fn credentials(&self) -> Option<&String> {
        self.arguments.iter().find(|argument| argument.starts_with("--gate-credentials="))
    }
}

/// Equal if the password is in the same place: the rest is compared with the store
/// itself, since one store can be written in several ways.
impl PartialEq for StoreName {
    fn eq(&self, other: &Self) -> bool {
        self.credentials() == other.credentials()
            && self.has_password_of_environment == other.has_password_of_environment
    }
}

/// The kind of store.
#[derive(Clone, Debug, PartialEq)]
pub enum StoreOptions {
    /// None: static networks and internal addresses only.
    None,
    /// In Redis.
    Redis(Box<RedisOptions>),
    /// In a file on local disk.
    File(PathBuf),
    /// In the memory of this process, under the name of its gate: gates of one name share one.
    Memory(String),
}

/// The treatment of a denied peer, which never gets a byte.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Denied {
    /// Closes the connection.
    #[default]
    Close,
    /// Resets it.
    Reset,
    /// Stays silent until the handshake deadline, as towards a peer without a key.
    Tarpit,
}

/// The treatment of live connections on removal, ban and expiry.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum OnRevoke {
    /// They are ended at once.
    #[default]
    Close,
    /// They may finish within the time of a drain, and are ended then.
    Drain,
    /// They go on; only new ones are denied.
    Keep,
}

/// A text that is none of the choices.
#[derive(Debug, thiserror::Error)]
#[error("'{text}' is not valid; use {choices}")]
pub struct UnknownChoice {
    text: String,
    choices: &'static str,
}

impl StoreOptions {
    /// The most connections that the store takes.
    pub fn most_connections(&self) -> usize {
        match self {
            Self::Redis(options) => options.most_connections(),
            Self::None | Self::File(_) | Self::Memory(_) => 0,
        }
    }

    /// Opens the store. A file is opened here, Redis is not connected to yet.
    ///
    /// # Errors
    /// [`StoreError`] when the file cannot be used.
    pub fn open(self) -> Result<AnyStore, StoreError> {
        Ok(match self {
            Self::None => AnyStore::None,
            Self::Redis(options) => AnyStore::Redis(Box::new(RedisStore::new(*options))),
            Self::File(path) => AnyStore::Embedded(EmbeddedStore::open(&path)?),
            Self::Memory(name) => AnyStore::Memory(MemoryStore::named(&name)),
        })
    }
}

impl FromStr for Denied {
    type Err = UnknownChoice;

    fn from_str(text: &str) -> Result<Self, UnknownChoice> {
        match text {
            "close" => Ok(Self::Close),
            "reset" => Ok(Self::Reset),
            "tarpit" => Ok(Self::Tarpit),
            _ => Err(UnknownChoice { text: text.to_owned(), choices: "close, reset or tarpit" }),
        }
    }
}

impl FromStr for OnRevoke {
    type Err = UnknownChoice;

    fn from_str(text: &str) -> Result<Self, UnknownChoice> {
        match text {
            "close" => Ok(Self::Close),
            "drain" => Ok(Self::Drain),
            "keep" => Ok(Self::Keep),
            _ => Err(UnknownChoice { text: text.to_owned(), choices: "close, drain or keep" }),
        }
    }
}

impl fmt::Display for Denied {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Close => "close",
            Self::Reset => "reset",
            Self::Tarpit => "tarpit",
        })
    }
}

impl fmt::Display for OnRevoke {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Close => "close",
            Self::Drain => "drain",
            Self::Keep => "keep",
        })
    }
}
