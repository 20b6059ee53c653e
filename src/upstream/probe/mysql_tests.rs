use super::*;

/// Greetings of MariaDB 10.11 and MySQL 8.0.
const MARIADB: &[u8] = b"d\0\0\0\n5.5.5-10.11.19-MariaDB-0+deb12u1\0;\0\0\0>-b+Ky?l\0\xfe\xf7\x08\x02\0\xff\x81\x15\0\0\0\0\0\0\x1d\0\0\0%mz=_I.Ha1kI\0mysql_native_password\0";
const MYSQL8: &[u8] = b"J\0\0\0\n8.0.36\0\x08\0\0\0abcdefgh\0\xff\xff\xff\x02\0\xff\xdf\x15\0\0\0\0\0\0\0\0\0\0ABCDEFGHIJKL\0caching_sha2_password\0";

const OK: &[u8] = b"\x07\0\0\x02\0\0\0\x02\0\0\0";

fn new_login() -> Login {
    Login::of("knockpipe")
}

fn error(number: u8, rest: &[u8]) -> Vec<u8> {
    framed(number, &[b"\xff", rest].concat())
}

/// Returns the words said and the last step when these packets come in pieces of `size`.
fn converse(packets: &[&[u8]], size: usize) -> (Vec<u8>, Step) {
    let mut login = new_login();
    let mut said = vec![];
    for piece in packets.iter().flat_map(|packet| packet.chunks(size)) {
        match login.on_bytes(piece) {
            Step::Read => {}
            Step::Write(bytes) => said.extend(bytes),
            over => return (said, over),
        }
    }
    (said, Step::Read)
}

fn verdict(packets: &[&[u8]]) -> Verdict {
    match converse(packets, 4096) {
        (_, Step::Done(_, verdict)) => verdict,
        (said, step) => panic!("{step:?} after {said:?}"),
    }
}

#[test]
fn greetings_of_both_are_read() {
    let mariadb = greeting(&MARIADB[4..]).unwrap();
    assert_eq!(mariadb.plugin, b"mysql_native_password");
    assert_eq!(mariadb.capabilities, 0x81ff_f7fe);
    let mysql = greeting(&MYSQL8[4..]).unwrap();
    assert_eq!(mysql.plugin, b"caching_sha2_password");
    assert_ne!(mysql.capabilities & PLUGIN_AUTH, 0);
}

#[test]
fn a_login_that_works_ends_with_quit_whatever_the_pieces() {
    let switch = framed(2, b"\xfemysql_native_password\0abcdefghijklmnopqrst\0");
    let welcome = [7, 0, 0, 4, 0, 0, 0, 2, 0, 0, 0];
    let fast = framed(2, &[1, 3]);
    let ways: [&[&[u8]]; 4] = [
        &[MARIADB, OK],
        &[MYSQL8, OK],
        &[MYSQL8, &switch, &welcome],
        &[MYSQL8, &fast, &[7, 0, 0, 3, 0, 0, 0, 2, 0, 0, 0]],
    ];
    for packets in ways {
        for size in [1, 3, 64, 4096] {
            let (said, step) = converse(packets, size);
            assert_eq!(step, Step::Done(COM_QUIT.to_vec(), Verdict::Healthy), "{packets:?}");
            assert_eq!(said[3], 1, "the first packet answers number 0");
            let name = said.windows(10).any(|part| part == b"knockpipe\0");
            assert!(name, "{said:?}");
        }
    }
    // The native method has no bytes for an empty password, all others one NUL.
    assert!(converse(ways[2], 4096).0.ends_with(b"\0\0\0\0\x03"));
    let switch = framed(2, b"\xfecaching_sha2_password\0abcdefghijklmnopqrst\0");
    assert!(converse(&[MARIADB, &switch, &welcome], 4096).0.ends_with(b"\x01\0\0\x03\0"));
}

#[test]
fn the_login_is_laid_out_as_the_protocol_says() {
    let (said, _) = converse(&[MARIADB], 4096);
    let length = said.len() - 4;
    assert_eq!(said[..4], [u8::try_from(length).unwrap(), 0, 0, 1]);
    assert_eq!(said[4..8], 0x0008_8200u32.to_le_bytes());
    assert_eq!(said[12], CHARSET);
    assert_eq!(said[36..], *b"knockpipe\0\0mysql_native_password\0");
}

#[test]
fn an_error_in_place_of_the_greeting_is_down_with_its_text() {
    let cases: [(&[u8], &str); 3] = [
        (b"\x10\x04Too many connections", "the server says \"Too many connections\" (1040)"),
        (b"\x10\x04#08004Too many connections", "\"Too many connections\" (1040)"),
        (b"\x69\x04Host '192.0.2.2' is blocked", "\"Host '192.0.2.2' is blocked\" (1129)"),
    ];
    for (rest, text) in cases {
        let Verdict::Unhealthy(said) = verdict(&[&error(0, rest)]) else { panic!("{text}") };
        assert!(said.contains(text), "{said}");
    }
}

#[test]
fn an_account_that_is_refused_is_not_the_servers_fault() {
    for code in OF_THE_ACCOUNT {
        let rest = [&code.to_le_bytes()[..], b"#28000Access denied"].concat();
        let refused = error(2, &rest);
        assert!(matches!(verdict(&[MARIADB, &refused]), Verdict::AuthRejected { .. }), "{code}");
    }
    // Error codes: 1862 expired, 3118 and 4151 locked, 3955 and 4150 locked by failed logins (MySQL
    // and MariaDB).
    let codes: [&[u8]; 5] = [b"\x46\x07", b"\x2e\x0c", b"\x37\x10", b"\x73\x0f", b"\x36\x10"];
    for code in codes {
        let refused = error(2, &[code, b"#HY000Access denied"].concat());
        assert!(matches!(verdict(&[MARIADB, &refused]), Verdict::AuthRejected { .. }), "{code:?}");
    }
    let full = error(2, b"\x10\x04#08004Too many connections");
    assert!(matches!(verdict(&[MARIADB, &full]), Verdict::Unhealthy(_)));
    let wants = framed(2, &[1, 4]);
    assert!(matches!(verdict(&[MYSQL8, &wants]), Verdict::AuthRejected { .. }));
    // A server that never stops asking.
    let switch = framed(2, b"\xfesome_plugin\0");
    assert!(matches!(verdict(&[MYSQL8, &switch, &switch]), Verdict::AuthRejected { .. }));
}

#[test]
fn what_is_no_mysql_is_down() {
    let packets: [&[u8]; 5] = [
        b"HTTP/1.1 400 Bad Request\r\n\r\n",
        b"-ERR unknown command\r\n",
        &framed(0, b""),
        &framed(0, b"\x09old"),
        &framed(0, b"\x0aversion without an end"),
    ];
    for packet in packets {
        assert!(matches!(verdict(&[packet]), Verdict::Unhealthy(_)), "{packet:?}");
    }
}

/// Every cut and every changed byte of a greeting, and noise: no panic, always a verdict, and never
/// more than one packet in memory.
#[test]
fn damage_and_noise_never_harm() {
    for greeting in [MARIADB, MYSQL8] {
        for cut in 0..greeting.len() {
            let payload = &greeting[4..].get(..cut).unwrap_or_default();
            let _ = new_login().on_bytes(&framed(0, payload));
            for bit in 0..8 {
                let mut changed = greeting.to_vec();
                changed[cut] ^= 1 << bit;
                let mut login = new_login();
                let _ = login.on_bytes(&changed);
                assert!(login.heard.len() <= LONGEST_PACKET + HEADER);
            }
        }
    }
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    for _ in 0..20_000 {
        let mut login = new_login();
        let mut noise = vec![0; (state % 300) as usize];
        for byte in &mut noise {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            *byte = (state >> 33) as u8;
        }
        // A plausible length, so that the payload is parsed.
        if let (Some(first), true) = (noise.first_chunk_mut::<3>(), state & 1 == 0) {
            *first = [30, 0, 0];
        }
        for piece in noise.chunks(1 + (state % 40) as usize) {
            if matches!(login.on_bytes(piece), Step::Done(..)) {
                break;
            }
            assert!(login.heard.len() <= LONGEST_PACKET + HEADER);
        }
    }
}
