//! A plain server that counts its connections and their bytes.

use std::io::{Read, Write};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::sync::Arc;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::Builder;

use crate::address::{Addr, Kind};
use crate::wait::eventually;
use crate::wire::{Listener, Wire};

/// Counts of a target.
#[derive(Default)]
pub struct Counts {
    accepts: AtomicU64,
    bytes: AtomicU64,
    live: AtomicU64,
    failed: AtomicBool,
}

impl Counts {
    pub fn accepts(&self) -> u64 {
        self.accepts.load(Ordering::SeqCst)
    }

    /// Returns the number of bytes that clients sent, as far as the target read them.
    pub fn bytes(&self) -> u64 {
        self.bytes.load(Ordering::SeqCst)
    }

    /// Returns the number of connections that are served right now.
    pub fn live(&self) -> u64 {
        self.live.load(Ordering::SeqCst)
    }

    pub fn add_bytes(&self, n: usize) {
        self.bytes.fetch_add(n as u64, Ordering::SeqCst);
    }
}

/// A server on a thread per connection; it stops on drop.
pub struct Target {
    addr: Addr,
    counts: Arc<Counts>,
    stop: Arc<AtomicBool>,
}

impl Target {
    /// Serves each connection with `serve`.
    pub fn serve(at: &Addr, serve: impl Fn(Wire, &Counts) + Send + Sync + 'static) -> Self {
        let listener = Listener::bind(at).unwrap_or_else(|e| panic!("cannot listen on {at}: {e}"));
        let target = Self {
            addr: listener.addr(),
            counts: Arc::new(Counts::default()),
            stop: Arc::new(AtomicBool::new(false)),
        };
        let counts = Arc::clone(&target.counts);
        let stop = Arc::clone(&target.stop);
        std::thread::spawn(move || accept_all(&listener, &counts, &stop, &Arc::new(serve)));
        target
    }

    /// Serves on loopback.
    pub fn local(serve: impl Fn(Wire, &Counts) + Send + Sync + 'static) -> Self {
        Self::serve(&Kind::Tcp4.fresh(Path::new("/"), ""), serve)
    }

    /// Echoes everything, until the client has finished.
    pub fn echo() -> Self {
        Self::local(echo)
    }

    /// Accepts, and then neither reads, writes nor closes.
    pub fn hold() -> Self {
        let held = Mutex::new(Vec::new());
        Self::local(move |wire, _| held.lock().expect("no one who holds it panics").push(wire))
    }

    pub fn addr(&self) -> &Addr {
        &self.addr
    }

    pub fn counts(&self) -> &Counts {
        &self.counts
    }

    /// Waits until every connection has been served; panics when serving one of them failed.
    #[track_caller]
    pub fn wait_idle(&self) {
        eventually("the target has no connection any more", || self.counts.live() == 0);
        assert!(!self.counts.failed.load(Ordering::SeqCst), "the target has failed; see above");
    }
}

impl Drop for Target {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::SeqCst);
        // Wakes the accept loop; when it fails, the loop is gone already.
        drop(Wire::connect(&self.addr));
    }
}

/// Echoes on `wire` until the client has finished.
pub fn echo(mut wire: Wire, counts: &Counts) {
    let mut buffer = vec![0; 64 * 1024];
    while let Ok(n @ 1..) = wire.read(&mut buffer) {
        counts.add_bytes(n);
        if wire.write_all(&buffer[..n]).is_err() {
            return;
        }
    }
}

/// Echoes `first`, which was read already, and then the rest.
pub fn echo_after(first: &[u8], mut wire: Wire, counts: &Counts) {
    counts.add_bytes(first.len());
    if wire.write_all(first).is_ok() {
        echo(wire, counts);
    }
}

fn accept_all(
    listener: &Listener,
    counts: &Arc<Counts>,
    stop: &AtomicBool,
    serve: &Arc<impl Fn(Wire, &Counts) + Send + Sync + 'static>,
) {
    while let Ok(wire) = listener.accept() {
        if stop.load(Ordering::SeqCst) {
            return;
        }
        counts.accepts.fetch_add(1, Ordering::SeqCst);
        counts.live.fetch_add(1, Ordering::SeqCst);
        let serve = Arc::clone(serve);
        let counts = Arc::clone(counts);
        // Small stacks: some scenarios serve thousands of connections at once.
        Builder::new()
            .stack_size(128 * 1024)
            .spawn(move || {
                if catch_unwind(AssertUnwindSafe(|| serve(wire, &counts))).is_err() {
                    counts.failed.store(true, Ordering::SeqCst);
                }
                counts.live.fetch_sub(1, Ordering::SeqCst);
            })
            .expect("a thread can be started");
    }
}
