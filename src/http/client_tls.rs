//! TLS of a client of the web: a server is always checked, against the system's certificates or
//! against those of a file.
//!
//! A build without aws-lc has no TLS and says so.

use std::path::{Path, PathBuf};

use crate::files::read::{ReadError, read};
use crate::net::IdentityError;

pub use imp::{ClientTls, told};

/// Longest file of certificates, in bytes: 16 MiB.
const LONGEST: usize = 16 << 20;

/// Reason why a server cannot be checked.
#[derive(Debug, thiserror::Error)]
pub enum ClientTlsError {
    /// The certificates cannot be read.
    #[error(
        "cannot read {flag} {file}: {cause}; check its path and who may read it, and that it is a regular file",
        file = .file.display()
    )]
    Unreadable {
        /// Its flag.
        flag: &'static str,
        /// The file.
        file: PathBuf,
        /// The reason.
        cause: ReadError,
    },
    /// They are none.
    #[error(transparent)]
    Identity(#[from] IdentityError),
}

/// A file of certificates, and the flag that names it.
#[derive(Clone, Copy, Debug)]
pub struct CaFile<'a> {
    /// The flag.
    pub flag: &'static str,
    /// The file.
    pub path: &'a Path,
}

/// Reads the certificates of a file.
fn pem(file: CaFile<'_>) -> Result<Vec<u8>, ClientTlsError> {
    let CaFile { flag, path } = file;
    let pem = read(path, LONGEST);
    let pem = pem.map_err(|cause| {
        let file = path.to_owned();
        ClientTlsError::Unreadable { flag, file, cause }
    })?;
    Ok(pem.to_vec())
}

#[cfg(feature = "aws-lc")]
mod imp {
    use std::error::Error;
    use std::fmt;
    use std::io;
    use std::sync::Arc;

    use sha2::{Digest, Sha256};
    use tokio_rustls::TlsConnector;
    use tokio_rustls::client::TlsStream;
    use tokio_rustls::rustls::Error as TlsError;
    use tokio_rustls::rustls::pki_types::ServerName;

    use super::{CaFile, ClientTlsError, pem};
    use crate::net::{
        RefusedCertificate, Stream, connector, named_roots, refused_certificate, system_roots,
    };

    const AUTHORITY: &str =
        "give that authority's certificate with --ca FILE; one that signs itself is its own";

    /// HTTP/1.1 in ALPN.
    const HTTP1: &[u8] = b"http/1.1";

    /// The means to secure connections, or the reason why there is none. Equal where the
    /// certificates are.
    #[derive(Clone)]
    pub struct ClientTls {
        connector: Result<TlsConnector, Arc<str>>,
        /// Digest of the certificates.
        digest: [u8; 32],
    }

    impl ClientTls {
        /// This build has TLS.
        pub const IS_BUILT: bool = true;

        /// Reads the certificates to check a server with: those of `ca`, or the system's.
        ///
        /// # Errors
        /// [`ClientTlsError`]. Without certificates of the system the request fails instead.
        pub fn read(ca: Option<CaFile<'_>>) -> Result<Self, ClientTlsError> {
            let mut digest = Sha256::new();
            let roots = match ca {
                Some(file) => {
                    let pem = pem(file)?;
                    digest.update(&pem);
                    Ok(named_roots(file.flag, file.path, &pem)?)
                }
                None => system_roots(|certificate| digest.update(certificate)),
            };
            let connector = roots.and_then(|roots| connector(roots, None));
            Ok(Self { connector: connector.map_err(Arc::from), digest: digest.finalize().into() })
        }

        /// Returns true for a name or address, which a server can prove.
        pub fn takes(host: &str) -> bool {
            ServerName::try_from(host).is_ok()
        }

        /// Shakes hands with a server that has to prove to be `host`.
        ///
        /// # Errors
        /// It does not, or the connection ends.
        pub async fn wrap(&self, stream: Stream, host: &str) -> io::Result<TlsStream<Stream>> {
            let connector = self.connector.as_ref().map_err(|why| io::Error::other(&**why))?;
            // The place of an address says nothing about its owner.
            let host = host.split_once('%').map_or(host, |(ip, _)| ip);
            let name = ServerName::try_from(host.to_owned()).map_err(io::Error::other)?;
            connector.with_alpn(vec![HTTP1.to_vec()]).connect(name, stream).await
        }
    }

    /// Returns cause and remedy of a handshake that failed, where --ca names the authorities.
    pub fn told(error: &io::Error) -> String {
        let of_tls = error.get_ref().map(|error| error as &(dyn Error + 'static));
        match of_tls.and_then(|error| error.downcast_ref::<TlsError>()) {
            Some(TlsError::InvalidCertificate(wrong)) => {
                let RefusedCertificate { text, remedy } = refused_certificate(wrong, AUTHORITY);
                format!("{text}; {remedy}")
            }
            Some(TlsError::InvalidMessage(_)) => {
                "what answers there does not speak TLS; check the port of the URL".to_owned()
            }
            _ => format!("{error}; check the URL, and the log of the server"),
        }
    }

    impl PartialEq for ClientTls {
        fn eq(&self, other: &Self) -> bool {
            self.digest == other.digest
        }
    }

    impl fmt::Debug for ClientTls {
        fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.debug_struct("ClientTls").finish_non_exhaustive()
        }
    }
}

#[cfg(not(feature = "aws-lc"))]
mod imp {
    use std::io;

    use super::{CaFile, ClientTlsError, pem};
    use crate::net::Stream;

    /// Refuses: this build has no TLS.
    #[derive(Clone, Debug, PartialEq)]
    pub struct ClientTls;

    /// Returns cause and remedy of a handshake that failed.
    pub fn told(error: &io::Error) -> String {
        format!("{error}; take another build")
    }

    impl ClientTls {
        /// This build has none.
        pub const IS_BUILT: bool = false;

        /// Never called.
        pub fn takes(_: &str) -> bool {
            false
        }

        /// Reads the certificates, for which this build has no use.
        ///
        /// # Errors
        /// [`ClientTlsError::Unreadable`]
        pub fn read(ca: Option<CaFile<'_>>) -> Result<Self, ClientTlsError> {
            ca.map(pem).transpose()?;
            Ok(Self)
        }

        /// Refuses.
        ///
        /// # Errors
        /// Always.
        #[expect(clippy::unused_async, reason = "it stands in for a handshake")]
        pub async fn wrap(&self, stream: Stream, _: &str) -> io::Result<Stream> {
            drop(stream);
            Err(io::Error::other("this build lacks aws-lc and so TLS"))
        }
    }
}
