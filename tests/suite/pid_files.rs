//! Pid files left by a process that is gone, and those of a process that runs.

use std::fs::{self, File};
use std::os::fd::AsFd;
use std::process::{Child, Command, Stdio};

use nix::fcntl::{FcntlArg, fcntl};
use nix::libc;
use tempfile::TempDir;

use testkit::proc::Background;
use testkit::{Launch, Program, any, binary, eventually, keygen};

/// Another program, with a number that the system has reused.
struct Other(Child);

impl Other {
    fn start() -> Self {
        Self(Command::new("sleep").arg("1000").spawn().unwrap())
    }
}

impl Drop for Other {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn decrypt(dir: &TempDir) -> Launch {
    let key = dir.path().join("key");
    if !key.exists() {
        keygen(dir.path(), "key");
    }
    let pid_file = dir.path().join("my.pid");
    let launch = Launch::decrypt(&key).source(&any()).args(["-t", "127.0.0.1:1", "-p"]);
    launch.args([pid_file])
}

fn pid_of(program: &Program) -> String {
    format!("{}\n", program.pid())
}

/// After a crash, or a restart of the machine, the number is another program's.
#[test]
fn a_number_that_is_another_programs_stops_no_start() {
    let (dir, other) = (tempfile::tempdir().unwrap(), Other::start());
    let pid_file = dir.path().join("my.pid");
    for args in [&[][..], &["--no-sandbox"]] {
        fs::write(&pid_file, format!("{}\n", other.0.id())).unwrap();
        let mut end = decrypt(&dir).args(args).start();
        assert_eq!(fs::read_to_string(&pid_file).unwrap(), pid_of(&end.program));
        end.stop();
        assert!(!pid_file.exists(), "it is removed at the end");
    }
}

/// spiped's spelling, in the background, does the same.
#[test]
fn the_same_in_spipeds_spelling() {
    let (dir, other) = (tempfile::tempdir().unwrap(), Other::start());
    keygen(dir.path(), "key");
    let pid_file = dir.path().join("my.pid");
    for line in ["-d -s @/source -t @/target -k @/key -p @/my.pid", "-d -s @/my -t @/t -k @/key"] {
        fs::write(&pid_file, format!("{}\n", other.0.id())).unwrap();
        let words = line.split(' ').map(|word| word.replace('@', dir.path().to_str().unwrap()));
        let mut command = Command::new(binary());
        let status = command.args(words).stdin(Stdio::null()).stderr(Stdio::null()).status();
        assert!(status.unwrap().success(), "{line}");
        let background = Background::of(&pid_file);
        assert_ne!(background.pid(), other.0.id());
        background.stop();
        eventually("it is removed", || !pid_file.exists());
    }
}

#[track_caller]
fn refused(launch: &Launch, who: &str) {
    let mut second = launch.spawn();
    assert_eq!(second.exit_code(), 1, "{}", second.tail());
    let text = second.stderr();
    assert!(text.contains("cannot write pid file") && text.contains(who), "{text}");
}

/// It holds a lock, so the content of the file does not matter.
#[test]
fn a_living_process_keeps_its_pid_file() {
    let dir = tempfile::tempdir().unwrap();
    let pid_file = dir.path().join("my.pid");
    for args in [&[][..], &["--no-sandbox"]] {
        let launch = decrypt(&dir).args(args);
        let mut first = launch.start();
        refused(&launch, &format!("process {}, which is running", first.pid()));
        assert_eq!(fs::read_to_string(&pid_file).unwrap(), pid_of(&first.program));
        fs::write(&pid_file, "").unwrap();
        refused(&launch, "another process, which is running");
        fs::write(&pid_file, pid_of(&first.program)).unwrap();
        first.stop();
        assert!(!pid_file.exists());
        launch.start().stop();
    }
}

/// After a restart of the machine the number may be that of another tunnel.
#[test]
fn a_number_that_is_another_tunnels_stops_no_start() {
    let dir = tempfile::tempdir().unwrap();
    let pid_file = dir.path().join("my.pid");
    let mut other = Launch::decrypt(&keygen(dir.path(), "key"))
        .source(&any())
        .args(["-t", "127.0.0.1:1"])
        .start();
    for args in [&[][..], &["--no-sandbox"]] {
        fs::write(&pid_file, pid_of(&other.program)).unwrap();
        let mut end = decrypt(&dir).args(args).start();
        assert_eq!(fs::read_to_string(&pid_file).unwrap(), pid_of(&end.program));
        end.stop();
    }
    other.stop();
}

/// Every user may read it, and so lock it as far as a reader can.
#[test]
fn a_reader_of_the_pid_file_stops_no_start() {
    let dir = tempfile::tempdir().unwrap();
    let pid_file = dir.path().join("my.pid");
    fs::write(&pid_file, "99999999\n").unwrap();
    let reader = File::open(&pid_file).unwrap();
    let lock =
        libc::flock { l_type: libc::F_RDLCK as i16, l_whence: 0, l_start: 0, l_len: 0, l_pid: 0 };
    fcntl(reader.as_fd(), FcntlArg::F_OFD_SETLK(&lock)).unwrap();
    decrypt(&dir).start().stop();
}
