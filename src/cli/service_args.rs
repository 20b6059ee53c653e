//! The flags of a service of any kind, as one type: a table of a configuration file.

use std::path::PathBuf;
use std::sync::Arc;

use nix::unistd::Uid;

use super::firewall_args::FirewallArgs;
use super::http_args::HttpArgs;
use super::knockd_args::KnockdArgs;
use super::tunnel_args::TunnelArgs;
use crate::run::Failure;
use crate::service::ServiceOptions;

/// The flags of a service.
#[derive(Debug)]
pub(super) enum ServiceArgs {
    /// Of either end of a tunnel.
    Tunnel(TunnelArgs),
    /// Of knocks over HTTP.
    Knockd(Box<KnockdArgs>),
    /// Of a gate in front of a web server.
    Http(Box<HttpArgs>),
    /// Of a firewall that follows a gate.
    Firewall(Box<FirewallArgs>),
}

impl ServiceArgs {
    /// Returns the name of the command that has these flags.
    pub(super) fn command(&self) -> &'static str {
        match self {
            Self::Tunnel(args) => args.mode(),
            Self::Knockd(_) => "knockd",
            Self::Http(_) => "http",
            Self::Firewall(_) => "firewall",
        }
    }

    /// Returns the files that are read again on a reload.
    pub(super) fn files(&self) -> Vec<PathBuf> {
        match self {
            Self::Tunnel(args) => args.files(),
            Self::Knockd(args) => args.files(),
            Self::Http(args) => args.files(),
            Self::Firewall(args) => args.files(),
        }
    }

    /// Returns the service that these arguments describe, by this name. Reads its files, which may
    /// belong to the `user` that the process becomes.
    ///
    /// # Errors
    /// [`Failure`] of the arguments or the files.
    pub(super) fn options(
        &self,
        name: Option<Arc<str>>,
        user: Option<Uid>,
    ) -> Result<ServiceOptions, Failure> {
        match self {
            Self::Tunnel(args) => args.options(name, user).map(ServiceOptions::from),
            Self::Knockd(args) => args.options(name, user).map(ServiceOptions::from),
            Self::Http(args) => args.options(name, user).map(ServiceOptions::from),
            Self::Firewall(args) => args.options(name, user).map(ServiceOptions::from),
        }
    }
}
