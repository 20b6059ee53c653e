//! A real firewalld with a D-Bus of its own, in the network namespace of the caller.

use std::fs;
use std::path::PathBuf;
use std::process::{Command, Stdio};

use nix::sys::signal::Signal;
use tempfile::TempDir;

use crate::program::{Program, require};
use crate::wait::eventually;

/// The configuration of the bus: every client may own every name.
const BUS: &str = r#"<!DOCTYPE busconfig PUBLIC "-//freedesktop//DTD D-Bus Bus Configuration 1.0//EN"
 "http://www.freedesktop.org/standards/dbus/1.0/busconfig.dtd">
<busconfig>
  <type>system</type>
  <listen>unix:path=SOCKET</listen>
  <auth>EXTERNAL</auth>
  <policy context="default">
    <allow send_destination="*" eavesdrop="true"/>
    <allow eavesdrop="true"/>
    <allow own="*"/>
  </policy>
</busconfig>
"#;

/// The programs; both end on drop.
pub struct Firewalld {
    dir: TempDir,
    firewalld: Option<Program>,
    _bus: Program,
}

impl Firewalld {
    /// Starts both, with `zones`: name and content of the files of zones.
    pub fn start(zones: &[(&str, &str)]) -> Self {
        require("dbus-daemon", "dbus-daemon");
        require("firewalld", "firewalld");
        let dir = tempfile::tempdir().unwrap();
        let socket = dir.path().join("bus");
        let config = dir.path().join("bus.conf");
        fs::write(&config, BUS.replace("SOCKET", socket.to_str().unwrap())).unwrap();
        let folder = dir.path().join("etc/zones");
        fs::create_dir_all(&folder).unwrap();
        for (name, content) in zones {
            fs::write(folder.join(format!("{name}.xml")), content).unwrap();
        }
        let mut command = Command::new("dbus-daemon");
        command.arg(format!("--config-file={}", config.display())).arg("--nofork");
        command.stdin(Stdio::null()).stdout(Stdio::null());
        let bus = Program::spawn("dbus-daemon", &mut command);
        eventually("the bus listens", || socket.exists());
        let mut own = Self { dir, firewalld: None, _bus: bus };
        own.start_firewalld();
        own
    }

    /// The address of the bus, for `DBUS_SYSTEM_BUS_ADDRESS`.
    pub fn bus(&self) -> String {
        format!("unix:path={}", self.dir.path().join("bus").display())
    }

    /// Stops it as a service manager does, so that it removes its rules.
    pub fn stop_firewalld(&mut self) {
        if let Some(mut firewalld) = self.firewalld.take() {
            firewalld.signal(Signal::SIGTERM);
            firewalld.wait();
        }
    }

    pub fn start_firewalld(&mut self) {
        let path = |name: &str| -> PathBuf { self.dir.path().join(name) };
        let mut command = Command::new("firewalld");
        command.args(["--nofork", "--nopid", "--log-target=file"]);
        command.arg("--system-config").arg(path("etc")).arg("--log-file").arg(path("log"));
        command.env("DBUS_SYSTEM_BUS_ADDRESS", self.bus()).env("PATH", sbin());
        command.stdin(Stdio::null()).stdout(Stdio::null());
        self.firewalld = Some(Program::spawn("firewalld", &mut command));
        eventually("firewalld runs", || self.cmd(&["--state"]).is_ok());
    }

    /// Runs `firewall-cmd`.
    ///
    /// # Errors
    /// What it said.
    pub fn cmd(&self, arguments: &[&str]) -> Result<String, String> {
        let output = Command::new("firewall-cmd")
            .args(arguments)
            .env("DBUS_SYSTEM_BUS_ADDRESS", self.bus())
            .env("PATH", sbin())
            .output()
            .expect("firewall-cmd starts");
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        if output.status.success() { Ok(text(&output.stdout)) } else { Err(text(&output.stderr)) }
    }

    /// The rich rules of a zone.
    pub fn rules(&self, zone: &str) -> Vec<String> {
        let text = self.cmd(&["--zone", zone, "--list-rich-rules"]).unwrap();
        let lines = text.lines().map(str::trim).filter(|line| !line.is_empty());
        let mut rules: Vec<String> = lines.map(str::to_owned).collect();
        rules.sort_unstable();
        rules
    }
}

fn sbin() -> String {
    std::env::var("PATH").unwrap_or_default() + ":/usr/sbin:/sbin"
}
