//! TLS of a server: its certificate, and the handshake, in which ALPN settles the version of HTTP.
//!
//! Files are read when options are made, at the start and at a reload, so that one that cannot be
//! used is found before anything changes. Two values that were read from the same bytes are equal:
//! then a reload has nothing to do, and a renewed certificate makes a new service. A build without
//! aws-lc has no TLS and refuses the flags.

use std::fmt;
use std::path::PathBuf;

use sha2::{Digest, Sha256};
use zeroize::Zeroizing;

use crate::files::read::{ReadError, read};
use crate::net::{IdentityError, IdentityFiles};

pub use imp::Acceptor;

/// Longest file of certificates, in bytes: 16 MiB.
const LONGEST: usize = 16 << 20;

/// Flag of the certificate.
pub const CERT_FLAG: &str = "--tls-cert";

/// Flag of the key.
pub const KEY_FLAG: &str = "--tls-key";

/// The certificate of a server.
#[derive(Clone)]
pub struct ServerTls {
    /// File of the certificate.
    pub cert: PathBuf,
    /// File of its key.
    pub key: PathBuf,
    /// Digest of both.
    digest: [u8; 32],
    acceptor: Acceptor,
}

/// Reason why a server has no TLS.
#[derive(Debug, thiserror::Error)]
pub enum ServerTlsError {
    /// The certificate cannot be read.
    #[error(
        "cannot read {CERT_FLAG} {file}: {cause}; check its path and who may read it, and that it is a regular file",
        file = .file.display()
    )]
    Unreadable {
        /// The file.
        file: PathBuf,
        /// The reason.
        cause: ReadError,
    },
    /// It is no certificate with its key.
    #[error(transparent)]
    Identity(#[from] IdentityError),
    /// The library refuses it, or is not in this build.
    #[error("{0}")]
    Unusable(String),
}

impl ServerTls {
    /// Reads the certificate. The private key was read by the caller, which knows the file's other
    /// readers.
    ///
    /// # Errors
    /// [`ServerTlsError`]
    pub fn read(
        cert: PathBuf,
        key: PathBuf,
        secret: &Zeroizing<Vec<u8>>,
    ) -> Result<Self, ServerTlsError> {
        let pem = read(&cert, LONGEST)
            .map_err(|cause| ServerTlsError::Unreadable { file: cert.clone(), cause })?;
        let mut digest = Sha256::new();
        // With its length, so that no two pairs of files are alike.
        digest.update((pem.len() as u64).to_be_bytes());
        digest.update(&pem);
        digest.update(secret.as_slice());
        let files = IdentityFiles {
            cert_flag: CERT_FLAG,
            cert_file: &cert,
            cert: &pem,
            key_flag: KEY_FLAG,
            key_file: &key,
            key: secret,
        };
        let acceptor = Acceptor::new(files)?;
        Ok(Self { cert, key, digest: digest.finalize().into(), acceptor })
    }

    /// Returns the means to shake hands.
    pub fn acceptor(&self) -> Acceptor {
        self.acceptor.clone()
    }
}

impl PartialEq for ServerTls {
    fn eq(&self, other: &Self) -> bool {
        self.cert == other.cert && self.key == other.key && self.digest == other.digest
    }
}

impl fmt::Debug for ServerTls {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { cert, key, .. } = self;
        f.debug_struct("ServerTls").field("cert", cert).field("key", key).finish_non_exhaustive()
    }
}

#[cfg(feature = "aws-lc")]
mod imp {
    use std::io;
    use std::sync::Arc;

    use tokio_rustls::TlsAcceptor;
    use tokio_rustls::rustls::ServerConfig;
    use tokio_rustls::rustls::crypto::aws_lc_rs;
    use tokio_rustls::rustls::sign::SingleCertAndKey;
    use tokio_rustls::server::TlsStream;

    use super::{IdentityFiles, ServerTlsError};
    use crate::http::{ClientStream, Version};
    use crate::net::certified_key;

    /// HTTP/1.1 in ALPN.
    const HTTP1: &[u8] = b"http/1.1";

    /// The protocols that ALPN may choose, the preferred one first.
    const PROTOCOLS: [&[u8]; 2] = [b"h2", HTTP1];

    /// The means to shake hands with clients.
    #[derive(Clone)]
    pub struct Acceptor(Arc<ServerConfig>);

    impl Acceptor {
        pub(super) fn new(files: IdentityFiles<'_>) -> Result<Self, ServerTlsError> {
            let identity = SingleCertAndKey::from(certified_key(files)?);
            let provider = Arc::new(aws_lc_rs::default_provider());
            let mut config = ServerConfig::builder_with_provider(provider)
                .with_safe_default_protocol_versions()
                .map_err(|error| ServerTlsError::Unusable(error.to_string()))?
                .with_no_client_auth()
                .with_cert_resolver(Arc::new(identity));
            config.alpn_protocols = PROTOCOLS.iter().map(|name| name.to_vec()).collect();
            Ok(Self(Arc::new(config)))
        }

        /// Returns the same without HTTP/2.
        pub fn without_http2(&self) -> Self {
            let mut config = ServerConfig::clone(&self.0);
            config.alpn_protocols = vec![HTTP1.to_vec()];
            Self(Arc::new(config))
        }

        /// Shakes hands with a client, and returns the version of HTTP that both agreed on.
        ///
        /// # Errors
        /// The client left, or speaks no TLS that this server accepts.
        pub async fn accept(
            &self,
            stream: ClientStream,
        ) -> io::Result<(TlsStream<ClientStream>, Version)> {
            let acceptor = TlsAcceptor::from(Arc::clone(&self.0));
            let stream = acceptor.accept(stream).await?;
            let version = match stream.get_ref().1.alpn_protocol() {
                Some(b"h2") => Version::Http2,
                _ => Version::Http1,
            };
            Ok((stream, version))
        }
    }
}

#[cfg(not(feature = "aws-lc"))]
mod imp {
    use std::io;

    use super::{IdentityFiles, ServerTlsError};
    use crate::http::{ClientStream, Version};

    /// Never made: this build has no TLS.
    #[derive(Clone)]
    pub struct Acceptor(());

    impl Acceptor {
        pub(super) fn new(files: IdentityFiles<'_>) -> Result<Self, ServerTlsError> {
            let IdentityFiles { cert_flag, cert_file, cert, key_flag, key_file, key } = files;
            let _ = (cert_flag, cert_file, cert, key_flag, key_file, key);
            let cause = "this build lacks aws-lc and so TLS; put a server with TLS in front";
            Err(ServerTlsError::Unusable(cause.to_owned()))
        }

        /// Never called.
        pub fn without_http2(&self) -> Self {
            self.clone()
        }

        /// Never called.
        ///
        /// # Errors
        /// None.
        #[expect(clippy::unused_async, reason = "it stands in for a handshake")]
        pub async fn accept(&self, _: ClientStream) -> io::Result<(ClientStream, Version)> {
            Err(io::Error::other("this build lacks aws-lc and so TLS"))
        }
    }
}
