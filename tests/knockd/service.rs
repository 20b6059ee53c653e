//! A running service with its tokens and its store.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use tempfile::TempDir;

use testkit::{End, Launch, binary};

/// A service, and the directory of its files.
pub(crate) struct Service {
    pub end: End,
    pub dir: TempDir,
}

/// Settings of a service.
pub(crate) struct Settings {
    pub dir: TempDir,
    pub listen: String,
    pub args: Vec<String>,
}

/// Runs `knockpipe knockd token ...`.
pub(crate) fn token(args: &[&str]) -> Output {
    let mut command = Command::new(binary());
    command.args(["knockd", "token"]).args(args).stdin(Stdio::null());
    command.output().expect("it starts")
}

/// Runs it with this input, and panics when it fails.
#[track_caller]
pub(crate) fn token_from(args: &[&str], input: &str) {
    use std::io::Write;
    let mut command = Command::new(binary());
    command.args(["knockd", "token"]).args(args);
    let mut child = command.stdin(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    child.stdin.take().unwrap().write_all(input.as_bytes()).unwrap();
    let output = child.wait_with_output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}

impl Settings {
    pub(crate) fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        Self { dir, listen: "127.0.0.1:0".to_owned(), args: vec![] }
    }

    pub(crate) fn tokens(&self) -> PathBuf {
        self.dir.path().join("tokens")
    }

    /// Adds a token that exists already.
    #[track_caller]
    pub(crate) fn with_token(self, name: &str, key: &str, rights: &[&str]) -> Self {
        let file = self.tokens();
        let mut args = vec!["new", name, "--tokens", file.to_str().unwrap(), "--from", "-"];
        args.extend(rights);
        token_from(&args, key);
        self
    }

    pub(crate) fn args(mut self, args: &[&str]) -> Self {
        self.args.extend(args.iter().map(|arg| (*arg).to_owned()));
        self
    }

    /// Keeps the grants in a file.
    pub(crate) fn in_file(self) -> Self {
        let gate = format!("file:{}", self.dir.path().join("gate").display());
        self.args(&["--gate", &gate])
    }

    pub(crate) fn launch(&self) -> Launch {
        let launch = Launch::new("knockd").args(["-s", &self.listen]);
        launch.args(["--tokens"]).args([self.tokens()]).args(&self.args)
    }

    #[track_caller]
    pub(crate) fn start(self) -> Service {
        Service { end: self.launch().start(), dir: self.dir }
    }
}

impl Service {
    pub(crate) fn addr(&self) -> SocketAddr {
        self.end.addr().tcp()
    }

    pub(crate) fn path(&self) -> &Path {
        self.dir.path()
    }

    pub(crate) fn tokens(&self) -> PathBuf {
        self.path().join("tokens")
    }
}
