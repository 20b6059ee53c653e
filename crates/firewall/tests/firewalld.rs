//! The back end for firewalld with the real one and a D-Bus of its own, in network namespaces.
//!
//! Needs root, for the namespaces, and firewalld.

use std::net::{SocketAddr, TcpListener, TcpStream};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use knockpipe_base::unix_time::{Expiry, UnixMillis};
use knockpipe_firewall::firewalld::{Firewalld, Options};
use knockpipe_firewall::{AtExit, Backend, BackendError, Entries, Entry, Retry, reconcile};
use testkit::firewalld::Firewalld as Server;
use testkit::netns::{GATE4, GATE6, Namespace, Net};

/// The zone of the interface between both machines, with ssh open to all.
const ZONE: &str = r#"<zone><short>kp</short><interface name="kp0"/><service name="ssh"/></zone>"#;

/// A rule of another program in that zone.
const FOREIGN: &str =
    r#"rule priority="-20002" family="ipv4" source address="192.0.2.1" service name="http" accept"#;

const OTHER: &str = r#"rule family="ipv4" source address="192.0.2.0/24" reject"#;

/// Longest time in which a right is expected to arrive, and a packet not to.
const LOOK: Duration = Duration::from_millis(400);

const PEER: &str = "203.0.113.7";
const STRANGER: &str = "203.0.113.8";

fn options(server: &Server) -> Options {
    Options {
        zone: "kp".to_owned(),
        ports: "22,5000-5010/udp".parse().unwrap(),
        reject: false,
        bus: Some(server.bus()),
    }
}

/// Returns the end of something that lasts for so long.
fn after(seconds: u64) -> Expiry {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
    let now = UnixMillis(u64::try_from(since.as_millis()).unwrap());
    Expiry::after(now, Some(Duration::from_secs(seconds)))
}

fn entries(all: &[(&str, Expiry)]) -> Entries {
    all.iter().map(|(network, end)| Entry::new(network.parse().unwrap(), *end)).collect()
}

/// Makes what is there what is wanted, as the program does. Returns the number of steps.
async fn reach(firewall: &mut Firewalld, wanted: &Entries) -> Result<usize, BackendError> {
    firewall.prepare().await?;
    let present = firewall.present().await?;
    let steps = reconcile(wanted, &present, firewall.keeps());
    firewall.apply(&steps).await?;
    Ok(steps.len())
}

async fn altered(firewall: &mut Firewalld) {
    tokio::time::timeout(Duration::from_secs(20), firewall.altered()).await.expect("it notices");
}

/// Runs asynchronous work in this namespace.
fn run<T>(work: impl Future<Output = T>) -> T {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(work)
}

/// Returns whether a connection from an address to the guarded port comes about.
fn connects(net: &Net, from: &str, to: &str) -> bool {
    let (from, to): (SocketAddr, SocketAddr) =
        (SocketAddr::new(from.parse().unwrap(), 0), SocketAddr::new(to.parse().unwrap(), 22));
    net.at_peers(move || {
        let socket =
            socket2::Socket::new(socket2::Domain::for_address(to), socket2::Type::STREAM, None)
                .unwrap();
        socket.bind(&from.into()).unwrap();
        match socket.connect_timeout(&to.into(), LOOK) {
            Ok(()) => true,
            Err(error) => {
                assert_eq!(error.kind(), std::io::ErrorKind::TimedOut, "not even a reset comes");
                false
            }
        }
    })
}

#[test]
fn grants_reach_packets_end_by_themselves_and_survive_reloads_and_restarts() {
    let net = Net::make();
    let _listener = net.at_gate(|| TcpListener::bind("[::]:22").unwrap());
    let mut server = net.at_gate(|| Server::start(&[("kp", ZONE)]));
    server.cmd(&["--zone", "kp", "--add-rich-rule", FOREIGN]).unwrap();
    server.cmd(&["--zone", "public", "--add-rich-rule", OTHER]).unwrap();
    let zones = |server: &Server| -> String {
        let all = server.cmd(&["--list-all-zones"]).unwrap();
        all.lines().filter(|line| !line.contains("priority=\"-2000")).collect::<Vec<_>>().join("\n")
    };
    let before = zones(&server);
    assert!(connects(&net, STRANGER, GATE4), "the zone lets all in");
    run(async {
        let mut firewall = Firewalld::new(options(&server));
        let soon = after(5);
        let wanted = entries(&[
            ("203.0.113.7/32", after(600)),
            ("2001:db8:0:1::/64", Expiry::Never),
            ("10.0.0.0/8", soon),
        ]);
        assert_eq!(reach(&mut firewall, &wanted).await.unwrap(), 3);
        assert_eq!(reach(&mut firewall, &wanted).await.unwrap(), 0, "nothing is left to do");
        // The zone has ssh open, and ours comes before that.
        assert!(connects(&net, PEER, GATE4) && !connects(&net, STRANGER, GATE4));
        assert!(connects(&net, "2001:db8:0:1::7", GATE6) && !connects(&net, "fd00:77::7", GATE6));
        assert!(connects(&net, "10.1.2.3", GATE4));

        // A later end, without a moment in which the entry is missing, and a removal.
        let wanted = entries(&[("203.0.113.7/32", after(1200)), ("10.0.0.0/8", soon)]);
        assert_eq!(reach(&mut firewall, &wanted).await.unwrap(), 2);
        assert!(connects(&net, PEER, GATE4) && !connects(&net, "2001:db8:0:1::7", GATE6));

        // This process again: it does not know the timeouts, and sets them anew.
        let mut firewall = Firewalld::new(options(&server));
        let wanted = entries(&[("203.0.113.7/32", after(1200)), ("10.0.0.0/8", soon)]);
        assert_eq!(reach(&mut firewall, &wanted).await.unwrap(), 2);
        assert_eq!(reach(&mut firewall, &wanted).await.unwrap(), 0);
        testkit::eventually("the end comes", || {
            !server.rules("kp").iter().any(|rule| rule.contains("10.0.0.0/8"))
        });
        let wanted = entries(&[("203.0.113.7/32", after(1200))]);
        reach(&mut firewall, &wanted).await.unwrap();
        assert_eq!(zones(&server), before, "nothing of others has changed");

        // Another program removes a rule of ours: that is noticed at once.
        let ours = server.rules("kp").into_iter().find(|rule| rule.contains(PEER)).unwrap();
        server.cmd(&["--zone", "kp", "--remove-rich-rule", &ours]).unwrap();
        altered(&mut firewall).await;
        reach(&mut firewall, &wanted).await.unwrap();
        assert!(connects(&net, PEER, GATE4));

        // A reload takes everything away that is not permanent.
        server.cmd(&["--reload"]).unwrap();
        altered(&mut firewall).await;
        reach(&mut firewall, &wanted).await.unwrap();
        assert!(connects(&net, PEER, GATE4) && !connects(&net, STRANGER, GATE4));

        // So does a new firewalld.
        server.stop_firewalld();
        altered(&mut firewall).await;
        let error = reach(&mut firewall, &wanted).await.unwrap_err();
        assert_eq!(error.retry, Retry::Soon);
        assert!(error.to_string().contains("systemctl start firewalld"), "{error}");
        net.at_gate(|| server.start_firewalld());
        altered(&mut firewall).await;
        reach(&mut firewall, &wanted).await.unwrap();
        assert!(connects(&net, PEER, GATE4) && !connects(&net, STRANGER, GATE4));

        firewall.at_exit(AtExit::Keep).await.unwrap();
        assert!(!connects(&net, STRANGER, GATE4));
        firewall.at_exit(AtExit::Remove).await.unwrap();
        assert!(server.rules("kp").is_empty());
        assert!(connects(&net, STRANGER, GATE4), "the zone lets all in, as it did before");
    });
}

#[test]
fn what_is_missing_or_in_the_way_is_said_with_a_remedy() {
    let host = Namespace::unique("kpd");
    let sourced =
        r#"<zone><source address="192.0.2.0/24"/><port port="5005" protocol="udp"/></zone>"#;
    let server = host.enter(|| Server::start(&[("empty", "<zone></zone>"), ("some", sourced)]));
    run(async {
        let zone = |name: &str| Options { zone: name.to_owned(), ..options(&server) };
        let mut firewall = Firewalld::new(zone("nowhere"));
        let error = reach(&mut firewall, &entries(&[])).await.unwrap_err().to_string();
        assert!(error.contains("has no zone nowhere; run 'firewall-cmd --permanent"), "{error}");

        let mut firewall = Firewalld::new(zone("empty"));
        let lines = firewall.obstacles().await.unwrap();
        assert!(lines[0].contains("has no interface and no source"), "{lines:?}");
        assert!(lines.iter().any(|line| line.contains("zone public lets every host in to 22/tcp")));

        let mut firewall = Firewalld::new(zone("some"));
        let lines = firewall.obstacles().await.unwrap();
        assert!(lines[0].contains("judges packets from 192.0.2.0/24 only"), "{lines:?}");
        assert!(
            lines
                .iter()
                .any(|line| line.contains("zone some itself lets every host in to 5000-5010/udp"))
        );

        // Other settings: the rules of those before go.
        reach(&mut firewall, &entries(&[("203.0.113.7/32", after(600))])).await.unwrap();
        let ports = "80".parse().unwrap();
        let mut firewall = Firewalld::new(Options { ports, reject: true, ..zone("some") });
        let wanted = entries(&[("203.0.113.7/32", after(600))]);
        reach(&mut firewall, &wanted).await.unwrap();
        let rules = server.rules("some");
        assert_eq!(rules.len(), 2, "{rules:?}");
        assert!(rules[0].ends_with(r#"port port="80" protocol="tcp" reject"#), "{rules:?}");
        assert!(rules[1].ends_with(r#"port port="80" protocol="tcp" accept"#), "{rules:?}");

        let bus = Some("unix:path=/nonexistent/bus".to_owned());
        let mut firewall = Firewalld::new(Options { bus, ..zone("some") });
        let error = firewall.prepare().await.unwrap_err().to_string();
        assert!(error.contains("DBUS_SYSTEM_BUS_ADDRESS"), "{error}");
    });
}

#[test]
fn a_connection_that_is_there_goes_on() {
    let net = Net::make();
    let listener = net.at_gate(|| TcpListener::bind("0.0.0.0:22").unwrap());
    let server = net.at_gate(|| Server::start(&[("kp", ZONE)]));
    run(async {
        let mut firewall = Firewalld::new(options(&server));
        reach(&mut firewall, &entries(&[("198.51.100.2/32", Expiry::Never)])).await.unwrap();
        let mut stream = net.at_peers(|| TcpStream::connect((GATE4, 22)).unwrap());
        let (mut accepted, _) = listener.accept().unwrap();
        reach(&mut firewall, &entries(&[])).await.unwrap();
        use std::io::{Read, Write};
        accepted.write_all(b"still here").unwrap();
        let mut read = [0; 10];
        stream.read_exact(&mut read).unwrap();
        assert_eq!(&read, b"still here");
        assert!(!connects(&net, "198.51.100.2", GATE4));
    });
}
