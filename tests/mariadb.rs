//! A real MariaDB server behind the tunnel, with its own client programs.

use std::fs::File;
use std::io::{BufWriter, Read, Write};
use std::path::Path;
use std::process::{Command, Stdio};

use testkit::data::{Noise, Sum, sha256};
use testkit::mariadb::{MariaDb, client, query};
use testkit::wait::bounded;
use testkit::{Addr, Kind, Pair, PairOptions, Program, Suite};

/// Rows of the table that goes in and out.
const ROWS: usize = 1_000_000;

/// Rows where only the kind of socket matters.
const FEWER_ROWS: usize = 200_000;

/// "server-first greeting": it arrives although the client has
/// not sent a byte, and then a login works; "both suites, unix and TCP, v4 and v6".
#[test]
fn the_greeting_comes_without_a_byte_from_the_client_and_login_works() {
    let server = MariaDb::start();
    for suite in Suite::BOTH {
        for source in Kind::ALL {
            for middle in Kind::ALL {
                let options = PairOptions::default().suite(suite).source(source).middle(middle);
                let pair = Pair::start(options, server.addr());
                greeting(&pair);
                assert_eq!(query(pair.entrance(), "SELECT 6 * 7"), "42");
                pair.stop();
            }
        }
    }
    // A scan would have shown up here, and so would a phantom connection.
    let aborted = query(server.addr(), "SHOW GLOBAL STATUS LIKE 'Connection_errors%'");
    assert!(aborted.lines().all(|line| line.ends_with("\t0")), "{aborted}");
}

/// Reads a handshake packet: 3 bytes of length, number 0, protocol version 10.
fn greeting(pair: &Pair) {
    let mut wire = pair.connect();
    let head = wire.expect_bytes(5);
    assert_eq!((head[3], head[4]), (0, 10), "not a greeting: {head:?}");
    let length = usize::from(head[0]) | usize::from(head[1]) << 8 | usize::from(head[2]) << 16;
    let rest = wire.expect_bytes(length - 1);
    assert!(String::from_utf8_lossy(&rest).contains("MariaDB"));
}

/// "a million-row LOAD DATA and dump with equal checksums, 64 MiB packet".
#[test]
fn a_million_rows_and_a_64_mib_packet_go_in_and_out_unchanged() {
    let server = MariaDb::start();
    let rows = server.dir().join("rows.tsv");
    let written = write_rows(&rows, ROWS);
    for suite in Suite::BOTH {
        let pair = Pair::start(PairOptions::default().suite(suite), server.addr());
        load_and_dump(&pair, server.addr(), (&rows, ROWS), &written);
        big_packet_in(pair.entrance());
        big_packet_out(pair.entrance());
        pair.stop();
    }
}

/// "Sum checks equal, both suites, unix and TCP, v4 and v6": the same test, smaller, with each
/// suite over another kind of socket on either side.
#[test]
fn large_transfers_over_unix_sockets_and_v6_come_out_unchanged() {
    let server = MariaDb::start();
    let rows = server.dir().join("rows.tsv");
    let written = write_rows(&rows, FEWER_ROWS);
    let kinds = [
        (Suite::ChaCha20Poly1305, Kind::Unix, Kind::Tcp6),
        (Suite::Aes256Gcm, Kind::Tcp6, Kind::Unix),
    ];
    for (suite, source, middle) in kinds {
        let options = PairOptions::default().suite(suite).source(source).middle(middle);
        let pair = Pair::start(options, server.addr());
        load_and_dump(&pair, server.addr(), (&rows, FEWER_ROWS), &written);
        big_packet_in(pair.entrance());
        big_packet_out(pair.entrance());
        pair.stop();
    }
}

/// Writes the rows of a table; returns the digest of the file.
fn write_rows(path: &Path, count: usize) -> String {
    let mut noise = Noise::new(7);
    let mut file = BufWriter::new(File::create(path).unwrap());
    for id in 0..count {
        writeln!(file, "{id}\t{:016x}{:016x}", noise.next_u64(), noise.next_u64()).unwrap();
    }
    file.flush().unwrap();
    Sum::of(&mut File::open(path).unwrap()).unwrap().hex()
}

fn load_and_dump(pair: &Pair, direct: &Addr, (rows, count): (&Path, usize), written: &str) {
    query(
        pair.entrance(),
        "DROP TABLE IF EXISTS big; \
         CREATE TABLE big (id INT PRIMARY KEY, text CHAR(32) NOT NULL)",
    );
    let load = format!("LOAD DATA LOCAL INFILE '{}' INTO TABLE big", rows.display());
    query(pair.entrance(), &load);
    assert_eq!(query(pair.entrance(), "SELECT COUNT(*) FROM big"), count.to_string());

    let mut select = client("mariadb", pair.entrance());
    select.args(["--batch", "--skip-column-names", "--quick"]);
    select.args(["--execute", "SELECT id, text FROM big ORDER BY id", "test"]);
    assert_eq!(output_sum(&mut select), written, "the rows that come back are those sent");

    let through = output_sum(&mut dump(pair.entrance()));
    assert_eq!(through, output_sum(&mut dump(direct)), "the dump is the one without a tunnel");
}

fn dump(from: &Addr) -> Command {
    let mut command = client("mariadb-dump", from);
    command.args(["--skip-comments", "--quick", "--single-transaction", "test", "big"]);
    command
}

/// Runs `command` and returns the digest of its standard output.
fn output_sum(command: &mut Command) -> String {
    command.stdin(Stdio::null()).stdout(Stdio::piped());
    let mut client = Program::spawn("the client", command);
    let sum = client.stdout_sum();
    assert_eq!(client.exit_code(), 0, "{}", client.tail());
    assert!(sum.bytes > 1_000_000, "only {} bytes came", sum.bytes);
    sum.hex()
}

/// Sends a statement of more than 64 MiB; the server returns the digest of the value.
fn big_packet_in(to: &Addr) {
    let text = noise_hex(64 * 1024 * 1024);
    let digest = sha256(text.as_bytes());
    let mut command = client("mariadb", to);
    command.args(["--batch", "--skip-column-names", "test"]);
    let mut client =
        Program::spawn("mariadb", command.stdin(Stdio::piped()).stdout(Stdio::piped()));
    let mut stdin = client.child().stdin.take().unwrap();
    let mut stdout = client.child().stdout.take().unwrap();
    let answer = bounded("mariadb answers", move || {
        writeln!(stdin, "SELECT SHA2('{text}', 256);").unwrap();
        drop(stdin);
        let mut answer = String::new();
        stdout.read_to_string(&mut answer).unwrap();
        answer
    });
    assert_eq!(client.exit_code(), 0, "{}", client.tail());
    assert_eq!(answer.trim_end(), digest);
}

/// Receives an answer of 64 MiB in one packet.
fn big_packet_out(to: &Addr) {
    let output = query(to, "SELECT REPEAT('0123456789abcdef', 4 * 1024 * 1024)");
    let expected = "0123456789abcdef".repeat(4 * 1024 * 1024);
    assert_eq!(output.len(), expected.len());
    assert!(output == expected, "the packet has changed on the way");
}

/// Returns `len` characters out of 0-9a-f.
fn noise_hex(len: usize) -> String {
    let bytes = Noise::new(64).bytes(len / 2);
    testkit::data::hex(&bytes)
}
