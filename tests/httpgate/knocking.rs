//! redis-knocking's own command line, with the name changed, in front of Vite's development server.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use nix::sys::signal::Signal;
use tempfile::TempDir;
use testkit::netns::{GATE4, Net};
use testkit::proc::stat;
use testkit::program::require;
use testkit::redis::{Redis, Reply};
use testkit::wait::poll;
use testkit::{Addr, Ending, NEVER, Program, binary, eventually};

use crate::http::Peer;
use crate::world::{OTHER, PEER, get};

/// A directory with a page for Vite, and a Redis, on the machine of the gate.
struct Site {
    program: Program,
    redis: Redis,
    net: Net,
    dir: TempDir,
}

/// A page with a module, as a development server serves it.
fn project(dir: &Path) {
    fs::write(
        dir.join("index.html"),
        "<script type=module src=/main.js></script><p>hello vite</p>",
    )
    .unwrap();
    fs::write(dir.join("main.js"), "if (import.meta.hot) import.meta.hot.accept()\n").unwrap();
    let package = "{\"scripts\": {\"dev\": \"vite --port 5173 --strictPort\"}}";
    fs::write(dir.join("package.json"), package).unwrap();
}

impl Site {
    /// Runs the README's command line with more arguments. `name` is the program's.
    fn new(name: impl FnOnce(&Path) -> Vec<PathBuf>, args: &[&str]) -> Self {
        require("npm", "npm");
        require("vite", "npm; then: npm install -g vite@5");
        let dir = tempfile::tempdir().unwrap();
        project(dir.path());
        let net = Net::make();
        let redis = net.at_gate(|| Redis::start_with(&["--requirepass", "password"]));
        let port = redis.tcp().tcp().port();
        let login = redis.direct().ask(&["AUTH", "password"]);
        assert_eq!(login, Reply::ok());
        let words = name(dir.path());
        let program = net.at_gate(|| {
            let mut command = Command::new(&words[0]);
            command
                .args(&words[1..])
                .args(["-target", "http://localhost:5173", "-listen", ":5174", "-redis"])
                .arg(format!("redis://default:password@127.0.0.1:{port}/0"))
                .args(["-script", "npm run dev"])
                .args(args)
                .current_dir(dir.path())
                .env("NO_COLOR", "1")
                .stdin(Stdio::null())
                .stdout(Stdio::piped());
            Program::spawn("redis-knocking", &mut command)
        });
        let site = Self { program, redis, net, dir };
        site.program.wait_line("ready", |line| line.is("ready"));
        site
    }

    fn peer(&self, source: &str) -> Peer {
        let entrance = Addr::Tcp(format!("{GATE4}:5174").parse().unwrap());
        Peer::new(self.net.dial(source, &entrance))
    }

    fn redis(&self, words: &[&str]) -> Reply {
        let mut client = self.redis.direct();
        assert_eq!(client.ask(&["AUTH", "password"]), Reply::ok());
        client.ask(words)
    }

    /// Lets an address in, and waits for Vite.
    #[track_caller]
    fn admit(&self, address: &str) -> String {
        assert_eq!(self.redis(&["SADD", "ip-allowed", address]), Reply::Number(1));
        let page = poll(NEVER, || {
            let mut peer = self.peer(address);
            peer.send(get("/"));
            let head = peer.head().filter(|head| head.status() == 200)?;
            drop(head);
            let mut peer = self.peer(address);
            Some(peer.ask(&get("/")).text())
        });
        page.expect("the page comes")
    }
}

fn renamed(_: &Path) -> Vec<PathBuf> {
    vec![binary()]
}

fn linked(dir: &Path) -> Vec<PathBuf> {
    let link = dir.join("redis-knocking");
    std::os::unix::fs::symlink(binary(), &link).unwrap();
    vec![link]
}

#[test]
fn the_readmes_command_line_guards_a_development_server() {
    let site = Site::new(renamed, &[]);
    let mut denied = site.peer(OTHER).wire;
    let _ = std::io::Write::write_all(&mut denied, get("/").as_bytes());
    let (bytes, ending) = denied.read_to_ending(NEVER);
    assert!(bytes.is_empty() && ending != Ending::Silent, "{} bytes", bytes.len());
    let page = site.admit(PEER);
    assert!(page.contains("hello vite") && page.contains("/@vite/client"), "{page}");
    // Its socket for reloads of modules, with the token that its client has.
    let client = site.peer(PEER).ask(&get("/@vite/client")).text();
    let (_, token) = client.split_once("const wsToken = \"").expect("the client has a token");
    let token = token.split('"').next().unwrap();
    let socket = site.net.dial(PEER, &Addr::Tcp(format!("{GATE4}:5174").parse().unwrap()));
    let request = tungstenite::http::Request::builder()
        .uri(format!("ws://localhost:5174/?token={token}"))
        .header("Host", "localhost:5174")
        .header("Connection", "Upgrade")
        .header("Upgrade", "websocket")
        .header("Sec-WebSocket-Version", "13")
        .header("Sec-WebSocket-Key", tungstenite::handshake::client::generate_key())
        .header("Sec-WebSocket-Protocol", "vite-hmr")
        .header("Origin", "http://localhost:5173")
        .body(())
        .unwrap();
    let (mut socket, _) = tungstenite::client(request, socket).expect("it changes");
    let first = socket.read().unwrap().into_text().unwrap();
    assert!(first.contains("connected"), "{first}");
    let time = site.redis(&["HGET", "ip-history", PEER]).text().parse::<u64>().unwrap();
    assert!(time > 1_700_000_000, "{time}");
    site.redis(&["SREM", "ip-allowed", PEER]);
    while socket.read().is_ok() {}
}

#[test]
fn a_link_of_its_name_takes_its_flags_and_all_ends_together() {
    let mut site = Site::new(linked, &["-redirect", "https://www.google.com", "--detail=enabled"]);
    let answer = site.peer(OTHER).ask(&get("/x"));
    assert_eq!((answer.status(), answer.field("location")), (302, Some("https://www.google.com")));
    site.admit(PEER);
    let log = site.program.stderr();
    for line in [format!("IP {OTHER} denied"), format!("IP {PEER} allowed")] {
        assert!(log.contains(&line), "{log}");
    }
    let vite = site.net.at_gate(|| vite(site.dir.path()));
    site.program.signal(Signal::SIGTERM);
    site.program.wait();
    for pid in vite {
        eventually("Vite is gone", || stat(pid).is_none_or(|stat| stat.state == "Z"));
    }
}

/// Returns the processes that run in this directory.
fn vite(dir: &Path) -> Vec<u32> {
    let all = fs::read_dir("/proc").unwrap().flatten();
    let pids = all.filter_map(|entry| entry.file_name().to_str()?.parse().ok());
    let found: Vec<u32> = pids
        .filter(|pid: &u32| fs::read_link(format!("/proc/{pid}/cwd")).is_ok_and(|cwd| cwd == dir))
        .collect();
    assert!(found.len() >= 2, "npm and Vite run: {found:?}");
    found
}

#[test]
fn an_internal_address_gets_in_and_a_header_makes_none() {
    let site = Site::new(
        renamed,
        &["-detail", "enabled", "-ipHeader", "X-Forwarded-For", "--trusted-proxies", "192.0.2.1"],
    );
    site.admit(PEER);
    let local = site.net.at_gate(|| {
        let to = Addr::Tcp("127.0.0.1:5174".parse().unwrap());
        Peer::new(testkit::Wire::connect(&to).unwrap()).ask(&get("/"))
    });
    assert_eq!(local.status(), 200);
    eventually("its line is there", || {
        site.program.stderr().contains("Internal IP 127.0.0.1 automatically allowed")
    });
    let mut spoofing = site.peer(OTHER);
    spoofing.send("GET / HTTP/1.1\r\nHost: a\r\nX-Forwarded-For: 127.0.0.1\r\n\r\n");
    assert!(spoofing.is_ended());
    let mut through = site.peer("192.0.2.1");
    through.send(format!("GET / HTTP/1.1\r\nHost: a\r\nX-Forwarded-For: {PEER}\r\n\r\n"));
    assert_eq!(through.head().unwrap().status(), 200);
}

/// Runs a command line to its end.
fn ended(args: &[&str]) -> (i32, String) {
    let mut program = Program::spawn(
        "redis-knocking",
        Command::new(binary()).args(args).stdin(Stdio::null()).stdout(Stdio::piped()),
    );
    let stdout = {
        let mut text = String::new();
        let mut pipe = program.child().stdout.take().unwrap();
        std::io::Read::read_to_string(&mut pipe, &mut text).unwrap();
        text
    };
    (program.exit_code(), stdout + &program.stderr())
}

#[test]
fn a_header_from_anybody_is_refused_with_the_remedy() {
    let (status, text) = ended(&["-redis", "redis://127.0.0.1:1", "-ip-header", "X-Forwarded-For"]);
    assert_eq!(status, 2, "{text}");
    assert!(text.contains("--trusted-proxies") && text.contains("--trust-any-proxy"), "{text}");
    let (status, text) = ended(&["-target", "http://a"]);
    assert!(status == 2 && text.contains("-redis"), "{text}");
}

#[test]
fn without_a_script_it_says_so_and_ends() {
    let redis = Redis::start();
    let port = testkit::address::free_port().to_string();
    let (status, text) = ended(&["-redis", &redis.url(), "-listen", &format!("127.0.0.1:{port}")]);
    assert_eq!(status, 0, "{text}");
    assert!(text.contains("No command was specified to run, please add the -script parameter."));
}

#[test]
fn trust_in_any_proxy_is_the_old_behaviour() {
    let net = Net::make();
    let redis = net.at_gate(Redis::start);
    let server = tempfile::tempdir().unwrap();
    let target = net.at_gate(crate::world::Server::hello);
    let program = net.at_gate(|| {
        let mut command = Command::new(binary());
        command
            .args(["-redis", &redis.url(), "-target", &target.url(), "-listen", ":5174"])
            .args(["-ip-header", "X-Forwarded-For", "--trust-any-proxy", "-script", "sleep 1000"])
            .current_dir(server.path())
            .stdin(Stdio::null())
            .stdout(Stdio::null());
        Program::spawn("redis-knocking", &mut command)
    });
    program.wait_line("ready", |line| line.is("ready"));
    let entrance = Addr::Tcp(format!("{GATE4}:5174").parse().unwrap());
    let ask = |field: &str| {
        let mut peer = Peer::new(net.dial(PEER, &entrance));
        peer.send(format!("GET / HTTP/1.1\r\nHost: a\r\n{field}\r\n"));
        peer.head().map(|head| head.status())
    };
    redis.ask("SADD ip-allowed 192.0.2.9");
    eventually("the left-most counts", || {
        ask("X-Forwarded-For: 192.0.2.9, 198.51.100.9\r\n") == Some(200)
    });
    assert_eq!(ask("X-Forwarded-For: 127.0.0.1\r\n"), Some(200));
    assert_eq!(ask("X-Forwarded-For: 198.51.100.9, 192.0.2.9\r\n"), None);
    assert_eq!(ask(""), None);
}
