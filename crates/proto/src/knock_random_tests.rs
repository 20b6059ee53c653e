//! A million random payloads, well formed and damaged: the reader and a second implementation of
//! `docs/PROTOCOL.md`, section 9, agree on each. And datagrams of noise.

use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};

use super::tests::{extension, ring, seal_payload};
use super::*;

/// Cases of the random tests.
const CASES: usize = 1_000_000;

/// Returns the number of cases, and their seed: the same in every run, unless others are requested
/// with `KNOCKPIPE_FUZZ_CASES`. The seed is printed, and can be given as `KNOCKPIPE_FUZZ_SEED`.
#[expect(clippy::disallowed_methods, reason = "a test may ask what is requested of it")]
fn cases(seed: u64) -> (usize, StdRng) {
    let asked = |name| std::env::var(name).ok().map(|text| text.parse::<u64>().expect(name));
    let Some(cases) = asked("KNOCKPIPE_FUZZ_CASES") else {
        return (CASES, StdRng::seed_from_u64(seed));
    };
    let seed = asked("KNOCKPIPE_FUZZ_SEED").unwrap_or_else(|| rand::rng().random());
    eprintln!("{cases} cases, KNOCKPIPE_FUZZ_SEED={seed}");
    (usize::try_from(cases).unwrap(), StdRng::seed_from_u64(seed))
}

fn random_name(random: &mut StdRng) -> String {
    const LETTERS: &[u8] = b"abcXYZ019._-";
    let len = if random.random_range(0..8) == 0 { 64 } else { random.random_range(1..12) };
    (0..len).map(|_| char::from(LETTERS[random.random_range(0..LETTERS.len())])).collect()
}

fn random_label(random: &mut StdRng) -> String {
    const LETTERS: [char; 8] = ['a', ' ', '\'', 'é', '世', '😀', '\u{202e}', '\u{a0}'];
    let len = random.random_range(1..12);
    (0..len).map(|_| LETTERS[random.random_range(0..LETTERS.len())]).collect()
}

fn random_address(random: &mut StdRng) -> IpNet {
    let ip: IpAddr = match random.random_range(0..5) {
        0 | 1 => std::net::Ipv4Addr::from_bits(random.random()).into(),
        2 | 3 => std::net::Ipv6Addr::from_bits(random.random()).into(),
        // IPv4-mapped, or nearly.
        _ => std::net::Ipv6Addr::from_bits(0xffff_0000_0000 | u128::from(random.random::<u32>()))
            .into(),
    };
    let most = if ip.is_ipv4() { 32 } else { 128 };
    let prefix = if random.random() { most } else { random.random_range(0..=most) };
    IpNet::new(ip, prefix).unwrap()
}

fn random_knock(random: &mut StdRng) -> Knock {
    let mut has = || random.random_range(0..4) != 0;
    let has = [has(), has(), has(), has()];
    Knock {
        clock_ms: random.random(),
        gate: has[0].then(|| random_name(random).parse().unwrap()),
        ttl_s: has[1].then(|| NonZeroU32::new(random.random()).unwrap_or(NonZeroU32::MIN)),
        label: has[2].then(|| random_label(random).parse().unwrap()),
        address: has[3].then(|| random_address(random)),
    }
}

#[test]
fn random_knocks_go_both_ways() {
    let (cases, mut random) = cases(11);
    for _ in 0..cases / 4 {
        let knock = random_knock(&mut random);
        let read = Knock::decode(&knock.encode());
        assert_eq!(read, Ok(Knock { address: knock.address.map(canonical), ..knock }));
    }
}

/// A payload with extensions that are known, unknown, or nearly right, and now and then a few bytes
/// that are changed.
fn random_payload(random: &mut StdRng) -> [u8; PAYLOAD_LEN] {
    if random.random_range(0..16) == 0 {
        return std::array::from_fn(|_| random.random());
    }
    let mut payload = random_knock(random).encode();
    if random.random() {
        let mut extensions = vec![];
        for _ in 0..random.random_range(0..4) {
            extensions.extend(random_extension(random));
        }
        extensions.truncate(195);
        payload[11..13].copy_from_slice(&u16::try_from(extensions.len()).unwrap().to_be_bytes());
        payload[13..].fill(0);
        payload[13..13 + extensions.len()].copy_from_slice(&extensions);
    }
    // The first bytes are those with a meaning.
    for _ in 0..random.random_range(0..3_usize).saturating_sub(1) {
        let end = if random.random() { 40 } else { PAYLOAD_LEN };
        payload[random.random_range(0..end)] = random.random_range(0..=40);
    }
    payload
}

fn random_extension(random: &mut StdRng) -> Vec<u8> {
    let kind = random.random_range(0..8);
    let bytes = match random.random_range(0..8) {
        0 => random_name(random).into_bytes(),
        1 => random_label(random).into_bytes(),
        2 => random.random_range(0..3_u32).to_be_bytes().into(),
        3 => {
            let (prefix, ip) = (random.random_range(20..34), random.random::<[u8; 4]>());
            [&[4, prefix][..], &ip.map(|byte| byte & 0xf0)].concat()
        }
        4 => [&[6, 128][..], &random.random::<[u8; 16]>()].concat(),
        5 => [&[6, random.random_range(60..130)][..], &[0; 10], &[0xff; 2], &[1; 4]].concat(),
        _ => (0..random.random_range(0..20)).map(|_| random.random()).collect(),
    };
    extension(kind, &bytes)
}

#[test]
fn random_payloads_are_judged_as_the_document_has_it() {
    let (cases, mut random) = cases(12);
    let (mut good, mut bad) = (0, 0);
    for _ in 0..cases {
        let payload = random_payload(&mut random);
        let read = Knock::decode(&payload);
        assert_eq!(read.clone().ok(), by_the_document(&payload), "{payload:02x?}");
        match read {
            Ok(knock) => {
                assert_eq!(Knock::decode(&knock.encode()), Ok(knock), "{payload:02x?}");
                good += 1;
            }
            Err(error) => {
                assert_eq!(error, PeerError::Misbehaved);
                bad += 1;
            }
        }
    }
    assert!(good > cases / 10 && bad > cases / 10, "{good} good, {bad} bad");
}

/// Section 9.2 once more, with offsets and without the types of the reader.
fn by_the_document(payload: &[u8; PAYLOAD_LEN]) -> Option<Knock> {
    let number = |at: usize, len: usize| {
        payload[at..at + len].iter().fold(0_u64, |number, byte| number << 8 | u64::from(*byte))
    };
    let end = 13 + usize::try_from(number(11, 2)).unwrap();
    if !(1..=16384).contains(&number(1, 2)) || end > 208 {
        return None;
    }
    let mut knock =
        Knock { clock_ms: number(3, 8), gate: None, ttl_s: None, label: None, address: None };
    let mut at = 13;
    while at < end {
        if at + 2 > end || at + 2 + usize::from(payload[at + 1]) > end {
            return None;
        }
        let len = usize::from(payload[at + 1]);
        let content = &payload[at + 2..at + 2 + len];
        match payload[at] {
            2 => {
                let name: String = content.iter().map(|byte| char::from(*byte)).collect();
                let is_name = |c: char| c.is_ascii_alphanumeric() || ".-_".contains(c);
                if !(1..=64).contains(&len) || !name.chars().all(is_name) {
                    return None;
                }
                knock.gate = knock.gate.or_else(|| name.parse().ok());
            }
            3 if len == 4 && content != [0; 4] => {
                let ttl = u32::try_from(number(at + 2, 4)).unwrap();
                knock.ttl_s = knock.ttl_s.or_else(|| NonZeroU32::new(ttl));
            }
            4 => {
                let text = String::from_utf8(content.to_vec()).ok()?;
                let is_control = |c: char| matches!(u32::from(c), 0..=0x1f | 0x7f..=0x9f);
                if !(1..=64).contains(&len) || text.chars().any(is_control) {
                    return None;
                }
                knock.label = knock.label.or_else(|| text.parse().ok());
            }
            5 => {
                let address = address_by_the_document(content)?;
                knock.address = knock.address.or(Some(address));
            }
            3 => return None,
            _ => {}
        }
        at += 2 + len;
    }
    payload[end..].iter().all(|byte| *byte == 0).then_some(knock)
}

fn address_by_the_document(content: &[u8]) -> Option<IpNet> {
    let bits = match (content.first()?, content.len()) {
        (4, 6) => 32,
        (6, 18) => 128,
        _ => return None,
    };
    let prefix = usize::from(content[1]);
    let bit = |bit: usize| content[2 + bit / 8] >> (7 - bit % 8) & 1;
    if prefix > bits || (prefix..bits).any(|at| bit(at) == 1) {
        return None;
    }
    if bits == 128 && content[2..14] == [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff] {
        return None;
    }
    let ip = match bits {
        32 => IpAddr::from(<[u8; 4]>::try_from(&content[2..]).unwrap()),
        _ => IpAddr::from(<[u8; 16]>::try_from(&content[2..]).unwrap()),
    };
    Some(IpNet::new(ip, content[1]).unwrap())
}

#[test]
fn noise_of_any_length_and_damaged_knocks_are_refused() {
    let (cases, mut random) = cases(13);
    let ring = ring(&[1, 9]);
    for _ in 0..cases / 500 {
        let len = if random.random() { KNOCK_LEN } else { random.random_range(0..1500) };
        let noise: Vec<u8> = (0..len).map(|_| random.random()).collect();
        let error = if len == KNOCK_LEN { PeerError::BadTag } else { PeerError::BadLength };
        assert_eq!(read_knock(&ring, &noise), Err(error));
        let payload = random_payload(&mut random);
        let knock = seal_payload(&payload, labels::KNOCK_PROLOGUE);
        let read = read_knock(&ring, &knock).map(|received| received.knock);
        assert_eq!(read, Knock::decode(&payload));
        let mut damaged = knock;
        let (from, to) = (random.random_range(0..KNOCK_LEN), random.random_range(0..KNOCK_LEN));
        damaged.swap(from, to);
        if damaged != knock {
            assert_eq!(read_knock(&ring, &damaged), Err(PeerError::BadTag));
        }
    }
}
