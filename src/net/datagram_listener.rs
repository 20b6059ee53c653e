//! Sockets that receive datagrams in batches and never send one.
//!
//! Nothing here knows the purpose of a datagram, and nothing here can answer one: there is no
//! function that sends. Like a [`Listener`](super::Listener), a socket is bound without a runtime,
//! because binding happens before the process gives up its privileges; each reader registers it
//! with its own.

use std::array;
use std::io::{self, IoSliceMut};
use std::net::{IpAddr, SocketAddr};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};

use nix::sys::socket::{MsgFlags, MultiHeaders, SockaddrStorage, recvmmsg};
use socket2::{Domain, Socket, Type};
use tokio::io::Interest;
use tokio::net::UdpSocket;

use super::bind_error::{BindError, blame_ip};
use super::listen;
use crate::addr::{Address, Source};

/// Most datagrams of one system call.
const BATCH: usize = 64;

/// Size of the kernel's queue that is asked for, in bytes: the kernel gives as much as it allows.
const QUEUE: usize = 4 << 20;

/// The place of a listening socket, and of one that receives datagrams there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Place {
    /// Address and actual port.
    pub(super) addr: SocketAddr,
    /// IPv6 only, where the address is `[::]`.
    pub(super) only_v6: bool,
}

/// A bound socket that receives datagrams.
#[derive(Debug)]
pub struct DatagramSocket {
    socket: Socket,
    local: SocketAddr,
}

/// A reader of a [`DatagramSocket`], in the runtime that made it.
#[derive(Debug)]
pub struct DatagramReader {
    socket: UdpSocket,
    room: usize,
    buffers: Vec<u8>,
}

/// A datagram, as long as the reader has room for it: a longer one is cut.
#[derive(Clone, Copy, Debug)]
pub struct Datagram<'a> {
    /// Its bytes.
    pub bytes: &'a [u8],
    /// The address that it claims to come from.
    pub source: SocketAddr,
}

// === impl DatagramSocket ===

impl DatagramSocket {
    /// Binds on every address that `address` stands for, as
    /// [`Listener::bind`](super::Listener::bind) does. `others` are all sources of this process.
    ///
    /// # Errors
    /// [`BindError`]
    pub fn bind(address: &Address, others: &[Source]) -> Result<Vec<Self>, BindError> {
        Self::at_all(&listen::places(address, others)?)
    }

    fn at_all(places: &[Place]) -> Result<Vec<Self>, BindError> {
        listen::bind_all(places, Self::at, |socket| socket.local.port())
    }

    /// Binds at the place of a listening socket.
    ///
    /// # Errors
    /// [`BindError`]
    pub fn at(place: Place) -> Result<Self, BindError> {
        let Place { addr, only_v6 } = place;
        let bound = || {
            let socket = Socket::new(Domain::for_address(addr), Type::DGRAM, None)?;
            if addr.is_ipv6() {
                socket.set_only_v6(only_v6)?;
            }
            // Not all kernels allow as much; a smaller queue loses datagrams earlier in a flood.
            let _ = socket.set_recv_buffer_size(QUEUE);
            socket.bind(&addr.into())?;
            Self::of(socket)
        };
        bound().map_err(|error| blame_ip(addr, format!("{addr} (UDP)"), error))
    }

    /// Adopts a socket that another process bound.
    ///
    /// # Errors
    /// When it is no socket for datagrams, or has no address.
    pub fn adopt(socket: OwnedFd) -> io::Result<Self> {
        let socket = Socket::from(socket);
        if socket.r#type()? != Type::DGRAM {
            return Err(io::Error::other("the socket is not for datagrams"));
        }
        Self::of(socket)
    }

    fn of(socket: Socket) -> io::Result<Self> {
        socket.set_nonblocking(true)?;
        let local = socket.local_addr()?.as_socket();
        let local = local.ok_or_else(|| io::Error::other("the socket has no address"))?;
        Ok(Self { socket, local })
    }

    /// Duplicates the socket's descriptor for another process.
    ///
    /// # Errors
    /// When there are no descriptors left.
    pub fn share(&self) -> io::Result<OwnedFd> {
        self.socket.as_fd().try_clone_to_owned()
    }

    /// Returns its local address with the actual port, for the log.
    pub fn local(&self) -> String {
        self.local.to_string()
    }

    /// Returns the same as [`Listener::is_current`](super::Listener::is_current).
    pub fn is_current(&self, address: &Address) -> bool {
        listen::is_current(self.local, address)
    }

    /// Makes a reader with `room` for each datagram, in the runtime of the caller.
    ///
    /// # Errors
    /// When the runtime cannot watch the socket, or there are no descriptors left.
    ///
    /// # Panics
    /// Outside of a runtime.
    pub fn reader(&self, room: usize) -> io::Result<DatagramReader> {
        let socket = UdpSocket::from_std(self.share()?.into())?;
        Ok(DatagramReader { socket, room, buffers: vec![0; room * BATCH] })
    }
}

// === impl DatagramReader ===

impl DatagramReader {
    /// Waits until there is something to receive. Cancel safe.
    ///
    /// # Errors
    /// The system's.
    pub async fn readable(&self) -> io::Result<()> {
        self.socket.readable().await
    }

    /// Receives datagrams that are there, at most 64, and passes each to `each`. Returns
    /// their number; zero when there is none.
    ///
    /// # Errors
    /// The system's.
    pub fn receive(&mut self, mut each: impl FnMut(Datagram<'_>)) -> io::Result<usize> {
        let Self { socket, room, buffers } = self;
        // Made anew each time: it holds pointers, and must not be kept across an await.
        let mut headers = MultiHeaders::<SockaddrStorage>::preallocate(BATCH, None);
        let mut got = [(0, None); BATCH];
        let mut now = || {
            let mut parts = buffers.chunks_exact_mut(*room);
            let mut slices: [[IoSliceMut<'_>; 1]; BATCH] =
                array::from_fn(|_| [IoSliceMut::new(parts.next().unwrap_or_default())]);
            let flags = MsgFlags::MSG_DONTWAIT;
            let fd = socket.as_raw_fd();
            let messages = recvmmsg(fd, &mut headers, slices.iter_mut(), flags, None)?;
            let mut count = 0;
            for (place, message) in got.iter_mut().zip(messages) {
                *place = (message.bytes, message.address.and_then(socket_addr));
                count += 1;
            }
            Ok(count)
        };
        // First without the runtime, which may not have heard yet of a datagram that is there, and
        // then with it, so that it waits for the next.
        let received = match now() {
            Err(error) if is_empty(&error) => socket.try_io(Interest::READABLE, now),
            received => received,
        };
        let count = match received {
            Err(error) if is_empty(&error) => 0,
            received => received?,
        };
        for ((len, source), part) in got[..count].iter().zip(buffers.chunks_exact(*room)) {
            let bytes = part.get(..*len).unwrap_or(part);
            if let Some(source) = *source {
                each(Datagram { bytes, source });
            }
        }
        Ok(count)
    }
}

fn is_empty(error: &io::Error) -> bool {
    error.kind() == io::ErrorKind::WouldBlock
}

fn socket_addr(address: SockaddrStorage) -> Option<SocketAddr> {
    let v4 = address.as_sockaddr_in().map(|v4| (IpAddr::from(v4.ip()), v4.port()));
    let v6 = address.as_sockaddr_in6().map(|v6| (IpAddr::from(v6.ip()), v6.port()));
    v4.or(v6).map(SocketAddr::from)
}

#[cfg(test)]
mod tests {
    use std::net::{TcpListener, UdpSocket as StdSocket};

    use super::*;

    fn local() -> DatagramSocket {
        DatagramSocket::at(Place { addr: "127.0.0.1:0".parse().unwrap(), only_v6: false }).unwrap()
    }

    fn receive(reader: &mut DatagramReader) -> Vec<(Vec<u8>, SocketAddr)> {
        let mut all = vec![];
        while reader.receive(|it| all.push((it.bytes.to_vec(), it.source))).unwrap() > 0 {}
        all
    }

    #[tokio::test]
    async fn datagrams_arrive_in_order_with_their_sources_and_are_cut() {
        let socket = local();
        let mut reader = socket.reader(3).unwrap();
        assert!(receive(&mut reader).is_empty());
        let sender = StdSocket::bind("127.0.0.1:0").unwrap();
        let from = sender.local_addr().unwrap();
        let count = 2 * BATCH + 1;
        for number in 0..count {
            let bytes = [number as u8; 5];
            sender.send_to(&bytes[..number % 6], socket.local()).unwrap();
        }
        let expected = |number: usize| (vec![number as u8; (number % 6).min(3)], from);
        assert_eq!(receive(&mut reader), (0..count).map(expected).collect::<Vec<_>>());
    }

    /// The runtime need not have heard of a datagram that is there.
    #[tokio::test]
    async fn what_is_there_is_received_at_once_and_what_comes_later_wakes() {
        let socket = local();
        let mut reader = socket.reader(8).unwrap();
        let sender = StdSocket::bind("127.0.0.1:0").unwrap();
        for _ in 0..100 {
            sender.send_to(b"now", socket.local()).unwrap();
            assert_eq!(receive(&mut reader).len(), 1);
        }
        let to = socket.local();
        let later = std::thread::spawn(move || sender.send_to(b"later", to).unwrap());
        loop {
            reader.readable().await.unwrap();
            if !receive(&mut reader).is_empty() {
                break;
            }
        }
        later.join().unwrap();
    }

    /// Senders know one port only.
    #[test]
    fn several_addresses_share_the_port_that_the_system_picks() {
        for (one, other) in [("127.0.0.1:0", "[::1]:0"), ("[::]:0", "0.0.0.0:0")] {
            let place = |text: &str| Place { addr: text.parse().unwrap(), only_v6: true };
            let sockets = DatagramSocket::at_all(&[place(one), place(other)]).unwrap();
            let ports: Vec<u16> = sockets.iter().map(|socket| socket.local.port()).collect();
            assert!(ports.len() == 2 && ports[0] > 0 && ports[0] == ports[1], "{one}: {ports:?}");
        }
    }

    #[test]
    fn a_port_that_is_taken_is_an_error_with_its_kind() {
        let socket = local();
        let place = Place { addr: socket.local, only_v6: false };
        let error = DatagramSocket::at(place).unwrap_err();
        assert_eq!(
            error.to_string(),
            format!(
                "{} (UDP) is in use; stop the program that listens there, or choose another address",
                socket.local
            )
        );
    }

    #[test]
    fn only_sockets_for_datagrams_are_adopted() {
        let adopted = DatagramSocket::adopt(local().share().unwrap()).unwrap();
        assert!(adopted.local.port() != 0);
        let stream = TcpListener::bind("127.0.0.1:0").unwrap();
        assert!(DatagramSocket::adopt(stream.into()).is_err());
    }
}
