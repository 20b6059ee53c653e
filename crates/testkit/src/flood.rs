//! A flood of datagrams of noise from many sources.

use std::io::IoSlice;
use std::net::{Ipv4Addr, SocketAddr, SocketAddrV4, UdpSocket};
use std::os::fd::AsRawFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use nix::libc::{in_addr, in_pktinfo};
use nix::sys::socket::{ControlMessage, MsgFlags, SockaddrIn, sendmsg};

use crate::data::Noise;
use crate::netns::Net;

/// Length of each datagram: that of a knock.
const LEN: usize = 256;

/// The first source; a network that [`Net`] has for its peers follows.
const FIRST: Ipv4Addr = Ipv4Addr::new(10, 0, 0, 1);

/// Size and speed of a flood.
#[derive(Clone, Copy, Debug)]
pub struct Size {
    /// Different sources.
    pub sources: u32,
    /// Datagrams in a second that are asked for; a loaded machine sends fewer.
    pub per_second: u32,
}

/// A flood, which ends when this is dropped.
#[derive(Debug)]
pub struct Flood {
    end: Arc<AtomicBool>,
    sent: Arc<AtomicU64>,
}

impl Flood {
    /// Datagrams of one source in a row, which the kernel takes as one call.
    pub const ROW: u64 = 16;

    /// Sends noise from the peers' machine to `to`.
    pub fn start(net: &Net, to: SocketAddr, size: Size) -> Self {
        let SocketAddr::V4(to) = to else { panic!("{to} is not an IPv4 address") };
        let flood = Self { end: Arc::default(), sent: Arc::default() };
        let (end, sent) = (Arc::clone(&flood.end), Arc::clone(&flood.sent));
        net.spawn_at_peers(move || send(to, size, &end, &sent));
        flood
    }

    /// Returns the number of datagrams so far.
    pub fn sent(&self) -> u64 {
        self.sent.load(Ordering::Relaxed)
    }
}

impl Drop for Flood {
    fn drop(&mut self) {
        self.end.store(true, Ordering::Relaxed);
    }
}

fn send(to: SocketAddrV4, size: Size, end: &AtomicBool, sent: &AtomicU64) {
    let socket = UdpSocket::bind("0.0.0.0:0").expect("a socket can be made");
    let mut noise = Noise::new(1);
    let mut row = noise.bytes(LEN * Flood::ROW as usize);
    let begun = Instant::now();
    for source in (0..size.sources).cycle() {
        if end.load(Ordering::Relaxed) {
            return;
        }
        for datagram in row.chunks_exact_mut(LEN) {
            noise.fill(&mut datagram[..8]);
        }
        let source = Ipv4Addr::from_bits(FIRST.to_bits() + source);
        let address = in_addr { s_addr: u32::from_ne_bytes(source.octets()) };
        let from = in_pktinfo { ipi_ifindex: 0, ipi_spec_dst: address, ipi_addr: address };
        let control =
            [ControlMessage::UdpGsoSegments(&(LEN as u16)), ControlMessage::Ipv4PacketInfo(&from)];
        let data = [IoSlice::new(&row)];
        // A full queue of the interface loses some.
        let _ = sendmsg(
            socket.as_raw_fd(),
            &data,
            &control,
            MsgFlags::empty(),
            Some(&SockaddrIn::from(to)),
        );
        let count = sent.fetch_add(Flood::ROW, Ordering::Relaxed) + Flood::ROW;
        let due = Duration::from_secs_f64(count as f64 / f64::from(size.per_second));
        // Not after each row: a pause is much longer than a row.
        if let Some(early) = due.checked_sub(begun.elapsed())
            && early > Duration::from_millis(1)
        {
            thread::sleep(early);
        }
    }
}
