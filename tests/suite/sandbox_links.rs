//! Files of /etc that are links elsewhere: names resolve in the sandbox all the same, and where
//! they cannot, the message says a likely cause.

use std::fs;
use std::net::Ipv4Addr;

use nix::sys::signal::Signal;
use testkit::machine::Machine;
use testkit::{Launch, Target, any, keygen};

const NAME: &str = "target.knockpipe.test";

/// Over two links, with the directory of the last open: there the file is replaced by another, as
/// its writers do.
#[test]
fn names_resolve_where_the_files_of_name_service_are_links() {
    let hosts = |ip: Ipv4Addr| format!("{ip} {NAME}\n");
    let machine = Machine::new(&hosts(Ipv4Addr::new(127, 0, 0, 1)));
    let place = tempfile::tempdir().unwrap();
    let knockpipe = machine.knockpipe_with_links_to(place.path());
    let target = Target::echo();
    let port = target.addr().tcp().port();
    let key = keygen(machine.path(), "key");
    let launch = Launch::decrypt(&key).binary(&knockpipe).source(&any());
    let mut end = launch.args(["-t", &format!("{NAME}:{port}"), "-r", "1s"]).start();
    let line = end.program.wait_line("sandbox", |line| line.is("sandbox"));
    assert!(line.field("landlock").unwrap().starts_with("version "), "{}", line.text());
    assert_eq!(end.count("target does not resolve"), 0, "{}", end.program.tail());
    let encrypt = Launch::encrypt(&key).source(&any()).target(end.addr()).start();
    encrypt.connect().expect_echo(b"through the tunnel");

    // Out of a temporary file, as NetworkManager and systemd-resolved write.
    let new = place.path().join("new");
    fs::write(&new, "").unwrap();
    fs::rename(&new, place.path().join("hosts")).unwrap();
    let gone = "target no longer resolves";
    let line = end.program.wait_line(gone, |line| line.message().starts_with(gone));
    assert!(line.text().contains("in the sandbox; --no-sandbox tells"), "{}", line.text());
    fs::write(&new, hosts(Ipv4Addr::LOCALHOST)).unwrap();
    fs::rename(&new, place.path().join("hosts")).unwrap();
    end.program.wait_line("again", |line| line.is("target resolves again"));
    end.program.signal(Signal::SIGTERM);
    assert_eq!(end.program.exit_code(), 0, "{}", end.program.tail());
}

/// Outside of the sandbox nothing is said of it.
#[test]
fn without_the_sandbox_a_failed_look_up_does_not_blame_it() {
    let machine = Machine::new("");
    let key = keygen(machine.path(), "key");
    let launch = |flags: &[&str]| {
        let launch = Launch::decrypt(&key).binary(&machine.knockpipe()).source(&any());
        let mut end = launch.args(["-t", &format!("{NAME}:1")]).args(flags).spawn();
        assert_eq!(end.exit_code(), 1);
        end.stderr()
    };
    let inside = launch(&[]);
    assert!(inside.contains("cannot resolve") && inside.contains("--no-sandbox"), "{inside}");
    assert!(!launch(&["--no-sandbox"]).contains("in the sandbox"));
}
