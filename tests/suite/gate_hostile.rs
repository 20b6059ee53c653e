//! A gate with a Redis that is broken or hostile: everything that it sends is bounded, in memory,
//! in connections, and in the log.

use std::collections::HashSet;
use std::io::{BufReader, BufWriter, Write};
use std::net::{IpAddr, TcpListener, TcpStream};
use std::process::Command;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;

use testkit::redis::{Reply, receive};
use testkit::{End, Launch, any, binary, eventually, keygen, proc};

const AWAY: &str = "gate store unavailable";
const READ: &str = "gate store synced";

/// Memory that a gate may take in addition for a hostile server.
const MOST_MIB: u64 = 64;

/// Returns of a gate that count as proof that it comes back.
const VISITS: u64 = 4;

/// Bytes of a flood that count as proof that it is borne.
const FLOOD: u64 = 256 << 20;

/// Behaviour of a server when it is asked.
#[derive(Clone)]
enum Answer {
    Say(Vec<u8>),
    /// The first bytes, and then the others without an end.
    Flood(Vec<u8>, Vec<u8>),
}

/// A server that a test has written, at every address of 127.0.0.0/8.
struct Server {
    port: u16,
    visits: Arc<AtomicU64>,
    sent: Arc<AtomicU64>,
    /// Its addresses at which it received a password.
    told: Arc<Mutex<HashSet<IpAddr>>>,
}

type Script = dyn Fn(&[String]) -> Option<Answer> + Send + Sync;

impl Server {
    /// Answers by `script`, and otherwise as a Redis that has nothing for the gate.
    fn start(script: impl Fn(&[String]) -> Option<Answer> + Send + Sync + 'static) -> Self {
        let listener = TcpListener::bind("0.0.0.0:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let (visits, sent, told) = (Arc::default(), Arc::default(), Arc::default());
        let server = Self { port, visits, sent, told };
        let script: Arc<Script> = Arc::new(script);
        let (visits, sent) = (Arc::clone(&server.visits), Arc::clone(&server.sent));
        let told = Arc::clone(&server.told);
        thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                visits.fetch_add(1, Ordering::Relaxed);
                let (script, sent, told) =
                    (Arc::clone(&script), Arc::clone(&sent), Arc::clone(&told));
                // A client that has enough hangs up.
                thread::spawn(move || drop(serve(&stream, &*script, &sent, &told)));
            }
        });
        server
    }

    fn addr(&self) -> String {
        format!("127.0.0.1:{}", self.port)
    }
}

fn serve(
    stream: &TcpStream,
    script: &Script,
    sent: &AtomicU64,
    told: &Mutex<HashSet<IpAddr>>,
) -> std::io::Result<()> {
    let mut reader = BufReader::new(stream);
    let mut writer = BufWriter::new(stream);
    loop {
        let Reply::Array(words) = receive(&mut reader)? else { return Ok(()) };
        let words: Vec<String> = words.iter().map(Reply::text).collect();
        if words.iter().any(|word| word == "AUTH") {
            told.lock().unwrap().insert(stream.local_addr()?.ip());
        }
        match script(&words).unwrap_or_else(|| usual(&words)) {
            Answer::Say(answer) => writer.write_all(&answer)?,
            Answer::Flood(first, then) => {
                writer.write_all(&first)?;
                let then = then.repeat((64 << 10) / then.len() + 1);
                loop {
                    writer.write_all(&then)?;
                    sent.fetch_add(then.len() as u64, Ordering::Relaxed);
                }
            }
        }
        writer.flush()?;
    }
}

fn bulk(text: &str) -> String {
    format!("${}\r\n{text}\r\n", text.len())
}

/// Answers as a Redis that has nothing.
fn usual(words: &[String]) -> Answer {
    let answer = match words[0].as_str() {
        "HELLO" => "%1\r\n$5\r\nproto\r\n:3\r\n".to_owned(),
        "ROLE" => "*3\r\n$6\r\nmaster\r\n:0\r\n*0\r\n".to_owned(),
        "SUBSCRIBE" => format!(">3\r\n$9\r\nsubscribe\r\n{}:1\r\n", bulk(&words[1])),
        "TYPE" => "+none\r\n".to_owned(),
        "SCAN" | "SSCAN" => "*2\r\n$1\r\n0\r\n*0\r\n".to_owned(),
        _ => "+OK\r\n".to_owned(),
    };
    Answer::Say(answer.into_bytes())
}

/// Starts a server with a set that answers `command` so.
fn when(command: &'static str, first: &str, then: &str) -> Server {
    let answer = Answer::Flood(first.as_bytes().to_vec(), then.as_bytes().to_vec());
    Server::start(move |words| match words[0].as_str() {
        word if word == command => Some(answer.clone()),
        "TYPE" => Some(Answer::Say(b"+set\r\n".to_vec())),
        _ => None,
    })
}

/// A gate at the store `url`, with a password.
struct Gate {
    end: End,
    before_kib: u64,
    fds: usize,
    _dir: tempfile::TempDir,
}

impl Gate {
    fn start(url: &str, args: &[&str]) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let key = keygen(dir.path(), "key");
        let launch = Launch::decrypt(&key).source(&any()).args(["-t", "/no/where"]);
        let mut plain = launch.start();
        let (before_kib, fds) = (proc::most_rss_kib(plain.pid()), plain.fds());
        plain.stop();
        let mut command = launch.args(["--gate", url]).args(args).command();
        command.env("KNOCKPIPE_GATE_CREDENTIALS", "secret");
        let end = End::of(testkit::Program::spawn("decrypt", &mut command));
        Self { end, before_kib, fds, _dir: dir }
    }

    /// Expects that the store is reported unavailable once and for this reason, and that no memory
    /// was spent on it.
    #[track_caller]
    fn expect_away(&self, why: &str, most_mib: u64) {
        let lines: Vec<_> =
            self.end.program.log().into_iter().filter(|line| line.is(AWAY)).collect();
        let [line] = &lines[..] else { panic!("{why}: one line, not {lines:?}") };
        let told = line.field("why").unwrap();
        assert!(told.contains(why) && told.contains("; see whether"), "{why}: {told}");
        assert!(told.len() < 500, "{told}");
        self.expect_small(why, most_mib);
    }

    #[track_caller]
    fn expect_small(&self, what: &str, most_mib: u64) {
        let more = proc::most_rss_kib(self.end.pid()).saturating_sub(self.before_kib) >> 10;
        println!("{what}: {more} MiB more");
        assert!(more < most_mib, "{what}: {more} MiB more");
    }
}

/// "Whatever a server of the gate announces or sends without an end is not kept: the store is
/// unavailable, and one line says why."
#[test]
fn answers_without_an_end_cost_a_line_and_no_memory() {
    let page = "*2\r\n$1\r\n0\r\n";
    for (server, why) in [
        (when("HELLO", "$536870912\r\n", "x"), "announces a text of 536870912 bytes"),
        (when("TYPE", "+", "x"), "sends a line without an end"),
        (when("ROLE", "", "*1\r\n"), "lists in lists"),
        (when("SSCAN", "*1000000000\r\n", "_\r\n"), "announces a list of 1000000000 values"),
        (when("SSCAN", &format!("{page}*200000\r\n"), &bulk(&"a".repeat(100))), "more than 16 MiB"),
        (when("SCAN", "HTTP/1.1 400 Bad Request\r\n", "\r\n"), "does not speak Redis' protocol"),
    ] {
        let gate = Gate::start(&format!("redis://{}", server.addr()), &[]);
        eventually("the gate comes back", || server.visits.load(Ordering::Relaxed) >= VISITS);
        gate.expect_away(why, MOST_MIB);
    }
}

/// A read of a set without an end is broken off, and its members are not kept for ever.
#[test]
fn a_set_without_an_end_is_not_read_to_its_end() {
    let next = AtomicU64::new(0);
    let server = Server::start(move |words| match words[0].as_str() {
        "TYPE" => Some(Answer::Say(b"+set\r\n".to_vec())),
        "SSCAN" => {
            const PAGE: u64 = 20_000;
            let first = next.fetch_add(PAGE, Ordering::Relaxed);
            let mut text = format!("*2\r\n$1\r\n7\r\n*{PAGE}\r\n");
            for number in first..first + PAGE {
                let ip = std::net::Ipv4Addr::from(u32::try_from(number).unwrap());
                text += &bulk(&ip.to_string());
            }
            Some(Answer::Say(text.into_bytes()))
        }
        _ => None,
    });
    let gate = Gate::start(&format!("redis://{}", server.addr()), &[]);
    gate.end.program.wait_line(AWAY, |line| line.is(AWAY));
    gate.expect_away("has more than 2000000 entries", 192);
}

/// Unrequested replies are treated alike, while the store works.
#[test]
fn a_flood_of_pushes_costs_no_memory() {
    let push = format!(">2\r\n$10\r\ninvalidate\r\n*1\r\n{}", bulk(&"k".repeat(1_000)));
    for flood in [push.as_str(), "+OK\r\n"] {
        // After the answer to the full read's last question.
        let server = when("SCAN", "*2\r\n$1\r\n0\r\n*0\r\n", flood);
        let gate = Gate::start(&format!("redis://{}", server.addr()), &[]);
        eventually("much was sent", || server.sent.load(Ordering::Relaxed) > FLOOD);
        gate.expect_small("pushes", MOST_MIB);
        assert!(gate.end.count(READ) > 0);
    }
}

/// Returns the map of a Cluster in which `first` and the following addresses are masters.
fn map(first: u32, masters: u32, port: u16) -> Vec<u8> {
    let mut text = format!("*{masters}\r\n");
    let width = 16_384 / masters;
    for n in 0..masters {
        let last = if n + 1 == masters { 16_383 } else { (n + 1) * width - 1 };
        let number = first + n;
        let host = format!("127.1.{}.{}", number >> 8, number & 255);
        text += &format!(
            "*3\r\n:{}\r\n:{last}\r\n*3\r\n{}:{port}\r\n{}",
            n * width,
            bulk(&host),
            bulk("id")
        );
    }
    text.into_bytes()
}

/// Starts a node of a Cluster that says so, with a map for each question.
fn cluster(masters: u32, moves: bool) -> (Server, Arc<AtomicU64>) {
    let (asked, own) = (Arc::new(AtomicU64::new(0)), Arc::new(AtomicU64::new(0)));
    let (questions, port) = (Arc::clone(&asked), Arc::clone(&own));
    let server = Server::start(move |words| match (words[0].as_str(), words.get(1)?.as_str()) {
        ("CLUSTER", "INFO") => {
            let epoch = questions.fetch_add(1, Ordering::Relaxed);
            let info = format!("cluster_state:ok\r\ncluster_current_epoch:{epoch}\r\n");
            Some(Answer::Say(bulk(&info).into_bytes()))
        }
        ("CLUSTER", _) => {
            let question = u32::try_from(questions.load(Ordering::Relaxed)).unwrap();
            let first = if moves { question * masters % 60_000 } else { 0 };
            let port = u16::try_from(port.load(Ordering::Relaxed)).unwrap();
            Some(Answer::Say(map(first, masters, port)))
        }
        _ => None,
    });
    own.store(u64::from(server.port), Ordering::Relaxed);
    (server, asked)
}

/// "The map of a Cluster may name 64 masters": with more of them none is connected to.
#[test]
fn a_map_with_thousands_of_masters_takes_no_descriptors_and_gets_no_passwords() {
    let (server, asked) = cluster(4_077, false);
    let gate = Gate::start(&format!("redis+cluster://{}", server.addr()), &[]);
    eventually("the gate asks again", || asked.load(Ordering::Relaxed) >= VISITS);
    gate.expect_away("names more than 64 masters", MOST_MIB);
    let told = server.told.lock().unwrap();
    assert_eq!(told.iter().map(ToString::to_string).collect::<Vec<_>>(), ["127.0.0.1"]);
    assert!(gate.end.fds() < gate.fds + 20, "{} descriptors", gate.end.fds());
}

/// "In an hour no more than 128 servers hear the password", for any maps.
#[test]
fn maps_that_name_others_each_time_spread_no_password() {
    let (server, asked) = cluster(60, true);
    let gate = Gate::start(&format!("redis+cluster://{}", server.addr()), &[]);
    // Sixteen nodes are asked at once, so that these are several maps.
    eventually("there are many maps", || asked.load(Ordering::Relaxed) >= 40);
    let told = server.told.lock().unwrap().len();
    assert!((60..=128).contains(&told), "{told} servers");
    assert!(gate.end.fds() < gate.fds + 3 * 64, "{} descriptors", gate.end.fds());
    // Each absence is reported once, and the last one is not over.
    gate.end.program.wait_line(AWAY, |line| line.is(AWAY));
    let log = gate.end.program.log();
    let told: Vec<bool> = log
        .iter()
        .filter(|line| line.is(AWAY) || line.is(READ))
        .map(|line| line.is(AWAY))
        .collect();
    assert!(told.windows(2).all(|two| two[0] != two[1]), "{told:?}");
}

/// Sentinels and the commands are no other way in.
#[test]
fn sentinels_and_commands_are_bounded_too() {
    let server = when("SENTINEL", "$536870912\r\n", "x");
    let url = format!("redis+sentinel://{}/mymaster", server.addr());
    let gate = Gate::start(&url, &[]);
    eventually("the gate comes back", || server.visits.load(Ordering::Relaxed) >= VISITS);
    gate.expect_away("announces a text", MOST_MIB);
    let server = when("SSCAN", "*1000000000\r\n", "_\r\n");
    let url = format!("redis://{}", server.addr());
    for command in ["list", "export"] {
        let mut gate = Command::new(binary());
        let output = gate.arg("gate").arg(command).args(["--gate", &url]).output().unwrap();
        let complaint = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(1), "{complaint}");
        assert!(complaint.contains("announces a list of 1000000000 values"), "{complaint}");
        assert!(complaint.contains("; see whether") && complaint.lines().count() == 1);
    }
}

/// Nor is TLS.
#[cfg(feature = "aws-lc")]
#[test]
fn a_server_with_a_certificate_is_bounded_too() {
    use std::process::Stdio;

    use testkit::Addr;

    let dir = tempfile::tempdir().unwrap();
    let at = |name: &str| dir.path().join(name).display().to_string();
    testkit::program::require("openssl", "openssl");
    let made = Command::new("openssl")
        .args(["req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes"])
        .args(["-days", "2", "-subj", "/CN=localhost", "-addext", "subjectAltName=IP:127.0.0.1"])
        .args(["-addext", "basicConstraints=critical,CA:FALSE"])
        .args(["-keyout", &at("key"), "-out", &at("cert")])
        .output()
        .unwrap();
    assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
    let port = testkit::address::free_port();
    let mut command = Command::new("openssl");
    command.args(["s_server", "-quiet", "-accept", &port.to_string()]);
    command.args(["-cert", &at("cert"), "-key", &at("key")]);
    command.stdin(Stdio::piped()).stdout(Stdio::null());
    let mut server = testkit::Program::spawn("openssl", &mut command);
    let mut stdin = server.child().stdin.take().unwrap();
    thread::spawn(move || {
        // Ends with the server.
        let all = b"*1000000000\r\n".repeat(5_000);
        while stdin.write_all(&all).is_ok() {}
    });
    let to = Addr::Tcp(([127, 0, 0, 1], port).into());
    eventually("the server listens", || testkit::Wire::connect(&to).is_ok());
    let gate = Gate::start(&format!("rediss://{to}"), &["--gate-ca", &at("cert")]);
    gate.end.program.wait_line(AWAY, |line| line.is(AWAY));
    // The connection that tested whether it listens has had the beginning.
    gate.expect_away("127.0.0.1", MOST_MIB);
}
