//! nginx behind the gate, and curl in front of it: what both do by themselves works through it.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Command, Stdio};

use tempfile::TempDir;
use testkit::program::require;
use testkit::{Addr, End, Program, Wire, address::free_port, wait::poll};
use testkit::{NEVER, proc::most_rss_kib};

use crate::world::start;

/// Size of the large file: 1 GiB.
const LARGE: u64 = 1 << 30;

/// nginx with files in a directory, and a gate in front of it.
struct Site {
    gate: End,
    _nginx: Program,
    dir: TempDir,
}

impl Site {
    fn new() -> Self {
        require("nginx", "nginx");
        require("curl", "curl");
        let dir = tempfile::tempdir().unwrap();
        fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o755)).unwrap();
        fs::create_dir(dir.path().join("www")).unwrap();
        fs::create_dir(dir.path().join("uploads")).unwrap();
        for name in ["www", "uploads"] {
            let mode = fs::Permissions::from_mode(0o777);
            fs::set_permissions(dir.path().join(name), mode).unwrap();
        }
        fs::write(dir.path().join("www/page.html"), "<p>hello</p>".repeat(1000)).unwrap();
        fs::File::create(dir.path().join("www/large")).unwrap().set_len(LARGE).unwrap();
        // Another process may take the port meanwhile.
        let started = (0..5).find_map(|_| nginx(dir.path(), free_port()));
        let (program, port) = started.expect("nginx starts");
        let gate = start(&format!("http://127.0.0.1:{port}"), &["--allow", "127.0.0.0/8"]);
        Self { gate, _nginx: program, dir }
    }

    #[track_caller]
    fn curl(&self, path: &str, args: &[&str]) -> String {
        let output = Command::new("curl")
            .args(["--silent", "--show-error", "--max-time", "200"])
            .args(args)
            .arg(format!("http://{}{path}", self.gate.addr()))
            .output()
            .expect("curl starts");
        assert!(output.status.success(), "curl: {}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8_lossy(&output.stdout).into_owned()
    }
}

fn nginx(dir: &Path, port: u16) -> Option<(Program, u16)> {
    let at = dir.display();
    let config = format!(
        "daemon off;\nmaster_process off;\npid {at}/pid;\nevents {{}}\nhttp {{\n\
         access_log off;\nclient_body_temp_path {at}/body;\nproxy_temp_path {at}/p;\n\
         fastcgi_temp_path {at}/f;\nuwsgi_temp_path {at}/u;\nscgi_temp_path {at}/s;\n\
         gzip on;\ngzip_types *;\ngzip_min_length 1;\ngzip_proxied any;\n\
         client_max_body_size 0;\n\
         server {{ listen 127.0.0.1:{port}; root {at}/www;\n\
         location /small-only {{ client_max_body_size 10; proxy_pass http://127.0.0.1:{port}/; }} }}\n\
         }}\n"
    );
    let file = dir.join("nginx.conf");
    fs::write(&file, config).unwrap();
    let mut command = Command::new("nginx");
    command
        .env("PATH", std::env::var("PATH").unwrap_or_default() + ":/usr/sbin:/sbin")
        .arg("-e")
        .arg(dir.join("error.log"))
        .arg("-c")
        .arg(&file)
        .stdin(Stdio::null())
        .stdout(Stdio::null());
    let mut program = Program::spawn("nginx", &mut command);
    let addr = Addr::Tcp(([127, 0, 0, 1], port).into());
    let up = poll(NEVER, || match program.is_running() {
        true => Wire::connect(&addr).is_ok().then_some(true),
        false => Some(false),
    });
    (up == Some(true)).then_some((program, port))
}

#[test]
fn pages_ranges_compression_and_conditions_work_through_the_gate() {
    let site = Site::new();
    let page = "<p>hello</p>".repeat(1000);
    assert_eq!(site.curl("/page.html", &[]), page);
    assert_eq!(site.curl("/page.html", &["--compressed"]), page);
    assert_eq!(site.curl("/page.html", &["-r", "3-7"]), "hello");
    let head = site.curl("/page.html", &["--head"]).to_ascii_lowercase();
    assert!(head.contains("content-length: 12000") && head.contains("server: nginx"), "{head}");
    let etag = head.lines().find_map(|line| line.strip_prefix("etag: ")).unwrap();
    let condition = format!("If-None-Match: {etag}");
    let status = site.curl("/page.html", &["-H", &condition, "-w", "%{http_code}"]);
    assert_eq!(status, "304");
    assert_eq!(site.curl("/nowhere", &["-o", "/dev/null", "-w", "%{http_code}"]), "404");
}

#[test]
fn a_file_of_a_gibibyte_passes_and_memory_stays_flat() {
    let site = Site::new();
    site.curl("/page.html", &[]);
    let before = most_rss_kib(site.gate.pid());
    let got = site.curl("/large", &["-o", "/dev/null", "-w", "%{size_download}"]);
    assert_eq!(got, LARGE.to_string());
    let grown = most_rss_kib(site.gate.pid()) - before;
    assert!(grown < 48 * 1024, "{grown} KiB more");
}

#[test]
fn a_body_that_is_too_large_is_refused_by_the_server_in_its_own_words() {
    let site = Site::new();
    let large = site.dir.path().join("sent");
    fs::write(&large, vec![b'x'; 5_000_000]).unwrap();
    let data = format!("@{}", large.display());
    for expect in ["Expect: 100-continue", "Expect:"] {
        let args = ["--data-binary", &*data, "-H", expect, "-o", "/dev/null", "-w", "%{http_code}"];
        assert_eq!(site.curl("/small-only", &args), "413", "{expect}");
    }
}
