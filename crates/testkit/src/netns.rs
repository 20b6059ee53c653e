//! Two machines on one: a gate's, and that of peers with public addresses.
//!
//! Each is a network namespace with a unique name, so that runs do not collide and the real network
//! is not touched. A thread that enters a namespace is otherwise unchanged: its sockets and the
//! programs that it starts belong to the namespace, files and unix sockets are shared with the
//! whole machine.

use std::fs::File;
use std::io::{self, Write};
use std::net::{IpAddr, SocketAddr};
use std::panic::resume_unwind;
use std::process::{Command, Stdio};
use std::thread;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use nix::sched::{CloneFlags, setns};
use nix::unistd::geteuid;
use socket2::{Domain, Socket, Type};

use crate::address::Addr;
use crate::data::Noise;
use crate::program::require;
use crate::wire::{Ending, Wire};

/// Addresses at which peers reach the gate.
pub const GATE4: &str = "198.51.100.1";
pub const GATE6: &str = "2001:db8:0:2::1";

/// IPv4 networks with addresses that peers may use.
const PEERS4: [&str; 8] = [
    "203.0.113.0/24",
    "192.0.2.0/24",
    "10.0.0.0/8",
    "172.16.0.0/12",
    "172.32.0.0/16",
    "192.168.0.0/16",
    "100.64.0.0/10",
    "169.254.0.0/16",
];

/// IPv6 addresses of peers. Each has to exist on the link: neighbour discovery does not work from
/// other addresses.
const PEERS6: [&str; 4] = ["2001:db8:0:1::7", "2001:db8:0:1::8", "2001:db8:0:1:1::9", "fd00:77::7"];

/// Time for which a connection is watched before it counts as not denied.
const LOOK: Duration = Duration::from_millis(250);

/// The two namespaces; both are removed on drop.
pub struct Net {
    gate: Namespace,
    peers: Namespace,
}

impl Net {
    /// Makes both namespaces and the link between them; needs root.
    pub fn make() -> Self {
        require("ip", "iproute2");
        assert!(
            geteuid().is_root(),
            "this test makes network namespaces, which takes root; run it with sudo"
        );
        let id = unique();
        let gate = Namespace::new(format!("kp{id}g"));
        let peers = Namespace::new(format!("kp{id}p"));
        ip(&["link", "add", "kp0", "netns", gate.0.as_str(), "type", "veth"]
            .into_iter()
            .chain(["peer", "name", "kp0", "netns", &peers.0])
            .collect::<Vec<_>>());
        gate.batch(
            "addr add 198.51.100.1/24 dev kp0\naddr add 2001:db8:0:2::1/64 dev kp0 nodad\n\
             link set lo up\nlink set kp0 up\n\
             route add default via 198.51.100.2\nroute add default via 2001:db8:0:2::2\n",
        );
        let networks: String =
            PEERS4.iter().map(|net| format!("route add local {net} dev lo\n")).collect();
        let addresses: String =
            PEERS6.iter().map(|ip| format!("addr add {ip}/128 dev kp0 nodad\n")).collect();
        peers.batch(&format!(
            "addr add 198.51.100.2/24 dev kp0\naddr add 2001:db8:0:2::2/64 dev kp0 nodad\n\
             link set lo up\nlink set kp0 up\n{networks}{addresses}"
        ));
        Self { gate, peers }
    }

    /// Lets peers use every address of an IPv6 network.
    pub fn own(&self, network: &str) {
        self.peers.batch(&format!("route add local {network} dev lo\n"));
        self.at_peers(|| {
            std::fs::write("/proc/sys/net/ipv6/ip_nonlocal_bind", "1").expect("root may set it");
        });
    }

    /// Links the gate's machine to another, which sends everything there. `own` and `theirs` are
    /// the IPv4 addresses of the link.
    pub fn link_gate_to(&self, other: &Namespace, own: &str, theirs: &str) {
        self.gate.link("kp1", other, "kp0");
        self.gate.batch(&format!("addr add {own}/24 dev kp1\nlink set kp1 up\n"));
        other.batch(&format!(
            "addr add {theirs}/24 dev kp0\nlink set lo up\nlink set kp0 up\n\
             route add default via {own}\n"
        ));
    }

    /// Runs `work` on the gate's machine.
    pub fn at_gate<T: Send>(&self, work: impl FnOnce() -> T + Send) -> T {
        self.gate.enter(work)
    }

    /// Runs `work` on the peers' machine.
    pub fn at_peers<T: Send>(&self, work: impl FnOnce() -> T + Send) -> T {
        self.peers.enter(work)
    }

    /// Runs `work` on the peers' machine, on a separate thread that is not awaited.
    pub fn spawn_at_peers(&self, work: impl FnOnce() + Send + 'static) {
        let namespace = self.peers.open();
        thread::spawn(move || {
            join(&namespace);
            work();
        });
    }

    /// Connects from `source`, an address of the peers, to `to`.
    pub fn dial(&self, source: &str, to: &Addr) -> Wire {
        self.at_peers(|| dial_from(source, to).expect("a listener can be reached"))
    }

    /// Connects from `source`; panics unless the connection ends without a byte.
    #[track_caller]
    pub fn expect_denied(&self, source: &str, to: &Addr) -> Ending {
        self.dial(source, to).expect_ending()
    }

    /// Returns true if a connection from `source` is denied at once.
    pub fn is_denied(&self, source: &str, to: &Addr) -> bool {
        let (bytes, ending) = self.dial(source, to).read_to_ending(LOOK);
        assert!(bytes.is_empty(), "{} bytes for a peer without a key", bytes.len());
        ending != Ending::Silent
    }
}

/// Connects from `source` to `to`, in the namespace of the caller.
pub fn dial_from(source: &str, to: &Addr) -> io::Result<Wire> {
    let source: IpAddr = source.parse().expect("it is an address");
    let to = to.tcp();
    let socket = Socket::new(Domain::for_address(to), Type::STREAM, None)?;
    socket.bind(&SocketAddr::new(source, 0).into())?;
    socket.connect(&to.into())?;
    Ok(Wire::Tcp(socket.into()))
}

/// A network namespace, removed on drop.
pub struct Namespace(String);

impl Namespace {
    /// Makes a namespace called `name` and eight digits that no other one has.
    pub fn unique(name: &str) -> Self {
        Self::new(format!("{name}{}", unique()))
    }

    fn new(name: String) -> Self {
        ip(&["netns", "add", &name]);
        Self(name)
    }

    /// Makes a link between this one, as `own`, and `other`, as `theirs`. Both are down.
    pub fn link(&self, own: &str, other: &Self, theirs: &str) {
        let [one, two] = [&self.0, &other.0];
        let words = ["link", "add", own, "netns", one, "type", "veth", "peer", "name", theirs];
        ip(&[&words[..], &["netns", two]].concat());
    }

    /// Runs commands of `nft` in the namespace.
    #[track_caller]
    pub fn nft(&self, commands: &str) {
        require("nft", "nftables");
        let run = || {
            let mut child = Command::new("nft")
                .args(["-f", "-"])
                .env("PATH", std::env::var("PATH").unwrap_or_default() + ":/usr/sbin:/sbin")
                .stdin(Stdio::piped())
                .spawn()
                .expect("nft starts");
            let mut stdin = child.stdin.take().expect("stdin is piped");
            stdin.write_all(commands.as_bytes()).expect("nft reads its commands");
            drop(stdin);
            child.wait().expect("nft ends").success()
        };
        assert!(self.enter(run), "nft fails, see above:\n{commands}");
    }

    fn open(&self) -> File {
        File::open(format!("/run/netns/{}", self.0)).expect("the namespace exists")
    }

    /// Runs `work` on a thread in this namespace; panics as `work` does.
    pub fn enter<T: Send>(&self, work: impl FnOnce() -> T + Send) -> T {
        let namespace = self.open();
        thread::scope(|scope| {
            let inside = scope.spawn(move || {
                join(&namespace);
                work()
            });
            inside.join().unwrap_or_else(|panic| resume_unwind(panic))
        })
    }

    /// Runs many commands of `ip` in the namespace.
    pub fn batch(&self, commands: &str) {
        let mut child = command()
            .args(["-n", &self.0, "-batch", "-"])
            .stdin(Stdio::piped())
            .spawn()
            .expect("ip starts");
        let mut stdin = child.stdin.take().expect("stdin is piped");
        stdin.write_all(commands.as_bytes()).expect("ip reads its commands");
        drop(stdin);
        assert!(child.wait().expect("ip ends").success(), "ip fails, see above:\n{commands}");
    }
}

impl Drop for Namespace {
    fn drop(&mut self) {
        // There is no remedy if it fails.
        let _ = command().args(["netns", "del", &self.0]).status();
    }
}

fn join(namespace: &File) {
    setns(namespace, CloneFlags::CLONE_NEWNET).expect("root may enter a namespace");
}

#[track_caller]
fn ip(args: &[&str]) {
    let status = command().args(args).status().expect("ip starts");
    assert!(
        status.success(),
        "ip {} failed, see above; network namespaces take root and CAP_NET_ADMIN",
        args.join(" ")
    );
}

/// Returns the command `ip`, also where sbin is not on the path.
fn command() -> Command {
    let mut command = Command::new("ip");
    command.env("PATH", std::env::var("PATH").unwrap_or_default() + ":/usr/sbin:/sbin");
    command
}

/// Returns eight hex digits that no other run has.
fn unique() -> String {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).expect("it is after 1970");
    let thread = format!("{:?}", thread::current().id());
    let seed = thread.bytes().fold(u64::from(std::process::id()), |sum, byte| {
        sum.wrapping_mul(31).wrapping_add(u64::from(byte))
    });
    let number = Noise::new(now.as_nanos() as u64 ^ (seed << 32)).next_u64();
    format!("{:08x}", number & 0xffff_ffff)
}
