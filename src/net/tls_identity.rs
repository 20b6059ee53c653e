//! A certificate with its private key, as a program shows it to the other end of TLS.
//!
//! Takes bytes that were read already, since who may read a key is decided elsewhere. An error
//! repeats nothing of a file.

use std::path::{Path, PathBuf};

/// A certificate and its key, as they were read, and the flags that named them.
#[derive(Clone, Copy)]
pub struct IdentityFiles<'a> {
    /// Flag of the certificate.
    pub cert_flag: &'static str,
    /// File of the certificate.
    pub cert_file: &'a Path,
    /// Its bytes: PEM, with the certificates between it and its authority.
    pub cert: &'a [u8],
    /// Flag of the key.
    pub key_flag: &'static str,
    /// File of the key.
    pub key_file: &'a Path,
    /// Its bytes: PEM.
    pub key: &'a [u8],
}

/// Reason why a certificate cannot be shown.
#[derive(Debug, thiserror::Error)]
pub enum IdentityError {
    /// There is nothing to show.
    #[error(
        "{flag} {file} holds no certificates that can be read; name a file of PEM certificates",
        file = .file.display()
    )]
    NoCertificates {
        /// Its flag.
        flag: &'static str,
        /// The file.
        file: PathBuf,
    },
    /// The key is no key.
    #[error("{flag} {file} {cause}", file = .file.display())]
    Key {
        /// Its flag.
        flag: &'static str,
        /// The file.
        file: PathBuf,
        /// The kind of the file, and the remedy.
        cause: &'static str,
    },
    /// They do not belong together.
    #[error(
        "{key_flag} {key} is not the key of {cert_flag} {cert}: {cause}; name the two that were made together",
        key = .key.display(), cert = .cert.display()
    )]
    NotAPair {
        /// Flag of the certificate.
        cert_flag: &'static str,
        /// Its file.
        cert: PathBuf,
        /// Flag of the key.
        key_flag: &'static str,
        /// Its file.
        key: PathBuf,
        /// The words of the library.
        cause: String,
    },
}

#[cfg(feature = "aws-lc")]
pub use imp::{certificates, certified_key};

#[cfg(feature = "aws-lc")]
mod imp {
    use std::path::Path;

    use tokio_rustls::rustls::crypto::aws_lc_rs;
    use tokio_rustls::rustls::pki_types::pem::PemObject;
    use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer};
    use tokio_rustls::rustls::sign::CertifiedKey;
    use tokio_rustls::rustls::{Error, InconsistentKeys};
    use zeroize::Zeroize;

    use super::{IdentityError, IdentityFiles};

    /// Returns all certificates of a file, of which there is at least one.
    ///
    /// # Errors
    /// [`IdentityError::NoCertificates`]
    pub fn certificates(
        flag: &'static str,
        file: &Path,
        pem: &[u8],
    ) -> Result<Vec<CertificateDer<'static>>, IdentityError> {
        let found: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(pem).collect();
        let found = found.ok().filter(|found| !found.is_empty());
        found.ok_or_else(|| IdentityError::NoCertificates { flag, file: file.to_owned() })
    }

    /// Returns the certificate with its key.
    ///
    /// # Errors
    /// [`IdentityError`]
    pub fn certified_key(files: IdentityFiles<'_>) -> Result<CertifiedKey, IdentityError> {
        let IdentityFiles { cert_flag, cert_file, cert, key_flag, key_file, key } = files;
        let chain = certificates(cert_flag, cert_file, cert)?;
        let no_key =
            |cause| IdentityError::Key { flag: key_flag, file: key_file.to_owned(), cause };
        let mut key = PrivateKeyDer::from_pem_slice(key).map_err(|_| {
            let is_encrypted = key.windows(9).any(|word| word == b"ENCRYPTED");
            no_key(match is_encrypted {
                true => "is encrypted; decrypt it with 'openssl pkey -in FILE -out NEW'",
                false => "holds no private key; name a file of PEM (PKCS#8, PKCS#1 or SEC1)",
            })
        })?;
        let signer = aws_lc_rs::sign::any_supported_type(&key);
        key.zeroize();
        let signer = signer.map_err(|_| {
            no_key("is of a kind that is not known; make one of RSA, EC or Ed25519")
        })?;
        let pair = CertifiedKey::new(chain, signer);
        match pair.keys_match() {
            Ok(()) | Err(Error::InconsistentKeys(InconsistentKeys::Unknown)) => Ok(pair),
            Err(error) => {
                let cert = cert_file.to_owned();
                let key = key_file.to_owned();
                let cause = error.to_string();
                Err(IdentityError::NotAPair { cert_flag, cert, key_flag, key, cause })
            }
        }
    }
}
