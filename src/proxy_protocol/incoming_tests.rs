//! Headers whole and in pieces, well-formed and not.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use super::HeaderError as E;
use super::*;
use crate::addr::ClientAddr;
use crate::proxy_protocol::Version;
use crate::proxy_protocol::outgoing::encode;

#[path = "incoming_random_tests.rs"]
mod random;

/// Conclusion of a reader, and the number of bytes that are the header's.
type Verdict = Option<(Outcome, usize)>;

fn v2(command: u8, family: u8, block: &[u8]) -> Vec<u8> {
    let length = u16::try_from(block.len()).unwrap().to_be_bytes();
    [V2_START, &[command, family], &length, block].concat()
}

fn addr(text: &str) -> Sender {
    Sender::Client(text.parse().unwrap())
}

/// Everything in one push.
fn at_once(bytes: &[u8]) -> Verdict {
    let mut reader = HeaderReader::default();
    match reader.push(bytes) {
        Progress::Need(_) => None,
        Progress::Done { sender, used } => Some((Ok(sender), used)),
        Progress::Bad(error) => Some((Err(error), reader.held.len())),
    }
}

/// Reads like a connection: never more than the reader asks for, and in pieces of the lengths that
/// `piece` chooses.
fn as_asked(bytes: &[u8], mut piece: impl FnMut(usize) -> usize) -> Verdict {
    let mut reader = HeaderReader::default();
    let mut read = 0;
    let mut ask = HeaderReader::FIRST_READ;
    loop {
        assert!(ask > 0 && read + ask <= MAX_V2, "asks for {ask} bytes after {read}");
        let len = piece(ask).clamp(1, ask).min(bytes.len() - read);
        if len == 0 {
            return None;
        }
        match reader.push(&bytes[read..read + len]) {
            Progress::Need(more) => ask = more,
            Progress::Done { sender, used } => {
                assert_eq!(used, len, "bytes after the header were read");
                return Some((Ok(sender), read + used));
            }
            Progress::Bad(error) => return Some((Err(error), reader.held.len())),
        }
        read += len;
    }
}

/// Returns the verdict on `bytes`, which must not depend on how they are split.
#[track_caller]
fn read(bytes: &[u8]) -> Verdict {
    let verdict = at_once(bytes);
    assert_eq!(as_asked(bytes, |ask| ask), verdict, "as asked: {}", bytes.escape_ascii());
    assert_eq!(as_asked(bytes, |_| 1), verdict, "byte by byte: {}", bytes.escape_ascii());
    verdict
}

/// Checks that `header` is accepted, with anything after it, and that no part of it is.
#[track_caller]
fn accepted(header: &[u8], sender: Sender) {
    for behind in [&b""[..], b"\n", b"\r\n", b"PROXY UNKNOWN\r\n", &[0; 300]] {
        let verdict = read(&[header, behind].concat());
        assert_eq!(verdict, Some((Ok(sender), header.len())), "{}", header.escape_ascii());
    }
    for len in 0..header.len() {
        assert_eq!(read(&header[..len]), None, "{len} bytes of {}", header.escape_ascii());
    }
}

#[test]
fn the_specifications_lines_are_read() {
    let f = "ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff";
    let all_ones = addr(&format!("[{f}]:65535"));
    let cases = [
        // Section 2.1, its example and its longest lines.
        ("PROXY TCP4 192.168.0.1 192.168.0.11 56324 443\r\n", addr("192.168.0.1:56324")),
        (
            "PROXY TCP4 255.255.255.255 255.255.255.255 65535 65535\r\n",
            addr("255.255.255.255:65535"),
        ),
        (&format!("PROXY TCP6 {f} {f} 65535 65535\r\n"), all_ones),
        ("PROXY UNKNOWN\r\n", Sender::Nameless),
        (&format!("PROXY UNKNOWN {f} {f} 65535 65535\r\n"), Sender::Nameless),
        // Shortest lines, upper case, and anything after UNKNOWN.
        ("PROXY TCP4 1.1.1.1 2.2.2.2 0 0\r\n", addr("1.1.1.1:0")),
        ("PROXY TCP6 :: :: 0 0\r\n", addr("[::]:0")),
        ("PROXY TCP6 2001:DB8::AbCd 1:2:3:4:5:6:7:8 1 2\r\n", addr("[2001:db8::abcd]:1")),
        ("PROXY UNKNOWN  TCP4 \t x y  \r\n", Sender::Nameless),
        ("PROXY UNKNOWN \u{e9}\u{0}\r\n", Sender::Nameless),
        // One client has one form, whether the sender writes digits or dots.
        ("PROXY TCP6 ::ffff:c000:201 ::1 7 8\r\n", addr("192.0.2.1:7")),
        ("PROXY TCP6 ::ffff:192.0.2.1 ::1 7 8\r\n", addr("192.0.2.1:7")),
        ("PROXY TCP6 ::FFFF:127.0.0.1 ::ffff:10.0.0.1 7 8\r\n", addr("127.0.0.1:7")),
    ];
    for (line, sender) in cases {
        accepted(line.as_bytes(), sender);
    }
}

#[test]
fn the_specifications_binary_headers_are_read() {
    let v4 = [203, 0, 113, 7, 10, 0, 0, 1, 0xdc, 0x04, 0x01, 0xbb];
    let octets = |text: &str| text.parse::<Ipv6Addr>().unwrap().octets();
    let v6 = |source: &str| [&octets(source)[..], &octets("2001:db8::1"), &[0, 1, 0, 2]].concat();
    // A checksum, a server name and an excessive length: skipped without parsing.
    let tlvs = b"\x03\0\x04abcd\x02\0\x0bexample.org\x20\xff\xff";
    let cases = [
        (v2(0x21, 0x11, &v4), addr("203.0.113.7:56324")),
        (v2(0x21, 0x11, &[&v4[..], tlvs].concat()), addr("203.0.113.7:56324")),
        (v2(0x21, 0x11, &[&v4[..], &[0; MAX_V2 - 28]].concat()), addr("203.0.113.7:56324")),
        (v2(0x21, 0x21, &v6("2001:db8::7")), addr("[2001:db8::7]:1")),
        (v2(0x21, 0x21, &[&v6("2001:db8::7")[..], tlvs].concat()), addr("[2001:db8::7]:1")),
        (v2(0x21, 0x21, &v6("::ffff:192.0.2.1")), addr("192.0.2.1:1")),
        // UNSPEC and unix: a client without an announced address.
        (v2(0x21, 0x00, &[]), Sender::Nameless),
        (v2(0x21, 0x00, tlvs), Sender::Nameless),
        (v2(0x21, 0x31, &[0; 216]), Sender::Nameless),
        (v2(0x21, 0x31, &[b'/'; 250]), Sender::Nameless),
        // LOCAL: the balancer itself. Any family and block are skipped.
        (v2(0x20, 0x00, &[]), Sender::Balancer),
        (v2(0x20, 0x11, &[]), Sender::Balancer),
        (v2(0x20, 0x11, &v4), Sender::Balancer),
        (v2(0x20, 0x22, &[1, 2, 3]), Sender::Balancer),
        (v2(0x20, 0xff, &[0xff; 500]), Sender::Balancer),
    ];
    for (header, sender) in cases {
        accepted(&header, sender);
    }
}

/// Every kind of malformed line, and the byte at which it is refused.
#[test]
fn malformed_lines_are_refused() {
    let unknown = |len: usize| format!("PROXY UNKNOWN {}\r\n", "x".repeat(len - 16));
    accepted(unknown(MAX_V1).as_bytes(), Sender::Nameless);
    let a_line = "PROXY TCP4 1.1.1.1 2.2.2.2 80 443";
    let cases = [
        // No header at all.
        ("GET / HTTP/1.1\r\n", E::NotAHeader),
        ("\0", E::NotAHeader),
        ("proxy TCP4 1.1.1.1 2.2.2.2 80 443\r\n", E::NotAHeader),
        ("Proxy TCP4 1.1.1.1 2.2.2.2 80 443\r\n", E::NotAHeader),
        (" PROXY TCP4 1.1.1.1 2.2.2.2 80 443\r\n", E::NotAHeader),
        ("PROXYTCP4 1.1.1.1 2.2.2.2 80 443\r\n", E::NotAHeader),
        ("PROXY\tTCP4 1.1.1.1 2.2.2.2 80 443\r\n", E::NotAHeader),
        ("PROXY\r\n", E::NotAHeader),
        ("PING\r\n", E::NotAHeader),
        // The protocol.
        ("PROXY \r\n", E::Protocol),
        ("PROXY  TCP4 1.1.1.1 2.2.2.2 80 443\r\n", E::Protocol),
        ("PROXY tcp4 1.1.1.1 2.2.2.2 80 443\r\n", E::Protocol),
        ("PROXY UDP4 1.1.1.1 2.2.2.2 80 443\r\n", E::Protocol),
        ("PROXY TCP 1.1.1.1 2.2.2.2 80 443\r\n", E::Protocol),
        ("PROXY TCP46 1.1.1.1 2.2.2.2 80 443\r\n", E::Protocol),
        ("PROXY UNKNOWNX\r\n", E::Protocol),
        ("PROXY UNKNOWN\t1.1.1.1\r\n", E::Protocol),
        ("PROXY unknown\r\n", E::Protocol),
        ("PROXY UNKNOW\r\n", E::Protocol),
        // The words.
        ("PROXY TCP4\r\n", E::Words),
        ("PROXY TCP4 1.1.1.1\r\n", E::Words),
        ("PROXY TCP4 1.1.1.1 2.2.2.2 80\r\n", E::Words),
        ("PROXY TCP4 1.1.1.1 2.2.2.2 80 443 \r\n", E::Words),
        ("PROXY TCP4 1.1.1.1 2.2.2.2 80 443 x\r\n", E::Words),
        ("PROXY TCP4  1.1.1.1 2.2.2.2 80 443\r\n", E::Words),
        ("PROXY TCP4 1.1.1.1  2.2.2.2 80 443\r\n", E::Words),
        ("PROXY TCP4 1.1.1.1 2.2.2.2  80 443\r\n", E::Words),
        ("PROXY TCP4 1.1.1.1 2.2.2.2 80  443\r\n", E::Words),
        // The line's end.
        (&format!("{a_line}\n"), E::LineEnd),
        (&format!("{a_line} \n"), E::LineEnd),
        (&format!("{a_line}\rx"), E::LineEnd),
        (&format!("{a_line}\r\r\n"), E::LineEnd),
        (&format!("{a_line}\n\r\n"), E::LineEnd),
        ("PROXY TCP4\r1.1.1.1 2.2.2.2 80 443\r\n", E::LineEnd),
        ("PROXY UNKNOWN x\ry\r\n", E::LineEnd),
        ("PROXY UNKNOWN x\ny\r\n", E::LineEnd),
        ("PROXY \n", E::LineEnd),
        // The length.
        (&unknown(MAX_V1 + 1), E::TooLong),
        (&format!("PROXY {}", "x".repeat(200)), E::TooLong),
        (&format!("PROXY TCP4 {}", "1".repeat(200)), E::TooLong),
    ];
    for (line, error) in cases {
        assert_eq!(read(line.as_bytes()).map(|(it, _)| it), Some(Err(error)), "{line:?}");
    }
}

#[test]
fn malformed_addresses_and_ports_are_refused() {
    let refused = |line: String, error| {
        assert_eq!(read(line.as_bytes()).map(|(it, _)| it), Some(Err(error)), "{line:?}");
    };
    let ports = [
        "",
        "065",
        "00",
        "0x50",
        "+80",
        "-1",
        "-0",
        "65536",
        "655360",
        "99999999999",
        "8 0",
        "80.",
        "http",
        "\u{ff18}",
        "1e3",
        "80\t",
    ];
    for port in ports {
        let error = if port.contains(' ') { E::Words } else { E::Port };
        refused(format!("PROXY TCP4 1.1.1.1 2.2.2.2 {port} 443\r\n"), error);
        refused(format!("PROXY TCP4 1.1.1.1 2.2.2.2 80 {port}\r\n"), error);
        refused(format!("PROXY TCP6 ::1 ::2 {port} 443\r\n"), error);
    }
    let not_ipv4 = [
        "",
        "1.1.1",
        "1.1.1.1.1",
        "1.1.1.256",
        "01.1.1.1",
        "1.1.1.001",
        "1.1.1.+1",
        "1..1.1",
        "1",
        "0x1.1.1.1",
        "1.1.1.1:80",
        "16843009",
        "::1",
        "::ffff:1.1.1.1",
        "localhost",
        "1.1.1.1/32",
    ];
    for ip in not_ipv4 {
        refused(format!("PROXY TCP4 {ip} 2.2.2.2 80 443\r\n"), E::Address);
        refused(format!("PROXY TCP4 2.2.2.2 {ip} 80 443\r\n"), E::Address);
    }
    let not_ipv6 = [
        "",
        ":",
        ":::",
        "1::2::3",
        "1:2:3:4:5:6:7",
        "1:2:3:4:5:6:7:8:9",
        "12345::",
        "g::",
        "[::1]",
        "fe80::1%eth0",
        "::1/128",
        "1.1.1.1",
        "::ffff:1.1.1.256",
        "::ffff:01.1.1.1",
        "0::0::0",
        "::1:",
        "1:2:3:4:5:6:7::8",
    ];
    for ip in not_ipv6 {
        refused(format!("PROXY TCP6 {ip} ::2 80 443\r\n"), E::Address);
        refused(format!("PROXY TCP6 ::2 {ip} 80 443\r\n"), E::Address);
    }
}

#[test]
fn malformed_binary_headers_are_refused() {
    let refused = |bytes: &[u8], error| {
        let verdict = read(bytes).map(|(it, _)| it);
        assert_eq!(verdict, Some(Err(error)), "{}", bytes.escape_ascii());
    };
    let good = v2(0x21, 0x11, &[0; 12]);
    for at in 0..V2_START.len() {
        for bit in 0..8 {
            let mut bad = good.clone();
            bad[at] ^= 1 << bit;
            refused(&bad, E::NotAHeader);
        }
    }
    for byte in 0..=u8::MAX {
        match byte {
            0x20 | 0x21 => {}
            0x22..=0x2f => refused(&v2(byte, 0x11, &[0; 12]), E::Command),
            _ => refused(&v2(byte, 0x11, &[0; 12]), E::Version),
        }
        match byte {
            0x00 | 0x11 | 0x21 | 0x31 => {}
            0x12 | 0x22 | 0x32 => refused(&v2(0x21, byte, &[0; 216]), E::Datagram),
            _ => refused(&v2(0x21, byte, &[0; 216]), E::Family),
        }
    }
    for (family, block) in [(0x11, 12), (0x21, 36), (0x31, 216)] {
        for len in 0..block {
            refused(&v2(0x21, family, &vec![0; len]), E::TooShort);
        }
    }
    for command in [0x20, 0x21] {
        for len in [MAX_V2 - V2_FIXED + 1, usize::from(u16::MAX)] {
            refused(&v2(command, 0x00, &vec![0; len]), E::TooLong);
            refused(&v2(command, 0x00, &vec![0; len])[..V2_FIXED], E::TooLong);
        }
    }
}

#[test]
fn after_the_end_the_answer_stays() {
    let mut done = HeaderReader::default();
    let line = b"PROXY TCP4 192.0.2.1 192.0.2.2 7 8\r\n";
    let sender = addr("192.0.2.1:7");
    assert_eq!(done.push(line), Progress::Done { sender, used: line.len() });
    assert_eq!(done.push(line), Progress::Done { sender, used: 0 });
    let mut bad = HeaderReader::default();
    assert_eq!(bad.push(b"X"), Progress::Bad(E::NotAHeader));
    assert_eq!(bad.push(line), Progress::Bad(E::NotAHeader));
    assert_eq!(HeaderReader::default().push(b""), Progress::Need(HeaderReader::FIRST_READ));
}

#[test]
fn few_reads_are_enough() {
    let reads = |header: &[u8]| {
        let mut count = 0;
        let count_and_take_all = |ask| {
            count += 1;
            ask
        };
        assert!(as_asked(header, count_and_take_all).is_some());
        count
    };
    let ip = |text: &str| ClientAddr::from(text.parse::<SocketAddr>().unwrap());
    let v4 = (ip("203.0.113.100:56324"), ip("192.168.100.11:44300"));
    let v6 = (ip("[2001:db8:1:2:3:4:5:6]:56324"), ip("[2001:db8:1:2:3:4:5:7]:44300"));
    assert!(reads(&encode(Version::V1, v4.0, v4.1)) <= 12);
    assert!(reads(&encode(Version::V1, v6.0, v6.1)) <= 16);
    assert_eq!(reads(&encode(Version::V2, v4.0, v4.1)), 3);
    assert_eq!(reads(&encode(Version::V2, v6.0, v6.1)), 3);
}

#[test]
fn every_error_is_one_line_with_a_remedy() {
    let all = [
        E::NotAHeader,
        E::TooLong,
        E::LineEnd,
        E::Protocol,
        E::Words,
        E::Port,
        E::Address,
        E::Version,
        E::Command,
        E::Family,
        E::Datagram,
        E::TooShort,
    ];
    for error in all {
        let message = error.to_string();
        assert!(message.contains("; ") && !message.contains('\n'), "{message}");
    }
}
