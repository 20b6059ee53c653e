//! TLS of a client: the certificates that a server is checked against.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use tokio_rustls::TlsConnector;
use tokio_rustls::rustls::client::ResolvesClientCert;
use tokio_rustls::rustls::crypto::aws_lc_rs;
use tokio_rustls::rustls::sign::SingleCertAndKey;
use tokio_rustls::rustls::{ClientConfig, RootCertStore};

use super::tls_identity::{IdentityError, certificates};
use crate::files::read::open;

/// Returns the certificates of a file, which `flag` names.
///
/// # Errors
/// [`IdentityError::NoCertificates`]
pub fn named_roots(
    flag: &'static str,
    file: &Path,
    pem: &[u8],
) -> Result<RootCertStore, IdentityError> {
    let mut roots = RootCertStore::empty();
    for certificate in certificates(flag, file, pem)? {
        let none = |_| IdentityError::NoCertificates { flag, file: file.to_owned() };
        roots.add(certificate).map_err(none)?;
    }
    Ok(roots)
}

/// Returns the certificates that the system trusts, each of which `seen` gets.
///
/// # Errors
/// The reason why there are none.
pub fn system_roots(mut seen: impl FnMut(&[u8])) -> Result<RootCertStore, String> {
    // It is read by the library, which would wait for a pipe.
    if let Some(path) = std::env::var_os("SSL_CERT_FILE").map(PathBuf::from) {
        open(&path).map_err(|error| {
            let path = path.display();
            format!("cannot read SSL_CERT_FILE {path}: {error}")
        })?;
    }
    let mut found = rustls_native_certs::load_native_certs().certs;
    // A directory gives them in any order.
    found.sort_unstable_by(|one, other| one.as_ref().cmp(other.as_ref()));
    found.iter().for_each(|certificate| seen(certificate));
    let mut roots = RootCertStore::empty();
    roots.add_parsable_certificates(found);
    if roots.is_empty() {
        return Err("there are no certificates to check a server with".to_owned());
    }
    Ok(roots)
}

/// Returns the means to secure connections to servers with a certificate of `roots`, to which
/// `identity` is shown if they ask.
///
/// # Errors
/// The words of the library.
pub fn connector(
    roots: RootCertStore,
    identity: Option<Arc<SingleCertAndKey>>,
) -> Result<TlsConnector, String> {
    let provider = Arc::new(aws_lc_rs::default_provider());
    let config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(|error| error.to_string())?
        .with_root_certificates(roots);
    let config = match identity {
        Some(identity) => config.with_client_cert_resolver(identity as Arc<dyn ResolvesClientCert>),
        None => config.with_no_client_auth(),
    };
    Ok(TlsConnector::from(Arc::new(config)))
}
