//! A flood of connections without a byte, and a dialer over a slow link.

use std::io::{Read, Write};
use std::net::{IpAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::mpsc::channel;
use std::thread;
use std::time::{Duration, Instant};

use testkit::{Addr, Launch, NEVER, Target, Wire, any, keygen, proc};

/// Delay in one direction.
const DELAY: Duration = Duration::from_millis(150);

/// Connections that the flood keeps open: many more than there are slots for handshakes, so that
/// one that it ends was evicted long before.
const OPEN: usize = 2_000;

/// Pause between two of them, so that they do not pile up before they are accepted.
const PACE: Duration = Duration::from_micros(400);

/// Forwards to `to`, from another address than the flood's, with [`DELAY`] each way. As with a real
/// link the dialer's first bytes follow the connection at once.
fn slow_link(to: &Addr) -> Addr {
    let (listener, to) = (TcpListener::bind("127.0.0.1:0").unwrap(), to.clone());
    let address = Addr::Tcp(listener.local_addr().unwrap());
    thread::spawn(move || {
        for dialer in listener.incoming() {
            let (Ok(dialer), to) = (dialer, to.clone()) else { return };
            thread::spawn(move || forward(dialer, &to));
        }
    });
    address
}

fn forward(mut dialer: TcpStream, to: &Addr) {
    let mut first = [0; 4096];
    let Ok(got @ 1..) = dialer.read(&mut first) else { return };
    thread::sleep(DELAY);
    let other = IpAddr::from([127, 0, 0, 2]);
    let Ok(Wire::Tcp(mut acceptor)) = Wire::connect_from(other, to) else { return };
    if acceptor.write_all(&first[..got]).is_err() {
        return;
    }
    let (back, forth) = (acceptor.try_clone().unwrap(), dialer.try_clone().unwrap());
    thread::spawn(move || late(back, forth));
    late(dialer, acceptor);
}

/// Copies with a delay, without delaying what follows.
fn late(mut from: TcpStream, mut to: TcpStream) {
    let (send, receive) = channel::<(Instant, Vec<u8>)>();
    thread::spawn(move || {
        for (due, bytes) in receive {
            thread::sleep(due.saturating_duration_since(Instant::now()));
            if to.write_all(&bytes).is_err() {
                return;
            }
        }
        let _ = to.shutdown(std::net::Shutdown::Write);
    });
    let mut buffer = [0; 4096];
    while let Ok(got @ 1..) = from.read(&mut buffer) {
        if send.send((Instant::now() + DELAY, buffer[..got].to_vec())).is_err() {
            return;
        }
    }
}

/// "A flood displaces its own": silent connections as fast as they can be made, from one address,
/// displace no dialer with answers that take three tenths of a second.
#[test]
fn a_flood_from_one_address_displaces_no_dialer_over_a_slow_link() {
    proc::need_descriptors(8_000);
    let (dir, target) = (tempfile::tempdir().unwrap(), Target::echo());
    let key = keygen(dir.path(), "key");
    let launch = Launch::decrypt(&key).source(&any()).target(target.addr());
    let decrypt = launch.args(["-o", "20s", "--max-handshakes", "64"]).start();
    let link = slow_link(decrypt.addr());
    let encrypt = Launch::encrypt(&key).source(&any()).target(&link).args(["-o", "20s"]).start();
    let (stop, made) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicUsize::new(0)));
    let flood = {
        let (stop, made, to) = (Arc::clone(&stop), Arc::clone(&made), decrypt.addr().clone());
        thread::spawn(move || {
            let mut open = std::collections::VecDeque::new();
            while !stop.load(Ordering::Relaxed) {
                open.extend(Wire::connect(&to).ok());
                made.fetch_add(1, Ordering::Relaxed);
                if open.len() > OPEN
                    && let Some(oldest) = open.pop_front()
                {
                    oldest.reset();
                }
                thread::sleep(PACE);
            }
        })
    };
    crate::eventually("the flood is under way", || made.load(Ordering::Relaxed) > 200);
    let (start, before) = (Instant::now(), made.load(Ordering::Relaxed));
    let mut clients: Vec<Wire> = (0..10).map(|_| encrypt.connect()).collect();
    for client in &mut clients {
        client.write_all(b"through the flood").unwrap();
    }
    let mut served = 0;
    for client in &mut clients {
        client.read_limit(NEVER);
        served += usize::from(client.read_exact(&mut [0; 17]).is_ok());
    }
    let (made_since, took) = (made.load(Ordering::Relaxed) - before, start.elapsed());
    stop.store(true, Ordering::Relaxed);
    flood.join().unwrap();
    let rate = format!("{:.0} silent connections a second", made_since as f64 / took.as_secs_f64());
    println!("{served} of 10 served in {took:?}, beside {rate}");
    assert_eq!(served, 10, "beside {rate}, for {took:?}");
}
