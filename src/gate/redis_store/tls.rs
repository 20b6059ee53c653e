//! TLS to a Redis server, sealed by aws-lc.
//!
//! The server's certificate is always checked, against the system's roots or
//! against the given file. A build without aws-lc has no TLS and says so.

use std::io;
use std::path::PathBuf;

use tokio::net::TcpStream;

#[cfg(feature = "aws-lc")]
pub(super) use with_aws_lc::Tls;
#[cfg(feature = "aws-lc")]
pub use with_aws_lc::check_ca;

#[cfg(feature = "aws-lc")]
mod with_aws_lc {
    use std::path::Path;
    use std::sync::Arc;

    use tokio::sync::OnceCell;
    use tokio_rustls::TlsConnector;
    use tokio_rustls::client::TlsStream;
    use tokio_rustls::rustls::crypto::aws_lc_rs;
    use tokio_rustls::rustls::pki_types::pem::PemObject;
    use tokio_rustls::rustls::pki_types::{CertificateDer, ServerName};
    use tokio_rustls::rustls::{ClientConfig, RootCertStore};

    use super::{PathBuf, TcpStream, io};
    use crate::files::read::{open, read};
    use crate::tasks::blocking;

    /// The most bytes of a file of certificates: 16 MiB.
    const LONGEST: usize = 16 << 20;

    /// Whom to trust; reads that once, when the first connection is made.
    pub(in super::super) struct Tls {
        ca_file: Option<PathBuf>,
        connector: OnceCell<TlsConnector>,
    }

    impl Tls {
        /// Trusts what signed the certificates in `ca_file`, or the system's roots.
        pub(in super::super) fn new(ca_file: Option<PathBuf>) -> Self {
            Self { ca_file, connector: OnceCell::new() }
        }

        /// Shakes hands over `tcp` with a server that has to prove to be `host`.
        pub(in super::super) async fn wrap(
            &self,
            tcp: TcpStream,
            host: &str,
        ) -> io::Result<TlsStream<TcpStream>> {
            let connector = self.connector.get_or_try_init(|| self.connector()).await?;
            let name = ServerName::try_from(host.to_owned()).map_err(io::Error::other)?;
            connector.connect(name, tcp).await
        }

        async fn connector(&self) -> io::Result<TlsConnector> {
            let ca_file = self.ca_file.clone();
            let roots = blocking(move || roots(ca_file.as_deref())).await??;
            let provider = Arc::new(aws_lc_rs::default_provider());
            let config = ClientConfig::builder_with_provider(provider)
                .with_safe_default_protocol_versions()
                .map_err(io::Error::other)?
                .with_root_certificates(roots)
                .with_no_client_auth();
            Ok(TlsConnector::from(Arc::new(config)))
        }
    }

    /// Whether the file at `path` can be read and holds certificates.
    ///
    /// # Errors
    /// Why it is of no use: the first that cannot be read, or that there is none.
    pub fn check_ca(path: &Path) -> io::Result<()> {
        roots(Some(path)).map(drop)
    }

    fn roots(ca_file: Option<&Path>) -> io::Result<RootCertStore> {
        let mut roots = RootCertStore::empty();
        match ca_file {
            Some(path) => {
                let bad = |error: &dyn std::fmt::Display| {
                    let path = path.display();
                    io::Error::other(format!("cannot read certificates in {path}: {error}"))
                };
                let bytes = read(path, LONGEST).map_err(|error| bad(&error))?;
                for certificate in CertificateDer::pem_slice_iter(&bytes) {
                    let certificate = certificate.map_err(|error| bad(&error))?;
                    roots.add(certificate).map_err(io::Error::other)?;
                }
            }
            None => {
                // It is read by the library, which would wait for a pipe.
                if let Some(path) = std::env::var_os("SSL_CERT_FILE").map(PathBuf::from) {
                    open(&path).map_err(|error| {
                        let path = path.display();
                        io::Error::other(format!("cannot read SSL_CERT_FILE {path}: {error}"))
                    })?;
                }
                let found = rustls_native_certs::load_native_certs();
                roots.add_parsable_certificates(found.certs);
            }
        }
        if roots.is_empty() {
            let from = ca_file.map(|path| format!(" in {}", path.display())).unwrap_or_default();
            let cause = format!("there are no certificates{from} to check a server with");
            return Err(io::Error::other(cause));
        }
        Ok(roots)
    }
}

/// Whether the file at `path` can be read; what it holds is nothing to this build.
///
/// # Errors
/// What the system said.
#[cfg(not(feature = "aws-lc"))]
pub fn check_ca(path: &std::path::Path) -> io::Result<()> {
    crate::files::read::open(path).map(drop).map_err(io::Error::other)
}

/// Refuses: this build has no TLS.
#[cfg(not(feature = "aws-lc"))]
pub(super) struct Tls;

#[cfg(not(feature = "aws-lc"))]
impl Tls {
    pub(super) fn new(_: Option<PathBuf>) -> Self {
        Self
    }

    #[expect(clippy::unused_async, reason = "it stands in for a handshake")]
    pub(super) async fn wrap(&self, _: TcpStream, _: &str) -> io::Result<TcpStream> {
        Err(io::Error::other("this build lacks aws-lc and so TLS; use redis://"))
    }
}
