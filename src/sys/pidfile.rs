//! The pid file, which tells scripts the process to signal.
//!
//! The process holds a lock on it as long as it runs. A number alone is not enough: after a crash
//! or a restart of the machine it may be another program's.

use std::fs::{self, File, Metadata};
use std::io::{self, Read, Write};
use std::os::unix::fs::{FileExt, FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::fcntl::{FcntlArg, OFlag, fcntl};
use nix::libc;
use nix::sys::signal::kill;
use nix::sys::stat::Mode;
use nix::unistd::Pid;

use crate::files::place::{FileId, Place, user_name};
use crate::files::read::open;

/// Readable for all, as far as the umask permits.
pub const READABLE: Mode = Mode::from_bits_truncate(0o666);

/// Attempts to open a file that its owner keeps removing at the same moment.
const ATTEMPTS: usize = 16;

/// A pid file of this process, and the lock on it. Dropping it removes the file, as
/// long as it still names this process.
#[derive(Debug)]
pub struct PidFile {
    place: Place,
    file: File,
}

/// Cause of a pid file that was not written.
#[derive(Debug, thiserror::Error)]
#[error("cannot write pid file {}: {cause}; check its directory and that no link of another user leads there, or give another with -p", .path.display())]
pub struct PidFileError {
    path: PathBuf,
    cause: io::Error,
}

impl PidFile {
    /// Writes the pid in decimal and a newline, over the content that an ended process may have
    /// left.
    ///
    /// # Errors
    /// When the file cannot be written, or belongs to a running process; no empty one is left
    /// behind.
    pub fn write(path: &Path) -> Result<Self, PidFileError> {
        let fail = |cause| PidFileError { path: path.to_owned(), cause };
        let place = Place::find(path).map_err(fail)?;
        let file = take(&place).map_err(fail)?;
        let mut pid_file = Self { place, file };
        match pid_file.file.write_all(own_line().as_bytes()) {
            Ok(()) => Ok(pid_file),
            Err(cause) => {
                // It contains no pid yet, so the drop would leave it.
                pid_file.remove();
                Err(fail(cause))
            }
        }
    }

    /// Removes the file, if it still has its name: `-p /dev/null` must not remove a device.
    fn remove(&self) {
        if let Ok(seen) = self.file.metadata()
            && seen.is_file()
        {
            let _ = self.place.remove(FileId::from(&seen));
        }
    }

    /// Returns true if it still contains our pid: another process may have taken it over.
    fn names_us(&self) -> bool {
        let mut text = vec![0; own_line().len() + 1];
        let read = self.file.read_at(&mut text, 0);
        read.is_ok_and(|len| text[..len] == *own_line().as_bytes())
    }
}

impl Drop for PidFile {
    fn drop(&mut self) {
        if self.file.metadata().is_ok_and(|seen| seen.is_file()) && self.names_us() {
            // After privileges were dropped the directory may refuse the removal. The open file can
            // still be emptied, so that no script signals the next process with that pid.
            let _ = self.file.set_len(0);
            self.remove();
        }
    }
}

/// Checks that it is a file with no other name, or a device, which is not read. Otherwise another
/// user could choose the process that root's scripts signal.
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

/// Opens or makes the file, and locks and empties it.
fn take(place: &Place) -> io::Result<File> {
    for _ in 0..ATTEMPTS {
        let file = place.open(OFlag::O_RDWR | OFlag::O_CREAT, READABLE)?;
        let seen = file.metadata()?;
        check_kind(&seen, place)?;
        if !seen.is_file() {
            return Ok(file);
        }
        check_free(&file)?;
        let held = hold(&file);
        if held == Ok(()) && !place.holds(FileId::from(&seen)) {
            // Its owner has just ended and removed it.
            continue;
        }
        // A process that started at the same moment has locked it.
        let pid = check_free(&file)?;
        if held.is_err_and(is_without_locks) {
            check_owner(pid, &file)?;
        }
        file.set_len(0)?;
        return Ok(file);
    }
    Err(io::Error::other("others make and remove it again and again"))
}

/// Reads the number in a file that no process has locked; 0 where it is empty. Other content is
/// refused. The number may belong to another program by now, or to another process of this one:
/// only the lock shows the owner.
fn check_free(file: &File) -> io::Result<u64> {
    let mut text = [0; 16];
    let len = file.read_at(&mut text, 0)?;
    let text = str::from_utf8(&text[..len]).unwrap_or("?").trim();
    let Ok(pid) = (if text.is_empty() { Ok(0) } else { text.parse::<u64>() }) else {
        return Err(io::Error::other("it exists and holds no pid"));
    };
    if is_held_by_another(file) {
        let who = if pid == 0 { "another process".to_owned() } else { format!("process {pid}") };
        return Err(io::Error::other(format!("it belongs to {who}, which is running")));
    }
    Ok(pid)
}

/// Checks that the process of this number does not have the file open, where locks do not work.
fn check_owner(pid: u64, file: &File) -> io::Result<()> {
    // No process has a pid beyond the system's type.
    let Some(pid) = i32::try_from(pid).ok().filter(|pid| *pid > 0) else { return Ok(()) };
    let lives = kill(Pid::from_raw(pid), None) != Err(Errno::ESRCH);
    let is_us = pid.cast_unsigned() == std::process::id();
    if lives && !is_us && has_it(pid, file)? {
        return Err(io::Error::other(format!("it belongs to process {pid}, which is running")));
    }
    Ok(())
}

/// Returns true if a running process has the file open. Where that cannot be read, the name of the
/// program decides.
fn has_it(pid: i32, file: &File) -> io::Result<bool> {
    let own = FileId::from(&file.metadata()?);
    let Ok(open) = fs::read_dir(format!("/proc/{pid}/fd")) else { return Ok(is_of_ours(pid)) };
    let mut is_hidden = false;
    for entry in open.flatten() {
        match fs::metadata(entry.path()) {
            Ok(seen) if FileId::from(&seen) == own => return Ok(true),
            Err(error) => is_hidden |= error.kind() == io::ErrorKind::PermissionDenied,
            Ok(_) => {}
        }
    }
    Ok(is_hidden && is_of_ours(pid))
}

/// Returns true if a process has the name of this program, as far as that can be read.
fn is_of_ours(pid: i32) -> bool {
    let own = fs::read_to_string("/proc/self/comm");
    let Ok(name) = fs::read_to_string(name_file(pid)) else { return false };
    own.is_ok_and(|own| own == name) || name.trim_end() == env!("CARGO_PKG_NAME")
}

/// Returns the path under /proc with the program of the process in a pid file.
pub fn name_of_owner(path: &Path) -> Option<PathBuf> {
    let (mut file, _) = open(path).ok()?;
    let mut text = [0; 16];
    let length = file.read(&mut text).ok()?;
    let pid = str::from_utf8(&text[..length]).ok()?.trim().parse::<i32>();
    let pid = pid.ok().filter(|pid| *pid > 0)?;
    Some(name_file(pid)).filter(|file| file.exists())
}

fn name_file(pid: i32) -> PathBuf {
    format!("/proc/{pid}/comm").into()
}

/// Returns true if another process has locked the file for writing, which needs write access: a
/// lock by a process that may only read it must not prevent a start.
fn is_held_by_another(file: &File) -> bool {
    let mut found = lock_of(libc::F_RDLCK);
    let asked = fcntl(file, FcntlArg::F_OFD_GETLK(&mut found));
    asked.is_ok() && found.l_type == libc::F_WRLCK as i16
}

/// Locks the file until it is closed. A file system without locks, or a read lock of another
/// process, is no reason not to start.
fn hold(file: &File) -> Result<(), Errno> {
    fcntl(file, FcntlArg::F_OFD_SETLK(&lock_of(libc::F_WRLCK))).map(drop)
}

/// Returns true if a lock was refused because the file system has none, and not because another
/// process has one.
fn is_without_locks(refused: Errno) -> bool {
    !matches!(refused, Errno::EAGAIN | Errno::EACCES)
}

/// Makes a lock of the whole file, which belongs to the open file and not to the process, and ends
/// with it.
fn lock_of(kind: i32) -> libc::flock {
    libc::flock { l_type: kind as i16, l_whence: 0, l_start: 0, l_len: 0, l_pid: 0 }
}

fn own_line() -> String {
    format!("{}\n", std::process::id())
}

#[cfg(test)]
mod tests {
    use std::process::{Child, Command, Stdio};

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

    /// Starts a process that has `file` open, if there is one.
    fn another(file: Option<File>) -> Child {
        let mut command = Command::new("sleep");
        command.arg("1000").stdin(file.map_or_else(Stdio::null, Stdio::from));
        command.spawn().unwrap()
    }

    fn end(mut child: Child) {
        child.kill().unwrap();
        child.wait().unwrap();
    }

    #[test]
    fn a_number_of_another_program_is_stale() {
        let dir = TempDir::new().unwrap();
        let path = dir.path().join("tunnel.pid");
        let other = another(None);
        for pid in [1, other.id(), std::process::id(), u32::MAX] {
            fs::write(&path, format!("{pid}\n")).unwrap();
            let pid_file = PidFile::write(&path).unwrap();
            assert_eq!(fs::read_to_string(&path).unwrap(), own_line());
            drop(pid_file);
        }
        end(other);
    }

    #[test]
    fn other_content_is_not_overwritten() {
        let dir = TempDir::new().unwrap();
        let path = dir.path().join("tunnel.pid");
        fs::write(&path, "important").unwrap();
        let error = PidFile::write(&path).unwrap_err().to_string();
        assert!(error.contains("no pid"), "{error}");
        assert_eq!(fs::read_to_string(&path).unwrap(), "important");
    }

    /// The case in which locks do not work.
    #[test]
    fn a_living_process_that_has_the_file_open_is_its_owner() {
        let dir = TempDir::new().unwrap();
        let path = dir.path().join("tunnel.pid");
        let file = File::create(&path).unwrap();
        let owner = another(Some(file.try_clone().unwrap()));
        let other = another(None);
        let error = check_owner(owner.id().into(), &file).unwrap_err().to_string();
        assert!(error.contains(&format!("process {}, which is running", owner.id())), "{error}");
        check_owner(other.id().into(), &file).unwrap();
        assert!(is_without_locks(Errno::ENOLCK) && !is_without_locks(Errno::EAGAIN));
        end(owner);
        end(other);
    }

    #[test]
    fn a_file_that_is_held_is_refused_whatever_stands_in_it() {
        let dir = TempDir::new().unwrap();
        let path = dir.path().join("tunnel.pid");
        let held = PidFile::write(&path).unwrap();
        for (content, why) in
            [("", "another process, which"), ("99999999999\n", "process 99999999999")]
        {
            fs::write(&path, content).unwrap();
            let error = PidFile::write(&path).unwrap_err().to_string();
            assert!(error.contains(why), "{error}");
        }
        drop(held);
        PidFile::write(&path).unwrap();
    }

    /// Every user may read it, and lock what they may read.
    #[test]
    fn the_lock_of_a_reader_keeps_nothing_from_starting() {
        let dir = TempDir::new().unwrap();
        let path = dir.path().join("tunnel.pid");
        fs::write(&path, "99999999999\n").unwrap();
        let reader = File::open(&path).unwrap();
        fcntl(&reader, FcntlArg::F_OFD_SETLK(&lock_of(libc::F_RDLCK))).unwrap();
        drop(PidFile::write(&path).unwrap());
        assert!(!path.exists());
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
