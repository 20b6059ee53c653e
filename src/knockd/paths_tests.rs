use super::*;

fn excluded(items: &[&str]) -> ExcludedPaths {
    items.iter().map(|item| item.parse::<ExcludedPath>().unwrap()).collect()
}

/// Excluded paths as an operator might set them.
fn several() -> ExcludedPaths {
    excluded(&[
        "/public",
        "/a/b/",
        "/exact.txt",
        "media.example/app",
        "media.example/healthz",
        "Open.Example:8443/",
        "*/.well-known",
        "[2001:db8::99]/six",
    ])
}

fn is_covered(target: &str) -> bool {
    several().cover(Asked { target: target.as_bytes(), host: None })
}

fn is_covered_at(host: &str, target: &str) -> bool {
    several().cover(Asked { target: target.as_bytes(), host: Some(host.as_bytes()) })
}

#[test]
fn a_path_covers_itself_and_all_below() {
    for target in ["/public", "/public/", "/public/x/y", "/a/b", "/a/b/c", "/exact.txt", "public"] {
        assert!(is_covered(target), "{target}");
    }
    for target in [
        "/publicity",
        "/public.html",
        "/PUBLIC",
        "/a/bc",
        "/a",
        "/exact.txt.bak",
        "/",
        "/admin",
        "",
    ] {
        assert!(!is_covered(target), "{target}");
    }
}

#[test]
fn query_and_fragment_are_no_path() {
    for target in ["/public?x=/admin", "/public#x", "/public?a;b%00", "/public/?"] {
        assert!(is_covered(target), "{target}");
    }
    for target in [
        "/admin?x=/public",
        "/admin?/public",
        "/admin#/public",
        "?/public",
        "/admin?a=b#/../public",
        "#/public",
        "/public/#/../../admin",
        "/public/#%2f..%2fadmin",
        "/public/%3f/../../admin",
        "/public/%23/../../admin",
    ] {
        assert!(!is_covered(target), "{target}");
    }
}

#[test]
fn dots_slashes_and_percent_signs_are_resolved_once() {
    for target in [
        "/admin/../public",
        "/./public",
        "//public",
        "/public//x",
        "/%70ublic",
        "/../../public",
        "/admin/%2e%2e/public/x",
        "/public/caf%C3%A9%201.txt",
    ] {
        assert!(is_covered(target), "{target}");
    }
    for target in ["/public/../admin", "/public/%2e%2e/admin", "/public/..", "/public/%2E./admin"] {
        assert!(!is_covered(target), "{target}");
    }
}

#[test]
fn what_servers_read_differently_is_not_excluded() {
    for target in [
        "/public%2f..%2fadmin",
        "/admin%2f..%2fpublic",
        "/admin/..%2fpublic",
        "/public/%2Fx",
        "/public/..;/admin",
        "/public/.;/..;/admin",
        "/public/x;y=1",
        "/public/%2e%2e%3b/admin",
        "/public/%252e%252e/admin",
        "/public/100%25",
        "/public/..%5cadmin",
        "/public/..\\admin",
        "/public/x%00",
        "/public/x%0a",
        "/public/x%7f",
        "/public/%c0%ae%c0%ae/admin",
        "/public/%e0%80%af",
        "/public/%ff",
        "/public/%u002e%u002e/admin",
        "/public/%",
        "/public/%2",
        "/public/%+2/",
        "/public/...",
        "/public/.. /admin",
        "/public/..%20/admin",
        "/public/\u{ff0e}\u{ff0e}/admin",
        "/public/..\u{ff0f}admin",
        "/public/%e2%80%a6",
        "https://media.example/public/x",
        "https://media.example/admin",
        "x://y/public",
        "public:80/x",
        "/admin?u=http://h/public",
        "/admin/http://h/public",
        "//public/admin",
        "///public/admin",
        "////public/admin",
        "//x/public/../admin",
    ] {
        assert!(!is_covered(target), "{target}");
    }
    assert!(!is_covered(&format!("/public/{}", "x".repeat(LONGEST))));
}

#[test]
fn paths_of_a_host_need_that_host() {
    for (host, target) in [
        ("media.example", "/app"),
        ("MEDIA.Example", "/app/x"),
        ("media.example:8443", "/app"),
        ("open.example", "/anything"),
        ("open.example:1", "/anything"),
        ("open.example", "/any;thing%2f..\\"),
        ("whatever.example", "/.well-known/acme"),
        ("x", "/.well-known"),
        ("other.example", "/public"),
        ("[2001:db8::99]:443", "/six"),
        ("[2001:DB8:0::99]", "/six"),
        ("", "/public"),
    ] {
        assert!(is_covered_at(host, target), "{host} {target}");
    }
    for (host, target) in [
        ("other.example", "/app"),
        ("sub.media.example", "/app"),
        ("media.example.", "/app"),
        ("media.example", "/admin"),
        ("", "/app"),
        ("", "/.well-known/x"),
        ("open.example", "https://media.example/x"),
        ("open.example", ""),
    ] {
        assert!(!is_covered_at(host, target), "{host} {target}");
    }
    assert!(!is_covered("/app") && !is_covered("/.well-known/x") && !is_covered("/anything"));
}

#[test]
fn nothing_is_excluded_for_a_host_that_is_not_plain() {
    for host in [
        "media.example, evil.example",
        "evil.example, media.example",
        "evil@media.example",
        "media.example?x",
        "media.example#x",
        "media.example/evil.example",
        "media.example\\evil.example",
        "media.example:evil",
        "media.example:",
        "media.example:+80",
        "media.example:65536",
        "media.example:80:90",
        "http://media.example",
        " media.example",
        "media.example\t",
        "%6dedia.example",
        "med\u{131}a.example",
        "[",
        "[::1",
        "[x]",
        "[::1]80",
        "[::1]:x",
        "[fe80::1%eth0]",
        "::1",
        ":80",
    ] {
        for target in ["/app", "/public", "/.well-known", "/admin"] {
            assert!(!is_covered_at(host, target), "{host} {target}");
        }
    }
}

#[test]
fn bad_exclusions_are_refused_with_a_remedy() {
    for (text, remedy) in [
        ("public", "write /path"),
        ("", "write /path"),
        ("/public/../x", "leave out"),
        ("/./x", "leave out"),
        ("/a%2fb", "leave out"),
        ("/a;b", "leave out"),
        ("/a\\b", "leave out"),
        ("/a?b", "leave out"),
        ("/a#b", "leave out"),
        ("//host/x", "leave out"),
        ("a b/x", "write a name"),
        ("user@host/x", "write a name"),
        ("https://host/x", "write a name"),
    ] {
        let error = text.parse::<ExcludedPath>().unwrap_err().to_string();
        assert!(error.contains(remedy), "{text}: {error}");
    }
    assert!(ExcludedPaths::default().is_empty() && !several().is_empty());
}

/// Parts of targets, most of which some server takes for another.
const PARTS: [&str; 26] = [
    "/",
    "public",
    "admin",
    "..",
    ".",
    "%2e",
    "%2f",
    "%5c",
    "\\",
    ";",
    "%3b",
    "%00",
    "%25",
    "%252e",
    "%c0%ae",
    "%c0%af",
    "%u002f",
    "?",
    "#",
    "%3f",
    "%23",
    " ",
    "\u{ff0e}",
    "%ef%bc%8f",
    ":",
    "\u{2025}",
];

/// Ways in which servers read a path, before they resolve dots.
const SERVERS: [fn(&str) -> String; 12] = [
    decoded,
    |path| decoded(&decoded(path)),
    |path| decoded(path).replace('\\', "/"),
    |path| decoded(&path.replace("%2f", "")),
    |path| without_parameters(&decoded(path)),
    |path| decoded(&without_parameters(path)),
    |path| decoded(path).split('\0').next().unwrap().to_owned(),
    |path| decoded(&path.replace("%c0%ae", ".").replace("%c0%af", "/").replace("%u002f", "/")),
    |path| decoded(path).split(['?', '#']).next().unwrap().to_owned(),
    // Wide forms.
    |path| {
        decoded(path).replace('\u{ff0e}', ".").replace('\u{ff0f}', "/").replace('\u{2025}', "..")
    },
    // Blanks and dots at the end of a name, which some file systems drop.
    |path| decoded(path).replace(' ', "").replace("...", ".."),
    // As a reference to an authority.
    |path| match path.strip_prefix("//").and_then(|rest| rest.split_once('/')) {
        Some((_, path)) => decoded(&format!("/{path}")),
        None => decoded(path),
    },
];

fn decoded(path: &str) -> String {
    let mut bytes = Vec::new();
    let mut rest = path.as_bytes();
    while let [byte, tail @ ..] = rest {
        match tail {
            [one, two, tail @ ..]
                if *byte == b'%' && hex(*one).is_some() && hex(*two).is_some() =>
            {
                bytes.push(16 * hex(*one).unwrap() + hex(*two).unwrap());
                rest = tail;
            }
            _ => {
                bytes.push(*byte);
                rest = tail;
            }
        }
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

fn without_parameters(path: &str) -> String {
    let names = path.split('/').map(|segment| segment.split(';').next().unwrap());
    names.collect::<Vec<_>>().join("/")
}

fn resolved(path: &str) -> Vec<&str> {
    let mut segments = Vec::new();
    for segment in path.split('/') {
        match segment {
            "" | "." => {}
            ".." => drop(segments.pop()),
            name => segments.push(name),
        }
    }
    segments
}

/// Every target of up to `depth` parts behind `start`.
fn each_target(start: &str, depth: usize, visit: &mut impl FnMut(&str)) {
    visit(start);
    if depth > 0 {
        for part in PARTS {
            each_target(&format!("{start}{part}"), depth - 1, visit);
        }
    }
}

#[test]
fn whatever_is_excluded_every_server_finds_below_the_excluded_path() {
    let public = excluded(&["/public"]);
    let (mut seen, mut covered) = (0, 0);
    let mut check = |target: &str| {
        seen += 1;
        if !public.cover(Asked { target: target.as_bytes(), host: None }) {
            return;
        }
        covered += 1;
        let path = target.split(['?', '#']).next().unwrap();
        for (number, server) in SERVERS.iter().enumerate() {
            let read = server(path);
            assert_eq!(resolved(&read).first(), Some(&"public"), "{target} at server {number}");
        }
        // One that takes a fragment for a part of the path.
        let whole = decoded(target.split('?').next().unwrap());
        let first = resolved(&whole).first().map_or("", |first| first);
        assert!(first.starts_with("public"), "{target} with its fragment");
    };
    for start in ["/public/", "/", "//", ""] {
        each_target(start, 3, &mut check);
    }
    each_target("/public/..", 3, &mut check);
    assert!(seen > 80_000 && covered > 1_000, "{covered} of {seen}");
}
