//! A link of 40 ms: two network namespaces, each with a TUN device, and threads
//! that carry every IP packet from one to the other 20 ms later. The kernels'
//! own TCP runs over it, so every round trip is a real one. `tc qdisc netem`
//! would do the same, where the kernel has it.

use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, channel};
use std::thread;
use std::time::{Duration, Instant};

use tun_rs::{DeviceBuilder, SyncDevice};

use crate::competitors::Side;
use crate::results::median;
use crate::target::Target;
use testkit::netns::Namespace;

/// Time that a packet takes, in either direction.
const ONE_WAY: Duration = Duration::from_millis(20);

const DEVICE: &str = "kplink";
const NEAR: Ipv4Addr = Ipv4Addr::new(10, 77, 0, 1);
const FAR: Ipv4Addr = Ipv4Addr::new(10, 77, 0, 2);

/// Two machines far from each other, the target at the far one.
pub(crate) struct Link {
    near: Namespace,
    far: Namespace,
    target: Target,
    round_trip: Duration,
}

impl Link {
    pub(crate) fn new() -> Self {
        let (near, far) = (Namespace::unique("kpn"), Namespace::unique("kpf"));
        let (here, there) = (attach(&near, NEAR), attach(&far, FAR));
        carry(Arc::clone(&here), Arc::clone(&there));
        carry(there, here);
        let target = far.enter(|| Target::start(FAR)).expect("the far machine has free ports");
        let round_trip = near.enter(|| measure(target.address()));
        Self { near, far, target, round_trip }
    }

    pub(crate) fn target(&self) -> SocketAddr {
        self.target.address()
    }

    /// Returns the near machine, of which the end listens for its own clients, and the far one.
    pub(crate) fn sides(&self) -> [Side<'_>; 2] {
        [
            Side { ip: Ipv4Addr::LOCALHOST, namespace: Some(&self.near) },
            Side { ip: FAR, namespace: Some(&self.far) },
        ]
    }

    /// Measures a round trip: the time that connect(2) takes.
    pub(crate) fn round_trip(&self) -> Duration {
        self.round_trip
    }
}

impl Drop for Link {
    fn drop(&mut self) {
        // Ends the threads: their reads fail from now on.
        for side in [&self.near, &self.far] {
            side.batch(&format!("link del {DEVICE}\n"));
        }
    }
}

fn measure(target: SocketAddr) -> Duration {
    let connect = |_| {
        let clock = Instant::now();
        TcpStream::connect(target).expect("the target can be reached over the link");
        clock.elapsed().as_secs_f64()
    };
    Duration::from_secs_f64(median(&(0..5).map(connect).collect::<Vec<_>>()))
}

/// Attaches the device of one machine, with its address.
fn attach(side: &Namespace, ip: Ipv4Addr) -> Arc<SyncDevice> {
    let device = side.enter(|| DeviceBuilder::new().name(DEVICE).build_sync());
    let device = device.expect("root may make a TUN device; is there a /dev/net/tun?");
    side.batch(&format!("addr add {ip}/24 dev {DEVICE}\nlink set lo up\nlink set {DEVICE} up\n"));
    Arc::new(device)
}

/// Carries all packets in one direction.
fn carry(from: Arc<SyncDevice>, to: Arc<SyncDevice>) {
    let (send, receive) = channel();
    thread::spawn(move || {
        let mut packet = vec![0; 65_536];
        while let Ok(len) = from.recv(&mut packet) {
            if send.send((Instant::now() + ONE_WAY, packet[..len].to_vec())).is_err() {
                return;
            }
        }
    });
    thread::spawn(move || deliver(&receive, &to));
}

fn deliver(packets: &Receiver<(Instant, Vec<u8>)>, to: &SyncDevice) {
    for (due, packet) in packets {
        thread::sleep(due.saturating_duration_since(Instant::now()));
        // A device that is gone loses packets, as a link may.
        let _ = to.send(&packet);
    }
}
