//! `knockpipe knockd token`: made once, listed without the token, revoked with its grants.

use std::os::unix::fs::PermissionsExt;

use super::http::Ask;
use super::service::{Settings, token, token_from};

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

#[test]
fn a_token_is_printed_once_and_knocks() {
    let settings = Settings::new();
    let file = settings.tokens();
    let file = file.to_str().unwrap();
    let made = token(&["new", "phone", "--tokens", file, "--max-ttl", "90s", "--one-address"]);
    assert!(made.status.success(), "{made:?}");
    let secret = text(&made.stdout).trim().to_owned();
    assert!(secret.len() == 64 && secret.bytes().all(|byte| byte.is_ascii_hexdigit()), "{secret}");
    let written = std::fs::read_to_string(file).unwrap();
    assert!(!written.contains(&secret) && written.starts_with("phone sha256:"), "{written}");
    let mode = std::fs::metadata(file).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
    let listed = token(&["list", "--tokens", file]);
    assert_eq!(text(&listed.stdout), "phone  max-ttl=90s one-address\n");
    let json = token(&["list", "--tokens", file, "--json"]);
    let json: serde_json::Value = serde_json::from_slice(&json.stdout).unwrap();
    assert_eq!((&json["name"], &json["max_ttl_s"]), (&"phone".into(), &90.into()));
    let service = settings.in_file().start();
    let answer = Ask::new("127.4.0.1", "POST", "/knock").token(&secret).send(service.addr());
    assert_eq!((answer.status, &answer.json()["expires_in_seconds"]), (200, &90.into()));
}

#[test]
fn what_is_no_token_or_no_name_is_refused() {
    let settings = Settings::new().with_token("one", "a-token-of-the-tests-00001", &[]);
    let file = settings.tokens();
    let file = file.to_str().unwrap();
    let from = settings.dir.path().join("from");
    let from = from.to_str().unwrap();
    for (args, content, what) in [
        (vec!["new", "one", "--tokens", file], "", "there is a token one"),
        (vec!["new", "a/b", "--tokens", file], "", "cannot name a token"),
        (vec!["new", "disguise", "--tokens", file], "", "secret of a disguise"),
        (vec!["new", "two", "--tokens", file, "--from", from], "", "no token in its first line"),
        (vec!["new", "two", "--tokens", file, "--from", from], "CHANGE_ME_1", "CHANGE_ME"),
        (
            vec!["new", "two", "--tokens", file, "--from", from],
            "a-token-of-the-tests-00001\n",
            "this is the token one",
        ),
        (
            vec!["new", "two", "--tokens", file, "--from", from],
            "a-token-of-the-tests-00002\na-token-of-the-tests-00003\n",
            "several lines",
        ),
        (vec!["list", "--tokens", "/no/where"], "", "cannot read --tokens /no/where"),
    ] {
        std::fs::write(from, content).unwrap();
        let output = token(&args);
        assert_eq!(output.status.code(), Some(2), "{args:?}");
        let error = text(&output.stderr);
        assert!(error.contains(what) && error.lines().count() == 1, "{error}");
        assert!(!error.contains("a-token-of-the-tests"), "{error}");
    }
    let revoked = token(&["revoke", "none", "--tokens", file]);
    assert_eq!(revoked.status.code(), Some(3));
    let away = token(&["revoke", "one", "--tokens", file, "--gate", "nonsense"]);
    assert_eq!(away.status.code(), Some(2));
    assert!(std::fs::read_to_string(file).unwrap().contains("one sha256:"), "it stays");
}

#[test]
fn a_short_token_is_taken_over_with_a_warning() {
    let settings = Settings::new();
    let file = settings.tokens();
    let from = settings.dir.path().join("from");
    std::fs::write(&from, "guest-4b1d77e09c\n").unwrap();
    let args = ["new", "guest", "--tokens", file.to_str().unwrap(), "--from"];
    let output = token(&[&args[..], &[from.to_str().unwrap()]].concat());
    assert!(output.status.success() && output.stdout.is_empty(), "{output:?}");
    let notice = text(&output.stderr);
    assert!(notice.contains("16 characters") && !notice.contains("guest-4b"), "{notice}");
    token_from(
        &["new", "odd", "--tokens", file.to_str().unwrap(), "--from", "-"],
        "odd key, \"q\" = \\1;",
    );
    let service = settings.in_file().start();
    for key in ["guest-4b1d77e09c", "odd key, \"q\" = \\1;"] {
        let answer = Ask::new("127.4.2.1", "GET", "/knock").token(key).send(service.addr());
        assert_eq!(answer.status, 200, "{key}");
    }
}

#[test]
fn a_tokens_file_that_others_may_change_starts_nothing() {
    let settings = Settings::new().with_token("one", "a-token-of-the-tests-00001", &[]).in_file();
    let open = std::fs::Permissions::from_mode(0o666);
    std::fs::set_permissions(settings.tokens(), open).unwrap();
    let mut program = settings.launch().spawn();
    assert_eq!(program.exit_code(), 2);
    assert!(program.stderr().contains("chmod 600"), "{}", program.stderr());
}
