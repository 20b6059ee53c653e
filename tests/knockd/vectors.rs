//! Questions and answers that were recorded from a running Knocker, asked here.
//!
//! Each step says what was answered, and where that was a weakness what a safer service answers,
//! which is then expected. Each set of settings has a service of its own, and its cases run side by
//! side: they use addresses of their own.

use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::thread;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use nix::sys::signal::Signal;
use serde_json::{Map, Value};

use super::http::{Answer, answers, exchange};
use super::service::{Service, Settings};
use testkit::Launch;
use testkit::redis::Redis;

const RECORDED: &str = include_str!("../vectors/knocker-http.json");

/// Cases at once: many wait for the end of a grant.
const AT_ONCE: usize = 16;

/// Difference that a clock may have made in an answer.
const TOLERANCE: u64 = 3;

#[test]
fn recorded_answers_are_given_with_a_file() {
    run(&|settings| settings.in_file());
}

#[test]
fn recorded_answers_are_given_with_redis() {
    let redis = Redis::start();
    let next = std::sync::atomic::AtomicUsize::new(0);
    run(&|settings| {
        let db = next.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        settings.args(&["--gate", &format!("{}/{db}", redis.url())])
    });
}

fn run(with_store: &dyn Fn(Settings) -> Settings) {
    let recorded: Value = serde_json::from_str(RECORDED).unwrap();
    let configs = recorded["configs"].as_object().unwrap();
    let mut wrong = vec![];
    let mut count = 0;
    for (name, config) in configs {
        let cases = recorded["cases"].as_array().unwrap();
        let cases: Vec<&Value> = cases.iter().filter(|case| case["config"] == **name).collect();
        count += cases.len();
        let (apart, together): (Vec<&Value>, Vec<&Value>) =
            cases.into_iter().partition(|case| has_action(case));
        if !together.is_empty() {
            let service = with_store(settings(config)).start();
            wrong.extend(side_by_side(&together, &service));
        }
        for case in apart {
            let settings = with_store(settings(config));
            let launch = settings.launch();
            let own = Restartable { service: settings.start(), launch };
            wrong.extend(run_case(case, &mut Place::Own(Box::new(own))));
        }
    }
    assert!(wrong.is_empty(), "{} of {count} cases:\n{}", wrong.len(), wrong.join("\n"));
    assert!(count > 90, "{count} cases only");
}

fn has_action(case: &Value) -> bool {
    case["steps"].as_array().unwrap().iter().any(|step| step.get("action").is_some())
}

/// The command line that has these settings.
fn settings(config: &Value) -> Settings {
    let list = |value: &Value| {
        let words = value.as_array().unwrap().iter().map(|word| word.as_str().unwrap());
        words.collect::<Vec<_>>().join(",")
    };
    let mut settings = Settings::new();
    settings.listen = match config["listen"].as_str().unwrap() {
        "::1" => "[::1]:0".to_owned(),
        ip => format!("{ip}:0"),
    };
    for key in config["api_keys"].as_array().unwrap() {
        let ttl = key["max_ttl"].as_u64().unwrap().min(315_360_000);
        let ttl = format!("{ttl}s");
        let mut rights = vec!["--max-ttl", &ttl];
        if key["remote"] == true {
            rights.push("--any-address");
        }
        let (name, secret) = (key["name"].as_str().unwrap(), key["key"].as_str().unwrap());
        settings = settings.with_token(name, secret, &rights);
    }
    let rate = &config["rate_limit"];
    let limit = |kind: &str| format!("{}/{}s", rate[kind], rate["window_seconds"]);
    let mut args = vec![
        "--trusted-proxies".to_owned(),
        list(&config["trusted_proxies"]),
        "--allowed-origin".to_owned(),
        config["allowed_origin"].as_str().unwrap().to_owned(),
        "--most-grants".to_owned(),
        config["max_entries"].to_string(),
        "--most-knocks".to_owned(),
        limit("successes"),
        "--most-failures".to_owned(),
        limit("failures"),
    ];
    for net in config["always_allowed"].as_array().unwrap() {
        args.extend(["--allow".to_owned(), net.as_str().unwrap().to_owned()]);
    }
    args.extend(excluded(config).into_iter().flat_map(|path| ["--exclude-path".to_owned(), path]));
    settings.args(&args.iter().map(String::as_str).collect::<Vec<_>>())
}

/// The excluded paths, each with its host in front.
fn excluded(config: &Value) -> Vec<String> {
    let paths = |paths: &Value, host: &str| {
        let paths = paths.as_array().unwrap().iter();
        paths.map(|path| format!("{host}{}", path.as_str().unwrap())).collect::<Vec<_>>()
    };
    let by_host = config["excluded_paths_by_host"].as_object().unwrap();
    let of_hosts = by_host.iter().flat_map(|(host, of_host)| paths(of_host, host));
    paths(&config["excluded_paths"], "").into_iter().chain(of_hosts).collect()
}

fn side_by_side(cases: &[&Value], service: &Service) -> Vec<String> {
    let to = service.addr();
    let next = Arc::new(std::sync::atomic::AtomicUsize::new(0));
    thread::scope(|scope| {
        let workers: Vec<_> = (0..AT_ONCE.min(cases.len()))
            .map(|_| {
                let next = Arc::clone(&next);
                scope.spawn(move || {
                    let mut wrong = vec![];
                    loop {
                        let place = next.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
                        let Some(case) = cases.get(place) else { return wrong };
                        wrong.extend(run_case(case, &mut Place::Shared(to)));
                    }
                })
            })
            .collect();
        workers.into_iter().flat_map(|worker| worker.join().unwrap()).collect()
    })
}

/// The service of a case.
enum Place {
    Shared(SocketAddr),
    Own(Box<Restartable>),
}

/// A service with the means to start it again.
struct Restartable {
    service: Service,
    launch: Launch,
}

impl Place {
    fn addr(&self) -> SocketAddr {
        match self {
            Self::Shared(addr) => *addr,
            Self::Own(own) => own.service.addr(),
        }
    }

    fn restart(&mut self, action: &str) {
        let Self::Own(own) = self else { panic!("a shared service is not restarted") };
        match action {
            "kill" => {
                own.service.end.program.signal(Signal::SIGKILL);
                own.service.end.program.wait();
            }
            _ => own.service.end.stop(),
        }
        own.service.end = own.launch.start();
    }
}

fn run_case(case: &Value, place: &mut Place) -> Vec<String> {
    let name = case["name"].as_str().unwrap();
    let mut wrong = vec![];
    for (number, step) in case["steps"].as_array().unwrap().iter().enumerate() {
        if let Some(seconds) = step.get("wait") {
            // Until a grant has ended, by its own clock.
            thread::sleep(Duration::from_secs_f64(seconds.as_f64().unwrap()));
            continue;
        }
        if let Some(action) = step.get("action") {
            place.restart(action.as_str().unwrap());
            continue;
        }
        let repeat = step.get("repeat").and_then(Value::as_u64).unwrap_or(1);
        for _ in 0..repeat {
            let answered = ask(step, place.addr());
            if let Err(why) = check(step, &answered) {
                let what = format!("{} {}", step["method"], step["path"]);
                wrong.push(format!("{name}, step {number} ({what}): {why}; got {answered:?}"));
            }
        }
    }
    wrong
}

fn ask(step: &Value, to: SocketAddr) -> Vec<Answer> {
    let peer: IpAddr = step["peer"].as_str().unwrap().parse().unwrap();
    let half_close = step.get("half_close") == Some(&Value::Bool(true));
    let bytes = match step.get("raw") {
        Some(raw) => latin1(raw.as_str().unwrap()),
        None => request(step),
    };
    let answered = exchange(peer, to, &bytes, half_close);
    answers(&answered, step["method"] == "HEAD")
}

/// Characters below U+0100 stand for single bytes.
fn latin1(text: &str) -> Vec<u8> {
    text.chars().map(|c| u8::try_from(u32::from(c)).unwrap()).collect()
}

fn request(step: &Value) -> Vec<u8> {
    let version = step.get("version").and_then(Value::as_str).unwrap_or("1.1");
    let (method, path) = (step["method"].as_str().unwrap(), step["path"].as_str().unwrap());
    let mut bytes = latin1(&format!("{method} {path} HTTP/{version}\r\n"));
    let none = vec![];
    let headers = step.get("headers").and_then(Value::as_array).unwrap_or(&none);
    let is_named = |wanted: &str| {
        headers.iter().any(|header| header[0].as_str().unwrap().eq_ignore_ascii_case(wanted))
    };
    if !is_named("host") && step.get("no_host").is_none() {
        bytes.extend(b"Host: knock.test\r\n");
    }
    for header in headers {
        bytes.extend(latin1(header[0].as_str().unwrap()));
        bytes.extend(b": ");
        bytes.extend(match &header[1] {
            Value::String(text) => latin1(text),
            other => piece(other),
        });
        bytes.extend(b"\r\n");
    }
    if !is_named("connection") {
        bytes.extend(b"Connection: close\r\n");
    }
    let body = match (step.get("body"), step.get("chunked")) {
        (_, Some(chunks)) => {
            bytes.extend(b"Transfer-Encoding: chunked\r\n");
            chunked(chunks)
        }
        (Some(body), None) => {
            let body = piece(body);
            if !is_named("content-length") {
                bytes.extend(format!("Content-Length: {}\r\n", body.len()).bytes());
            }
            body
        }
        (None, None) => vec![],
    };
    bytes.extend(b"\r\n");
    bytes.extend(body);
    bytes
}

fn chunked(chunks: &Value) -> Vec<u8> {
    let mut bytes = vec![];
    for chunk in chunks.as_array().unwrap() {
        let chunk = piece(chunk);
        bytes.extend(format!("{:x}\r\n", chunk.len()).bytes());
        bytes.extend(chunk);
        bytes.extend(b"\r\n");
    }
    bytes.extend(b"0\r\n\r\n");
    bytes
}

fn piece(value: &Value) -> Vec<u8> {
    match value {
        Value::String(text) => text.clone().into_bytes(),
        Value::Array(pieces) => pieces.iter().flat_map(piece).collect(),
        Value::Object(object) => match object.get("hex") {
            Some(hex) => {
                let digits = hex.as_str().unwrap().as_bytes();
                let byte = |pair: &[u8]| {
                    u8::from_str_radix(std::str::from_utf8(pair).unwrap(), 16).unwrap()
                };
                digits.chunks(2).map(byte).collect()
            }
            None => {
                let times = usize::try_from(object["times"].as_u64().unwrap()).unwrap();
                object["repeat"].as_str().unwrap().repeat(times).into_bytes()
            }
        },
        other => panic!("no body: {other}"),
    }
}

fn check(step: &Value, answered: &[Answer]) -> Result<(), String> {
    let (expected, loose) = match step.get("better") {
        Some(better) => (&better["expect"], vec![]),
        None => {
            let loose = step.get("loose").and_then(Value::as_array);
            let words = loose.into_iter().flatten().filter_map(Value::as_str);
            (&step["expect"], words.collect())
        }
    };
    if let Some(all) = expected.get("answers").and_then(Value::as_array) {
        if all.len() != answered.len() {
            return Err(format!("{} answers expected", all.len()));
        }
        return all.iter().zip(answered).try_for_each(|(one, answer)| check_one(one, &[], answer));
    }
    match answered {
        [] if may_be_closed(expected) => Ok(()),
        [answer] => check_one(expected, &loose, answer),
        other => Err(format!("{} answers", other.len())),
    }
}

fn may_be_closed(expected: &Value) -> bool {
    let is_closed = |value: &Value| value == "closed";
    expected.get("closed") == Some(&Value::Bool(true))
        || expected["status"].as_array().is_some_and(|all| all.iter().any(is_closed))
}

fn check_one(expected: &Value, loose: &[&str], answer: &Answer) -> Result<(), String> {
    let is_free = |part: &str| loose.contains(&part);
    let status = &expected["status"];
    let is_status = match status {
        Value::Array(all) => all.iter().any(|one| one == answer.status),
        Value::Null => true,
        one => *one == answer.status,
    };
    if !is_status && !is_free("status") {
        return Err(format!("status {status} expected"));
    }
    if !is_free("headers") {
        check_headers(expected, answer)?;
    }
    if !is_free("body") {
        check_body(expected, answer)?;
    }
    Ok(())
}

fn check_headers(expected: &Value, answer: &Answer) -> Result<(), String> {
    for (name, value) in object(expected, "headers") {
        let found = answer.header(name);
        if found.as_deref() != value.as_str() {
            return Err(format!("header {name}: {value} expected, not {found:?}"));
        }
    }
    for name in expected.get("has_headers").and_then(Value::as_array).into_iter().flatten() {
        if answer.header(name.as_str().unwrap()).is_none() {
            return Err(format!("header {name} expected"));
        }
    }
    for (name, texts) in object(expected, "headers_hold") {
        let found = answer.header(name).unwrap_or_default();
        for text in texts.as_array().unwrap() {
            if !found.contains(text.as_str().unwrap()) {
                return Err(format!("header {name} with {text} expected, not {found}"));
            }
        }
    }
    Ok(())
}

fn object<'a>(expected: &'a Value, name: &str) -> impl Iterator<Item = (&'a String, &'a Value)> {
    expected.get(name).and_then(Value::as_object).into_iter().flat_map(Map::iter)
}

fn check_body(expected: &Value, answer: &Answer) -> Result<(), String> {
    if expected.get("empty") == Some(&Value::Bool(true)) && !answer.body.is_empty() {
        return Err("no body expected".to_owned());
    }
    if let Some(text) = expected.get("text")
        && *text != answer.text()
    {
        return Err(format!("text {text} expected"));
    }
    let Some(json) = expected.get("json") else { return Ok(()) };
    let found: HashMap<String, Value> =
        serde_json::from_slice(&answer.body).map_err(|error| format!("no JSON: {error}"))?;
    let wanted = json.as_object().unwrap();
    let is_same = found.len() == wanted.len()
        && wanted.iter().all(|(name, value)| found.get(name).is_some_and(|it| is_value(value, it)));
    if is_same { Ok(()) } else { Err(format!("{json} expected")) }
}

/// `now+N±T` is a unix second.
fn is_value(wanted: &Value, found: &Value) -> bool {
    let moment = wanted.as_str().and_then(|text| text.strip_prefix("now+"));
    let Some((after, _)) = moment.and_then(|text| text.split_once('±')) else {
        return wanted == found;
    };
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs();
    let wanted = now + after.parse::<u64>().unwrap();
    found.as_u64().is_some_and(|found| found.abs_diff(wanted) <= TOLERANCE)
}
