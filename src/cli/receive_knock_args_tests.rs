//! Each flag about knocks, alone and beside the others.

use clap::Parser;

use super::*;
use crate::keys::Key;
use crate::secret::Secret;

#[derive(Debug, Parser)]
#[command(no_binary_name = true)]
struct Line {
    #[command(flatten)]
    knock: ReceiveKnockArgs,
}

fn options(line: &str, source: &str) -> Result<Option<ReceiverOptions>, String> {
    let line = Line::try_parse_from(line.split_whitespace()).map_err(|error| error.to_string())?;
    let keys = KeyRing::new(vec![Key::new(Secret::take(&mut [7; 32]))]).unwrap();
    let sources = [source.parse().unwrap()];
    let around = Surroundings { name: Some("redis"), sources: &sources, keys: &keys };
    let options = line.knock.options(&around).map_err(|error| error.to_string())?;
    Ok(options.map(|options| (*options).clone()))
}

fn received(line: &str) -> ReceiverOptions {
    options(line, "127.0.0.1:6380").unwrap().expect("knocks are received")
}

#[test]
fn knock_alone_is_enough() {
    assert_eq!(options("", "127.0.0.1:6380").unwrap(), None);
    let expected = ReceiverOptions {
        addresses: vec![],
        ttl: Duration::from_secs(60),
        max_ttl: Duration::from_secs(43_200),
        source: SourcePolicy::Allow,
        networks: WidestNetworks { v4: 32, v6: 128 },
        gates: vec!["redis".parse().unwrap()],
        keys: vec![],
    };
    assert_eq!(received("--knock"), expected);
    assert_eq!(received("--knock source"), expected, "as a file shows it");
}

#[test]
fn addresses_replace_those_of_the_sources() {
    let addresses = received("--knock 0.0.0.0:1 --knock=[::]:2").addresses;
    assert_eq!(addresses, ["0.0.0.0:1".parse().unwrap(), "[::]:2".parse().unwrap()]);
    assert_eq!(received("--knock 0.0.0.0:1").addresses.len(), 1);
    assert!(options("--knock 0.0.0.0:1", "/run/a.sock").is_ok());
}

#[test]
fn a_long_short_grant_makes_the_long_one_as_long() {
    let day = Duration::from_secs(86_400);
    let ReceiverOptions { ttl, max_ttl, .. } = received("--knock --knock-ttl 1d");
    assert_eq!((ttl, max_ttl), (day, day));
}

#[test]
fn mistakes_are_one_line_with_a_remedy() {
    for (line, source, expected) in [
        ("--knock-ttl 5s", "127.0.0.1:1", "add --knock"),
        ("--knock-key 00112233", "127.0.0.1:1", "add --knock"),
        ("--knock --knock 0.0.0.0:1", "127.0.0.1:1", "with and without an address"),
        ("--knock", "/run/a.sock", "write --knock HOST:PORT"),
        ("--knock --knock-ttl 2h --knock-max-ttl 1h", "127.0.0.1:1", "1h is shorter"),
        ("--knock --knock-key 00112233", "127.0.0.1:1", "none of the keys of -k"),
    ] {
        let error = options(line, source).unwrap_err();
        assert!(error.contains(expected) && !error.contains('\n'), "{line}: {error}");
    }
    for (line, expected) in [
        ("--knock /run/a.sock", "not an address for datagrams"),
        ("--knock systemd:a", "not an address for datagrams"),
        ("--knock true", "without quotes in a file"),
        ("--knock 6380", "6380"),
        ("--knock --knock-ttl 0s", "not a duration"),
        ("--knock --knock-networks 7/64", "from 8/32 to 32/128"),
        ("--knock --knock-networks 24", "from 8/32 to 32/128"),
        ("--knock --knock-networks +24/64", "from 8/32 to 32/128"),
        ("--knock --knock-key 0011223", "8 hex digits"),
        ("--knock --knock-source maybe", "maybe"),
    ] {
        let error = options(line, "127.0.0.1:1").unwrap_err();
        assert!(error.contains(expected), "{line}: {error}");
    }
}
