//! The flags of `firewall`, and their options.

use std::path::PathBuf;
use std::str::FromStr;
use std::sync::Arc;
use std::time::Duration;

use clap::{Args, ValueEnum};
use knockpipe_firewall::nftables::{self, Hooks, NftablesOptions};
use knockpipe_firewall::{AtExit, Ports};
use nix::unistd::Uid;

use super::firewall_backend_args::{BackendArgs, BackendChoice, FIREWALL};
use super::gate_args::StoreRuleArgs;
use super::times;
use crate::firewall::{BackendOptions, Options};
use crate::run::Failure;
use crate::sys::keyfile::Access;

/// Longest name of a table.
const LONGEST_TABLE: usize = 100;

/// Words of the language of `nft`, which takes none of them as the name of a table.
const WORDS: &str = "\
    accept add ah all and arp auto-merge bridge cgroup chain chains comment comp constant \
    continue counter counters cpu create ct day dccp define delete describe destroy device \
    devices dnat drop dup dynset ecn element elements eq esp ether exists expires export \
    exthdr fib flags flow flowtable flowtables flush frag fwd gc-interval ge goto gt handle \
    hook hooks hour ibriport ibrname icmp icmpv6 igmp iif iifgroup iifname iiftype import \
    include index inet insert interval ip ip6 ipsec jhash jump le limit limits list log lt map \
    maps mark masquerade meta meter meters mh missing monitor ne netdev nftrace notrack numgen \
    obriport obrname offload oif oifgroup oifname oiftype or osf policy position priority \
    queue quota quotas random redefine redirect reject rename replace reset return rt rt0 rt2 \
    rtclassid rule ruleset sctp secmark secmarks set sets size skgid skuid snat socket srh \
    symhash synproxy synproxys table tables tcp th time timeout tproxy type typeof udp udplite \
    undefine vlan vmap vxlan xor xt";

/// The flags of a firewall that follows a gate.
#[derive(Debug, Args)]
pub(super) struct FirewallArgs {
    /// Ports that only addresses of the store may connect to, such as
    /// 22,514/udp,5000-5010/tcp
    #[arg(long, value_name = "PORTS", required = true, help_heading = FIREWALL)]
    ports: Option<Ports>,

    /// The firewall: nftables, firewalld, lighthouse (that of a cloud) or exec:PROGRAM, which is
    /// called with add or remove, a network and the seconds that are left
    #[arg(long, value_name = "BACKEND", default_value = "nftables", help_heading = FIREWALL)]
    backend: BackendChoice,

    /// Packets that are looked at: input, those for programs of this host; forward, those that it
    /// redirects to another address, as to Docker's published ports, which take input,forward:
    /// forward alone leaves this host's own programs open; repeatable [default: input]
    #[arg(long, value_name = "HOOK[,HOOK]", value_delimiter = ',', help_heading = FIREWALL)]
    hook: Vec<HookChoice>,

    /// End the connections of an address that loses its right to connect
    #[arg(long, help_heading = FIREWALL)]
    cut: bool,

    /// Answer strangers with an error instead of with nothing
    #[arg(long, help_heading = FIREWALL)]
    reject: bool,

    /// Name of the table, which is this service's alone [default: knockpipe, or knockpipe-NAME of
    /// a service with a name]
    #[arg(long, value_name = "NAME", help_heading = FIREWALL)]
    table: Option<TableName>,

    /// The firewall after the end of the process: keep what is there, or remove it, which opens the
    /// ports to all
    #[arg(long, value_name = "WHAT", default_value = "keep", help_heading = FIREWALL)]
    at_exit: AtExitChoice,

    /// Longest wait at the start for the gate's store
    #[arg(
        short = 'o', long, value_name = "DURATION", default_value = "5s",
        value_parser = times::parse, allow_negative_numbers = true, help_heading = FIREWALL
    )]
    timeout: Duration,

    /// Accept files with secrets that their group or others can read or change
    #[arg(long)]
    allow_readable_key: bool,

    #[command(flatten)]
    of_backend: BackendArgs,

    #[command(flatten)]
    gate: StoreRuleArgs,
}

/// `--hook`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum HookChoice {
    Input,
    Forward,
}

/// `--at-exit`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum AtExitChoice {
    Keep,
    Remove,
}

/// `--table`.
#[derive(Clone, Debug)]
struct TableName(String);

/// A text that is no name of a table.
#[derive(Debug, thiserror::Error)]
#[error(
    "'{0}' is no name of a table; write letters, digits, '-', '_' and '.', a letter first, and no word of nft's own"
)]
struct BadTableName(String);

impl FromStr for TableName {
    type Err = BadTableName;

    fn from_str(text: &str) -> Result<Self, BadTableName> {
        let is_part = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte);
        let starts = text.starts_with(|first: char| first.is_ascii_alphabetic());
        let is_name = starts && text.bytes().all(is_part) && text.len() <= LONGEST_TABLE;
        let is_word = WORDS.split(' ').any(|word| word == text);
        (is_name && !is_word)
            .then(|| Self(text.to_owned()))
            .ok_or_else(|| BadTableName(text.to_owned()))
    }
}

impl FirewallArgs {
    /// Returns the files that are read again on a reload.
    pub(super) fn files(&self) -> Vec<PathBuf> {
        self.gate.files().chain(self.of_backend.files()).cloned().collect()
    }

    /// Returns the service that these arguments describe, by this name.
    ///
    /// # Errors
    /// [`Failure`] of the arguments, or of the files and programs that they name.
    pub(super) fn options(
        &self,
        name: Option<Arc<str>>,
        user: Option<Uid>,
    ) -> Result<Options, Failure> {
        let access = Access { by_others: self.allow_readable_key, user };
        let gate = self.gate.options(access)?.ok_or(NoStore)?;
        let backend = self.backend(name.as_deref(), access)?;
        let at_exit = match self.at_exit {
            AtExitChoice::Keep => AtExit::Keep,
            AtExitChoice::Remove => AtExit::Remove,
        };
        Ok(Options { name, gate, backend, at_exit, timeout: self.timeout })
    }

    fn backend(&self, name: Option<&str>, access: Access) -> Result<BackendOptions, Failure> {
        self.of_backend.refuse_unfit(&self.backend)?;
        let kernel: &[&str] = &["nftables"];
        self.backend.refuse(&[
            ("--hook", !self.hook.is_empty(), kernel),
            ("--cut", self.cut, kernel),
            ("--table", self.table.is_some(), kernel),
            ("--reject", self.reject, &["nftables", "firewalld"]),
        ])?;
        // Not the parser's: `[defaults]` is parsed without it.
        let ports = self.ports.clone().ok_or(NoPorts)?;
        Ok(match &self.backend {
            BackendChoice::Nftables => BackendOptions::Nftables(self.nftables(name, ports)?),
            BackendChoice::Firewalld => {
                BackendOptions::Firewalld(self.of_backend.firewalld(ports, self.reject))
            }
            BackendChoice::Lighthouse => {
                BackendOptions::Lighthouse(Box::new(self.of_backend.lighthouse(ports, access)?))
            }
            BackendChoice::Exec(program) => {
                BackendOptions::Exec(self.of_backend.exec(program, ports)?)
            }
        })
    }

    fn nftables(&self, name: Option<&str>, ports: Ports) -> Result<NftablesOptions, Failure> {
        let program = nftables::find().map_err(|error| Failure::Usage(error.into()))?;
        let table = match (&self.table, name) {
            (Some(TableName(table)), _) => table.clone(),
            (None, Some(name)) => format!("knockpipe-{name}"),
            (None, None) => "knockpipe".to_owned(),
        };
        let has = |hook| self.hook.contains(&hook);
        let hooks = Hooks {
            input: self.hook.is_empty() || has(HookChoice::Input),
            forward: has(HookChoice::Forward),
        };
        Ok(NftablesOptions { program, table, ports, hooks, cut: self.cut, reject: self.reject })
    }
}

/// No `--gate`.
#[derive(Debug, thiserror::Error)]
#[error("nothing says who may connect; add --gate redis://HOST:PORT or file:PATH")]
struct NoStore;

impl From<NoStore> for Failure {
    fn from(error: NoStore) -> Self {
        Self::Usage(error.into())
    }
}

/// No `--ports`.
#[derive(Debug, thiserror::Error)]
#[error(
    "--ports is missing; add those that only addresses of the store may connect to, such as 22"
)]
struct NoPorts;

impl From<NoPorts> for Failure {
    fn from(error: NoPorts) -> Self {
        Self::Usage(error.into())
    }
}
