//! A client's host and a server's host with a link between them, and a socket that reads knocks.

use std::io::ErrorKind;
use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::path::{Path, PathBuf};
use std::time::Duration;

use knockpipe::keys::{Key, KeyRing, file};
use knockpipe::proto::knock::{ReceivedKnock, read_knock};
use tempfile::TempDir;

use testkit::netns::Namespace;
use testkit::wait::poll;
use testkit::{Addr, End, Launch, NEVER, Target, Wire, keygen};

/// Addresses of the server.
pub(crate) const SERVER4: &str = "198.51.100.1";
pub(crate) const SERVER6: &str = "2001:db8:0:2::1";

/// Addresses of the client at first, and others that it may get.
pub(crate) const CLIENT4: &str = "203.0.113.7";
pub(crate) const OTHER4: &str = "203.0.113.8";
pub(crate) const CLIENT6: &str = "2001:db8:0:1::7";
pub(crate) const OTHER6: &str = "2001:db8:0:1::8";

/// Time in which a datagram would have arrived that is not expected.
const SILENCE: Duration = Duration::from_millis(400);

/// Two hosts, a key, and a service behind the server's.
pub(crate) struct Site {
    pub server: Namespace,
    pub client: Namespace,
    pub key: PathBuf,
    pub target: Target,
    pub dir: TempDir,
}

impl Site {
    /// Makes both hosts, with addresses of both families.
    pub(crate) fn new() -> Self {
        let server = Namespace::unique("kps");
        let client = Namespace::unique("kpc");
        server.link("kp0", &client, "kp0");
        server.batch(&format!(
            "link set lo up\nlink set kp0 up\n\
             addr add {SERVER4}/32 dev kp0\naddr add {SERVER6}/128 dev kp0 nodad\n\
             route add 203.0.113.0/24 dev kp0\nroute add 2001:db8:0:1::/64 dev kp0\n"
        ));
        client.batch(&format!(
            "link set lo up\nlink set kp0 up\n\
             addr add {CLIENT4}/32 dev kp0\naddr add {CLIENT6}/128 dev kp0 nodad\n\
             route add {SERVER4}/32 dev kp0\nroute add {SERVER6}/128 dev kp0\n"
        ));
        Self::of(server, client)
    }

    pub(crate) fn of(server: Namespace, client: Namespace) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let socket = Addr::Unix(dir.path().join("target.sock"));
        let target = Target::serve(&socket, testkit::target::echo);
        Self { server, client, key: keygen(dir.path(), "key"), target, dir }
    }

    /// Starts a decrypt end on all addresses of the server.
    #[track_caller]
    pub(crate) fn decrypt(&self, args: &[&str]) -> End {
        self.decrypt_at(0, args)
    }

    #[track_caller]
    pub(crate) fn decrypt_at(&self, port: u16, args: &[&str]) -> End {
        let source = Addr::Tcp(format!("[::]:{port}").parse().unwrap());
        let launch = Launch::decrypt(&self.key);
        let launch = launch.source(&source).target(self.target.addr()).args(args);
        self.server.enter(|| launch.start())
    }

    /// Returns the command line of an encrypt end that knocks at `to`.
    pub(crate) fn encrypt(&self, to: &Addr, args: &[&str]) -> Launch {
        let socket = Addr::Unix(self.dir.path().join("encrypt.sock"));
        Launch::encrypt(&self.key).source(&socket).target(to).args(args)
    }

    /// Starts it at the client.
    #[track_caller]
    pub(crate) fn start(&self, launch: &Launch) -> End {
        self.client.enter(|| launch.start())
    }

    /// Reads the knocks that arrive at this address of the server.
    pub(crate) fn receiver(&self, at: &Addr) -> Receiver {
        Receiver::at(&self.server, at.tcp(), &self.key)
    }

    /// Gives the client other addresses, as on the way to another network.
    pub(crate) fn move_client(&self, from: [&str; 2], to: [&str; 2]) {
        self.client.batch(&format!(
            "addr del {}/32 dev kp0\naddr del {}/128 dev kp0\n\
             addr add {}/32 dev kp0\naddr add {}/128 dev kp0 nodad\n\
             route replace {SERVER4}/32 dev kp0\nroute replace {SERVER6}/128 dev kp0\n",
            from[0], from[1], to[0], to[1]
        ));
    }
}

/// Returns the address of the server in the family of `client`, with the port of `end`.
pub(crate) fn entrance(end: &End, client: &str) -> Addr {
    let ip = if client.contains(':') { SERVER6 } else { SERVER4 };
    Addr::Tcp((ip.parse::<IpAddr>().unwrap(), end.addr().tcp().port()).into())
}

/// A socket that reads knocks as a decrypt end would.
pub(crate) struct Receiver {
    socket: UdpSocket,
    ring: KeyRing,
}

/// A knock that arrived.
#[derive(Debug)]
pub(crate) struct Arrived {
    pub knock: ReceivedKnock,
    pub from: SocketAddr,
}

impl Receiver {
    pub(crate) fn at(host: &Namespace, at: SocketAddr, key: &Path) -> Self {
        let socket = host.enter(|| UdpSocket::bind(at).unwrap());
        Self { socket, ring: KeyRing::new(vec![read_key(key)]).unwrap() }
    }

    /// Waits for the next datagram, which has to be a knock under the key.
    #[track_caller]
    pub(crate) fn next(&self) -> Arrived {
        self.next_within(NEVER).expect("a knock arrives")
    }

    #[track_caller]
    pub(crate) fn next_within(&self, limit: Duration) -> Option<Arrived> {
        self.socket.set_read_timeout(Some(limit)).unwrap();
        let mut buffer = [0; 2048];
        match self.socket.recv_from(&mut buffer) {
            Ok((len, from)) => {
                let knock = read_knock(&self.ring, &buffer[..len]).expect("it is a knock");
                Some(Arrived { knock, from })
            }
            Err(error) if error.kind() == ErrorKind::WouldBlock => None,
            Err(error) => panic!("{error}"),
        }
    }

    /// Panics if a datagram arrives that is not expected.
    #[track_caller]
    pub(crate) fn expect_none(&self) {
        if let Some(arrived) = self.next_within(SILENCE) {
            panic!("a knock that is not needed: {arrived:?}");
        }
    }

    /// Returns all that have arrived.
    pub(crate) fn drain(&self) -> Vec<Arrived> {
        std::iter::from_fn(|| self.next_within(Duration::from_millis(50))).collect()
    }
}

fn read_key(path: &Path) -> Key {
    let text = std::fs::read(path).unwrap();
    file::parse(&text).expect("it is a key file")
}

/// Returns a live connection through a tunnel as soon as there is one.
#[track_caller]
pub(crate) fn live_soon(client: &End) -> Wire {
    let live = poll(NEVER, || {
        let mut wire = client.connect();
        wire.echoes(b"live", Duration::from_secs(10)).then_some(wire)
    });
    live.unwrap_or_else(|| panic!("no session; its log:\n{}", client.program.tail()))
}

/// Returns whether a client gets through at the first attempt.
pub(crate) fn gets_through(client: &End) -> bool {
    client.connect().echoes(b"may I?", Duration::from_secs(10))
}
