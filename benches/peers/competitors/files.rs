//! Keys and certificates of all competitors, made for the run.

use std::path::PathBuf;
use std::process::Command;

use anyhow::{Context, ensure};
use tempfile::TempDir;

use testkit::data::Noise;
use testkit::end;

/// Secrets in a directory that is removed with the run.
pub(crate) struct Files {
    dir: TempDir,
}

impl Files {
    pub(crate) fn make() -> anyhow::Result<Self> {
        let files = Self { dir: tempfile::tempdir()? };
        end::keygen(files.dir.path(), "knockpipe.key");
        std::fs::write(files.spiped_key(), Noise::new(2).bytes(32))?;
        files.make_certificate()?;
        Ok(files)
    }

    pub(crate) fn knockpipe_key(&self) -> PathBuf {
        self.dir.path().join("knockpipe.key")
    }

    pub(crate) fn spiped_key(&self) -> PathBuf {
        self.dir.path().join("spiped.key")
    }

    /// Returns key and certificate of both ends of a TLS pair, and its own authority.
    pub(crate) fn pem(&self) -> PathBuf {
        self.dir.path().join("tls.pem")
    }

    /// ECDSA on P-256: the cheapest handshake that all of them offer.
    fn make_certificate(&self) -> anyhow::Result<()> {
        let (key, certificate) = (self.dir.path().join("tls.key"), self.dir.path().join("tls.crt"));
        let mut openssl = Command::new("openssl");
        openssl
            .args(["req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256"])
            .args(["-nodes", "-days", "2", "-subj", "/CN=localhost", "-keyout"])
            .arg(&key)
            .arg("-out")
            .arg(&certificate);
        let output = openssl.output().context("cannot start openssl")?;
        ensure!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        let both = std::fs::read_to_string(&certificate)? + &std::fs::read_to_string(&key)?;
        std::fs::write(self.pem(), both)?;
        Ok(())
    }
}
