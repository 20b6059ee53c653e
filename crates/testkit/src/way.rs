//! A path between both ends that fails silently: data that is sent on it is no longer acknowledged,
//! as behind a NAT that has lost its state or a firewall that drops packets.

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;

use socket2::{SockFilter, SockRef};

use crate::address::{Addr, Kind};
use crate::proc::tcp_sockets;
use crate::wait::eventually;

/// Makes the owner of `socket` vanish for its peer: BPF's `return 0` accepts no packet. Before
/// that, everything that it has sent must be acknowledged, or it would keep retransmitting, which
/// no vanished host does.
#[track_caller]
pub fn vanish(socket: &SockRef<'_>) {
    let ours = socket.local_addr().unwrap().as_socket_ipv4().unwrap();
    let theirs = socket.peer_addr().unwrap().as_socket_ipv4().unwrap();
    eventually("all it sent has arrived", || {
        tcp_sockets(std::process::id())
            .iter()
            .filter(|one| (one.local, one.remote) == (ours, theirs))
            .all(|one| one.unacknowledged == 0)
    });
    socket.attach_filter(&[SockFilter::new(6, 0, 0, 0)]).expect("a socket takes a filter");
}

/// A path between both ends that forwards bytes without looking at them, with sockets that can
/// vanish.
pub struct Way {
    pub addr: Addr,
    /// The sockets of each connection: toward the encrypt end, toward the decrypt end.
    pub links: Arc<Mutex<Vec<(TcpStream, TcpStream)>>>,
    stop: Arc<AtomicBool>,
}

impl Way {
    pub fn to(upstream: &Addr) -> Self {
        let listener = TcpListener::bind(Kind::Tcp4.fresh(Path::new("/"), "").tcp()).unwrap();
        let addr = Addr::Tcp(listener.local_addr().unwrap());
        let way = Self { addr, links: Arc::default(), stop: Arc::default() };
        let links = Arc::clone(&way.links);
        let stop = Arc::clone(&way.stop);
        let upstream = upstream.tcp();
        thread::spawn(move || {
            while let Ok((dialer, _)) = listener.accept() {
                if stop.load(Ordering::SeqCst) {
                    return;
                }
                let acceptor = TcpStream::connect(upstream).unwrap();
                links
                    .lock()
                    .unwrap()
                    .push((dialer.try_clone().unwrap(), acceptor.try_clone().unwrap()));
                let back = (acceptor.try_clone().unwrap(), dialer.try_clone().unwrap());
                thread::spawn(move || copy(dialer, acceptor));
                thread::spawn(move || copy(back.0, back.1));
            }
        });
        way
    }

    /// Refuses new connections; the present ones continue.
    pub fn refuse(&self) {
        self.stop.store(true, Ordering::SeqCst);
        // Wakes the accept loop, which ends.
        drop(TcpStream::connect(self.addr.tcp()));
    }

    /// Makes the peers of both ends vanish: nothing passes any more, not even heartbeats.
    pub fn vanish(&self) {
        for link in &*self.links.lock().unwrap() {
            vanish(&SockRef::from(&link.0));
            vanish(&SockRef::from(&link.1));
        }
    }
}

impl Drop for Way {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::SeqCst);
        // Wakes the accept loop, and ends the copies.
        drop(TcpStream::connect(self.addr.tcp()));
        for (dialer, acceptor) in &*self.links.lock().unwrap() {
            let _ = dialer.shutdown(std::net::Shutdown::Both);
            let _ = acceptor.shutdown(std::net::Shutdown::Both);
        }
    }
}

/// Forwards until one side is gone. An end is not forwarded: for the other side this one has
/// vanished, and has not closed.
fn copy(mut from: TcpStream, mut to: TcpStream) {
    let mut buffer = [0; 64 * 1024];
    while let Ok(n @ 1..) = from.read(&mut buffer) {
        if to.write_all(&buffer[..n]).is_err() {
            return;
        }
    }
}
