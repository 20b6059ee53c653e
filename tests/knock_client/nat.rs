//! A client behind a NAT: the gate lets in the address that the NAT has.

use testkit::Addr;
use testkit::netns::Namespace;

use crate::site::{SERVER4, Site, gets_through};

/// Public address of the NAT.
const PUBLIC: &str = "203.0.113.9";

/// A server, and a client in a private network behind a router that masquerades.
fn behind_nat() -> (Site, Namespace) {
    let [server, client, router] = ["kps", "kpc", "kpn"].map(Namespace::unique);
    server.link("kp0", &router, "kp0");
    router.link("kp1", &client, "kp0");
    server.batch(&format!(
        "link set lo up\nlink set kp0 up\naddr add {SERVER4}/32 dev kp0\n\
         route add 203.0.113.0/24 dev kp0\n"
    ));
    router.batch(&format!(
        "link set lo up\nlink set kp0 up\nlink set kp1 up\n\
         addr add {PUBLIC}/32 dev kp0\naddr add 192.168.1.1/24 dev kp1\n\
         route add {SERVER4}/32 dev kp0\n"
    ));
    client.batch(
        "link set lo up\nlink set kp0 up\naddr add 192.168.1.23/24 dev kp0\n\
         route add default via 192.168.1.1\n",
    );
    router.enter(|| std::fs::write("/proc/sys/net/ipv4/ip_forward", "1").unwrap());
    router.nft(
        "table ip nat {\n chain out {\n type nat hook postrouting priority 100;\n\
         oifname \"kp0\" masquerade\n }\n}\n",
    );
    (Site::of(server, client), router)
}

#[test]
fn a_client_behind_a_nat_gets_in_by_its_public_address() {
    let (site, _router) = behind_nat();
    let decrypt = site.decrypt(&["--knock"]);
    let port = decrypt.addr().tcp().port();
    let to = Addr::Tcp(format!("{SERVER4}:{port}").parse().unwrap());
    assert!(!gets_through(&site.start(&site.encrypt(&to, &[]))), "it did not knock");
    let client = site.start(&site.encrypt(&to, &["--knock"]));
    assert!(gets_through(&client), "{}", client.program.tail());
    decrypt
        .program
        .wait_line("knock granted", |line| line.is("knock granted") && line.has("address", PUBLIC));
}
