//! Sockets that receive datagrams in batches and never send one.
//!
//! Nothing here knows the purpose of a datagram, and nothing here can answer one: there is no
//! function that sends. Like a [`Listener`](super::Listener), a socket is bound without a runtime, because binding
//! happens before the process gives up its privileges; each reader registers it with its own.

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
pub const BATCH: usize = 64;

/// Size of the kernel's queue that is asked for, in bytes: the kernel gives as much as it allows.
const QUEUE: usize = 4 << 20;

/// The place of a listening socket, at which datagrams can be received as well.
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
    /// Binds on every address that `address` stands for, as [`Listener::bind`](super::Listener::bind) does. `others` are
    /// all sources of this process.
    ///
    /// # Errors
    /// [`BindError`]
    pub fn bind(address: &Address, others: &[Source]) -> Result<Vec<Self>, BindError> {
        let places = listen::places(address, others)?;
        let mut bound: Vec<Self> = Vec::with_capacity(places.len());
        let mut failure = None;
        for place in places {
            match Self::at(place) {
                Ok(socket) => bound.push(socket),
                Err(error @ BindError::InUse { .. }) => return Err(error),
                Err(error) => drop(failure.get_or_insert(error)),
            }
        }
        match failure {
            Some(error) if bound.is_empty() => Err(error),
            _ => Ok(bound),
        }
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

    /// Receives datagrams that are there, at most [`BATCH`], and passes each to `each`. Returns
    /// their number; zero when there is none.
    ///
    /// # Errors
    /// The system's.
    pub fn receive(&mut self, mut each: impl FnMut(Datagram<'_>)) -> io::Result<usize> {
        let Self { socket, room, buffers } = self;
        // Made anew each time: it holds pointers, and must not be kept across an await.
        let mut headers = MultiHeaders::<SockaddrStorage>::preallocate(BATCH, None);
        let mut got = [(0, None); BATCH];
        let received = socket.try_io(Interest::READABLE, || {
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
        });
        let count = match received {
            Ok(count) => count,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => 0,
            Err(error) => return Err(error),
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

fn socket_addr(address: SockaddrStorage) -> Option<SocketAddr> {
    let v4 = address.as_sockaddr_in().map(|v4| (IpAddr::from(v4.ip()), v4.port()));
    let v6 = address.as_sockaddr_in6().map(|v6| (IpAddr::from(v6.ip()), v6.port()));
    v4.or(v6).map(SocketAddr::from)
}
