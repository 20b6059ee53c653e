//! The command line of redis-knocking, with its original meaning: each flag becomes one of `http`.
//!
//! Single and double dashes, `-flag VALUE` and `-flag=VALUE`, and the defaults are its own; the long
//! flags of `http` may be added. What it would do to the harm of its user is refused with the
//! remedy: a header with the client's address from anybody at all, words behind the flags that it
//! would ignore together with all flags after them.

use std::ffi::{OsStr, OsString};

use super::http_target::HttpTarget;
use crate::gate::redis_store::{AddressError, Credentials, Node, RedisAddress, Servers};
use crate::printable::printable;
use crate::run::Failure;

/// Name of the program, and the beginning of the names that its packages give it.
pub(super) const NAME: &str = "redis-knocking";

/// Its flags. All of them take a value.
const FLAGS: [&str; 10] = [
    "script",
    "target",
    "listen",
    "redis",
    "set",
    "history",
    "ip-header",
    "ipHeader",
    "redirect",
    "detail",
];

/// Help for its flags.
pub(super) const HELP: &str = "\
The command line of redis-knocking, for a gate in front of a web server. Single or double dashes.

  -target URL      the web server [default: http://localhost:8080]
  -listen ADDR     address to listen on [default: :8081]
  -redis URL       redis://USER:PASSWORD@HOST:PORT/DB, required
  -set KEY         Redis set of the addresses that get in [default: ip-allowed]
  -history KEY     Redis hash of the times when they came [default: ip-history]
  -script COMMAND  command to run; it and the gate end together
  -ip-header NAME  field with the client's address, also -ipHeader; needs --trusted-proxies NET, or
                   --trust-any-proxy
  -redirect URL    page for those who do not get in
  -detail enabled  one line for each decision

The long flags of 'knockpipe http' may be added; see 'knockpipe http --help'.";

/// Its command where none is given: it says so, and ends.
const NO_SCRIPT: &str =
    "echo '🚨 No command was specified to run, please add the -script parameter.'";

/// Its server where none is given.
const DEFAULT_TARGET: &str = "http://localhost:8080";

/// Its address where none is given.
const DEFAULT_LISTEN: &str = ":8081";

/// Options of its Redis library that have no meaning here: connections are kept, asked again and
/// bounded without them.
const TUNING: [&str; 17] = [
    "protocol",
    "client_name",
    "max_retries",
    "min_retry_backoff",
    "max_retry_backoff",
    "dial_timeout",
    "read_timeout",
    "write_timeout",
    "pool_fifo",
    "pool_size",
    "pool_timeout",
    "min_idle_conns",
    "max_idle_conns",
    "max_active_conns",
    "conn_max_idle_time",
    "idle_timeout",
    "conn_max_lifetime",
];

/// A command line of redis-knocking, in the words of `http`.
#[derive(Debug, PartialEq)]
pub(super) struct Translated {
    /// The arguments of `http`, its name first.
    pub(super) arguments: Vec<OsString>,
    /// The server, to be told its own host.
    pub(super) target: HttpTarget,
    /// The login at Redis.
    pub(super) credentials: Option<Credentials>,
    /// The command to run.
    pub(super) script: OsString,
    /// One line for each decision.
    pub(super) has_detail: bool,
    /// Every peer may name the client.
    pub(super) trusts_any_proxy: bool,
}

/// Mistake in a command line of redis-knocking.
#[derive(Debug, thiserror::Error)]
pub(super) enum TranslateError {
    /// A header with the client's address, and no proxy to trust.
    #[error(
        "-ip-header alone lets any client claim to be 127.0.0.1; add --trusted-proxies with the networks of your proxies, or --trust-any-proxy if no client can go around them"
    )]
    HeaderFromAnybody,
    /// Without its store.
    #[error("-redis is missing; add -redis redis://HOST:PORT/DB")]
    NoRedis,
    /// A flag at the end of the line.
    #[error("-{0} has no value; write one after it")]
    NoValue(String),
    /// A command of several words, each for itself.
    #[error(
        "-script takes one word, and '{1}' follows it; put the command in quotes: -script '{0} {1}'"
    )]
    Unquoted(String, String),
    /// A value that is none.
    #[error("{0}: {1}")]
    Value(&'static str, String),
}

impl From<TranslateError> for Failure {
    fn from(error: TranslateError) -> Self {
        Self::Usage(error.into())
    }
}

/// Its flags with their values; the last of several counts.
#[derive(Debug, Default)]
struct Given {
    script: Option<OsString>,
    target: Option<String>,
    listen: Option<String>,
    redis: Option<String>,
    set: Option<String>,
    history: Option<String>,
    header: Option<String>,
    redirect: Option<String>,
    detail: Option<String>,
    /// Arguments that are not its own.
    rest: Vec<OsString>,
}

/// Returns true if these arguments, without the name of the program, are in this spelling: a long
/// flag has a single dash, or the one that it cannot do without has two.
pub(super) fn is_spelled(arguments: &[OsString]) -> bool {
    let is_its_own = |word: &OsString| {
        let is_double = word.as_encoded_bytes().starts_with(b"--");
        flag(word).is_some_and(|(name, _)| match is_double {
            true => name == "redis",
            false => FLAGS.contains(&name),
        })
    };
    arguments.iter().any(is_its_own)
}

/// Splits `-name`, `--name`, `-name=value`.
fn flag(word: &OsStr) -> Option<(&str, Option<&str>)> {
    let text = word.to_str()?;
    let bare = text.strip_prefix("--").or_else(|| text.strip_prefix('-'))?;
    let (name, value) = match bare.split_once('=') {
        Some((name, value)) => (name, Some(value)),
        None => (bare, None),
    };
    (!name.is_empty() && !name.starts_with('-')).then_some((name, value))
}

/// Puts a command line into the words of `http`. `arguments` are without the name of the program.
///
/// # Errors
/// [`TranslateError`] of what redis-knocking refuses, or should.
pub(super) fn translate(arguments: &[OsString]) -> Result<Translated, TranslateError> {
    let given = Given::read(arguments)?;
    let redis = given.redis.as_deref().filter(|url| !url.is_empty());
    let redis = store(redis.ok_or(TranslateError::NoRedis)?)?;
    let target = given.target.as_deref().unwrap_or(DEFAULT_TARGET);
    let target = HttpTarget::without_path(target)
        .map_err(|error| TranslateError::Value("-target", error.to_string()))?;
    let trusts_any_proxy = given.rest.iter().any(|word| word == "--trust-any-proxy");
    let mut http: Vec<OsString> = vec!["http".into()];
    let mut add = |flag: &str, value: &str| http.push(format!("--{flag}={value}").into());
    for source in sources(given.listen.as_deref().unwrap_or(DEFAULT_LISTEN)) {
        add("source", &source);
    }
    let scheme = if target.tls_name.is_some() { "https" } else { "http" };
    add("target", &format!("{scheme}://{}", target.host.to_str().unwrap_or_default()));
    add("gate", &redis.url());
    // As it does: internal addresses are let in.
    add("internal", "allow");
    // It has no such limits.
    add("response-timeout", "off");
    add("idle-timeout", "off");
    given.set.iter().for_each(|key| add("set", key));
    given.history.iter().for_each(|key| add("history", key));
    given.redirect.iter().filter(|url| !url.is_empty()).for_each(|url| add("redirect", url));
    let is_proxied = given.rest.iter().any(|word| is_long(word, "--trusted-proxies"));
    if let Some(header) = given.header.as_deref().filter(|header| !header.is_empty()) {
        if !is_proxied && !trusts_any_proxy {
            return Err(TranslateError::HeaderFromAnybody);
        }
        add("client-ip-header", header);
    }
    http.extend(given.rest);
    Ok(Translated {
        arguments: http,
        target,
        credentials: redis.credentials,
        script: given.script.unwrap_or_else(|| NO_SCRIPT.into()),
        has_detail: given.detail.as_deref() == Some("enabled"),
        trusts_any_proxy,
    })
}

fn is_long(word: &OsStr, long: &str) -> bool {
    let rest = word.to_str().and_then(|text| text.strip_prefix(long));
    rest.is_some_and(|rest| rest.is_empty() || rest.starts_with('='))
}

impl Given {
    fn read(arguments: &[OsString]) -> Result<Self, TranslateError> {
        let mut given = Self::default();
        let mut words = arguments.iter();
        while let Some(word) = words.next() {
            let known = flag(word).filter(|(name, _)| FLAGS.contains(name));
            let Some((name, value)) = known else {
                given.rest.push(word.clone());
                continue;
            };
            let value = match value {
                Some(value) => value.into(),
                None => {
                    words.next().cloned().ok_or_else(|| TranslateError::NoValue(name.to_owned()))?
                }
            };
            given.set(name, value);
            if name == "script" {
                given.refuse_more(words.clone())?;
            }
        }
        Ok(given)
    }

    /// Refuses words that seem to belong to the command: redis-knocking stops reading there, and
    /// forgets what follows.
    fn refuse_more<'a>(
        &self,
        words: impl Iterator<Item = &'a OsString>,
    ) -> Result<(), TranslateError> {
        let is_flag = |word: &&OsString| word.as_encoded_bytes().starts_with(b"-");
        let text = |word: &OsString| printable(&word.to_string_lossy()).to_string();
        let more: Vec<String> = words.take_while(|word| !is_flag(word)).map(text).collect();
        match &self.script {
            Some(script) if !more.is_empty() => {
                Err(TranslateError::Unquoted(text(script), more.join(" ")))
            }
            _ => Ok(()),
        }
    }

    fn set(&mut self, name: &str, value: OsString) {
        let text = || Some(value.to_string_lossy().into_owned());
        match name {
            "target" => self.target = text(),
            "listen" => self.listen = text(),
            "redis" => self.redis = text(),
            "set" => self.set = text(),
            "history" => self.history = text(),
            "ip-header" | "ipHeader" => self.header = text(),
            "redirect" => self.redirect = text(),
            "detail" => self.detail = text(),
            _ => self.script = Some(value),
        }
    }
}

/// Returns the addresses to listen on: a port alone is on every address of both families.
fn sources(listen: &str) -> Vec<String> {
    match listen.strip_prefix(':') {
        Some(port) => vec![format!("[0.0.0.0]:{port}"), format!("[::]:{port}")],
        None => vec![listen.to_owned()],
    }
}

/// Reads the address of Redis as its library does.
fn store(url: &str) -> Result<RedisAddress, TranslateError> {
    let wrong = |cause: &str| TranslateError::Value("-redis", cause.to_owned());
    let (address, query) = url.split_once('?').unwrap_or((url, ""));
    let mut db = None;
    for option in query.split('&').filter(|option| !option.is_empty()) {
        match option.split_once('=').unwrap_or((option, "")) {
            ("db", number) => db = Some(number),
            ("skip_verify", _) => {
                return Err(wrong(
                    "skip_verify trusts any server; leave it out, and give --gate-ca FILE for a certificate of your own",
                ));
            }
            (name, _) if TUNING.contains(&name) || name == "max_conn_age" => {}
            _ => return Err(wrong("it has an option that there is not; leave it out")),
        }
    }
    let address = with_host(address);
    let address = match db {
        Some(db) => format!("{address}?db={db}"),
        None => address,
    };
    let read: RedisAddress =
        address.parse().map_err(|error: AddressError| wrong(&error.to_string()))?;
    match read.servers {
        Servers::One(Node::Tcp { .. } | Node::Unix(_)) => Ok(read),
        _ => Err(wrong("it names several servers; use 'knockpipe http --gate'")),
    }
}

/// Adds the host of an address that has none: it is this one.
fn with_host(address: &str) -> String {
    let Some((scheme, rest)) = address.split_once("://") else { return address.to_owned() };
    if !["redis", "rediss"].contains(&scheme) {
        return address.to_owned();
    }
    let (login, place) = match rest.rsplit_once('@') {
        Some((login, place)) => (format!("{login}@"), place),
        None => (String::new(), rest),
    };
    let has_host = !place.is_empty() && !place.starts_with([':', '/']);
    let host = if has_host { "" } else { "localhost" };
    format!("{scheme}://{login}{host}{place}")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(line: &str) -> Vec<OsString> {
        shlex::split(line).unwrap().into_iter().map(OsString::from).collect()
    }

    fn http(line: &str) -> String {
        let translated = translate(&words(line)).unwrap_or_else(|error| panic!("{line}: {error}"));
        let words: Vec<_> =
            translated.arguments.iter().map(|word| word.to_str().unwrap()).collect();
        words.join(" ")
    }

    const README: &str = "-target \"http://localhost:5173\" -listen \":5174\" \
        -redis \"redis://root:password@1.2.3.4:6379/0\" -script \"npm run dev\"";

    #[test]
    fn the_command_line_of_the_readme_has_its_meaning() {
        let translated = translate(&words(README)).unwrap();
        assert_eq!(
            http(README),
            "http --source=[0.0.0.0]:5174 --source=[::]:5174 --target=http://localhost:5173 \
             --gate=redis://1.2.3.4:6379/0 --internal=allow --response-timeout=off \
             --idle-timeout=off"
        );
        assert_eq!(translated.script, "npm run dev");
        assert_eq!(translated.target.host, "localhost:5173");
        let login = translated.credentials.unwrap();
        assert_eq!(login.user.as_deref(), Some("root"));
        assert_eq!(login.password.as_str(), "password");
        assert!(!translated.has_detail && !translated.trusts_any_proxy);
    }

    #[test]
    fn every_spelling_of_a_flag_is_the_same() {
        let all = [
            "-redis redis://h -listen 127.0.0.1:1",
            "--redis redis://h --listen 127.0.0.1:1",
            "-redis=redis://h --listen=127.0.0.1:1",
            "-listen x -redis=redis://h -listen 127.0.0.1:1",
        ];
        for line in all {
            assert_eq!(http(line), http(all[0]), "{line}");
        }
        let header = |flag: &str| {
            http(&format!("-redis redis://h {flag} X-Real-IP --trusted-proxies 10.0.0.1"))
        };
        for flag in ["-ipHeader", "-ip-header", "--ip-header", "--ipHeader"] {
            assert!(header(flag).contains("--client-ip-header=X-Real-IP"), "{flag}");
        }
    }

    #[test]
    fn the_defaults_are_its_own() {
        let translated = translate(&words("-redis redis://h")).unwrap();
        assert_eq!(translated.script, NO_SCRIPT);
        let line = http("-redis redis://h");
        assert!(line.contains("--source=[0.0.0.0]:8081 --source=[::]:8081"), "{line}");
        assert!(line.contains("--target=http://localhost:8080"), "{line}");
        assert!(!line.contains("--set") && !line.contains("--history"), "{line}");
    }

    #[test]
    fn its_other_flags_become_ours_and_ours_stay() {
        let line = http(
            "-redis unix://u:p@/run/r.sock?db=3 -set a -history b -redirect https://l/ \
             -detail enabled --metrics 9100 --log-level=debug",
        );
        for piece in [
            "--gate=unix:///run/r.sock?db=3",
            "--set=a",
            "--history=b",
            "--redirect=https://l/",
            "--metrics 9100",
            "--log-level=debug",
        ] {
            assert!(line.contains(piece), "{line}");
        }
        let detail = |value: &str| {
            translate(&words(&format!("-redis redis://h -detail {value}"))).unwrap().has_detail
        };
        assert!(detail("enabled") && !detail("Enabled") && !detail("true"));
    }

    #[test]
    fn an_address_of_redis_is_read_as_its_library_does() {
        let url = |text: &str| store(text).map(|address| address.url());
        assert_eq!(url("redis://").unwrap(), "redis://localhost:6379/0");
        assert_eq!(url("redis:///2").unwrap(), "redis://localhost:6379/2");
        assert_eq!(url("redis://:7/2").unwrap(), "redis://localhost:7/2");
        assert_eq!(url("redis://:pw@:7").unwrap(), "redis://localhost:7/0");
        assert_eq!(url("rediss://h?db=1&pool_size=5").unwrap(), "rediss://h:6379/1");
        for wrong in ["h:1", "redis://h?x=1", "redis://h?skip_verify=true", "redis://h/x"] {
            let error = url(wrong).unwrap_err().to_string();
            assert!(error.starts_with("-redis: ") && error.contains(';'), "{error}");
        }
    }

    #[test]
    fn what_would_harm_its_user_is_refused_with_the_remedy() {
        let refused = |line: &str| translate(&words(line)).unwrap_err().to_string();
        let text = refused("-redis redis://h -ip-header X-Forwarded-For");
        assert!(text.contains("--trusted-proxies") && text.contains("--trust-any-proxy"), "{text}");
        assert!(refused("-target http://a").contains("-redis"));
        assert!(refused("-redis").contains("-redis"));
        let any = "-redis redis://h -ip-header X-Forwarded-For --trust-any-proxy";
        assert!(translate(&words(any)).unwrap().trusts_any_proxy);
    }

    #[test]
    fn the_spelling_is_recognised_by_its_flags() {
        for line in
            [README, "--redis=x", "-detail enabled", "-ipHeader=x", "--log-level info -set x"]
        {
            assert!(is_spelled(&words(line)), "{line}");
        }
        for line in ["-e -s a:1 -t b:2 -k f", "-d -s [::]:1 -t /x -k f --set x", "--target x"] {
            assert!(!is_spelled(&words(line)), "{line}");
        }
    }

    #[test]
    fn a_command_without_quotes_is_refused_with_them() {
        let redis = "-redis redis://127.0.0.1";
        for line in [
            format!("{redis} -script npm run dev"),
            format!("-script npm run dev {redis}"),
            format!("--script=npm run dev {redis}"),
        ] {
            let error = translate(&words(&line)).unwrap_err().to_string();
            assert!(
                error.contains("; put the command in quotes: -script 'npm run dev'"),
                "{error}"
            );
        }
        assert!(translate(&words(&format!("-script npm {redis} --keep 1"))).is_ok());
    }
}
