//! Files that people and other systems write: passwords and lists, in the forms that occur.

use std::fs::{self, Permissions};
use std::os::unix::fs::{PermissionsExt, chown, symlink};
use std::path::Path;
use std::process::Stdio;

use super::{Store, complaint, finish};
use testkit::binary;

/// Returns a store with this password, and a file for it.
fn guarded(password: &str) -> Store {
    let mut store = Store::redis_with(&["--requirepass", password]);
    let file = store.path("pass").display().to_string();
    store.flags.extend(["--gate-credentials".to_owned(), file]);
    store
}

fn write(path: &Path, mode: u32, bytes: impl AsRef<[u8]>) {
    fs::write(path, bytes).unwrap();
    fs::set_permissions(path, Permissions::from_mode(mode)).unwrap();
}

#[test]
fn what_editors_add_to_a_password_is_no_part_of_it() {
    let store = guarded("geheim");
    let file = store.path("pass");
    for text in [
        "geheim",
        "geheim\r\n",
        "\u{feff}geheim\n",
        "\u{feff}default:geheim\r\n\r\n",
        "  geheim \t\n\n",
        "# the gate's own Redis\n\ngeheim\n# the end\n",
        ":geheim\n",
    ] {
        write(&file, 0o600, text);
        store.good("list");
    }
    let utf16: Vec<u8> = "\u{feff}geheim".encode_utf16().flat_map(u16::to_le_bytes).collect();
    write(&file, 0o600, utf16);
    store.fails("list", 2, &["UTF-16", "save it as UTF-8"]);
    for nothing in ["", "\n\r\n", "\u{feff}", "# geheim\n"] {
        write(&file, 0o600, nothing);
        let said = store.fails("list", 2, &["holds no password", "USER:PASSWORD"]);
        assert!(!said.contains("geheim"), "{said}");
    }
}

#[test]
fn a_password_with_a_colon_or_a_hash_has_a_colon_before_it() {
    for password in ["ge:heim", "#geheim"] {
        let store = guarded(password);
        let file = store.path("pass");
        write(&file, 0o600, format!(":{password}\n"));
        store.good("list");
        write(&file, 0o600, format!("default:{password}\n"));
        store.good("list");
    }
    let store = guarded("ge:heim");
    write(&store.path("pass"), 0o600, "ge:heim\n");
    let hint = ["WRONGPASS", "read as USER:PASSWORD", "written :PASSWORD"];
    for line in ["list", "allow 203.0.113.7"] {
        let said = store.fails(line, 1, &hint);
        assert!(!said.contains("ge:") && !said.contains("heim"), "{said}");
    }
    // Without a colon it was no user.
    write(&store.path("pass"), 0o600, "heim\n");
    let said = store.fails("list", 1, &["WRONGPASS", "the password there is wrong"]);
    assert!(!said.contains("USER:PASSWORD"), "{said}");
}

/// As systemd 254, Kubernetes and Docker swarm deliver it: root's, for a group or for all.
#[test]
fn a_password_that_others_can_read_is_accepted_where_that_is_said() {
    let mut store = guarded("geheim");
    let file = store.path("pass");
    for mode in [0o440, 0o444, 0o640, 0o644] {
        write(&file, mode, "geheim\n");
        chown(&file, None, Some(65_534)).unwrap();
        store.fails("list", 2, &["chmod 600", "--allow-readable-key"]);
        store.good("list --allow-readable-key");
        fs::remove_file(&file).unwrap();
    }
    // A volume of Kubernetes: a link to a link to the version of the day.
    let volume = store.path("volume");
    fs::create_dir_all(volume.join("..2026_11_29")).unwrap();
    write(&volume.join("..2026_11_29/pass"), 0o440, "geheim");
    symlink("..2026_11_29", volume.join("..data")).unwrap();
    symlink("..data/pass", volume.join("pass")).unwrap();
    *store.flags.last_mut().unwrap() = volume.join("pass").display().to_string();
    store.fails("list", 2, &["--allow-readable-key"]);
    store.good("list --allow-readable-key");
    store.good("allow 203.0.113.7 --allow-readable-key");
    store.redis.as_ref().unwrap().direct().ask(&["AUTH", "geheim"]);
    // The same word is valid for tunnels, and in a file.
    let key = testkit::keygen(store.dir.path(), "key");
    let text = format!(
        "[defaults]\nallow-readable-key = true\n[gates.a]\ngate = '{}'\ngate-credentials = '{}'\n\
         [tunnels.t]\nmode = 'decrypt'\nsource = '127.0.0.1:1'\ntarget = '127.0.0.1:2'\n\
         key = '{}'\ngate = 'a'\n",
        store.flags[1],
        store.flags[3],
        key.display()
    );
    let config = store.path("knockpipe.toml");
    fs::write(&config, &text).unwrap();
    let run = |words: &[&str]| {
        let mut command = std::process::Command::new(binary());
        command.args(words).arg("-c").arg(&config);
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        finish(command, "")
    };
    for words in [&["check"][..], &["check", "--connect"], &["gate", "list"]] {
        let answer = run(words);
        assert!(answer.err.is_empty() || words.len() == 2 && !answer.err.contains("credentials"));
        assert!(answer.status == Some(0) || words.contains(&"--connect"), "{answer:?}");
    }
    fs::write(&config, text.replace("= true", "= false")).unwrap();
    for words in [&["check"][..], &["gate", "list"]] {
        complaint(&run(words), 2, &["--allow-readable-key"]);
    }
}

#[test]
fn a_list_is_read_as_editors_save_it() {
    for store in Store::each() {
        let text = "\u{feff}203.0.113.7\r\n\r\n# the office\r\n203.0.113.0/24 \t\r\n";
        let answer = store.run_with("import -", text);
        assert!(answer.out.starts_with("imported 2, "), "{answer:?}");
        let utf16: Vec<u8> =
            "\u{feff}203.0.113.7\r\n".encode_utf16().flat_map(u16::to_le_bytes).collect();
        fs::write(store.path("list.txt"), utf16).unwrap();
        let line = format!("import {}", store.path("list.txt").display());
        store.fails(&line, 2, &["line 1 of", "UTF-16", "save it as UTF-8"]);
    }
}
