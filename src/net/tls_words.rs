//! A server's certificate that is refused, in words with a remedy.
//!
//! For whichever client of TLS: the flag that names authorities is the caller's to know.

use tokio_rustls::rustls::CertificateError;

/// Cause and remedy.
#[derive(Debug)]
pub struct RefusedCertificate {
    /// The cause.
    pub text: String,
    /// The remedy.
    pub remedy: &'static str,
}

/// Puts the refusal of a server's certificate into words. `authority` is the remedy for one of an
/// unknown authority.
pub fn refused_certificate(
    wrong: &CertificateError,
    authority: &'static str,
) -> RefusedCertificate {
    use CertificateError as E;
    match wrong {
        E::Expired => refused("the server's certificate has expired", RENEW),
        E::ExpiredContext { time, not_after } => {
            let days = time.as_secs().saturating_sub(not_after.as_secs()) / 86_400;
            let ago = if days > 1 { format!(", {days} days ago") } else { String::new() };
            refused(format!("the server's certificate has expired{ago}"), RENEW)
        }
        E::NotValidYet | E::NotValidYetContext { .. } => {
            refused("the server's certificate is not valid yet", "check this host's clock")
        }
        E::UnknownIssuer => {
            refused("the server's certificate is of an unknown authority", authority)
        }
        E::NotValidForName => refused("the server's certificate is for another name", RENAME),
        E::NotValidForNameContext { expected, presented } => {
            let names = match &presented[..] {
                [] => "no name".to_owned(),
                names => names.join(", "),
            };
            let expected = expected.to_str();
            refused(
                format!("the server's certificate is for {names} and not for {expected}"),
                RENAME,
            )
        }
        E::InvalidPurpose | E::InvalidPurposeContext { .. } => refused(
            "the server's certificate is not one for servers (extended key usage)",
            "issue one with serverAuth",
        ),
        E::Revoked => refused("the server's certificate is revoked", "issue another one"),
        // By its name, since the crate that has it is not ours to name.
        E::Other(other) if other.to_string().contains("CaUsedAsEndEntity") => refused(
            "the server's certificate is one of an authority (CA:TRUE)",
            "issue one for the server, with CA:FALSE",
        ),
        other => refused(
            format!("the server's certificate is refused: {other}"),
            "see it with 'openssl s_client -connect HOST:PORT'",
        ),
    }
}

const RENEW: &str = "renew it on the server, or check this host's clock";
const RENAME: &str = "name the server as its certificate does, or issue one for this name";

fn refused(text: impl Into<String>, remedy: &'static str) -> RefusedCertificate {
    RefusedCertificate { text: text.into(), remedy }
}
