//! Root that makes files in directories of another user, who exchanges parts of the path for links
//! meanwhile. Needs root.

use std::fs::{self, Permissions};
use std::os::unix::fs::{MetadataExt, PermissionsExt, chown, lchown, symlink};
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use nix::fcntl::{AT_FDCWD, RenameFlags, renameat2};
use nix::sys::inotify::{AddWatchFlags, InitFlags, Inotify};
use tempfile::TempDir;
use testkit::{Launch, Program, binary, eventually, keygen};

/// The other user.
const USER: u32 = 65534;
const NAME: &str = "nobody";

/// `user/`, which is the other user's, with a directory `sub` of theirs and a link
/// `link` of theirs that leads to `system/`, which is root's and holds `precious`.
struct Ground(TempDir);

impl Ground {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        fs::set_permissions(dir.path(), Permissions::from_mode(0o755)).unwrap();
        let ground = Self(dir);
        for directory in ["user", "user/sub", "system"] {
            fs::create_dir(ground.path(directory)).unwrap();
        }
        fs::write(ground.path("system/precious"), "root's").unwrap();
        fs::set_permissions(ground.path("system/precious"), Permissions::from_mode(0o644)).unwrap();
        chown(ground.path("user"), Some(USER), Some(USER)).unwrap();
        chown(ground.path("user/sub"), Some(USER), Some(USER)).unwrap();
        ground.lay("../system", "user/link");
        ground
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    /// Makes a link of the other user's.
    fn lay(&self, target: &str, name: &str) {
        symlink(target, self.path(name)).unwrap();
        lchown(self.path(name), Some(USER), Some(USER)).unwrap();
    }

    /// Checks that nothing of root's was changed, and nothing was made there.
    #[track_caller]
    fn check(&self, when: &str) {
        let precious = fs::metadata(self.path("system/precious")).unwrap();
        assert_eq!((precious.uid(), precious.mode() & 0o7777), (0, 0o644), "{when}");
        let made: Vec<_> = fs::read_dir(self.path("system")).unwrap().flatten().collect();
        assert_eq!(made.len(), 1, "{when}: {made:?}");
    }

    /// Returns the result of `work`, while the other user exchanges `one` and `other` without a
    /// pause.
    fn while_exchanged<T>(&self, one: &str, other: &str, work: impl FnOnce() -> T) -> T {
        let (one, other) = (self.path(one), self.path(other));
        let done = AtomicBool::new(false);
        thread::scope(|scope| {
            scope.spawn(|| {
                while !done.load(Ordering::Relaxed) {
                    // One of them may not be there yet.
                    let flags = RenameFlags::RENAME_EXCHANGE;
                    let _ = renameat2(AT_FDCWD, &one, AT_FDCWD, &other, flags);
                }
            });
            let worked = std::panic::catch_unwind(std::panic::AssertUnwindSafe(work));
            done.store(true, Ordering::Relaxed);
            worked.unwrap_or_else(|panic| std::panic::resume_unwind(panic))
        })
    }
}

fn allow(gate: &Path) -> Output {
    let mut command = Command::new(binary());
    command.args(["gate", "allow", "203.0.113.7", "--gate"]);
    command.arg(format!("file:{}", gate.display())).output().unwrap()
}

/// Returns the one line of a failure.
#[track_caller]
fn complaint(output: &Output, parts: &[&str]) {
    let text = String::from_utf8(output.stderr.clone()).unwrap();
    assert!(matches!(output.status.code(), Some(1 | 2)), "{text}");
    assert_eq!(text.lines().count(), 1, "{text}");
    for part in parts {
        assert!(text.contains(part), "no '{part}' in {text}");
    }
}

/// A gate file, as docs/operating/gate.md recommends it: the commands are root's, and the file
/// belongs to the owner of its directory.
#[test]
fn root_makes_a_gate_file_for_the_owner_of_its_directory_and_nowhere_else() {
    let ground = Ground::new();
    let gate = ground.path("user/sub/gate");
    let mut made = 0;
    ground.while_exchanged("user/sub", "user/link", || {
        for round in 0..200 {
            let output = allow(&gate);
            made += u32::from(output.status.success());
            ground.check(&format!("round {round}"));
            // Either of them may be the directory now.
            for name in ["user/sub/gate", "user/link/gate"] {
                let _ = fs::remove_file(ground.path(name));
            }
        }
    });
    println!("made {made} times of 200");
    if fs::symlink_metadata(ground.path("user/sub")).unwrap().is_symlink() {
        fs::remove_file(ground.path("user/sub")).unwrap();
        fs::rename(ground.path("user/link"), ground.path("user/sub")).unwrap();
    }
    assert!(allow(&gate).status.success());
    let found = fs::metadata(&gate).unwrap();
    assert_eq!((found.uid(), found.mode() & 0o777), (USER, 0o600));
    ground.check("at the end");
}

#[test]
fn root_writes_its_pid_file_where_its_directory_is_and_nowhere_else() {
    let ground = Ground::new();
    let key = keygen(ground.0.path(), "key");
    let launch = Launch::decrypt(&key).args(["-s", "127.0.0.1:0", "-t", "127.0.0.1:1", "-p"]);
    let launch = launch.args([ground.path("user/sub/pid")]);
    ground.while_exchanged("user/sub", "user/link", || {
        for round in 0..50 {
            let mut program = launch.spawn();
            eventually("it is ready, or gave up", || {
                !program.is_running() || program.log().iter().any(|line| line.is("ready"))
            });
            drop(program);
            ground.check(&format!("round {round}"));
            for name in ["user/sub/pid", "user/link/pid"] {
                let _ = fs::remove_file(ground.path(name));
            }
        }
    });
}

/// For any file that root makes, no link of the other user's is followed on the way, and none at
/// all in the last place.
#[test]
fn root_follows_no_link_of_another_user() {
    let ground = Ground::new();
    ground.lay("../system/new", "user/dangling");
    ground.lay("../system/precious", "user/there");
    let link = "is a symbolic link";
    let theirs = format!("user/link {link} that {NAME} can change");
    let key = keygen(ground.0.path(), "key");
    let serve = |flag: &str, name: &str| {
        let launch = Launch::decrypt(&key).args(["-s", "127.0.0.1:0", "-t", "127.0.0.1:1", flag]);
        let mut program = launch.args([ground.path(name)]).spawn();
        assert_eq!(program.exit_code(), 1, "{flag} {name}: {}", program.tail());
        program.stderr()
    };
    for (name, part) in [("link/new", &*theirs), ("dangling", link), ("there", link)] {
        let name = format!("user/{name}");
        complaint(&allow(&ground.path(&name)), &[part, "give the path that it leads to"]);
        let text = serve("-p", &name);
        assert!(text.contains(part) && text.contains("pid file"), "{text}");
        ground.check(&name);
    }
    let made = Command::new(binary()).arg("keygen").arg(ground.path("user/link/new")).output();
    complaint(&made.unwrap(), &["cannot create", &theirs]);
    for flag in ["--admin", "--handover", "--metrics", "-s"] {
        let text = serve(flag, "user/link/new");
        assert!(text.contains(&theirs), "{flag}: {text}");
        ground.check(flag);
    }
    // A link that root made where no other user can is an ordinary part of a path.
    symlink("user/sub", ground.path("roots")).unwrap();
    assert!(allow(&ground.path("roots/gate")).status.success());
    assert_eq!(fs::metadata(ground.path("user/sub/gate")).unwrap().uid(), USER);
    // Where others can, they put it where another one was.
    fs::create_dir(ground.path("shared")).unwrap();
    symlink("../system", ground.path("shared/roots")).unwrap();
    for (mode, is_followed) in [(0o777, false), (0o2775, false), (0o1777, true), (0o755, true)] {
        fs::set_permissions(ground.path("shared"), Permissions::from_mode(mode)).unwrap();
        let output = allow(&ground.path(&format!("shared/roots/{mode:o}")));
        assert_eq!(output.status.success(), is_followed, "{mode:o}");
        if !is_followed {
            complaint(
                &output,
                &["shared/roots is a symbolic link that any user with write access beside it"],
            );
        }
    }
}

/// A file of another user with a second name in the directory.
#[test]
fn root_writes_into_no_file_that_has_another_name_elsewhere() {
    let ground = Ground::new();
    let victim = ground.path("system/precious");
    fs::write(&victim, "").unwrap();
    for name in ["gate", "pid"] {
        fs::hard_link(&victim, ground.path("user").join(name)).unwrap();
    }
    fs::set_permissions(&victim, Permissions::from_mode(0o600)).unwrap();
    complaint(&allow(&ground.path("user/gate")), &["a hard link"]);
    let key = keygen(ground.0.path(), "key");
    let launch = Launch::decrypt(&key).args(["-s", "127.0.0.1:0", "-t", "127.0.0.1:1", "-p"]);
    let mut program = launch.args([ground.path("user/pid")]).spawn();
    assert_eq!(program.exit_code(), 1, "{}", program.tail());
    assert!(program.stderr().contains("a hard link"), "{}", program.stderr());
    assert_eq!(fs::read(&victim).unwrap(), b"");
    // A file that the other user put where others can, as in /tmp, or in a directory of a group.
    // The kernel may refuse it as well.
    for (directory, mode) in [("shared", 0o1777), ("groups", 0o2775)] {
        fs::create_dir(ground.path(directory)).unwrap();
        fs::set_permissions(ground.path(directory), Permissions::from_mode(mode)).unwrap();
        for name in ["gate", "pid"] {
            let path = ground.path(directory).join(name);
            fs::write(&path, "").unwrap();
            fs::set_permissions(&path, Permissions::from_mode(0o600)).unwrap();
            chown(&path, Some(USER), None).unwrap();
        }
        let gate = ground.path(directory).join("gate");
        complaint(&allow(&gate), &["belongs to nobody"]);
        assert_eq!(fs::read(&gate).unwrap(), b"", "{directory}");
        let pid = ground.path(directory).join("pid");
        let launch = Launch::decrypt(&key).args(["-s", "127.0.0.1:0", "-t", "127.0.0.1:1", "-p"]);
        let mut program = launch.args([&pid]).spawn();
        assert_eq!(program.exit_code(), 1, "{}", program.tail());
        assert_eq!(fs::read(&pid).unwrap(), b"", "{directory}");
    }
}

/// A pid file in a directory that many share is made before the sandbox is entered, and
/// so before the others. Links of the other user lead to `/srv`.
#[test]
fn root_makes_no_pid_file_early_where_a_link_of_another_user_leads() {
    let ground = Ground::new();
    let own = ground.0.path().file_name().unwrap().to_str().unwrap().replace('.', "");
    let stray = Stray(Path::new("/srv").join(format!("knockpipe-test{own}.pid")));
    let name = stray.0.file_name().unwrap();
    ground.lay("/srv", "user/away");
    // Notified when it appears, however short it is there.
    let watch = Inotify::init(InitFlags::IN_NONBLOCK).unwrap();
    watch.add_watch("/srv", AddWatchFlags::IN_CREATE).unwrap();
    let made = || {
        let events = watch.read_events().unwrap_or_default();
        events.iter().any(|event| event.name.as_deref() == Some(name))
    };
    let key = keygen(ground.0.path(), "key");
    let launch = Launch::decrypt(&key).args(["-s", "127.0.0.1:0", "-t", "127.0.0.1:1", "-p"]);
    let launch = launch.args([ground.path("user/away").join(name)]);
    let mut program = launch.spawn();
    assert_eq!(program.exit_code(), 1, "{}", program.tail());
    let text = program.stderr();
    assert!(
        text.contains(&format!("user/away is a symbolic link that {NAME} can change")),
        "{text}"
    );
    assert!(!made() && !stray.0.exists(), "it was made for a moment");
    ground.while_exchanged("user/sub", "user/away", || {
        for round in 0..30 {
            let launch = Launch::decrypt(&key).args(["-s", "127.0.0.1:0", "-t", "/no/where", "-p"]);
            let mut program = launch.args([ground.path("user/sub").join(name)]).spawn();
            eventually("it is ready, or gave up", || {
                !program.is_running() || program.log().iter().any(|line| line.is("ready"))
            });
            drop(program);
            assert!(!made() && !stray.0.exists(), "round {round}");
            for directory in ["user/sub", "user/away"] {
                let _ = fs::remove_file(ground.path(directory).join(name));
            }
        }
    });
}

/// A file outside of the ground; gone at the end.
struct Stray(PathBuf);

impl Drop for Stray {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.0);
    }
}

// === sockets ===

/// Starts a decrypt end that becomes the other user, with its admin socket in a directory of
/// theirs.
fn serve(ground: &Ground, key: &Path) -> Program {
    let mut command = Command::new(binary());
    command.args(["decrypt", "--log-format", "json", "-s", "127.0.0.1:0", "-t", "127.0.0.1:1"]);
    command.args(["-u", NAME, "--admin"]).arg(ground.path("user/admin.sock")).arg("-k").arg(key);
    Program::spawn("decrypt", command.stdin(Stdio::null()).stdout(Stdio::null()))
}

#[test]
fn root_changes_no_file_that_takes_the_place_of_its_admin_socket() {
    let ground = Ground::new();
    let key = keygen(ground.0.path(), "key");
    let (socket, trap) = (ground.path("user/admin.sock"), ground.path("user/trap"));
    for round in 0..120 {
        ground.lay("../system/precious", "user/trap");
        ground.while_exchanged("user/admin.sock", "user/trap", || {
            let mut program = serve(&ground, &key);
            eventually("it is ready, or gave up", || {
                !program.is_running() || program.log().iter().any(|line| line.is("ready"))
            });
        });
        ground.check(&format!("round {round}"));
        for path in [&socket, &trap] {
            let _ = fs::remove_file(path);
        }
    }
    // The socket itself is the other user's, from the moment when it is there.
    let program = serve(&ground, &key);
    program.wait_line("ready", |line| line.is("ready"));
    let found = fs::symlink_metadata(&socket).unwrap();
    assert_eq!((found.uid(), found.mode() & 0o777), (USER, 0o600));
}

/// A third user could exchange it, and would get the second one's connections.
#[test]
fn a_socket_is_given_to_no_user_in_a_third_users_directory() {
    let ground = Ground::new();
    let key = keygen(ground.0.path(), "key");
    chown(ground.path("user"), Some(1), None).unwrap();
    let mut program = serve(&ground, &key);
    assert_eq!(program.exit_code(), 1, "{}", program.tail());
    let text = program.stderr();
    assert!(text.contains("put it into a directory of that user"), "{text}");
    assert!(!ground.path("user/admin.sock").exists());
}

/// A path of the socket that is long, and its directory, that is renamed: the end removes the
/// socket at the directory's new place.
#[test]
fn a_socket_is_removed_where_it_was_made() {
    let ground = Ground::new();
    let key = keygen(ground.0.path(), "key");
    let mut program = serve(&ground, &key);
    program.wait_line("ready", |line| line.is("ready"));
    fs::rename(ground.path("user"), ground.path("moved")).unwrap();
    fs::create_dir(ground.path("user")).unwrap();
    fs::write(ground.path("user/admin.sock"), "another").unwrap();
    program.signal(nix::sys::signal::Signal::SIGTERM);
    assert_eq!(program.exit_code(), 0, "{}", program.tail());
    assert!(!ground.path("moved/admin.sock").exists());
    assert_eq!(fs::read(ground.path("user/admin.sock")).unwrap(), b"another");
}
