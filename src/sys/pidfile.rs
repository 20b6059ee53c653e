//! A file that tells scripts which process to signal.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::fcntl::OFlag;
use nix::sys::signal::kill;
use nix::unistd::Pid;

/// A pid file of this process. Dropping it removes the file, as long as it
/// still names this process.
#[derive(Debug)]
pub struct PidFile {
    path: PathBuf,
    file: File,
}

/// Why the pid file was not written.
#[derive(Debug, thiserror::Error)]
#[error("cannot write pid file {}: {cause}; check its directory, or give another with -p", .path.display())]
pub struct PidFileError {
    path: PathBuf,
    cause: io::Error,
}

impl PidFile {
    /// Writes the pid in decimal and a newline, over what a dead process may
    /// have left there.
    ///
    /// # Errors
    /// When the file cannot be written; no empty one is left behind.
    pub fn write(path: &Path) -> Result<Self, PidFileError> {
        let fail = |cause| PidFileError { path: path.to_owned(), cause };
        let mut options = OpenOptions::new();
        // Started as root, it must not write through a link that somebody laid there.
        options.read(true).write(true).create(true).truncate(false);
        let file = options.custom_flags(OFlag::O_NOFOLLOW.bits()).open(path).map_err(fail)?;
        if file.metadata().is_ok_and(|metadata| metadata.is_file()) {
            check_free(&file).map_err(fail)?;
            file.set_len(0).map_err(fail)?;
        }
        let mut pid_file = Self { path: path.to_owned(), file };
        match pid_file.file.write_all(own_line().as_bytes()) {
            Ok(()) => Ok(pid_file),
            Err(cause) => {
                // Nobody's pid stands in it, so the drop would leave it.
                if pid_file.is_regular() {
                    let _ = fs::remove_file(path);
                }
                Err(fail(cause))
            }
        }
    }

    /// Whether our pid still stands in it: another process may have taken it over.
    fn names_us(&self) -> bool {
        let mut text = vec![0; own_line().len() + 1];
        let read = self.file.read_at(&mut text, 0);
        read.is_ok_and(|len| text[..len] == *own_line().as_bytes())
    }

    /// Whether it is a file at all: `-p /dev/null` must not remove a device.
    fn is_regular(&self) -> bool {
        self.file.metadata().is_ok_and(|metadata| metadata.is_file())
    }
}

impl Drop for PidFile {
    fn drop(&mut self) {
        if self.is_regular() && self.names_us() {
            // After privileges were dropped the directory may refuse the
            // removal. The open file still lets us take the pid out of it, so
            // that no script signals whoever gets that pid next.
            let _ = self.file.set_len(0);
            let _ = fs::remove_file(&self.path);
        }
    }
}

/// Whether the file holds nothing, or what a dead process left: not another
/// file's content, and not the pid of a process that lives.
fn check_free(file: &File) -> io::Result<()> {
    let mut text = [0; 16];
    let len = file.read_at(&mut text, 0)?;
    let text = str::from_utf8(&text[..len]).unwrap_or("?").trim();
    if text.is_empty() {
        return Ok(());
    }
    let Ok(pid) = text.parse::<u64>() else {
        return Err(io::Error::other("it exists and holds no pid"));
    };
    // No process has a pid beyond what the system's type holds.
    let lives =
        i32::try_from(pid).is_ok_and(|pid| kill(Pid::from_raw(pid), None) != Err(Errno::ESRCH));
    if lives && pid != u64::from(std::process::id()) {
        return Err(io::Error::other(format!("it belongs to process {pid}, which is running")));
    }
    Ok(())
}

fn own_line() -> String {
    format!("{}\n", std::process::id())
}

#[cfg(test)]
mod tests {
    use tempfile::TempDir;

    use super::*;

    #[test]
    fn written_over_a_stale_one_and_removed() {
        let dir = TempDir::new().unwrap();
        let path = dir.path().join("tunnel.pid");
        fs::write(&path, "99999999999\n").unwrap();
        let pid_file = PidFile::write(&path).unwrap();
        assert_eq!(fs::read_to_string(&path).unwrap(), own_line());
        drop(pid_file);
        assert!(!path.exists());
    }

    #[test]
    fn the_file_of_a_living_process_and_other_content_are_not_overwritten() {
        let dir = TempDir::new().unwrap();
        let path = dir.path().join("tunnel.pid");
        for (content, why) in [("1\n", "process 1, which is running"), ("important", "no pid")] {
            fs::write(&path, content).unwrap();
            let error = PidFile::write(&path).unwrap_err().to_string();
            assert!(error.contains(why), "{error}");
            assert_eq!(fs::read_to_string(&path).unwrap(), content);
        }
    }

    #[test]
    fn anothers_file_is_left_alone() {
        let dir = TempDir::new().unwrap();
        let path = dir.path().join("tunnel.pid");
        let pid_file = PidFile::write(&path).unwrap();
        fs::write(&path, "1\n").unwrap();
        drop(pid_file);
        assert_eq!(fs::read_to_string(&path).unwrap(), "1\n");
    }

    #[test]
    fn a_device_is_not_removed() {
        drop(PidFile::write(Path::new("/dev/null")).unwrap());
        PidFile::write(Path::new("/dev/full")).unwrap_err();
        assert!(Path::new("/dev/null").exists() && Path::new("/dev/full").exists());
    }

    #[test]
    fn a_bad_place_is_said_on_one_line() {
        let error = PidFile::write(Path::new("/nowhere/tunnel.pid")).unwrap_err().to_string();
        assert!(error.starts_with("cannot write pid file /nowhere/tunnel.pid: "), "{error}");
    }
}
