//! The flags about knocks of `decrypt`, and their options.
//!
//! `--knock` alone is enough: without a store its gate is in memory. The other flags are about
//! knocks, and are refused without it.

use std::str::FromStr;
use std::sync::Arc;
use std::time::Duration;

use clap::{Args, ValueEnum};

use crate::addr::{AddrError, Address, ServiceName, Source};
use crate::duration;
use crate::keys::{KeyId, KeyRing};
use crate::knock::{ReceiverOptions, SourcePolicy, WidestNetworks};
use crate::run::Failure;

/// Heading of the flags about knocks.
const KNOCK: &str = "Knock";

/// Longest grant of a datagram's source unless `--knock-ttl` says otherwise.
const DEFAULT_TTL: Duration = Duration::from_secs(60);

/// Longest grant of a named address unless `--knock-max-ttl` says otherwise.
const DEFAULT_MAX_TTL: Duration = Duration::from_secs(12 * 3_600);

/// Name of the gate of a tunnel without a name.
const DEFAULT_GATE: &str = "default";

/// The word for the addresses of `-s`.
const SOURCES: &str = "source";

/// The receiver of knocks.
#[derive(Clone, Debug, Default, Args)]
pub(super) struct ReceiveKnockArgs {
    /// Let in who knocks: one UDP datagram under a key of -k puts its sender into the gate's store
    /// for a while, or into memory where there is no --gate, and all that did not knock are denied.
    /// Received at the addresses of -s, or at this one; repeatable
    #[arg(
        long, value_name = "ADDR", num_args = 0..=1, default_missing_value = SOURCES,
        help_heading = KNOCK
    )]
    knock: Vec<KnockAddress>,

    #[command(flatten)]
    rules: KnockRuleArgs,
}

/// The rules for knocks of whatever receives them.
#[derive(Clone, Debug, Default, Args)]
pub(super) struct KnockRuleArgs {
    /// Longest grant of an address that is only the datagram's source; a session that goes on
    /// renews it [default: 60s]
    #[arg(
        long, value_name = "DURATION", value_parser = duration::parse,
        allow_hyphen_values = true, help_heading = KNOCK
    )]
    knock_ttl: Option<Duration>,

    /// Longest grant of an address that the knock names [default: 12h]
    #[arg(
        long, value_name = "DURATION", value_parser = duration::parse,
        allow_hyphen_values = true, help_heading = KNOCK
    )]
    knock_max_ttl: Option<Duration>,

    /// A knock that names no address: allow its source, which may be forged, or refuse it
    /// [default: allow]
    #[arg(long, value_name = "WHAT", help_heading = KNOCK)]
    knock_source: Option<SourceChoice>,

    /// Widest networks that a knock may name: prefix lengths of IPv4 and IPv6
    /// [default: 32/128, single addresses]
    #[arg(long, value_name = "IPv4/IPv6", help_heading = KNOCK)]
    knock_networks: Option<Networks>,

    /// Name of the gate that knocks may ask for; repeatable [default: the tunnel's name in a
    /// configuration file, else default]
    #[arg(long, value_name = "NAME", help_heading = KNOCK)]
    pub(super) knock_gate: Vec<ServiceName>,

    /// Id of a key of -k that may knock; repeatable [default: all of them]
    #[arg(long, value_name = "ID", help_heading = KNOCK)]
    knock_key: Vec<KeyName>,
}

/// `--knock`.
#[derive(Clone, Debug, PartialEq)]
enum KnockAddress {
    /// Those of `-s`.
    Sources,
    /// Another one.
    At(Address),
}

/// `--udp`.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct DatagramAddress(pub(super) Address);

/// `--knock-source`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum SourceChoice {
    Allow,
    Refuse,
}

/// `--knock-networks`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Networks(WidestNetworks);

/// `--knock-key`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct KeyName(KeyId);

/// A text that does not fit its flag.
#[derive(Debug, thiserror::Error)]
pub(super) enum BadKnockValue {
    /// A unix socket, or one of systemd's.
    #[error(
        "'{0}' is not an address for datagrams; give host:port or [ip]:port, or leave it out for the addresses of -s"
    )]
    NotIp(String),
    /// The words of a switch.
    #[error(
        "'{0}' is no address; write knock = {0} without quotes in a file, and the flag alone, or not at all, on a command line"
    )]
    Switch(String),
    /// Not an address.
    #[error(transparent)]
    Address(#[from] AddrError),
    /// Not two prefix lengths.
    #[error("'{0}' is not IPv4/IPv6; give two prefix lengths from 8/32 to 32/128, such as 24/64")]
    Networks(String),
    /// Not a key id.
    #[error("'{0}' is not a key id; give the 8 hex digits that knockpipe key-id prints")]
    Key(String),
}

/// Flags about knocks that make no sense together.
#[derive(Debug, thiserror::Error)]
pub(super) enum ReceiveKnockError {
    /// A flag about knocks without a receiver.
    #[error("{flag} is about knocks, and none are received; add {receiver}, or leave it out")]
    NoKnock {
        /// The flag.
        flag: &'static str,
        /// The flag of the receiver.
        receiver: &'static str,
    },
    /// Both forms of `--knock`.
    #[error("--knock is given with and without an address; give all addresses, those of -s too")]
    TwoPlaces,
    /// There is no UDP beside a unix socket.
    #[error("--knock needs an address with a port, and -s has none; write --knock HOST:PORT")]
    NoPlace,
    /// The longest grant is shorter than the short one.
    #[error("--knock-max-ttl {max} is shorter than --knock-ttl {ttl}; raise the former, or lower the latter", max = duration::format(*.max_ttl), ttl = duration::format(*.ttl))]
    Shorter {
        /// `--knock-ttl`.
        ttl: Duration,
        /// `--knock-max-ttl`.
        max_ttl: Duration,
    },
    /// `--knock-key` of a key that the tunnel does not have.
    #[error("--knock-key {0} is none of the keys of -k; choose one of: {1}")]
    NoSuchKey(KeyId, String),
}

impl From<ReceiveKnockError> for Failure {
    fn from(error: ReceiveKnockError) -> Self {
        Self::Usage(error.into())
    }
}

/// Parts of a tunnel that its receiver of knocks depends on.
pub(super) struct Surroundings<'a> {
    /// Name of the tunnel, where there are several.
    pub(super) name: Option<&'a str>,
    pub(super) sources: &'a [Source],
    pub(super) keys: &'a KeyRing,
}

impl ReceiveKnockArgs {
    /// Returns the name of the gate in memory, which a receiver without a store has; `None`
    /// without a receiver.
    pub(super) fn memory(&self, name: Option<&str>) -> Option<String> {
        (!self.knock.is_empty()).then(|| name.unwrap_or(DEFAULT_GATE).to_owned())
    }

    /// Returns the receiver that the flags describe; `None` when there is none.
    ///
    /// # Errors
    /// [`Failure::Usage`]
    pub(super) fn options(
        &self,
        around: &Surroundings<'_>,
    ) -> Result<Option<Arc<ReceiverOptions>>, ReceiveKnockError> {
        if self.knock.is_empty() {
            return self.rules.refuse("--knock").map(|()| None);
        }
        let addresses = self.addresses(around.sources)?;
        self.rules.options(addresses, around.name, around.keys).map(Some)
    }

    fn addresses(&self, sources: &[Source]) -> Result<Vec<Address>, ReceiveKnockError> {
        let at = self.knock.iter().filter_map(|place| match place {
            KnockAddress::Sources => None,
            KnockAddress::At(address) => Some(address.clone()),
        });
        let at: Vec<Address> = at.collect();
        if !at.is_empty() && at.len() < self.knock.len() {
            return Err(ReceiveKnockError::TwoPlaces);
        }
        let is_unix = |source: &Source| matches!(source.address(), Some(Address::Unix(_)));
        if at.is_empty() && sources.iter().all(is_unix) {
            return Err(ReceiveKnockError::NoPlace);
        }
        Ok(at)
    }
}

impl KnockRuleArgs {
    /// Returns the receiver at `addresses` that the flags describe.
    ///
    /// # Errors
    /// [`ReceiveKnockError`]
    pub(super) fn options(
        &self,
        addresses: Vec<Address>,
        name: Option<&str>,
        ring: &KeyRing,
    ) -> Result<Arc<ReceiverOptions>, ReceiveKnockError> {
        let ttl = self.knock_ttl.unwrap_or(DEFAULT_TTL);
        let max_ttl = self.knock_max_ttl.unwrap_or_else(|| DEFAULT_MAX_TTL.max(ttl));
        if max_ttl < ttl {
            return Err(ReceiveKnockError::Shorter { ttl, max_ttl });
        }
        let options = ReceiverOptions {
            addresses,
            ttl,
            max_ttl,
            source: match self.knock_source {
                Some(SourceChoice::Refuse) => SourcePolicy::Refuse,
                Some(SourceChoice::Allow) | None => SourcePolicy::Allow,
            },
            networks: self.knock_networks.map(|networks| networks.0).unwrap_or_default(),
            gates: self.gates(name),
            keys: self.keys(ring)?,
        };
        Ok(Arc::new(options))
    }

    /// Returns the names that the gate of the tunnel or service `name` answers to.
    pub(super) fn gates(&self, name: Option<&str>) -> Vec<ServiceName> {
        if self.knock_gate.is_empty() {
            return default_gate(name);
        }
        self.knock_gate.clone()
    }

    fn keys(&self, ring: &KeyRing) -> Result<Vec<KeyId>, ReceiveKnockError> {
        let known: Vec<KeyId> = ring.iter().map(|key| key.id()).collect();
        let wanted: Vec<KeyId> = self.knock_key.iter().map(|key| key.0).collect();
        match wanted.iter().find(|id| !known.contains(id)) {
            Some(id) => {
                let known: Vec<String> = known.iter().map(ToString::to_string).collect();
                Err(ReceiveKnockError::NoSuchKey(*id, known.join(" ")))
            }
            None => Ok(wanted),
        }
    }

    /// Refuses all of them, where `receiver` would be the flag that they are about.
    ///
    /// # Errors
    /// [`ReceiveKnockError::NoKnock`]
    pub(super) fn refuse(&self, receiver: &'static str) -> Result<(), ReceiveKnockError> {
        // Names all of them, so that a new one cannot be forgotten.
        let Self { knock_ttl, knock_max_ttl, knock_source, knock_networks, knock_gate, knock_key } =
            self;
        let flags = [
            ("--knock-ttl", knock_ttl.is_some()),
            ("--knock-max-ttl", knock_max_ttl.is_some()),
            ("--knock-source", knock_source.is_some()),
            ("--knock-networks", knock_networks.is_some()),
            ("--knock-gate", !knock_gate.is_empty()),
            ("--knock-key", !knock_key.is_empty()),
        ];
        match flags.into_iter().find(|(_, given)| *given) {
            Some((flag, _)) => Err(ReceiveKnockError::NoKnock { flag, receiver }),
            None => Ok(()),
        }
    }
}

impl FromStr for KnockAddress {
    type Err = BadKnockValue;

    fn from_str(text: &str) -> Result<Self, BadKnockValue> {
        if text == SOURCES {
            return Ok(Self::Sources);
        }
        if matches!(text, "true" | "false") {
            return Err(BadKnockValue::Switch(text.to_owned()));
        }
        text.parse().map(|DatagramAddress(address)| Self::At(address))
    }
}

impl FromStr for DatagramAddress {
    type Err = BadKnockValue;

    fn from_str(text: &str) -> Result<Self, BadKnockValue> {
        match text.parse::<Source>()? {
            Source::Address(address @ Address::Tcp { .. }) => Ok(Self(address)),
            _ => Err(BadKnockValue::NotIp(text.to_owned())),
        }
    }
}

impl FromStr for Networks {
    type Err = BadKnockValue;

    fn from_str(text: &str) -> Result<Self, BadKnockValue> {
        let bad = || BadKnockValue::Networks(text.to_owned());
        let (v4, v6) = text.split_once('/').ok_or_else(bad)?;
        let prefix = |text: &str, range: std::ops::RangeInclusive<u8>| {
            let is_number = text.bytes().all(|byte| byte.is_ascii_digit());
            let prefix = text.parse().ok().filter(|prefix| is_number && range.contains(prefix));
            prefix.ok_or_else(bad)
        };
        Ok(Self(WidestNetworks { v4: prefix(v4, 8..=32)?, v6: prefix(v6, 32..=128)? }))
    }
}

impl FromStr for KeyName {
    type Err = BadKnockValue;

    fn from_str(text: &str) -> Result<Self, BadKnockValue> {
        let is_id = text.len() == 8 && text.bytes().all(|byte| byte.is_ascii_hexdigit());
        let number = u32::from_str_radix(text, 16).ok().filter(|_| is_id);
        let number = number.ok_or_else(|| BadKnockValue::Key(text.to_owned()))?;
        Ok(Self(KeyId::from_bytes(number.to_be_bytes())))
    }
}

/// Returns the name that the gate of the tunnel or service `name` answers to, unless flags say
/// otherwise.
pub(super) fn default_gate(name: Option<&str>) -> Vec<ServiceName> {
    // A name of a table has the form of a service name.
    name.unwrap_or(DEFAULT_GATE).parse().into_iter().collect()
}

#[cfg(test)]
#[path = "receive_knock_args_tests.rs"]
mod tests;
