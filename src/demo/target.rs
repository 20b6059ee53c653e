//! The target of the demo: a real redis-server when one is installed, and
//! otherwise an embedded server that knows PING, SET and GET.

use std::io;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use anyhow::{Context, ensure};
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::{TcpListener, TcpStream};
use tokio::time::sleep;

/// Number of attempts to reach redis-server after its start, 50 ms apart.
const START_TRIES: usize = 200;

/// Longest value the embedded server takes, in bytes.
const MAX_VALUE: usize = 1 << 30;

/// A server that counts its connections.
pub(super) enum Target {
    Redis(Redis),
    Embedded(Embedded),
}

/// A redis-server that this process started; it ends with the demo.
pub(super) struct Redis {
    process: Child,
    directory: PathBuf,
    address: String,
    /// Connections of this module, which it counts too.
    questions: AtomicUsize,
}

/// A server in this process.
pub(super) struct Embedded {
    address: String,
    connections: Arc<AtomicUsize>,
}

impl Target {
    /// Starts redis-server if it is installed, the embedded server otherwise.
    pub(super) async fn start() -> anyhow::Result<Self> {
        Ok(match Redis::start_if_installed().await? {
            Some(redis) => Self::Redis(redis),
            None => Self::Embedded(Embedded::start().await?),
        })
    }

    pub(super) fn address(&self) -> &str {
        match self {
            Self::Redis(redis) => &redis.address,
            Self::Embedded(embedded) => &embedded.address,
        }
    }

    pub(super) fn description(&self) -> &'static str {
        match self {
            Self::Redis(_) => "redis-server, started for the demo, in memory",
            Self::Embedded(_) => "embedded, since no redis-server is installed",
        }
    }

    /// Returns the number of connections that it has seen.
    pub(super) async fn connections(&self) -> anyhow::Result<usize> {
        match self {
            Self::Redis(redis) => redis.connections().await,
            Self::Embedded(embedded) => Ok(embedded.connections.load(Ordering::Relaxed)),
        }
    }
}

// === impl Redis ===

impl Redis {
    async fn start_if_installed() -> anyhow::Result<Option<Self>> {
        let port = TcpListener::bind("127.0.0.1:0").await?.local_addr()?.port();
        let directory = std::env::temp_dir().join(format!("knockpipe-demo-{}", std::process::id()));
        std::fs::create_dir(&directory).context("cannot make a temporary directory")?;
        let started = Command::new("redis-server")
            .args(["--bind", "127.0.0.1", "--save", "", "--appendonly", "no", "--port"])
            .arg(port.to_string())
            .arg("--dir")
            .arg(&directory)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .spawn();
        let process = match started {
            Ok(process) => process,
            Err(error) => {
                std::fs::remove_dir(&directory)?;
                return match error.kind() {
                    io::ErrorKind::NotFound => Ok(None),
                    _ => Err(error).context("cannot start redis-server"),
                };
            }
        };
        let address = format!("127.0.0.1:{port}");
        let redis = Self { process, directory, address, questions: AtomicUsize::new(0) };
        redis.wait_until_started().await?;
        Ok(Some(redis))
    }

    async fn wait_until_started(&self) -> anyhow::Result<()> {
        for _ in 0..START_TRIES {
            if self.connections().await.is_ok() {
                return Ok(());
            }
            sleep(Duration::from_millis(50)).await;
        }
        anyhow::bail!("redis-server did not start; try redis-server --port 0")
    }

    async fn connections(&self) -> anyhow::Result<usize> {
        let mut client = TcpStream::connect(&self.address).await?;
        let questions = self.questions.fetch_add(1, Ordering::Relaxed) + 1;
        client.write_all(b"INFO stats\r\nQUIT\r\n").await?;
        let mut answer = String::new();
        client.read_to_string(&mut answer).await?;
        let count =
            answer.lines().find_map(|line| line.strip_prefix("total_connections_received:"));
        let count: usize = count.context("redis-server does not count")?.trim().parse()?;
        Ok(count - questions)
    }
}

impl Drop for Redis {
    fn drop(&mut self) {
        // Best effort: it holds nothing but the demo's value.
        let _ = self.process.kill();
        let _ = self.process.wait();
        let _ = std::fs::remove_dir_all(&self.directory);
    }
}

// === impl Embedded ===

impl Embedded {
    async fn start() -> anyhow::Result<Self> {
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let address = listener.local_addr()?.to_string();
        let connections = Arc::new(AtomicUsize::new(0));
        let counter = Arc::clone(&connections);
        tokio::spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                counter.fetch_add(1, Ordering::Relaxed);
                tokio::spawn(serve(client));
            }
        });
        Ok(Self { address, connections })
    }
}

/// Serves one client with the part of Redis's protocol that the demo needs.
async fn serve(client: TcpStream) -> anyhow::Result<()> {
    client.set_nodelay(true)?;
    let mut client = BufReader::with_capacity(1 << 16, client);
    let mut value = vec![];
    loop {
        let words = command(&mut client).await?;
        let words: Vec<&[u8]> = words.iter().map(Vec::as_slice).collect();
        match words[..] {
            [b"PING"] => client.write_all(b"+PONG\r\n").await?,
            [b"SET", _, new] => {
                value = new.to_vec();
                client.write_all(b"+OK\r\n").await?;
            }
            [b"GET", _] => {
                client.write_all(format!("${}\r\n", value.len()).as_bytes()).await?;
                client.write_all(&value).await?;
                client.write_all(b"\r\n").await?;
            }
            _ => client.write_all(b"-ERR this server knows PING, SET and GET\r\n").await?,
        }
    }
}

/// Reads one command: a line of words, or an array of bulk strings.
async fn command(client: &mut BufReader<TcpStream>) -> anyhow::Result<Vec<Vec<u8>>> {
    let first = line(client).await?;
    let Some(count) = first.strip_prefix('*') else {
        return Ok(first.split_whitespace().map(|word| word.as_bytes().to_vec()).collect());
    };
    let mut words = vec![];
    for _ in 0..count.parse::<u8>()? {
        let len = line(client).await?;
        let len: usize = len.strip_prefix('$').context("no bulk string")?.parse()?;
        ensure!(len <= MAX_VALUE, "too long a value");
        let mut word = vec![0; len + 2];
        client.read_exact(&mut word).await?;
        word.truncate(len);
        words.push(word);
    }
    Ok(words)
}

async fn line(client: &mut BufReader<TcpStream>) -> anyhow::Result<String> {
    let mut line = String::new();
    ensure!(client.read_line(&mut line).await? > 0, "the client hung up");
    Ok(line.trim_end().to_owned())
}
