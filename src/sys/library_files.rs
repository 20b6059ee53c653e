//! Finds the real paths of files that libraries read under fixed names.
//!
//! A rule of the sandbox opens a file, and not a name: where `/etc/hosts` is a link, it needs a
//! rule for its target. Each link of a chain is followed. A file that is replaced later by a link
//! to another place stays inaccessible until the next start, and a look-up that fails says so
//! (`net::service_files`).

use std::env;
use std::fs;
use std::path::{Path, PathBuf};

/// As many links as the kernel follows.
const MOST_LINKS: usize = 40;

/// Highest number of files in a directory of certificates that are examined.
const MOST_CERTIFICATES: usize = 1_024;

/// Files with users, time zones, ports and libraries; `net::service_files` has those with host
/// names.
const FILES: [&str; 7] = [
    "/etc/passwd",
    "/etc/group",
    "/etc/protocols",
    "/etc/localtime",
    "/etc/timezone",
    "/etc/ld.so.cache",
    "/etc/ld.so.conf",
];

/// Paths of certificates on common systems.
const CERTIFICATES: [&str; 10] = [
    "/etc/ssl",
    "/etc/ssl/cert.pem",
    "/etc/ssl/ca-bundle.pem",
    "/etc/ssl/certs",
    "/etc/pki/tls/cert.pem",
    "/etc/pki/tls/certs",
    "/etc/pki/ca-trust/extracted/pem",
    "/etc/ca-certificates/extracted",
    "/usr/lib/ssl/certs",
    "/usr/lib/ssl/cert.pem",
];

/// Directories of libraries, next to those of an architecture in them.
const LIBRARIES: [&str; 5] = ["/lib", "/lib64", "/usr/lib", "/usr/lib64", "/usr/local/lib"];

/// The file that names the services with libraries.
const SWITCH: &str = "/etc/nsswitch.conf";

/// Lists files and directories that every process reads: those of `name_files`, users, the time
/// zone, and the libraries of name service.
pub fn of_every_process(name_files: &[&str]) -> Vec<PathBuf> {
    let named = name_files.iter().chain(&FILES).map(PathBuf::from);
    let variables = ["TZ", "TZDIR", "HOSTALIASES"].into_iter().filter_map(of_variable);
    named.chain(variables).chain(service_libraries()).collect()
}

/// Lists the files of the system's certificates, with the targets of links in `more` directories.
pub fn of_certificates(more: &[PathBuf]) -> Vec<PathBuf> {
    let mut all: Vec<PathBuf> = CERTIFICATES.iter().map(PathBuf::from).collect();
    for directory in CERTIFICATES.iter().map(Path::new).chain(more.iter().map(PathBuf::as_path)) {
        let Ok(entries) = fs::read_dir(directory) else { continue };
        let links = entries.flatten().map(|entry| entry.path()).filter(|path| path.is_symlink());
        all.extend(links.filter(|link| link.is_file()).take(MOST_CERTIFICATES));
    }
    all
}

/// Lists a path, and each target of its links. The last may not exist.
pub fn chain(path: &Path) -> Vec<PathBuf> {
    let mut places = vec![path.to_owned()];
    let mut last = path.to_owned();
    while let Ok(to) = fs::read_link(&last)
        && places.len() <= MOST_LINKS
    {
        last = last.parent().unwrap_or_else(|| Path::new("/")).join(to);
        places.push(last.clone());
    }
    places
}

/// Returns the file that an environment variable of the C library names; `TZ` may have a colon
/// before it.
fn of_variable(name: &str) -> Option<PathBuf> {
    let value = env::var(name).ok()?;
    let path = Path::new(value.strip_prefix(':').unwrap_or(&value));
    path.is_absolute().then(|| path.to_owned())
}

/// Lists the libraries of name service.
fn service_libraries() -> Vec<PathBuf> {
    let text = fs::read_to_string(SWITCH).unwrap_or_default();
    let services = text.lines().filter_map(|line| line.split('#').next()?.split_once(':'));
    let mut names: Vec<String> = services
        .flat_map(|(_, services)| services.split_whitespace())
        .filter(|word| word.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_'))
        .map(|service| format!("libnss_{service}.so.2"))
        .collect();
    names.sort_unstable();
    names.dedup();
    let more = env::var_os("LD_LIBRARY_PATH");
    let more = more.iter().flat_map(env::split_paths).filter(|path| path.is_absolute());
    let directories = LIBRARIES.iter().map(PathBuf::from).flat_map(with_architectures).chain(more);
    let all = directories.flat_map(|directory| {
        let of_it: Vec<_> = names.iter().map(|name| directory.join(name)).collect();
        of_it
    });
    all.filter(|library| library.symlink_metadata().is_ok()).collect()
}

/// Lists a directory, and its subdirectories for architectures.
fn with_architectures(directory: PathBuf) -> Vec<PathBuf> {
    let entries = fs::read_dir(&directory).into_iter().flatten().flatten();
    let is_one = |path: &PathBuf| {
        path.file_name().is_some_and(|name| name.to_string_lossy().contains("-linux-"))
    };
    let inner: Vec<_> = entries.map(|entry| entry.path()).filter(is_one).collect();
    [directory].into_iter().chain(inner).collect()
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    #[test]
    fn every_link_of_a_chain_is_followed() {
        let dir = tempfile::tempdir().unwrap();
        let at = |name: &str| dir.path().join(name);
        fs::create_dir_all(at("a/b")).unwrap();
        fs::create_dir(at("c")).unwrap();
        fs::write(at("c/file"), "").unwrap();
        symlink("../c/file", at("a/second")).unwrap();
        symlink(at("a/second"), at("first")).unwrap();
        assert_eq!(chain(&at("first")), [at("first"), at("a/second"), at("a/../c/file")]);
        assert_eq!(chain(&at("c/file")), [at("c/file")]);
        symlink("none", at("dangling")).unwrap();
        assert_eq!(chain(&at("dangling")), [at("dangling"), at("none")]);
        symlink("round", at("round")).unwrap();
        assert_eq!(chain(&at("round")).len(), MOST_LINKS + 1);
    }

    #[test]
    fn the_libraries_of_name_service_are_found() {
        let all = of_every_process(&["/etc/hosts"]);
        assert!(all.contains(&"/etc/hosts".into()) && all.contains(&"/etc/localtime".into()));
        let is_files = |path: &PathBuf| path.ends_with("libnss_files.so.2");
        assert_eq!(all.iter().any(is_files), service_libraries().iter().any(is_files));
    }
}
