//! The examples that people copy: the page shows the files that the tests run, and compose.yaml with
//! Caddy does what it says.

use std::collections::BTreeMap;

use saphyr::{LoadableYamlNode, Yaml};
use testkit::tree::read;

use super::fronts::Front;
use super::http::get;
use super::world::{App, World};

const PAGE: &str = "docs/operating/forward-auth.md";

#[test]
fn the_page_shows_the_files_that_the_tests_run() {
    let page = read(PAGE);
    for file in ["Caddyfile", "nginx.conf", "traefik.yaml", "haproxy.cfg"] {
        let path = format!("packaging/forward-auth/{file}");
        let text = read(&path).replace('\t', "    ");
        let indented = text.lines().map(|line| match line {
            "" => "\n".to_owned(),
            line => format!("    {line}\n"),
        });
        let shown = format!("    # {path}\n{}", indented.collect::<String>());
        assert!(page.contains(&shown), "{PAGE} does not show {path} as it is:\n{shown}");
    }
}

#[test]
fn the_example_for_traefik_asks_the_right_endpoint() {
    let text = read("packaging/forward-auth/traefik.yaml");
    let http = &Yaml::load_from_str(&text).unwrap()[0]["http"];
    let auth = &http["middlewares"]["knocked"]["forwardAuth"];
    assert_eq!(auth["address"].as_str(), Some("http://127.0.0.1:8700/verify"));
    assert_eq!(auth["trustForwardHeader"].as_bool(), Some(false));
    let app = &http["routers"]["app"];
    assert_eq!(app["middlewares"][0].as_str(), Some("knocked"));
    for router in ["knock", "app"] {
        let service = http["routers"][router]["service"].as_str().unwrap();
        assert!(http["services"].as_mapping_get(service).is_some(), "{service}");
    }
}

#[test]
fn compose_with_caddy_lets_in_who_is_in_the_store() {
    let text = read("packaging/compose-caddy.yaml");
    let compose = &Yaml::load_from_str(&text).unwrap()[0];
    let command = compose["services"]["knockd"]["command"].as_sequence().unwrap();
    let words: Vec<&str> = command.iter().map(|word| word.as_str().unwrap()).collect();
    let caddy = &compose["services"]["caddy"]["networks"]["front"]["ipv4_address"];
    let trusted = format!("--trusted-proxies={}", caddy.as_str().unwrap());
    assert!(words.contains(&&*trusted), "{words:?}");
    for part in ["gate", "knockd", "app"] {
        let service = &compose["services"][part];
        assert!(service.as_mapping_get("ports").is_none(), "{part} is reached through Caddy only");
    }
    for network in ["gate", "site", "front"] {
        assert_eq!(compose["networks"][network]["internal"].as_bool(), Some(true), "{network}");
    }

    // The world has the same gate and tokens, and its own addresses.
    let ours = ["knockd", "--source=", "--gate=", "--allow-prefix=", "--tokens=", "--log-format="];
    let others: Vec<String> = words
        .iter()
        .filter(|word| !ours.iter().any(|ours| word.starts_with(ours)))
        .map(|word| word.replace(caddy.as_str().unwrap(), "127.0.0.1"))
        .collect();
    let others: Vec<&str> = others.iter().map(String::as_str).collect();
    let (world, app) = (World::start(&others), App::start());
    let addresses = BTreeMap::from([
        ("knockd:8700", world.addr().to_string()),
        ("app:80", app.addr().to_string()),
    ]);
    let content = compose["configs"]["caddyfile"]["content"].as_str().unwrap();
    let content =
        addresses.iter().fold(content.to_owned(), |text, (from, to)| text.replace(from, to));
    let front = Front::caddy_with(&format!("\n{content}"));
    world.grant("127.1.4.1");
    assert_eq!(get("127.1.4.1", &front.addr, "/x", &[]).body, "/x");
    assert_eq!(get("127.1.4.2", &front.addr, "/x", &[]).status, 401);
    let health = get("127.1.4.2", &front.addr, "/health", &["Host: knock.example.org"]);
    assert_eq!(health.status, 200);
}
