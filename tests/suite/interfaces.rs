//! Interfaces that come, go, and are made anew, in network namespaces: link-local
//! addresses with their zones, and hosts without IPv6.

use std::fs;
use std::path::Path;
use std::process::Command;

use testkit::file::Service;
use testkit::netns::Namespace;
use testkit::{Addr, Launch, Program, Wire, binary, eventually, keygen};

/// Makes `wan`, with a number that is new each time, and a link-local address of its own.
fn make_wan(net: &Namespace, number: u32) {
    net.batch(&format!(
        "link add wan index {number} type veth peer name far\nlink set wan addrgenmode none\n\
         link set far up\nlink set wan up\naddr add fe80::1/64 dev wan nodad\n"
    ));
}

/// Makes a namespace with `wan`.
fn with_wan() -> Namespace {
    let net = Namespace::unique("kpw");
    net.batch("link set lo up\n");
    make_wan(&net, 100);
    net
}

fn remake_wan(net: &Namespace, number: u32) {
    net.batch("link del wan\n");
    make_wan(net, number);
}

/// A listener at the address of `wan`, which greets every client.
struct Greeter(std::net::SocketAddrV6);

impl Greeter {
    fn at(net: &Namespace, port: u16, number: u32) -> Self {
        let listener = net.enter(|| {
            let at = std::net::SocketAddrV6::new("fe80::1".parse().unwrap(), port, 0, number);
            std::net::TcpListener::bind(at).unwrap()
        });
        let std::net::SocketAddr::V6(at) = listener.local_addr().unwrap() else { unreachable!() };
        std::thread::spawn(move || {
            for client in listener.incoming().flatten() {
                use std::io::Write;
                let _ = (&client).write_all(b"hello");
            }
        });
        Self(at)
    }
}

fn greets(net: &Namespace, entrance: &Addr) -> bool {
    net.enter(|| {
        let mut wire = Wire::connect(entrance).unwrap();
        wire.read_to_ending(std::time::Duration::from_secs(2)).0.starts_with(b"hello")
    })
}

/// `-t [fe80::1%wan]:PORT`: the zone is looked up at each dial.
#[test]
fn a_target_is_reached_after_its_interface_was_made_anew() {
    let (net, dir) = (with_wan(), tempfile::tempdir().unwrap());
    let first = Greeter::at(&net, 0, 100);
    let port = first.0.port();
    let key = keygen(dir.path(), "key");
    let loopback = Addr::parse("127.0.0.1:0").unwrap();
    let (decrypt, encrypt) = net.enter(|| {
        let target = format!("[fe80::1%wan]:{port}");
        let decrypt = Launch::decrypt(&key).source(&loopback).args(["-t", &target]).start();
        let encrypt = Launch::encrypt(&key).source(&loopback).target(decrypt.addr()).start();
        (decrypt, encrypt)
    });
    assert!(greets(&net, encrypt.addr()));
    remake_wan(&net, 200);
    let _second = Greeter::at(&net, port, 200);
    eventually("the new one is reached", || greets(&net, encrypt.addr()));
    drop(decrypt);
}

fn started(net: &Namespace, dir: &Path, text: &str) -> Service {
    net.enter(|| Service::start(dir, "far.toml", text))
}

/// `-s [fe80::1%wan]:PORT`: a reload listens on the new interface.
#[test]
fn a_reload_listens_on_an_interface_that_was_made_anew() {
    let (net, dir) = (with_wan(), tempfile::tempdir().unwrap());
    let key = keygen(dir.path(), "key");
    let port = testkit::address::free_port();
    let text = format!(
        "[tunnels.near]\nmode = \"encrypt\"\nsource = \"[fe80::1%wan]:{port}\"\n\
         target = \"127.0.0.1:1\"\nkey = \"{}\"\n",
        key.display()
    );
    let mut service = started(&net, dir.path(), &text);
    let is_reached = |number| {
        net.enter(move || {
            let at = std::net::SocketAddrV6::new("fe80::1".parse().unwrap(), port, 0, number);
            std::net::TcpStream::connect(at).is_ok()
        })
    };
    assert!(is_reached(100));
    let line = service.reload(&text);
    assert_eq!(line.number("same"), Some(1), "nothing is new: {}", line.text());
    remake_wan(&net, 200);
    assert!(!is_reached(200), "its socket is that of an interface that is gone");
    let line = service.reload(&text);
    assert_eq!(line.number("changed"), Some(1), "{}", line.text());
    assert!(is_reached(200));
    service.stop();
}

/// Makes a namespace as a host without IPv6 is.
fn without_ipv6() -> Namespace {
    let net = Namespace::unique("kp4");
    net.batch("link set lo up\n");
    set_ipv6(&net, false);
    net
}

fn set_ipv6(net: &Namespace, is_on: bool) {
    let off = if is_on { "0" } else { "1" };
    net.enter(|| {
        for name in ["all", "default", "lo"] {
            fs::write(format!("/proc/sys/net/ipv6/conf/{name}/disable_ipv6"), off).unwrap();
        }
    });
    if is_on {
        let there = net.enter(|| std::net::TcpListener::bind("[::1]:0").is_ok());
        if !there {
            net.batch("addr add ::1/128 dev lo\n");
        }
    }
}

const MISSING: &str = "source address not available on this host";

fn table(key: &Path, sources: &str) -> String {
    format!(
        "[tunnels.near]\nmode = \"encrypt\"\nsource = {sources}\ntarget = \"127.0.0.1:1\"\n\
         key = \"{}\"\n",
        key.display()
    )
}

/// The other source works, with a warning; a reload adds an address that has come since.
#[test]
fn a_source_of_a_missing_family_is_a_warning_where_another_works() {
    let (net, dir) = (without_ipv6(), tempfile::tempdir().unwrap());
    let key = keygen(dir.path(), "key");
    let port = testkit::address::free_port();
    let text = table(&key, &format!("[\"127.0.0.1:{port}\", \"[::1]:{port}\"]"));
    let mut service = started(&net, dir.path(), &text);
    let line = service.program.wait_line(MISSING, |line| line.is(MISSING));
    assert_eq!(line.level(), "WARN");
    assert!(line.text().contains(&format!("[::1]:{port}")), "{}", line.text());
    assert!(line.text().contains("no IPv6"), "{}", line.text());
    let is_reached =
        |ip: &'static str| net.enter(move || std::net::TcpStream::connect((ip, port)).is_ok());
    assert!(is_reached("127.0.0.1") && !is_reached("::1"));
    let line = service.reload(&text);
    assert_eq!(line.number("same"), Some(1), "{}", line.text());

    let check = net.enter(|| check(&dir.path().join("far.toml")));
    assert!(check.0 == Some(0) && check.1.contains("no IPv6"), "{check:?}");
    set_ipv6(&net, true);
    let line = service.reload(&text);
    assert_eq!(line.number("changed"), Some(1), "{}", line.text());
    assert!(is_reached("127.0.0.1") && is_reached("::1"));
    service.stop();
}

fn check(file: &Path) -> (Option<i32>, String) {
    let output = Command::new(binary()).args(["check", "-c"]).arg(file).output().unwrap();
    let text = [output.stdout, output.stderr].concat();
    (output.status.code(), String::from_utf8_lossy(&text).into_owned())
}

/// If no source works, or an address may be mistyped, it fails as ever.
#[test]
fn a_source_that_is_the_only_one_or_a_typo_is_an_error() {
    let (net, dir) = (without_ipv6(), tempfile::tempdir().unwrap());
    let key = keygen(dir.path(), "key");
    let file = dir.path().join("far.toml");
    let refused = |sources: &str| {
        fs::write(&file, table(&key, sources)).unwrap();
        let mut command = Command::new(binary());
        command.args(["run", "-c"]).arg(&file);
        let mut program = net.enter(|| Program::spawn("run", &mut command));
        assert_eq!(program.exit_code(), 1, "{}", program.tail());
        program.stderr()
    };
    assert!(refused("\"[::1]:0\"").contains("no IPv6"));
    let (status, text) = net.enter(|| check(&file));
    assert!(status == Some(2) && text.contains("no IPv6"), "{text}");
    let typo = refused("[\"127.0.0.1:0\", \"192.0.2.1:0\"]");
    assert!(typo.contains("192.0.2.1:0") && !typo.contains("no IPv"), "{typo}");
    let typo = refused("[\"127.0.0.1:0\", \"[2001:db8::1]:0\"]");
    assert!(typo.contains("2001:db8::1"), "{typo}");
}
