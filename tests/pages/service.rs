//! A real service of knocks, with a token and a store in a file, and its page in a browser.

use std::io::Write;
use std::path::PathBuf;
use std::process::{Command, Stdio};

use serde_json::{Value, json};
use tempfile::TempDir;
use testkit::{End, Launch, binary, eventually};

use super::browser::{Browser, Scheme, Window};

/// The token of the tests.
pub(super) const TOKEN: &str = "a-token-of-the-pages-00001";

/// Address of the browser, for the service.
pub(super) const OWN: &str = "127.0.0.1";

/// A service, and a browser for its page.
pub(super) struct Knocking {
    pub browser: Browser,
    pub end: End,
    pub launch: Launch,
    pub origin: String,
    /// Address that is opened, behind the origin.
    path: &'static str,
    dir: TempDir,
}

/// Runs `knockpipe ARGS` with this input; panics when it fails.
#[track_caller]
fn knockpipe(args: &[&str], input: &str) -> String {
    let mut command = Command::new(binary());
    command.args(args).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().expect("it starts");
    child.stdin.take().unwrap().write_all(input.as_bytes()).unwrap();
    let output = child.wait_with_output().unwrap();
    assert!(output.status.success(), "{args:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

impl Knocking {
    /// Starts a service with a token that has these rights, and opens its page.
    #[track_caller]
    pub(super) fn start(rights: &[&str], args: &[&str]) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let launch = launch("knockd", &dir, rights, args);
        Self::with(dir, launch, "/")
    }

    /// Starts a gate with the page in front of a server, and opens an address of that.
    #[track_caller]
    pub(super) fn on_site(server: &str) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let launch = launch("http", &dir, &[], &["-t", server, "--knock-page"]);
        Self::with(dir, launch, "/shop?item=7")
    }

    #[track_caller]
    fn with(dir: TempDir, launch: Launch, path: &'static str) -> Self {
        let end = launch.clone().args(["-s", "127.0.0.1:0"]).start();
        let origin = format!("http://{}", end.addr());
        let launch = launch.args(["-s", &end.addr().to_string()]);
        let browser = Browser::start();
        browser.look((Window::Desktop, Scheme::Light));
        let knocking = Self { browser, end, launch, origin, path, dir };
        knocking.open();
        knocking
    }

    /// Opens the page, and waits until it works.
    #[track_caller]
    pub(super) fn open(&self) {
        self.browser.go(&format!("{}{}", self.origin, self.path));
        self.browser
            .wait("the page works", "return document.getElementById('place').textContent !== ''");
    }

    /// Starts the service again, where it was.
    #[track_caller]
    pub(super) fn restart(&mut self) {
        self.end = self.launch.start();
    }

    /// Knocks with a token for the time of a button.
    #[track_caller]
    pub(super) fn knock(&self, token: &str, seconds: &str) {
        self.browser.fill("#token", token);
        self.browser.click(&format!("label:has([name=duration][value='{seconds}'])"));
        self.browser.click("#knock");
    }

    /// Returns the entries of the store.
    #[track_caller]
    pub(super) fn entries(&self) -> Vec<Value> {
        let gate = format!("file:{}", self.gate().display());
        let lines = knockpipe(&["gate", "list", "--json", "--gate", &gate], "");
        lines.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
    }

    /// Waits until the store has entries of exactly these addresses.
    #[track_caller]
    pub(super) fn wait_entries(&self, addresses: &[&str]) {
        eventually(&format!("the store has {addresses:?}"), || {
            let entries = self.entries();
            let text = |entry: &Value| entry.to_string();
            entries.len() == addresses.len()
                && addresses.iter().all(|it| entries.iter().any(|entry| text(entry).contains(it)))
        });
    }

    fn gate(&self) -> PathBuf {
        self.dir.path().join("gate")
    }

    /// Runs a command of the gate on the store.
    #[track_caller]
    pub(super) fn command(&self, args: &[&str]) {
        let gate = format!("file:{}", self.gate().display());
        knockpipe(&[&["gate"], args, &["--gate", &gate]].concat(), "");
    }

    /// Takes the token away from the running service.
    #[track_caller]
    pub(super) fn revoke(&self) {
        let tokens = self.dir.path().join("tokens");
        let tokens = tokens.to_str().unwrap();
        knockpipe(&["knockd", "token", "revoke", "pages", "--tokens", tokens], "");
        knockpipe(&["knockd", "token", "new", "other", "--tokens", tokens], "");
        self.end.program.signal(nix::sys::signal::Signal::SIGHUP);
        self.end.program.wait_line("reloaded", |line| line.message().starts_with("reload"));
    }

    /// Counts the requests of the page to the API since the last look.
    #[track_caller]
    pub(super) fn questions(&self) -> usize {
        let requests = self.browser.requests();
        requests.iter().filter(|url| url.ends_with("/knock")).count()
    }

    /// Returns everything that the browser keeps, and could send or show elsewhere.
    #[track_caller]
    pub(super) fn kept(&self) -> String {
        let cookies = self.browser.cdp("Network.getAllCookies", &json!({}));
        let page = "return JSON.stringify([document.cookie, location.href, document.title, \
            {...sessionStorage}, {...localStorage}, history.state])";
        format!("{} {}", cookies["cookies"], self.browser.run(page))
    }
}

fn launch(service: &'static str, dir: &TempDir, rights: &[&str], args: &[&str]) -> Launch {
    let file = dir.path().join("tokens");
    let tokens = file.to_str().unwrap();
    let new = ["knockd", "token", "new", "pages", "--tokens", tokens, "--from", "-"];
    knockpipe(&[&new[..], rights].concat(), TOKEN);
    let gate = format!("file:{}", dir.path().join("gate").display());
    Launch::new(service).args(["--tokens", tokens, "--gate", &gate]).args(args)
}
