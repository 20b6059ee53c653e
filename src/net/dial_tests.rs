use std::net::{TcpListener, TcpStream as StdTcpStream};

use socket2::{Domain, SockAddr, Socket, Type};

use super::*;

const OPTIONS: SocketOptions = SocketOptions { keepalive: true };

fn soon() -> Instant {
    Instant::now() + Duration::from_secs(5)
}

fn ips(addrs: &[SocketAddr]) -> Target {
    Target::Ips(addrs.iter().copied().map(Endpoint::from).collect())
}

fn listener(ip: &str) -> (TcpListener, SocketAddr) {
    let listener = TcpListener::bind((ip, 0)).unwrap();
    let addr = listener.local_addr().unwrap();
    (listener, addr)
}

/// Returns an address without a listener: the port was just given back.
fn closed(ip: &str) -> SocketAddr {
    listener(ip).1
}

/// Makes a listener that swallows connection attempts: its backlog is full. What fills it has
/// to be kept.
fn black_hole() -> (SocketAddr, Vec<Socket>) {
    let hole = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
    hole.bind(&SockAddr::from(SocketAddr::from(([127, 0, 0, 1], 0)))).unwrap();
    hole.listen(0).unwrap();
    let addr = hole.local_addr().unwrap().as_socket().unwrap();
    let mut kept = vec![hole];
    for _ in 0..8 {
        let filler = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
        filler.set_nonblocking(true).unwrap();
        let _ = filler.connect(&addr.into());
        kept.push(filler);
    }
    (addr, kept)
}

#[tokio::test]
async fn every_kind_of_target_is_reached() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("socket");
    let _unix = std::os::unix::net::UnixListener::bind(&path).unwrap();
    let (_four, four) = listener("127.0.0.1");
    let (_six, six) = listener("::1");
    let targets = [ips(&[four]), ips(&[six]), Target::Unix(path.as_path().into())];
    for target in targets {
        dial(&target, None, &OPTIONS, soon()).await.unwrap();
    }
}

#[tokio::test]
async fn a_black_hole_does_not_eat_the_budget() {
    let (hole, _kept) = black_hole();
    let (_live, live) = listener("::1");
    let start = Instant::now();
    let stream = dial(&ips(&[hole, live]), None, &OPTIONS, soon()).await.unwrap();
    let Stream::Tcp(socket) = stream else { panic!("not TCP") };
    assert_eq!(socket.peer_addr().unwrap(), live);
    assert!(start.elapsed() >= STAGGER, "the preferred address has a head start");
    assert!(start.elapsed() < Duration::from_secs(2), "took {:?}", start.elapsed());
}

#[tokio::test]
async fn a_black_hole_alone_ends_at_the_deadline() {
    let (hole, _kept) = black_hole();
    let deadline = Instant::now() + Duration::from_millis(400);
    for target in [ips(&[hole]), ips(&[hole, hole])] {
        let error = dial(&target, None, &OPTIONS, deadline).await.unwrap_err();
        assert!(matches!(error, DialError::Timeout), "{error}");
    }
    assert!(Instant::now() >= deadline);
}

#[tokio::test]
async fn a_refusal_starts_the_next_attempt_at_once() {
    let (_live, live) = listener("127.0.0.1");
    let start = Instant::now();
    let target = ips(&[closed("127.0.0.1"), closed("::1"), live]);
    dial(&target, None, &OPTIONS, soon()).await.unwrap();
    assert!(start.elapsed() < STAGGER, "took {:?}", start.elapsed());
}

#[tokio::test]
async fn failures_say_what_they_are() {
    let dir = tempfile::tempdir().unwrap();
    let missing = Target::Unix(dir.path().join("missing").as_path().into());
    for target in [ips(&[closed("127.0.0.1")]), ips(&[closed("::1"), closed("127.0.0.1")]), missing]
    {
        let error = dial(&target, None, &OPTIONS, soon()).await.unwrap_err();
        assert!(matches!(error, DialError::Refused { .. }), "{error}");
        assert!(!error.to_string().contains('\n'));
    }
    // 240.0.0.0/4 is reserved: the kernel has no route to it.
    let reserved = ips(&["255.255.255.255:1".parse().unwrap()]);
    let error = dial(&reserved, None, &OPTIONS, soon()).await.unwrap_err();
    assert!(matches!(error, DialError::Unreachable { .. }), "{error}");
}

#[test]
fn a_lack_of_descriptors_is_our_own_fault() {
    for errno in [Errno::EMFILE, Errno::ENFILE, Errno::ENOBUFS, Errno::EADDRNOTAVAIL] {
        let error = blame("x".into(), errno.into());
        assert!(matches!(error, DialError::Local(_)), "{errno}");
    }
    assert!(matches!(blame("x".into(), Errno::ETIMEDOUT.into()), DialError::Timeout));
}

#[tokio::test]
async fn the_bind_address_is_used() {
    let (server, addr) = listener("127.0.0.1");
    let bind = |text: &str| Some(text.parse::<BindAddress>().unwrap());
    // The other family is left out although it is preferred.
    let target = ips(&[closed("::1"), addr]);
    let _stream = dial(&target, bind("127.0.0.2"), &OPTIONS, soon()).await.unwrap();
    assert_eq!(server.accept().unwrap().1.ip().to_string(), "127.0.0.2");
    let (_server, six) = listener("::1");
    dial(&ips(&[six]), bind("[::1]"), &OPTIONS, soon()).await.unwrap();
    for wrong in ["::1", "192.0.2.1"] {
        let error = dial(&ips(&[addr]), bind(wrong), &OPTIONS, soon()).await.unwrap_err();
        assert!(matches!(error, DialError::Local(_)), "{wrong}: {error}");
    }
}

#[tokio::test]
async fn a_fixed_bind_port_works_twice() {
    let (server, addr) = listener("127.0.0.1");
    let bind =
        Some(BindAddress { ip: "127.0.0.2".parse().unwrap(), port: closed("127.0.0.2").port() });
    for _ in 0..2 {
        let stream = dial(&ips(&[addr]), bind, &OPTIONS, soon()).await.unwrap();
        // We close first, which leaves our side in TIME_WAIT.
        drop(stream);
        let (mut accepted, _) = server.accept().unwrap();
        io::copy(&mut accepted, &mut io::sink()).unwrap();
        drop(accepted);
    }
}

#[tokio::test]
async fn a_connection_to_itself_is_found_out() {
    let own = closed("127.0.0.1");
    let socket = TcpSocket::new_v4().unwrap();
    socket.set_reuseaddr(true).unwrap();
    socket.bind(own).unwrap();
    let stream = socket.connect(own).await.unwrap();
    assert!(is_to_itself(&stream, own));
    let (_server, addr) = listener("127.0.0.1");
    let honest = TcpStream::from_std({
        let stream = StdTcpStream::connect(addr).unwrap();
        stream.set_nonblocking(true).unwrap();
        stream
    });
    assert!(!is_to_itself(&honest.unwrap(), addr));
}

#[tokio::test]
async fn a_full_unix_backlog_is_waited_for() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("socket");
    let server = Socket::new(Domain::UNIX, Type::STREAM, None).unwrap();
    server.bind(&SockAddr::unix(&path).unwrap()).unwrap();
    server.listen(0).unwrap();
    let _filler = UnixStream::connect(&path).await.unwrap();
    assert_eq!(UnixStream::connect(&path).await.unwrap_err().kind(), io::ErrorKind::WouldBlock);
    let target = Target::Unix(path.as_path().into());
    let short = Instant::now() + Duration::from_millis(50);
    let error = dial(&target, None, &OPTIONS, short).await.unwrap_err();
    assert!(matches!(error, DialError::Timeout), "{error}");
    let late = tokio::spawn(async move { dial(&target, None, &OPTIONS, soon()).await });
    server.accept().unwrap();
    late.await.unwrap().unwrap();
}

#[test]
fn families_take_turns() {
    let addr = |text: &str| Endpoint::from(text.parse::<SocketAddr>().unwrap());
    let given = ["[::1]:1", "[::2]:1", "[::3]:1", "1.1.1.1:1", "2.2.2.2:1"].map(addr);
    let order: Vec<_> = turns(&given, None).unwrap().iter().map(ToString::to_string).collect();
    assert_eq!(order, ["[::1]:1", "1.1.1.1:1", "[::2]:1", "2.2.2.2:1", "[::3]:1"]);
    let four = Some("0.0.0.0".parse().unwrap());
    assert_eq!(turns(&given, four).unwrap(), given[3..].iter().collect::<Vec<_>>());
}

#[tokio::test]
async fn each_address_is_told_before_it_is_dialled_and_the_local_address_is_obeyed() {
    let (server, addr) = listener("127.0.0.1");
    let told = std::sync::Mutex::new(vec![]);
    let before = |ip: &'static str| {
        let told = &told;
        move |addr: SocketAddr| {
            told.lock().unwrap().push(addr);
            Some(ip.parse().unwrap())
        }
    };
    let closed = closed("127.0.0.1");
    let target = ips(&[closed, addr]);
    let _one = dial_after(&target, None, &OPTIONS, soon(), before("127.0.0.3")).await.unwrap();
    assert_eq!(server.accept().unwrap().1.ip().to_string(), "127.0.0.3");
    assert_eq!(*told.lock().unwrap(), [closed, addr]);
    let bind = Some("127.0.0.2".parse().unwrap());
    let _two = dial_after(&target, bind, &OPTIONS, soon(), before("127.0.0.3")).await.unwrap();
    assert_eq!(server.accept().unwrap().1.ip().to_string(), "127.0.0.2");
}
