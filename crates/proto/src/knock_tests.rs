use super::*;
use crate::hello::{Extensions, Hello};
use crate::labels::PROLOGUE;

/// Offset of the extensions in a payload.
const EXTENSIONS: usize = 13;

fn secret(bytes: &[u8]) -> Secret<32> {
    Secret::filled_by(|out| out.copy_from_slice(bytes))
}

fn key(byte: u8) -> Key {
    Key::new(secret(&[byte; 32]))
}

pub(super) fn ring(bytes: &[u8]) -> KeyRing {
    KeyRing::new(bytes.iter().map(|byte| key(*byte)).collect()).unwrap()
}

fn bare() -> Knock {
    Knock { clock_ms: 1_800_000_000_123, gate: None, ttl_s: None, label: None, address: None }
}

fn full() -> Knock {
    Knock {
        gate: Some("office".parse().unwrap()),
        ttl_s: NonZeroU32::new(3600),
        label: Some("Ann's laptop".parse().unwrap()),
        address: Some("203.0.113.7/32".parse().unwrap()),
        ..bare()
    }
}

fn sealed(knock: &Knock) -> KnockMessage {
    knock.seal(&key(1), secret(&[2; 32]))
}

fn read(datagram: &[u8]) -> Result<Knock, PeerError> {
    read_knock(&ring(&[1]), datagram).map(|received| received.knock)
}

/// A knock with `bytes` as its extensions, read from its sealed form.
fn with(bytes: &[u8]) -> Result<Knock, PeerError> {
    let mut payload = bare().encode();
    payload[11..13].copy_from_slice(&u16::try_from(bytes.len()).unwrap().to_be_bytes());
    payload[EXTENSIONS..EXTENSIONS + bytes.len()].copy_from_slice(bytes);
    read(&seal_payload(&payload, labels::KNOCK_PROLOGUE))
}

pub(super) fn seal_payload(payload: &[u8; PAYLOAD_LEN], prologue: &[u8]) -> KnockMessage {
    let mut message = [0; MESSAGE_LEN];
    message[KEY_LEN..KEY_LEN + PAYLOAD_LEN].copy_from_slice(payload);
    let ephemeral = DhKey::new(&secret(&[2; 32]));
    handshake::write_message1(prologue, &key(1), &ephemeral, &mut message);
    message
}

#[test]
fn all_that_can_be_asked_for_goes_both_ways() {
    let longest = "x".repeat(64);
    let networks =
        ["203.0.113.7/32", "198.51.100.0/24", "0.0.0.0/0", "2001:db8::7/128", "2001:db8::/64"];
    let mut knocks = vec![bare(), full()];
    knocks.extend(networks.map(|net| Knock { address: Some(net.parse().unwrap()), ..full() }));
    knocks.push(Knock { ttl_s: NonZeroU32::new(u32::MAX), ..bare() });
    knocks.push(Knock {
        gate: Some(longest.parse().unwrap()),
        label: Some(longest.parse().unwrap()),
        address: Some("2001:db8::7/128".parse().unwrap()),
        ..full()
    });
    for knock in knocks {
        assert_eq!(read(&sealed(&knock)), Ok(knock));
    }
}

/// The vectors of `docs/PROTOCOL.md`, section 9, which were made without this code.
#[test]
fn knock_vectors_byte_for_byte() {
    let vectors: serde_json::Value =
        serde_json::from_str(include_str!("../vectors/knockpipe-1.json")).unwrap();
    let key = Key::new(secret(&unhex(&vectors["key"])));
    let ring = KeyRing::new(vec![key.clone()]).unwrap();
    let knocks = vectors["knocks"].as_array().unwrap();
    let malformed = knocks.iter().filter(|vector| vector["malformed"] == true).count();
    assert_eq!((knocks.len(), malformed), (6, 2));
    for vector in knocks {
        let datagram = unhex(&vector["datagram"]);
        let read = read_knock(&ring, &datagram).map(|received| received.knock);
        if vector["malformed"] == true {
            assert_eq!(read, Err(PeerError::Misbehaved), "{vector}");
            continue;
        }
        let knock = asked_for(vector);
        assert_eq!(read, Ok(knock.clone()), "{vector}");
        let payload = knock.encode();
        let end = EXTENSIONS + usize::from(payload[12]);
        if payload[EXTENSIONS..end] == unhex(&vector["extensions"])[..] {
            let sealed = knock.seal(&key, secret(&unhex(&vector["ephemeral"])));
            assert_eq!(sealed[..], datagram, "{vector}");
        } else {
            assert!(vector["about"].as_str().unwrap().contains("unknown"), "{vector}");
        }
    }
}

fn asked_for(vector: &serde_json::Value) -> Knock {
    let text = |name: &str| vector[name].as_str();
    let ttl_s = vector["ttl_s"].as_u64().map(|ttl_s| u32::try_from(ttl_s).unwrap());
    Knock {
        clock_ms: vector["clock_ms"].as_u64().unwrap(),
        gate: text("gate").map(|gate| gate.parse().unwrap()),
        ttl_s: ttl_s.and_then(NonZeroU32::new),
        label: text("label").map(|label| label.parse().unwrap()),
        address: text("address").map(|address| address.parse().unwrap()),
    }
}

fn unhex(text: &serde_json::Value) -> Vec<u8> {
    let text = text.as_str().unwrap();
    (0..text.len()).step_by(2).map(|i| u8::from_str_radix(&text[i..i + 2], 16).unwrap()).collect()
}

#[test]
fn an_address_is_sent_in_its_one_form() {
    let sent = |net: &str| Knock { address: Some(net.parse().unwrap()), ..bare() };
    for (given, meant) in [
        ("203.0.113.7/24", "203.0.113.0/24"),
        ("2001:db8::7/64", "2001:db8::/64"),
        ("::ffff:203.0.113.7/128", "203.0.113.7/32"),
        ("::ffff:203.0.113.7/120", "203.0.113.0/24"),
    ] {
        assert_eq!(read(&sealed(&sent(given))), Ok(sent(meant)), "{given}");
    }
}

#[test]
fn every_flipped_bit_is_refused() {
    let knock = sealed(&full());
    for bit in 0..8 * KNOCK_LEN {
        let mut bad = knock;
        bad[bit / 8] ^= 1 << (bit % 8);
        assert_eq!(read(&bad), Err(PeerError::BadTag), "bit {bit}");
    }
}

#[test]
fn a_knock_cut_at_any_byte_or_with_more_behind_it_is_refused() {
    let knock = sealed(&full());
    for len in 0..KNOCK_LEN {
        assert_eq!(read(&knock[..len]), Err(PeerError::BadLength), "{len} bytes");
    }
    assert_eq!(read(&[&knock[..], &[0]].concat()), Err(PeerError::BadLength));
}

#[test]
fn no_message_of_the_handshake_is_a_knock_and_no_knock_is_one() {
    let hello = Hello {
        suites: SuiteSet::BOTH,
        padding: Padding::NONE,
        clock_ms: 1,
        extensions: Extensions::default(),
    };
    let (_, message1) = handshake::Dialer::start(&key(1), hello, secret(&[2; 32]));
    assert_eq!(read(&message1), Err(PeerError::BadTag));
    let refused = handshake::read_message1(&ring(&[1]), PROLOGUE, &sealed(&full())).err();
    assert_eq!(refused, Some(PeerError::BadTag.into()));
    for prologue in [PROLOGUE, b"knockpipe/2 knock", b"knockpipe/1 knock ", b""] {
        assert_eq!(read(&seal_payload(&full().encode(), prologue)), Err(PeerError::BadTag));
    }
}

#[test]
fn every_key_of_a_ring_is_tried_and_told() {
    let knock = sealed(&full());
    for keys in [&[1, 2, 3][..], &[2, 1, 3], &[3, 2, 1], &[2, 3, 4, 5, 6, 7, 8, 1]] {
        let received = read_knock(&ring(keys), &knock).unwrap();
        assert_eq!((received.key, received.knock), (key(1).id(), full()));
    }
    assert_eq!(read_knock(&ring(&[2, 3]), &knock), Err(PeerError::BadTag));
}

#[test]
fn fingerprint_and_tag_are_the_end_of_the_datagram() {
    let knock = sealed(&full());
    let received = read_knock(&ring(&[1]), &knock).unwrap();
    assert_eq!(received.tag[..], knock[240..]);
    assert_eq!(received.fingerprint.to_be_bytes()[..], knock[240..248]);
    let other = full().seal(&key(1), secret(&[3; 32]));
    assert_ne!(read_knock(&ring(&[1]), &other).unwrap().tag, received.tag);
}

#[test]
fn well_formed_extensions_are_read() {
    let office = Knock { gate: Some("a.b_c-9".parse().unwrap()), ..bare() };
    assert_eq!(with(b"\x02\x07a.b_c-9"), Ok(office));
    let hour = Knock { ttl_s: NonZeroU32::new(3600), ..bare() };
    assert_eq!(with(&[3, 4, 0, 0, 0x0e, 0x10]), Ok(hour));
    let label = Knock { label: Some("é\u{202e}".parse().unwrap()), ..bare() };
    assert_eq!(with("\x04\x05é\u{202e}".as_bytes()), Ok(label));
    let v4 = Knock { address: Some("203.0.113.7/32".parse().unwrap()), ..bare() };
    assert_eq!(with(&[5, 6, 4, 32, 203, 0, 113, 7]), Ok(v4));
    let mut bytes = [0; 20];
    bytes[..8].copy_from_slice(&[5, 18, 6, 32, 0x20, 0x01, 0x0d, 0xb8]);
    let v6 = Knock { address: Some("2001:db8::/32".parse().unwrap()), ..bare() };
    assert_eq!(with(&bytes), Ok(v6));
}

/// Returns an extension of the type with these bytes.
pub(super) fn extension(kind: u8, bytes: &[u8]) -> Vec<u8> {
    [&[kind, u8::try_from(bytes.len()).unwrap()], bytes].concat()
}

fn ipv6(prefix: u8, ip: &str) -> Vec<u8> {
    let ip: std::net::Ipv6Addr = ip.parse().unwrap();
    [&[6, prefix][..], &ip.octets()].concat()
}

fn malformed() -> Vec<(&'static str, Vec<u8>)> {
    vec![
        ("gate without a name", extension(2, b"")),
        ("gate of 65 bytes", extension(2, &[b'a'; 65])),
        ("gate with a blank", extension(2, b"a b")),
        ("gate with a NUL", extension(2, b"a\0")),
        ("gate that is no ASCII", extension(2, "é".as_bytes())),
        ("gate that is no UTF-8", extension(2, &[0xff])),
        ("no ttl", extension(3, &[])),
        ("ttl of 3 bytes", extension(3, &[0, 0, 1])),
        ("ttl of 5 bytes", extension(3, &[0, 0, 0, 0, 1])),
        ("ttl of zero", extension(3, &[0; 4])),
        ("empty label", extension(4, b"")),
        ("label of 65 bytes", extension(4, &[b'a'; 65])),
        ("label with a line break", extension(4, b"a\nb")),
        ("label with an escape", extension(4, b"\x1b[2J")),
        ("label with a DEL", extension(4, b"\x7f")),
        ("label with a C1 control", extension(4, "\u{85}".as_bytes())),
        ("label that is no UTF-8", extension(4, &[b'a', 0xc3])),
        ("no address", extension(5, &[])),
        ("address without a prefix", extension(5, &[4])),
        ("IPv4 of 3 bytes", extension(5, &[4, 32, 203, 0, 113])),
        ("IPv4 of 5 bytes", extension(5, &[4, 32, 203, 0, 113, 7, 0])),
        ("IPv4 with the length of IPv6", extension(5, &[4; 18])),
        ("IPv6 with the length of IPv4", extension(5, &[6, 32, 203, 0, 113, 7])),
        ("IPv4 with a prefix of 33", extension(5, &[4, 33, 203, 0, 113, 7])),
        ("IPv6 with a prefix of 129", extension(5, &ipv6(129, "2001:db8::7"))),
        ("IPv4 with host bits", extension(5, &[4, 24, 203, 0, 113, 7])),
        ("IPv6 with host bits", extension(5, &ipv6(64, "2001:db8::7"))),
        ("IPv4-mapped address", extension(5, &ipv6(128, "::ffff:203.0.113.7"))),
        ("IPv4-mapped network", extension(5, &ipv6(120, "::ffff:203.0.113.0"))),
        ("family 0", extension(5, &[0, 32, 203, 0, 113, 7])),
        ("family 1", extension(5, &[1, 0])),
        ("cut in the header", vec![2]),
        ("cut in the bytes", vec![2, 3, b'a', b'b']),
        ("cut in an unknown one", vec![99, 3, 1, 2]),
    ]
}

#[test]
fn each_malformed_extension_refuses_the_knock() {
    for (what, bytes) in malformed() {
        assert_eq!(with(&bytes), Err(PeerError::Misbehaved), "{what}");
        // Also behind good ones, and behind one of its own type that counts.
        for before in [extension(99, b"unknown"), extension(2, b"a"), extension(3, &[1; 4])] {
            let bytes = [&before[..], &bytes].concat();
            assert_eq!(with(&bytes), Err(PeerError::Misbehaved), "{what}, behind another");
        }
    }
}

#[test]
fn the_form_of_the_payload_is_that_of_hello() {
    let with = |at: usize, bytes: &[u8]| {
        let mut payload = bare().encode();
        payload[at..at + bytes.len()].copy_from_slice(bytes);
        Knock::decode(&payload)
    };
    assert_eq!(with(0, &[0xff]), Ok(bare()), "suites mean nothing");
    assert_eq!(with(1, &[0x40, 0]), Ok(bare()), "a padding of 16384 means nothing");
    assert_eq!(with(1, &[0, 0]), Err(PeerError::Misbehaved), "a padding of 0");
    assert_eq!(with(1, &[0x40, 1]), Err(PeerError::Misbehaved), "a padding of 16385");
    assert_eq!(with(11, &[0, 196]), Err(PeerError::Misbehaved), "longer than the room");
    assert_eq!(with(11, &[0, 194]), Ok(bare()), "extensions of type 0");
    assert_eq!(with(PAYLOAD_LEN - 1, &[1]), Err(PeerError::Misbehaved), "no zeros behind");
}

#[test]
fn the_first_of_a_type_counts_and_unknown_ones_are_skipped() {
    let (one, two) = (extension(2, b"one"), extension(2, b"two"));
    let gate = |knock: Result<Knock, _>| knock.map(|knock| knock.gate.unwrap().to_string());
    assert_eq!(gate(with(&[&one[..], &two].concat())), Ok("one".into()));
    assert_eq!(gate(with(&[&two[..], &one].concat())), Ok("two".into()));
    let ttl = [extension(3, &[0, 0, 0, 1]), extension(3, &[0, 0, 0, 2])].concat();
    assert_eq!(with(&ttl).unwrap().ttl_s, NonZeroU32::new(1));
    let label = [extension(4, b"a"), extension(4, b"b")].concat();
    assert_eq!(with(&label).unwrap().label, "a".parse().ok());
    let nets = [extension(5, &[4, 32, 1, 2, 3, 4]), extension(5, &[4, 0, 0, 0, 0, 0])].concat();
    assert_eq!(with(&nets).unwrap().address, "1.2.3.4/32".parse().ok());
    // A heartbeat means nothing here, whatever its length.
    for kind in [0, 1, 6, 255] {
        let unknown = extension(kind, &[7; 3]);
        assert_eq!(with(&unknown), Ok(bare()), "type {kind}");
        assert_eq!(gate(with(&[&unknown[..], &one, &unknown].concat())), Ok("one".into()));
    }
}

#[test]
fn a_knock_without_a_gates_name_is_for_the_default_one() {
    let unnamed = Knock { gate: Some(GateName::default()), ..bare() };
    assert_eq!(read(&sealed(&unnamed)), Ok(bare()));
}
