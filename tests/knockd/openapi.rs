//! The document of the API: served only where it is asked for, and true of the answers.

use std::process::Command;

use super::http::Ask;
use super::service::Settings;
use testkit::program::require;

const TOKEN: &str = "a-token-of-the-tests-for-schemathesis";

/// Networks of no client, which the document has in words: a schema has none for what a text is not.
const OF_NO_CLIENT: [&str; 7] =
    ["0.0.0.0/8", "127.0.0.0/8", "169.254.0.0/16", "224.0.0.0/3", "::/64", "fe80::/10", "ff00::/8"];

/// To JSON Schema 60.0 is an integer, to this API, as to Knocker's, it is none.
const HOOKS: &str = "\
import ipaddress
import schemathesis

OF_NO_CLIENT = [ipaddress.ip_network(text) for text in 'NETWORKS'.split()]

def is_of_nobody(text):
    try:
        net = ipaddress.ip_network(text, strict=False)
    except (TypeError, ValueError):
        return False
    return any(net.version == other.version and net.subnet_of(other) for other in OF_NO_CLIENT)

@schemathesis.hook
def filter_body(context, body):
    return not (isinstance(body, dict) and isinstance(body.get('ttl'), float))

# Also of cases that no filter sees.
@schemathesis.hook
def before_call(context, case, kwargs):
    if isinstance(case.body, dict) and is_of_nobody(case.body.get('ip_address')):
        case.body['ip_address'] = '198.51.100.7'
";

#[test]
fn the_document_is_served_only_where_it_is_asked_for() {
    let settings = Settings::new().with_token("one", TOKEN, &[]).in_file();
    let hidden = settings.start();
    assert_eq!(Ask::new("127.8.0.1", "GET", "/openapi.json").send(hidden.addr()).status, 404);
    let settings = Settings::new().with_token("one", TOKEN, &[]).in_file().args(&["--openapi"]);
    let service = settings.start();
    let answer = Ask::new("127.8.0.1", "GET", "/openapi.json").send(service.addr());
    assert_eq!(answer.status, 200);
    let document = answer.json();
    let paths: Vec<&String> = document["paths"].as_object().unwrap().keys().collect();
    for path in ["/grants", "/health", "/knock", "/ready"] {
        assert!(paths.iter().any(|it| *it == path), "{path} is not in {paths:?}");
    }
    for body in ["KnockBody", "LeaveBody"] {
        let named = &document["components"]["schemas"][body]["properties"]["ip_address"];
        let words = named["description"].as_str().unwrap();
        for network in OF_NO_CLIENT {
            assert!(words.contains(network), "{network} is not in {words}");
        }
    }
}

/// Random requests, valid and not, made of the document: each answer has to be in it.
#[test]
fn document_and_answers_agree() {
    require("schemathesis", "schemathesis (pipx)");
    let service = Settings::new()
        .with_token("one", TOKEN, &["--any-address", "--see-grants"])
        .in_file()
        .args(&["--openapi", "--most-failures", "0", "--most-knocks", "0"])
        .start();
    let url = format!("http://{}/openapi.json", service.addr());
    let config = service.path().join("schemathesis.toml");
    std::fs::write(&config, format!("[auth.openapi.token]\napi_key = \"{TOKEN}\"\n")).unwrap();
    let hooks = HOOKS.replace("NETWORKS", &OF_NO_CLIENT.join(" "));
    std::fs::write(service.path().join("hooks.py"), hooks).unwrap();
    let output = Command::new("schemathesis")
        .args(["--config-file", config.to_str().unwrap(), "run", &url])
        .args(["--max-examples", "40", "--seed", "1", "--no-color"])
        .env("SCHEMATHESIS_HOOKS", "hooks")
        .env("PYTHONPATH", service.path())
        .current_dir(service.path())
        .output()
        .expect("it starts");
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{text}{}", String::from_utf8_lossy(&output.stderr));
    assert!(text.contains("Selected: 8/8") || text.contains("8 selected"), "{text}");
}
