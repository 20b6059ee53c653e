//! A real redis-server without the command KEYS, and a client small enough to pipeline anything.

use std::io::{self, BufRead, BufReader, BufWriter, Write};
use std::net::Ipv4Addr;
use std::process::{Command, Stdio};
use std::time::Duration;

use nix::sys::signal::Signal;
use tempfile::TempDir;

use crate::address::{Addr, free_port};
use crate::program::{Program, require};
use crate::wait::{NEVER, bounded, eventually, poll};
use crate::wire::Wire;

/// Attempts to start a server on a port that another process may take meanwhile.
const STARTS: usize = 5;

/// For EVAL: fills the allow-set with a million addresses and ten thousand networks.
pub const MILLION: &str = "for i = 0, 9999 do local m = {} for j = 0, 99 do \
    m[#m + 1] = '11.' .. math.floor(i / 256) .. '.' .. i % 256 .. '.' .. j end \
    m[#m + 1] = '12.' .. math.floor(i / 256) .. '.' .. i % 256 .. '.0/24' \
    redis.call('SADD', 'ip-allowed', unpack(m)) end return redis.call('SCARD', 'ip-allowed')";

/// A running redis-server with its own directory, on a TCP port and a unix socket.
pub struct Redis {
    tcp: Addr,
    unix: Addr,
    options: Vec<String>,
    program: Program,
    dir: TempDir,
}

impl Redis {
    pub fn start() -> Self {
        Self::start_with(&[])
    }

    /// Starts with more options, spelled as on redis-server's command line.
    pub fn start_with(options: &[&str]) -> Self {
        require("redis-server", "redis-server");
        for _ in 0..STARTS {
            if let Some(redis) = Self::try_start(options) {
                return redis;
            }
        }
        panic!("redis-server does not start; see its log above");
    }

    fn try_start(options: &[&str]) -> Option<Self> {
        let dir = tempfile::tempdir().expect("a temporary directory can be made");
        let tcp = Addr::Tcp((Ipv4Addr::LOCALHOST, free_port()).into());
        let unix = Addr::Unix(dir.path().join("redis.sock"));
        let options: Vec<String> = options.iter().map(|&option| option.to_owned()).collect();
        let program = launch(&tcp, &unix, &dir, &options)?;
        Some(Self { tcp, unix, options, program, dir })
    }

    /// Kills the server as a crash would. Saved data stays on disk.
    pub fn kill(&mut self) {
        self.program.signal(Signal::SIGKILL);
        self.program.wait();
    }

    /// Starts a killed server again, at the same addresses, with the data it had saved.
    pub fn revive(&mut self) {
        self.program = launch(&self.tcp, &self.unix, &self.dir, &self.options)
            .expect("its port is still free; see its log above");
    }

    pub fn signal(&self, signal: Signal) {
        self.program.signal(signal);
    }

    pub fn tcp(&self) -> &Addr {
        &self.tcp
    }

    pub fn unix(&self) -> &Addr {
        &self.unix
    }

    /// Returns its address, as logs show it.
    pub fn name(&self) -> String {
        self.tcp.to_string()
    }

    pub fn url(&self) -> String {
        format!("redis://{}", self.tcp)
    }

    /// Returns a client that talks to the server directly, without any tunnel, from any namespace.
    pub fn direct(&self) -> Resp {
        Resp::connect(&self.unix)
    }

    /// Executes one command, its words split at spaces; panics on an error.
    #[track_caller]
    pub fn ask(&self, command: &str) -> Reply {
        let words: Vec<&str> = command.split_whitespace().collect();
        let reply = self.direct().ask(&words);
        assert!(!matches!(reply, Reply::Error(_)), "{command}: {reply:?}");
        reply
    }

    /// Returns the field of INFO.
    pub fn info(&self, field: &str) -> Option<String> {
        let info = self.ask("INFO").text();
        let line = info.lines().find_map(|line| line.strip_prefix(field)?.strip_prefix(':'));
        line.map(|value| value.trim().to_owned())
    }

    /// Starts a replica of this server and waits until it has its copy.
    pub fn replica(&self, options: &[&str]) -> Self {
        let of = replica_of(&self.tcp);
        let all: Vec<&str> = of.iter().map(String::as_str).chain(options.iter().copied()).collect();
        let replica = Self::start_with(&all);
        replica.wait_copied();
        replica
    }

    /// Waits until a replica of this server has everything that was written so far.
    #[track_caller]
    pub fn wait_for_replica(&self) {
        let mut client = self.direct();
        // A key in the slot of the allow-set, in case this is a node of a Cluster.
        assert_eq!(client.ask(&["SET", "{ip-allowed}last", "1"]), Reply::ok());
        let limit = NEVER.as_millis().to_string();
        assert_eq!(client.ask(&["WAIT", "1", &limit]), Reply::Number(1));
    }

    /// Becomes a replica of `master`.
    pub fn follow(&self, master: &Self) {
        self.ask(&format!("REPLICAOF 127.0.0.1 {}", master.tcp.tcp().port()));
    }

    /// Waits until this replica has its master's copy.
    #[track_caller]
    pub fn wait_copied(&self) {
        eventually("the replica has its copy", || {
            self.info("master_link_status").as_deref() == Some("up")
        });
    }
}

/// Starts a server and waits until it answers; returns `None` when it ends instead.
fn launch(tcp: &Addr, unix: &Addr, dir: &TempDir, options: &[String]) -> Option<Program> {
    let mut command = Command::new("redis-server");
    command
        .args(["--port", &tcp.tcp().port().to_string(), "--bind", "127.0.0.1", "--save", ""])
        .args(["--appendonly", "no", "--daemonize", "no", "--tcp-backlog", "4096"])
        .args(["--enable-debug-command", "yes", "--repl-diskless-sync-delay", "0"])
        .args(["--logfile", "redis.log", "--maxclients", "12000"])
        .args(["--rename-command", "KEYS", ""])
        .args(["--proto-max-bulk-len", "1gb", "--client-query-buffer-limit", "2gb"])
        .arg("--unixsocket")
        .arg(unix.path())
        .arg("--dir")
        .arg(dir.path())
        .args(options);
    command.stdin(Stdio::null()).stdout(Stdio::null());
    let mut program = Program::spawn("redis-server", &mut command);
    let up = poll(NEVER, || {
        if !program.is_running() {
            return Some(false);
        }
        (Wire::connect(unix).is_ok() && Wire::connect(tcp).is_ok()).then_some(true)
    });
    if up == Some(true) {
        return Some(program);
    }
    eprintln!("{}", std::fs::read_to_string(dir.path().join("redis.log")).unwrap_or_default());
    None
}

/// An answer of a server.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Reply {
    Simple(String),
    Error(String),
    Number(i64),
    Bulk(Vec<u8>),
    Nil,
    Array(Vec<Self>),
}

impl Reply {
    pub fn ok() -> Self {
        Self::Simple("OK".into())
    }

    pub fn bulk(bytes: impl AsRef<[u8]>) -> Self {
        Self::Bulk(bytes.as_ref().to_vec())
    }

    /// Returns the text of a simple or bulk answer.
    #[track_caller]
    pub fn text(&self) -> String {
        match self {
            Self::Simple(text) => text.clone(),
            Self::Bulk(bytes) => String::from_utf8_lossy(bytes).into_owned(),
            other => panic!("not a text: {other:?}"),
        }
    }
}

/// A connection that speaks RESP2.
pub struct Resp {
    reader: BufReader<Wire>,
    writer: BufWriter<Wire>,
}

impl Resp {
    #[track_caller]
    pub fn connect(to: &Addr) -> Self {
        Self::over(Wire::connect(to).unwrap_or_else(|e| panic!("cannot reach {to}: {e}")))
    }

    pub fn over(wire: Wire) -> Self {
        wire.read_limit(NEVER);
        Self { writer: BufWriter::new(wire.try_clone()), reader: BufReader::new(wire) }
    }

    /// Splits into the half that sends and the half that receives.
    pub fn split(self) -> (impl Write + Send + use<>, RespReader) {
        (self.writer, RespReader(self.reader))
    }

    /// Sends a command and waits for its answer.
    #[track_caller]
    pub fn ask(&mut self, command: &[&str]) -> Reply {
        self.send(command);
        self.receive()
    }

    #[track_caller]
    pub fn send(&mut self, command: &[&str]) {
        send_command(&mut self.writer, command)
            .and_then(|()| self.writer.flush())
            .unwrap_or_else(|e| panic!("cannot send {command:?}: {e}"));
    }

    #[track_caller]
    pub fn receive(&mut self) -> Reply {
        receive(&mut self.reader).unwrap_or_else(|e| panic!("no answer: {e}"))
    }

    /// Returns the buffered writer and reader, for values too large for memory.
    pub fn raw(&mut self) -> (&mut BufWriter<Wire>, &mut BufReader<Wire>) {
        (&mut self.writer, &mut self.reader)
    }

    pub fn read_limit(&self, limit: Duration) {
        self.reader.get_ref().read_limit(limit);
    }
}

/// The receiving half of a connection.
pub struct RespReader(BufReader<Wire>);

impl RespReader {
    #[track_caller]
    pub fn receive(&mut self) -> Reply {
        receive(&mut self.0).unwrap_or_else(|e| panic!("no answer: {e}"))
    }
}

/// Writes a command as an array of bulk strings.
pub fn send_command(to: &mut dyn Write, command: &[&str]) -> io::Result<()> {
    write!(to, "*{}\r\n", command.len())?;
    for word in command {
        write!(to, "${}\r\n{word}\r\n", word.len())?;
    }
    Ok(())
}

/// Reads one answer.
pub fn receive(from: &mut dyn BufRead) -> io::Result<Reply> {
    let line = receive_line(from)?;
    let (kind, rest) = line.split_at_checked(1).ok_or_else(|| bad("an empty line"))?;
    let number = || rest.parse::<i64>().map_err(|_| bad(&line));
    match kind {
        "+" => Ok(Reply::Simple(rest.to_owned())),
        "-" => Ok(Reply::Error(rest.to_owned())),
        ":" => number().map(Reply::Number),
        "$" => match usize::try_from(number()?) {
            Err(_) => Ok(Reply::Nil),
            Ok(len) => {
                let mut bytes = vec![0; len + 2];
                from.read_exact(&mut bytes)?;
                bytes.truncate(len);
                Ok(Reply::Bulk(bytes))
            }
        },
        "*" => match usize::try_from(number()?) {
            Err(_) => Ok(Reply::Nil),
            Ok(len) => (0..len).map(|_| receive(from)).collect::<io::Result<_>>().map(Reply::Array),
        },
        _ => Err(bad(&line)),
    }
}

/// Reads one line and removes its end.
pub fn receive_line(from: &mut dyn BufRead) -> io::Result<String> {
    let mut line = String::new();
    if from.read_line(&mut line)? == 0 {
        return Err(io::ErrorKind::UnexpectedEof.into());
    }
    Ok(line.trim_end_matches("\r\n").to_owned())
}

fn bad(line: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, format!("not RESP: {line:?}"))
}

/// Runs redis-cli against `to` and returns its output; panics when it fails.
#[track_caller]
pub fn redis_cli(to: &Addr, args: &[&str]) -> String {
    try_redis_cli(to, args).unwrap_or_else(|complaint| panic!("redis-cli: {complaint}"))
}

/// Runs redis-cli against `to` and returns its output, or its error.
#[track_caller]
pub fn try_redis_cli(to: &Addr, args: &[&str]) -> Result<String, String> {
    require("redis-cli", "redis-tools");
    let mut command = Command::new("redis-cli");
    match to {
        Addr::Tcp(addr) => {
            command.args(["-h", &addr.ip().to_string(), "-p", &addr.port().to_string()])
        }
        Addr::Unix(path) => command.arg("-s").arg(path),
    };
    command.args(args).stdin(Stdio::null());
    let output = bounded("redis-cli ends", move || command.output().expect("redis-cli starts"));
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).trim_end().to_owned();
    if output.status.success() { Ok(text(&output.stdout)) } else { Err(text(&output.stderr)) }
}

/// Returns the options that make a server a replica of `primary`.
pub fn replica_of(primary: &Addr) -> [String; 3] {
    let addr = primary.tcp();
    ["--replicaof".into(), addr.ip().to_string(), addr.port().to_string()]
}
