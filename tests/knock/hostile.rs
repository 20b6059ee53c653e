//! Datagrams that must open nothing, and get no answer: not one packet leaves the machine.

use testkit::hand::Call;
use testkit::knock::Knocking;
use testkit::nft::Sent;
use testkit::{End, eventually, keygen};

use crate::world::{OTHER, PEER, PEER6, World, refused, wait_granted};

/// A name for the case, the bytes, and the reason in the log; none for a stranger.
struct Case {
    name: String,
    bytes: Vec<u8>,
    reason: Option<&'static str>,
}

fn case(name: &str, bytes: impl AsRef<[u8]>, reason: Option<&'static str>) -> Case {
    Case { name: name.to_owned(), bytes: bytes.as_ref().to_vec(), reason }
}

fn cases(world: &World) -> Vec<Case> {
    let knocking = world.knocking();
    let right = knocking.message();
    let mut cases: Vec<Case> = (0..right.len())
        .map(|place| {
            let mut bytes = right;
            bytes[place] ^= 1 << (place % 8);
            case(&format!("a bit flipped in byte {place}"), bytes, None)
        })
        .collect();
    let other = Knocking::new(&keygen(world.dir.path(), "another"));
    let mut long = right.to_vec();
    long.push(0);
    cases.extend([
        case("empty", [], None),
        case("one byte", [0], None),
        case("cut", &right[..255], None),
        case("a byte too long", long, None),
        case("as long as a datagram can be", [7; 1400], None),
        case("another key", other.message(), None),
        case("message 1 of a handshake", Call::new(&world.key).message(), None),
        case("a clock that is behind", knocking.message_ahead(-121), Some("clock")),
        case("a clock that is ahead", knocking.message_ahead(600), Some("clock")),
        case("from before the start", knocking.message_ahead(-60), Some("clock")),
        case("another gate", world.knocking().gate("other").message(), Some("gate")),
        case("a network", world.knocking().address("203.0.113.0/24").message(), Some("network")),
        case("everything", world.knocking().address("0.0.0.0/0").message(), Some("network")),
        case(
            "a wide network",
            world.knocking().address("2001:db8::/32").message(),
            Some("network"),
        ),
    ]);
    cases
}

fn result(end: &testkit::admin::Admin, result: &str) -> u64 {
    end.tunnel()["knocks"]["results"][result].as_u64().unwrap_or(0)
}

/// Every datagram is sent from both families. Then a right one opens the port, so that the
/// silence was not that of a deaf end.
#[test]
fn what_is_no_knock_opens_nothing_and_is_not_answered() {
    let world = World::new();
    let socket = world.dir.path().join("admin.sock");
    let end = world.decrypt(&["--knock", "--admin", socket.to_str().unwrap()]);
    let admin = testkit::admin::Admin(socket);
    let sent = world.net.at_gate(Sent::begin);
    let all = cases(&world);
    let mut strangers = 0;
    for source in [PEER, PEER6] {
        for Case { name, bytes, reason } in &all {
            let before = reason.map_or(0, |reason| result(&admin, reason));
            world.send_bytes(source, &end, bytes);
            match reason {
                // From the other family those that were fresh are replays: counted as such.
                Some(reason) if source == PEER => {
                    eventually(name, || result(&admin, reason) == before + 1);
                }
                Some(_) => {}
                None => strangers += 1,
            }
        }
    }
    eventually("all strangers are counted", || result(&admin, "stranger") == strangers);
    assert_eq!(world.net.at_gate(|| sent.packets()), 0, "something was sent");
    assert_eq!(result(&admin, "granted"), 0);
    expect_nothing_granted(&world, &end);
    world.knock(PEER, &end);
    wait_granted(&end, 1);
    assert!(!world.is_denied(PEER, &end));
    assert!(refused(&end, "clock") > 0, "authentic knocks that were refused are logged");
    let stranger = end.program.log().iter().any(|line| line.has("reasons", "stranger"));
    assert!(!stranger, "strangers are only counted");
}

fn expect_nothing_granted(world: &World, end: &End) {
    assert!(world.is_denied(PEER, end) && world.is_denied(PEER6, end));
    assert!(world.is_denied(OTHER, end));
}

/// The first message of a handshake is none over UDP, and a knock is none over TCP.
#[test]
fn a_knock_is_no_first_message_and_gets_no_answer_as_one() {
    let world = World::new();
    let end = world.decrypt(&["--knock", "--timeout", "1s"]);
    world.knock(PEER, &end);
    world.wait_admitted(PEER, &end);
    let message = world.knocking().message();
    let mut wire = world.net.dial(PEER, &crate::world::entrance(&end, PEER));
    std::io::Write::write_all(&mut wire, &message).unwrap();
    let (answer, _) = wire.read_to_ending(testkit::NEVER);
    assert!(answer.is_empty(), "{} bytes in answer to a knock", answer.len());
    end.wait_refused("handshake-failed");
}

#[test]
fn the_rules_of_an_operator_hold() {
    let world = World::new();
    let end = world.decrypt(&[
        "--knock",
        "--knock-source",
        "refuse",
        "--knock-networks",
        "24/64",
        "--knock-gate",
        "office",
        "--knock-max-ttl",
        "1h",
    ]);
    world.knock(PEER, &end);
    eventually("it is refused", || refused(&end, "source") == 1);
    assert!(world.is_denied(PEER, &end));
    let named = world.knocking().address("203.0.113.0/24").gate("office").ttl(86_400);
    world.send(PEER6, &end, &named.label("the office"));
    let line = wait_granted(&end, 1);
    assert!(
        line.has("address", "203.0.113.0/24") && line.has("label", "the office"),
        "{}",
        line.text()
    );
    assert!(line.has("who", &world.who()) && line.has("source", PEER6), "{}", line.text());
    let left = line.number("until_s").unwrap() - now_s();
    assert!((3_590..=3_600).contains(&left), "{left}");
    assert!(!world.is_denied(PEER, &end) && !world.is_denied(OTHER, &end));
    assert!(world.is_denied(PEER6, &end), "it named another address than its own");
}

#[test]
fn a_key_that_may_not_knock_connects_and_opens_nothing() {
    let world = World::new();
    let other = keygen(world.dir.path(), "other");
    let id = testkit::end::key_id(&other);
    let other_path = other.to_str().unwrap();
    let end =
        world.decrypt(&["-k", other_path, "--knock", "--knock-ttl", "6s", "--knock-key", &id]);
    world.knock(PEER, &end);
    eventually("it is refused", || refused(&end, "key") == 1);
    assert!(world.is_denied(PEER, &end));
    world.send(PEER, &end, &Knocking::new(&other));
    world.wait_admitted(PEER, &end);
    // Nor does its session make the grant of the other key last longer.
    let mut session = crate::world::live(&world.encrypt(PEER, &end));
    let (_, ending) = session.read_to_ending(testkit::NEVER);
    assert_ne!(ending, testkit::Ending::Silent, "it renews what it may not make");
}

fn now_s() -> u64 {
    std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_secs()
}
