//! Caddy and nginx let through whom `knockd` lets through, whatever the client says.

use super::fronts::{Behind, Front};
use super::http::{exchange, get, request};
use super::world::{App, World};

/// A client that knocked, and one that did not.
const IN: &str = "127.1.1.1";
const OUT: &str = "127.1.1.2";

/// Header lines of the client's own that name the one that knocked, or an excluded path.
const SPOOFED: [&[&str]; 14] = [
    &["X-Forwarded-For: 127.1.1.1"],
    &["X-Forwarded-For: 127.1.1.1, 127.0.0.1"],
    &["X-Forwarded-For: 127.1.1.1", "X-Forwarded-For: 127.1.1.1"],
    &["X-Forwarded-For: 127.1.1.1,"],
    &["X-Forwarded-For: 127.0.0.1"],
    &["x-forwarded-for: 127.1.1.1", "Connection: X-Forwarded-For"],
    &["X-Real-IP: 127.1.1.1", "X-Client-IP: 127.1.1.1", "True-Client-IP: 127.1.1.1"],
    &["Forwarded: for=127.1.1.1", "X-Original-Forwarded-For: 127.1.1.1"],
    &["X-Forwarded-Uri: /public"],
    &["X-Forwarded-Uri: /public", "X-Forwarded-Uri: /public", "Connection: X-Forwarded-Uri"],
    &["X-Original-URI: /public", "X-Original-URL: /public", "X-Rewrite-URL: /public"],
    &["X-Forwarded-Host: media.example.org", "X-Forwarded-Uri: /app"],
    &["X_Forwarded_For: 127.1.1.1", "X_Forwarded_Uri: /public"],
    &["X-Api-Key: guess", "Authorization: Basic Z3Vlc3Q6Z3Vlc3Q="],
];

fn each_front(check: impl Fn(&World, &App, &Front)) {
    let (world, app) = (World::start(&["--trusted-proxies", "127.0.0.1"]), App::start());
    let behind = Behind { knockd: world.addr(), app: app.addr() };
    for front in [Front::caddy(behind), Front::nginx(behind)] {
        check(&world, &app, &front);
    }
}

#[test]
fn a_proxy_lets_in_who_knocked_and_nobody_else() {
    each_front(|world, app, front| {
        world.grant(IN);
        let answer = get(IN, &front.addr, "/some/page?x=1", &[]);
        assert_eq!((answer.status, &*answer.body), (200, "/some/page?x=1"), "{}", front.name);
        assert_eq!(app.asked(), ["/some/page?x=1"]);

        let answer = get(OUT, &front.addr, "/some/page?x=1", &[]);
        assert_eq!(answer.status, 401, "{}", front.name);
        assert_eq!(app.asked(), [""; 0]);

        world.revoke(IN);
        assert_eq!(get(IN, &front.addr, "/", &[]).status, 401, "{}", front.name);
        assert_eq!(app.asked(), [""; 0]);
    });
}

#[test]
fn what_a_client_says_of_itself_lets_nobody_in_and_keeps_nobody_out() {
    each_front(|world, app, front| {
        world.grant(IN);
        for lines in SPOOFED {
            let answer = get(OUT, &front.addr, "/secret", lines);
            assert_eq!(answer.status, 401, "{} with {lines:?}", front.name);
            assert_eq!(app.asked(), [""; 0], "{} with {lines:?}", front.name);
            let answer = get(IN, &front.addr, "/secret", lines);
            assert_eq!(answer.status, 200, "{} with {lines:?}", front.name);
            assert_eq!(app.asked(), ["/secret"]);
        }
        world.revoke(IN);
    });
}

/// Targets outside of the excluded path for some server, each in a way that another misses.
const TRICKS: [&str; 45] = [
    "/",
    "/admin",
    "/publicity",
    "/PUBLIC",
    "/public/../admin",
    "/public/..",
    "/public/./../admin",
    "/public/%2e%2e/admin",
    "/public/%2E./admin",
    "/public%2f..%2fadmin",
    "/public/..%2fadmin",
    "/admin%2f..%2fpublic",
    "/admin/..%2fpublic",
    "/public/..;/admin",
    "/public/..;x=1/admin",
    "/public/.;/..;/admin",
    "/public/%2e%2e%3b/admin",
    "/public/%252e%252e/admin",
    "/public/%25252e%25252e/admin",
    "/public/..%252fadmin",
    "/public/..%5cadmin",
    "/public/..\\admin",
    "/public\\..\\admin",
    "/public/x%00",
    "/public/%00/../admin",
    "/public/x%0d%0a",
    "/public/%c0%ae%c0%ae/admin",
    "/public/..%c0%afadmin",
    "/public/%e0%80%af",
    "/public/%ff",
    "/public/\u{ff}",
    "/public/%u002e%u002e/admin",
    "/public/%",
    "/public/%zz",
    "/public/...",
    "/public/..%20/admin",
    "/public/%ef%bc%8e%ef%bc%8e/admin",
    "/public/%23/../../admin",
    "/public/#/../../admin",
    "/public/%3f/../../admin",
    "//public/admin",
    "///public/admin",
    "//x/public/../admin",
    "/admin?x=/public",
    "/admin#/public",
];

#[test]
fn excluded_paths_are_open_to_all_and_no_trick_leads_out_of_them() {
    let excluded = ["/public", "media.example.org/app", "*/.well-known"];
    let mut args = vec!["--trusted-proxies", "127.0.0.1"];
    args.extend(excluded.iter().flat_map(|path| ["--exclude-path", path]));
    let (world, app) = (World::start(&args), App::start());
    let behind = Behind { knockd: world.addr(), app: app.addr() };
    for front in [Front::caddy(behind), Front::nginx(behind)] {
        for target in ["/public", "/public/x?y=/admin", "//public", "/.well-known/acme"] {
            let answer = get(OUT, &front.addr, target, &[]);
            assert_eq!(answer.status, 200, "{} {target}", front.name);
            assert_eq!(app.asked(), [target], "{}", front.name);
        }
        for target in TRICKS {
            let got = exchange(OUT, &front.addr, &request("GET", target, &[]));
            let text = String::from_utf8_lossy(&got);
            let refused = ["HTTP/1.1 401 ", "HTTP/1.1 400 "].iter().any(|it| text.starts_with(it));
            assert!(refused, "{} {target}: {text}", front.name);
            assert_eq!(app.asked(), [""; 0], "{} {target}", front.name);
        }
        // A path of another host.
        assert_eq!(get(OUT, &front.addr, "/app", &[]).status, 401, "{}", front.name);
        let lines = ["X-Forwarded-Host: media.example.org"];
        assert_eq!(get(OUT, &front.addr, "/app", &lines).status, 401, "{}", front.name);
    }
}

#[test]
fn a_proxy_can_send_others_to_the_page_where_they_knock() {
    const PLACE: &str = "https://knock.example.org/";
    let line = format!("error_page 401 =302 {PLACE};");
    let page = testkit::tree::read("docs/operating/forward-auth.md");
    let words: Vec<&str> = page.split_whitespace().collect();
    assert!(words.join(" ").contains(&line), "the page has this line");

    let (world, app) = (World::start(&["--trusted-proxies", "127.0.0.1"]), App::start());
    let behind = Behind { knockd: world.addr(), app: app.addr() };
    let fronts = [(Front::caddy(behind), "wiki"), (Front::nginx_with(behind, &line), "app")];
    for (front, site) in fronts {
        let answer = get(OUT, &front.addr, "/", &[&format!("Host: {site}.example.org")]);
        let found = (answer.status, answer.header("location"));
        assert_eq!(found, (302, vec![PLACE]), "{}", front.name);
        let answer = get(OUT, &front.addr, "/health", &["Host: knock.example.org"]);
        assert_eq!(answer.status, 200, "{}", front.name);
    }
}
