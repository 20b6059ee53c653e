//! Fields, targets and trailers by which a client would have the server, or the gate, believe
//! something: they are dropped, kept from being named away, or refused.

use testkit::{End, eventually};

use crate::http::{Message, Peer};
use crate::world::{Server, connect, get, hello, launch, open_gate};

/// Every address of loopback may come in, and is a proxy that is believed.
const TRUSTED: [&str; 2] = ["--trusted-proxies", "127.0.0.0/8"];

/// Sends a request of these lines, and returns what the server saw.
#[track_caller]
fn seen(args: &[&str], lines: &str) -> Message {
    let server = Server::hello();
    let gate = open_gate(&server, args);
    let answer = connect(&gate).ask(&format!("GET / HTTP/1.1\r\nHost: a\r\n{lines}\r\n"));
    assert_eq!(answer.status(), 200, "{lines}");
    server.only()
}

/// Returns the status of the answer to a request that reaches no server.
#[track_caller]
fn refused(gate: &End, server: &Server, request: &str) -> u16 {
    let mut client = connect(gate);
    client.send(request);
    // What the parser refuses has no further answer either.
    let status = client.head().map_or(0, |answer| answer.status());
    assert_eq!(server.seen().len(), 0, "{request}");
    status
}

#[test]
fn no_spelling_of_a_strangers_word_reaches_the_server() {
    for name in [
        "X_Forwarded_For",
        "X.Forwarded.For",
        "X-Forwarded_For",
        "X~Forwarded~For",
        "Forwarded-For",
        "X-Forwarded",
        "X-Forwarded-By",
        "X-Client-IP",
        "X-Cluster-Client-IP",
        "True-Client-IP",
        "CF-Connecting-IP",
        "CF_Connecting_IPv6",
        "WL-Proxy-Client-IP",
        "Proxy-Client-IP",
        "X-Azure-ClientIP",
        "X-Azure-SocketIP",
        "Fly-Client-IP",
        "X-Appengine-User-Ip",
        "Do-Connecting-Ip",
        "Fastly-Client-IP",
        "X-Originating-IP",
        "X-Remote-IP",
        "X-Remote-Addr",
        "Remote-Addr",
        "X-Remote-User",
        "Remote-User",
        "Remote_User",
        "X-ProxyUser-Ip",
        "X-Original-URL",
        "X-Rewrite-URL",
        "X-Original-Host",
        "X-Host",
        "X-Forwarded-Server",
        "X-Forwarded-Port",
        "X-Forwarded-Ssl",
        "X-Forwarded-Prefix",
        "X-Url-Scheme",
        "Front-End-Https",
        "X-Http-Host-Override",
        "Proxy",
        "X-Real-IP",
        "X.Real.IP",
    ] {
        let seen = seen(&[], &format!("{name}: 192.0.2.66\r\nX-Own: stays\r\n"));
        let all = format!("{:?}", seen.fields);
        assert!(!all.contains("192.0.2.66"), "{name}: {all}");
        assert_eq!(seen.field("x-own"), Some("stays"));
    }
}

/// Fields in which products name the user, or the client, that they checked.
const OF_PRODUCTS: [&str; 30] = [
    "Ali-Cdn-Real-Ip",
    "Cdn-Src-Ip",
    "Cf-Access-Authenticated-User-Email",
    "Cf-Access-Jwt-Assertion",
    "CloudFront-Viewer-Address",
    "Incap-Client-IP",
    "Tailscale-User-Login",
    "Tailscale-User-Name",
    "X-Auth-User",
    "X-Auth-Username",
    "X-Authenticated-Userid",
    "X-Authentik-Username",
    "X-Clientip",
    "X-Consumer-ID",
    "X-Consumer-Username",
    "X-Credential-Username",
    "X-Email",
    "X-Forwarded-User",
    "X-Grafana-User",
    "X-MS-Client-Principal",
    "X-MS-Client-Principal-Name",
    "X-Nf-Client-Connection-Ip",
    "X-Original-For",
    "X-Original-Method",
    "X-Override-Url",
    "X-Sucuri-ClientIP",
    "X-User",
    "X-Username",
    "X-Vercel-Forwarded-For",
    "X_Vouch_User",
];

#[test]
fn no_word_of_a_product_is_taken_from_a_stranger() {
    let lines: String = OF_PRODUCTS.map(|name| format!("{name}: 192.0.2.66\r\n")).concat();
    let seen = seen(&[], &(lines + "X-User-Id: stays\r\n"));
    let all = format!("{:?}", seen.fields);
    assert!(!all.contains("192.0.2.66"), "{all}");
    assert_eq!(seen.field("x-user-id"), Some("stays"));
}

#[test]
fn the_user_that_a_trusted_proxy_names_is_passed_on() {
    let args = [&TRUSTED[..], &["--allow", "192.0.2.7"]].concat();
    let of_proxy = seen(
        &args,
        "X-Forwarded-For: 192.0.2.7\r\nX-Forwarded-User: alice\r\nX-Forwarded-Email: a@b\r\n\
         X-Forwarded-Groups: staff\r\nX-Forwarded-Preferred-Username: al\r\n\
         X-Forwarded-Access-Token: t\r\nX-Authentik-Username: alice\r\n\
         X_Forwarded_User: root\r\nX-Forwarded-Port: 1\r\n",
    );
    for (name, value) in [
        ("x-forwarded-user", Some("alice")),
        ("x-forwarded-email", Some("a@b")),
        ("x-forwarded-groups", Some("staff")),
        ("x-forwarded-preferred-username", Some("al")),
        ("x-forwarded-access-token", Some("t")),
        ("x-authentik-username", Some("alice")),
        ("x_forwarded_user", None),
        ("x-forwarded-port", None),
    ] {
        assert_eq!(of_proxy.field(name), value, "{name}");
    }
}

#[test]
fn a_denied_request_that_servers_read_differently_is_refused_too() {
    let server = Server::hello();
    let args = ["--allow", "192.0.2.7", "--redirect", "https://login.example/"];
    let gate = launch(&server.url(), &[&TRUSTED[..], &args].concat()).start();
    let hidden = "GET /hidden HTTP/1.1\r\nHost: a\r\nX-Forwarded-For: 192.0.2.7\r\n\r\n";
    for (method, fields, status) in [
        ("POST", "Host: a\r\nTransfer-Encoding: gzip, chunked\r\n", 400),
        ("GET", "Host: a\r\nContent_Length: 30\r\n", 400),
        ("GET", "Host: a\r\nHost: b\r\n", 400),
        ("TRACE", "Host: a\r\n", 405),
        ("GET", "Host: a\r\nConnection: close\r\n", 302),
    ] {
        let mut proxy = connect(&gate);
        let client = "X-Forwarded-For: 198.51.100.1\r\n";
        let answer = proxy.ask(&format!("{method} / HTTP/1.1\r\n{client}{fields}\r\n{hidden}"));
        assert_eq!(answer.status(), status, "{fields}");
        assert!(proxy.is_ended(), "{fields}");
        assert_eq!(server.seen().len(), 0, "{fields}");
    }
}

#[test]
fn a_client_cannot_name_away_what_the_gate_and_the_server_go_by() {
    let words = "X-Forwarded-For: 192.0.2.7\r\nX-Forwarded-Proto: https\r\n\
                 X-Forwarded-Host: public\r\nAuthorization: Basic eA==\r\nRemote-User: alice\r\n\
                 X-Seen: 192.0.2.7\r\nX-Hop: 1\r\n\
                 Connection: X-Hop, X-Forwarded-For, x-forwarded-proto, X-Forwarded-Host, Host\r\n\
                 Connection: Forwarded, Authorization, Remote-User, X-Seen, Content-Length, X-Real-IP\r\n";
    let allow = ["--allow", "192.0.2.7"];
    let of_proxy = seen(&[&TRUSTED[..], &allow].concat(), words);
    assert_eq!(of_proxy.field("x-forwarded-for"), Some("192.0.2.7, 127.0.0.1"));
    assert_eq!(of_proxy.field("x-forwarded-proto"), Some("https"));
    assert_eq!(of_proxy.field("x-forwarded-host"), Some("public"));
    assert_eq!(of_proxy.field("remote-user"), Some("alice"));
    assert_eq!(of_proxy.field("authorization"), Some("Basic eA=="));
    assert_eq!((of_proxy.field("host"), of_proxy.field("x-hop")), (Some("a"), None));
    let own = ["--client-ip-header", "X-Seen"];
    let of_proxy = seen(&[&TRUSTED[..], &allow, &own].concat(), words);
    assert_eq!(of_proxy.field("x-seen"), Some("192.0.2.7"));
}

#[test]
fn trailers_carry_no_field_of_a_head() {
    let server = Server::new(|request, peer| {
        assert_eq!(request.trailers, [("x-sum".to_owned(), "7".to_owned())]);
        peer.send(
            "HTTP/1.1 200 OK\r\nTrailer: X-Sum, X-Forwarded-For, Set-Cookie, Content-Length\r\n\
             Transfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\nX-Sum: 8\r\n\
             X-Forwarded-For: 192.0.2.66\r\nSet-Cookie: a=b\r\nContent-Length: 5\r\n\r\n",
        );
    });
    let args = [&TRUSTED[..], &["--allow", "192.0.2.7", "--client-ip-header", "X-Seen"]].concat();
    let gate = open_gate(&server, &args);
    let trailers = "X-Forwarded-For, X_Real_IP, X-Seen, Host, Authorization, Content-Length, X-Sum";
    let answer = connect(&gate).ask(&format!(
        "POST / HTTP/1.1\r\nHost: a\r\nTE: trailers\r\nX-Seen: 192.0.2.7\r\nTrailer: {trailers}\r\n\
         Transfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\nX-Forwarded-For: 192.0.2.66\r\n\
         X_Real_IP: 192.0.2.66\r\nX-Seen: 192.0.2.66\r\nHost: b\r\nAuthorization: Basic eA==\r\n\
         Content-Length: 9\r\nX-Sum: 7\r\n\r\n"
    ));
    assert_eq!(answer.text(), "ok");
    assert_eq!(answer.trailers, [("x-sum".to_owned(), "8".to_owned())]);
    assert_eq!(server.seen().len(), 1);
}

#[test]
fn a_target_that_is_no_path_is_refused() {
    let server = Server::hello();
    let gate = open_gate(&server, &[]);
    for target in ["a", "a:80", "a.b/c", "*", "/#", "/a?b#c", "#", "http://b/#c", "ftp://a/", "a*"]
    {
        let request = format!("GET {target} HTTP/1.1\r\nHost: a\r\n\r\n");
        assert_eq!(refused(&gate, &server, &request), 400, "{target}");
    }
    let answer = connect(&gate).ask("OPTIONS * HTTP/1.1\r\nHost: a\r\n\r\n");
    assert_eq!((answer.status(), server.only().first.as_str()), (200, "OPTIONS * HTTP/1.1"));
}

#[test]
fn a_host_that_is_not_one_is_refused() {
    let server = Server::hello();
    let gate = open_gate(&server, &[]);
    for host in ["", "a,b", "a;for=b", "u@a", "a b", "a/b", "a%2fb", "a:b", ":80", "[::1", "a..b"] {
        let request = format!("GET / HTTP/1.1\r\nHost: {host}\r\n\r\n");
        assert_eq!(refused(&gate, &server, &request), 400, "{host}");
        let request = format!("GET http://b/ HTTP/1.1\r\nHost: {host}\r\n\r\n");
        assert_eq!(refused(&gate, &server, &request), 400, "{host}");
    }
    for two in ["Host: a\r\nHost: b", "Host: a\r\nHost: a", "Host: a\r\nX: y\r\nhost: b"] {
        assert_eq!(refused(&gate, &server, &format!("GET / HTTP/1.1\r\n{two}\r\n\r\n")), 400);
    }
    let other = "GET http://b:81/c HTTP/1.1\r\nHost: a\r\n\r\n";
    assert_eq!(refused(&gate, &server, other), 400);
    let answer = connect(&gate).ask("GET http://b:81/c HTTP/1.1\r\nHost: B:81\r\n\r\n");
    assert_eq!((answer.status(), server.only().field("host")), (200, Some("b:81")));
}

#[test]
fn a_method_for_proxies_is_refused() {
    let server = Server::hello();
    let gate = open_gate(&server, &[]);
    for method in ["TRACE", "TRACK", "trace", "CONNECT"] {
        let target = if method == "CONNECT" { "a:80" } else { "/" };
        let request = format!("{method} {target} HTTP/1.1\r\nHost: a\r\nMax-Forwards: 0\r\n\r\n");
        let mut client = connect(&gate);
        client.send(&request);
        let answer = client.head().unwrap();
        assert_eq!(answer.status(), 405, "{method}");
        let allow = answer.field("allow").unwrap();
        assert!(allow.contains("GET") && !allow.contains("TRACE"), "{allow}");
        assert_eq!(server.seen().len(), 0, "{method}");
    }
}

#[test]
fn a_field_of_the_framing_in_another_spelling_is_refused() {
    let server = Server::hello();
    let gate = open_gate(&server, &[]);
    for field in
        ["Content_Length: 5", "Transfer_Encoding: chunked", "Transfer.Encoding: x", "Keep_Alive: 1"]
    {
        let request = format!("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 0\r\n{field}\r\n\r\n");
        assert_eq!(refused(&gate, &server, &request), 400, "{field}");
    }
}

#[test]
fn two_lengths_are_refused_behind_a_chunked_request_too() {
    let server = Server::new(|_, peer: &mut Peer| hello(peer));
    let gate = open_gate(&server, &[]);
    let mut client = connect(&gate);
    let first = "POST /1 HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n\
                 3;x\r\nabc\r\n0\r\nX-Sum: 1\r\n\r\n";
    assert_eq!(client.ask(first).text(), "hello");
    assert_eq!(client.ask(&get("/2")).text(), "hello");
    client.send(
        "POST /3 HTTP/1.1\r\nHost: a\r\nContent-Length: 4\r\nTransfer-Encoding: chunked\r\n\r\n\
         0\r\n\r\n",
    );
    assert_eq!(client.head().unwrap().status(), 400);
    eventually("the server has seen two requests", || server.seen().len() == 2);
}
