//! Address of the gate's store and the login there, as flags that tunnels and the `gate` commands
//! share.
//!
//! A password never comes from the command line, where `ps` shows it to every user of the machine,
//! but from a file that only its owner may read, or from the environment. No flag is accepted and
//! ignored: flags that have no meaning for a file are refused with one.

use std::path::{Path, PathBuf};
use std::str::FromStr;

use clap::Args;
use zeroize::Zeroizing;

use crate::files::text::lines;
use crate::gate::redis_store::{
    AddressError, Credentials, Keys, RedisAddress, RedisOptions, Servers, TlsError, TlsFiles,
    TlsOptions,
};
use crate::gate::{StoreName, StoreOptions};
use crate::run::Failure;
use crate::sys::keyfile::Access;
use crate::sys::{credentials, tls_key};

/// Heading of the flags about the gate.
pub(super) const GATE: &str = "Gate";

/// Variable with the content of a credentials file, where no file can be provided.
pub(super) const ENVIRONMENT: &str = "KNOCKPIPE_GATE_CREDENTIALS";

/// The store of a gate.
#[derive(Debug, Args)]
pub(super) struct StoreArgs {
    /// Store of the allow-set and bans: redis://HOST:PORT/DB, rediss://HOST:PORT/DB,
    /// unix:///PATH?db=N, redis+sentinel://HOST:PORT,HOST:PORT/MASTER/DB,
    /// redis+cluster://HOST:PORT,HOST:PORT or file:PATH
    #[arg(long, value_name = "URL", help_heading = GATE)]
    pub(super) gate: Option<GateAddress>,

    /// File with USER:PASSWORD or PASSWORD for Redis in its first line, and for Sentinels in the
    /// second, or the same in the environment variable KNOCKPIPE_GATE_CREDENTIALS; a PASSWORD with
    /// a colon in it, or with # in front, is written :PASSWORD
    #[arg(long, value_name = "FILE", help_heading = GATE)]
    gate_credentials: Option<PathBuf>,

    /// Certificates (PEM) to check a rediss:// server with, instead of the system's
    #[arg(long, value_name = "FILE", help_heading = GATE)]
    gate_ca: Option<PathBuf>,

    /// Certificate (PEM) for a rediss:// server that requires one, with its intermediate
    /// certificates; needs --gate-key
    #[arg(long, value_name = "FILE", help_heading = GATE)]
    gate_cert: Option<PathBuf>,

    /// Private key (PEM) of --gate-cert
    #[arg(long, value_name = "FILE", help_heading = GATE)]
    gate_key: Option<PathBuf>,

    /// Redis set, or sorted set by end, of addresses and networks to admit
    /// [default: ip-allowed]
    #[arg(long, value_name = "KEY", help_heading = GATE)]
    set: Option<String>,

    /// Redis hash of the times when addresses were last admitted [default: ip-history]
    #[arg(long, value_name = "KEY", help_heading = GATE)]
    history: Option<String>,

    /// Prefix of the address in Redis keys that each ban one; a colon is added after a letter or
    /// digit [default: cache:gitlab:rack::attack:allow2ban:ban:]
    #[arg(long, value_name = "PREFIX", help_heading = GATE)]
    ban_prefix: Option<String>,

    /// Prefix of the address in Redis keys that each admit one until they expire; a colon is
    /// added after a letter or digit [default: none]
    #[arg(long, value_name = "PREFIX", help_heading = GATE)]
    allow_prefix: Option<String>,

    /// Login that stood in an address, where that is tolerated.
    #[arg(skip)]
    pub(super) login: Option<Credentials>,
}

/// `--gate`.
#[derive(Clone, Debug)]
pub(super) enum GateAddress {
    /// In Redis.
    Redis(Box<RedisAddress>),
    /// In a file.
    File(PathBuf),
}

/// Reason why a text is not a [`GateAddress`]. Repeats none of it, since it may hold a password.
#[derive(Debug, thiserror::Error)]
pub(super) enum GateAddressError {
    /// Neither a file nor Redis.
    #[error("{0}, or file:PATH")]
    Redis(AddressError),
    /// `file:` without a path.
    #[error("file: has no path behind it; write file:PATH")]
    NoPath,
    /// Every user could read it.
    #[error(
        "a password in the address is visible to every user in 'ps'; put USER:PASSWORD into a file of mode 0600 and name it with --gate-credentials"
    )]
    Password,
}

/// Flags of the store that make no sense together.
#[derive(Debug, thiserror::Error)]
pub(super) enum StoreFlagError {
    /// A flag about a store without a store.
    #[error("{0} is about a store, and none is given; add --gate redis://HOST:PORT or file:PATH")]
    NoStore(&'static str),
    /// A flag about Redis where the store is a file.
    #[error("{0} is about Redis, and the gate is a file; leave it out")]
    NotForFile(&'static str),
    /// A flag about TLS without TLS.
    #[error("{0} is for TLS, which the gate's address does not ask for; write rediss://")]
    WithoutTls(&'static str),
    /// A certificate without its key, or the reverse.
    #[error("{0} needs {1}: a certificate is of no use without its key; give both or none")]
    Half(&'static str, &'static str),
    /// Unusable files for TLS.
    #[error(transparent)]
    Tls(#[from] TlsError),
    /// Names of keys that cannot work.
    #[error("{0}; see --set, --history, --ban-prefix and --allow-prefix")]
    Keys(&'static str),
    /// An empty password.
    #[error(
        "{0} holds no password; write USER:PASSWORD or PASSWORD into its first line, and :PASSWORD where it begins with # (lines with # in front are comments)"
    )]
    NoPassword(String),
    /// More lines than logins.
    #[error("{0} has more lines than there are servers to log in to; keep the first")]
    TooManyLines(String),
}

impl From<StoreFlagError> for Failure {
    fn from(error: StoreFlagError) -> Self {
        Self::Usage(error.into())
    }
}

impl StoreArgs {
    /// Returns the files that describe how to reach the store.
    pub(super) fn files(&self) -> impl Iterator<Item = &PathBuf> {
        let files = [&self.gate_credentials, &self.gate_ca, &self.gate_cert, &self.gate_key];
        files.into_iter().flatten()
    }

    /// Returns the store that the flags describe. `access` is the tolerated access to files with a
    /// password or a private key.
    ///
    /// # Errors
    /// [`Failure::Usage`]
    pub(super) fn options(&self, access: Access) -> Result<StoreOptions, Failure> {
        self.options_with(access, of_environment())
    }

    /// Does the same as [`Self::options`] without the password of the environment, for a store that
    /// another user named.
    ///
    /// # Errors
    /// [`Failure::Usage`]
    pub(super) fn options_of_others(&self, access: Access) -> Result<StoreOptions, Failure> {
        self.options_with(access, None)
    }

    fn options_with(
        &self,
        access: Access,
        environment: Option<String>,
    ) -> Result<StoreOptions, Failure> {
        let address = match &self.gate {
            Some(GateAddress::Redis(address)) => address,
            Some(GateAddress::File(path)) => {
                self.refuse_redis_flags(StoreFlagError::NotForFile)?;
                return Ok(StoreOptions::File(path.clone()));
            }
            None => {
                self.refuse_redis_flags(StoreFlagError::NoStore)?;
                return Ok(StoreOptions::None);
            }
        };
        let (credentials, sentinel_credentials) = match &self.login {
            Some(login) => (Some(login.clone()), None),
            None => self.credentials(address, access, environment)?,
        };
        Ok(StoreOptions::Redis(Box::new(RedisOptions {
            address: (**address).clone(),
            credentials,
            sentinel_credentials,
            tls: self.tls(address, access)?,
            keys: self.keys()?,
        })))
    }

    /// Writes the flags for another process: with absolute paths, and without a secret.
    pub(super) fn named(&self, access: Access) -> StoreName {
        let absolute = |path: &Path| {
            let path = std::path::absolute(path).unwrap_or_else(|_| path.to_owned());
            path.to_string_lossy().into_owned()
        };
        // Names all of them, so that a new one cannot be forgotten.
        let Self {
            gate,
            gate_credentials,
            gate_ca,
            gate_cert,
            gate_key,
            set,
            history,
            ban_prefix,
            allow_prefix,
            login: _,
        } = self;
        let Some(gate) = gate else { return StoreName::default() };
        let url = match gate {
            GateAddress::Redis(address) => address.url(),
            GateAddress::File(path) => format!("file:{}", absolute(path)),
        };
        let flags = [
            ("gate", Some(url)),
            ("gate-credentials", gate_credentials.as_deref().map(absolute)),
            ("gate-ca", gate_ca.as_deref().map(absolute)),
            ("gate-cert", gate_cert.as_deref().map(absolute)),
            ("gate-key", gate_key.as_deref().map(absolute)),
            ("set", set.clone()),
            ("history", history.clone()),
            ("ban-prefix", ban_prefix.clone()),
            ("allow-prefix", allow_prefix.clone()),
        ];
        let flags = flags.into_iter().filter_map(|(flag, value)| Some((flag, value?)));
        let mut arguments: Vec<String> =
            flags.map(|(flag, value)| format!("--{flag}={value}")).collect();
        if access.by_others {
            arguments.push("--allow-readable-key".to_owned());
        }
        let has_password_of_environment = matches!(gate, GateAddress::Redis(_))
            && gate_credentials.is_none()
            && of_environment().is_some();
        StoreName { arguments, has_password_of_environment }
    }

    /// Refuses a flag that only means something in Redis.
    fn refuse_redis_flags(&self, why: fn(&'static str) -> StoreFlagError) -> Result<(), Failure> {
        let flags = [
            ("--gate-credentials", self.gate_credentials.is_some()),
            ("--gate-ca", self.gate_ca.is_some()),
            ("--gate-cert", self.gate_cert.is_some()),
            ("--gate-key", self.gate_key.is_some()),
            ("--set", self.set.is_some()),
            ("--history", self.history.is_some()),
            ("--ban-prefix", self.ban_prefix.is_some()),
            ("--allow-prefix", self.allow_prefix.is_some()),
        ];
        match flags.into_iter().find(|(_, given)| *given) {
            Some((flag, _)) => Err(why(flag).into()),
            None => Ok(()),
        }
    }

    fn keys(&self) -> Result<Keys, Failure> {
        let default = Keys::default();
        let keys = Keys {
            allow_set: self.set.clone().unwrap_or(default.allow_set),
            allow_prefix: self.allow_prefix.as_deref().map(separated),
            history: self.history.clone().unwrap_or(default.history),
            ban_prefix: self.ban_prefix.as_deref().map_or(default.ban_prefix, separated),
        };
        match keys.problem() {
            Some(problem) => Err(StoreFlagError::Keys(problem).into()),
            None => Ok(keys),
        }
    }

    /// Reads the credentials for Redis, or for Sentinels. The file goes before the environment.
    fn credentials(
        &self,
        address: &RedisAddress,
        access: Access,
        environment: Option<String>,
    ) -> Result<(Option<Credentials>, Option<Credentials>), Failure> {
        let (name, text) = match &self.gate_credentials {
            Some(path) => {
                let text = credentials::read(path, access);
                let text = text.map_err(|error| Failure::Usage(error.into()))?;
                (path.display().to_string(), text)
            }
            None => match environment {
                Some(text) => (ENVIRONMENT.to_owned(), Zeroizing::new(text)),
                None => return Ok((None, None)),
            },
        };
        let mut lines = lines(&text);
        let redis = lines.next().and_then(login);
        let redis = redis.ok_or_else(|| StoreFlagError::NoPassword(name.clone()))?;
        let sentinel = match address.servers {
            Servers::Sentinel { .. } => lines.next().and_then(login),
            _ => None,
        };
        if lines.next().is_some() {
            return Err(StoreFlagError::TooManyLines(name).into());
        }
        Ok((Some(redis), sentinel))
    }

    /// Prepares TLS, if the address asks for it.
    fn tls(&self, address: &RedisAddress, access: Access) -> Result<Option<TlsOptions>, Failure> {
        let ca = &self.gate_ca;
        let cert = &self.gate_cert;
        let key = &self.gate_key;
        match (cert, key) {
            (Some(_), None) => return Err(StoreFlagError::Half("--gate-cert", "--gate-key").into()),
            (None, Some(_)) => return Err(StoreFlagError::Half("--gate-key", "--gate-cert").into()),
            _ => {}
        }
        if !address.tls {
            let named = [("--gate-ca", ca), ("--gate-cert", cert)];
            let named = named.into_iter().find(|(_, file)| file.is_some());
            return match named {
                Some((flag, _)) => Err(StoreFlagError::WithoutTls(flag).into()),
                None => Ok(None),
            };
        }
        let secret = key.as_ref().map(|file| tls_key::read("--gate-key", file, access)).transpose();
        let secret = secret.map_err(|error| Failure::Usage(error.into()))?;
        let files = TlsFiles { ca: ca.clone(), cert: cert.clone(), key: key.clone() };
        let tls = TlsOptions::read(files, secret.as_ref());
        tls.map(Some).map_err(|error| StoreFlagError::Tls(error).into())
    }
}

impl FromStr for GateAddress {
    type Err = GateAddressError;

    fn from_str(text: &str) -> Result<Self, GateAddressError> {
        match text.strip_prefix("file:") {
            Some("") => return Err(GateAddressError::NoPath),
            Some(path) => return Ok(Self::File(Path::new(path).to_owned())),
            None => {}
        }
        let address: RedisAddress = text.parse().map_err(GateAddressError::Redis)?;
        match address.credentials {
            Some(_) => Err(GateAddressError::Password),
            None => Ok(Self::Redis(Box::new(address))),
        }
    }
}

/// Reads the credentials in the environment.
pub(super) fn of_environment() -> Option<String> {
    std::env::var(ENVIRONMENT).ok().filter(|text| !text.is_empty())
}

/// Adds a colon to a prefix: rack-attack documents it without one, but without it no ban would ever
/// be found.
fn separated(prefix: &str) -> String {
    let bare = prefix.ends_with(char::is_alphanumeric);
    if bare { format!("{prefix}:") } else { prefix.to_owned() }
}

/// Parses `USER:PASSWORD` or `PASSWORD`; a password with a colon needs a colon before it.
fn login(line: &str) -> Option<Credentials> {
    let (user, password) = line.split_once(':').unwrap_or(("", line));
    (!password.is_empty()).then(|| Credentials {
        user: Some(user.to_owned()).filter(|user| !user.is_empty()),
        password: Zeroizing::new(password.to_owned()),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_login_is_a_password_with_or_without_a_user() {
        let read = |line| login(line).map(|login| (login.user, login.password.to_string()));
        assert_eq!(read("geheim"), Some((None, "geheim".to_owned())));
        assert_eq!(read(":a:b"), Some((None, "a:b".to_owned())));
        assert_eq!(read("knock:a:b"), Some((Some("knock".to_owned()), "a:b".to_owned())));
        assert_eq!(read(""), None);
        assert_eq!(read("knock:"), None);
        assert_eq!(read(":#a"), Some((None, "#a".to_owned())));
    }

    #[test]
    fn a_prefix_gets_the_colon_that_is_often_left_out() {
        let default = Keys::default().ban_prefix;
        assert_eq!(separated("cache:gitlab:rack::attack:allow2ban:ban"), default);
        assert_eq!(separated(&default), default);
        assert_eq!(separated("pentesters-"), "pentesters-");
        assert_eq!(separated(""), "");
    }

    #[test]
    fn an_address_with_a_password_is_refused_and_not_repeated() {
        for text in ["redis://geheim:x@h", "redis://:geheim@h:1", "rediss://u:geheim@h/1"] {
            let error = text.parse::<GateAddress>().unwrap_err().to_string();
            assert!(error.contains("--gate-credentials") && !error.contains("geheim"), "{error}");
        }
        for text in ["", "h:1", "http://h", "file:", "redis://geheim@h"] {
            let error = text.parse::<GateAddress>().unwrap_err().to_string();
            assert!(error.contains("file:PATH") && !error.contains("geheim"), "{error}");
        }
        for text in ["redis://h", "unix:///run/r.sock?db=1", "redis+sentinel://a,b/m", "file:a"] {
            text.parse::<GateAddress>().unwrap();
        }
    }
}
