//! The server behind every pair: it does what the first byte of a connection asks for. It lives in
//! the benchmark's own process, and its CPU time is not counted.

use std::io::{self, Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::os::fd::AsRawFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;

use nix::sys::memfd::{MFdFlags, memfd_create};
use nix::sys::sendfile::sendfile;
use nix::sys::socket::{MsgFlags, recv};
use socket2::{Domain, Socket, Type};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

/// Asks for everything back, the first byte included.
pub(crate) const ECHO: u8 = b'E';
/// Asks for the same on a thread of its own, for the shortest way.
pub(crate) const ECHO_ALONE: u8 = b'T';
/// Asks to read and count until the end.
pub(crate) const SINK: u8 = b'U';
/// Asks to send until the end.
pub(crate) const SOURCE: u8 = b'D';

/// Bytes that are handed to the kernel at a time.
const PIECE: usize = 1 << 20;

/// A running target; it ends with the process.
pub(crate) struct Target {
    address: SocketAddr,
    received: Arc<AtomicU64>,
}

impl Target {
    /// Listens on a free port of `ip`, in the network namespace of the caller.
    pub(crate) fn start(ip: Ipv4Addr) -> io::Result<Self> {
        let socket = Socket::new(Domain::IPV4, Type::STREAM, None)?;
        socket.bind(&SocketAddr::from((ip, 0)).into())?;
        socket.listen(4096)?;
        socket.set_nonblocking(true)?;
        let listener = TcpListener::from(socket);
        let address = listener.local_addr()?;
        let received = Arc::new(AtomicU64::new(0));
        let counter = Arc::clone(&received);
        thread::spawn(move || serve(listener, counter));
        Ok(Self { address, received })
    }

    pub(crate) fn address(&self) -> SocketAddr {
        self.address
    }

    /// Returns the count of the bytes that arrived in sinks so far.
    pub(crate) fn received(&self) -> &Arc<AtomicU64> {
        &self.received
    }
}

fn serve(listener: TcpListener, received: Arc<AtomicU64>) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    runtime.expect("a runtime can be made").block_on(async {
        let listener = tokio::net::TcpListener::from_std(listener).expect("it does not block");
        loop {
            let Ok((stream, _)) = listener.accept().await else { continue };
            tokio::spawn(answer(stream, Arc::clone(&received)));
        }
    });
}

/// Serves a connection. An error is its end, which its client notices.
async fn answer(mut stream: tokio::net::TcpStream, received: Arc<AtomicU64>) -> io::Result<()> {
    stream.set_nodelay(true)?;
    let wanted = stream.read_u8().await?;
    if wanted == ECHO {
        return echo(stream).await;
    }
    let stream = stream.into_std()?;
    stream.set_nonblocking(false)?;
    let work = move || match wanted {
        SINK => discard(&stream, &received),
        SOURCE => send(&stream),
        _ => echo_alone(stream),
    };
    thread::spawn(work);
    Ok(())
}

async fn echo(mut stream: tokio::net::TcpStream) -> io::Result<()> {
    stream.write_u8(ECHO).await?;
    // Small: thousands of these wait at the same time.
    let mut buffer = [0; 256];
    loop {
        match stream.read(&mut buffer).await? {
            0 => return Ok(()),
            n => stream.write_all(&buffer[..n]).await?,
        }
    }
}

fn echo_alone(mut stream: TcpStream) -> io::Result<()> {
    stream.write_all(&[ECHO_ALONE])?;
    let mut buffer = [0; 4096];
    loop {
        match stream.read(&mut buffer)? {
            0 => return Ok(()),
            n => stream.write_all(&buffer[..n])?,
        }
    }
}

/// Counts what arrives; the kernel throws it away without a copy.
pub(crate) fn discard(stream: &TcpStream, count: &AtomicU64) -> io::Result<()> {
    let mut buffer = vec![0; PIECE];
    loop {
        match recv(stream.as_raw_fd(), &mut buffer, MsgFlags::MSG_TRUNC)? {
            0 => return Ok(()),
            n => count.fetch_add(n as u64, Ordering::Relaxed),
        };
    }
}

/// Sends until the receiver is gone, from memory that the kernel need not copy.
pub(crate) fn send(stream: &TcpStream) -> io::Result<()> {
    let file = std::fs::File::from(memfd_create("noise", MFdFlags::empty())?);
    (&file).write_all(&testkit::data::Noise::new(1).bytes(PIECE))?;
    loop {
        sendfile(stream, &file, Some(&mut 0), PIECE)?;
    }
}
