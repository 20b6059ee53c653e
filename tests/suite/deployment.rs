//! The examples that people copy do what they say: the configuration file of the package,
//! compose.yaml and the Kubernetes sidecar are started with the program, with nothing changed but
//! addresses and the place of the key; command lines in documents are parsed by it.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use clap::error::ErrorKind;
use knockpipe::cli;
use saphyr::{LoadableYamlNode, Yaml};
use tempfile::TempDir;

use super::docs::operating;
use testkit::legit::round_trip;
use testkit::redis::{Redis, Resp};
use testkit::tree::read;
use testkit::{End, Kind, Launch, Target, binary, eventually, keygen};

// === the configuration file of the package ===

/// Returns the blocks of a file that begin with a table in a comment, without their `#`, each as
/// the file with nothing else changed.
fn with_one_example(text: &str) -> Vec<String> {
    let lines: Vec<&str> = text.lines().collect();
    let starts = (0..lines.len()).filter(|at| lines[*at].starts_with("#["));
    let uncommented = |start: usize| {
        let bare = |(at, line): (usize, &&str)| {
            let is_block =
                at >= start && lines[start..=at].iter().all(|line| line.starts_with('#'));
            if is_block { format!("{}\n", &line[1..]) } else { format!("{line}\n") }
        };
        lines.iter().enumerate().map(bare).collect()
    };
    starts.map(uncommented).collect()
}

/// Each example alone, and the key that the file itself says how to make: it is checked, and it
/// runs, as root has it after an installation.
#[test]
fn the_configuration_file_of_the_package_has_examples_that_can_be_run() {
    let text = read("packaging/knockpipe.toml");
    let (mut modes, mut tables) = (vec![], vec![]);
    for example in with_one_example(&text) {
        let dir = TempDir::new().unwrap();
        let etc = dir.path().join("knockpipe");
        fs::create_dir_all(etc.join("keys")).unwrap();
        let make =
            example.lines().find_map(|line| line.strip_prefix("#   knockpipe keygen ")).unwrap();
        let key = make.split_whitespace().next().unwrap().strip_prefix("/etc/knockpipe/").unwrap();
        let run = |args: &[&str], file: &Path| {
            let output = Command::new(binary()).args(args).arg(file).output().unwrap();
            assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
            String::from_utf8(output.stdout).unwrap()
        };
        run(&["keygen"], &etc.join(key));
        run(&["knockd", "token", "new", "phone", "--tokens"], &etc.join("keys/tokens"));
        let file = etc.join("knockpipe.toml");
        fs::write(&file, &example).unwrap();
        let shown = run(&["check", "-c"], &file);
        modes.extend(shown.lines().find(|line| line.starts_with("mode")).map(str::to_owned));

        // Addresses that are free here, and the directory of the service.
        let here = dir.path().display().to_string();
        let others = [
            ("/run/knockpipe", here.as_str()),
            ("/var/lib/knockpipe", here.as_str()),
            ("\"127.0.0.1:8000\"", "\"127.0.0.1:0\""),
            ("\"127.0.0.1:8001\"", "\"127.0.0.1:0\""),
            ("0.0.0.0:6380", "127.0.0.1:0"),
            ("[::]:6380", "127.0.0.1:0"),
            ("db.example.org:6380", "127.0.0.1:2"),
            ("\"127.0.0.1:6379\"\n", "\"127.0.0.1:0\"\n"),
            ("target = \"127.0.0.1:0\"", "target = \"127.0.0.1:2\""),
            ("[process]\n", "[process]\nlog-format = \"json\"\n"),
        ];
        let example = others.iter().fold(example, |text, (from, to)| text.replace(from, to));
        fs::write(&file, example.replace("[\"127.0.0.1:0\", \"127.0.0.1:0\"]", "\"127.0.0.1:0\""))
            .unwrap();
        let mut end = Launch::new("run").args(["-c".as_ref(), file.as_os_str()]).start();
        let status = run(&["status", "--admin"], &dir.path().join("admin.sock"));
        let is_table = |line: &&str| line.starts_with('[') && *line != "[process]";
        let table = example.lines().find(is_table).unwrap();
        let name = table.rsplit('.').next().unwrap().trim_end_matches(']');
        assert!(status.contains(name), "{table}: {status}");
        tables.push(table.to_owned());
        end.stop();
    }
    assert_eq!(modes, ["mode = \"decrypt\"", "mode = \"encrypt\""]);
    assert_eq!(tables, ["[tunnels.redis]", "[tunnels.redis]", "[knockd.knock]", "[http.web]"]);
}

// === compose.yaml and the sidecar ===

fn yaml(text: &str) -> Vec<Yaml<'_>> {
    Yaml::load_from_str(text).unwrap()
}

fn strings(list: &Yaml<'_>) -> Vec<String> {
    list.as_sequence().unwrap().iter().map(|word| word.as_str().unwrap().to_owned()).collect()
}

/// The words of an example, with other addresses, and the key of the test.
struct Here {
    key: PathBuf,
    addresses: BTreeMap<&'static str, String>,
}

impl Here {
    fn word(&self, word: &str) -> String {
        // Each end of the test chooses its own, and the test's log is JSON anyway.
        let (flag, value) = word.split_once('=').unwrap_or(("", word));
        let value = match (flag, value) {
            ("--key", _) => self.key.display().to_string(),
            ("--source" | "--metrics", _) => "127.0.0.1:0".to_owned(),
            _ => self.addresses.iter().fold(value.to_owned(), |v, (from, to)| v.replace(from, to)),
        };
        if flag.is_empty() { value } else { format!("{flag}={value}") }
    }

    fn words(&self, command: &[String]) -> Vec<String> {
        let ours = command.iter().filter(|word| !word.starts_with("--log-format="));
        ours.map(|word| self.word(word)).collect()
    }

    fn start(&self, command: &[String]) -> End {
        let mode = match command[0].as_str() {
            "encrypt" => "encrypt",
            "decrypt" => "decrypt",
            other => panic!("{other} is no end"),
        };
        Launch::new(mode).args(self.words(&command[1..])).start()
    }
}

#[test]
fn compose_lets_a_client_through_once_the_gate_admits_it() {
    let text = read("packaging/compose.yaml");
    let compose = &yaml(&text)[0];
    let command = |service: &str| strings(&compose["services"][service]["command"]);
    let (redis, gate) = (Redis::start(), Redis::start());
    let dir = TempDir::new().unwrap();
    let mut here = Here {
        key: keygen(dir.path(), "redis.key"),
        addresses: BTreeMap::from([
            ("gate:6379", gate.tcp().to_string()),
            ("redis:6379", redis.tcp().to_string()),
            // The address of the encrypt end.
            ("10.77.0.3", "127.0.0.1".to_owned()),
        ]),
    };
    let mut decrypt = here.start(&command("decrypt"));
    here.addresses.insert("10.77.0.2:6380", decrypt.addr().to_string());
    let mut encrypt = here.start(&command("encrypt"));

    encrypt.connect();
    decrypt.wait_refused("gate-denied");
    let admitted = Command::new(binary()).args(here.words(&command("admit"))).output().unwrap();
    assert!(admitted.status.success(), "{}", String::from_utf8_lossy(&admitted.stderr));
    eventually("the client gets through", || {
        let mut client = Resp::connect(encrypt.addr());
        client.send(&["PING"]);
        let (_, answers) = client.raw();
        testkit::redis::receive(answers).is_ok_and(|reply| reply.text() == "PONG")
    });
    encrypt.stop();
    decrypt.stop();
}

#[test]
fn compose_keeps_the_service_and_the_gate_out_of_reach() {
    let text = read("packaging/compose.yaml");
    let compose = &yaml(&text)[0];
    let services = compose["services"].as_mapping().unwrap();
    let open = services.iter().filter(|(_, service)| service.as_mapping_get("ports").is_some());
    let open: Vec<_> = open.map(|(name, _)| name.as_str().unwrap()).collect();
    assert_eq!(open, ["encrypt"]);
    for network in ["service", "gate"] {
        assert_eq!(compose["networks"][network]["internal"].as_bool(), Some(true), "{network}");
    }
}

/// Its one attempt comes when the gate's store answers, by the store's health check.
#[test]
fn compose_admits_no_client_before_the_gates_store_answers() {
    let text = read("packaging/compose.yaml");
    let compose = &yaml(&text)[0];
    let needed = &compose["services"]["admit"]["depends_on"]["gate"]["condition"];
    assert_eq!(needed.as_str(), Some("service_healthy"));
    let check = strings(&compose["services"]["gate"]["healthcheck"]["test"]);
    assert_eq!(check[0], "CMD");
    // An error is an answer as well, and a bad one.
    for (options, healthy) in [(&[][..], true), (&["--requirepass", "geheim"][..], false)] {
        let store = Redis::start_with(options);
        let address = store.tcp().to_string();
        let mut asked = Command::new(&check[1]);
        asked.args(["-p", address.rsplit_once(':').unwrap().1]).args(&check[2..]);
        assert_eq!(asked.output().unwrap().status.success(), healthy, "{options:?}");
    }
}

#[test]
fn the_sidecar_runs_and_is_given_the_time_to_drain() {
    let text = read("packaging/kubernetes/sidecar.yaml");
    let documents = yaml(&text);
    let pod = &documents[0]["spec"]["template"]["spec"];
    let containers = pod["containers"].as_sequence().unwrap();
    let sidecar = containers.iter().find(|c| c["name"].as_str() == Some("knockpipe")).unwrap();
    let args = strings(&sidecar["args"]);

    let echo = Target::echo();
    let dir = TempDir::new().unwrap();
    let key = keygen(dir.path(), "redis.key");
    let addresses = BTreeMap::from([("127.0.0.1:6379", echo.addr().to_string())]);
    let here = Here { key: key.clone(), addresses };
    let mut decrypt = here.start(&args);
    let any = Kind::Tcp4.fresh(dir.path(), "");
    let mut encrypt = Launch::encrypt(&key).source(&any).target(decrypt.addr()).start();
    round_trip(encrypt.addr());
    encrypt.stop();
    decrypt.program.signal(nix::sys::signal::Signal::SIGTERM);
    assert_eq!(decrypt.program.exit_code(), 0, "{}", decrypt.program.tail());

    let seconds = |flag: &str| -> i64 {
        let word = args.iter().find_map(|word| word.strip_prefix(&format!("--{flag}=")));
        word.and_then(|word| word.strip_suffix('s')).unwrap().parse().unwrap()
    };
    let grace = pod["terminationGracePeriodSeconds"].as_integer().unwrap();
    assert!(grace > seconds("drain") + seconds("drain-accept"));
    let service = &documents[1]["spec"]["ports"][0];
    let ports = sidecar["ports"].as_sequence().unwrap();
    let named = |port: &&Yaml<'_>| port["name"].as_str() == service["targetPort"].as_str();
    let port = ports.iter().find(named).unwrap()["containerPort"].as_integer().unwrap();
    assert_eq!(service["port"].as_integer(), Some(port));
    assert!(args.contains(&format!("--source=0.0.0.0:{port}")));
}

/// A container that is one of the application's init containers and stays: it is there before the
/// application, and goes after it.
#[test]
fn the_encrypt_sidecar_is_up_before_the_application_and_ends_after_it() {
    let text = read("packaging/kubernetes/encrypt-sidecar.yaml");
    let pod = &yaml(&text)[0]["spec"]["template"]["spec"];
    let sidecar = &pod["initContainers"].as_sequence().unwrap()[0];
    assert_eq!(sidecar["restartPolicy"].as_str(), Some("Always"));
    let args = strings(&sidecar["args"]);

    let (redis, dir) = (Redis::start(), TempDir::new().unwrap());
    let key = keygen(dir.path(), "redis.key");
    let any = Kind::Tcp4.fresh(dir.path(), "");
    let mut decrypt = Launch::decrypt(&key).source(&any).target(redis.tcp()).start();
    let far = "redis-sealed.default.svc:6380";
    let addresses = BTreeMap::from([(far, decrypt.addr().to_string())]);
    assert!(args.contains(&format!("--target={far}")), "{args:?}");
    let mut encrypt = Here { key, addresses }.start(&args);
    let mut client = Resp::connect(encrypt.addr());
    client.send(&["PING"]);
    assert_eq!(client.receive().text(), "PONG");
    drop(client);

    // Its probes ask at the address of the metrics, before its start and after its end.
    let metrics = testkit::admin::metrics_address(&encrypt.program);
    for (probe, path) in
        [("startupProbe", "/readyz"), ("readinessProbe", "/readyz"), ("livenessProbe", "/healthz")]
    {
        let get = &sidecar[probe]["httpGet"];
        assert_eq!((get["path"].as_str(), get["port"].as_str()), (Some(path), Some("metrics")));
        assert_eq!(testkit::admin::http(&metrics, "GET", path).status, 200, "{probe}");
    }
    let ports = sidecar["ports"].as_sequence().unwrap();
    let port = ports.iter().find(|port| port["name"].as_str() == Some("metrics")).unwrap();
    let port = port["containerPort"].as_integer().unwrap();
    assert!(args.contains(&format!("--metrics=0.0.0.0:{port}")), "{args:?}");
    encrypt.program.signal(nix::sys::signal::Signal::SIGTERM);
    assert_eq!(encrypt.program.exit_code(), 0, "{}", encrypt.program.tail());
    decrypt.stop();

    // The application goes through it, and only programs of the pod can.
    let application = &pod["containers"].as_sequence().unwrap()[0];
    let variables = application["env"].as_sequence().unwrap();
    let url = variables.iter().find_map(|it| it["value"].as_str()?.strip_prefix("redis://"));
    assert!(args.contains(&format!("--source={}", url.unwrap())), "{args:?}");
    assert!(url.unwrap().starts_with("127.0.0.1:"));
    let drain = args.iter().find_map(|word| word.strip_prefix("--drain=")).unwrap();
    let grace = pod["terminationGracePeriodSeconds"].as_integer().unwrap();
    let drain = drain.strip_suffix('s').expect("it is in seconds");
    assert!(grace > drain.parse().unwrap());
    let mount = &sidecar["volumeMounts"].as_sequence().unwrap()[0];
    let directory = mount["mountPath"].as_str().unwrap();
    assert!(args.iter().any(|word| word.starts_with(&format!("--key={directory}/"))), "{args:?}");
    let volumes = pod["volumes"].as_sequence().unwrap();
    let keys = volumes.iter().find(|it| it["name"].as_str() == mount["name"].as_str()).unwrap();
    assert_eq!(keys["secret"]["secretName"].as_str(), Some("knockpipe-redis"));
}

// === command lines in documents ===

/// Documents with command lines that people copy, and the least number of lines in each.
const DOCUMENTS: [(&str, usize); 10] = [
    ("README.md", 6),
    ("keys/README.md", 1),
    ("packaging/knockpipe.toml", 1),
    ("packaging/compose.yaml", 1),
    ("packaging/compose-caddy.yaml", 1),
    ("packaging/kubernetes/sidecar.yaml", 1),
    ("packaging/kubernetes/encrypt-sidecar.yaml", 1),
    ("packaging/systemd/knockpipe.service", 1),
    ("packaging/systemd/knockpipe@.service", 1),
    ("scripts/check-deb.sh", 1),
];

/// Words that may stand before `knockpipe` in a line that runs it.
const BEFORE: [&str; 6] = ["", "#", "sudo", "ProxyCommand", "ExecStart=/usr/bin/", "inside"];

/// Returns the command lines of ours in a text; placeholders become something of their kind.
fn command_lines(text: &str) -> Vec<Vec<String>> {
    let text = text.replace("\\\n", " ").replace("$SERVER", "db.example.org").replace("%h", "host");
    let mut found = vec![];
    for line in text.lines() {
        let code =
            ["    ", "#", "ExecStart=", "inside "].iter().any(|start| line.starts_with(start));
        let Some((before, ours)) = line.split_once("knockpipe ").filter(|_| code) else { continue };
        if !BEFORE.contains(&before.trim()) || ours.contains("...") || ours.contains("COMMAND") {
            continue;
        }
        let words = shlex::split(ours).unwrap_or_else(|| panic!("not for a shell: {line}"));
        let ends = |word: &String| ["&&", "|", ">", "&"].contains(&word.as_str());
        let words = words.into_iter().take_while(|word| !ends(word));
        found.push(std::iter::once("knockpipe".to_owned()).chain(words).collect());
    }
    found
}

fn parse(words: &[String]) -> Result<(), clap::Error> {
    let spiped = words.get(1).is_some_and(|word| ["-e", "-d"].contains(&word.as_str()));
    let command = if spiped { cli::spiped_commands()[0].clone() } else { cli::command() };
    let mut words: Vec<OsString> = words.iter().map(OsString::from).collect();
    if words.get(1).is_some_and(|word| word == "-target") {
        let meant = cli::of_redis_knocking(&words);
        words = meant.unwrap_or_else(|error| panic!("{words:?}: {error}"));
    }
    match command.try_get_matches_from(words) {
        Err(error) if error.kind() != ErrorKind::DisplayVersion => Err(error),
        _ => Ok(()),
    }
}

#[track_caller]
fn parses(document: &str, lines: Vec<Vec<String>>) {
    for words in lines {
        parse(&words).unwrap_or_else(|error| panic!("{document}: {words:?}\n{error}"));
    }
}

#[test]
fn every_command_line_in_a_document_is_one() {
    for (document, least) in DOCUMENTS {
        let lines = command_lines(&read(document));
        assert!(lines.len() >= least, "{document}: only {lines:?}");
        parses(document, lines);
    }
    let lines = command_lines(&operating());
    assert!(lines.len() >= 20, "the pages for operators: only {lines:?}");
    parses("the pages for operators", lines);
}

#[test]
fn a_wrong_command_line_is_found() {
    let lines =
        command_lines("    sudo knockpipe encrypt -s 127.0.0.1:1 -t b:2 -k f --no-such && true");
    assert_eq!(lines.len(), 1);
    assert!(parse(&lines[0]).is_err());
}
