//! The page to knock on, in front of a server: who sees it, what is below its path, and what it
//! lets in.

use std::fs;
use std::io::Write;
use std::path::PathBuf;
use std::process::{Command, Stdio};

use nix::sys::signal::Signal;
use tempfile::TempDir;
use testkit::{End, Launch, binary, eventually};

use crate::http::Message;
use crate::world::{Server, connect, launch};

const TOKEN: &str = "a-token-of-the-site-00000001";

/// What a browser asks for with an address.
const BROWSER: &str = "Accept: text/html,application/xhtml+xml,*/*;q=0.8\r\n";

/// A server behind a gate with a page, and the files of that.
struct Site {
    gate: End,
    server: Server,
    dir: TempDir,
}

impl Site {
    fn start(args: &[&str]) -> Self {
        let dir = tempfile::tempdir().unwrap();
        new_token(&dir, "site", TOKEN);
        let server = Server::hello();
        let tokens = dir.path().join("tokens");
        let store = format!("file:{}", dir.path().join("gate").display());
        let page = ["--knock-page", "--tokens", tokens.to_str().unwrap(), "--gate", &store];
        let gate = launch(&server.url(), &[&page[..], args].concat()).start();
        Self { gate, server, dir }
    }

    /// Sends a request of these lines, and returns the answer.
    #[track_caller]
    fn ask(&self, line: &str, fields: &str) -> Message {
        let request = format!("{line} HTTP/1.1\r\nHost: app.example\r\n{fields}\r\n");
        connect(&self.gate).ask(&request)
    }

    #[track_caller]
    fn knock(&self, method: &str, token: &str, more: &str) -> Message {
        let fields = format!(
            "X-Api-Key: {token}\r\nContent-Type: application/json\r\nContent-Length: 2\r\n{more}\r\n{{}}"
        );
        let request =
            format!("{method} /.knockpipe/knock HTTP/1.1\r\nHost: app.example\r\n{fields}");
        connect(&self.gate).ask(&request)
    }

    /// Runs a command of the gate on the store.
    #[track_caller]
    fn command(&self, args: &[&str]) {
        let store = format!("file:{}", self.dir.path().join("gate").display());
        let mut command = Command::new(binary());
        let done = command.arg("gate").args(args).args(["--gate", &store]).output().unwrap();
        assert!(done.status.success(), "{args:?}: {}", String::from_utf8_lossy(&done.stderr));
    }
}

#[track_caller]
fn new_token(dir: &TempDir, name: &str, token: &str) {
    let mut command = Command::new(binary());
    let file: PathBuf = dir.path().join("tokens");
    command.args(["knockd", "token", "new", name, "--from", "-", "--tokens"]).arg(file);
    let mut child = command.stdin(Stdio::piped()).stdout(Stdio::null()).spawn().unwrap();
    child.stdin.take().unwrap().write_all(token.as_bytes()).unwrap();
    assert!(child.wait().unwrap().success());
}

#[test]
fn a_denied_browser_gets_the_page_and_with_a_token_the_site() {
    let site = Site::start(&[]);
    let page = site.ask("GET /a?b", BROWSER);
    assert_eq!((page.status(), page.field("cache-control")), (403, Some("no-store")));
    assert!(page.field("content-security-policy").unwrap().starts_with("default-src 'none'; "));
    assert_eq!(page.field("x-frame-options"), Some("DENY"));
    assert!(page.text().contains("\"/.knockpipe/page/app.js\""), "{}", page.text());
    let script = site.ask("GET /.knockpipe/page/app.js", "");
    assert_eq!((script.status(), script.field("etag").is_some()), (200, true));
    let granted = site.knock("POST", TOKEN, "");
    assert_eq!(granted.status(), 200, "{}", granted.text());
    assert!(granted.text().contains("\"whitelisted_entry\":\"127.0.0.1\""), "{}", granted.text());
    assert_eq!(granted.field("access-control-allow-origin"), None);
    assert_eq!(site.ask("GET /a?b", BROWSER).text(), "hello");
    // It is left in the same way, and the page is there again.
    assert_eq!(site.knock("DELETE", TOKEN, "").status(), 200);
    assert_eq!(site.ask("GET /a?b", BROWSER).status(), 403);
    let seen = site.server.only();
    assert_eq!(seen.first, "GET /a?b HTTP/1.1");
}

#[test]
fn what_no_person_sees_is_denied_in_plain_words() {
    let site = Site::start(&[]);
    let websocket = "Upgrade: websocket\r\nConnection: Upgrade\r\nAccept: text/html\r\n";
    for (line, fields) in [
        ("GET /", ""),
        ("GET /", "Accept: */*\r\n"),
        ("GET /", "Accept: application/json\r\n"),
        ("GET /socket", websocket),
        ("POST /", "Content-Length: 0\r\n"),
    ] {
        let denied = site.ask(line, fields);
        assert_eq!(denied.status(), 403, "{line} {fields}");
        assert!(denied.text().starts_with("This address is not let in"), "{}", denied.text());
    }
    assert_eq!(site.server.seen().len(), 0);
}

#[test]
fn a_denied_request_that_servers_read_differently_gets_no_page() {
    let site = Site::start(&[]);
    for (line, fields, status) in [
        ("GET /", "Content_Length: 5\r\n", 400),
        ("GET /", "Transfer-Encoding: gzip, chunked\r\n", 400),
        ("GET /", "Host: b\r\n", 400),
        ("TRACE /", "", 405),
        ("GET /.knockpipe/", "Content_Length: 5\r\n", 400),
    ] {
        let mut client = connect(&site.gate);
        let request = format!("{line} HTTP/1.1\r\nHost: app.example\r\n{BROWSER}{fields}\r\n");
        let answer = client.ask(&request);
        assert_eq!(answer.status(), status, "{line} {fields}");
        assert!(client.is_ended(), "{line} {fields}");
    }
}

#[test]
fn nothing_below_the_path_of_the_page_reaches_the_server() {
    let site = Site::start(&[]);
    for is_in in [false, true] {
        for (path, status) in [
            ("/.knockpipe/", 200),
            ("/.knockpipe", 308),
            ("/.knockpipe/grants", 404),
            ("/.knockpipe/verify", 404),
            ("/.knockpipe/../secret", 404),
            ("/.knockpipe/knock", 401),
        ] {
            assert_eq!(site.ask(&format!("GET {path}"), "").status(), status, "{path} {is_in}");
        }
        assert_eq!(site.server.seen().len(), 0);
        assert_eq!(site.knock("POST", TOKEN, "").status(), 200);
    }
}

#[test]
fn guesses_on_the_page_lock_their_source_out_and_a_reload_does_not_end_that() {
    let site = Site::start(&["--most-failures", "2/10m"]);
    for status in [401, 401, 429] {
        assert_eq!(site.knock("POST", "not-a-token-of-this-site", "").status(), status);
    }
    assert_eq!(site.knock("POST", TOKEN, "").status(), 429, "a right token, too");
    new_token(&site.dir, "other", "another-token-of-the-site-001");
    site.gate.program.signal(Signal::SIGHUP);
    site.gate.program.wait_line("reloaded", |line| line.is("reloaded"));
    assert_eq!(site.knock("POST", TOKEN, "").status(), 429);
    let lines = site.gate.program.stderr();
    assert!(!lines.contains("not-a-token") && !lines.contains(TOKEN), "{lines}");
}

#[test]
fn a_token_that_is_taken_away_knocks_no_more_after_a_reload() {
    let site = Site::start(&[]);
    assert_eq!(site.knock("POST", TOKEN, "").status(), 200);
    fs::remove_file(site.dir.path().join("tokens")).unwrap();
    new_token(&site.dir, "other", "another-token-of-the-site-001");
    site.gate.program.signal(Signal::SIGHUP);
    site.gate.program.wait_line("reloaded", |line| line.is("reloaded"));
    assert_eq!(site.knock("POST", TOKEN, "").status(), 401);
    assert_eq!(site.knock("POST", "another-token-of-the-site-001", "").status(), 200);
}

#[test]
fn who_is_banned_sees_no_page() {
    let site = Site::start(&[]);
    site.command(&["ban", "127.0.0.1"]);
    eventually("the ban holds", || {
        let mut client = connect(&site.gate);
        client.send(format!("GET / HTTP/1.1\r\nHost: a\r\n{BROWSER}\r\n"));
        client.is_ended()
    });
    let mut client = connect(&site.gate);
    client.send("GET /.knockpipe/ HTTP/1.1\r\nHost: a\r\n\r\n");
    assert!(client.is_ended());
}

#[test]
fn the_client_behind_a_proxy_is_the_one_that_gets_in() {
    let proxies = ["--trusted-proxies", "127.0.0.0/8", "--client-ip-header", "X-Seen"];
    let site = Site::start(&proxies);
    let client = "X-Seen: 203.0.113.7\r\n";
    assert_eq!(site.ask("GET /", &format!("{BROWSER}{client}")).status(), 403);
    let granted = site.knock("POST", TOKEN, client);
    assert!(granted.text().contains("203.0.113.7"), "{}", granted.text());
    assert_eq!(site.ask("GET /", &format!("{BROWSER}{client}")).text(), "hello");
    assert_eq!(site.ask("GET /", &format!("{BROWSER}X-Seen: 203.0.113.8\r\n")).status(), 403);
    // One that nobody names gets neither in nor a page.
    let mut nobody = connect(&site.gate);
    nobody.send(format!("GET / HTTP/1.1\r\nHost: a\r\n{BROWSER}\r\n"));
    assert!(nobody.is_ended());
}

#[test]
fn a_table_of_a_file_has_the_page_and_its_name_is_the_gates() {
    let dir = tempfile::tempdir().unwrap();
    new_token(&dir, "all", TOKEN);
    let other = "another-token-of-the-site-001";
    let tokens = dir.path().join("tokens");
    new_token(&dir, "other", other);
    let lines = fs::read_to_string(&tokens).unwrap();
    let lines: Vec<String> =
        lines
            .lines()
            .map(|line| {
                if line.starts_with("other ") { format!("{line} gates=blog") } else { line.into() }
            })
            .collect();
    fs::write(&tokens, lines.join("\n") + "\n").unwrap();
    let server = Server::hello();
    let file = dir.path().join("knockpipe.toml");
    let text = format!(
        "[process]\nlog-format = \"json\"\n[http.shop]\nsource = \"127.0.0.1:0\"\n\
         target = \"{}\"\ngate = \"file:{}\"\nknock-page = true\ntokens = \"{}\"\n\
         most-failures = \"0\"\n",
        server.url(),
        dir.path().join("gate").display(),
        tokens.display()
    );
    fs::write(&file, text).unwrap();
    let gate = Launch::new("run").args(["-c", file.to_str().unwrap()]).start();
    gate.program.wait_line("the warning", |line| line.text().contains("--most-failures"));
    let site = Site { gate, server, dir };
    assert_eq!(site.knock("POST", other, "").status(), 403);
    assert_eq!(site.knock("POST", TOKEN, "").status(), 200);
    assert_eq!(site.ask("GET /", BROWSER).text(), "hello");
}

#[test]
fn flags_of_the_page_are_refused_with_the_remedy() {
    let dir = tempfile::tempdir().unwrap();
    new_token(&dir, "site", TOKEN);
    let tokens = dir.path().join("tokens");
    let tokens = tokens.to_str().unwrap();
    let store = format!("file:{}", dir.path().join("gate").display());
    for (source, args, said) in [
        ("127.0.0.1:0", &["--gate", &store, "--knock-page"][..], "add --tokens FILE"),
        ("127.0.0.1:0", &["--allow", "::1", "--knock-page", "--tokens", tokens], "add --gate"),
        ("127.0.0.1:0", &["--gate", &store, "--tokens", tokens], "add --knock-page"),
        ("127.0.0.1:0", &["--gate", &store, "--most-knocks", "1/1s"], "add --knock-page"),
        ("127.0.0.1:0", &["--gate", &store, "--allow-plain-http"], "add --knock-page"),
        ("0.0.0.0:0", &["--gate", &store, "--knock-page", "--tokens", tokens], "add --tls-cert"),
        (
            "127.0.0.1:0",
            &["--gate", &store, "--knock-page", "--tokens", tokens, "--trust-any-proxy"],
            "with --trusted-proxies NET instead",
        ),
    ] {
        let mut command = Command::new(binary());
        command.args(["http", "-s", source, "-t", "http://127.0.0.1:1"]).args(args);
        let output = command.output().unwrap();
        let error = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(!output.status.success() && error.contains(said), "{args:?}: {error}");
    }
}
