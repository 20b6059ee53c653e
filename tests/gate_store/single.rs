//! One Redis server, and the other programs that write to it.

use std::sync::Arc;
use std::time::Duration;

use knockpipe::gate::Expiry;
use knockpipe::gate::any_store::AnyStore;
use knockpipe::gate::redis_store::{Credentials, Keys, RedisOptions, RedisStore};
#[cfg(feature = "aws-lc")]
use knockpipe::gate::redis_store::{TlsFiles, TlsOptions};
use knockpipe::gate::store::{Edit, Event};

use super::conformance::{self, Backing, allow, bans, edit, forget, history, ip, member, members};
use super::follower::Follower;
use testkit::redis::Redis;
use testkit::redis::Reply;

pub(crate) const BAN: &str = "cache:gitlab:rack::attack:allow2ban:ban:";
const HOUR: Duration = Duration::from_secs(3_600);

/// Returns the options of a store that is not opened with the plain ones.
pub(crate) fn options(url: &str) -> RedisOptions {
    RedisOptions {
        address: url.parse().unwrap(),
        credentials: None,
        sentinel_credentials: None,
        tls: None,
        keys: Keys::default(),
    }
}

pub(crate) fn open_with(options: RedisOptions) -> Arc<AnyStore> {
    assert_eq!(options.keys.problem(), None);
    Arc::new(AnyStore::Redis(Box::new(RedisStore::new(options))))
}

pub(crate) fn open(url: &str) -> Arc<AnyStore> {
    open_with(options(url))
}

/// Opens a store with a prefix of allow keys that begins with the name of the set.
fn open_with_prefix(url: &str) -> Arc<AnyStore> {
    let mut options = options(url);
    options.keys.allow_prefix = Some("ip-allowed:".to_owned());
    open_with(options)
}

/// Gives each check a database of its own.
pub(crate) struct InRedis {
    pub server: Redis,
    pub prefix: bool,
    pub sorted: bool,
    pub unix: bool,
}

impl Backing for InRedis {
    fn open(&self, check: usize) -> Arc<AnyStore> {
        let url = if self.unix {
            format!("unix://{}?db={check}", self.server.unix().path().display())
        } else {
            format!("{}/{check}", self.server.url())
        };
        let mut options = options(&url);
        if self.sorted {
            // The present set decides; a member that is over counts for nothing.
            let mut client = self.server.direct();
            client.ask(&["SELECT", &check.to_string()]);
            client.ask(&["ZADD", "ip-allowed", "1", "203.0.113.250"]);
        }
        if self.prefix {
            options.keys.allow_prefix = Some("ip-allowed:".to_owned());
        }
        open_with(options)
    }

    fn ends(&self) -> bool {
        self.prefix || self.sorted
    }

    fn server(&self) -> String {
        if self.unix { self.server.unix().path().display().to_string() } else { self.server.name() }
    }
}

fn backing() -> InRedis {
    InRedis { server: Redis::start(), prefix: false, sorted: false, unix: false }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_set_conforms() {
    conformance::check(&backing()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_sorted_set_conforms() {
    conformance::check(&InRedis { sorted: true, ..backing() }).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_set_with_allow_keys_conforms_over_a_unix_socket() {
    conformance::check(&InRedis { prefix: true, unix: true, ..backing() }).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn writes_of_other_programs_show_at_once() {
    let server = Redis::start();
    let store = open_with_prefix(&server.url());
    for text in ["203.0.113.1", "::ffff:203.0.113.2", "2001:DB8::3", "10.1.2.3/8", "junk", ""] {
        server.direct().ask(&["SADD", "ip-allowed", text]);
    }
    server.ask(&format!("SETEX {BAN}203.0.113.66 3600 1"));
    server.ask(&format!("SET {BAN}2001:DB8::66 0"));
    server.ask(&format!("SETEX {BAN}pentesters-1.2.3.4 3600 1"));
    server.ask("SETEX ip-allowed:203.0.113.4 3600 x");
    server.ask("SADD ip-allowed-too 203.0.113.200");
    let mut follower = Follower::start(&store).await;
    let state = &follower.state;
    let allowed = ["203.0.113.1", "203.0.113.2", "2001:db8::3", "10.0.0.0/8", "203.0.113.4"];
    assert!(allowed.iter().all(|text| state.allows(text)), "{state:?}");
    assert!(state.bans("203.0.113.66") && state.bans("2001:db8::66"), "{state:?}");
    assert_eq!((state.allowed.len(), state.bans.len(), state.garbage), (5, 2, 3));
    assert_eq!(state.bans[&ip("2001:db8::66").into()], Expiry::Never);

    let mut other = server.direct();
    let mut slowest = Duration::ZERO;
    let mut say = |command: &str| {
        let words: Vec<&str> = command.split(' ').collect();
        assert!(!matches!(other.ask(&words), Reply::Error(_)), "{command}");
    };
    for n in 0..10 {
        let host = format!("198.51.100.{n}");
        say(&format!("SADD ip-allowed {host}"));
        slowest = slowest.max(follower.until("SADD", |state| state.allows(&host)).await);
        say(&format!("SREM ip-allowed {host}"));
        slowest = slowest.max(follower.until("SREM", |state| !state.allows(&host)).await);
        say(&format!("SETEX {BAN}{host} 3600 1"));
        slowest = slowest.max(follower.until("SETEX", |state| state.bans(&host)).await);
        say(&format!("DEL {BAN}{host}"));
        slowest = slowest.max(follower.until("DEL", |state| !state.bans(&host)).await);
        say(&format!("SETEX ip-allowed:{host} 3600 1"));
        slowest = slowest.max(follower.until("SETEX", |state| state.allows(&host)).await);
        say(&format!("DEL ip-allowed:{host}"));
        slowest = slowest.max(follower.until("DEL", |state| !state.allows(&host)).await);
    }
    println!("the slowest of 60 foreign changes showed after {slowest:?}");
    // A ban that ends by itself is reported as well, when the server reaps it.
    say(&format!("PSETEX {BAN}203.0.113.67 150 1"));
    follower.until("the ban", |state| state.bans("203.0.113.67")).await;
    follower.until("its end", |state| !state.bans("203.0.113.67")).await;
    // In the set for ever, regardless of its key.
    say("SADD ip-allowed 203.0.113.4");
    follower
        .until("for ever", |s| s.allowed.get(&member("203.0.113.4")) == Some(&Expiry::Never))
        .await;
    say("DEL ip-allowed:203.0.113.4");
    follower.listen(Duration::from_millis(300)).await;
    assert!(follower.state.allows("203.0.113.4"));
    assert!(follower.state.unsure > 0);
    say("DEL ip-allowed");
    follower.until("the set is gone", |state| !state.reading && state.allowed.is_empty()).await;
    say("ZADD ip-allowed 99999999999 203.0.113.5 +inf 203.0.113.6 1 203.0.113.7 +inf junk");
    follower.until("a sorted set", |state| !state.reading && state.allows("203.0.113.6")).await;
    let end = follower.state.allowed[&member("203.0.113.5")];
    assert_eq!(end.as_millis(), Some(99_999_999_999_000));
    assert!(!follower.state.allows("203.0.113.7") && follower.state.garbage == 2);
    say("FLUSHALL");
    follower.until("nothing", |s| !s.reading && s.allowed.is_empty() && s.bans.is_empty()).await;
    assert!(follower.state.away.is_empty(), "{:?}", follower.state.away);
    follower.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_ask_is_answered_from_the_server_and_not_from_what_was_read() {
    let server = Redis::start();
    let store = open(&server.url());
    for command in ["SADD ip-allowed", "ZADD ip-allowed +inf", "SADD ip-allowed"] {
        // No set at first, then another form of it than was read last.
        let mut follower = Follower::start(&store).await;
        server.ask("DEL ip-allowed");
        server.ask(&format!("{command} 203.0.113.7"));
        follower.state.exact.clear();
        follower.ask(&["203.0.113.7"]).await;
        let answered = [ip("203.0.113.7")];
        follower.until("the end of the answer", |state| state.answered == answered).await;
        assert_eq!(follower.state.exact.len(), 2);
        let expected = Event::Allowed(member("203.0.113.7"), Some(Expiry::Never));
        assert_eq!(follower.state.exact[0], expected);
        follower.stop().await;
    }
}

/// An address that was allowed and banned never looks allowed and free on the way to neither.
#[tokio::test(flavor = "multi_thread")]
async fn a_ban_ends_after_the_grant_that_ended_with_it() {
    let server = Redis::start();
    let store = open(&server.url());
    for change in ["FLUSHALL", "BOTH"] {
        server.ask("SADD ip-allowed 203.0.113.0/29 203.0.113.9");
        server.ask(&format!("SET {BAN}203.0.113.7 1"));
        let mut follower = Follower::start(&store).await;
        if change == "FLUSHALL" {
            server.ask(change);
            follower.ask(&["203.0.113.7"]).await;
        } else {
            let mut client = server.direct();
            for command in [
                &["MULTI"][..],
                &["DEL", &format!("{BAN}203.0.113.7")],
                &["SREM", "ip-allowed", "203.0.113.0/29"],
                &["EXEC"],
            ] {
                client.ask(command);
            }
        }
        let free = Event::Banned(ip("203.0.113.7").into(), None);
        follower.until("the ban's end", |state| state.exact.contains(&free)).await;
        assert!(!follower.state.allows("203.0.113.0/29"), "{change}: {:?}", follower.state.exact);
        follower.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn odd_spellings_are_removed_and_explained() {
    let server = Redis::start();
    let store = open(&server.url());
    let mut follower = Follower::start(&store).await;
    for text in
        ["2001:DB8::1", "2001:0db8::1", "::ffff:203.0.113.2", "203.0.113.3/24", "2001:Db8::4"]
    {
        server.direct().ask(&["SADD", "ip-allowed", text]);
    }
    follower.until("all", |state| !state.reading && state.allowed.len() == 4).await;
    // Asked for by their one name, they are there.
    follower.state.exact.clear();
    follower.ask(&["2001:db8::4", "203.0.113.2"]).await;
    follower.until("answers", |state| state.exact.len() >= 4).await;
    assert!(follower.state.allows("2001:db8::4") && follower.state.allows("203.0.113.2"));
    let standing = store.address_record(ip("2001:db8::4"), None).await.unwrap();
    assert_eq!(standing.allow_entries.len(), 1);
    for text in ["2001:db8::4", "203.0.113.2", "203.0.113.0/24"] {
        assert!(edit(&store, Edit::Remove(member(text))).await.changed, "{text}");
        follower.until("removed", |state| !state.reading && !state.allows(text)).await;
    }
    server.ask(&format!("SET {BAN}2001:DB8::7 1"));
    follower.until("the ban", |state| state.bans("2001:db8::7")).await;
    assert!(store.address_record(ip("2001:db8::7"), None).await.unwrap().ban.is_some());
    assert!(edit(&store, Edit::Unban(ip("2001:db8::7").into())).await.changed);
    follower.until("no ban", |state| !state.bans("2001:db8::7")).await;
    follower.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_sorted_set_holds_ends_and_keeps_its_form() {
    let server = Redis::start();
    let store = open(&server.url());
    // Where there is no set, the first member with an end makes a sorted set.
    edit(&store, allow(member("203.0.113.1"), Some(HOUR))).await;
    assert_eq!(server.ask("TYPE ip-allowed").text(), "zset");
    edit(&store, allow(member("203.0.113.2"), None)).await;
    assert!(!edit(&store, allow(member("203.0.113.2"), None)).await.changed);
    assert_eq!(server.ask("ZSCORE ip-allowed 203.0.113.2").text(), "inf");
    let (all, garbage) = members(&store).await;
    assert_eq!((all.len(), garbage, all[1]), (2, 0, (member("203.0.113.2"), Expiry::Never)));
    assert!(all[0].1.as_millis().is_some());
    let mut follower = Follower::start(&store).await;
    assert_eq!(follower.state.allowed.len(), 2);
    edit(&store, Edit::Remove(member("203.0.113.1"))).await;
    follower.until("removed", |state| !state.allows("203.0.113.1")).await;
    follower.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn keys_and_values_are_those_of_the_tools() {
    let server = Redis::start();
    let store = open(&server.url());
    edit(&store, allow(member("203.0.113.7"), None)).await;
    assert_eq!(server.ask("SISMEMBER ip-allowed 203.0.113.7"), Reply::Number(1));
    edit(&store, Edit::Ban(ip("203.0.113.7").into(), HOUR)).await;
    assert_eq!(server.ask(&format!("GET {BAN}203.0.113.7")), Reply::bulk("1"));
    assert_eq!(server.ask(&format!("TTL {BAN}203.0.113.7")), Reply::Number(3600));
    edit(&store, Edit::RecordSeen(vec![(ip("203.0.113.7"), 1_700_000_000)])).await;
    assert_eq!(server.ask("HGET ip-history 203.0.113.7"), Reply::bulk("1700000000"));
    let findtime = Duration::from_secs(86_400);
    let strike = Edit::Strike { ip: ip("2001:db8::7"), findtime, bantime: HOUR, maxretry: 9 };
    let receipt = edit(&store, strike).await;
    let now = std::time::UNIX_EPOCH.elapsed().unwrap().as_secs();
    let key = format!("cache:gitlab:rack::attack:{}:allow2ban:count:2001:db8::/64", now / 86_400);
    assert_eq!(receipt.key, key);
    assert_eq!(server.ask(&format!("GET {key}")), Reply::bulk("1"));
    let Reply::Number(left) = server.ask(&format!("TTL {key}")) else { panic!("no number") };
    let expected = i64::try_from(86_400 - now % 86_400 + 1).unwrap();
    assert!((expected - 2..=expected).contains(&left), "{left}, not {expected}");
    server.ask("HSET ip-history junk 5 203.0.113.9 never");
    assert_eq!(history(&store).await, (vec![(ip("203.0.113.7"), 1_700_000_000)], 2));
    server.ask(&format!("SET {BAN}x 1"));
    assert_eq!(bans(&store).await.1, 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn users_with_few_rights_and_wrong_passwords() {
    let server = Redis::start();
    let rights = "ACL SETUSER gate on >pass%word resetkeys ~ip-allowed ~ip-history ~cache:gitlab:* \
                  resetchannels &knockpipe:gate:* -@all +hello +select +ping +role +type +scan \
                  +sscan +hscan +smismember +pttl +hget +get +client|tracking +subscribe +sadd \
                  +srem +set +del +hset +hdel +exists +incr +expire +multi +exec +publish";
    server.ask(&rights.split_whitespace().collect::<Vec<_>>().join(" "));
    server.ask("ACL SETUSER mute on >mute ~* resetchannels +@all");
    server.ask("ACL SETUSER default off");
    let as_user = |user: &str, password: &str| {
        let mut options = options(&server.url());
        let password = password.to_owned().into();
        options.credentials = Some(Credentials { user: Some(user.to_owned()), password });
        open_with(options)
    };
    // In the address they work as well; only a command line must refuse them.
    let gate = open(&format!("redis://gate:pass%25word@{}", server.name()));
    let mut follower = Follower::start(&gate).await;
    edit(&gate, allow(member("203.0.113.7"), None)).await;
    follower.until("the grant", |state| state.allows("203.0.113.7")).await;
    edit(&gate, Edit::Ban(ip("203.0.113.7").into(), HOUR)).await;
    follower.until("the ban", |state| state.bans("203.0.113.7")).await;
    gate.address_record(ip("203.0.113.7"), Some(HOUR)).await.unwrap();
    let findtime = Duration::from_secs(86_400);
    edit(&gate, Edit::Strike { ip: ip("203.0.113.8"), findtime, bantime: HOUR, maxretry: 1 }).await;
    edit(&gate, Edit::RecordSeen(vec![(ip("203.0.113.7"), 1)])).await;
    edit(&gate, forget("203.0.113.7")).await;
    follower.until("forgotten", |state| !state.allows("203.0.113.7")).await;
    // A user without the channel learns of it by the set's own change.
    let mute = as_user("mute", "mute");
    let mut other = Follower::start(&mute).await;
    edit(&mute, allow(member("203.0.113.9"), None)).await;
    other.until("the grant", |state| state.allows("203.0.113.9")).await;

    let wrong = as_user("gate", "wrong");
    let error = wrong.edit(Edit::Unban(ip("203.0.113.7").into())).await.unwrap_err().to_string();
    assert!(error.contains(&server.name()) && error.contains(BAN), "{error}");
    assert!(!error.contains("wrong;") && !error.contains('\n'), "{error}");
    let mut refused = Follower::begin(&wrong);
    refused.until("refused", |state| !state.away.is_empty()).await;
    let why = &refused.state.away[0];
    assert!(why.contains("WRONGPASS") && why.contains("the password there is wrong"), "{why}");
    assert!(why.contains("--gate-credentials") && !why.contains('\n'), "{why}");
    refused.stop().await;
    other.stop().await;
    follower.stop().await;
}

/// TLS with the certificates in this file.
#[cfg(feature = "aws-lc")]
fn trust(ca: &str) -> TlsOptions {
    let files = TlsFiles { ca: Some(ca.into()), ..TlsFiles::default() };
    TlsOptions::read(files, None).unwrap()
}

#[cfg(feature = "aws-lc")]
#[tokio::test(flavor = "multi_thread")]
async fn tls_checks_the_identity_of_the_server() {
    let dir = tempfile::tempdir().unwrap();
    let at = |name: &str| dir.path().join(name).display().to_string();
    let made = std::process::Command::new("openssl")
        .args(["req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes"])
        .args(["-days", "2", "-subj", "/CN=localhost", "-addext", "subjectAltName=IP:127.0.0.1"])
        .args(["-addext", "basicConstraints=critical,CA:FALSE"])
        .args(["-keyout", &at("key"), "-out", &at("cert")])
        .output()
        .expect("this test needs openssl; install it with: apt-get install openssl");
    assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
    let tls_port = testkit::address::free_port();
    let port = tls_port.to_string();
    let server = Redis::start_with(&[
        "--tls-port",
        &port,
        "--tls-cert-file",
        &at("cert"),
        "--tls-key-file",
        &at("key"),
        "--tls-ca-cert-file",
        &at("cert"),
        "--tls-auth-clients",
        "no",
    ]);
    let mut trusting = options(&format!("rediss://127.0.0.1:{port}"));
    trusting.tls = Some(trust(&at("cert")));
    let store = open_with(trusting);
    let mut follower = Follower::start(&store).await;
    server.ask("SADD ip-allowed 203.0.113.7");
    follower.until("the grant", |state| state.allows("203.0.113.7")).await;
    follower.stop().await;
    let mut elsewhere = options(&format!("rediss://localhost:{port}"));
    elsewhere.tls = Some(trust(&at("cert")));
    let error =
        open_with(elsewhere).edit(Edit::Unban(ip("::1").into())).await.unwrap_err().to_string();
    assert!(error.contains("certificate"), "{error}");
    let unknown = open(&format!("rediss://127.0.0.1:{port}"));
    let error = unknown.edit(Edit::Unban(ip("::1").into())).await.unwrap_err().to_string();
    assert!(error.contains("certificate"), "{error}");
}
