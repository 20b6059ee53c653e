use std::time::Duration;

use serde_json::json;

use super::*;

const TERMINAL: Screen = Screen { columns: 80, rows: 24 };

/// A tunnel with these problems; a `!` marks it as broken.
fn tunnel(name: &str, wrong: &[&str]) -> TunnelReply {
    let wrong = wrong
        .iter()
        .map(|what| json!({ "what": what.trim_end_matches('!'), "broken": what.ends_with('!') }));
    let level = json!({ "now": 12_345, "most": 23_456, "limit": 65_536 });
    let tunnel = json!({
        "name": name, "mode": "encrypt", "state": "serving", "listeners": ["127.0.0.1:1"],
        "targets": [], "keys": [], "sessions": level, "handshakes": level, "accepted": 1,
        "closed": {}, "refused": {}, "sent": 1, "received": 1, "wrong": wrong.collect::<Vec<_>>(),
    });
    serde_json::from_value(tunnel).unwrap()
}

fn status(tunnels: Vec<TunnelReply>) -> StatusReply {
    StatusReply {
        version: "0.1.0".to_owned(),
        pid: 4_194_304,
        uptime_s: 90_000,
        state: "not ready".to_owned(),
        why: Some("the gate of tunnel x is closed, ".repeat(5)),
        descriptors: Some(1_000),
        descriptor_limit: 20_000,
        reload: Some(ReloadReply { at: 1, ok: true, message: "added ".repeat(50), changes: None }),
        tunnels,
    }
}

/// 40 tunnels with long names, some of them with problems.
fn forty() -> StatusReply {
    let name = |place: usize| format!("{place:02}-mysql-replica-eu-west-1");
    let wrong = |place: usize| -> &[&str] {
        match place {
            20 => &["far end down!", "pool empty"],
            31 => &["gate store down!"],
            7 => &["almost full", "pool empty", "draining"],
            _ => &[],
        }
    };
    status((0..40).map(|place| tunnel(&name(place), wrong(place))).collect())
}

fn names(text: &str) -> Vec<&str> {
    let rows = text.lines().skip_while(|line| !line.starts_with("TUNNEL")).skip(1);
    rows.map(|line| &line[..2]).collect()
}

#[test]
fn forty_tunnels_fit_on_a_terminal_with_what_is_wrong_first() {
    let status = forty();
    let busy = Rates { accepted: 99_999, sent: 1023 << 20, received: 1023 << 20 };
    let rates = status.tunnels.iter().map(|tunnel| (&*tunnel.name, busy)).collect();
    let text = overview(&status, &rates, Some(TERMINAL), false);
    assert_eq!(text.lines().count(), 23, "and one for the prompt: {text}");
    assert!(text.lines().all(|line| line.chars().count() <= 80), "{text}");
    let rows: Vec<&str> = text.lines().skip_while(|line| !line.starts_with("TUNNEL")).collect();
    assert!(rows[1].starts_with("20-mysq") && rows[1].ends_with("far end down +1"), "{text}");
    assert!(rows[2].starts_with("31-mysq") && rows[2].ends_with("gate store down"), "{text}");
    assert!(rows[3].starts_with("07-mysq") && rows[3].ends_with("almost full +2"), "{text}");
    assert!(rows[4].starts_with("00-mysq") && rows[4].ends_with("ok"), "{text}");
    assert_eq!(text.lines().last(), Some("and 25 more: 25 ok; --all shows them"));
    assert!(text.contains("tunnels      2 broken, 1 degraded, 37 ok\n"), "{text}");
}

#[test]
fn all_of_them_and_what_is_no_terminal_is_not_shortened() {
    let status = forty();
    let rates = HashMap::new();
    let text = overview(&status, &rates, Some(TERMINAL), true);
    assert_eq!(names(&text).len(), 40);
    assert!(text.lines().all(|line| line.chars().count() <= 80), "{text}");
    let text = overview(&status, &rates, None, false);
    assert_eq!(names(&text).len(), 40);
    assert_eq!(names(&text)[..5], ["20", "31", "07", "00", "01"]);
    assert!(text.contains("20-mysql-replica-eu-west-1 "), "{text}");
    assert!(text.contains("far end down, pool empty\n"), "{text}");
    let wide = Screen { columns: 200, rows: 60 };
    let text = overview(&status, &rates, Some(wide), false);
    assert!(names(&text).len() == 40 && text.contains("far end down, pool empty\n"), "{text}");
}

/// Tunnels with a fault that do not fit either are counted in the line about the others.
#[test]
fn a_small_terminal_says_what_it_does_not_show() {
    let many = forty();
    let small = Screen { columns: 40, rows: 8 };
    let text = overview(&many, &HashMap::new(), Some(small), false);
    assert_eq!(names(&text).len(), 2, "{text}");
    assert!(text.ends_with("and 39 more: 1 broken, 1 degraded, 37 o~\n"), "{text}");
    assert!(text.lines().all(|line| line.chars().count() <= 40), "{text}");
    let one = status(vec![tunnel("a", &[])]);
    let text = overview(&one, &HashMap::new(), Some(TERMINAL), false);
    assert!(names(&text).len() == 1 && text.contains("tunnels      1 ok\n"), "{text}");
}

#[test]
fn a_rate_is_what_was_counted_in_a_second() {
    let before = tunnel("a", &[]);
    let mut now = tunnel("a", &[]);
    (now.accepted, now.sent, now.received) = (6, 1_001, 1);
    let rates = Rates::between(&before, &now, Duration::from_millis(500));
    assert_eq!(rates, Rates { accepted: 10, sent: 2_000, received: 0 });
    // Rates of a tunnel that was removed and came back.
    assert_eq!(Rates::between(&now, &before, Duration::ZERO).sent, 0);
}
