//! The stand-in behind a socket: HTTP/1.1, one thread for each connection.

use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Mutex, MutexGuard};
use std::thread;
use std::time::{Instant, SystemTime, UNIX_EPOCH};

use super::{Asked, Cloud};

/// A server at 127.0.0.1. Its listener lives as long as the test's process.
pub struct CloudServer {
    address: SocketAddr,
    cloud: Arc<Mutex<Cloud>>,
}

impl CloudServer {
    pub fn start() -> Self {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let address = listener.local_addr().unwrap();
        let cloud = Arc::new(Mutex::new(Cloud::default()));
        let shared = Arc::clone(&cloud);
        let began = Instant::now();
        thread::spawn(move || {
            for stream in listener.incoming().map_while(Result::ok) {
                let cloud = Arc::clone(&shared);
                thread::spawn(move || serve(&stream, &cloud, began));
            }
        });
        Self { address, cloud }
    }

    /// The address with scheme.
    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    pub fn address(&self) -> SocketAddr {
        self.address
    }

    pub fn cloud(&self) -> MutexGuard<'_, Cloud> {
        self.cloud.lock().unwrap()
    }
}

fn serve(stream: &TcpStream, cloud: &Mutex<Cloud>, began: Instant) {
    let mut reader = BufReader::new(stream);
    while let Ok(Some((headers, body))) = read(&mut reader) {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs();
        let asked = Asked { headers: &headers, body: &body, at: began.elapsed(), now };
        let mut cloud = cloud.lock().unwrap();
        if cloud.is_down {
            return;
        }
        let (status, text) = cloud.answer(&asked);
        drop(cloud);
        let head = format!(
            "HTTP/1.1 {status} Said\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\r\n",
            text.len()
        );
        let mut stream = stream;
        if stream.write_all((head + &text).as_bytes()).is_err() {
            return;
        }
    }
}

type Message = (Vec<(String, String)>, Vec<u8>);

/// Reads a request; `None` at the end of the connection.
fn read(reader: &mut BufReader<&TcpStream>) -> io::Result<Option<Message>> {
    let mut line = String::new();
    if reader.read_line(&mut line)? == 0 {
        return Ok(None);
    }
    let mut headers = vec![];
    loop {
        line.clear();
        reader.read_line(&mut line)?;
        let Some((name, value)) = line.trim_end().split_once(':') else { break };
        headers.push((name.to_ascii_lowercase(), value.trim().to_owned()));
    }
    let length = headers.iter().find(|(name, _)| name == "content-length");
    let length = length.map_or(0, |(_, value)| value.parse().unwrap());
    let mut body = vec![0; length];
    reader.read_exact(&mut body)?;
    Ok(Some((headers, body)))
}
