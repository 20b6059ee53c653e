//! Writes the header that tells a target the address of its client.
//!
//! A header holds two addresses of one family; the client's decides:
//!
//! | client | local | v1 | v2 |
//! |---|---|---|---|
//! | IPv4 | IPv4 | TCP4 | TCP over IPv4 |
//! | IPv6 | IPv6 | TCP6 | TCP over IPv6 |
//! | one IPv4, one IPv6 | | TCP6, the IPv4 one mapped | TCP over IPv6, the same |
//! | IP | unix | the client's family, local is all zeros | the same |
//! | unix, unknown | any | UNKNOWN | LOCAL |
//! | loopback, unspecified, multicast, broadcast | any | UNKNOWN | LOCAL |
//!
//! The last two rows make the target use the connection's own address. An address of the last row
//! has its own meaning on each host: the far end's 127.0.0.1 is another machine than the target's,
//! which may trust its own (MariaDB: `user@localhost`), and no client connects from the others.
//! Link-local addresses (169.254.0.0/16, fe80::/10) belong to real clients and get no such trust.
//! The family AF_UNIX of version 2 would say more, but a target may take it for a client on its own
//! machine and trust it (MariaDB: `user@localhost`), and ours was on another; and LOCAL is what
//! every receiver must accept, unlike UNSPEC.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use proxy_header::{ProxiedAddress, ProxyHeader};

use super::Version;
use crate::addr::ClientAddr;

/// Returns the header for a connection of `client` to `local`. It must be the first thing that the
/// target gets, in one write.
pub fn encode(version: Version, client: ClientAddr, local: ClientAddr) -> Vec<u8> {
    let addresses = one_family(client, local);
    match version {
        Version::V1 => line(addresses).into_bytes(),
        Version::V2 => binary(addresses),
    }
}

/// Returns both addresses in one family; `None` when the client has none.
fn one_family(client: ClientAddr, local: ClientAddr) -> Option<(SocketAddr, SocketAddr)> {
    let ClientAddr::Ip(client) = client else { return None };
    if !is_told(client.ip()) {
        return None;
    }
    let local = match (local, client) {
        (ClientAddr::Ip(local), _) => local,
        (_, SocketAddr::V4(_)) => SocketAddr::from((Ipv4Addr::UNSPECIFIED, 0)),
        (_, SocketAddr::V6(_)) => SocketAddr::from((Ipv6Addr::UNSPECIFIED, 0)),
    };
    if client.is_ipv4() == local.is_ipv4() {
        Some((client, local))
    } else {
        Some((as_ipv6(client), as_ipv6(local)))
    }
}

/// Returns true when the address means the same client to a target as to the far end.
pub(super) fn is_told(ip: IpAddr) -> bool {
    match ip.to_canonical() {
        IpAddr::V4(ip) => {
            let is_this_network = ip.octets()[0] == 0;
            !(ip.is_loopback() || is_this_network || ip.is_multicast() || ip.is_broadcast())
        }
        IpAddr::V6(ip) => {
            // Besides :: and ::1 also addresses that embed IPv4 without a prefix (::127.0.0.1): no
            // host uses them any more, and MariaDB treats them as the IPv4 address.
            let embeds_ipv4 = ip.segments()[..6] == [0; 6];
            !(embeds_ipv4 || ip.is_multicast())
        }
    }
}

fn as_ipv6(addr: SocketAddr) -> SocketAddr {
    match addr.ip() {
        IpAddr::V4(ip) => SocketAddr::from((ip.to_ipv6_mapped(), addr.port())),
        IpAddr::V6(_) => addr,
    }
}

fn line(addresses: Option<(SocketAddr, SocketAddr)>) -> String {
    let Some((client, local)) = addresses else { return "PROXY UNKNOWN\r\n".to_owned() };
    let family = if client.is_ipv4() { "TCP4" } else { "TCP6" };
    let from = text(client.ip());
    let to = text(local.ip());
    format!("PROXY {family} {from} {to} {} {}\r\n", client.port(), local.port())
}

/// Formats an address for version 1, which permits IPv6 in hexadecimal digits only, while a mapped
/// address is usually written with dots.
fn text(ip: IpAddr) -> String {
    match ip {
        IpAddr::V6(ip) if ip.to_ipv4_mapped().is_some() => {
            let [.., high, low] = ip.segments();
            format!("::ffff:{high:x}:{low:x}")
        }
        ip => ip.to_string(),
    }
}

fn binary(addresses: Option<(SocketAddr, SocketAddr)>) -> Vec<u8> {
    let header = match addresses {
        Some((client, local)) => ProxyHeader::with_address(ProxiedAddress::stream(client, local)),
        None => ProxyHeader::with_local(),
    };
    let mut bytes = Vec::new();
    header.encode_v2(&mut bytes).expect("the addresses are of one family and nothing follows them");
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::proxy_protocol::incoming::{HeaderReader, MAX_V1, Progress, Sender};

    const SIGNATURE: [u8; 12] = *b"\x0D\x0A\x0D\x0A\x00\x0D\x0A\x51\x55\x49\x54\x0A";

    fn addr(text: &str) -> ClientAddr {
        text.parse::<SocketAddr>().map_or(ClientAddr::Unix, ClientAddr::from)
    }

    fn v2(rest: &[u8]) -> Vec<u8> {
        [&SIGNATURE, rest].concat()
    }

    #[test]
    fn the_line_is_the_specifications() {
        // The first line is from section 2.1 of the specification, and so is the length of the
        // longest.
        let ffff = "[ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff]:65535";
        let f = "ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff";
        let e = "efff:ffff:ffff:ffff:ffff:ffff:ffff:ffff";
        let efff = format!("[{e}]:65535");
        let efff = efff.as_str();
        let longest = format!("PROXY TCP6 {e} {f} 65535 65535\r\n");
        assert_eq!(longest.len(), 104);
        let cases = [
            (
                "192.168.0.1:56324",
                "192.168.0.11:443",
                "PROXY TCP4 192.168.0.1 192.168.0.11 56324 443\r\n",
            ),
            (
                "254.255.255.255:65535",
                "255.255.255.255:65535",
                "PROXY TCP4 254.255.255.255 255.255.255.255 65535 65535\r\n",
            ),
            (efff, ffff, &longest),
            ("[2001:db8::7]:1", "[::1]:0", "PROXY TCP6 2001:db8::7 ::1 1 0\r\n"),
            ("192.0.2.1:7", "[::1]:8", "PROXY TCP6 ::ffff:c000:201 ::1 7 8\r\n"),
            ("[2001:db8::7]:7", "10.0.0.1:8", "PROXY TCP6 2001:db8::7 ::ffff:a00:1 7 8\r\n"),
            ("192.0.2.1:7", "unix", "PROXY TCP4 192.0.2.1 0.0.0.0 7 0\r\n"),
            ("[2001:db8::7]:7", "unix", "PROXY TCP6 2001:db8::7 :: 7 0\r\n"),
            ("unix", "192.0.2.1:7", "PROXY UNKNOWN\r\n"),
            ("unix", "unix", "PROXY UNKNOWN\r\n"),
        ];
        for (client, local, want) in cases {
            let got = encode(Version::V1, addr(client), addr(local));
            assert_eq!(String::from_utf8(got).unwrap(), want, "{client} {local}");
        }
    }

    #[test]
    fn the_binary_header_is_the_specifications() {
        let v4 = [192, 168, 0, 1, 192, 168, 0, 11, 0xdc, 0x04, 0x01, 0xbb];
        let v6 = |source: &str, destination: &str, ports: [u8; 4]| {
            let octets = |text: &str| text.parse::<Ipv6Addr>().unwrap().octets();
            [&octets(source)[..], &octets(destination), &ports].concat()
        };
        let cases = [
            ("192.168.0.1:56324", "192.168.0.11:443", 0x21, 0x11, v4.to_vec()),
            (
                "[2001:db8::7]:1",
                "[::1]:65535",
                0x21,
                0x21,
                v6("2001:db8::7", "::1", [0, 1, 0xff, 0xff]),
            ),
            ("192.0.2.1:7", "[::1]:8", 0x21, 0x21, v6("::ffff:192.0.2.1", "::1", [0, 7, 0, 8])),
            ("192.0.2.1:7", "unix", 0x21, 0x11, vec![192, 0, 2, 1, 0, 0, 0, 0, 0, 7, 0, 0]),
            ("unix", "192.0.2.1:7", 0x20, 0x00, vec![]),
        ];
        for (client, local, command, family, block) in cases {
            let length = u8::try_from(block.len()).unwrap();
            let want = v2(&[&[command, family, 0, length], &block[..]].concat());
            assert_eq!(encode(Version::V2, addr(client), addr(local)), want, "{client} {local}");
        }
    }

    /// "Loopback and unspecified addresses are never announced", in any spelling.
    #[test]
    fn addresses_that_mean_another_host_to_the_target_are_never_told() {
        let never = "127.0.0.1 127.0.0.2 127.255.255.255 ::1 ::ffff:127.0.0.1 ::ffff:127.9.9.9 \
             ::127.0.0.1 0.0.0.0 0.0.0.1 0.255.255.255 :: ::ffff:0.0.0.0 ::2 ::203.0.113.7 \
             224.0.0.1 239.255.255.255 255.255.255.255 ::ffff:255.255.255.255 ff02::1 ff0e::7";
        let always = "126.255.255.255 128.0.0.0 1.0.0.1 10.0.0.1 192.168.1.1 169.254.1.1 \
             203.0.113.7 240.0.0.1 fe80::1 fd00::7 2001:db8::7 ::1:0:0:1 ::ffff:203.0.113.7";
        for ip in never.split_whitespace() {
            // Also in a form that `ClientAddr::from` never produces.
            let client = ClientAddr::Ip(SocketAddr::new(ip.parse().unwrap(), 7));
            for local in ["127.0.0.1:3306", "[::1]:3306", "unix"].map(addr) {
                assert_eq!(encode(Version::V1, client, local), b"PROXY UNKNOWN\r\n", "{ip}");
                assert_eq!(encode(Version::V2, client, local), v2(&[0x20, 0, 0, 0]), "{ip}");
            }
        }
        for ip in always.split_whitespace() {
            let client = ClientAddr::from(SocketAddr::new(ip.parse().unwrap(), 7));
            let line = encode(Version::V1, client, addr("127.0.0.1:3306"));
            assert!(line.starts_with(b"PROXY TCP"), "{ip}");
        }
    }

    #[test]
    fn what_is_written_is_read_back() {
        let all = ["203.0.113.7:0", "10.0.0.1:65535", "[2001:db8::7]:443", "[::1]:1", "unix"];
        for version in [Version::V1, Version::V2] {
            for client in all.map(addr) {
                for local in all.map(addr) {
                    let bytes = encode(version, client, local);
                    assert!(bytes.len() <= MAX_V1);
                    let sender = match (client, version) {
                        (ClientAddr::Ip(addr), _) if is_told(addr.ip()) => Sender::Client(addr),
                        (_, Version::V1) => Sender::Nameless,
                        (_, Version::V2) => Sender::Balancer,
                    };
                    let want = Progress::Done { sender, used: bytes.len() };
                    let longer = [&bytes[..], b"PROXY"].concat();
                    assert_eq!(HeaderReader::default().push(&longer), want, "{bytes:?}");
                }
            }
        }
    }
}
