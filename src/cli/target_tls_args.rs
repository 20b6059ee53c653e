//! The flags of `http` about TLS with the web server.

use std::path::PathBuf;
use std::sync::Arc;

use clap::Args;

use super::http_target::HttpTarget;
use super::web_args::HTTP;
use crate::http::{CaFile, ClientTls};
use crate::httpgate::WebTarget;
use crate::run::Failure;

/// Flag of the certificates.
const CA_FLAG: &str = "--target-ca";

/// TLS with the web servers.
#[derive(Clone, Debug, Args)]
pub(super) struct TargetTlsArgs {
    /// Check web servers with https:// against the certificates of this file of PEM, instead of
    /// those that the system trusts; read again on a reload
    #[arg(long, value_name = "FILE", help_heading = HTTP)]
    target_ca: Option<PathBuf>,

    /// Name that the certificate of a web server has to have, and that it is asked for, instead of
    /// the host of its URL
    #[arg(long, value_name = "NAME", help_heading = HTTP)]
    target_name: Option<String>,
}

/// Web servers, and the certificates that they are checked against.
pub(super) struct CheckedTargets {
    pub(super) targets: Vec<WebTarget>,
    pub(super) tls: Option<ClientTls>,
}

/// Flags about TLS that make no sense together.
#[derive(Debug, thiserror::Error)]
enum TargetTlsError {
    /// No server has it.
    #[error("{0} is about servers with TLS, and no -t begins with https://; leave it out")]
    Plain(&'static str),
    /// No name.
    #[error(
        "--target-name '{0}' is neither a name nor an address; write one such as app.example.org"
    )]
    Name(String),
    /// This build cannot.
    #[error("this build lacks aws-lc and so TLS; write http://, or use another build")]
    NoTls,
}

impl From<TargetTlsError> for Failure {
    fn from(error: TargetTlsError) -> Self {
        Self::Usage(error.into())
    }
}

impl TargetTlsArgs {
    /// Returns the files that are read again on a reload.
    pub(super) fn files(&self) -> impl Iterator<Item = &PathBuf> {
        self.target_ca.iter()
    }

    /// Returns web servers with what they are checked against. Reads the certificates.
    ///
    /// # Errors
    /// [`Failure`] of the arguments, or of the file that they name.
    pub(super) fn targets(&self, all: &[HttpTarget]) -> Result<CheckedTargets, Failure> {
        if all.iter().all(|target| target.tls_name.is_none()) {
            let ca = self.target_ca.as_ref().map(|_| CA_FLAG);
            let name = || self.target_name.as_ref().map(|_| "--target-name");
            return match ca.or_else(name) {
                Some(flag) => Err(TargetTlsError::Plain(flag).into()),
                None => Ok(CheckedTargets { targets: self.named(all), tls: None }),
            };
        }
        if !ClientTls::IS_BUILT {
            return Err(TargetTlsError::NoTls.into());
        }
        if let Some(name) = self.target_name.as_ref().filter(|name| !ClientTls::takes(name)) {
            return Err(TargetTlsError::Name(name.clone()).into());
        }
        let ca = self.target_ca.as_deref().map(|path| CaFile { flag: CA_FLAG, path });
        let tls = ClientTls::read(ca).map_err(|error| Failure::Usage(error.into()))?;
        Ok(CheckedTargets { targets: self.named(all), tls: Some(tls) })
    }

    fn named(&self, all: &[HttpTarget]) -> Vec<WebTarget> {
        let target = |HttpTarget { address, host, tls_name }: &HttpTarget| WebTarget {
            address: address.clone(),
            host: host.clone(),
            tls_name: tls_name
                .as_deref()
                .map(|own| Arc::from(self.target_name.as_deref().unwrap_or(own))),
        };
        all.iter().map(target).collect()
    }
}
