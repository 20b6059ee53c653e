//! Failures of TLS in words, each with its remedy.

use std::error::Error;

use tokio_rustls::rustls::{AlertDescription, Error as TlsError};

use super::cause::Cause;
use crate::net::refused_certificate;

/// Puts an error into words, if it is one of TLS.
pub(super) fn tls_cause_of(error: &(dyn Error + 'static)) -> Option<Cause> {
    let error = error.downcast_ref::<TlsError>()?;
    Some(match error {
        TlsError::InvalidCertificate(wrong) => {
            let refused = refused_certificate(wrong, AUTHORITY);
            cause(refused.text, refused.remedy)
        }
        TlsError::AlertReceived(alert) => refused(*alert),
        TlsError::InvalidMessage(_) => cause(
            "what answers does not speak TLS",
            "name the server's TLS port, or write redis://",
        ),
        other => cause(other.to_string(), "see which TLS the server offers, and its log"),
    })
}

const AUTHORITY: &str = "give that authority's certificate with --gate-ca FILE";

fn cause(text: impl Into<String>, remedy: &'static str) -> Cause {
    Cause { text: text.into(), remedy: Some(remedy) }
}

/// The words for an alert of the server, which may have rejected our certificate.
fn refused(alert: AlertDescription) -> Cause {
    use AlertDescription as A;
    let why = match alert {
        A::CertificateRequired => {
            return cause(
                "the server wants a client certificate",
                "give one with --gate-cert FILE and --gate-key FILE",
            );
        }
        A::HandshakeFailure => {
            return cause(
                "the server refuses the handshake",
                "where it wants a client certificate, give one with --gate-cert and --gate-key; see its log",
            );
        }
        A::UnknownCA => "of an authority that it does not know",
        A::CertificateExpired => "expired",
        A::CertificateRevoked => "revoked",
        A::UnsupportedCertificate => "not one for clients",
        A::BadCertificate | A::CertificateUnknown | A::AccessDenied | A::DecryptError => {
            "not accepted"
        }
        other => {
            let text = format!("the server ended TLS: {other:?}");
            return cause(text, "see its log");
        }
    };
    cause(
        format!("the server refuses the client certificate: it is {why}"),
        "see --gate-cert, and the server's log",
    )
}

#[cfg(test)]
mod tests {
    use std::io;
    use std::time::Duration;

    use tokio_rustls::rustls::CertificateError;
    use tokio_rustls::rustls::pki_types::{ServerName, UnixTime};

    use super::super::cause::cause_of;
    use super::*;

    #[test]
    fn every_class_has_its_words_and_its_remedy() {
        let at = |seconds| UnixTime::since_unix_epoch(Duration::from_secs(seconds));
        let name = ServerName::try_from("db.example").unwrap();
        let expected = name.to_owned();
        let wrong_name = CertificateError::NotValidForNameContext {
            expected,
            presented: vec!["DnsName(\"other.example\")".to_owned()],
        };
        let expired =
            CertificateError::ExpiredContext { time: at(1_000_000), not_after: at(100_000) };
        let cases = [
            (TlsError::InvalidCertificate(expired), "has expired, 10 days ago", "renew it"),
            (
                TlsError::InvalidCertificate(CertificateError::UnknownIssuer),
                "unknown authority",
                "--gate-ca",
            ),
            (TlsError::InvalidCertificate(wrong_name), "other.example", "name the server"),
            (
                TlsError::InvalidCertificate(CertificateError::InvalidPurpose),
                "not one for servers",
                "serverAuth",
            ),
            (
                TlsError::AlertReceived(AlertDescription::CertificateRequired),
                "wants a client certificate",
                "--gate-cert FILE",
            ),
            (
                TlsError::AlertReceived(AlertDescription::UnknownCA),
                "refuses the client certificate",
                "--gate-cert",
            ),
        ];
        for (error, text, remedy) in cases {
            let wrapped = io::Error::other(io::Error::new(io::ErrorKind::InvalidData, error));
            let told = cause_of(&wrapped);
            assert!(told.text.contains(text), "{told:?}");
            assert!(told.remedy.unwrap().contains(remedy), "{told:?}");
        }
    }
}
