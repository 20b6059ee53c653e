//! Tunnels that lead back to themselves, where no command line and no file shows it, and chains of
//! tunnels that do not.

use tempfile::TempDir;
use testkit::address::refusing;
use testkit::admin::{Metrics, metrics_address};
use testkit::file::{Service, decrypt_table, encrypt_table};
use testkit::{Addr, Ending, Line, Target, Wire, eventually, keygen};

const KEY: &str = "\"key\"";
const METRICS: &str = "metrics = \"127.0.0.1:0\"";

/// Tunnels of one process in a ring.
const MOST_TUNNELS: usize = 2;

/// Connections that one client may become until the ring is noticed.
const FEW: f64 = 40.0;

fn directory() -> TempDir {
    let dir = tempfile::tempdir().unwrap();
    keygen(dir.path(), "key");
    dir
}

/// Clients of a ring see a reset, and soon there is nothing left of them.
#[track_caller]
fn is_noticed(entrance: &Addr, noticed: &Service, ends: &[&Service]) {
    let accepted = |end: &Service| {
        Metrics::at(&metrics_address(&end.program)).sum("connections_accepted_total")
    };
    let before: f64 = ends.iter().map(|end| accepted(end)).sum();
    let mut client = Wire::connect(entrance).unwrap();
    assert_eq!(client.expect_ending(), Ending::Reset);
    let line = noticed
        .program
        .wait_line("closed reason=loop", |line| line.is("closed") && line.has("reason", "loop"));
    let detail = line.field("detail").unwrap();
    assert!(detail.contains("this very tunnel") && detail.contains("give -t"), "{detail}");
    for end in ends {
        let sessions = || Metrics::at(&metrics_address(&end.program)).sum("sessions");
        eventually("all sessions have ended", || sessions() == 0.0);
    }
    let after: f64 = ends.iter().map(|end| accepted(end)).sum();
    assert!(after > before && after - before < FEW * ends.len() as f64, "{}", after - before);
    // Logged once by each tunnel of the ring, of which any may notice it first, then counted.
    for _ in 0..MOST_TUNNELS {
        let mut client = Wire::connect(entrance).unwrap();
        assert_eq!(client.expect_ending(), Ending::Reset);
    }
    let told = |line: &Line| line.is("closed") && line.has("reason", "loop");
    let told = noticed.program.log().iter().filter(|line| told(line)).count();
    assert!((1..=MOST_TUNNELS).contains(&told), "{told}");
    noticed.program.wait_line("refused reasons=loop", |line| line.refused("loop") > 0);
}

#[test]
fn an_encrypt_end_that_dials_itself_refuses_its_own_call() {
    let (dir, (no_listener, _held)) = (directory(), refusing());
    let table = |target: &Addr, more| encrypt_table("near", target, KEY, more);
    for more in ["max-sessions = 200", "max-sessions = 200\npool = 4"] {
        let near =
            Service::start_with(dir.path(), "near.toml", METRICS, &table(&no_listener, more));
        let own = near.addr("near");
        near.reload(&table(&own, more));
        is_noticed(&own, &near, &[&near]);
        near.reload(&table(&no_listener, more));
    }
}

#[test]
fn two_encrypt_ends_of_a_process_that_dial_each_other_refuse_their_calls() {
    let (dir, (no_listener, _held)) = (directory(), refusing());
    let tables = |one: &Addr, two: &Addr| {
        let more = "max-sessions = 200";
        encrypt_table("one", one, KEY, more) + &encrypt_table("two", two, KEY, more)
    };
    let both =
        Service::start_with(dir.path(), "both.toml", METRICS, &tables(&no_listener, &no_listener));
    let (one, two) = (both.addr("one"), both.addr("two"));
    both.reload(&tables(&two, &one));
    is_noticed(&one, &both, &[&both]);
}

#[test]
fn a_ring_of_two_processes_is_noticed_by_its_decrypt_end() {
    let (dir, (no_listener, _held)) = (directory(), refusing());
    let more = "max-sessions = 1000";
    for pool in ["", "\npool = 2"] {
        let table = |target: &Addr| decrypt_table("far", target, KEY, more);
        let far = Service::start_with(dir.path(), "far.toml", METRICS, &table(&no_listener));
        let table_near = encrypt_table("near", &far.addr("far"), KEY, &format!("{more}{pool}"));
        let near = Service::start_with(dir.path(), "near.toml", METRICS, &table_near);
        far.reload(&table(&near.addr("near")));
        is_noticed(&near.addr("near"), &far, &[&near, &far]);
        // Both still run, and serve once the target is right.
        let target = Target::echo();
        far.reload(&table(target.addr()));
        Wire::connect(&near.addr("near")).unwrap().expect_echo(b"hello");
    }
}

/// A tunnel in a tunnel, and a service that is reached through another of the same end.
#[test]
fn chains_that_end_are_served() {
    let (dir, target) = (directory(), Target::echo());
    // From the target on: its decrypt end, the encrypt end to that, and so on.
    let mut tables = decrypt_table("d2", target.addr(), KEY, "");
    let all = Service::start_with(dir.path(), "all.toml", METRICS, &tables);
    for (name, to) in [("e2", "d2"), ("d1", "e2"), ("e1", "d1")] {
        let table = if name.starts_with('e') { encrypt_table } else { decrypt_table };
        tables += &table(name, &all.addr(to), KEY, "");
        all.reload(&tables);
    }
    served(&all.addr("e1"));
}

#[test]
fn two_services_of_a_decrypt_end_may_lead_to_each_other() {
    let (dir, target) = (directory(), Target::echo());
    let far = |outer: &Addr| {
        let (one, both) =
            (target.addr(), format!("{{ inner = \"{}\", outer = \"{outer}\" }}", target.addr()));
        decrypt_table("far", one, KEY, "").replace(&format!("\"{one}\""), &both)
    };
    let end = Service::start_with(dir.path(), "far.toml", METRICS, &far(target.addr()));
    let sealed = end.addr("far");
    let inner = encrypt_table("inner", &sealed, KEY, "service = \"inner\"");
    let outer = encrypt_table("outer", &sealed, KEY, "service = \"outer\"");
    let near = Service::start_with(dir.path(), "near.toml", METRICS, &(inner + &outer));
    end.reload(&far(&near.addr("inner")));
    served(&near.addr("outer"));
}

/// Fifty clients at once are.
#[track_caller]
fn served(entrance: &Addr) {
    let connect = |_| Wire::connect(entrance).unwrap();
    let mut clients: Vec<_> = (0..50).map(connect).collect();
    for client in &mut clients {
        client.expect_echo(b"hello");
    }
}
