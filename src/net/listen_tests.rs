use socket2::SockRef;
use std::future::poll_fn;
use std::net::TcpStream;
use std::os::unix::net::UnixStream;

use tokio::io::AsyncReadExt;

use std::path::PathBuf;

use nix::errno::Errno;

use super::*;
use crate::net::bind_error::is_of_no_family;

const OPTIONS: SocketOptions = SocketOptions { keepalive: true };

fn bind(text: &str) -> Result<Vec<Listener>, BindError> {
    Listener::bind(&text.parse().unwrap(), &[], 16)
}

fn only(text: &str) -> Listener {
    let mut listeners = bind(text).unwrap();
    assert_eq!(listeners.len(), 1, "{text}");
    listeners.remove(0)
}

fn listen(texts: &[&str], dual_stack: DualStack) -> Result<Vec<Listener>, BindError> {
    let addrs = texts.iter().map(|text| text.parse().unwrap());
    let places = addrs.map(|addr| Place { addr, only_v6: is_v6_only(addr, dual_stack) });
    listen_at(&places.collect::<Vec<_>>(), 16)
}

async fn accept(listener: &AsyncListener) -> io::Result<(Stream, ClientAddr)> {
    poll_fn(|cx| listener.poll_accept(cx)).await
}

fn path_in(dir: &tempfile::TempDir) -> (PathBuf, String) {
    let path = dir.path().join("socket");
    let text = path.to_str().unwrap().to_owned();
    (path, text)
}

#[tokio::test]
async fn tcp_clients_are_accepted_and_named() {
    for text in ["127.0.0.1:0", "[::1]:0"] {
        let listener = only(text).into_async(&OPTIONS).unwrap();
        let client = TcpStream::connect(listener.local()).unwrap();
        let (stream, peer) = accept(&listener).await.unwrap();
        assert_eq!(peer.to_string(), client.local_addr().unwrap().to_string());
        let Stream::Tcp(socket) = stream else { panic!("not TCP") };
        assert!(socket.nodelay().unwrap(), "options are inherited");
        assert!(SockRef::from(&socket).keepalive().unwrap());
    }
}

#[tokio::test]
async fn an_ipv4_client_of_a_dual_stack_listener_is_ipv4() {
    let listener = only("[::]:0");
    assert!(!listener.socket.only_v6().unwrap(), "needs net.ipv6.bindv6only=0");
    let Local::Tcp(addr) = listener.local else { panic!("not TCP") };
    let listener = listener.into_async(&OPTIONS).unwrap();
    let client = TcpStream::connect(("127.0.0.1", addr.port())).unwrap();
    let (_, peer) = accept(&listener).await.unwrap();
    assert_eq!(peer, ClientAddr::Ip(client.local_addr().unwrap()));
}

#[test]
fn several_addresses_share_the_port_that_the_system_picks() {
    for pair in [["127.0.0.1:0", "[::1]:0"], ["0.0.0.0:0", "[::]:0"], ["[::]:0", "0.0.0.0:0"]] {
        let listeners = listen(&pair, DualStack::Ipv4).unwrap();
        let ports: Vec<_> = listeners
            .iter()
            .map(|l| l.local().rsplit_once(':').unwrap().1.parse::<u16>().unwrap())
            .collect();
        assert_eq!(ports.len(), 2, "{pair:?}");
        assert!(ports[0] > 0 && ports[0] == ports[1], "{pair:?}: {ports:?}");
        for host in ["127.0.0.1", "::1"] {
            TcpStream::connect((host, ports[0])).unwrap();
        }
    }
}

#[test]
fn both_wildcards_of_one_port_can_be_given() {
    let free = only("0.0.0.0:0").local();
    let port = free.rsplit_once(':').unwrap().1;
    let texts = [format!("0.0.0.0:{port}"), format!("[::]:{port}")];
    for order in [[0, 1], [1, 0]] {
        let sources = order.map(|i| texts[i].parse().unwrap());
        let bound = sources.each_ref().map(|source: &Source| {
            Listener::bind(source.address().unwrap(), &sources, 16).unwrap()
        });
        for host in ["127.0.0.1", "::1"] {
            TcpStream::connect(format!("{host}:{port}").replace("::1:", "[::1]:")).unwrap();
        }
        drop(bound);
    }
}

#[test]
fn an_address_of_another_machine_is_left_out_if_one_is_left() {
    let listeners = listen(&["192.0.2.1:0", "127.0.0.1:0"], DualStack::None).unwrap();
    assert_eq!(listeners.len(), 1);
    let error = bind("192.0.2.1:0").unwrap_err();
    assert!(matches!(error, BindError::Other { .. }), "{error}");
}

#[test]
fn a_port_in_use_is_said_so() {
    let first = only("127.0.0.1:0");
    let error = bind(&first.local()).unwrap_err();
    assert!(matches!(error, BindError::InUse { .. }), "{error}");
    assert!(error.to_string().starts_with(&format!("{} is in use; ", first.local())));
    let both = listen(&[&first.local(), "127.0.0.2:0"], DualStack::None);
    assert!(both.is_err(), "although the other address is free");
}

#[test]
fn names_that_mean_nothing_are_said_so() {
    for text in ["localhost:no-such-port", "name.invalid:1"] {
        let error = bind(text).unwrap_err();
        assert!(matches!(error, BindError::Unresolvable { .. }), "{error}");
        assert!(!error.to_string().contains('\n'));
    }
}

#[tokio::test]
async fn unix_clients_are_accepted_and_the_file_goes_with_the_listener() {
    let dir = tempfile::tempdir().unwrap();
    let (path, text) = path_in(&dir);
    let listener = only(&text).into_async(&OPTIONS).unwrap();
    assert_eq!(listener.local(), text);
    let client = UnixStream::connect(&path).unwrap();
    let (mut stream, peer) = accept(&listener).await.unwrap();
    assert_eq!(peer, ClientAddr::Unix);
    drop(client);
    assert_eq!(stream.read(&mut [0; 1]).await.unwrap(), 0);
    drop(listener);
    assert!(!path.exists());
}

#[test]
fn a_missing_directory_is_one_line() {
    let error = bind("/nonexistent/directory/socket").unwrap_err().to_string();
    assert!(error.contains("/nonexistent/directory/socket: No such file"), "{error}");
    assert!(!error.contains('\n'));
}

/// A typing error does not count as a missing address family.
#[test]
fn only_what_every_host_of_a_family_has_tells_that_there_is_none() {
    let is_of_none = |ip: &str, errno: Errno| is_of_no_family(ip.parse().unwrap(), &errno.into());
    for (ip, errno) in [
        ("::", Errno::EAFNOSUPPORT),
        ("::1", Errno::EAFNOSUPPORT),
        ("::1", Errno::EADDRNOTAVAIL),
        ("0.0.0.0", Errno::EAFNOSUPPORT),
        ("127.0.0.1", Errno::EAFNOSUPPORT),
    ] {
        assert!(is_of_none(ip, errno), "{ip} {errno}");
    }
    for (ip, errno) in [
        ("2001:db8::1", Errno::EADDRNOTAVAIL),
        ("2001:db8::1", Errno::EAFNOSUPPORT),
        ("192.0.2.1", Errno::EADDRNOTAVAIL),
        ("127.0.0.1", Errno::EADDRNOTAVAIL),
        ("::1", Errno::EADDRINUSE),
        ("::", Errno::EACCES),
    ] {
        assert!(!is_of_none(ip, errno), "{ip} {errno}");
    }
    let addr = "[::1]:7".parse().unwrap();
    let error = blame_ip(addr, "[::1]:7".to_owned(), Errno::EADDRNOTAVAIL.into()).to_string();
    assert!(error.contains("[::1]:7: this host has no IPv6") && error.contains("; "), "{error}");
}
