//! The address of a Redis store: one server, the master that Sentinels name, or the
//! masters of a Cluster.
//!
//! An address never shows a password: what was in the text is taken out when it
//! is read, errors repeat none of it, and [`RedisAddress`] prints without it.

use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;

use zeroize::Zeroizing;

use crate::printable::printable;

const REDIS_PORT: u16 = 6379;
const SENTINEL_PORT: u16 = 26379;
/// More seeds than this are a mistake, and each costs a connection per second.
const MOST_SEEDS: usize = 16;

/// One server.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Node {
    /// By TCP.
    Tcp {
        /// A name or an address, without brackets.
        host: String,
        /// The port.
        port: u16,
    },
    /// By a unix socket.
    Unix(PathBuf),
}

/// The way to find the server.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Servers {
    /// It is this one.
    One(Node),
    /// It is the one that Sentinels call the master of `master`.
    Sentinel {
        /// The Sentinels to ask.
        sentinels: Vec<Node>,
        /// The name under which they watch the master.
        master: String,
    },
    /// There are several, each for a part of the keys.
    Cluster(Vec<Node>),
}

/// The user and password at the server.
#[derive(Clone, PartialEq, Eq)]
pub struct Credentials {
    /// The ACL user; `None` is Redis' `default`.
    pub user: Option<String>,
    /// The password.
    pub password: Zeroizing<String>,
}

impl fmt::Debug for Credentials {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Credentials").field("user", &self.user).finish_non_exhaustive()
    }
}

/// A Redis store's address, as `--gate` spells it.
#[derive(Clone, Debug, PartialEq)]
pub struct RedisAddress {
    /// The way to find the server.
    pub servers: Servers,
    /// True to speak TLS to it (`rediss://`), and to Sentinels as well.
    pub tls: bool,
    /// The number of the database.
    pub db: i64,
    /// The part before the `@`. A command line must refuse an address that
    /// has this, since every user of the machine sees it in `ps`.
    pub credentials: Option<Credentials>,
}

/// The reason why a text is no [`RedisAddress`].
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "the gate's address has {0}; write redis://HOST:PORT/DB, rediss://HOST:PORT/DB, unix:///PATH?db=N, redis+sentinel://HOST:PORT,HOST:PORT/MASTER/DB or redis+cluster://HOST:PORT,HOST:PORT"
)]
pub struct AddressError(&'static str);

// === impl Node ===

impl Node {
    pub(super) fn tcp(host: &str, port: u16) -> Self {
        Self::Tcp { host: host.to_owned(), port }
    }

    /// A server as another server names it, if that can be one.
    pub(super) fn named(host: &str, port: i64) -> Option<Self> {
        /// The longest name that name service knows.
        const LONGEST_HOST: usize = 253;
        let is_host =
            |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | '_' | ':' | '%');
        let fits = (1..=LONGEST_HOST).contains(&host.len()) && host.chars().all(is_host);
        let port = u16::try_from(port).ok().filter(|port| *port > 0)?;
        fits.then(|| Self::tcp(host, port))
    }

    fn parse(text: &str, default_port: u16) -> Result<Self, AddressError> {
        let (host, port) = match text.strip_prefix('[') {
            Some(rest) => rest.split_once(']').ok_or(AddressError("a [ without its ]"))?,
            None => text.find(':').map_or((text, ""), |colon| text.split_at(colon)),
        };
        let port = match port.strip_prefix(':') {
            Some(port) => port.parse().map_err(|_| AddressError("a port that is no number"))?,
            None if port.is_empty() => default_port,
            None => return Err(AddressError("something between a host and its port")),
        };
        if host.is_empty() || host.contains(|c: char| c.is_whitespace() || c.is_control()) {
            return Err(AddressError("no host where one is due"));
        }
        Ok(Self::tcp(host, port))
    }
}

impl fmt::Display for Node {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            // A server may have told the host of another one.
            Self::Tcp { host, port } if host.contains(':') => {
                write!(f, "[{}]:{port}", printable(host))
            }
            Self::Tcp { host, port } => write!(f, "{}:{port}", printable(host)),
            Self::Unix(path) => f.write_str(&printable(&path.to_string_lossy())),
        }
    }
}

// === impl RedisAddress ===

impl RedisAddress {
    /// The address as `--gate` spells it, without a password.
    pub fn url(&self) -> String {
        let nodes = |nodes: &[Node]| {
            let nodes: Vec<String> = nodes.iter().map(ToString::to_string).collect();
            nodes.join(",")
        };
        let tls = if self.tls { "s" } else { "" };
        let db = self.db;
        match &self.servers {
            Servers::One(Node::Unix(path)) => {
                format!("unix://{}?db={db}", escaped(path.as_os_str().as_encoded_bytes()))
            }
            Servers::One(node) => format!("redis{tls}://{node}/{db}"),
            Servers::Sentinel { sentinels, master } => {
                format!("redis{tls}+sentinel://{}/{master}/{db}", nodes(sentinels))
            }
            Servers::Cluster(seeds) => format!("redis{tls}+cluster://{}", nodes(seeds)),
        }
    }
}

/// A path as it stands in an address: what means something there is written as `%XX`.
fn escaped(path: &[u8]) -> String {
    path.iter().fold(String::new(), |text, byte| match byte {
        plain if plain.is_ascii_alphanumeric() || b"/-_.".contains(plain) => {
            text + &char::from(*plain).to_string()
        }
        other => text + &format!("%{other:02x}"),
    })
}

impl FromStr for RedisAddress {
    type Err = AddressError;

    fn from_str(text: &str) -> Result<Self, AddressError> {
        let (scheme, rest) = text.split_once("://").ok_or(AddressError("no scheme"))?;
        let (rest, db_of_query) = match rest.split_once('?') {
            None => (rest, None),
            Some((rest, query)) => (rest, Some(db_of_query(query)?)),
        };
        let (user, rest) = match rest.rsplit_once('@') {
            None => (None, rest),
            Some((user, rest)) => (Some(credentials(user)?), rest),
        };
        let (servers, db) = match scheme {
            "redis" | "rediss" => one(rest)?,
            "unix" | "redis+unix" => unix(rest)?,
            "redis+sentinel" | "rediss+sentinel" => sentinel(rest)?,
            "redis+cluster" | "rediss+cluster" => (cluster(rest)?, None),
            _ => return Err(AddressError("an unknown scheme")),
        };
        let tls = scheme.starts_with("rediss");
        let db = match (db, db_of_query) {
            (Some(_), Some(_)) => return Err(AddressError("two numbers of a database")),
            (db, other) => db.or(other).unwrap_or(0),
        };
        if db != 0 && matches!(servers, Servers::Cluster(_)) {
            return Err(AddressError("a database other than 0, which a Cluster lacks"));
        }
        Ok(Self { servers, tls, db, credentials: user.flatten() })
    }
}

fn one(rest: &str) -> Result<(Servers, Option<i64>), AddressError> {
    let (host, db) = rest.split_once('/').unwrap_or((rest, ""));
    Ok((Servers::One(Node::parse(host, REDIS_PORT)?), db_of_path(db)?))
}

fn unix(rest: &str) -> Result<(Servers, Option<i64>), AddressError> {
    if !rest.starts_with('/') || rest.contains('\0') {
        return Err(AddressError("no absolute path of a socket"));
    }
    let path = PathBuf::from(unescaped(rest)?.as_str());
    Ok((Servers::One(Node::Unix(path)), None))
}

fn sentinel(rest: &str) -> Result<(Servers, Option<i64>), AddressError> {
    let mut parts = rest.splitn(3, '/');
    let sentinels = nodes(parts.next().unwrap_or_default(), SENTINEL_PORT)?;
    let master = parts.next().filter(|name| !name.is_empty());
    let master = master.ok_or(AddressError("Sentinels but no name of a master"))?.to_owned();
    Ok((Servers::Sentinel { sentinels, master }, db_of_path(parts.next().unwrap_or_default())?))
}

fn cluster(rest: &str) -> Result<Servers, AddressError> {
    match rest.split_once('/') {
        None | Some((_, "" | "0")) => {}
        Some(_) => return Err(AddressError("a database other than 0, which a Cluster lacks")),
    }
    nodes(rest.split('/').next().unwrap_or_default(), REDIS_PORT).map(Servers::Cluster)
}

fn nodes(text: &str, default_port: u16) -> Result<Vec<Node>, AddressError> {
    let nodes: Vec<_> =
        text.split(',').map(|node| Node::parse(node, default_port)).collect::<Result<_, _>>()?;
    if nodes.len() > MOST_SEEDS {
        return Err(AddressError("more than 16 servers"));
    }
    Ok(nodes)
}

fn db_of_path(text: &str) -> Result<Option<i64>, AddressError> {
    if text.is_empty() { Ok(None) } else { number(text).map(Some) }
}

fn db_of_query(query: &str) -> Result<i64, AddressError> {
    let db = query.strip_prefix("db=").ok_or(AddressError("an option other than db"))?;
    number(db)
}

fn number(text: &str) -> Result<i64, AddressError> {
    let number = text.parse::<u16>();
    number.map(i64::from).map_err(|_| AddressError("a database that is no number"))
}

/// `user:password`, `user` or nothing; percent-escapes are undone.
fn credentials(text: &str) -> Result<Option<Credentials>, AddressError> {
    if text.is_empty() {
        return Ok(None);
    }
    let (user, password) = text.split_once(':').ok_or(AddressError("a user without a password"))?;
    let user = unescaped(user)?.to_string();
    Ok(Some(Credentials {
        user: Some(user).filter(|user| !user.is_empty()),
        password: unescaped(password)?,
    }))
}

fn unescaped(text: &str) -> Result<Zeroizing<String>, AddressError> {
    const BAD: AddressError = AddressError("a % that is not followed by two hex digits");
    let mut bytes = Zeroizing::new(Vec::with_capacity(text.len()));
    let mut rest = text.as_bytes();
    while let Some((&byte, after)) = rest.split_first() {
        rest = after;
        if byte == b'%' {
            let (digits, after) = rest.split_at_checked(2).ok_or(BAD)?;
            let digits = std::str::from_utf8(digits).map_err(|_| BAD)?;
            bytes.push(u8::from_str_radix(digits, 16).map_err(|_| BAD)?);
            rest = after;
        } else {
            bytes.push(byte);
        }
    }
    let text = std::str::from_utf8(&bytes).map_err(|_| AddressError("escapes that are no text"))?;
    Ok(Zeroizing::new(text.to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(text: &str) -> RedisAddress {
        text.parse().unwrap_or_else(|error| panic!("{text}: {error}"))
    }

    #[test]
    fn one_server_in_every_spelling() {
        let cases = [
            ("redis://h", Node::tcp("h", 6379), false, 0),
            ("redis://h:1/", Node::tcp("h", 1), false, 0),
            ("redis://h:1/3", Node::tcp("h", 1), false, 3),
            ("redis://h?db=3", Node::tcp("h", 6379), false, 3),
            ("rediss://[2001:db8::1]:7/2", Node::tcp("2001:db8::1", 7), true, 2),
            ("redis://[::1]", Node::tcp("::1", 6379), false, 0),
            ("unix:///run/r.sock", Node::Unix("/run/r.sock".into()), false, 0),
            ("redis+unix:///run/a%20b?db=1", Node::Unix("/run/a b".into()), false, 1),
        ];
        for (text, node, tls, db) in cases {
            let address = parsed(text);
            assert_eq!(address.servers, Servers::One(node), "{text}");
            assert_eq!((address.tls, address.db), (tls, db), "{text}");
        }
    }

    #[test]
    fn sentinels_and_clusters() {
        let address = parsed("redis+sentinel://a:1,b,[::1]:3/mymaster/4");
        let sentinels = vec![Node::tcp("a", 1), Node::tcp("b", 26379), Node::tcp("::1", 3)];
        let master = "mymaster".to_owned();
        assert_eq!(address.servers, Servers::Sentinel { sentinels, master });
        assert_eq!(address.db, 4);
        let address = parsed("rediss+cluster://a:1,b");
        let seeds = vec![Node::tcp("a", 1), Node::tcp("b", 6379)];
        assert_eq!((address.servers, address.tls), (Servers::Cluster(seeds), true));
    }

    #[test]
    fn credentials_are_taken_out_and_never_shown() {
        let address = parsed("redis://us%40er:p%3a@ss@h:1/0");
        let credentials = address.credentials.as_ref().unwrap();
        assert_eq!(credentials.user.as_deref(), Some("us@er"));
        assert_eq!(credentials.password.as_str(), "p:@ss");
        assert_eq!(address.servers, Servers::One(Node::tcp("h", 1)));
        assert!(!format!("{address:?}").contains("ss@"), "{address:?}");
        assert_eq!(parsed("redis://:pw@h").credentials.unwrap().user, None);
        let error = "redis://u:hunter2@h:x".parse::<RedisAddress>().unwrap_err().to_string();
        assert!(!error.contains("hunter2"), "{error}");
    }

    #[test]
    fn texts_that_are_no_address_are_refused() {
        for text in [
            "",
            "h:1",
            "http://h",
            "redis://",
            "redis://:1",
            "redis://h:x",
            "redis://h:1x",
            "redis://[::1",
            "redis://[::1]x:1",
            "redis://h/x",
            "redis://h/-1",
            "redis://h?x=1",
            "redis://h/1?db=1",
            "unix://run/r",
            "redis+sentinel://h:1",
            "redis+sentinel://h:1/",
            "redis+cluster://h/1",
            "redis+cluster://h?db=1",
            "redis+cluster://",
            "redis://u@h",
            "redis://u:%4@h",
            "redis://u:%ff@h",
            "redis+cluster://a,,b",
        ] {
            let error = text.parse::<RedisAddress>().expect_err(text).to_string();
            assert!(error.contains("; write redis://") && !error.contains('\n'), "{error}");
        }
        let many = format!("redis+cluster://{}", vec!["h"; 17].join(","));
        assert!(many.parse::<RedisAddress>().is_err());
    }
}
