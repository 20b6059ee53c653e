//! Configuration files and the options that they result in, without running a tunnel.

use super::*;
use crate::sys::keyfile;
use crate::tunnel::{Options, Role};

/// A directory with the keys `a.key` and `b.key`.
fn directory() -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    for name in ["a.key", "b.key"] {
        keyfile::create(&dir.path().join(name)).unwrap();
    }
    dir
}

fn plan_of(dir: &tempfile::TempDir, text: &str) -> Result<Vec<Options>, String> {
    let file = dir.path().join("knockpipe.toml");
    std::fs::write(&file, text).unwrap();
    let planned = Config::load(&file).and_then(|config| config.plan());
    let planned = planned.map_err(|failure| failure.to_string())?;
    Ok(planned.iter().map(|options| options.as_tunnel().unwrap().clone()).collect())
}

fn plan(text: &str) -> Result<Vec<Options>, String> {
    plan_of(&directory(), text)
}

const REDIS: &str = r#"
[tunnels.redis]
mode = "encrypt"
source = "127.0.0.1:6379"
target = "db.example.org:6380"
key = "a.key"
"#;

#[test]
fn keys_are_flags_and_defaults_hold_where_they_can() {
    let text = format!(
        r#"
        [keys]
        new = "b.key"
        [defaults]
        timeout = "2500ms"
        pool = 3
        max-unopened = 7
        padding = "none"
        {REDIS}
        [tunnels.many]
        mode = "decrypt"
        source = ["127.0.0.1:1", "[::1]:1"]
        key = ["a.key", "new"]
        padding = 64
        no-keepalive = true
        max-sessions = 12
        [tunnels.many.target]
        redis = "127.0.0.1:2"
        mysql = "/run/mysqld.sock"
        "#
    );
    let plan = plan(&text).unwrap();
    let [redis, many] = &plan[..] else { panic!("{plan:?}") };
    assert_eq!((redis.name.as_deref(), many.name.as_deref()), (Some("redis"), Some("many")));
    assert_eq!((redis.timeout.as_millis(), many.timeout.as_millis()), (2_500, 2_500));
    assert_eq!((redis.limits.unopened, many.limits.unopened), (3, 7));
    assert_eq!((redis.padding.to_string(), many.padding.to_string()), ("none".into(), "64".into()));
    assert!(redis.keepalive && !many.keepalive);
    assert_eq!(many.limits.sessions, Some(12));
    assert_eq!(many.sources.len(), 2);
    assert_eq!(many.keys.first().id(), redis.keys.first().id());
    assert_eq!(many.keys.iter().count(), 2);
    let Role::Decrypt { targets } = &many.role else { panic!("{many:?}") };
    let targets: Vec<String> = targets.iter().map(|(name, at)| format!("{name}={at}")).collect();
    assert_eq!(targets, ["mysql=/run/mysqld.sock", "redis=127.0.0.1:2"]);
}

#[test]
fn several_targets_keep_their_order_and_have_checks() {
    let text = r#"
        [defaults]
        check = "tcp/30s"
        [tunnels.out]
        mode = "encrypt"
        source = "127.0.0.1:1"
        target = ["b.example:1", "a.example:1"]
        key = "a.key"
        [tunnels.in]
        mode = "decrypt"
        source = "127.0.0.1:2"
        key = "a.key"
        check = ["redis=redis/1s", "mysql"]
        [tunnels.in.target]
        redis = ["b.example:2", "a.example:2"]
        mysql = "/run/mysqld.sock"
        "#;
    let plan = plan(text).unwrap();
    let [out, into] = &plan[..] else { panic!("{plan:?}") };
    let Role::Encrypt { targets, .. } = &out.role else { panic!("{out:?}") };
    assert_eq!(*targets, ["b.example:1", "a.example:1"].map(|text| text.parse().unwrap()));
    assert!(out.checks.is_empty(), "far ends have none");
    let Role::Decrypt { targets } = &into.role else { panic!("{into:?}") };
    let targets: Vec<String> = targets.iter().map(|(name, at)| format!("{name}={at}")).collect();
    assert_eq!(targets, ["mysql=/run/mysqld.sock", "redis=b.example:2", "redis=a.example:2"]);
    for (service, check) in [("redis", "redis/1s"), ("mysql", "mysql")] {
        assert_eq!(into.checks[&service.parse().unwrap()], check.parse().unwrap());
    }
}

#[test]
fn a_gate_has_a_name_and_a_tunnel_may_differ_from_it() {
    let text = format!(
        r#"
        [gates.office]
        gate = "file:gate.db"
        denied = "tarpit"
        deny = ["203.0.113.0/24"]
        {REDIS}
        gate = "office"
        denied = "reset"
        "#
    );
    let dir = directory();
    let default = text.replace("gate = \"office\"\n", "");
    let default = plan_of(&dir, &format!("[defaults]\ngate = \"office\"\n{default}")).unwrap();
    let plan = plan_of(&dir, &text).unwrap();
    assert_eq!(plan, default, "named by the defaults");
    let gate = plan[0].gate.as_ref().unwrap();
    assert_eq!(gate.denied, crate::gate::Denied::Reset);
    assert!(gate.rules.deny.lookup("203.0.113.9".parse().unwrap()).is_some());
    let store = crate::gate::StoreOptions::File(dir.path().join("gate.db"));
    assert_eq!(gate.store, store, "beside the file");
}

#[test]
fn the_same_file_gives_the_same_options_and_a_new_key_others() {
    let dir = directory();
    let before = plan_of(&dir, REDIS).unwrap();
    assert_eq!(before, plan_of(&dir, REDIS).unwrap());
    std::fs::copy(dir.path().join("b.key"), dir.path().join("a.key")).unwrap();
    assert_ne!(before, plan_of(&dir, REDIS).unwrap());
}

#[test]
fn every_mistake_is_one_line_with_its_place_and_a_remedy() {
    for (text, place, piece) in [
        ("", "toml:1", "[tunnels.NAME]"),
        ("[tunels.a]\n", "toml:1", "there is no table or key 'tunels'"),
        ("x = [\n", "toml:", "this is not TOML"),
        ("\n[tunnels.a]\nsource='x'\n", "toml:2", "has no mode"),
        ("[tunnels.a]\nmode='both'\n", "toml:2", "another mode than there is"),
        ("[keys]\nx='a.key'\n[tunnels.a]\nmode='encrypt'\nkey='y'\n", "toml:5", "no 'y' in [keys]"),
        ("[tunnels]\na = 3\n", "toml:2", "a table has to stand here"),
        ("[tunnels.'a b']\nmode='encrypt'\n", "toml:1", "'a b' is not a name"),
        ("[tunnels.a]\nmode='encrypt'\ntimeuot=3\n", "toml:3", "did you mean 'timeout'?"),
        (
            "[tunnels.a]\nmode='encrypt'\nmax-unopened=3\n",
            "toml:3",
            "no key 'max-unopened' for encrypt",
        ),
        ("[tunnels.a]\nmode='encrypt'\nlog-level='info'\n", "toml:3", "write it to [process]"),
        (
            "[tunnels.a]\nmode='encrypt'\nsource='127.0.0.1:1'\n",
            "toml:1",
            "tunnel a lacks target, key",
        ),
        ("[process]\nlog-level='loud'\n", "toml:2", "there is no 'loud'"),
        ("[process]\nlog-lvl='info'\n", "toml:2", "did you mean 'log-level'?"),
        ("[process]\ndrain=3\n", "toml:2", "'drain' is about a tunnel"),
        (
            "[defaults]\ntimeuot=3\n[tunnels.a]\nmode='encrypt'\n",
            "toml:2",
            "did you mean 'timeout'?",
        ),
        (&format!("{REDIS}timeout=5\n"), "toml:7", "'5' has no unit; write 5s"),
        (&format!("{REDIS}timeout=[1,2]\n"), "toml:7", "'timeout' has one value"),
        (&format!("{REDIS}timeout=true\n"), "toml:7", "is not a switch"),
        (&format!("{REDIS}no-keepalive='yes'\n"), "toml:7", "is a switch"),
        (&format!("{REDIS}timeout=1979-05-27\n"), "toml:7", "cannot be a datetime"),
        (&format!("{REDIS}gate='office'\n"), "toml:7", "no table [gates.office]"),
        (
            &format!("{REDIS}service='${{NO_SUCH_VARIABLE}}'\n"),
            "toml:7",
            "no variable NO_SUCH_VARIABLE",
        ),
        (&format!("{REDIS}gate='g'\n[gates.g]\ntimeout=1\n"), "toml:9", "is about a tunnel"),
        // Also when no tunnel uses it.
        (&format!("{REDIS}[gates.g]\ntimeout=1\n"), "toml:8", "is about a tunnel"),
        (&format!("{REDIS}[gates.g]\ndenyed='tarpit'\n"), "toml:8", "did you mean 'denied'?"),
        (&format!("{REDIS}[gates.g]\ndenied='tarpot'\n"), "toml:8", "'tarpot'"),
        (&format!("{REDIS}[gates.g]\ngate='somewhere'\n"), "toml:8", "has no scheme"),
        (&format!("{REDIS}[gates.g]\nlog-level='info'\n"), "toml:8", "write it to [process]"),
        (&format!("{REDIS}[keys]\na = ['b.key']\n"), "toml:8", "'a' names no key file"),
        (&format!("{REDIS}[keys]\na = true\n"), "toml:8", "'a' names no key file"),
        (&format!("{REDIS}[keys]\na = {{ b = 'b.key' }}\n"), "toml:8", "'a' names no key file"),
        (&format!("{REDIS}[keys]\na = ''\n"), "toml:8", "'a' names no key file"),
        (&format!("{REDIS}[keys]\na = '-'\n"), "toml:8", "write the path of its file"),
        (&format!("{REDIS}[keys]\nold='gone.key'\n"), "toml:8", "key 'old', which no tunnel uses"),
        (
            &format!("{REDIS}[gates.g]\ngate='redis://h'\ngate-credentials='gone'\n"),
            "toml:7",
            "gate 'g', which no tunnel uses",
        ),
        (&format!("{REDIS}listen='a:1'\n"), "toml:7", "did you mean 'source'?"),
        (&format!("{REDIS}max_sessions=1\n"), "toml:7", "did you mean 'max-sessions'?"),
        (&format!("{REDIS}service=['a','b']\n"), "toml:7", "for each further service"),
        ("[tunnel.a]\n", "toml:1", "did you mean 'tunnels'?"),
        (&REDIS.replace("a.key", "-"), "toml:6", "write the path of its file"),
        (
            &format!("[defaults]\nno-resolve=true\nresolve-every='9s'\n{REDIS}"),
            "toml:",
            "exclude each other",
        ),
        // Also a default that no tunnel of the file has, or that all override.
        (&format!("{REDIS}[defaults]\nmax-unopened='x'\n"), "toml:8", "'x' is not a number"),
        (&format!("{REDIS}timeout='1s'\n[defaults]\ntimeout='x'\n"), "toml:9", "is not a duration"),
        (&format!("{REDIS}[keys]\nx='a.key'\n[defaults]\nkey='y'\n"), "toml:10", "no 'y' in"),
        (&format!("{REDIS}gate='file:g'\n[defaults]\ngate='h'\n"), "toml:9", "[gates.h]"),
        (&REDIS.replace("a.key", "c.key"), "toml:2", "c.key"),
        (&REDIS.replace("db.example.org:6380", "127.0.0.1:6379"), "toml: ", "go round for ever"),
        (&format!("{REDIS}{}", REDIS.replace("redis", "other")), "toml:8", "and tunnel redis on"),
        (
            &format!("{REDIS}{}", REDIS.replace("redis", "other").replace("127.0.0.1", "0.0.0.0")),
            "toml:8",
            "it listens on 0.0.0.0:6379, and tunnel redis on 127.0.0.1:6379 already",
        ),
        (
            &REDIS.replace("\"127.0.0.1:6379\"", "['[::]:1', '[::1]:1']"),
            "toml:2",
            "it listens on [::1]:1, and tunnel redis on [::]:1 already",
        ),
    ] {
        let error = plan(text).unwrap_err();
        assert!(error.contains(piece) && error.contains(place), "{text}\n-> {error}");
        assert!(!error.contains('\n') && error.contains(';'), "{error}");
    }
}

/// The opposite of a default overrides it as well.
#[test]
fn a_default_is_overridden_by_what_excludes_it() {
    let seconds = |text: &str| {
        let plan = plan(text).unwrap();
        plan[0].resolve_every.map(|every| every.as_secs())
    };
    let by = |default: &str, own: &str| seconds(&format!("[defaults]\n{default}{REDIS}{own}"));
    assert_eq!(by("no-resolve = true", ""), None);
    assert_eq!(by("no-resolve = true", "resolve-every = '10s'"), Some(10));
    assert_eq!(by("resolve-every = '10s'", "no-resolve = true"), None);
    assert_eq!(by("resolve-every = '10s'", "no-resolve = false"), Some(10));
    assert_eq!(by("no-resolve = true", "no-resolve = false"), Some(60));
}

#[test]
fn what_is_shown_has_the_same_effect() {
    let dir = directory();
    let process = "[process]\nadmin = 'admin'\ndrain-accept = '1500ms'\nsyslog = true\n";
    let own = "timeout = '2s'\ndeny = ['203.0.113.0/24', '198.51.100.1']\n";
    for process in ["", process] {
        let before = plan_of(&dir, &format!("{process}{REDIS}{own}")).unwrap();
        let load = || Config::load(&dir.path().join("knockpipe.toml")).unwrap();
        let config = load();
        let shown = show(&config, &config.plan().unwrap());
        assert!(shown.contains("max-sessions = \"1024\""), "defaults are shown: {shown}");
        assert!(shown.contains("log-format = \"text\""), "{shown}");
        assert_eq!(shown.contains("syslog = true"), !process.is_empty(), "{shown}");
        assert_eq!(plan_of(&dir, &shown).unwrap(), before, "{shown}");
        assert_eq!(load().process, config.process, "{shown}");
    }
}

/// `target` of a web server is a URL, and a default of tunnels is none.
#[test]
fn defaults_of_tunnels_need_not_fit_services_that_there_are_not() {
    let text = r#"
        [defaults]
        target = "db.example.org:6380"
        [tunnels.redis]
        mode = "encrypt"
        source = "127.0.0.1:6379"
        key = "a.key"
    "#;
    assert_eq!(plan(text).unwrap().len(), 1);
    let web = format!("{text}\n[http.web]\nsource = '127.0.0.1:1'\ndeny = '192.0.2.1'\n");
    assert!(plan(&web).unwrap_err().contains("is no URL of a server"));
}
