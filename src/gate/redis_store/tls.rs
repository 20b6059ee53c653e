//! TLS to a Redis server, sealed by aws-lc.
//!
//! The server's certificate is always checked, against the system's roots or
//! against the given file. Everything is read when options are made, at the start
//! and at a reload, so that a file that cannot be used is found out before anything
//! changes. Two that were read from the same bytes are equal: then a reload has
//! nothing to do. A build without aws-lc has no TLS and says so.

use std::fmt;
use std::path::{Path, PathBuf};

use sha2::{Digest, Sha256};
use zeroize::Zeroizing;

use crate::files::read::{ReadError, read};
use crate::net::IdentityError;

pub(super) use imp::Tls;

/// The most bytes of a file of certificates: 16 MiB.
const LONGEST: usize = 16 << 20;

/// The means to check the server, and our own certificate.
#[derive(Clone)]
pub struct TlsOptions {
    /// The files that are read.
    pub files: TlsFiles,
    /// The digest of everything that was read.
    digest: [u8; 32],
    tls: Tls,
}

/// Files for TLS.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TlsFiles {
    /// Certificates (PEM) to trust instead of the system's.
    pub ca: Option<PathBuf>,
    /// The certificate (PEM) to show to the server, with those between it and its authority.
    pub cert: Option<PathBuf>,
    /// Its private key (PEM).
    pub key: Option<PathBuf>,
}

/// One of the files.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Which {
    /// Those to trust.
    Ca,
    /// The one to show.
    Cert,
}

/// The reason why files for TLS cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// It cannot be read.
    #[error(
        "cannot read {which} {file}: {cause}; check its path and who may read it, and that it is a regular file",
        file = .file.display()
    )]
    Unreadable {
        /// Its purpose.
        which: Which,
        /// The file.
        file: PathBuf,
        /// The reason.
        cause: ReadError,
    },
    /// They hold no certificate or key, or do not belong together.
    #[error(transparent)]
    Identity(#[from] IdentityError),
}

impl TlsFiles {
    /// Those that are named.
    pub fn all(&self) -> impl Iterator<Item = &PathBuf> {
        [&self.ca, &self.cert, &self.key].into_iter().flatten()
    }
}

impl fmt::Display for Which {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.flag())
    }
}

impl Which {
    /// Returns the flag that names it.
    fn flag(self) -> &'static str {
        match self {
            Self::Ca => "--gate-ca",
            Self::Cert => "--gate-cert",
        }
    }
}

impl TlsOptions {
    /// Reads the files. The private key is read by the caller, which knows the file's other
    /// readers: it is there if, and only if, its file is named.
    ///
    /// # Errors
    /// [`TlsError`]. Without trusted certificates of the system the first connection
    /// fails instead: they may come.
    pub fn read(files: TlsFiles, key: Option<&Zeroizing<Vec<u8>>>) -> Result<Self, TlsError> {
        let mut digest = Sha256::new();
        let mut certificates = |which, file: &Option<PathBuf>| -> Result<_, TlsError> {
            let Some(file) = file else { return Ok(None) };
            let bytes = read(file, LONGEST).map_err(|cause| {
                let file = file.clone();
                TlsError::Unreadable { which, file, cause }
            })?;
            // With their lengths, so that no two pairs of files are alike.
            digest.update((bytes.len() as u64).to_be_bytes());
            digest.update(&bytes);
            Ok(Some(bytes))
        };
        let ca = certificates(Which::Ca, &files.ca)?;
        let cert = certificates(Which::Cert, &files.cert)?;
        let own = match (&files.cert, &cert, &files.key, key) {
            (Some(cert_file), Some(cert), Some(key_file), Some(key)) => {
                Some(Own { cert_file, cert, key_file, key })
            }
            _ => None,
        };
        key.inspect(|key| digest.update(key.as_slice()));
        let tls = Tls::new(files.ca.as_deref().zip(ca.as_ref()), own, &mut digest)?;
        Ok(Self { files, digest: digest.finalize().into(), tls })
    }

    /// No files: the system's certificates.
    pub fn of_system() -> Self {
        Self::read(TlsFiles::default(), None).expect("no file is named that could be wrong")
    }

    /// The means to secure connections.
    pub(super) fn tls(&self) -> Tls {
        self.tls.clone()
    }
}

impl PartialEq for TlsOptions {
    fn eq(&self, other: &Self) -> bool {
        self.files == other.files && self.digest == other.digest
    }
}

impl fmt::Debug for TlsOptions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TlsOptions").field("files", &self.files).finish_non_exhaustive()
    }
}

/// A certificate and its key, as they were read.
struct Own<'a> {
    cert_file: &'a Path,
    cert: &'a [u8],
    key_file: &'a Path,
    key: &'a [u8],
}

#[cfg(feature = "aws-lc")]
mod imp {
    use std::io;
    use std::path::Path;
    use std::sync::Arc;

    use sha2::{Digest, Sha256};
    use tokio::net::TcpStream;
    use tokio_rustls::TlsConnector;
    use tokio_rustls::client::TlsStream;
    use tokio_rustls::rustls::pki_types::ServerName;
    use tokio_rustls::rustls::sign::SingleCertAndKey;
    use zeroize::Zeroizing;

    use super::{Own, TlsError, Which};
    use crate::net::{IdentityError, IdentityFiles, certified_key};
    use crate::net::{connector, named_roots, system_roots};

    /// The means to secure connections, or the reason why there is none.
    #[derive(Clone)]
    pub(in super::super) struct Tls(Result<TlsConnector, Arc<str>>);

    impl Tls {
        pub(super) fn new(
            ca: Option<(&Path, &Zeroizing<Vec<u8>>)>,
            own: Option<Own<'_>>,
            digest: &mut Sha256,
        ) -> Result<Self, TlsError> {
            let identity = own.map(|own| identity(&own)).transpose()?;
            let roots = match ca {
                Some((file, pem)) => Ok(named_roots(Which::Ca.flag(), file, pem)?),
                None => system_roots(|certificate| digest.update(certificate)),
            };
            Ok(Self(roots.and_then(|roots| connector(roots, identity)).map_err(Arc::from)))
        }

        /// Shakes hands over `tcp` with a server that has to prove to be `host`.
        pub(in super::super) async fn wrap(
            &self,
            tcp: TcpStream,
            host: &str,
        ) -> io::Result<TlsStream<TcpStream>> {
            let connector = self.0.as_ref().map_err(|why| io::Error::other(&**why))?;
            // The place of an address says nothing about its owner.
            let host = host.split_once('%').map_or(host, |(ip, _)| ip);
            let name = ServerName::try_from(host.to_owned()).map_err(io::Error::other)?;
            connector.connect(name, tcp).await
        }
    }

    /// Our identity.
    fn identity(own: &Own<'_>) -> Result<Arc<SingleCertAndKey>, IdentityError> {
        let Own { cert_file, cert, key_file, key } = *own;
        let files = IdentityFiles {
            cert_flag: Which::Cert.flag(),
            cert_file,
            cert,
            key_flag: "--gate-key",
            key_file,
            key,
        };
        Ok(Arc::new(SingleCertAndKey::from(certified_key(files)?)))
    }
}

#[cfg(not(feature = "aws-lc"))]
mod imp {
    use std::io;
    use std::path::Path;

    use sha2::Sha256;
    use tokio::net::TcpStream;
    use zeroize::Zeroizing;

    use super::{Own, TlsError};

    /// Refuses: this build has no TLS.
    #[derive(Clone)]
    pub(in super::super) struct Tls;

    impl Tls {
        /// This build has no use for the files.
        pub(super) fn new(
            _: Option<(&Path, &Zeroizing<Vec<u8>>)>,
            own: Option<Own<'_>>,
            _: &mut Sha256,
        ) -> Result<Self, TlsError> {
            if let Some(Own { cert_file, cert, key_file, key }) = own {
                let _ = (cert_file, cert, key_file, key);
            }
            Ok(Self)
        }

        #[expect(clippy::unused_async, reason = "it stands in for a handshake")]
        pub(in super::super) async fn wrap(&self, _: TcpStream, _: &str) -> io::Result<TcpStream> {
            Err(io::Error::other("this build lacks aws-lc and so TLS; use redis://"))
        }
    }
}
