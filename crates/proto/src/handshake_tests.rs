use std::net::SocketAddr;

use chacha20poly1305::aead::{Aead, KeyInit};
use chacha20poly1305::{ChaCha20Poly1305, Nonce};

use super::*;
use crate::hello::Extensions;
use crate::labels::PROLOGUE;
use crate::message::{Open, ResetReason};
use crate::record::MAX_RECORD;
use crate::{Padding, SuiteSet};
use knockpipe_base::addr::{ClientAddr, ServiceName};

const VECTORS: &str = include_str!("../vectors/noise-nnpsk0-25519-chachapoly-sha256.json");

fn unhex(text: &serde_json::Value) -> Vec<u8> {
    let text = text.as_str().unwrap();
    (0..text.len()).step_by(2).map(|i| u8::from_str_radix(&text[i..i + 2], 16).unwrap()).collect()
}

fn secret(bytes: &[u8]) -> Secret<32> {
    Secret::filled_by(|out| out.copy_from_slice(bytes))
}

fn key(byte: u8) -> Key {
    Key::new(secret(&[byte; 32]))
}

fn ring(bytes: &[u8]) -> KeyRing {
    KeyRing::new(bytes.iter().map(|byte| key(*byte)).collect()).unwrap()
}

fn hello() -> Hello {
    Hello {
        suites: SuiteSet::BOTH,
        padding: Padding::NONE,
        clock_ms: 1,
        extensions: Extensions::default(),
    }
}

/// Runs a handshake up to message 2.
fn shake(suites: SuiteSet) -> (Session, Unconfirmed) {
    let (dialer, message1) = Dialer::start(&key(1), hello(), secret(&[2; 32]));
    let received = read_message1(&ring(&[1]), PROLOGUE, &message1).unwrap();
    let welcome = Welcome::answering(received.hello(), suites, Padding::NONE, 5).unwrap();
    let (unconfirmed, message2) = received.answer(&welcome, secret(&[3; 32])).unwrap();
    (dialer.finish(message2).unwrap().0, unconfirmed)
}

fn confirmed(suites: SuiteSet) -> (Session, Session) {
    let (mut dialer, unconfirmed) = shake(suites);
    let mut wire = vec![];
    dialer.outbound.open(&open(), &mut wire).unwrap();
    match unconfirmed.confirm(&mut wire).unwrap() {
        First::Confirmed(session, event, len) => {
            assert_eq!((event, len), (Event::Open(open()), wire.len()));
            (dialer, session)
        }
        First::Incomplete(_) => panic!("the record is complete"),
    }
}

fn open() -> Open {
    let client: SocketAddr = "203.0.113.7:4000".parse().unwrap();
    Open { service: ServiceName::default(), client: ClientAddr::from(client) }
}

#[test]
fn published_vectors_byte_for_byte() {
    let vectors: serde_json::Value = serde_json::from_str(VECTORS).unwrap();
    let all = vectors["vectors"].as_array().unwrap();
    assert!(!all.is_empty());
    for vector in all {
        assert_eq!(vector["protocol_name"].as_str().unwrap().as_bytes(), labels::NOISE_NAME);
        check_vector(vector);
    }
}

fn check_vector(vector: &serde_json::Value) {
    let static_secret = |name: &str| secret(&unhex(&vector[name]));
    let prologue = unhex(&vector["init_prologue"]);
    let psk = Key::new(secret(&unhex(&vector["init_psks"][0])));
    let messages = vector["messages"].as_array().unwrap();
    let framed = |i: usize| {
        let payload = unhex(&messages[i]["payload"]);
        [&[0; 32][..], &payload, &[0; 16]].concat()
    };
    let e1 = static_secret("init_ephemeral");
    let e2 = static_secret("resp_ephemeral");
    let e1 = DhKey::new(&e1);
    let e2 = DhKey::new(&e2);

    let mut one = framed(0);
    let initiator = write_message1(&prologue, &psk, &e1, &mut one);
    assert_eq!(one, unhex(&messages[0]["ciphertext"]));
    let (responder, re) = read_message1_with(&prologue, &psk, &mut one).unwrap();
    assert_eq!(one[32..one.len() - 16], unhex(&messages[0]["payload"]));

    let mut two = framed(1);
    let responder = write_message2(responder, &re, &e2, &mut two).unwrap();
    assert_eq!(two, unhex(&messages[1]["ciphertext"]));
    let initiator = read_message2(initiator, &e1, &mut two).unwrap();
    assert_eq!(two[32..two.len() - 16], unhex(&messages[1]["payload"]));

    let ((keys, hash), (their_keys, their_hash)) = (initiator.split(), responder.split());
    assert_eq!(hash[..], unhex(&vector["handshake_hash"]));
    assert_eq!(hash, their_hash);
    assert!(keys.iter().zip(&their_keys).all(|(ours, theirs)| ours.same_as(theirs)));
    for (i, message) in messages.iter().enumerate().skip(2) {
        let cipher = ChaCha20Poly1305::new(keys[i % 2].expose().into());
        let mut nonce = Nonce::default();
        nonce[4..].copy_from_slice(&((i as u64 - 2) / 2).to_le_bytes());
        let sealed = cipher.encrypt(&nonce, &unhex(&message["payload"])[..]).unwrap();
        assert_eq!(sealed, unhex(&message["ciphertext"]), "message {i}");
    }
}

/// The vectors of `docs/PROTOCOL.md`: messages, keys, first records and ratchet.
#[test]
fn knockpipe_vectors_byte_for_byte() {
    let vectors: serde_json::Value =
        serde_json::from_str(include_str!("../vectors/knockpipe-1.json")).unwrap();
    let bytes = |name: &str| unhex(&vectors[name]);
    let text = vectors["key_file"].as_str().unwrap();
    let key = crate::keys::file::parse(text.as_bytes()).unwrap();
    assert_eq!(key.secret().expose()[..], bytes("key"));
    assert_eq!(key.id().to_string(), vectors["key_id"].as_str().unwrap());

    let hello = Hello {
        suites: SuiteSet::from_bits(3),
        padding: Padding::default(),
        clock_ms: vectors["hello"]["clock_ms"].as_u64().unwrap(),
        extensions: Extensions::default(),
    };
    let (dialer, message1) = Dialer::start(&key, hello, secret(&bytes("dialer_ephemeral")));
    assert_eq!(message1[..], bytes("message_1"));
    let ring = KeyRing::new(vec![key]).unwrap();
    let received = read_message1(&ring, PROLOGUE, &message1).unwrap();
    let clock_ms = vectors["welcome"]["clock_ms"].as_u64().unwrap();
    let welcome = Welcome {
        suite: Suite::Aes256Gcm,
        padding: Padding::default(),
        clock_ms,
        extensions: Extensions::default(),
    };
    let (_, message2) = received.answer(&welcome, secret(&bytes("acceptor_ephemeral"))).unwrap();
    assert_eq!(message2[..], bytes("message_2"));

    let mut message2 = message2;
    let state = read_message2(dialer.state, &dialer.ephemeral, &mut message2).unwrap();
    let (split, hash) = state.split();
    assert_eq!(hash[..], bytes("handshake_hash"));
    for (i, key) in split.iter().enumerate() {
        assert_eq!(key.expose()[..], unhex(&vectors["split"][i]));
    }
    let directions = vectors["directions"].as_array().unwrap();
    assert_eq!(directions.len(), 4);
    for vector in directions {
        check_direction(vector, &split, &hash);
    }
}

fn check_direction(vector: &serde_json::Value, split: &[Secret<32>; 2], hash: &[u8; 32]) {
    let suite = Suite::from_id(vector["suite"].as_u64().unwrap() as u8).unwrap();
    let (direction, split) = match vector["direction"].as_str().unwrap() {
        "dialer-to-acceptor" => (Direction::ToAcceptor, &split[0]),
        _ => (Direction::ToDialer, &split[1]),
    };
    let seed = record_seed(hash, split, suite, direction);
    assert_eq!(seed.expose()[..], unhex(&vector["key"]));
    assert_eq!(labels::ratchet(&seed).expose()[..], unhex(&vector["ratcheted_key"]));
    let mut slot = vec![0; MAX_RECORD];
    let kind = vector["first_record_type"].as_u64().unwrap() as u8;
    let len = Sealer::new(suite, seed, Padding::NONE).seal(kind, &mut slot, 0).unwrap();
    assert_eq!(slot[..len], unhex(&vector["first_record"]));
}

fn snow_builder() -> snow::Builder<'static> {
    let name = std::str::from_utf8(labels::NOISE_NAME).unwrap();
    snow::Builder::new(name.parse().unwrap()).psk(0, &[1; 32]).unwrap().prologue(PROLOGUE).unwrap()
}

#[test]
fn our_dialer_and_the_acceptor_of_snow_agree() {
    let mut snow = snow_builder().build_responder().unwrap();
    let (dialer, message1) = Dialer::start(&key(1), hello(), secret(&[2; 32]));
    let mut said = [0; PAYLOAD_LEN];
    assert_eq!(snow.read_message(&message1, &mut said).unwrap(), PAYLOAD_LEN);
    assert_eq!(Hello::decode(&said), Ok(hello()));
    let suite = Suite::Aes256Gcm;
    let padding = Padding::NONE;
    let welcome = Welcome { suite, padding, clock_ms: 9, extensions: Extensions::default() };
    let mut message2 = [0; MESSAGE_LEN];
    assert_eq!(snow.write_message(&welcome.encode(), &mut message2).unwrap(), MESSAGE_LEN);
    let state = read_message2(dialer.state, &dialer.ephemeral, &mut message2).unwrap();
    assert_eq!(Welcome::decode(payload(&message2)), Ok(welcome));
    agrees_with_snow(state, snow, 0);
}

#[test]
fn the_dialer_of_snow_and_our_acceptor_agree() {
    let mut snow = snow_builder().build_initiator().unwrap();
    let mut message1 = [0; MESSAGE_LEN];
    snow.write_message(&hello().encode(), &mut message1).unwrap();
    let received = read_message1(&ring(&[7, 1]), PROLOGUE, &message1).unwrap();
    assert_eq!((received.hello(), received.key()), (&hello(), key(1).id()));
    let mut message2 = [0; MESSAGE_LEN];
    let ephemeral = DhKey::new(&secret(&[3; 32]));
    let state =
        write_message2(received.state, &received.dialer_key, &ephemeral, &mut message2).unwrap();
    snow.read_message(&message2, &mut [0; PAYLOAD_LEN]).unwrap();
    agrees_with_snow(state, snow, 1);
}

/// Checks that both have the same handshake hash, and that our key opens a record that snow sealed
/// with its first sending key.
fn agrees_with_snow(state: SymmetricState, snow: snow::HandshakeState, ours_to_snow: usize) {
    let hash = snow.get_handshake_hash().to_vec();
    let (keys, our_hash) = state.split();
    assert_eq!(our_hash[..], hash);
    let mut snow = snow.into_transport_mode().unwrap();
    let mut sealed = [0; 21];
    snow.write_message(b"hello", &mut sealed).unwrap();
    let cipher = ChaCha20Poly1305::new(keys[1 - ours_to_snow].expose().into());
    assert_eq!(cipher.decrypt(&Nonce::default(), &sealed[..]).unwrap(), b"hello");
    let cipher = ChaCha20Poly1305::new(keys[ours_to_snow].expose().into());
    let sealed = cipher.encrypt(&Nonce::default(), &b"salut"[..]).unwrap();
    assert_eq!(snow.read_message(&sealed, &mut [0; 21]).unwrap(), 5);
}

#[test]
fn every_flipped_bit_of_message_1_is_refused() {
    let (_, message1) = Dialer::start(&key(1), hello(), secret(&[2; 32]));
    for bit in 0..8 * MESSAGE_LEN {
        let mut bad = message1;
        bad[bit / 8] ^= 1 << (bit % 8);
        assert_eq!(
            read_message1(&ring(&[1]), PROLOGUE, &bad).err(),
            Some(PeerError::BadTag.into()),
            "bit {bit}"
        );
    }
}

#[test]
fn every_flipped_bit_of_message_2_is_refused() {
    for bit in 0..8 * MESSAGE_LEN {
        let (dialer, message1) = Dialer::start(&key(1), hello(), secret(&[2; 32]));
        let received = read_message1(&ring(&[1]), PROLOGUE, &message1).unwrap();
        let welcome = Welcome::answering(&hello(), SuiteSet::BOTH, Padding::NONE, 5).unwrap();
        let (_, mut message2) = received.answer(&welcome, secret(&[3; 32])).unwrap();
        message2[bit / 8] ^= 1 << (bit % 8);
        assert!(dialer.finish(message2).is_err(), "bit {bit}");
    }
}

#[test]
fn another_key_is_refused_and_every_key_of_a_ring_is_accepted() {
    let (_, message1) = Dialer::start(&key(1), hello(), secret(&[2; 32]));
    assert_eq!(
        read_message1(&ring(&[2, 3]), PROLOGUE, &message1).err(),
        Some(PeerError::BadTag.into())
    );
    for keys in [&[1, 2, 3][..], &[2, 1, 3], &[3, 2, 1]] {
        assert_eq!(read_message1(&ring(keys), PROLOGUE, &message1).unwrap().key(), key(1).id());
    }
}

/// Returns all public keys with a shared secret of zeros, as on the wire.
fn low_order_points() -> Vec<[u8; 32]> {
    let hex = [
        "0000000000000000000000000000000000000000000000000000000000000000",
        "0100000000000000000000000000000000000000000000000000000000000000",
        "e0eb7a7c3b41b8ae1656e3faf19fc46ada098deb9c32b1fd866205165f49b800",
        "5f9c95bca3508c24b1d0b1559c83ef5b04445cc4581c8e86d8224eddd09f1157",
        "ecffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f",
        "edffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f",
        "eeffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f",
    ];
    hex.iter().map(|hex| unhex(&serde_json::json!(hex)).try_into().unwrap()).collect()
}

#[test]
fn low_order_keys_are_refused_by_both_ends() {
    for point in low_order_points() {
        // A holder of the key that sends a bad point in message 1.
        let mut message = [0; MESSAGE_LEN];
        message[32..32 + PAYLOAD_LEN].copy_from_slice(&hello().encode());
        message[..32].copy_from_slice(&point);
        let mut state = SymmetricState::initialize(PROLOGUE);
        state.mix_psk(key(1).token());
        read_e(&mut state, &message);
        state.encrypt_and_hash(&mut message[32..]);
        let received = read_message1(&ring(&[1]), PROLOGUE, &message).unwrap();
        let welcome = Welcome::answering(&hello(), SuiteSet::BOTH, Padding::NONE, 5).unwrap();
        let answer = received.answer(&welcome, secret(&[3; 32]));
        assert_eq!(answer.err(), Some(PeerError::LowOrder));
        // And in message 2.
        let (dialer, _) = Dialer::start(&key(1), hello(), secret(&[2; 32]));
        let mut message2 = [0; MESSAGE_LEN];
        message2[..32].copy_from_slice(&point);
        assert_eq!(dialer.finish(message2).err(), Some(PeerError::LowOrder));
    }
}

#[test]
fn a_replayed_message_1_confirms_nothing() {
    let (dialer, message1) = Dialer::start(&key(1), hello(), secret(&[2; 32]));
    let mut first_record = vec![];
    let ring = ring(&[1]);
    let answer = |ephemeral| {
        let received = read_message1(&ring, PROLOGUE, &message1).unwrap();
        let welcome = Welcome::answering(&hello(), SuiteSet::BOTH, Padding::NONE, 5).unwrap();
        received.answer(&welcome, secret(&[ephemeral; 32])).unwrap()
    };
    let (_, message2) = answer(3);
    let (mut session, _) = dialer.finish(message2).unwrap();
    session.outbound.open(&open(), &mut first_record).unwrap();
    let (replayed, _) = answer(4);
    assert_eq!(replayed.confirm(&mut first_record).err(), Some(PeerError::BadTag));
}

#[test]
fn the_dialer_refuses_a_suite_it_did_not_offer_and_less_padding_than_it_asked_for() {
    let wants = Hello {
        suites: SuiteSet::PORTABLE,
        padding: Padding::default(),
        clock_ms: 1,
        extensions: Extensions::default(),
    };
    for (suite, padding) in
        [(Suite::Aes256Gcm, Padding::default()), (Suite::ChaCha20Poly1305, Padding::NONE)]
    {
        let (dialer, message1) = Dialer::start(&key(1), wants, secret(&[2; 32]));
        let mut received = read_message1(&ring(&[1]), PROLOGUE, &message1).unwrap();
        received.hello.suites = SuiteSet::BOTH;
        let welcome = Welcome { suite, padding, clock_ms: 1, extensions: Extensions::default() };
        let (_, message2) = received.answer(&welcome, secret(&[3; 32])).unwrap();
        assert_eq!(dialer.finish(message2).err(), Some(PeerError::Misbehaved));
    }
}

#[test]
fn own_records_reflected_and_records_of_another_session_are_refused() {
    let (mut dialer, mut acceptor) = confirmed(SuiteSet::BOTH);
    let mut wire = vec![];
    acceptor.outbound.opened(&mut wire).unwrap();
    assert_eq!(acceptor.inbound.next(&mut wire.clone()), Err(PeerError::BadTag), "reflected");
    let (mut other, _) = confirmed(SuiteSet::PORTABLE);
    assert_eq!(other.inbound.next(&mut wire.clone()), Err(PeerError::BadTag), "spliced");
    assert_eq!(dialer.inbound.next(&mut wire).unwrap().unwrap().0, Event::Opened);
}

/// Every record that is authentic but out of place ends the connection.
#[test]
fn records_out_of_place_are_refused() {
    type Send = fn(&mut Outbound, &mut Vec<u8>) -> Result<(), PeerError>;
    let confirm: Send = |o, w| o.confirm(w);
    let open: Send = |o, w| o.open(&open(), w);
    let opened: Send = |o, w| o.opened(w);
    let fin: Send = |o, w| o.fin(w);
    let reset: Send = |o, w| o.reset(ResetReason::PlainReset, w);
    let to_acceptor: [(&str, &[Send]); 8] = [
        ("opened by a dialer", &[opened]),
        ("fin before open", &[fin]),
        ("reset before anything", &[reset]),
        ("two confirms", &[confirm, confirm]),
        ("two opens", &[open, open]),
        ("confirm after open", &[open, confirm]),
        ("two fins", &[open, fin, fin]),
        ("anything after reset", &[open, reset, reset]),
    ];
    for (what, sends) in to_acceptor {
        let (mut dialer, unconfirmed) = shake(SuiteSet::BOTH);
        let Unconfirmed(mut acceptor) = unconfirmed;
        refuses_the_last(&mut dialer.outbound, &mut acceptor.inbound, (what, sends));
    }
    let to_dialer: [(&str, &[Send]); 5] = [
        ("confirm by an acceptor", &[confirm]),
        ("open by an acceptor", &[open]),
        ("fin before opened", &[fin]),
        ("two openeds", &[opened, opened]),
        ("opened after fin", &[opened, fin, opened]),
    ];
    for (what, sends) in to_dialer {
        let (mut dialer, mut acceptor) = confirmed(SuiteSet::BOTH);
        refuses_the_last(&mut acceptor.outbound, &mut dialer.inbound, (what, sends));
    }
}

type Case<'a> = (&'a str, &'a [fn(&mut Outbound, &mut Vec<u8>) -> Result<(), PeerError>]);

fn refuses_the_last(outbound: &mut Outbound, inbound: &mut Inbound, (what, sends): Case<'_>) {
    for (i, send) in sends.iter().enumerate() {
        let mut wire = vec![];
        send(outbound, &mut wire).unwrap();
        let result = inbound.next(&mut wire);
        if i + 1 == sends.len() {
            assert_eq!(result, Err(PeerError::Misbehaved), "{what}");
        } else {
            assert!(result.unwrap().is_some(), "{what}: record {i}");
        }
    }
}

#[path = "handshake_conversation_tests.rs"]
mod conversation;

#[path = "handshake_heartbeat_tests.rs"]
mod heartbeats;

#[path = "handshake_message1_tests.rs"]
mod message1;
