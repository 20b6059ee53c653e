//! The gate's flags of `encrypt` and `decrypt`, and how they become options.
//!
//! `--allow` and `--deny` make a gate by themselves. Without a store there is
//! nobody else to ask, so an address that no rule names comes in if only
//! `--deny` is given, and stays out as soon as `--allow` is.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::path::PathBuf;
use std::str::FromStr;
use std::sync::Arc;
use std::time::Duration;

use clap::{Args, ValueEnum};

use super::store_args::{GATE, GateAddress, StoreArgs};
use crate::addr::{Address, BindAddress};
use crate::duration;
use crate::gate::redis_store::{Node, Servers};
use crate::gate::{
    AwayPolicy, BanAfter, Denied, GateOptions, Internal, Member, MemberError, Nets, OnRevoke,
    Rules, StoreOptions,
};
use crate::proxy_protocol::Version;
use crate::run::Failure;
use crate::sys::keyfile::Access;
use crate::tunnel::{Balancers, Remark, Role};

/// Every address there is.
const EVERYBODY: [&str; 2] = ["0.0.0.0/0", "::/0"];

/// The gate of a tunnel.
#[derive(Debug, Args)]
pub(super) struct GateArgs {
    #[command(flatten)]
    store: StoreArgs,

    #[command(flatten)]
    rules: RuleArgs,

    /// What a peer gets that may not come in: close, reset, or hold (silence) [default: close]
    #[arg(long, value_name = "WHAT", help_heading = GATE)]
    denied: Option<Denied>,

    /// What becomes of live connections that may not stay: close, drain (they may finish within
    /// --drain), or keep [default: close]
    #[arg(long, value_name = "WHAT", help_heading = GATE)]
    on_revoke: Option<OnRevoke>,

    /// Take addresses out of the store that were not seen for so long, such as 30d
    /// [default: never]
    #[arg(
        long, value_name = "DURATION", value_parser = duration::parse,
        allow_hyphen_values = true, help_heading = GATE
    )]
    reap_idle: Option<Duration>,

    /// Load balancers, which must announce their clients with the PROXY protocol, and nobody else
    /// may: networks, or unix for whoever comes through a unix socket; repeatable
    #[arg(long, value_name = "NET[,NET]", value_delimiter = ',', help_heading = GATE)]
    proxy_from: Vec<Balancer>,
}

/// What decides besides the store.
#[derive(Debug, Args)]
pub(super) struct RuleArgs {
    /// Address or network that always comes in, whatever the store says; repeatable. Without
    /// --gate, others then stay out
    #[arg(long, value_name = "NET", help_heading = GATE)]
    pub(super) allow: Vec<Member>,

    /// Address or network that never comes in, not even with --allow; repeatable
    #[arg(long, value_name = "NET", help_heading = GATE)]
    deny: Vec<Member>,

    /// Loopback and private addresses: check them as all others, or allow them unless banned
    /// (behind a NAT or a container bridge that is everybody) [default: check]
    #[arg(long, value_name = "WHAT", help_heading = GATE)]
    internal: Option<InternalChoice>,

    /// Who comes in while the store cannot be asked: closed (nobody by its word), open
    /// (everybody not banned), or stale:DURATION (as it said last, for so long) [default: closed]
    #[arg(long, value_name = "POLICY", help_heading = GATE)]
    gate_away: Option<AwayPolicy>,
}

/// What only the decrypt end can do.
#[derive(Clone, Copy, Debug, Default, Args)]
pub(super) struct AcceptorGateArgs {
    /// Ban an address for BANTIME after N failed handshakes within FINDTIME, such as 10/60s/1h
    /// [default: never]
    #[arg(
        long, value_name = "N/FINDTIME/BANTIME", allow_hyphen_values = true, help_heading = GATE
    )]
    pub(super) ban_after: Option<BanAfter>,

    /// Tell the target the client's address with the PROXY protocol, v1 or v2 [default: no]
    #[arg(long, value_name = "v1|v2", help_heading = GATE)]
    pub(super) proxy_to_target: Option<Version>,
}

impl AcceptorGateArgs {
    /// What is allowed, but seldom meant: a target that takes those without an address
    /// for clients on its own machine.
    pub(super) fn remark(self, role: &Role, bind: Option<BindAddress>) -> Option<Remark> {
        self.proxy_to_target?;
        // Others than these are no localhost: MariaDB calls 127.0.0.2 by its number.
        let own = [IpAddr::from(Ipv4Addr::LOCALHOST), IpAddr::from(Ipv6Addr::LOCALHOST)];
        let is_local = |target: &&&Address| match target {
            Address::Unix(_) => true,
            Address::Tcp { host, .. } => {
                is_loopback(host) && bind.is_none_or(|bind| own.contains(&bind.ip.to_canonical()))
            }
        };
        let targets = role.targets();
        let target = Address::clone(targets.iter().find(is_local)?);
        Some(Remark::LocalClients { target })
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
    /// About a gate, and there is none.
    #[error("{0} is about a gate, and there is none; add --gate URL, --allow NET or --deny NET")]
    NoGate(&'static str),
    /// About a store, and there is none.
    #[error("{0} needs a store; add --gate redis://HOST:PORT or file:PATH, or leave it out")]
    NeedsStore(&'static str),
}

impl From<GateFlagError> for Failure {
    fn from(error: GateFlagError) -> Self {
        Self::Usage(error.into())
    }
}

impl GateArgs {
    /// The files that describe how to reach the store.
    pub(super) fn files(&self) -> impl Iterator<Item = &PathBuf> {
        self.store.files()
    }

    /// The gate that the flags describe; `None` when there is none. Who else may reach
    /// its files with secrets is said by `access`.
    ///
    /// # Errors
    /// [`Failure::Usage`]
    pub(super) fn options(
        &self,
        acceptor: AcceptorGateArgs,
        access: Access,
    ) -> Result<Option<Arc<GateOptions>>, Failure> {
        let store = self.store.options(access)?;
        if matches!(store, StoreOptions::None) {
            self.refuse_store_flags(acceptor)?;
            if !self.rules.is_gate() {
                return self.refuse_gate_flags().map(|()| None);
            }
        }
        Ok(Some(Arc::new(GateOptions {
            rules: self.rules.rules(&store),
            store,
            denied: self.denied.unwrap_or_default(),
            on_revoke: self.on_revoke.unwrap_or_default(),
            ban_after: acceptor.ban_after,
            reap_idle: self.reap_idle,
            named: self.store.named(access),
        })))
    }

    /// The load balancers.
    pub(super) fn proxies(&self) -> Arc<Balancers> {
        let nets = self.proxy_from.iter().filter_map(|balancer| balancer.net()).collect();
        Arc::new(Balancers { nets, unix: self.proxy_from.contains(&Balancer::Unix) })
    }

    /// What is allowed, but seldom meant.
    pub(super) fn remarks(&self, role: &Role) -> Vec<Remark> {
        let rules = [("--allow", &self.rules.allow), ("--deny", &self.rules.deny)];
        let wide = rules.into_iter().flat_map(|(flag, nets)| {
            let wide = nets.iter().filter(|net| net.needs_force());
            wide.map(move |net| Remark::WideRule { flag, net: *net })
        });
        let mut remarks: Vec<_> = wide.collect();
        if let (Some(GateAddress::Redis(store)), Role::Decrypt { targets }) =
            (&self.store.gate, role)
            && targets.iter().any(|(_, target)| is_served(&store.servers, target))
        {
            remarks.push(Remark::StoreIsTarget);
        }
        remarks
    }

    fn refuse_store_flags(&self, acceptor: AcceptorGateArgs) -> Result<(), GateFlagError> {
        let flags = [
            ("--gate-away", self.rules.gate_away.is_some()),
            ("--on-revoke", self.on_revoke.is_some()),
            ("--reap-idle", self.reap_idle.is_some()),
            ("--ban-after", acceptor.ban_after.is_some()),
        ];
        first(&flags).map_or(Ok(()), |flag| Err(GateFlagError::NeedsStore(flag)))
    }

    fn refuse_gate_flags(&self) -> Result<(), Failure> {
        let flags =
            [("--internal", self.rules.internal.is_some()), ("--denied", self.denied.is_some())];
        first(&flags).map_or(Ok(()), |flag| Err(GateFlagError::NoGate(flag).into()))
    }
}

/// Whether `target` is the server that the gate asks, as far as the text tells.
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
    /// Whether these rules decide anything by themselves.
    pub(super) fn is_gate(&self) -> bool {
        !self.allow.is_empty() || !self.deny.is_empty()
    }

    /// Whether none of them is given.
    pub(super) fn is_empty(&self) -> bool {
        !self.is_gate() && self.internal.is_none()
    }

    /// The rules of a gate with this store.
    pub(super) fn rules(&self, store: &StoreOptions) -> Rules {
        let alone = matches!(store, StoreOptions::None);
        let mut allow: Nets<()> = self.allow.iter().copied().collect();
        if alone && allow.is_empty() {
            // Nothing names those who may come in, so who is not denied does.
            allow = EVERYBODY.iter().filter_map(|all| all.parse::<Member>().ok()).collect();
        }
        Rules {
            deny: self.deny.iter().copied().collect(),
            allow,
            internal: match self.internal {
                Some(InternalChoice::Allow) => Internal::Allow,
                Some(InternalChoice::Check) | None => Internal::Check,
            },
            failure: self.gate_away.unwrap_or_default(),
        }
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;
    use crate::gate::{Peer, Snapshot, UnixMillis, decide};

    #[derive(Parser)]
    struct Line {
        #[command(flatten)]
        gate: GateArgs,
        #[command(flatten)]
        acceptor: AcceptorGateArgs,
    }

    fn options(line: &str) -> Result<Option<Arc<GateOptions>>, String> {
        let line = Line::try_parse_from(format!("x {line}").split_whitespace())
            .unwrap_or_else(|error| panic!("{error}"));
        line.gate.options(line.acceptor, Access::default()).map_err(|failure| failure.to_string())
    }

    fn allows(line: &str, ip: &str) -> bool {
        let gate = options(line).unwrap().unwrap();
        let mut facts = Snapshot::default();
        facts.begin();
        let _ = facts.end(UnixMillis(1));
        decide(&gate.rules, &facts, Peer::Socket(ip.parse().unwrap()), UnixMillis(1)).is_allowed()
    }

    #[test]
    fn no_flag_is_no_gate() {
        assert!(options("").unwrap().is_none());
        assert!(options("--proxy-from 203.0.113.0/24,10.0.0.1").unwrap().is_none());
    }

    #[test]
    fn without_a_store_others_come_in_unless_somebody_is_allowed() {
        let deny = "--deny 203.0.113.0/24 --deny 2001:db8::/64";
        for (ip, expected) in [
            ("203.0.113.7", false),
            ("::ffff:203.0.113.7", false),
            ("2001:db8::1", false),
            ("198.51.100.1", true),
            ("2001:db8:1::1", true),
            ("::ffff:198.51.100.1", true),
        ] {
            assert_eq!(allows(deny, ip), expected, "{ip}");
        }
        let allow = "--allow 203.0.113.0/24 --deny 203.0.113.7";
        for (ip, expected) in [
            ("203.0.113.8", true),
            ("203.0.113.7", false),
            ("198.51.100.1", false),
            ("2001:db8:1::1", false),
            ("10.0.0.1", false),
            ("127.0.0.1", false),
        ] {
            assert_eq!(allows(allow, ip), expected, "{ip}");
        }
        assert!(!allows(&format!("{allow} --internal check"), "10.0.0.1"));
        assert!(allows(&format!("{allow} --internal allow"), "10.0.0.1"));
    }

    #[test]
    fn with_a_store_only_it_and_the_rules_let_in() {
        assert!(!allows("--gate file:x --deny 203.0.113.0/24", "198.51.100.1"));
        assert!(allows("--gate file:x --allow 203.0.113.0/24", "203.0.113.1"));
    }

    #[test]
    fn a_flag_without_what_it_needs_is_refused() {
        for flag in
            ["--gate-away open", "--on-revoke keep", "--reap-idle 30d", "--ban-after 1/1s/1s"]
        {
            for base in ["", "--allow 203.0.113.1 "] {
                let error = options(&format!("{base}{flag}")).unwrap_err();
                assert!(error.contains("needs a store; add --gate"), "{error}");
            }
            options(&format!("--gate file:x {flag}")).unwrap();
        }
        for flag in ["--internal check", "--denied hold"] {
            assert!(options(flag).unwrap_err().contains("is about a gate"));
            options(&format!("{flag} --deny 203.0.113.1")).unwrap();
        }
    }

    #[test]
    fn a_store_that_is_served_is_noticed() {
        let is_served = |store: &str, target: &str| match store.parse().unwrap() {
            GateAddress::Redis(store) => is_served(&store.servers, &target.parse().unwrap()),
            GateAddress::File(_) => false,
        };
        for (store, target, expected) in [
            ("redis://127.0.0.1", "127.0.0.1:6379", true),
            ("rediss://localhost:6379/3", "[::1]:6379", true),
            ("redis://db.example.org:7000", "db.example.org:7000", true),
            ("unix:///run/redis.sock", "/run/redis.sock", true),
            ("redis://127.0.0.1:6378", "127.0.0.1:6379", false),
            ("redis://10.0.0.1", "127.0.0.1:6379", false),
            ("redis+sentinel://127.0.0.1:6379/m", "127.0.0.1:6379", false),
            ("file:/run/redis.sock", "/run/redis.sock", false),
        ] {
            assert_eq!(is_served(store, target), expected, "{store} {target}");
        }
    }

    #[test]
    fn a_target_that_takes_clients_for_its_own_is_noticed() {
        let noticed = |target: &str, proxy: &str, bind: Option<&str>| {
            let line = format!("x {proxy}");
            let line = Line::try_parse_from(line.split_whitespace());
            let acceptor = line.unwrap_or_else(|error| panic!("{error}")).acceptor;
            let targets = vec![(Default::default(), target.parse().unwrap())];
            acceptor.remark(&Role::Decrypt { targets }, bind.map(|bind| bind.parse().unwrap()))
        };
        for (target, proxy, bind, expected) in [
            ("127.0.0.1:3306", "--proxy-to-target v2", None, true),
            ("[::1]:3306", "--proxy-to-target v1", Some("::1"), true),
            ("localhost:3306", "--proxy-to-target v2", Some("127.0.0.1"), true),
            ("/run/mysqld.sock", "--proxy-to-target v2", Some("127.0.0.2"), true),
            ("127.0.0.1:3306", "--proxy-to-target v2", Some("127.0.0.2"), false),
            ("192.0.2.1:3306", "--proxy-to-target v2", None, false),
            ("127.0.0.1:3306", "", None, false),
        ] {
            let noticed = noticed(target, proxy, bind).is_some();
            assert_eq!(noticed, expected, "{target} {proxy} {bind:?}");
        }
    }

    #[test]
    fn everything_arrives() {
        let gate = options(
            "--gate redis://h/1 --denied reset --on-revoke drain --reap-idle 30d \
             --ban-after 10/60s/1h --gate-away stale:5m",
        );
        let gate = gate.unwrap().unwrap();
        assert_eq!((gate.denied, gate.on_revoke), (Denied::Reset, OnRevoke::Drain));
        assert_eq!(gate.reap_idle, Some(Duration::from_secs(30 * 86_400)));
        assert_eq!(gate.ban_after.unwrap().to_string(), "10/1m/1h");
        assert_eq!(gate.rules.failure, AwayPolicy::Stale(Duration::from_secs(300)));
        assert!(gate.rules.allow.is_empty());
    }
}
