//! TLS to a Redis server, sealed by aws-lc.
//!
//! The server's certificate is always checked, against the system's roots or
//! against the given file. A build without aws-lc has no TLS and says so.

use std::io;
use std::path::Path;

use tokio::net::TcpStream;

#[cfg(feature = "aws-lc")]
pub(super) use with_aws_lc::wrap;

#[cfg(feature = "aws-lc")]
mod with_aws_lc {
    use std::sync::Arc;

    use tokio_rustls::TlsConnector;
    use tokio_rustls::client::TlsStream;
    use tokio_rustls::rustls::crypto::aws_lc_rs;
    use tokio_rustls::rustls::pki_types::pem::PemObject;
    use tokio_rustls::rustls::pki_types::{CertificateDer, ServerName};
    use tokio_rustls::rustls::{ClientConfig, RootCertStore};

    use super::{Path, TcpStream, io};

    /// Shakes hands over `tcp` with a server that has to prove to be `host`.
    pub(in super::super) async fn wrap(
        tcp: TcpStream,
        host: &str,
        ca_file: Option<&Path>,
    ) -> io::Result<TlsStream<TcpStream>> {
        let ca_file = ca_file.map(Path::to_owned);
        // Reads files; once for a connection, which is rare.
        let roots = tokio::task::spawn_blocking(move || roots(ca_file.as_deref())).await;
        let roots = roots.map_err(io::Error::other)??;
        let config = ClientConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
            .with_safe_default_protocol_versions()
            .map_err(io::Error::other)?
            .with_root_certificates(roots)
            .with_no_client_auth();
        let name = ServerName::try_from(host.to_owned()).map_err(io::Error::other)?;
        TlsConnector::from(Arc::new(config)).connect(name, tcp).await
    }

    fn roots(ca_file: Option<&Path>) -> io::Result<RootCertStore> {
        let mut roots = RootCertStore::empty();
        match ca_file {
            Some(path) => {
                let bad = |error| {
                    let path = path.display();
                    io::Error::other(format!("cannot read certificates in {path}: {error}"))
                };
                for certificate in CertificateDer::pem_file_iter(path).map_err(bad)? {
                    roots.add(certificate.map_err(bad)?).map_err(io::Error::other)?;
                }
            }
            None => {
                let found = rustls_native_certs::load_native_certs();
                roots.add_parsable_certificates(found.certs);
            }
        }
        if roots.is_empty() {
            return Err(io::Error::other("there are no root certificates to check a server with"));
        }
        Ok(roots)
    }
}

/// Refuses: this build has no TLS.
#[cfg(not(feature = "aws-lc"))]
#[expect(clippy::unused_async, reason = "it stands in for a handshake")]
pub(super) async fn wrap(_: TcpStream, _: &str, _: Option<&Path>) -> io::Result<TcpStream> {
    Err(io::Error::other("this build lacks aws-lc and so TLS; use redis://"))
}
