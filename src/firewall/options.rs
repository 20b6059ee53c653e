//! Settings of a firewall that follows a gate. The command line makes them.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use knockpipe_firewall::nftables::NftablesOptions;
use knockpipe_firewall::{AtExit, Ports};

use crate::gate::GateOptions;

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
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum BackendOptions {
    /// The packet filter of the kernel.
    Nftables(NftablesOptions),
}

impl BackendOptions {
    /// Returns its name, as in `--backend`.
    pub fn name(&self) -> &'static str {
        match self {
            Self::Nftables(_) => "nftables",
        }
    }

    /// Returns the ports that it guards.
    pub fn ports(&self) -> &Ports {
        match self {
            Self::Nftables(options) => &options.ports,
        }
    }

    /// Returns the programs that it runs.
    pub fn programs(&self) -> Vec<PathBuf> {
        match self {
            Self::Nftables(options) => vec![options.program.clone()],
        }
    }

    /// Returns true if it takes the right to administer the network, `CAP_NET_ADMIN`.
    pub fn needs_net_admin(&self) -> bool {
        match self {
            Self::Nftables(_) => true,
        }
    }

    /// Returns true if both change the same place, so that they would undo each other's work.
    pub fn is_same_place(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Nftables(one), Self::Nftables(other)) => one.table == other.table,
        }
    }

    /// Describes the place that it changes.
    pub fn place(&self) -> String {
        match self {
            Self::Nftables(options) => format!("table inet {}", options.table),
        }
    }
}
