//! Heartbeats: the agreement of both ends in the handshake, and the places of Data without data.

use std::time::Duration;

use super::*;
use crate::heartbeat::Heartbeat;

/// The vectors of `docs/PROTOCOL.md` with the extension of its section 3.4.
#[test]
fn knockpipe_vectors_with_a_heartbeat_byte_for_byte() {
    let vectors: serde_json::Value =
        serde_json::from_str(include_str!("../vectors/knockpipe-1.json")).unwrap();
    let with = &vectors["with_heartbeat"];
    let bytes = |name: &str| unhex(&vectors[name]);
    let number = |value: &serde_json::Value| value.as_u64().unwrap();
    let every = |name: &str| Heartbeat::every(Duration::from_millis(number(&with[name])));
    let key = Key::new(secret(&bytes("key")));
    let hello = Hello {
        suites: SuiteSet::BOTH,
        padding: Padding::default(),
        clock_ms: number(&vectors["hello"]["clock_ms"]),
        extensions: Extensions { heartbeat: every("hello_heartbeat_ms") },
    };
    let (dialer, message1) = Dialer::start(&key, hello, secret(&bytes("dialer_ephemeral")));
    assert_eq!(message1[..], unhex(&with["message_1"]));
    let received =
        read_message1(&KeyRing::new(vec![key.clone()]).unwrap(), PROLOGUE, &message1).unwrap();
    let welcome = Welcome {
        suite: Suite::Aes256Gcm,
        padding: Padding::default(),
        clock_ms: number(&vectors["welcome"]["clock_ms"]),
        extensions: Extensions { heartbeat: every("welcome_heartbeat_ms") },
    };
    let ephemeral = secret(&bytes("acceptor_ephemeral"));
    let (Unconfirmed(acceptor), message2) = received.answer(&welcome, ephemeral).unwrap();
    assert_eq!(message2[..], unhex(&with["message_2"]));
    let (same, _) = Dialer::start(&key, hello, secret(&bytes("dialer_ephemeral")));
    let state = read_message2(same.state, &same.ephemeral, &mut message2.clone()).unwrap();
    assert_eq!(state.split().1[..], unhex(&with["handshake_hash"]));
    let (dialer, _) = dialer.finish(message2).unwrap();
    let agreed = Heartbeats { own: every("welcome_heartbeat_ms"), agreed: true };
    assert_eq!((dialer.heartbeats, acceptor.heartbeats), (agreed, agreed));
}

/// `docs/PROTOCOL.md`, section 6: Data without data may come before Opened where both
/// ends agreed on a heartbeat, and only there; never after Fin.
#[test]
fn signs_of_life_have_their_place() {
    for heartbeat in [None, Heartbeat::every(Duration::from_secs(1))] {
        let hello = Hello { extensions: Extensions { heartbeat }, ..hello() };
        let (dialer, message1) = Dialer::start(&key(1), hello, secret(&[2; 32]));
        let received = read_message1(&ring(&[1]), PROLOGUE, &message1).unwrap();
        let welcome = Welcome::answering(received.hello(), SuiteSet::BOTH, Padding::NONE, 5);
        let welcome = Welcome { extensions: Extensions { heartbeat }, ..welcome.unwrap() };
        let (Unconfirmed(mut acceptor), message2) =
            received.answer(&welcome, secret(&[3; 32])).unwrap();
        let (mut dialer, _) = dialer.finish(message2).unwrap();
        let mut wire = vec![];
        acceptor.outbound.beat(&mut wire).unwrap();
        acceptor.outbound.opened(&mut wire).unwrap();
        acceptor.outbound.beat(&mut wire).unwrap();
        acceptor.outbound.fin(&mut wire).unwrap();
        acceptor.outbound.beat(&mut wire).unwrap();
        let mut heard = vec![];
        let error = loop {
            match dialer.inbound.next(&mut wire) {
                Ok(Some((event, len))) => {
                    heard.push(matches!(event, Event::Data(data) if data.is_empty()));
                    wire.drain(..len);
                }
                Ok(None) => break None,
                Err(error) => break Some(error),
            }
        };
        assert_eq!(error, Some(PeerError::Misbehaved));
        let expected: &[bool] = if heartbeat.is_some() { &[true, false, true, false] } else { &[] };
        assert_eq!(heard, expected);
    }
}
