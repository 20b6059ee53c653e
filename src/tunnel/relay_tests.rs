//! Two relays back to back over in-memory pipes, as the two ends of a tunnel are.

use std::future::pending;
use std::io;
use std::pin::{Pin, pin};
use std::task::{Context, Poll, Waker};

use tokio::io::{
    AsyncRead, AsyncReadExt, DuplexStream, ReadBuf, ReadHalf, WriteHalf, duplex, split,
};

use super::*;
use crate::keys::{Key, KeyRing};
use crate::net::WriteSide;
use crate::proto::handshake::{Dialer, First, read_message1};
use crate::proto::hello::{Extensions, Hello, Welcome};
use crate::proto::inbound::Event;
use crate::proto::labels::PROLOGUE;
use crate::proto::message::Open;
use crate::proto::record::{DATA_OFFSET, MAX_RECORD};
use crate::proto::{Padding, Suite, SuiteSet};
use crate::secret::Secret;

/// Capacity of a pipe in bytes: one byte forces every partial read and write.
const PIPES: [usize; 3] = [1, 8, 65_536];

struct Pipe {
    read: ReadHalf<DuplexStream>,
    write: WriteHalf<DuplexStream>,
}

impl Pipe {
    fn new(stream: DuplexStream) -> Self {
        let (read, write) = split(stream);
        Self { read, write }
    }
}

impl Duplex for Pipe {
    type Read<'a> = &'a mut ReadHalf<DuplexStream>;
    type Write<'a> = &'a mut WriteHalf<DuplexStream>;

    fn split(&mut self) -> (Self::Read<'_>, Self::Write<'_>) {
        (&mut self.read, &mut self.write)
    }

    async fn finish(self) {}

    async fn abort(self) {}
}

impl ReadSide for &mut ReadHalf<DuplexStream> {}

impl WriteSide for &mut WriteHalf<DuplexStream> {}

/// Both ends of a session: the dialer has sealed Open into `first`, and the
/// acceptor has read it.
struct Ends {
    dialer: Session,
    acceptor: Session,
    opened: Vec<u8>,
}

fn ends(suite: Suite, padding: Padding) -> Ends {
    let key = Key::new(Secret::take(&mut [1; 32]));
    let ring = KeyRing::new(vec![key.clone()]).unwrap();
    let extensions = Extensions::default();
    let hello = Hello { suites: SuiteSet::only(suite), padding, clock_ms: 0, extensions };
    let (dialer, message1) = Dialer::start(&key, hello, Secret::take(&mut [2; 32]));
    let received = read_message1(&ring, PROLOGUE, &message1).unwrap();
    let welcome = Welcome::answering(&hello, SuiteSet::BOTH, padding, 0).unwrap();
    let (unconfirmed, message2) = received.answer(&welcome, Secret::take(&mut [3; 32])).unwrap();
    let (mut dialer, _) = dialer.finish(message2).unwrap();
    let mut open = vec![];
    let client = Open {
        service: crate::addr::ServiceName::default(),
        client: crate::addr::ClientAddr::Unix,
    };
    dialer.outbound.open(&client, &mut open).unwrap();
    let First::Confirmed(mut acceptor, Event::Open(_), _) = unconfirmed.confirm(&mut open).unwrap()
    else {
        panic!("Open confirms")
    };
    let mut opened = vec![];
    acceptor.outbound.opened(&mut opened).unwrap();
    Ends { dialer, acceptor, opened }
}

/// A client and a target with a tunnel between them; each pipe holds `room` bytes.
struct Tunnel {
    client: DuplexStream,
    target: DuplexStream,
    dialer: tokio::task::JoinHandle<End>,
    acceptor: tokio::task::JoinHandle<End>,
}

fn tunnel(
    room: usize,
    ends: Ends,
    cut: impl Future<Output = CloseReason> + Send + 'static,
) -> Tunnel {
    let (client, plain_in) = duplex(room);
    let (near, far) = duplex(room);
    let (plain_out, target) = duplex(room);
    let Ends { mut dialer, mut acceptor, opened } = ends;
    let dialer = tokio::spawn(async move {
        let plain = Pipe::new(plain_in);
        let mut sealed = Pipe::new(near);
        let start = Start { first: vec![], already_read: vec![] };
        relay(
            Sides { plain, sealed: &mut sealed },
            Relayed { session: &mut dialer, traffic: &Traffic::default() },
            start,
            pin!(cut),
        )
        .await
    });
    let acceptor = tokio::spawn(async move {
        let plain = Pipe::new(plain_out);
        let mut sealed = Pipe::new(far);
        let start = Start { first: opened, already_read: vec![] };
        relay(
            Sides { plain, sealed: &mut sealed },
            Relayed { session: &mut acceptor, traffic: &Traffic::default() },
            start,
            pin!(pending()),
        )
        .await
    });
    Tunnel { client, target, dialer, acceptor }
}

fn noise(len: usize, seed: u8) -> Vec<u8> {
    (0..len).map(|i| (i * 31 + i / 251) as u8 ^ seed).collect()
}

/// Sends `data`, ends its direction, and reads until the other side's end.
async fn exchange(stream: DuplexStream, data: Vec<u8>) -> io::Result<Vec<u8>> {
    let (mut read, mut write) = split(stream);
    let send = async {
        write.write_all(&data).await?;
        write.shutdown().await
    };
    let mut received = vec![];
    let (sent, got) = tokio::join!(send, read.read_to_end(&mut received));
    sent.and(got).map(|_| received)
}

#[tokio::test]
async fn streams_pass_both_ways_and_end_cleanly_over_every_pipe() {
    for room in PIPES {
        // More than a large buffer, where that is fast enough.
        let len = if room < 64 { 2_000 } else { 400_000 };
        for suite in Suite::ALL {
            for padding in [Padding::NONE, Padding::default()] {
                let Tunnel { client, target, dialer, acceptor } =
                    tunnel(room, ends(suite, padding), pending());
                let up = noise(len, 1);
                let down = noise(len / 2, 2);
                let (at_client, at_target) =
                    tokio::join!(exchange(client, up.clone()), exchange(target, down.clone()));
                assert!(at_client.unwrap() == down && at_target.unwrap() == up, "{room} {suite}");
                for (end, sent) in [(dialer.await, len), (acceptor.await, len / 2)] {
                    let End { reason, sent: counted, .. } = end.unwrap();
                    assert_eq!((reason, counted), (CloseReason::Finished, sent as u64));
                }
            }
        }
    }
}

#[tokio::test]
async fn one_direction_goes_on_after_the_other_has_ended() {
    let ends = ends(Suite::ChaCha20Poly1305, Padding::default());
    let Tunnel { mut client, mut target, dialer, .. } = tunnel(8, ends, pending());
    client.write_all(b"question").await.unwrap();
    client.shutdown().await.unwrap();
    let mut question = vec![];
    target.read_to_end(&mut question).await.unwrap();
    assert_eq!(question, b"question");
    target.write_all(b"late answer").await.unwrap();
    drop(target);
    let mut answer = vec![];
    client.read_to_end(&mut answer).await.unwrap();
    assert_eq!(answer, b"late answer");
    assert_eq!(dialer.await.unwrap().reason, CloseReason::Finished);
}

#[tokio::test]
async fn the_other_end_gets_the_reason_of_a_broken_plain_side() {
    let ends = ends(Suite::Aes256Gcm, Padding::default());
    let Tunnel { mut client, target, dialer, acceptor } = tunnel(65_536, ends, pending());
    // Neither reads nor writes any more: what the client sends cannot be delivered.
    drop(target);
    let _ = client.write_all(&noise(1 << 20, 3)).await;
    let reasons = (acceptor.await.unwrap().reason, dialer.await.unwrap().reason);
    assert_eq!(reasons, (CloseReason::PlainReset, CloseReason::PeerReset));
}

#[tokio::test]
async fn a_cut_session_tells_the_other_end() {
    let ends = ends(Suite::Aes256Gcm, Padding::default());
    let Tunnel { client, dialer, acceptor, target: _target } =
        tunnel(8, ends, std::future::ready(CloseReason::Shutdown));
    let reasons = (dialer.await.unwrap().reason, acceptor.await.unwrap().reason);
    assert_eq!(reasons, (CloseReason::Shutdown, CloseReason::PeerShutdown));
    drop(client);
}

/// Effect on the receiving end of a sealed stream that was cut or tampered with.
#[tokio::test]
async fn a_sealed_stream_without_fin_is_never_a_clean_end() {
    let Ends { mut dialer, .. } = ends(Suite::Aes256Gcm, Padding::NONE);
    let mut wire = vec![];
    let data = noise(1_000, 4);
    for piece in data.chunks(400) {
        let mut slot = vec![0; MAX_RECORD];
        slot[DATA_OFFSET..][..piece.len()].copy_from_slice(piece);
        let len = dialer.outbound.seal_data(&mut slot, piece.len()).unwrap();
        wire.extend_from_slice(&slot[..len]);
    }
    dialer.outbound.fin(&mut wire).unwrap();
    for cut in (0..=wire.len()).step_by(7).chain([wire.len()]) {
        let received = receive(wire[..cut].to_vec()).await;
        let whole = cut == wire.len();
        assert!(data.starts_with(&received.bytes), "{cut}: a prefix");
        assert_eq!(received.ended_cleanly, whole, "{cut}");
        assert_eq!(received.bytes.len() == data.len(), cut >= wire.len() - 21, "{cut}");
    }
    for at in 0..wire.len() {
        let mut bad = wire.clone();
        bad[at] ^= 0x10;
        let received = receive(bad).await;
        assert!(data.starts_with(&received.bytes) && !received.ended_cleanly, "byte {at}");
    }
}

struct Received {
    bytes: Vec<u8>,
    ended_cleanly: bool,
}

/// Feeds a sealed stream and its end to an acceptor; returns what its plain side saw.
async fn receive(wire: Vec<u8>) -> Received {
    let Ends { mut acceptor, .. } = ends(Suite::Aes256Gcm, Padding::NONE);
    let (mut far, near) = duplex(1 << 16);
    let (plain, mut target) = duplex(1 << 16);
    far.write_all(&wire).await.unwrap();
    drop(far);
    let relaying = tokio::spawn(async move {
        let mut plain = Pipe::new(plain);
        let mut sealed = Pipe::new(near);
        let total = Traffic::default();
        let mut open = OpenPump::new(&[], &total);
        let (mut from, _) = sealed.split();
        let (_, mut to) = plain.split();
        let ended = open.run(&mut from, &mut to, &mut acceptor.inbound).await;
        (ended, plain)
    });
    let (ended, plain) = relaying.await.unwrap();
    drop(plain);
    let mut bytes = vec![];
    target.read_to_end(&mut bytes).await.unwrap();
    Received { bytes, ended_cleanly: ended.is_ok() }
}

/// Fin and what follows it may come in one read.
#[tokio::test]
async fn what_follows_fin_in_the_same_read_is_heeded() {
    type Send = fn(&mut Session, &mut Vec<u8>);
    let cases: [(Send, CloseReason); 3] = [
        (|s, w| s.outbound.reset(ResetReason::PlainReset, w).unwrap(), CloseReason::PeerReset),
        (|s, w| s.outbound.fin(w).unwrap(), CloseReason::ProtocolError),
        (|_, w| w.extend([0, 19].repeat(20)), CloseReason::BadRecord),
    ];
    for (after_fin, expected) in cases {
        let Ends { mut dialer, mut acceptor, opened } = ends(Suite::Aes256Gcm, Padding::NONE);
        let mut wire = vec![];
        dialer.outbound.fin(&mut wire).unwrap();
        after_fin(&mut dialer, &mut wire);
        let (mut far, near) = duplex(1 << 16);
        let (plain, _target) = duplex(1 << 16);
        far.write_all(&wire).await.unwrap();
        let plain = Pipe::new(plain);
        let mut sealed = Pipe::new(near);
        let start = Start { first: opened, already_read: vec![] };
        let end = relay(
            Sides { plain, sealed: &mut sealed },
            Relayed { session: &mut acceptor, traffic: &Traffic::default() },
            start,
            pin!(pending()),
        )
        .await;
        assert_eq!(end.reason, expected);
    }
}

/// A busy direction must not starve the other: both share one task, and one work budget for each of
/// its turns. All bytes are available from the start, so that the order depends on the relay alone.
#[tokio::test]
async fn a_flood_one_way_does_not_hold_up_the_other() {
    const RECORDS: usize = 100_000;
    let Ends { mut dialer, mut acceptor, .. } = ends(Suite::Aes256Gcm, Padding::NONE);
    let (plain, mut target) = duplex(RECORDS);
    let (sealed, mut far) = duplex(RECORDS * 32);
    let mut slot = [1; 32];
    for _ in 0..RECORDS {
        let len = dialer.outbound.seal_data(&mut slot, 1).unwrap();
        far.write_all(&slot[..len]).await.unwrap();
    }
    target.write_all(&[1; RECORDS]).await.unwrap();
    let relaying = tokio::spawn(async move {
        let start = Start { first: vec![], already_read: vec![] };
        let plain = Pipe::new(plain);
        let mut sealed = Pipe::new(sealed);
        relay(
            Sides { plain, sealed: &mut sealed },
            Relayed { session: &mut acceptor, traffic: &Traffic::default() },
            start,
            pin!(pending()),
        )
        .await
    });
    let mut opened = 0;
    let mut sealed = 0;
    while opened < RECORDS / 2 {
        tokio::task::yield_now().await;
        opened += take_what_is_there(&mut target);
        sealed += take_what_is_there(&mut far);
    }
    assert!(sealed > 0, "{opened} of {RECORDS} records the one way, and nothing the other");
    relaying.abort();
}

fn take_what_is_there(pipe: &mut DuplexStream) -> usize {
    let mut bytes = [0; 4096];
    let mut buf = ReadBuf::new(&mut bytes);
    let mut cx = Context::from_waker(Waker::noop());
    match Pin::new(pipe).poll_read(&mut cx, &mut buf) {
        Poll::Ready(result) => result.map(|()| buf.filled().len()).unwrap(),
        Poll::Pending => 0,
    }
}
