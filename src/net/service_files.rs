//! Files that name service reads, and the advice when the sandbox hides them.
//!
//! The C library skips a file that it cannot open, and then reports an unknown name. Only a look at
//! the files shows that they were not read.

use std::fs::File;
use std::io;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};

/// The files in which name service finds hosts and ports. Any of them may be a link.
pub const NAME_FILES: [&str; 7] = [
    "/etc/hosts",
    "/etc/resolv.conf",
    "/etc/nsswitch.conf",
    "/etc/host.conf",
    "/etc/gai.conf",
    "/etc/services",
    "/etc/networks",
];

/// True once the process can read only the files that its sandbox allows.
static CONFINED: AtomicBool = AtomicBool::new(false);

/// Notes that look-ups of this process happen in a sandbox from now on.
pub fn confine() {
    CONFINED.store(true, Ordering::Relaxed);
}

/// Adds to the error of a look-up the files that the sandbox hides.
pub(super) fn explain(error: io::Error) -> io::Error {
    if !CONFINED.load(Ordering::Relaxed) {
        return error;
    }
    let kind = error.kind();
    match NAME_FILES.iter().map(Path::new).find(|file| is_denied(file)) {
        Some(file) => io::Error::new(
            kind,
            format!(
                "{error} (the sandbox keeps {} out of reach, which leads elsewhere since the start; restart, or see --no-sandbox)",
                shown(file)
            ),
        ),
        None => {
            let hint = "in the sandbox; --no-sandbox tells whether that is why";
            io::Error::new(kind, format!("{error} ({hint})"))
        }
    }
}

fn is_denied(file: &Path) -> bool {
    File::open(file).is_err_and(|error| error.kind() == io::ErrorKind::PermissionDenied)
}

/// Shows a file, and the file that its link leads to.
fn shown(file: &Path) -> String {
    match std::fs::read_link(file) {
        Ok(to) => format!("{} -> {}", file.display(), to.display()),
        Err(_) => file.display().to_string(),
    }
}
