//! A Chromium with an empty profile of its own, which ends with its test whatever happens.

use std::cell::RefCell;
use std::fs;
use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{ChildStdout, Command, Stdio};
use std::time::Duration;

use serde_json::{Value, json};
use tempfile::TempDir;
use testkit::program::require;
use testkit::{NEVER, Program, eventually, wait};
use thirtyfour::common::capabilities::desiredcapabilities::CapabilitiesHelper;
use thirtyfour::{By, ChromiumLikeCapabilities, DesiredCapabilities, WebDriver};
use tokio::runtime::Runtime;

/// Time that the browser has to end by itself.
const GOODBYE: Duration = Duration::from_secs(10);

/// What keeps Chromium to the page under test.
const ARGUMENTS: [&str; 9] = [
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--disable-dev-shm-usage",
];

/// Notes violations of a policy before any script of a page runs.
const WATCH: &str = "window.violations = []; document.addEventListener('securitypolicyviolation', \
    (event) => window.violations.push(event.violatedDirective + ' ' + event.blockedURI));";

/// Size of a window.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Window {
    Phone,
    Desktop,
}

/// The colours that a user prefers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Scheme {
    Light,
    Dark,
}

impl Window {
    fn width(self) -> u64 {
        if self == Self::Phone { 390 } else { 1280 }
    }
}

/// Every window in every scheme.
pub(super) const LOOKS: [(Window, Scheme); 4] = [
    (Window::Phone, Scheme::Light),
    (Window::Phone, Scheme::Dark),
    (Window::Desktop, Scheme::Light),
    (Window::Desktop, Scheme::Dark),
];

/// A browser with one window.
pub(super) struct Browser {
    driver: Option<WebDriver>,
    runtime: Runtime,
    /// Every address that pages asked for.
    asked: RefCell<Vec<String>>,
    // Below what uses them: fields are dropped in this order.
    _chromedriver: Program,
    /// Kept open, so that the driver can write.
    _output: BufReader<ChildStdout>,
    _profile: TempDir,
}

impl Browser {
    /// Starts a browser with an empty tab.
    #[track_caller]
    pub(super) fn start() -> Self {
        require("chromium", "chromium");
        require("chromedriver", "chromium-driver");
        let profile = tempfile::tempdir().expect("a directory can be made");
        let mut chromedriver = Program::spawn("chromedriver", &mut contained());
        let output = chromedriver.child().stdout.take().expect("stdout is piped");
        let mut output = BufReader::new(output);
        let port = port_in(&mut output);
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .enable_all()
            .build()
            .expect("a runtime can be made");
        let url = format!("http://127.0.0.1:{port}");
        let capabilities = capabilities(profile.path());
        let driver = runtime.block_on(async move { WebDriver::new(&url, capabilities).await });
        let driver = Some(driver.expect("chromium starts"));
        let browser = Self {
            driver,
            runtime,
            asked: RefCell::default(),
            _chromedriver: chromedriver,
            _output: output,
            _profile: profile,
        };
        browser.cdp("Page.addScriptToEvaluateOnNewDocument", &json!({ "source": WATCH }));
        browser
    }

    fn driver(&self) -> &WebDriver {
        self.driver.as_ref().expect("it runs until it is dropped")
    }

    #[track_caller]
    pub(super) fn go(&self, url: &str) {
        self.runtime.block_on(self.driver().goto(url)).unwrap_or_else(|e| panic!("{url}: {e}"));
    }

    /// Runs a script in the page, and returns what it returns; a promise is waited for.
    #[track_caller]
    pub(super) fn run(&self, script: &str) -> Value {
        self.run_with(script, vec![])
    }

    /// Runs a script with `arguments`.
    #[track_caller]
    pub(super) fn run_with(&self, script: &str, arguments: Vec<Value>) -> Value {
        let result = self.runtime.block_on(self.driver().execute(script, arguments));
        result.unwrap_or_else(|e| panic!("{script}: {e}")).json().clone()
    }

    /// Sends a command of the DevTools protocol.
    #[track_caller]
    pub(super) fn cdp(&self, command: &str, parameters: &Value) -> Value {
        let result = self.runtime.block_on(self.driver().cdp().send_raw(command, parameters));
        result.unwrap_or_else(|e| panic!("{command}: {e}"))
    }

    /// Waits until a script returns true.
    #[track_caller]
    pub(super) fn wait(&self, what: &str, script: &str) {
        let holds = || self.run(script) == json!(true);
        if wait::poll(NEVER, || holds().then_some(())).is_none() {
            let seen = self.run("return document.body.innerText");
            panic!("did not happen: {what}; the page:\n{}", seen.as_str().unwrap_or_default());
        }
    }

    /// Waits until the visible text of the page contains `text`.
    #[track_caller]
    pub(super) fn wait_text(&self, text: &str) {
        let script = format!("return document.body.innerText.includes({})", json!(text));
        self.wait(text, &script);
    }

    /// Returns the visible text of the first element that `selector` finds.
    #[track_caller]
    pub(super) fn text(&self, selector: &str) -> String {
        let script = "return document.querySelector(arguments[0]).innerText";
        let text = self.run_with(script, vec![json!(selector)]);
        text.as_str().expect("it is text").to_owned()
    }

    /// Clicks on the first element that `selector` finds, which has to be visible.
    #[track_caller]
    pub(super) fn click(&self, selector: &str) {
        let show = "document.querySelector(arguments[0]).scrollIntoView({ block: 'center' })";
        self.run_with(show, vec![json!(selector)]);
        let find = async { self.driver().find(By::Css(selector)).await?.click().await };
        self.runtime.block_on(find).unwrap_or_else(|e| panic!("{selector}: {e}"));
    }

    /// Types into a field what it has to contain.
    #[track_caller]
    pub(super) fn fill(&self, selector: &str, text: &str) {
        let typed = self.runtime.block_on(async {
            let field = self.driver().find(By::Css(selector)).await?;
            field.clear().await?;
            field.send_keys(text).await
        });
        typed.unwrap_or_else(|e| panic!("{selector}: {e}"));
    }

    /// Sets the size of the window and the preferred colours.
    #[track_caller]
    pub(super) fn look(&self, (window, scheme): (Window, Scheme)) {
        self.resize(window, 0);
        let scheme = if scheme == Scheme::Dark { "dark" } else { "light" };
        let features = [
            json!({ "name": "prefers-color-scheme", "value": scheme }),
            json!({ "name": "prefers-reduced-motion", "value": "reduce" }),
        ];
        self.cdp("Emulation.setEmulatedMedia", &json!({ "features": features }));
        self.wait("the window has its size", &format!("return innerWidth === {}", window.width()));
    }

    /// Sets the size of the window, with the height of its kind or `least`.
    #[track_caller]
    fn resize(&self, window: Window, least: u64) {
        let is_phone = window == Window::Phone;
        let height = least.max(if is_phone { 844 } else { 900 });
        let scale = if is_phone { 2 } else { 1 };
        let metrics = json!({
            "width": window.width(), "height": height, "deviceScaleFactor": scale,
            "mobile": is_phone,
        });
        self.cdp("Emulation.setDeviceMetricsOverride", &metrics);
    }

    /// Disconnects the page from every network, or connects it again.
    #[track_caller]
    pub(super) fn set_offline(&self, offline: bool) {
        self.cdp("Network.enable", &json!({}));
        let all = json!({
            "offline": offline, "latency": 0, "downloadThroughput": -1, "uploadThroughput": -1,
        });
        self.cdp("Network.emulateNetworkConditions", &all);
    }

    /// Keeps a screenshot of the whole page.
    #[track_caller]
    pub(super) fn shoot(&self, name: &str, look: (Window, Scheme)) {
        let directory = Path::new("target/screenshots");
        fs::create_dir_all(directory).expect("the directory can be made");
        let size = &self.cdp("Page.getLayoutMetrics", &json!({}))["cssContentSize"];
        // All of it is in view, so that what sticks to the lower edge is at the end.
        self.resize(look.0, size["height"].as_f64().expect("it is a number") as u64);
        let answer = self.cdp("Page.captureScreenshot", &json!({ "format": "png" }));
        self.resize(look.0, 0);
        let bytes = unbase64(answer["data"].as_str().expect("it is text"));
        let name = format!("{name}-{:?}-{:?}.png", look.0, look.1).to_lowercase();
        fs::write(directory.join(name), bytes).expect("a file can be written");
    }

    /// Returns the addresses that pages asked for since the last call.
    #[track_caller]
    pub(super) fn requests(&self) -> Vec<String> {
        let log = self.runtime.block_on(self.driver().get_log("performance"));
        let entries = log.expect("the log can be read");
        let events = entries.iter().filter_map(|entry| {
            let event: Value = serde_json::from_str(&entry.message).expect("it is JSON");
            let message = &event["message"];
            let is_request = message["method"] == "Network.requestWillBeSent";
            is_request.then(|| message["params"]["request"]["url"].as_str().map(str::to_owned))?
        });
        // Of the browser's own pages, and drawings that it makes itself.
        let is_sent = |url: &String| !["chrome:", "data:"].iter().any(|own| url.starts_with(own));
        let new: Vec<String> = events.filter(is_sent).collect();
        self.asked.borrow_mut().extend(new.iter().cloned());
        new
    }

    /// Returns every address that pages have asked for.
    #[track_caller]
    pub(super) fn all_requests(&self) -> Vec<String> {
        self.requests();
        self.asked.borrow().clone()
    }

    /// Returns what the browser complained about since the last call.
    #[track_caller]
    pub(super) fn complaints(&self) -> Vec<String> {
        let log = self.runtime.block_on(self.driver().browser_log()).expect("the log can be read");
        log.into_iter().map(|entry| format!("{} {}", entry.level, entry.message)).collect()
    }
}

impl Drop for Browser {
    fn drop(&mut self) {
        if let Some(driver) = self.driver.take() {
            // Whatever is left ends with its namespace.
            let _ =
                self.runtime.block_on(async { tokio::time::timeout(GOODBYE, driver.quit()).await });
        }
    }
}

/// A driver in a process namespace of its own: when it is killed, no browser stays behind.
fn contained() -> Command {
    let mut command = Command::new("unshare");
    if !nix::unistd::geteuid().is_root() {
        command.arg("-r");
    }
    command.args(["--pid", "--fork", "--kill-child", "--mount-proc", "chromedriver", "--port=0"]);
    command.stdin(Stdio::null()).stdout(Stdio::piped());
    command
}

/// Reads the port that the driver has chosen.
#[track_caller]
fn port_in(output: &mut impl BufRead) -> u16 {
    let mut all = String::new();
    loop {
        let mut line = String::new();
        let length = output.read_line(&mut line).expect("it can be read");
        assert!(length > 0, "chromedriver ends: {all}");
        all += &line;
        let rest = line.split_once("successfully on port ");
        let Some((_, rest)) = rest else { continue };
        return rest.trim().trim_end_matches('.').parse().expect("it is a port");
    }
}

fn capabilities(profile: &Path) -> thirtyfour::ChromeCapabilities {
    let mut capabilities = DesiredCapabilities::chrome();
    for argument in ARGUMENTS {
        capabilities.add_arg(argument).expect("it is an argument");
    }
    let profile = format!("--user-data-dir={}", profile.display());
    capabilities.add_arg(&profile).expect("it is an argument");
    let logs = json!({ "browser": "ALL", "performance": "ALL" });
    capabilities.set("goog:loggingPrefs", logs).expect("it is a capability");
    capabilities
}

fn unbase64(text: &str) -> Vec<u8> {
    use base64::Engine;
    base64::engine::general_purpose::STANDARD.decode(text).expect("it is base64")
}

#[test]
fn a_violation_is_noticed() {
    let browser = Browser::start();
    let target = testkit::Target::local(|mut wire, _| {
        use std::io::{Read, Write};
        let _ = wire.read(&mut [0; 4096]);
        let page = "<script>document.title = 'ran'</script>";
        let head = "HTTP/1.1 200 OK\r\nContent-Type: text/html\r\nConnection: close\r\n\
            Content-Security-Policy: default-src 'none'\r\n\r\n";
        let _ = wire.write_all(format!("{head}{page}").as_bytes());
    });
    browser.go(&format!("http://{}/", target.addr()));
    eventually("the violation is noted", || !super::checks::violations(&browser).is_empty());
    assert_eq!(browser.run("return document.title"), json!(""));
    assert!(!browser.requests().is_empty() && !browser.complaints().is_empty());
}
