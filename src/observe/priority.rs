//! Priority of a line, for a journal that reads standard error.
//!
//! systemd names the journal's socket in `JOURNAL_STREAM`, and a journal takes `<4>` at the start
//! of a line for its priority. Any other reader of standard error gets no such mark: programs with
//! other outputs inherit the variable, so the socket is compared.

use std::env;
use std::ffi::OsStr;
use std::io;

use nix::sys::stat::fstat;
use tracing::Level;

/// Returns true if standard error is the journal's stream.
pub(super) fn is_journal() -> bool {
    let Ok(stderr) = fstat(io::stderr()) else { return false };
    let named = env::var_os("JOURNAL_STREAM");
    named
        .is_some_and(|named| names(&named, &FileId { device: stderr.st_dev, inode: stderr.st_ino }))
}

/// Identity of an open file.
struct FileId {
    device: u64,
    inode: u64,
}

/// Returns true if `named` is that device and inode, in decimal.
fn names(named: &OsStr, file: &FileId) -> bool {
    let number = |text: &str| text.parse::<u64>().ok();
    let parts = named.to_str().and_then(|named| named.split_once(':'));
    let named = parts.and_then(|(device, inode)| number(device).zip(number(inode)));
    named == Some((file.device, file.inode))
}

/// Returns the prefix of a line, with syslog's numbers.
pub(super) fn mark(level: Level) -> &'static str {
    match level {
        Level::ERROR => "<3>",
        Level::WARN => "<4>",
        Level::INFO => "<6>",
        Level::DEBUG | Level::TRACE => "<7>",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stream_is_named_by_device_and_inode() {
        for (named, is_ours) in [
            ("9:12345", true),
            ("9:12346", false),
            ("8:12345", false),
            ("9:12345:", false),
            ("12345", false),
            ("", false),
            (":", false),
            ("9: 12345", false),
        ] {
            assert_eq!(
                names(OsStr::new(named), &FileId { device: 9, inode: 12345 }),
                is_ours,
                "{named}"
            );
        }
    }
}
