//! Settings of a firewall that follows a gate. The command line makes them.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use knockpipe_firewall::nftables::NftablesOptions;
use knockpipe_firewall::{AtExit, Ports, exec, firewalld, lighthouse};

use crate::addr::Address;
use crate::gate::GateOptions;
use crate::http::{ClientTls, WebUrl};

/// Settings of a firewall that follows a gate.
#[derive(Clone, Debug, PartialEq)]
pub struct Options {
    /// Its name in the log; `None` where the process has one service only.
    pub name: Option<Arc<str>>,
    /// The gate that it follows.
    pub gate: Arc<GateOptions>,
    /// The firewall.
    pub backend: BackendOptions,
    /// Its state after the end of the process.
    pub at_exit: AtExit,
    /// Longest wait for the first read of the gate's store.
    pub timeout: Duration,
}

/// Settings of a firewall of one kind.
#[derive(Clone, Debug, PartialEq)]
pub enum BackendOptions {
    /// The packet filter of the kernel.
    Nftables(NftablesOptions),
    /// A zone of firewalld.
    Firewalld(firewalld::Options),
    /// The firewall of instances of a cloud.
    Lighthouse(Box<LighthouseOptions>),
    /// A program of the operator.
    Exec(exec::Options),
}

/// Settings of the firewall of a cloud.
#[derive(Clone, Debug, PartialEq)]
pub struct LighthouseOptions {
    /// Those of its rules and requests.
    pub rules: lighthouse::Options,
    /// The address of its API.
    pub endpoint: WebUrl,
    /// The certificates to check its server with.
    pub tls: ClientTls,
}

impl BackendOptions {
    /// Returns its name, as in `--backend`.
    pub fn name(&self) -> &'static str {
        match self {
            Self::Nftables(_) => "nftables",
            Self::Firewalld(_) => "firewalld",
            Self::Lighthouse(_) => "lighthouse",
            Self::Exec(_) => "exec",
        }
    }

    /// Returns the ports that it guards.
    pub fn ports(&self) -> &Ports {
        match self {
            Self::Nftables(options) => &options.ports,
            Self::Firewalld(options) => &options.ports,
            Self::Lighthouse(options) => &options.rules.ports,
            Self::Exec(options) => &options.ports,
        }
    }

    /// Returns the programs that it runs and that are confined as this process is.
    pub fn programs(&self) -> Vec<PathBuf> {
        match self {
            Self::Nftables(options) => vec![options.program.clone()],
            Self::Firewalld(_) | Self::Lighthouse(_) | Self::Exec(_) => vec![],
        }
    }

    /// Returns true if it runs a program with unknown needs, so that there are no
    /// rules of files for this process either.
    pub fn is_unconfined(&self) -> bool {
        matches!(self, Self::Exec(_))
    }

    /// Returns true if it can be asked for the ends of its entries. Others are known to the process
    /// that made them.
    pub fn reads_ends(&self) -> bool {
        matches!(self, Self::Nftables(_))
    }

    /// Returns the server that it asks.
    pub fn server(&self) -> Option<&Address> {
        match self {
            Self::Lighthouse(options) => Some(options.endpoint.address()),
            Self::Nftables(_) | Self::Firewalld(_) | Self::Exec(_) => None,
        }
    }

    /// Returns true if it takes the right to administer the network, `CAP_NET_ADMIN`.
    pub fn needs_net_admin(&self) -> bool {
        match self {
            Self::Nftables(_) | Self::Exec(_) => true,
            Self::Firewalld(_) | Self::Lighthouse(_) => false,
        }
    }

    /// Returns true if both change the same place, so that they would undo each other's work.
    pub fn is_same_place(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Nftables(one), Self::Nftables(other)) => one.table == other.table,
            (Self::Firewalld(one), Self::Firewalld(other)) => one.zone == other.zone,
            (Self::Lighthouse(one), Self::Lighthouse(other)) => {
                let is_shared = |id| other.rules.instances.contains(id);
                one.rules.prefix == other.rules.prefix && one.rules.instances.iter().any(is_shared)
            }
            (Self::Exec(one), Self::Exec(other)) => one.program == other.program,
            _ => false,
        }
    }

    /// Describes the place that it changes.
    pub fn place(&self) -> String {
        match self {
            Self::Nftables(options) => format!("table inet {}", options.table),
            Self::Firewalld(options) => format!("zone {} of firewalld", options.zone),
            Self::Lighthouse(options) => {
                let LighthouseOptions { rules, endpoint, tls: _ } = &**options;
                let instances = rules.instances.join(", ");
                format!("rules {}... of {instances} at {endpoint}", rules.prefix)
            }
            Self::Exec(options) => format!("program {}", options.program.display()),
        }
    }
}
