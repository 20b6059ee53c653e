//! Values of flags, good and bad.

use super::*;

#[test]
fn metrics_are_for_this_machine_unless_an_address_says_otherwise() {
    let shown = |text: &str| text.parse::<MetricsAddress>().map(|it| it.0.to_string());
    for (text, address) in [
        ("9100", "127.0.0.1:9100"),
        (":9100", "127.0.0.1:9100"),
        ("0.0.0.0:9100", "0.0.0.0:9100"),
        ("[::]:9100", "[::]:9100"),
        ("/run/metrics.sock", "/run/metrics.sock"),
    ] {
        assert_eq!(shown(text).unwrap(), address, "{text}");
    }
    for text in ["", ":", "65536", ":http", "localhost"] {
        assert!(shown(text).is_err(), "{text}");
    }
}

#[test]
fn numbers_are_plain_and_bounded() {
    assert_eq!("0".parse::<SessionLimit>().unwrap(), SessionLimit(None));
    assert_eq!("7".parse::<SessionLimit>().unwrap(), SessionLimit(Some(7)));
    for bad in ["", "-5", "+5", "5.0", "1000001", "99999999999999999999999", "many"] {
        assert!(bad.parse::<SessionLimit>().is_err(), "{bad}");
        assert!(bad.parse::<HandshakeLimit>().is_err(), "{bad}");
        assert!(bad.parse::<PoolSize>().is_err(), "{bad}");
    }
    assert_eq!("0".parse::<PoolSize>().unwrap(), PoolSize(0));
    assert!("0".parse::<HandshakeLimit>().is_err());
}

#[test]
fn limits_for_each_source() {
    let limit = |text: &str| text.parse::<SourceLimit>().map(|limit| limit.0);
    assert_eq!(limit("20").unwrap(), PerSource { sessions: 20, per_second: None });
    assert_eq!(limit("20/5").unwrap(), PerSource { sessions: 20, per_second: Some(5) });
    for bad in ["", "/", "0", "20/", "20/0", "/5", "20/5/1", "-1", "x"] {
        assert!(limit(bad).is_err(), "{bad}");
    }
}

#[test]
fn targets_with_and_without_a_service() {
    let target: Target = "redis=[127.0.0.1]:6379".parse().unwrap();
    assert_eq!(target.service, Some("redis".parse().unwrap()));
    assert_eq!(target.address, "[127.0.0.1]:6379".parse().unwrap());
    let path: Target = "/run/a=b.sock".parse().unwrap();
    assert_eq!((path.service, path.address), (None, Address::Unix("/run/a=b.sock".into())));
    let unix: Target = "mysql=/run/mysqld.sock".parse().unwrap();
    assert_eq!(unix.address, Address::Unix("/run/mysqld.sock".into()));
    let error = |text: &str| text.parse::<Target>().unwrap_err().to_string();
    for (text, meant) in [
        ("redis:127.0.0.1:6379", "redis=127.0.0.1:6379"),
        ("db:127.0.0.1:6379", "db=127.0.0.1:6379"),
        ("redis:[::1]:6379", "redis=[::1]:6379"),
        ("mysql:db.example.org:3306", "mysql=db.example.org:3306"),
    ] {
        assert!(error(text).contains(&format!("; write {meant} ")), "{}", error(text));
    }
    for text in ["::1:6379", "fe80::1:6379", "2001:db8:6379", "a:b:c:d:1"] {
        assert!(error(text).contains("in brackets"), "{}", error(text));
    }
    for bad in ["=[127.0.0.1]:6379", "redis=", "re dis=a:1", "nothing"] {
        assert!(bad.parse::<Target>().is_err(), "{bad}");
    }
}

#[test]
fn suites() {
    let suites = |text: &str| text.parse::<SuiteChoice>().map(|choice| choice.0);
    assert_eq!(suites("auto").unwrap(), SuiteSet::BOTH);
    assert_eq!(suites("aes-256-gcm").unwrap(), SuiteSet::only(Suite::Aes256Gcm));
    assert!(suites("none").is_err());
}

#[test]
fn names_and_values_of_header_fields_are_told_in_our_words() {
    assert_eq!(header_name("X-Real-IP").unwrap(), "x-real-ip");
    assert_eq!(header_value("text/html; charset=UTF-8").unwrap(), "text/html; charset=UTF-8");
    for name in ["", "a b", "a:", "é", "a\nb"] {
        let error = header_name(name).unwrap_err().to_string();
        assert!(error.contains("; write one such as X-Real-IP"), "{error}");
        assert!(!error.contains('\n') && !error.contains("invalid HTTP"), "{error}");
    }
    for value in ["", "a\nb", "a\u{7f}"] {
        let error = header_value(value).unwrap_err().to_string();
        assert!(error.contains("; write one line") && !error.contains('\n'), "{error}");
    }
}
