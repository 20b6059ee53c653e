//! Both ends of a tunnel.

use std::path::{Path, PathBuf};

use tempfile::TempDir;

use crate::address::{Addr, Kind};
use crate::end::{End, Launch, binary, keygen};
use crate::wire::Wire;

/// A record suite, as `--suite` spells it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Suite {
    ChaCha20Poly1305,
    Aes256Gcm,
    Auto,
}

impl Suite {
    /// The two suites that exist.
    pub const BOTH: [Self; 2] = [Self::ChaCha20Poly1305, Self::Aes256Gcm];

    pub fn flag(self) -> &'static str {
        match self {
            Self::ChaCha20Poly1305 => "chacha20-poly1305",
            Self::Aes256Gcm => "aes-256-gcm",
            Self::Auto => "auto",
        }
    }
}

/// Options of a pair.
pub struct PairOptions {
    pub suite: Suite,
    /// Kind of socket that clients connect to.
    pub source: Kind,
    /// Kind of socket between the two ends.
    pub middle: Kind,
    pub encrypt: Vec<String>,
    pub decrypt: Vec<String>,
    pub encrypt_binary: PathBuf,
    pub decrypt_binary: PathBuf,
}

impl Default for PairOptions {
    fn default() -> Self {
        Self {
            suite: Suite::Auto,
            source: Kind::Tcp4,
            middle: Kind::Tcp4,
            encrypt: Vec::new(),
            decrypt: Vec::new(),
            encrypt_binary: binary(),
            decrypt_binary: binary(),
        }
    }
}

impl PairOptions {
    /// Gives the same arguments to both ends.
    pub fn both(args: &[&str]) -> Self {
        let args: Vec<String> = args.iter().map(|&arg| arg.to_owned()).collect();
        Self { encrypt: args.clone(), decrypt: args, ..Self::default() }
    }

    pub fn suite(mut self, suite: Suite) -> Self {
        self.suite = suite;
        self
    }

    pub fn source(mut self, kind: Kind) -> Self {
        self.source = kind;
        self
    }

    pub fn middle(mut self, kind: Kind) -> Self {
        self.middle = kind;
        self
    }

    pub fn encrypt(mut self, args: &[&str]) -> Self {
        self.encrypt.extend(args.iter().map(|&arg| arg.to_owned()));
        self
    }

    pub fn decrypt(mut self, args: &[&str]) -> Self {
        self.decrypt.extend(args.iter().map(|&arg| arg.to_owned()));
        self
    }
}

/// An encrypt end and a decrypt end with one key, on this machine.
pub struct Pair {
    pub encrypt: End,
    pub decrypt: End,
    key: PathBuf,
    // Last, so that it is removed after both ends are gone.
    dir: TempDir,
}

impl Pair {
    /// Starts a pair in front of `target` with the default options.
    #[track_caller]
    pub fn to(target: &Addr) -> Self {
        Self::start(PairOptions::default(), target)
    }

    /// Starts a pair in front of `target`.
    #[track_caller]
    pub fn start(options: PairOptions, target: &Addr) -> Self {
        Self::start_via(options, target, Addr::clone)
    }

    /// Starts a pair with an encrypt end that dials the address that `via` makes from that of the
    /// decrypt end.
    #[track_caller]
    pub fn start_via(options: PairOptions, target: &Addr, via: impl Fn(&Addr) -> Addr) -> Self {
        let dir = tempfile::tempdir().expect("a temporary directory can be made");
        let key = keygen(dir.path(), "key");
        let decrypt = Launch::decrypt(&key)
            .binary(&options.decrypt_binary)
            .source(&options.middle.fresh(dir.path(), "sealed.sock"))
            .target(target)
            .args(["--suite", options.suite.flag()])
            .args(&options.decrypt)
            .start();
        let encrypt = Launch::encrypt(&key)
            .binary(&options.encrypt_binary)
            .source(&options.source.fresh(dir.path(), "plain.sock"))
            .target(&via(decrypt.addr()))
            .args(["--suite", options.suite.flag()])
            .args(&options.encrypt)
            .start();
        Self { encrypt, decrypt, key, dir }
    }

    /// Returns the address that clients connect to.
    pub fn entrance(&self) -> &Addr {
        self.encrypt.addr()
    }

    #[track_caller]
    pub fn connect(&self) -> Wire {
        self.encrypt.connect()
    }

    pub fn key(&self) -> &Path {
        &self.key
    }

    pub fn dir(&self) -> &Path {
        self.dir.path()
    }

    /// Returns both ends by name, encrypt first.
    pub fn ends(&self) -> [(&'static str, &End); 2] {
        [("encrypt", &self.encrypt), ("decrypt", &self.decrypt)]
    }

    /// Drains both ends; panics unless both exit 0.
    #[track_caller]
    pub fn stop(mut self) {
        self.encrypt.stop();
        self.decrypt.stop();
    }
}
