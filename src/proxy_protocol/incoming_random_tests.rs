//! A million random headers, whole, in pieces and damaged: the reader and a second implementation
//! of the specification agree on each.

use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};

use super::*;
use crate::proxy_protocol::outgoing::is_told;

/// Cases of the random tests.
const CASES: usize = 1_000_000;

/// Variable that requests another number of cases, with a new random seed.
const FUZZ: &str = "KNOCKPIPE_FUZZ_CASES";

/// Returns the number of cases, and their seed: the same in every run, unless others are requested.
/// The seed is printed, and can be given as `KNOCKPIPE_FUZZ_SEED`.
fn cases(seed: u64) -> (usize, StdRng) {
    let asked = |name| std::env::var(name).ok().map(|text| text.parse::<u64>().expect(name));
    let Some(cases) = asked(FUZZ) else { return (CASES, StdRng::seed_from_u64(seed)) };
    let seed = asked("KNOCKPIPE_FUZZ_SEED").unwrap_or_else(|| rand::rng().random());
    eprintln!("{cases} cases, KNOCKPIPE_FUZZ_SEED={seed}");
    (usize::try_from(cases).unwrap(), StdRng::seed_from_u64(seed))
}

fn random_ip(random: &mut StdRng) -> IpAddr {
    match random.random_range(0..4) {
        0 | 1 => Ipv4Addr::from_bits(random.random()).into(),
        2 => Ipv6Addr::from_bits(random.random()).into(),
        // Zeros in it, so that every spelling of :: occurs.
        _ => Ipv6Addr::from_bits(random.random::<u128>() & mask(random)).into(),
    }
}

fn mask(random: &mut StdRng) -> u128 {
    (0..8).fold(0, |mask, _| mask << 16 | if random.random() { 0xffff } else { 0 })
}

fn random_client(random: &mut StdRng) -> ClientAddr {
    if random.random_range(0..8) == 0 {
        return ClientAddr::Unix;
    }
    ClientAddr::from(SocketAddr::new(random_ip(random), random.random()))
}

/// A well-formed header, and its client.
fn random_header(random: &mut StdRng) -> (Vec<u8>, Sender) {
    let version = if random.random() { Version::V1 } else { Version::V2 };
    let client = random_client(random);
    let mut header = encode(version, client, random_client(random));
    if version == Version::V2 && random.random_range(0..4) == 0 {
        let tlvs: usize = random.random_range(0..64);
        let length = header.len() - V2_FIXED + tlvs;
        header[14..16].copy_from_slice(&u16::try_from(length).unwrap().to_be_bytes());
        header.extend((0..tlvs).map(|_| random.random::<u8>()));
    }
    let sender = match (client, version) {
        (ClientAddr::Ip(addr), _) if is_told(addr.ip()) => Sender::Client(addr),
        (_, Version::V1) => Sender::Nameless,
        (_, Version::V2) => Sender::Balancer,
    };
    (header, sender)
}

#[test]
fn random_headers_in_random_pieces_are_read() {
    let (cases, mut random) = cases(1);
    for _ in 0..cases / 10 {
        let (header, sender) = random_header(&mut random);
        let stream = [&header[..], b"\r\nPROXY "].concat();
        let want = Some((Ok(sender), header.len()));
        assert_eq!(at_once(&stream), want, "{}", header.escape_ascii());
        let pieces = as_asked(&stream, |ask| random.random_range(1..=ask));
        assert_eq!(pieces, want, "{}", header.escape_ascii());
    }
}

/// A header with a few bytes changed, left out, doubled or cut off, or noise.
fn random_garbage(random: &mut StdRng) -> Vec<u8> {
    const LETTERS: &[u8] = b"PROXY TCP46UNKNOWN0123456789abcdef:. +-\r\n\0\x11\x20\x21\xff";
    let letter = |random: &mut StdRng| LETTERS[random.random_range(0..LETTERS.len())];
    let mut bytes = match random.random_range(0..8) {
        0 => (0..random.random_range(0..140)).map(|_| random.random()).collect(),
        1 => {
            let start: &[u8] = if random.random() { V1_START } else { V2_START };
            let rest = random.random_range(0..140);
            start.iter().copied().chain((0..rest).map(|_| letter(random))).collect()
        }
        _ => random_header(random).0,
    };
    for _ in 0..random.random_range(0..4) {
        if bytes.is_empty() {
            break;
        }
        let at = random.random_range(0..bytes.len());
        match random.random_range(0..5) {
            0 => bytes[at] = letter(random),
            1 => bytes[at] ^= 1 << random.random_range(0..8),
            2 => drop(bytes.remove(at)),
            3 => bytes.insert(at, letter(random)),
            _ => bytes.truncate(at),
        }
    }
    bytes
}

#[test]
fn random_garbage_never_harms_and_is_judged_the_same_in_pieces() {
    let (cases, mut random) = cases(2);
    let mut good = 0;
    let mut bad = 0;
    for _ in 0..cases {
        let bytes = random_garbage(&mut random);
        match is_judged_right(&bytes, &mut random) {
            Some(true) => good += 1,
            Some(false) => bad += 1,
            None => {}
        }
    }
    assert!(good > cases / 10 && bad > cases / 10, "{good} good, {bad} bad");
}

/// No part of a header is a header, and a header with one changed bit is judged by the
/// specification.
#[test]
fn every_cut_and_every_flipped_bit_of_random_headers_is_judged_right() {
    let (cases, mut random) = cases(3);
    for _ in 0..cases / 1_000 {
        let (header, _) = random_header(&mut random);
        for len in 0..header.len() {
            assert_eq!(at_once(&header[..len]), None, "{}", header.escape_ascii());
        }
        for bit in 0..header.len() * 8 {
            let mut bytes = header.clone();
            bytes[bit / 8] ^= 1 << (bit % 8);
            is_judged_right(&bytes, &mut random);
        }
    }
}

/// Returns true when `bytes` begin with a header; panics when the specification disagrees, or when
/// the result depends on how they are split.
#[track_caller]
fn is_judged_right(bytes: &[u8], random: &mut StdRng) -> Option<bool> {
    let verdict = at_once(bytes);
    let pieces = as_asked(bytes, |ask| random.random_range(1..=ask));
    assert_eq!(pieces, verdict, "{}", bytes.escape_ascii());
    match verdict? {
        (Ok(sender), used) => {
            assert!(is_well_formed(&bytes[..used], sender), "{}", bytes.escape_ascii());
            Some(true)
        }
        (Err(_), used) => {
            assert!(used <= bytes.len().min(MAX_V2));
            Some(false)
        }
    }
}

/// The specification once more, in the other direction: from the addresses to the only bytes that
/// may announce them.
fn is_well_formed(header: &[u8], sender: Sender) -> bool {
    if header.starts_with(V2_START) {
        let block = &header[V2_FIXED..];
        let length = [header[14], header[15]] == u16::try_from(block.len()).unwrap().to_be_bytes();
        let is_source = |source: IpAddr| ip(sender) == Some(source.to_canonical());
        return length
            && match (header[12], header[13]) {
                (0x21, 0x11) => is_source(<[u8; 4]>::try_from(&block[..4]).unwrap().into()),
                (0x21, 0x21) => is_source(<[u8; 16]>::try_from(&block[..16]).unwrap().into()),
                (0x21, 0x00 | 0x31) => sender == Sender::Nameless,
                (0x20, _) => sender == Sender::Balancer,
                _ => false,
            };
    }
    let Some(line) = header.strip_suffix(b"\r\n") else { return false };
    if line == b"PROXY UNKNOWN" || line.starts_with(b"PROXY UNKNOWN ") {
        return sender == Sender::Nameless && header.len() <= MAX_V1;
    }
    let words: Vec<&str> = str::from_utf8(line).unwrap().split_whitespace().collect();
    let ips: Vec<IpAddr> = words[2..4].iter().map(|word| word.parse().unwrap()).collect();
    let ports: Vec<u16> = words[4..].iter().map(|word| word.parse().unwrap()).collect();
    let family = if ips[0].is_ipv4() { "TCP4" } else { "TCP6" };
    let [from, to] = [words[2], words[3]];
    let again = format!("PROXY {family} {from} {to} {} {}", ports[0], ports[1]);
    again.as_bytes() == line
        && ips[0].is_ipv4() == ips[1].is_ipv4()
        && sender == Sender::Client(SocketAddr::new(ips[0].to_canonical(), ports[0]))
}

fn ip(sender: Sender) -> Option<IpAddr> {
    match sender {
        Sender::Client(addr) => Some(addr.ip()),
        Sender::Balancer | Sender::Nameless => None,
    }
}
