//! Key files as a user meets them: the ways to make one, and the ones that are refused.

use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::Path;

use super::cli::{PROGRAM, complaint, files, knockpipe, place, refused, run, stdout, write};

#[test]
fn a_new_key_is_private_named_and_never_overwritten() {
    let dir = place();
    let made = knockpipe(&dir, &["keygen", "new.key"]);
    assert_eq!((made.status.code(), made.stderr.as_slice()), (Some(0), &b""[..]));
    let path = dir.path().join("new.key");
    assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o7777, 0o600);
    let bytes = fs::read(&path).unwrap();
    assert!(bytes.starts_with(b"knockpipe-key-1 ") && bytes.ends_with(b"\n"));

    let id = knockpipe(&dir, &["key-id", "new.key"]);
    let id = stdout(&id).trim_end();
    assert!(id.len() == 8 && id.bytes().all(|byte| byte.is_ascii_hexdigit()), "{id}");
    assert_eq!(stdout(&made), format!("key {id} written to new.key\n"));

    let again = knockpipe(&dir, &["keygen", "new.key"]);
    assert!(complaint(&again, 2, "keygen twice").contains("never overwritten"));
    assert_eq!(fs::read(&path).unwrap(), bytes);
    symlink("elsewhere", dir.path().join("link")).unwrap();
    complaint(&knockpipe(&dir, &["keygen", "link"]), 2, "keygen over a dangling link");
    assert_eq!(files(&dir), ["key", "link", "new.key"]);
}

#[test]
fn keys_that_cannot_be_made() {
    refused("keygen no/such/directory/key", &["cannot create", "directory exists"]);
    refused("keygen -", &["give a file name"]);
    refused("keygen .", &["exists already"]);
}

/// The id of the raw key file of 32 zero bytes.
const ZERO_KEY_ID: &str = "e5489c16";

#[test]
fn raw_key_files_as_spiped_has_them() {
    let dir = place();
    let id = |bytes: &[u8]| {
        write(&dir, "raw", 0o600, bytes);
        let output = knockpipe(&dir, &["key-id", "raw"]);
        assert_eq!(output.status.code(), Some(0), "{output:?}");
        stdout(&output).trim_end().to_owned()
    };
    // Fixed for good: these files are in use with these ids.
    assert_eq!(id(&[0; 32]), ZERO_KEY_ID);
    let random: Vec<u8> = (0..=255).collect();
    assert_eq!(id(&random), knockpipe::keys::file::parse(&random).unwrap().id().to_string());
    assert_ne!(id(&[0; 33]), id(&[0; 32]));
    assert_eq!(
        stdout(&run(Path::new(PROGRAM), &dir, &["key-id", "-"], &[0; 32])).trim_end(),
        ZERO_KEY_ID
    );
}

#[test]
fn key_files_that_are_refused() {
    let good = {
        let dir = place();
        knockpipe(&dir, &["keygen", "new"]);
        fs::read_to_string(dir.path().join("new")).unwrap()
    };
    let secret = good.split(' ').nth(1).unwrap();
    let doubled = good.repeat(2);
    let damaged = good.replace(&secret[10..14], "AAAA");
    let cases: [(&str, u32, &[u8], &str); 9] = [
        ("empty", 0o600, b"", "is empty"),
        ("31 bytes", 0o600, &[7; 31], "only 31 bytes"),
        ("damaged", 0o600, damaged.as_bytes(), "damaged"),
        ("cut", 0o600, &good.as_bytes()[..50], "not a complete key file"),
        ("newer", 0o600, &[b"knockpipe-key-2 ", secret.as_bytes()].concat(), "newer knockpipe"),
        ("twice", 0o600, doubled.as_bytes(), "not a complete key file"),
        ("others can read", 0o604, good.as_bytes(), "chmod 600 bad"),
        ("group can read", 0o640, &[7; 32], "--allow-readable-key"),
        ("others can write", 0o602, &[7; 32], "chmod 600 bad"),
    ];
    let commands = [
        "key-id bad",
        "encrypt -s a:1 -t b:2 -k bad",
        "decrypt -s a:1 -t b:2 -k key -k bad",
        "pipe -t b:2 -k bad",
        "-e -F -s a:1 -t b:2 -k bad",
        "-d -s a:1 -t b:2 -k bad",
    ];
    for (about, mode, bytes, part) in cases {
        for line in commands {
            let dir = place();
            write(&dir, "bad", mode, bytes);
            let args: Vec<_> = line.split(' ').collect();
            let text = complaint(&knockpipe(&dir, &args), 2, about);
            assert!(text.contains(part), "{about}: {text}");
            assert!(!text.contains(&secret[..8]), "{about} shows key bytes: {text}");
            assert_eq!(files(&dir), ["bad", "key"], "{about}");
        }
    }
}

#[test]
fn key_files_that_are_not_there_or_no_files() {
    refused("key-id none", &["no key file none", "knockpipe keygen"]);
    refused("encrypt -s a:1 -t b:2 -k none", &["no key file none"]);
    refused("-d -s a:1 -t b:2 -k none", &["no key file none"]);
    refused("encrypt -s a:1 -t b:2 -k .", &["is a directory"]);
    refused("encrypt -s a:1 -t b:2 -k -", &["standard input is empty"]);
    refused("encrypt -s a:1 -t b:2 -k - -k -", &["give -k - once"]);
    refused("encrypt -s a:1 -t b:2 -k key -k key", &["given twice"]);
}

#[test]
fn a_readable_key_file_is_accepted_on_request() {
    let dir = place();
    write(&dir, "open", 0o644, &[0; 32]);
    let output = knockpipe(&dir, &["key-id", "--allow-readable-key", "open"]);
    assert_eq!((output.status.code(), stdout(&output).trim_end()), (Some(0), ZERO_KEY_ID));
}
