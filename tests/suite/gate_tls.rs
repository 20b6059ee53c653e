//! TLS between a gate and its store, a real redis-server: certificates of both sides, the message
//! for each bad one, and the effect of a reload on new ones.

#![cfg(feature = "aws-lc")]

use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Command, Output};

use tempfile::TempDir;
use testkit::address::free_port;
use testkit::admin::{Admin, http, metrics_address};
use testkit::certificates::{Authority, Form};
use testkit::file::{Service, decrypt_table};
use testkit::redis::Redis;
use testkit::{Target, binary, eventually, keygen};

const READ: &str = "gate store synced";
const AWAY: &str = "gate store unavailable";
const STILL: &str = "gate store still unavailable, for another cause";

const SERVER: &str = "subjectAltName=IP:127.0.0.1";

/// A redis-server on a port with TLS, and the files around it.
struct Place {
    dir: TempDir,
    authority: Authority,
    redis: Redis,
    url: String,
}

impl Place {
    /// Starts it. Its certificate is `server.pem`; `clients` is the value of `--tls-auth-clients`.
    fn start(clients: &str) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let authority = Authority::new(dir.path(), "authority");
        authority.issue("server", SERVER, Form::Pkcs8);
        let port = free_port().to_string();
        let at = |name: &str| dir.path().join(name).display().to_string();
        let redis = Redis::start_with(&[
            "--tls-port",
            &port,
            "--tls-cert-file",
            &at("server.pem"),
            "--tls-key-file",
            &at("server.key"),
            "--tls-ca-cert-file",
            &at("authority.pem"),
            "--tls-auth-clients",
            clients,
        ]);
        Self { dir, authority, redis, url: format!("rediss://127.0.0.1:{port}") }
    }

    fn at(&self, name: &str) -> String {
        self.dir.path().join(name).display().to_string()
    }

    /// Runs `gate list` with these flags, in which @NAME is a file here.
    fn list(&self, flags: &str) -> Output {
        let ca = format!("--gate-ca @authority.pem {flags}");
        self.list_with(&ca)
    }

    fn list_with(&self, flags: &str) -> Output {
        let word = |word: &str| match word.strip_prefix('@') {
            Some(name) => self.at(name),
            None => word.to_owned(),
        };
        let mut list = Command::new(binary());
        list.args(["gate", "list", "--gate", &self.url]).args(flags.split_whitespace().map(word));
        list.output().unwrap()
    }

    /// Panics unless it fails with this status and says all of that in one line.
    #[track_caller]
    fn refused(&self, flags: &str, status: i32, parts: &[&str]) {
        complains(&self.list(flags), status, parts);
    }

    /// Issues another certificate for the server, which is restarted with it.
    fn restart_with(&mut self, name: &str) {
        self.redis.kill();
        for ending in ["pem", "key"] {
            fs::copy(self.at(&format!("{name}.{ending}")), self.at(&format!("server.{ending}")))
                .unwrap();
        }
        self.redis.revive();
    }
}

#[track_caller]
fn complains(output: &Output, status: i32, parts: &[&str]) {
    let text = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(status), "{text}");
    assert_eq!(text.lines().count(), 1, "{text}");
    for part in parts {
        assert!(text.contains(part), "no {part:?} in: {text}");
    }
}

#[track_caller]
fn works(output: &Output) {
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}

/// The default of Redis with TLS.
#[test]
fn a_server_that_wants_a_client_certificate_gets_one() {
    let place = Place::start("yes");
    for (name, form) in [("pkcs8", Form::Pkcs8), ("pkcs1", Form::Pkcs1), ("sec1", Form::Sec1)] {
        place.authority.issue(name, "", form);
        works(&place.list(&format!("--gate-cert @{name}.pem --gate-key @{name}.key")));
    }
    place.refused("", 1, &["wants a client certificate", "--gate-cert FILE"]);
    let other = Authority::new(place.dir.path(), "other");
    other.issue("stranger", "", Form::Pkcs8);
    let stranger = "--gate-cert @stranger.pem --gate-key @stranger.key";
    place.refused(stranger, 1, &["refuses the client certificate", "--gate-cert"]);
}

/// The tunnel with a gate of a file works in its sandbox; `check` tries the same.
#[test]
fn a_gate_of_a_file_shows_its_certificate() {
    let (place, target) = (Place::start("yes"), Target::echo());
    place.authority.issue("client", "", Form::Pkcs8);
    let key = keygen(place.dir.path(), "key");
    let table = |gate: &str| {
        let gates = format!(
            "[gates.door]\ngate = \"{}\"\ngate-ca = \"authority.pem\"\n{gate}\n",
            place.url
        );
        decrypt_table("far", target.addr(), &format!("{key:?}"), "gate = \"door\"") + &gates
    };
    let text = table("gate-cert = \"client.pem\"\ngate-key = \"client.key\"");
    let mut service = Service::start(place.dir.path(), "far.toml", &text);
    service.program.wait_line(READ, |line| line.is(READ));
    let check = || {
        let mut check = Command::new(binary());
        check.args(["check", "-c", &place.at("far.toml"), "--connect"]).output().unwrap()
    };
    works(&check());
    service.reload(&table(""));
    let line = service.program.wait_line(AWAY, |line| line.is(AWAY));
    assert!(line.text().contains("wants a client certificate"), "{}", line.text());
    let output = check();
    assert_eq!(output.status.code(), Some(1));
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(text.contains("wants a client certificate"), "{text}");
    service.stop();
}

/// Both or none, belonging together, and readable for no other user.
#[test]
fn a_certificate_and_its_key_are_checked_before_anything_is_done() {
    let place = Place::start("yes");
    place.authority.issue("client", "", Form::Pkcs8);
    place.authority.issue("other", "", Form::Pkcs8);
    let both = "--gate-cert @client.pem --gate-key @client.key";
    place.refused("--gate-cert @client.pem", 2, &["--gate-cert needs --gate-key"]);
    place.refused("--gate-key @client.key", 2, &["--gate-key needs --gate-cert"]);
    place.refused("--gate-cert @client.pem --gate-key @other.key", 2, &["is not the key of"]);
    place.refused("--gate-cert @client.key --gate-key @client.key", 2, &["holds no certificates"]);
    let no_key = "--gate-cert @client.pem --gate-key @client.pem --allow-readable-key";
    place.refused(no_key, 2, &["holds no private key"]);
    place.refused("--gate-cert @none --gate-key @client.key", 2, &["cannot read --gate-cert"]);
    place.refused("--gate-cert @client.pem --gate-key @none", 2, &["cannot read --gate-key"]);
    fs::set_permissions(place.at("client.key"), Permissions::from_mode(0o644)).unwrap();
    place.refused(both, 2, &["--gate-key", "chmod 600", "--allow-readable-key"]);
    works(&place.list(&format!("{both} --allow-readable-key")));
    let plain = place.redis.url();
    let flags = ["--gate-cert", &place.at("client.pem"), "--gate-key", &place.at("client.key")];
    let mut list = Command::new(binary());
    let output = list.args(["gate", "list", "--gate", &plain]).args(flags).output().unwrap();
    complains(&output, 2, &["--gate-cert is for TLS", "rediss://"]);
}

/// Each class of error in a server's certificate, in words and with a remedy.
#[test]
fn what_is_wrong_with_a_certificate_is_told() {
    let mut place = Place::start("no");
    let other = Authority::new(place.dir.path(), "other");
    other.issue("unknown", SERVER, Form::Pkcs8);
    place.authority.issue("elsewhere", "subjectAltName=DNS:elsewhere.example", Form::Pkcs8);
    let purpose = format!("{SERVER}\nextendedKeyUsage=clientAuth");
    place.authority.issue("purpose", &purpose, Form::Pkcs8);
    place.authority.issue_expired("expired", SERVER);
    works(&place.list(""));
    for (name, parts) in [
        ("unknown", ["unknown authority", "--gate-ca"]),
        ("elsewhere", ["elsewhere.example", "127.0.0.1"]),
        ("purpose", ["not one for servers", "serverAuth"]),
        ("expired", ["has expired", "renew it"]),
    ] {
        place.restart_with(name);
        place.refused("", 1, &[&["TLS with 127.0.0.1"], &parts[..]].concat());
    }
    // None of the system's authorities has signed it.
    place.authority.issue("good", SERVER, Form::Pkcs8);
    place.restart_with("good");
    works(&place.list(""));
    complains(&place.list_with(""), 1, &["unknown authority", "--gate-ca"]);
}

/// Every place that reports it says the same, also when it is not the first cause; a reload with
/// the new authority mends it, and a reload with rubbish changes nothing.
#[test]
fn a_reload_reads_the_authority_again() {
    let (mut place, target) = (Place::start("no"), Target::echo());
    let other = Authority::new(place.dir.path(), "other");
    other.issue("next", SERVER, Form::Pkcs8);
    let key = keygen(place.dir.path(), "key");
    let admin = Admin(place.dir.path().join("admin.sock"));
    let process = format!("admin = {:?}\nmetrics = \"127.0.0.1:0\"", admin.0);
    let gate = format!("gate = \"{}\"\ngate-ca = \"trusted.pem\"", place.url);
    let text = decrypt_table("far", target.addr(), &format!("{key:?}"), &gate);
    let trusted = place.at("trusted.pem");
    let trust = |file: &Path| fs::copy(file, &trusted).unwrap();
    trust(&place.authority.certificate());
    let mut service = Service::start_with(place.dir.path(), "far.toml", &process, &text);
    service.program.wait_line(READ, |line| line.is(READ));
    let metrics = metrics_address(&service.program);

    place.restart_with("next");
    let why = "unknown authority";
    let is_told = |message: &str| {
        let log = service.program.log();
        log.iter().any(|line| line.is(message) && line.text().contains(why))
    };
    eventually("the log tells it", || is_told(AWAY) || is_told(STILL));
    eventually("status tells it", || {
        let away = admin.tunnel()["gate"]["unavailable"].as_str().unwrap_or_default().to_owned();
        away.contains(why)
    });
    assert!(admin.says(0, &["status"]).contains(why));
    let readyz = http(&metrics, "GET", "/readyz");
    assert_eq!(readyz.status, 503);
    assert!(readyz.body.contains(why), "{}", readyz.body);

    fs::write(&trusted, "rubbish").unwrap();
    let line = service.reload_fails(&text);
    assert!(line.text().contains("--gate-ca"), "{}", line.text());
    trust(&other.certificate());
    service.reload(&text);
    eventually("the store is read again", || {
        service.program.log().iter().filter(|line| line.is(READ)).count() == 2
    });
    assert!(admin.tunnel()["gate"]["unavailable"].is_null());
    assert_eq!(http(&metrics, "GET", "/readyz").status, 200);
    // Nothing is new, so nothing changes.
    let line = service.reload(&text);
    assert_eq!(line.number("same"), Some(1), "{}", line.text());
    service.stop();
}
