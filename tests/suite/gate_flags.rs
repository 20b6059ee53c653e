//! Flags of the gate that make no sense: refused before anything is started.

use super::cli::{DECRYPT, ENCRYPT, SPIPED, complaint, knockpipe, place, refused, write};

/// Flags of the gate with values that they do not take.
#[test]
fn gates_that_make_no_sense() {
    for base in [ENCRYPT, DECRYPT, SPIPED] {
        let base = if base == SPIPED { "-e -F -s a:1 -t b:2 -k key" } else { base };
        let cases: [(&str, &[&str]); 22] = [
            ("--gate nowhere", &["--gate", "no scheme", "file:PATH"]),
            ("--gate http://a", &["--gate", "unknown scheme", "redis://HOST"]),
            ("--gate file:", &["file:PATH"]),
            ("--gate redis://geheim:wort@a", &["'ps'", "--gate-credentials"]),
            ("--gate redis://a --gate redis://b", &["--gate is given twice"]),
            ("--gate redis://a --set x --history x", &["need two names", "--history"]),
            ("--gate redis://a --ban-prefix=", &["prefix must not be empty"]),
            ("--gate redis://a --gate-ca key", &["rediss://"]),
            ("--gate rediss://a --gate-ca none", &["cannot read --gate-ca none"]),
            ("--gate redis://a --gate-credentials none", &["cannot read credentials file none"]),
            ("--gate file:x --set y", &["--set is about Redis", "leave it out"]),
            ("--set y", &["--set is about a store", "add --gate"]),
            ("--allow 10.0.0.0/8 --on-revoke keep", &["--on-revoke needs a store"]),
            ("--denied tarpit", &["--denied is about a gate"]),
            ("--allow example.org", &["--allow", "example.org", "203.0.113.0/24"]),
            ("--gate file:x --gate-failure maybe", &["--gate-failure", "stale:DURATION"]),
            ("--gate file:x --denied loudly", &["--denied", "close, reset or tarpit"]),
            ("--gate file:x --reap-idle 0", &["--reap-idle", "30d"]),
            ("--gate file:x --reap-idle 30", &["--reap-idle", "\"30\" has no unit", "30d"]),
            ("--gate file:x --reap-idle -5m", &["--reap-idle", "\"-5m\" is not a duration"]),
            ("--gate file:x --gate-failure stale:5", &["\"5\" has no unit", "5m"]),
            ("--proxy-from 10.0.0.1,x", &["--proxy-from", "\"x\" is not an address"]),
        ];
        for (flags, parts) in cases {
            refused(&format!("{base} {flags}"), parts);
        }
        let text = format!("{base} --gate redis://geheim:wort@a");
        let args: Vec<_> = text.split(' ').collect();
        let text = complaint(&knockpipe(&place(), &args), 2, &text);
        assert!(!text.contains("geheim") && !text.contains("wort"), "{text}");
    }
    refused(&format!("{DECRYPT} --gate file:x --ban-after 10/60s"), &["N/FINDTIME/BANTIME"]);
    for (bad, part) in [("10/60/1h", "\"60\" has no unit"), ("10/60s/24", "write 24s, 24m, 24h")] {
        refused(&format!("{DECRYPT} --gate file:x --ban-after {bad}"), &["--ban-after", part]);
    }
    for line in ["gate allow 203.0.113.7 --ttl 12", "gate ban 203.0.113.7 --ttl 12"] {
        refused(&format!("{line} --gate file:x"), &["--ttl: \"12\" has no unit", "12h"]);
    }
    refused(
        "gate allow 203.0.113.7 --ttl -5m --gate file:x",
        &["--ttl: \"-5m\" is not a duration"],
    );
    refused("gate reap --idle 30 --gate file:x", &["--idle: \"30\" has no unit", "30d"]);
    refused(&format!("{DECRYPT} --ban-after 10/60s/1h"), &["--ban-after needs a store"]);
    refused(&format!("{DECRYPT} --proxy-to-target v3"), &["--proxy-to-target", "v1 or v2"]);
    refused(&format!("{SPIPED} --ban-after 1/1s/1s"), &["--ban-after is for the decrypt end"]);
    refused(&format!("{SPIPED} --proxy-to-target v1"), &["is for the decrypt end"]);
}

#[test]
fn gate_commands_about_what_is_no_address() {
    for command in ["allow", "remove", "ban", "unban", "deny", "why"] {
        let line = format!("gate {command} nonsense --gate file:x");
        refused(
            &line,
            &["knockpipe: \"nonsense\" is not an address or network; write one such as"],
        );
    }
    refused(
        "gate why 1.2.3.0/24 --gate file:x",
        &["knockpipe: 1.2.3.0/24 is a network", "name one"],
    );
}

#[test]
fn credentials_of_the_gate_that_are_refused() {
    let base = "decrypt -s a:1 -t b:2 -k key --gate redis://a --gate-credentials pass";
    let args: Vec<_> = base.split(' ').collect();
    let cases: [(u32, &[u8], &str); 6] = [
        (0o640, b"geheim", "chmod 600 pass"),
        (0o604, b"geheim", "chmod 600 pass"),
        (0o600, b"", "holds no password"),
        (0o600, b"geheim:\n", "holds no password"),
        (0o600, b"geheim\ngeheim\n", "keep the first"),
        (0o600, b"geheim\xff", "no short text"),
    ];
    for (mode, bytes, part) in cases {
        let dir = place();
        write(&dir, "pass", mode, bytes);
        let text = complaint(&knockpipe(&dir, &args), 2, part);
        assert!(text.contains(part) && !text.contains("geheim"), "{text}");
    }
}
