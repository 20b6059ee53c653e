//! `knockpipe demo`: a key, both ends and a target in one process on loopback.
//!
//! Shows that a tunnel works and what it refuses, with the same code that
//! `encrypt` and `decrypt` run. Each step is checked: a demo with a result other
//! than the one it announces marks that step, and ends with an error.

mod knocking;
mod middle;
mod screen;
mod target;

use std::io::Write;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use rand::TryRng;
use rand::rngs::SysRng;
use tokio::io::{AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::TcpStream;
use tokio::time::timeout;

use self::middle::{Harm, Middle};
use self::screen::{TITLE, fact, step};
use self::target::Target;
use crate::addr::{Address, ServiceName};
use crate::frontend::workers;
use crate::gate::Gate;
use crate::keys::{Key, KeyRing};
use crate::knock;
use crate::net::{DatagramSocket, Listener, SocketOptions};
use crate::observe::Meters;
use crate::proto::{Padding, SuiteSet};
use crate::secret::Secret;
use crate::tunnel::{Capacity, Limits, Options, Prepared, ReplayState, Role, Tunnel};

/// The handshake deadline of the demo's tunnels: a wrong key shows after this.
const TIMEOUT: Duration = Duration::from_millis(500);

/// Time limit of every answer in the demo.
const PATIENCE: Duration = Duration::from_secs(20);

/// Round trips that are measured.
const ROUND_TRIPS: usize = 2_000;

/// Size of the value that is moved in each direction, in bytes.
const VALUE: usize = 64 << 20;

/// The last lines: the commands for a tunnel outside of the demo.
const NEXT_STEPS: &str = include_str!("next_steps.txt");

/// Runs the demo and writes its results to `out`, with colours, which `out` has to remove if it is
/// no terminal.
///
/// # Errors
/// A step with a result other than the announced one.
pub(crate) async fn run(out: &mut impl Write) -> anyhow::Result<()> {
    let key = random_key()?;
    let target = Target::start().await.context("cannot start a target")?;
    fact(out, "key", &key.id().to_string(), "made for this demo, in memory only")?;
    fact(out, "target", target.address(), target.description())?;
    let decrypt = start(decrypting(&key, target.address())).await?;
    fact(out, "decrypt", &decrypt.address, "accepts sealed connections, dials the target")?;
    let encrypt = start(encrypting(&key, &decrypt.address)).await?;
    fact(out, "encrypt", &encrypt.address, "accepts plain clients, dials the decrypt end")?;
    writeln!(out)?;

    step(out, "a request goes through", request(&encrypt)).await?;
    let seen = target.connections().await?;
    step(out, "a wrong key is refused", wrong_key(&decrypt, &target)).await?;
    for harm in [Harm::FlipABit, Harm::Cut] {
        let title = format!("{} is refused", harm.name());
        step(out, &title, harmed(&key, &decrypt, harm)).await?;
    }
    ensure!(
        target.connections().await? <= seen + 2,
        "the target saw connections that it should not"
    );
    step(out, "a knock opens a gate", knocking::knocked(&key, &target)).await?;
    writeln!(out)?;

    round_trips(out, &encrypt, &target).await?;
    throughput(out, &encrypt).await?;
    let (title, steps) = NEXT_STEPS.trim_end().split_once('\n').expect("a title and steps");
    writeln!(out, "\n{TITLE}{title}{TITLE:#}\n{steps}")?;
    Ok(())
}

/// One tunnel end of the demo.
struct Side {
    address: String,
    _tunnel: Arc<Tunnel>,
}

async fn start(options: Options) -> anyhow::Result<Side> {
    workers::start(1024).context("cannot start a thread")?;
    let capacity = Capacity::of(&options, 1024)?;
    let source = options.sources[0].address().context("the demo binds what it listens on")?;
    let listeners = Listener::bind(source, &[], 16)?;
    let address = listeners[0].local();
    let meters = Meters::new(options.role.mode(), Arc::default());
    let gate = options.gate.clone().map(Gate::start).transpose()?;
    if let Some(gate) = &gate {
        gate.settled().await;
    }
    let parts = Prepared::get(&options, gate, meters, &Arc::new(ReplayState::begin())).await?;
    let tunnel = Arc::new(Tunnel::new(&options, parts, capacity, None));
    tunnel.begin();
    for listener in listeners {
        let listener = listener.into_async(&SocketOptions::default())?;
        if let (Some(_), Some(place)) = (&options.knock, listener.place()?) {
            knock::thread::start().context("cannot start a thread")?;
            tunnel.read_knocks(Arc::new(DatagramSocket::at(place)?));
        }
        tunnel.serve(Arc::new(listener));
    }
    Ok(Side { address, _tunnel: tunnel })
}

fn decrypting(key: &Key, target: &str) -> Options {
    let target = target.parse().expect("a socket address is an address");
    options(key, Role::Decrypt { targets: vec![(ServiceName::default(), target)] })
}

fn encrypting(key: &Key, far_end: &str) -> Options {
    let target = far_end.parse().expect("a socket address is an address");
    options(
        key,
        Role::Encrypt {
            targets: vec![target],
            service: ServiceName::default(),
            lazy: false,
            knock: None,
        },
    )
}

fn options(key: &Key, role: Role) -> Options {
    let anywhere = Address::Tcp { host: "127.0.0.1".to_owned(), port: "0".to_owned() };
    Options {
        name: None,
        role,
        sources: vec![anywhere.into()],
        keys: KeyRing::new(vec![key.clone()]).expect("one key makes a ring"),
        bind: None,
        limits: Limits { sessions: Some(64), handshakes: 64, unopened: 0, per_source: None },
        timeout: TIMEOUT,
        resolve_every: None,
        wait_for_dns: false,
        keepalive: true,
        padding: Padding::default(),
        suites: SuiteSet::BOTH,
        drain: Duration::ZERO,
        gate: None,
        knock: None,
        proxy_from: Arc::default(),
        checks: std::collections::BTreeMap::new(),
        close_on_target_down: false,
        proxy_to_target: None,
        heartbeat: None,
        idle_timeout: None,
        warnings: vec![],
    }
}

async fn request(encrypt: &Side) -> anyhow::Result<String> {
    let answer = ping(&encrypt.address).await.context("the request did not go through")?;
    ensure!(answer == "+PONG", "an unexpected answer came through: {answer}");
    Ok(format!("PING -> {answer}"))
}

async fn wrong_key(decrypt: &Side, target: &Target) -> anyhow::Result<String> {
    let before = target.connections().await?;
    let stranger = start(encrypting(&random_key()?, &decrypt.address)).await?;
    let refused = ping(&stranger.address).await;
    ensure!(refused.is_err(), "a wrong key got an answer");
    ensure!(target.connections().await? == before, "a wrong key reached the target");
    Ok("no byte of answer, the target saw nothing".to_owned())
}

async fn harmed(key: &Key, decrypt: &Side, harm: Harm) -> anyhow::Result<String> {
    let middle = Middle::start(&decrypt.address, harm).await?;
    let encrypt = start(encrypting(key, middle.address())).await?;
    let refused = ping(&encrypt.address).await;
    let error = refused.err().with_context(|| format!("{} went unnoticed", harm.name()))?;
    ensure!(is_reset(&error), "{} looked like a clean end: {error:#}", harm.name());
    Ok("the client sees a reset, never a clean end".to_owned())
}

fn is_reset(error: &anyhow::Error) -> bool {
    let io = error.downcast_ref::<std::io::Error>();
    io.is_some_and(|error| error.kind() == std::io::ErrorKind::ConnectionReset)
}

/// Sends one PING as a client does, and returns the first line of the answer.
async fn ping(address: &str) -> anyhow::Result<String> {
    let conversation = async {
        let mut client = TcpStream::connect(address).await?;
        client.write_all(b"PING\r\n").await?;
        let mut answer = vec![];
        while !answer.ends_with(b"\r\n") {
            answer.push(client.read_u8().await?);
        }
        Ok(String::from_utf8_lossy(&answer).trim_end().to_owned())
    };
    timeout(PATIENCE, conversation).await.context("no answer came")?
}

async fn round_trips(out: &mut impl Write, encrypt: &Side, target: &Target) -> anyhow::Result<()> {
    let direct = measure(target.address()).await?;
    let sealed = measure(&encrypt.address).await?;
    for (name, way, times) in [("round trip", "tunnel", sealed), ("", "direct", direct)] {
        let us = |part: usize| times[times.len() * part / 100].as_micros();
        let shown = format!("p50 {:>5} us   p99 {:>5} us", us(50), us(99));
        screen::measure(out, name, way, &shown)?;
    }
    Ok(())
}

/// Measures the times of [`ROUND_TRIPS`] PINGs on one connection, and sorts them.
async fn measure(address: &str) -> anyhow::Result<Vec<Duration>> {
    let mut client = TcpStream::connect(address).await?;
    client.set_nodelay(true)?;
    let mut times = Vec::with_capacity(ROUND_TRIPS);
    for _ in 0..ROUND_TRIPS {
        let began = Instant::now();
        client.write_all(b"PING\r\n").await?;
        client.read_exact(&mut [0; 7]).await?;
        times.push(began.elapsed());
    }
    times.sort_unstable();
    Ok(times)
}

async fn throughput(out: &mut impl Write, encrypt: &Side) -> anyhow::Result<()> {
    let client = TcpStream::connect(&encrypt.address).await?;
    let mut client = BufReader::with_capacity(1 << 20, client);
    let value = vec![b'x'; VALUE];
    let began = Instant::now();
    let head = format!("*3\r\n$3\r\nSET\r\n$4\r\ndemo\r\n${VALUE}\r\n");
    client.write_all(head.as_bytes()).await?;
    client.write_all(&value).await?;
    client.write_all(b"\r\n").await?;
    client.read_exact(&mut [0; 5]).await.context("SET was not answered")?;
    let up = began.elapsed();
    let began = Instant::now();
    client.write_all(b"*2\r\n$3\r\nGET\r\n$4\r\ndemo\r\n").await?;
    let head = format!("${VALUE}\r\n").len();
    let mut back = vec![0; head + VALUE + 2];
    client.read_exact(&mut back).await.context("GET was not answered")?;
    let down = began.elapsed();
    ensure!(back[head..head + VALUE] == value[..], "the value changed on its way");
    let rate = |time: Duration| VALUE as f64 / 1e9 / time.as_secs_f64();
    let shown = format!("up {:>5.2} GB/s   down {:>5.2} GB/s", rate(up), rate(down));
    screen::measure(out, "throughput", &format!("{} MiB", VALUE >> 20), &shown)?;
    Ok(())
}

fn random_key() -> anyhow::Result<Key> {
    let mut bytes = [0; 32];
    SysRng.try_fill_bytes(&mut bytes).context("the system gives no randomness")?;
    Ok(Key::new(Secret::take(&mut bytes)))
}
