//! Streams as the other end sees them.

use std::future::poll_fn;
use std::io::IoSliceMut;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;
use tokio::time::timeout;

use super::*;
use crate::net::{Duplex, ReadSide};

const SOON: Duration = Duration::from_secs(5);
/// Long enough for loopback to deliver anything that would wrongly resolve.
const A_MOMENT: Duration = Duration::from_millis(100);

async fn tcp(host: &str) -> (Stream, Stream) {
    let listener = TcpListener::bind((host, 0)).await.unwrap();
    let ours = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
    (ours.into(), listener.accept().await.unwrap().0.into())
}

fn unix() -> (Stream, Stream) {
    let (ours, theirs) = UnixStream::pair().unwrap();
    (ours.into(), theirs.into())
}

async fn every_kind() -> Vec<(&'static str, Stream, Stream)> {
    let (a, b) = tcp("127.0.0.1").await;
    let (c, d) = tcp("::1").await;
    let (e, f) = unix();
    vec![("v4", a, b), ("v6", c, d), ("unix", e, f)]
}

async fn read_one(stream: &mut Stream, buf: &mut [u8]) -> usize {
    let (mut read, _) = stream.split();
    let (one, two) = buf.split_at_mut(1);
    let mut slots = [IoSliceMut::new(one), IoSliceMut::new(two)];
    poll_fn(|cx| read.poll_read_slots(cx, &mut slots)).await.unwrap()
}

#[tokio::test]
async fn bytes_and_both_ends_pass() {
    for (kind, mut ours, mut theirs) in every_kind().await {
        assert!(ours.is_write_vectored());
        let parts = [IoSlice::new(b"two "), IoSlice::new(b"parts")];
        assert_eq!(ours.write_vectored(&parts).await.unwrap(), 9, "{kind}");
        let mut buf = [0; 16];
        assert_eq!(read_one(&mut theirs, &mut buf).await, 9);
        assert_eq!(&buf[..9], b"two parts");
        ours.shutdown().await.unwrap();
        assert_eq!(read_one(&mut theirs, &mut buf).await, 0, "{kind}: the end arrives");
        theirs.write_all(b"still open").await.unwrap();
        drop(theirs);
        let mut rest = String::new();
        ours.read_to_string(&mut rest).await.unwrap();
        assert_eq!(rest, "still open", "{kind}: the other direction goes on");
    }
}

#[tokio::test]
async fn waiting_returns_only_when_something_is_there() {
    for (kind, mut ours, mut theirs) in every_kind().await {
        let mut buf = [0; 4];
        let quiet = timeout(A_MOMENT, read_one(&mut theirs, &mut buf)).await;
        assert!(quiet.is_err(), "{kind}");
        ours.write_all(b"x").await.unwrap();
        assert_eq!(timeout(SOON, read_one(&mut theirs, &mut buf)).await.unwrap(), 1, "{kind}");
    }
}

#[tokio::test]
async fn bytes_and_ends_are_no_quiet() {
    for (kind, mut ours, mut theirs) in every_kind().await {
        assert!(ours.is_idle() && theirs.is_idle(), "{kind}");
        assert!(timeout(A_MOMENT, ours.readable()).await.is_err(), "{kind}");
        theirs.write_all(b"x").await.unwrap();
        assert!(timeout(SOON, ours.readable()).await.unwrap().unwrap(), "{kind}: a byte");
        assert!(!ours.is_ended_by_peer(), "{kind}");
        assert!(!ours.is_idle(), "{kind}: a byte");
        assert_eq!(ours.read_u8().await.unwrap(), b'x', "{kind}: which is still there");
        assert!(ours.is_idle(), "{kind}");
        theirs.shutdown().await.unwrap();
        assert_eq!(ours.read(&mut [0; 1]).await.unwrap(), 0);
        assert!(!ours.is_idle(), "{kind}: the end");
        assert!(!timeout(SOON, ours.readable()).await.unwrap().unwrap(), "{kind}: no byte");
    }
}

#[tokio::test]
async fn an_end_is_seen_behind_bytes_that_were_not_read() {
    for (kind, ours, mut theirs) in every_kind().await {
        theirs.write_all(b"x").await.unwrap();
        theirs.shutdown().await.unwrap();
        timeout(SOON, ours.readable()).await.unwrap().unwrap();
        while !ours.is_ended_by_peer() {
            tokio::task::yield_now().await;
        }
        assert!(!ours.is_idle(), "{kind}");
    }
}

#[tokio::test]
async fn a_reset_arrives_as_a_reset() {
    for host in ["127.0.0.1", "::1"] {
        let (ours, mut theirs) = tcp(host).await;
        ours.reset();
        let read = timeout(SOON, theirs.read_u8()).await.unwrap();
        assert_eq!(read.unwrap_err().kind(), io::ErrorKind::ConnectionReset, "{host}");
    }
    let (ours, mut theirs) = unix();
    ours.reset();
    assert!(timeout(SOON, theirs.read_u8()).await.unwrap().is_err());
}

#[tokio::test]
async fn a_drop_is_a_reset_until_all_is_finished() {
    for finished in [false, true] {
        let (ours, mut theirs) = tcp("127.0.0.1").await;
        ours.reset_unless_finished();
        if finished {
            ours.close()
        } else {
            drop(ours)
        }
        let read = timeout(SOON, theirs.read(&mut [0; 1])).await.unwrap();
        assert_eq!(read.is_ok_and(|got| got == 0), finished);
    }
}

#[tokio::test]
async fn broken_ignores_a_half_close_and_sees_a_reset_behind_it() {
    let (mut ours, mut theirs) = tcp("127.0.0.1").await;
    ours.shutdown().await.unwrap();
    assert_eq!(theirs.read(&mut [0; 1]).await.unwrap(), 0);
    assert!(timeout(A_MOMENT, theirs.split().0.broken()).await.is_err(), "half-close is no error");
    ours.reset();
    timeout(SOON, theirs.split().0.broken()).await.unwrap();
}

#[tokio::test]
async fn broken_ignores_the_clean_end_of_both_directions() {
    for (kind, mut ours, mut theirs) in every_kind().await {
        for end in [&mut ours, &mut theirs] {
            end.shutdown().await.unwrap();
        }
        assert_eq!(theirs.read(&mut [0; 1]).await.unwrap(), 0);
        assert!(timeout(A_MOMENT, theirs.split().0.broken()).await.is_err(), "{kind}");
    }
}

#[tokio::test]
async fn broken_sees_a_unix_peer_that_threw_data_away() {
    let (ours, mut theirs) = unix();
    theirs.write_all(b"unread").await.unwrap();
    drop(ours);
    timeout(SOON, theirs.split().0.broken()).await.unwrap();
}

#[tokio::test]
async fn options_reach_the_socket() {
    for keepalive in [true, false] {
        let (ours, _theirs) = tcp("127.0.0.1").await;
        let Stream::Tcp(socket) = &ours else { panic!("not TCP") };
        SocketOptions { keepalive }.apply(socket);
        assert!(socket.nodelay().unwrap());
        assert_eq!(SockRef::from(socket).keepalive().unwrap(), keepalive);
        assert_eq!(SockRef::from(socket).tcp_user_timeout().unwrap(), None);
    }
}
