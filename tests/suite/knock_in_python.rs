//! A sender of knocks that was written in Python from docs/PROTOCOL.md alone, against the reader:
//! the document suffices.

use std::net::UdpSocket;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use knockpipe::keys::{KeyRing, file};
use knockpipe::proto::PeerError;
use knockpipe::proto::knock::{Knock, ReceivedKnock, read_knock};
use testkit::keygen;

/// Runs the sender and returns its standard output.
#[track_caller]
fn sender(key: &Path, arguments: &[&str]) -> String {
    let mut python = Command::new("python3");
    python.args(["-B", "tests/suite/knock_sender.py"]).arg(key).args(arguments);
    let output = python.output().expect("python3 is there");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

/// Returns the datagram that the sender makes.
#[track_caller]
fn made(key: &Path, arguments: &[&str]) -> Vec<u8> {
    let hex = sender(key, arguments);
    let hex = hex.trim_end();
    (0..hex.len()).step_by(2).map(|at| u8::from_str_radix(&hex[at..at + 2], 16).unwrap()).collect()
}

fn ring(key: &Path) -> KeyRing {
    KeyRing::new(vec![file::parse(&std::fs::read(key).unwrap()).unwrap()]).unwrap()
}

fn read(key: &Path, datagram: &[u8]) -> Result<ReceivedKnock, PeerError> {
    read_knock(&ring(key), datagram)
}

#[test]
fn a_sender_written_from_the_document_is_understood() {
    let dir = tempfile::tempdir().unwrap();
    let key = keygen(dir.path(), "key");
    let bare =
        Knock { clock_ms: 1_700_000_000_000, gate: None, ttl_s: None, label: None, address: None };
    let clock = ["--clock", "1700000000000"];
    let with = |more: &[&str]| read(&key, &made(&key, &[&clock, more].concat()));
    assert_eq!(with(&[]).unwrap().knock, bare);

    let all = ["--gate", "office", "--ttl", "3600", "--label", "Ann's Büro"];
    for address in ["203.0.113.7/32", "198.51.100.0/24", "2001:db8::7/128", "2001:db8:0:1::/64"] {
        let received = with(&[&all[..], &["--address", address]].concat()).unwrap();
        let expected = Knock {
            gate: Some("office".parse().unwrap()),
            ttl_s: 3600.try_into().ok(),
            label: Some("Ann's Büro".parse().unwrap()),
            address: Some(address.parse().unwrap()),
            ..bare.clone()
        };
        assert_eq!((received.knock, received.key), (expected, ring(&key).first().id()));
    }

    // A raw key file is another key.
    let raw = dir.path().join("raw");
    std::fs::write(&raw, [7; 100]).unwrap();
    let datagram = made(&raw, &clock);
    assert_eq!(read(&raw, &datagram).unwrap().knock, bare);
    assert_eq!(read(&key, &datagram), Err(PeerError::BadTag));
    // Bits behind the prefix: authentic, and malformed.
    assert_eq!(with(&["--extensions", "05060418cb007107"]), Err(PeerError::Misbehaved));
}

#[test]
fn a_sender_written_from_the_document_reaches_a_udp_port() {
    let dir = tempfile::tempdir().unwrap();
    let key = keygen(dir.path(), "key");
    let receiver = UdpSocket::bind("127.0.0.1:0").unwrap();
    receiver.set_read_timeout(Some(Duration::from_secs(30))).unwrap();
    let port = receiver.local_addr().unwrap().port().to_string();
    let mut seen = vec![];
    for _ in 0..2 {
        sender(&key, &["127.0.0.1", &port, "--ttl", "60"]);
        let mut datagram = [0; 2048];
        let len = receiver.recv(&mut datagram).unwrap();
        let received = read(&key, &datagram[..len]).unwrap();
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
        let clock = Duration::from_millis(received.knock.clock_ms);
        assert!(now.abs_diff(clock) < Duration::from_secs(60), "{clock:?}");
        assert_eq!(received.knock.ttl_s, 60.try_into().ok());
        seen.push(received.tag);
    }
    assert_ne!(seen[0], seen[1], "a fresh one each time");
}
