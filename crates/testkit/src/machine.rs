//! A machine with its own names and other files of /etc: programs see them in their own mount
//! namespace, and the real machine stays unchanged.

use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::Command;

use tempfile::TempDir;

use crate::end::binary;
use crate::program::{install, require};

/// Files that name service reads.
const NAME_FILES: [&str; 2] = ["hosts", "nsswitch.conf"];

/// A machine with its own names.
pub struct Machine {
    dir: TempDir,
}

impl Machine {
    /// Makes a machine with the names of this text only.
    #[track_caller]
    pub fn new(hosts: &str) -> Self {
        let machine = Self { dir: tempfile::tempdir().expect("a directory can be made") };
        machine.write("nsswitch.conf", "passwd: files\ngroup: files\nhosts: files\n");
        machine.write("hosts", hosts);
        machine
    }

    pub fn path(&self) -> &Path {
        self.dir.path()
    }

    fn write(&self, name: &str, text: &str) {
        fs::write(self.dir.path().join(name), text).expect("the directory can be written");
    }

    /// Returns a program that runs `knockpipe` with these names.
    #[track_caller]
    pub fn knockpipe(&self) -> PathBuf {
        let mounts = NAME_FILES.map(|name| {
            format!("mount --bind {} /etc/{name}", self.dir.path().join(name).display())
        });
        self.script("knockpipe", &mounts.join(" && "))
    }

    /// Returns such a program, with the files of /etc as links that lead, through a second link, to
    /// `place/NAME`.
    #[track_caller]
    pub fn knockpipe_with_links_to(&self, place: &Path) -> PathBuf {
        let etc = self.dir.path().join("etc");
        let between = self.dir.path().join("between");
        let copied = Command::new("cp").args(["-a", "/etc/."]).arg(&etc).output();
        let copied = copied.expect("cp starts");
        assert!(copied.status.success(), "{}", String::from_utf8_lossy(&copied.stderr));
        fs::create_dir(&between).expect("it is new");
        for name in NAME_FILES {
            let _ = fs::remove_file(etc.join(name));
            fs::copy(self.dir.path().join(name), place.join(name)).expect("it can be written");
            symlink(place.join(name), between.join(name)).expect("it is new");
            symlink(between.join(name), etc.join(name)).expect("it is new");
        }
        self.script("knockpipe-linked", &format!("mount --bind {} /etc", etc.display()))
    }

    #[track_caller]
    fn script(&self, name: &str, mounts: &str) -> PathBuf {
        let words = private_mounts();
        let text = format!(
            "#!/bin/sh\nexec {} sh -c '{mounts} && exec {} \"$@\"' knockpipe \"$@\"\n",
            words.join(" "),
            binary().display(),
        );
        let draft = self.dir.path().join("draft");
        let script = self.dir.path().join(name);
        fs::write(&draft, text).expect("the directory can be written");
        let mode = fs::Permissions::from_mode(0o755);
        fs::set_permissions(&draft, mode).expect("it is ours");
        install(&draft, &script);
        script
    }
}

/// Returns the `unshare` command that permits mounts; panics when that is impossible.
#[track_caller]
pub fn private_mounts() -> Vec<&'static str> {
    require("unshare", "util-linux");
    require("mount", "mount");
    let root = nix::unistd::geteuid().is_root();
    let words = if root { vec!["unshare", "-m"] } else { vec!["unshare", "-r", "-m"] };
    let allowed = Command::new(words[0]).args(&words[1..]).arg("true").output();
    let allowed = allowed.expect("unshare starts");
    assert!(
        allowed.status.success(),
        "this test needs a mount namespace; run it as root, or allow user namespaces: {}",
        String::from_utf8_lossy(&allowed.stderr)
    );
    words
}

/// Returns a command for the program with its own /dev that contains only this log; the caller adds
/// the arguments.
#[track_caller]
pub fn with_syslog(log: &Path) -> Command {
    let mut words = private_mounts().into_iter();
    let mut command = Command::new(words.next().expect("it begins with unshare"));
    command.args(words).args(["sh", "-c"]).arg(format!(
        "mount -t tmpfs none /dev && ln -s {} /dev/log && exec {} \"$@\"",
        log.display(),
        binary().display()
    ));
    command.arg("knockpipe");
    command
}
