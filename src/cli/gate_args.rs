//! The gate's flags of `encrypt` and `decrypt`, and their options.
//!
//! `--allow` and `--deny` make a gate by themselves. Without a store they decide alone, so an
//! address that no rule names is admitted if only `--deny` is given, and denied as soon as
//! `--allow` is.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::path::PathBuf;
use std::str::FromStr;
use std::sync::Arc;
use std::time::Duration;

use clap::{Args, ValueEnum};

use super::store_args::{GATE, GateAddress, StoreArgs};
use crate::addr::{Address, BindAddress};
use crate::duration;
use crate::frontend::Balancers;
use crate::gate::redis_store::{Node, Servers};
use crate::gate::{
    BanAfter, Denied, FailurePolicy, GateOptions, Internal, Member, MemberError, Nets, OnRevoke,
    Rules, StoreOptions,
};
use crate::proxy_protocol::Version;
use crate::run::Failure;
use crate::sys::keyfile::Access;
use crate::tunnel::{ConfigWarning, Role};

/// Networks that contain every address.
const ALL_ADDRESSES: [&str; 2] = ["0.0.0.0/0", "::/0"];

/// The gate of a tunnel.
#[derive(Debug, Args)]
pub(super) struct GateArgs {
    #[command(flatten)]
    store: StoreArgs,

    #[command(flatten)]
    rules: RuleArgs,

    #[command(flatten)]
    treatment: TreatmentArgs,

    #[command(flatten)]
    reaping: ReapArgs,

    /// Load balancers, which must announce their clients with the PROXY protocol, and no others
    /// may: networks, or unix for all peers of a unix socket; repeatable
    #[arg(long, value_name = "NET[,NET]", value_delimiter = ',', help_heading = GATE)]
    proxy_from: Vec<Balancer>,
}

/// Treatment of connections.
#[derive(Clone, Copy, Debug, Args)]
struct TreatmentArgs {
    /// Response to a denied peer: close, reset, or tarpit (silence) [default: close]
    #[arg(long, value_name = "WHAT", help_heading = GATE)]
    denied: Option<Denied>,

    /// Action on live connections that lose their permission: close, drain (they may finish
    /// within --drain), or keep [default: close]
    #[arg(long, value_name = "WHAT", help_heading = GATE)]
    on_revoke: Option<OnRevoke>,
}

/// The gate of a service that asks it about connections and requests, and is told of no proxies by
/// itself.
#[derive(Debug, Args)]
pub(super) struct ConnectionGateArgs {
    #[command(flatten)]
    pub(super) store: StoreArgs,

    #[command(flatten)]
    rules: RuleArgs,

    #[command(flatten)]
    treatment: TreatmentArgs,

    #[command(flatten)]
    reaping: ReapArgs,
}

/// Removal of addresses that are not used.
#[derive(Clone, Copy, Debug, Args)]
struct ReapArgs {
    /// Remove addresses from the store that were not seen for this long, such as 30d
    /// [default: never]
    #[arg(
        long, value_name = "DURATION", value_parser = duration::parse,
        allow_hyphen_values = true, help_heading = GATE
    )]
    reap_idle: Option<Duration>,
}

/// The gate of a service that asks it about addresses in requests, and ends no connections.
#[derive(Debug, Args)]
pub(super) struct StoreRuleArgs {
    #[command(flatten)]
    store: StoreArgs,

    #[command(flatten)]
    rules: RuleArgs,
}

/// Rules that decide besides the store.
#[derive(Debug, Args)]
pub(super) struct RuleArgs {
    /// Address or network that is always admitted, whatever the store says; repeatable. Without
    /// --gate, all others are then denied
    #[arg(long, value_name = "NET", help_heading = GATE)]
    pub(super) allow: Vec<Member>,

    /// Address or network that is never admitted, not even with --allow; repeatable
    #[arg(long, value_name = "NET", help_heading = GATE)]
    deny: Vec<Member>,

    /// Loopback and private addresses: check them like all others, or allow them unless
    /// banned (behind a NAT or a container bridge that admits every client) [default: check]
    #[arg(long, value_name = "WHAT", help_heading = GATE)]
    internal: Option<InternalChoice>,

    /// Decision while the store is unavailable: closed (its allow-set admits no client), open
    /// (all that are not denied or banned), or stale:DURATION (by its last state, for this
    /// long) [default: closed]
    #[arg(long, value_name = "POLICY", help_heading = GATE)]
    gate_failure: Option<FailurePolicy>,
}

/// Flags of the gate that only the decrypt end has.
#[derive(Clone, Copy, Debug, Default, Args)]
pub(super) struct AcceptorGateArgs {
    /// Ban an address for BANTIME after N failed handshakes within FINDTIME, such as 10/60s/1h
    /// [default: never]
    #[arg(
        long, value_name = "N/FINDTIME/BANTIME", allow_hyphen_values = true, help_heading = GATE
    )]
    pub(super) ban_after: Option<BanAfter>,

    /// Send the client's address to the target with the PROXY protocol, v1 or v2 [default: no]
    #[arg(long, value_name = "v1|v2", help_heading = GATE)]
    pub(super) proxy_to_target: Option<Version>,
}

impl AcceptorGateArgs {
    /// Returns the warning about a target that takes clients without an address for clients on
    /// its own machine: valid, but seldom intended.
    pub(super) fn warning(self, role: &Role, bind: Option<BindAddress>) -> Option<ConfigWarning> {
        self.proxy_to_target?;
        // Only these are localhost: MariaDB shows 127.0.0.2 as a number.
        let own = [IpAddr::from(Ipv4Addr::LOCALHOST), IpAddr::from(Ipv6Addr::LOCALHOST)];
        let is_local = |target: &&&Address| match target {
            Address::Unix(_) => true,
            Address::Tcp { host, .. } => {
                is_loopback(host) && bind.is_none_or(|bind| own.contains(&bind.ip.to_canonical()))
            }
        };
        let targets = role.targets();
        let target = Address::clone(targets.iter().find(is_local)?);
        Some(ConfigWarning::LocalClients { target })
    }
}

/// One of `--proxy-from`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Balancer {
    /// Those at these addresses.
    Net(Member),
    /// Peers that come through a unix socket.
    Unix,
}

impl Balancer {
    /// Its addresses, if it has any.
    pub(super) fn net(self) -> Option<Member> {
        match self {
            Self::Net(net) => Some(net),
            Self::Unix => None,
        }
    }
}

impl FromStr for Balancer {
    type Err = MemberError;

    fn from_str(text: &str) -> Result<Self, MemberError> {
        match text {
            "unix" => Ok(Self::Unix),
            net => net.parse().map(Self::Net),
        }
    }
}

/// `--internal`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum InternalChoice {
    Allow,
    Check,
}

/// Flags of the gate that make no sense together.
#[derive(Debug, thiserror::Error)]
pub(super) enum GateFlagError {
    /// A flag about a gate without a gate.
    #[error("{0} is about a gate, and there is none; add --gate URL, --allow NET or --deny NET")]
    NoGate(&'static str),
    /// A flag about a store without a store.
    #[error("{0} needs a store; add --gate redis://HOST:PORT or file:PATH, or leave it out")]
    NeedsStore(&'static str),
}

impl From<GateFlagError> for Failure {
    fn from(error: GateFlagError) -> Self {
        Self::Usage(error.into())
    }
}

impl GateArgs {
    /// Returns the files that describe how to reach the store.
    pub(super) fn files(&self) -> impl Iterator<Item = &PathBuf> {
        self.store.files()
    }

    /// Returns the gate that the flags describe; `None` when there is none. `access` is the
    /// tolerated access of others to its files with secrets. Where no store is named, `memory` is
    /// the name of one in memory, if there is to be one.
    ///
    /// # Errors
    /// [`Failure::Usage`]
    pub(super) fn options(
        &self,
        acceptor: AcceptorGateArgs,
        access: Access,
        memory: Option<String>,
    ) -> Result<Option<Arc<GateOptions>>, Failure> {
        let mut store = self.store.options(access)?;
        if let (StoreOptions::None, Some(name)) = (&store, memory) {
            store = StoreOptions::Memory(name);
        }
        if matches!(store, StoreOptions::None) {
            self.refuse_store_flags(acceptor)?;
            if !self.rules.is_gate() {
                return self.refuse_gate_flags().map(|()| None);
            }
        }
        Ok(Some(Arc::new(GateOptions {
            rules: self.rules.rules(&store),
            store,
            denied: self.treatment.denied.unwrap_or_default(),
            on_revoke: self.treatment.on_revoke.unwrap_or_default(),
            ban_after: acceptor.ban_after,
            reap_idle: self.reaping.reap_idle,
            named: self.store.named(access),
        })))
    }

    /// Returns the load balancers.
    pub(super) fn proxies(&self) -> Arc<Balancers> {
        balancers(&self.proxy_from)
    }

    /// Returns warnings about settings that are valid, but seldom intended.
    pub(super) fn warnings(&self, role: &Role) -> Vec<ConfigWarning> {
        let rules = [("--allow", &self.rules.allow), ("--deny", &self.rules.deny)];
        let wide = rules.into_iter().flat_map(|(flag, nets)| {
            let wide = nets.iter().filter(|net| net.needs_force());
            wide.map(move |net| ConfigWarning::WideRule { flag, net: *net })
        });
        let mut warnings: Vec<_> = wide.collect();
        if let (Some(GateAddress::Redis(store)), Role::Decrypt { targets }) =
            (&self.store.gate, role)
            && targets.iter().any(|(_, target)| is_served(&store.servers, target))
        {
            warnings.push(ConfigWarning::StoreIsTarget);
        }
        warnings
    }

    fn refuse_store_flags(&self, acceptor: AcceptorGateArgs) -> Result<(), GateFlagError> {
        let flags = [
            ("--gate-failure", self.rules.gate_failure.is_some()),
            ("--on-revoke", self.treatment.on_revoke.is_some()),
            ("--reap-idle", self.reaping.reap_idle.is_some()),
            ("--ban-after", acceptor.ban_after.is_some()),
        ];
        first(&flags).map_or(Ok(()), |flag| Err(GateFlagError::NeedsStore(flag)))
    }

    fn refuse_gate_flags(&self) -> Result<(), Failure> {
        let flags = [
            ("--internal", self.rules.internal.is_some()),
            ("--denied", self.treatment.denied.is_some()),
        ];
        first(&flags).map_or(Ok(()), |flag| Err(GateFlagError::NoGate(flag).into()))
    }
}

impl ConnectionGateArgs {
    /// Returns the files that describe how to reach the store.
    pub(super) fn files(&self) -> impl Iterator<Item = &PathBuf> {
        self.store.files()
    }

    /// Returns the gate that the flags describe; `None` when there is none. `access` is the
    /// tolerated access of others to its files with secrets.
    ///
    /// # Errors
    /// [`Failure::Usage`]
    pub(super) fn options(&self, access: Access) -> Result<Option<Arc<GateOptions>>, Failure> {
        let store = self.store.options(access)?;
        if matches!(store, StoreOptions::None) {
            let flags = [
                ("--gate-failure", self.rules.gate_failure.is_some()),
                ("--on-revoke", self.treatment.on_revoke.is_some()),
                ("--reap-idle", self.reaping.reap_idle.is_some()),
            ];
            if let Some(flag) = first(&flags) {
                return Err(GateFlagError::NeedsStore(flag).into());
            }
            if !self.rules.is_gate() {
                return Ok(None);
            }
        }
        Ok(Some(Arc::new(GateOptions {
            rules: self.rules.rules(&store),
            store,
            denied: self.treatment.denied.unwrap_or_default(),
            on_revoke: self.treatment.on_revoke.unwrap_or_default(),
            ban_after: None,
            reap_idle: self.reaping.reap_idle,
            named: self.store.named(access),
        })))
    }
}

impl StoreRuleArgs {
    /// Returns the files that describe how to reach the store.
    pub(super) fn files(&self) -> impl Iterator<Item = &PathBuf> {
        self.store.files()
    }

    /// Returns the gate that the flags describe; `None` without a store. `access` is the tolerated
    /// access of others to its files with secrets.
    ///
    /// # Errors
    /// [`Failure::Usage`]
    pub(super) fn options(&self, access: Access) -> Result<Option<Arc<GateOptions>>, Failure> {
        let store = self.store.options(access)?;
        if matches!(store, StoreOptions::None) {
            return Ok(None);
        }
        Ok(Some(Arc::new(GateOptions {
            rules: self.rules.rules(&store),
            store,
            denied: Denied::default(),
            on_revoke: OnRevoke::default(),
            ban_after: None,
            reap_idle: None,
            named: self.store.named(access),
        })))
    }
}

/// Returns the load balancers of `--proxy-from`.
pub(super) fn balancers(all: &[Balancer]) -> Arc<Balancers> {
    let nets = all.iter().filter_map(|balancer| balancer.net()).collect();
    Arc::new(Balancers { nets, unix: all.contains(&Balancer::Unix) })
}

/// Returns whether `target` is the server that the gate asks, as far as the text shows.
fn is_served(servers: &Servers, target: &Address) -> bool {
    match (servers, target) {
        (
            Servers::One(Node::Tcp { host, port }),
            Address::Tcp { host: other, port: other_port },
        ) => {
            let is_same_port = other_port.parse() == Ok(*port);
            is_same_port && (host == other || is_loopback(host) && is_loopback(other))
        }
        (Servers::One(Node::Unix(path)), Address::Unix(other)) => path == other,
        _ => false,
    }
}

fn is_loopback(host: &str) -> bool {
    host == "localhost" || host.parse::<IpAddr>().is_ok_and(|ip| ip.to_canonical().is_loopback())
}

fn first(flags: &[(&'static str, bool)]) -> Option<&'static str> {
    flags.iter().find(|(_, given)| *given).map(|(flag, _)| *flag)
}

impl RuleArgs {
    /// Returns whether these rules decide anything by themselves.
    pub(super) fn is_gate(&self) -> bool {
        !self.allow.is_empty() || !self.deny.is_empty()
    }

    /// Returns whether none of them is given.
    pub(super) fn is_empty(&self) -> bool {
        !self.is_gate() && self.internal.is_none()
    }

    /// Returns the rules of a gate with this store.
    pub(super) fn rules(&self, store: &StoreOptions) -> Rules {
        let alone = matches!(store, StoreOptions::None);
        let mut allow: Nets<()> = self.allow.iter().copied().collect();
        if alone && allow.is_empty() {
            // No rule admits an address, so all that are not denied are admitted.
            allow = ALL_ADDRESSES.iter().filter_map(|all| all.parse::<Member>().ok()).collect();
        }
        Rules {
            deny: self.deny.iter().copied().collect(),
            allow,
            internal: match self.internal {
                Some(InternalChoice::Allow) => Internal::Allow,
                Some(InternalChoice::Check) | None => Internal::Check,
            },
            failure: self.gate_failure.unwrap_or_default(),
        }
    }
}

#[cfg(test)]
#[path = "gate_args_tests.rs"]
mod tests;
