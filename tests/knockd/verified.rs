//! Numbers of answers, by what they said.

use testkit::admin::{http, metrics_address};

use super::http::Ask;
use super::service::Settings;

const TOKEN: &str = "guest-token-of-the-tests-0001";

#[test]
fn answers_to_proxies_and_to_all_are_counted() {
    let args =
        ["--trusted-proxies", "127.0.0.1", "--exclude-path", "/public", "--metrics", "127.0.0.1:0"];
    let settings = Settings::new().with_token("guest", TOKEN, &[]).args(&args);
    let service = settings.in_file().start();
    let ask = |client: &str, uri: &str| {
        let ask = Ask::new("127.0.0.1", "GET", "/verify");
        let ask = ask.header("X-Forwarded-For", client).header("X-Forwarded-Uri", uri);
        ask.send(service.addr()).status
    };
    let knock = Ask::new("127.0.0.1", "POST", "/knock").token(TOKEN);
    assert_eq!(knock.header("X-Forwarded-For", "203.0.113.7").send(service.addr()).status, 200);
    assert_eq!(ask("203.0.113.7", "/"), 200);
    assert_eq!((ask("203.0.113.8", "/"), ask("203.0.113.9", "/a")), (401, 401));
    assert_eq!(ask("203.0.113.8", "/public/a"), 200);
    let metrics = http(&metrics_address(&service.end.program), "GET", "/metrics").body;
    for line in [
        "knockpipe_verify_total{tunnel=\"knockd\",result=\"allowed\"} 1",
        "knockpipe_verify_total{tunnel=\"knockd\",result=\"denied\"} 2",
        "knockpipe_verify_total{tunnel=\"knockd\",result=\"excluded\"} 1",
        "knockpipe_http_requests_total{tunnel=\"knockd\",status=\"2xx\"} 3",
        "knockpipe_http_requests_total{tunnel=\"knockd\",status=\"4xx\"} 2",
    ] {
        assert!(metrics.lines().any(|it| it == line), "{line}: {metrics}");
    }
}
