//! `knockpipe knock https://...` at a real service with TLS.

use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::PathBuf;
use std::process::{Command, Output, Stdio};

use serde_json::Value;

use super::service::{Service, Settings};
use testkit::certificates::{Authority, Form};
use testkit::wait::poll;
use testkit::{NEVER, binary};

const GUEST: &str = "guest-token-of-the-tests-0001";
const ADMIN: &str = "admin-token-of-the-tests-0003";

/// A service with a certificate, and files for its clients.
struct Site {
    service: Service,
    ca: PathBuf,
}

impl Site {
    /// Starts a service whose guest gets as long as `most`.
    fn new(most: &str) -> Self {
        let settings = Settings::new().with_token("guest", GUEST, &["--max-ttl", most]).with_token(
            "admin",
            ADMIN,
            &["--any-address"],
        );
        let authority = Authority::new(settings.dir.path(), "authority");
        let (cert, key) = authority.issue("server", "subjectAltName=IP:127.0.0.1", Form::Pkcs8);
        let ca = authority.certificate();
        let files = ["--tls-cert", cert.to_str().unwrap(), "--tls-key", key.to_str().unwrap()];
        Self { service: settings.in_file().args(&files).start(), ca }
    }

    /// Writes a token to a file that only its owner can read.
    fn token(&self, name: &str, token: &str) -> PathBuf {
        let path = self.service.path().join(name);
        let options = std::fs::OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(true)
            .mode(0o600)
            .open(&path);
        options.unwrap().write_all(format!("{token}\n").as_bytes()).unwrap();
        path
    }

    fn url(&self) -> String {
        format!("https://{}/", self.service.addr())
    }

    /// Makes the command of a client with this token.
    fn client(&self, token: &str) -> Command {
        let file = self.token(&format!("{token}.token"), token);
        let mut command = Command::new(binary());
        command.args(["knock", &self.url(), "--token-file"]).arg(file).arg("--ca").arg(&self.ca);
        command
    }

    /// Lists the addresses in the store.
    fn allowed(&self) -> String {
        let store = format!("file:{}", self.service.path().join("gate").display());
        let output = Command::new(binary()).args(["gate", "list", "--gate", &store]).output();
        String::from_utf8(output.unwrap().stdout).unwrap()
    }
}

fn stderr(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

#[test]
fn a_knock_with_a_token_is_granted_and_told() {
    let site = Site::new("1h");
    let output = site.client(GUEST).output().unwrap();
    assert!(output.status.success(), "{}", stderr(&output));
    let said = String::from_utf8(output.stdout).unwrap();
    assert_eq!(
        said,
        format!("{} let 127.0.0.1 in for 1h (start)\n", site.url().trim_end_matches('/'))
    );
    assert!(site.allowed().contains("127.0.0.1"), "{}", site.allowed());

    let mut command = site.client(ADMIN);
    command.args(["--address", "192.0.2.7", "--ttl", "90s", "--label", "a guest", "--json"]);
    let output = command.output().unwrap();
    let line: Value = serde_json::from_slice(&output.stdout).unwrap();
    let told = [&line["event"], &line["address"], &line["lasting_s"]];
    assert_eq!(told, [&Value::from("granted"), &"192.0.2.7".into(), &90.into()]);
    assert!(site.allowed().contains("a guest"), "{}", site.allowed());
}

#[test]
fn a_refusal_and_a_wrong_server_are_told_and_no_token_is() {
    let site = Site::new("1h");
    let other = Authority::new(site.service.path(), "other");
    let other = other.certificate();
    let wrong = "wrong-token-of-the-tests-0009";
    for (token, args, status, what) in [
        (wrong, vec![], 1, "check --token-file"),
        (GUEST, vec!["--address", "192.0.2.7"], 1, "the token's rights"),
        (GUEST, vec!["--gate", "elsewhere"], 1, "the token's rights"),
        (GUEST, vec!["--ca", other.to_str().unwrap()], 1, "unknown authority; give"),
        (GUEST, vec!["-k", "some.key"], 2, "exclude each other"),
    ] {
        let file = site.token("client.token", token);
        let mut command = Command::new(binary());
        command.args(["knock", &site.url(), "--token-file"]).arg(file);
        if !args.contains(&"--ca") {
            command.arg("--ca").arg(&site.ca);
        }
        let output = command.args(&args).output().unwrap();
        assert_eq!(output.status.code(), Some(status), "{args:?}: {}", stderr(&output));
        assert!(stderr(&output).contains(what), "{args:?}: {}", stderr(&output));
        assert!(output.stdout.is_empty(), "a failure is told once: {output:?}");
        let all = [output.stdout, output.stderr].concat();
        assert!(!String::from_utf8_lossy(&all).contains(token), "{args:?}");
    }
    let said = |args: &[&str]| {
        let output = Command::new(binary()).arg("knock").args(args).output().unwrap();
        assert_eq!(output.status.code(), Some(2), "{args:?}: {}", stderr(&output));
        stderr(&output)
    };
    let file = site.token("client.token", GUEST);
    let file = file.to_str().unwrap();
    assert!(said(&["http://192.0.2.1/", "--token-file", file]).contains("plain text"));
    assert!(said(&["https://192.0.2.1/"]).contains("add --token-file"));
    for secret in ["https://u:secret@192.0.2.1/", "https://192.0.2.1/?token=secret"] {
        let error = said(&[secret, "--token-file", file]);
        assert!(error.contains("belongs in --token-file") && !error.contains("secret"), "{error}");
    }
    assert!(said(&["192.0.2.1:6380", "--token-file", file]).contains("write https://HOST/"));
    assert!(said(&["192.0.2.1:6380"]).contains("add -k FILE"));
}

/// The command of the page on knocking over HTTP, and openssl's own, which makes an authority.
#[test]
fn a_certificate_that_signs_itself_is_made_as_the_documents_say() {
    let page = std::fs::read_to_string("docs/operating/http-knock.md").unwrap();
    let (_, command) = page.split_once("    openssl req ").expect("the page has the command");
    let (command, _) = command.split_once("\n\n").unwrap();
    let command = format!("openssl req {command}");
    let by_itself = command.replace("CA:FALSE", "CA:TRUE");
    assert_ne!(command, by_itself);
    for (command, what) in [(&command, ""), (&by_itself, "with CA:FALSE")] {
        let settings = Settings::new().with_token("guest", GUEST, &[]);
        let mut shell = Command::new("sh");
        let made = shell.args(["-c", command]).current_dir(settings.dir.path()).output().unwrap();
        assert!(made.status.success(), "install openssl: {}", stderr(&made));
        let at = |name: &str| settings.dir.path().join(name).to_str().unwrap().to_owned();
        let (cert, key) = (at("cert.pem"), at("key.pem"));
        let service = settings.in_file().args(&["--tls-cert", &cert, "--tls-key", &key]).start();
        let site = Site { service, ca: cert.into() };
        let output = site.client(GUEST).output().unwrap();
        assert_eq!(output.status.success(), what.is_empty(), "{}", stderr(&output));
        assert!(stderr(&output).contains(what), "{}", stderr(&output));
    }
}

#[test]
fn one_who_stays_is_in_until_it_ends() {
    let site = Site::new("2s");
    let mut command = site.client(GUEST);
    let mut client = command
        .args(["--keep", "--json"])
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let mut lines = std::io::BufRead::lines(std::io::BufReader::new(client.stdout.take().unwrap()));
    let mut reasons = vec![];
    // Twice the longest grant and more: each is renewed while the one before holds.
    while reasons.len() < 6 {
        let line: Value = serde_json::from_str(&lines.next().unwrap().unwrap()).unwrap();
        assert_eq!(line["event"], "granted", "{line}");
        reasons.push(line["reason"].as_str().unwrap().to_owned());
        assert!(site.allowed().contains("127.0.0.1"), "after {reasons:?}");
    }
    assert_eq!(reasons[0], "start");
    assert!(reasons[1..].iter().all(|reason| reason == "renewal"), "{reasons:?}");
    nix::sys::signal::kill(
        nix::unistd::Pid::from_raw(client.id().cast_signed()),
        nix::sys::signal::Signal::SIGTERM,
    )
    .unwrap();
    assert!(client.wait().unwrap().success());
    let out = poll(NEVER, || (!site.allowed().contains("127.0.0.1")).then_some(()));
    out.expect("the grant ends with its time");
}
