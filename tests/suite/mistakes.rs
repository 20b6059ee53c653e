//! Command lines of people who know other programs, or slip: one line says what to write here.

use super::cli::{DECRYPT, ENCRYPT, SPIPED, complaint, knockpipe, place, refused};

#[test]
fn addresses_have_no_scheme() {
    for (text, meant) in [
        ("redis://db:6380", "'redis://' is one; write db:6380"),
        ("rediss://u:geheim@db:6380/0", "'rediss://' is one; write db:6380"),
        ("http://db", "write db:PORT"),
        ("tcp://db:1", "write db:1"),
        ("tcp:db:1", "'tcp:' is one; write db:1"),
        ("unix:///run/x.sock", "write /run/x.sock"),
        ("unix:/run/x.sock", "write /run/x.sock"),
        ("redis://db?a=b", "write db:PORT"),
    ] {
        refused(&format!("encrypt -s a:1 -k key -t {text}"), &["-t/--target", meant]);
        refused(&format!("encrypt -t a:1 -k key -s {text}"), &["-s/--source", meant]);
        refused(&format!("-e -s a:1 -k key -t {text}"), &["-t: ", meant]);
        refused(&format!("{ENCRYPT} --metrics {text}"), &["--metrics", meant]);
        refused(&format!("{ENCRYPT} -b {text}"), &["-b/--bind", meant]);
    }
    let dir = place();
    let line = ["decrypt", "-s", "a:1", "-k", "key", "-t", "x=redis://:geheim@db:1"];
    let said = complaint(&knockpipe(&dir, &line), 2, "a password in an address");
    assert!(said.contains("write db:1") && !said.contains("geheim"), "{said}");
}

#[test]
fn what_is_missing_in_an_address_may_be_an_empty_variable() {
    let empty = "no variable in it is empty";
    for base in ["encrypt -s a:1 -k key -t", "decrypt -s a:1 -k key -t", "pipe -k key -t"] {
        refused(&format!("{base} :6380"), &["no host; write HOST:6380", empty]);
        refused(&format!("{base} host:"), &["write host:PORT", empty]);
        refused(&format!("{base} :"), &["the address is empty", empty]);
    }
    refused("encrypt -t a:1 -k key -s :6379", &["write 127.0.0.1:6379 for this machine only"]);
    refused("encrypt -t a:1 -k key -s *:6379", &["write 0.0.0.0:6379 for every IPv4", "[::]:6379"]);
    let dir = place();
    for (flag, line) in [
        ("-t/--target", ["encrypt", "-s", "a:1", "-k", "key", "-t", ""]),
        ("-k/--key", ["encrypt", "-s", "a:1", "-t", "b:1", "-k", ""]),
    ] {
        let said = complaint(&knockpipe(&dir, &line), 2, flag);
        assert!(said.contains(flag) && said.contains(empty), "{said}");
    }
}

#[test]
fn several_values_are_given_one_by_one() {
    let meant = "give each by itself: -t redis=a:1 -t mysql=b:2";
    refused("decrypt -s c:1 -k key -t redis=a:1,mysql=b:2", &[meant]);
    refused("encrypt -s c:1 -k key -t a:1,b:2", &["-t a:1 -t b:2"]);
    refused("encrypt -s a:1,b:2 -t c:1 -k key", &["has a comma", "each address by itself"]);
    refused("pipe -t a:1,b:2 -k key", &["has a comma"]);
    refused("encrypt -s a:1 -t b:1 -k key,other", &["give each file by itself: -k A -k B"]);
    let one = "an encrypt end asks for one service";
    refused(&format!("{ENCRYPT} --service a --service b"), &["--service is given twice", one]);
    refused("-e -s c:1 -k key -t redis=a:1", &["a name before '='", "knockpipe decrypt"]);
}

#[test]
fn flags_of_other_programs_have_a_name_here() {
    for base in [ENCRYPT, DECRYPT, SPIPED] {
        for (flag, meant) in [
            ("--listen a:1", "write -s ADDR"),
            ("--connect a:1", "write -t ADDR"),
            ("--verbose", "write --log-level debug"),
            ("--port 6379", "a part of the address"),
            ("--config x", "'knockpipe run -c FILE'"),
            ("--keyfile x", "write -k FILE"),
            ("--cert x", "there are no certificates here"),
            ("--pidfile x", "write -p FILE"),
            ("--log-file x", "redirect standard error"),
        ] {
            refused(&format!("{base} {flag}"), &["there is no flag '--", meant]);
        }
    }
    for flag in ["--daemon", "--background"] {
        refused(&format!("{ENCRYPT} {flag}"), &["stays in the foreground"]);
        refused(&format!("{SPIPED} {flag}"), &["without -F it goes to the background"]);
    }
    refused(&format!("{ENCRYPT} --foreground"), &["stays in the foreground"]);
    refused(&format!("{SPIPED} --foreground"), &["write -F"]);
    refused(&format!("{ENCRYPT} -v"), &["write --log-level debug"]);
    refused("--listen a:1", &["there is no flag '--listen'", "write -s ADDR"]);
    refused("--verison", &["no flag '--verison'", "'--version'", "'knockpipe --help'"]);
    refused("run --log-level debug", &["write 'log-level' to [process] of the file"]);
    refused("run --target a:1", &["write 'target' to a table [tunnels.NAME]"]);
    refused(&format!("{ENCRYPT} --timeout 5"), &["has no unit", "write 5s"]);
}

/// The remedy of one must not lead to the other: both are about one choice.
#[test]
fn a_file_to_check_goes_with_no_flag_of_a_tunnel_without_one() {
    for flag in [
        "--knock",
        "--knock-gate db",
        "--service x",
        "-o 2s",
        "-b 127.0.0.1",
        "--suite auto",
        "--allow-readable-key",
        "-s a:1",
        "-k key",
        "-t a:1 -k key",
        "-s a:1 --check tcp",
    ] {
        let both = format!("check -c x.toml {flag}");
        refused(&both, &["-c/--config", "exclude each other", "keep one of them"]);
    }
    for (flag, meant) in [
        ("--knock", "-t ADDR (where to forward)"),
        ("--knock-gate db -t a:1 -k key", "--knock"),
        ("-o 2s", "-t ADDR"),
    ] {
        refused(&format!("check {flag}"), &[meant, "missing"]);
    }
}

#[test]
fn words_in_a_wrong_place_are_told_where_they_belong() {
    refused("run x.toml", &["'x.toml' is not expected", "'knockpipe run -c x.toml'"]);
    refused("check x.toml", &["'knockpipe check -c x.toml'"]);
    refused("kick all", &["'all' is not an id", "--tunnel NAME", "knockpipe drain"]);
    refused("kick 203.0.113.7", &["write --peer 203.0.113.7"]);
    refused("kick redis", &["write --tunnel redis"]);
    refused("version", &["'knockpipe --version'"]);
    refused("client", &["'knockpipe encrypt'"]);
    refused("start", &["'knockpipe run -c FILE'"]);
    refused("help bogus", &["no command 'bogus'", "see 'knockpipe --help'"]);
    let dir = place();
    for args in [&["help", "--help"][..], &["help", "encrypt", "-h"], &["gate", "help", "--help"]] {
        let output = knockpipe(&dir, args);
        assert_eq!(output.status.code(), Some(0), "{args:?}");
        assert!(String::from_utf8_lossy(&output.stdout).contains("Usage: "), "{args:?}");
    }
}

#[test]
fn a_log_without_a_receiver_is_reported_at_the_start() {
    if std::path::Path::new("/dev/log").exists() {
        return;
    }
    let dir = place();
    let line = ["encrypt", "-s", "127.0.0.1:0", "-t", "127.0.0.1:9", "-k", "key", "--syslog"];
    let said = complaint(&knockpipe(&dir, &line), 1, "no syslog");
    assert!(
        said.contains("nothing listens at /dev/log") && said.contains("leave it out"),
        "{said}"
    );
}
