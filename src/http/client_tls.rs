//! TLS of a client of the web: a server is always checked, against the system's certificates or
//! against those of a file.
//!
//! A build without aws-lc has no TLS and says so.

use std::path::{Path, PathBuf};

use crate::files::read::{ReadError, read};
use crate::net::IdentityError;

pub use imp::ClientTls;

/// Longest file of certificates, in bytes: 16 MiB.
const LONGEST: usize = 16 << 20;

/// Flag of the certificates.
const CA_FLAG: &str = "--ca";

/// Reason why a server cannot be checked.
#[derive(Debug, thiserror::Error)]
pub enum ClientTlsError {
    /// The certificates cannot be read.
    #[error(
        "cannot read {CA_FLAG} {file}: {cause}; check its path and who may read it, and that it is a regular file",
        file = .file.display()
    )]
    Unreadable {
        /// The file.
        file: PathBuf,
        /// The reason.
        cause: ReadError,
    },
    /// They are none.
    #[error(transparent)]
    Identity(#[from] IdentityError),
}

/// Reads the certificates of a file.
fn pem(file: &Path) -> Result<Vec<u8>, ClientTlsError> {
    let pem = read(file, LONGEST);
    let pem = pem.map_err(|cause| ClientTlsError::Unreadable { file: file.to_owned(), cause })?;
    Ok(pem.to_vec())
}

#[cfg(feature = "aws-lc")]
mod imp {
    use std::fmt;
    use std::io;
    use std::path::Path;
    use std::sync::Arc;

    use tokio_rustls::TlsConnector;
    use tokio_rustls::client::TlsStream;
    use tokio_rustls::rustls::pki_types::ServerName;

    use super::{CA_FLAG, ClientTlsError, pem};
    use crate::net::{Stream, connector, named_roots, system_roots};

    /// The means to secure connections, or the reason why there is none.
    #[derive(Clone)]
    pub struct ClientTls(Result<TlsConnector, Arc<str>>);

    impl ClientTls {
        /// Reads the certificates to check a server with: those of `ca`, or the system's.
        ///
        /// # Errors
        /// [`ClientTlsError`]. Without certificates of the system the request fails instead.
        pub fn read(ca: Option<&Path>) -> Result<Self, ClientTlsError> {
            let roots = match ca {
                Some(file) => Ok(named_roots(CA_FLAG, file, &pem(file)?)?),
                None => system_roots(|_| ()),
            };
            Ok(Self(roots.and_then(|roots| connector(roots, None)).map_err(Arc::from)))
        }

        /// Shakes hands with a server that has to prove to be `host`.
        ///
        /// # Errors
        /// It does not, or the connection ends.
        pub async fn wrap(&self, stream: Stream, host: &str) -> io::Result<TlsStream<Stream>> {
            let connector = self.0.as_ref().map_err(|why| io::Error::other(&**why))?;
            // The place of an address says nothing about its owner.
            let host = host.split_once('%').map_or(host, |(ip, _)| ip);
            let name = ServerName::try_from(host.to_owned()).map_err(io::Error::other)?;
            connector.connect(name, stream).await
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
    use std::path::Path;

    use super::{ClientTlsError, pem};
    use crate::net::Stream;

    /// Refuses: this build has no TLS.
    #[derive(Clone, Debug)]
    pub struct ClientTls;

    impl ClientTls {
        /// Reads the certificates, for which this build has no use.
        ///
        /// # Errors
        /// [`ClientTlsError::Unreadable`]
        pub fn read(ca: Option<&Path>) -> Result<Self, ClientTlsError> {
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
