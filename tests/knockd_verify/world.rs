//! A `knockd` with its store, and an application that proxies forward to.

use std::io::{Read, Write};
use std::sync::{Arc, Mutex};

use tempfile::TempDir;
use testkit::redis::Redis;
use testkit::{Addr, End, Launch, Target, any, eventually};

use super::disguise::write_secret;
use super::http::get;

/// Prefix of the keys that admit.
pub(crate) const PREFIX: &str = "allow:";

/// A running service with its store.
pub(crate) struct World {
    pub(crate) redis: Redis,
    pub(crate) knockd: End,
    _dir: TempDir,
}

impl World {
    /// Starts with more arguments.
    pub(crate) fn start(args: &[&str]) -> Self {
        Self::start_at(&any(), args)
    }

    pub(crate) fn start_at(source: &Addr, args: &[&str]) -> Self {
        let redis = Redis::start();
        let dir = TempDir::new().unwrap();
        let tokens = dir.path().join("tokens");
        write_secret(&tokens, "");
        let knockd = Launch::new("knockd")
            .source(source)
            .args(["--gate", &redis.url(), "--allow-prefix", PREFIX, "--tokens"])
            .args([&tokens])
            .args(args)
            .start();
        Self { redis, knockd, _dir: dir }
    }

    pub(crate) fn addr(&self) -> &Addr {
        self.knockd.addr()
    }

    /// Lets an address in, as another program would, and waits until the service knows.
    pub(crate) fn grant(&self, ip: &str) {
        self.redis.ask(&format!("SET {PREFIX}{ip} 1"));
        self.eventually_verifies(ip, 200);
    }

    /// Takes it back.
    pub(crate) fn revoke(&self, ip: &str) {
        self.redis.ask(&format!("DEL {PREFIX}{ip}"));
        self.eventually_verifies(ip, 401);
    }

    fn eventually_verifies(&self, ip: &str, status: u16) {
        eventually(&format!("{ip} gets {status}"), || {
            get("127.0.0.1", self.addr(), "/verify", &[&format!("X-Forwarded-For: {ip}")]).status
                == status
        });
    }
}

/// A web application that says which target it was asked for, and remembers it.
pub(crate) struct App {
    target: Target,
    asked: Arc<Mutex<Vec<String>>>,
}

impl App {
    pub(crate) fn start() -> Self {
        let asked: Arc<Mutex<Vec<String>>> = Arc::default();
        let seen = Arc::clone(&asked);
        let target = Target::local(move |mut wire, _| {
            let mut head = vec![];
            let mut byte = [0];
            while !head.ends_with(b"\r\n\r\n") {
                if wire.read(&mut byte).is_ok_and(|n| n == 0) {
                    return;
                }
                head.push(byte[0]);
            }
            let text = String::from_utf8_lossy(&head);
            let target = text.split(' ').nth(1).unwrap_or_default().to_owned();
            seen.lock().unwrap().push(target.clone());
            let length = target.len();
            let _ = write!(
                wire,
                "HTTP/1.1 200 OK\r\nContent-Length: {length}\r\nConnection: close\r\n\r\n{target}"
            );
            wire.finish();
        });
        Self { target, asked }
    }

    pub(crate) fn addr(&self) -> &Addr {
        self.target.addr()
    }

    /// Returns the targets that it was asked for since the last time.
    pub(crate) fn asked(&self) -> Vec<String> {
        std::mem::take(&mut *self.asked.lock().unwrap())
    }
}
