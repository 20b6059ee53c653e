//! HAProxy adds an X-Forwarded-For line of its own behind those that the client sent.

use super::fronts::{Behind, Front};
use super::http::get;
use super::world::World;

const IN: &str = "127.1.2.1";
const OUT: &str = "127.1.2.2";

#[test]
fn a_line_of_the_clients_own_does_not_hide_the_one_that_haproxy_adds() {
    let world = World::start(&["--trusted-proxies", "127.0.0.1"]);
    let front = Front::haproxy(Behind { knockd: world.addr(), app: world.addr() });
    world.grant(IN);
    for (lines, is_list) in [
        (&[][..], true),
        (&["X-Forwarded-For: 127.1.2.1"], true),
        (&["X-Forwarded-For: 127.1.2.2"], true),
        (&["X-Forwarded-For: 127.1.2.1", "X-Forwarded-For: 127.1.2.1"], true),
        (&["X-Forwarded-For: 127.1.2.1, 127.0.0.1"], true),
        (&["X-Forwarded-For: 127.1.2.1", "Connection: X-Forwarded-For"], true),
        // Nobody can be told from such a list, so that nobody is let in for it.
        (&["X-Forwarded-For: junk"], false),
        (&["X-Forwarded-For: 127.1.2.1,"], false),
        (&["X-Forwarded-For: "], false),
        (&["X-Forwarded-For: 127.1.2.1:80"], false),
    ] {
        let status = |from| get(from, &front.addr, "/verify", lines).status;
        assert_eq!(status(IN), if is_list { 200 } else { 401 }, "{lines:?}");
        assert_eq!(status(OUT), 401, "{lines:?}");
    }
}

#[test]
fn haproxy_has_to_be_trusted_by_its_address() {
    let world = World::start(&["--trusted-proxies", "127.0.0.9"]);
    let front = Front::haproxy(Behind { knockd: world.addr(), app: world.addr() });
    world.redis.ask("SET allow:127.1.2.1 1");
    world.redis.ask("SET allow:127.0.0.9 1");
    testkit::eventually("the service knows", || {
        get("127.0.0.9", world.addr(), "/verify", &["X-Forwarded-For: 127.1.2.1"]).status == 200
    });
    for from in [IN, OUT] {
        assert_eq!(get(from, &front.addr, "/verify", &[]).status, 401, "{from}");
    }
}
