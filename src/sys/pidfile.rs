//! A file that tells scripts which process to signal.

use std::fs::{File, Metadata};
use std::io::{self, Write};
use std::os::unix::fs::{FileExt, FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::fcntl::OFlag;
use nix::sys::signal::kill;
use nix::sys::stat::Mode;
use nix::unistd::Pid;

use crate::files::place::{FileId, Place, user_name};

/// For all to read, as far as the umask lets them.
pub const READABLE: Mode = Mode::from_bits_truncate(0o666);

/// A pid file of this process. Dropping it removes the file, as long as it
/// still names this process.
#[derive(Debug)]
pub struct PidFile {
    place: Place,
    file: File,
}

/// Why the pid file was not written.
#[derive(Debug, thiserror::Error)]
#[error("cannot write pid file {}: {cause}; check its directory and that no link of another user leads there, or give another with -p", .path.display())]
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
        let place = Place::find(path).map_err(fail)?;
        let file = place.open(OFlag::O_RDWR | OFlag::O_CREAT, READABLE).map_err(fail)?;
        let seen = file.metadata().map_err(fail)?;
        check_kind(&seen, &place).map_err(fail)?;
        if seen.is_file() {
            check_free(&file).map_err(fail)?;
            file.set_len(0).map_err(fail)?;
        }
        let mut pid_file = Self { place, file };
        match pid_file.file.write_all(own_line().as_bytes()) {
            Ok(()) => Ok(pid_file),
            Err(cause) => {
                // Nobody's pid stands in it, so the drop would leave it.
                pid_file.remove();
                Err(fail(cause))
            }
        }
    }

    /// Removes the file, if it has its name still: `-p /dev/null` must not remove a
    /// device.
    fn remove(&self) {
        if let Ok(seen) = self.file.metadata()
            && seen.is_file()
        {
            let _ = self.place.remove(FileId::from(&seen));
        }
    }

    /// Whether our pid still stands in it: another process may have taken it over.
    fn names_us(&self) -> bool {
        let mut text = vec![0; own_line().len() + 1];
        let read = self.file.read_at(&mut text, 0);
        read.is_ok_and(|len| text[..len] == *own_line().as_bytes())
    }
}

impl Drop for PidFile {
    fn drop(&mut self) {
        if self.file.metadata().is_ok_and(|seen| seen.is_file()) && self.names_us() {
            // After privileges were dropped the directory may refuse the
            // removal. The open file still lets us take the pid out of it, so
            // that no script signals whoever gets that pid next.
            let _ = self.file.set_len(0);
            self.remove();
        }
    }
}

/// Whether it is a file of that name alone, or a device, of which nothing is read.
/// Another user would choose the process that scripts of root's signal.
fn check_kind(seen: &Metadata, place: &Place) -> io::Result<()> {
    if let Some(owner) = place.foreign_owner(seen)? {
        return Err(io::Error::other(format!("it belongs to {}", user_name(owner))));
    }
    if seen.is_file() && seen.nlink() > 1 {
        return Err(io::Error::other("it has another name as well (a hard link)"));
    }
    if seen.is_file() || seen.file_type().is_char_device() {
        return Ok(());
    }
    Err(io::Error::other("it is no regular file"))
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
    use std::fs;

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
