//! TC3-HMAC-SHA256: the signature of a request to Tencent Cloud.
//!
//! Signs the headers that its own clients sign, `content-type` and `host`, and the body byte for
//! byte. The secret is a key of the first step only, and every derived key is wiped.

use hmac::{Hmac, KeyInit, Mac};
use sha2::{Digest, Sha256};
use zeroize::Zeroizing;

use knockpipe_base::civil::Date;

use super::credentials::Credentials;

/// Type of the body, which is signed.
pub(super) const CONTENT_TYPE: &str = "application/json";

/// Name of the service in signatures.
const SERVICE: &str = "lighthouse";

/// A request as far as it is signed.
#[derive(Clone, Copy, Debug)]
pub struct Signed<'a> {
    /// Value of the Host header.
    pub host: &'a str,
    /// Unix second of the request.
    pub timestamp: u64,
    /// Its body.
    pub body: &'a [u8],
}

impl Signed<'_> {
    /// Returns the value of the Authorization header.
    pub fn authorization(&self, credentials: &Credentials) -> String {
        let date = format!("{:#}", Date::of_unix(self.timestamp));
        let signature = hex(&self.signature(credentials, &date));
        let id = credentials.id();
        format!(
            "TC3-HMAC-SHA256 Credential={id}/{date}/{SERVICE}/tc3_request, SignedHeaders=content-type;host, Signature={signature}"
        )
    }

    /// Returns the text that stands for the request.
    fn canonical(&self) -> String {
        let Self { host, body, .. } = self;
        let body = hex(&Sha256::digest(body));
        format!("POST\n/\n\ncontent-type:{CONTENT_TYPE}\nhost:{host}\n\ncontent-type;host\n{body}")
    }

    /// Returns the text that is signed.
    fn text(&self, date: &str) -> String {
        let request = hex(&Sha256::digest(self.canonical()));
        let timestamp = self.timestamp;
        format!("TC3-HMAC-SHA256\n{timestamp}\n{date}/{SERVICE}/tc3_request\n{request}")
    }

    fn signature(&self, credentials: &Credentials, date: &str) -> [u8; 32] {
        let first = Zeroizing::new(format!("TC3{}", credentials.key()));
        let mut key = mac(first.as_bytes(), date);
        for step in [SERVICE, "tc3_request"] {
            key = mac(&*key, step);
        }
        *mac(&*key, &self.text(date))
    }
}

fn mac(key: &[u8], text: &str) -> Zeroizing<[u8; 32]> {
    // HMAC takes keys of any length.
    let Ok(mut mac) = Hmac::<Sha256>::new_from_slice(key) else { unreachable!() };
    mac.update(text.as_bytes());
    Zeroizing::new(mac.finalize().into_bytes().into())
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use serde_json::Value;

    use super::*;

    #[test]
    fn every_request_of_the_official_client_gets_its_signature() {
        let vectors = include_str!("../../tests/vectors/tc3-signatures.json");
        let vectors: Value = serde_json::from_str(vectors).unwrap();
        let vectors = vectors["vectors"].as_array().unwrap();
        assert_eq!(vectors.len(), 6);
        for vector in vectors {
            let text = |name: &str| vector[name].as_str().unwrap();
            let token = vector.get("token").map(|token| format!("\n{}", token.as_str().unwrap()));
            let lines = format!(
                "{}\n{}{}",
                text("secret_id"),
                text("secret_key"),
                token.unwrap_or_default()
            );
            let credentials = Credentials::parse(&lines).unwrap();
            let signed = Signed {
                host: text("host"),
                timestamp: vector["timestamp"].as_u64().unwrap(),
                body: text("body").as_bytes(),
            };
            let date = format!("{:#}", Date::of_unix(signed.timestamp));
            assert_eq!(signed.canonical(), text("canonical_request"), "{}", vector["name"]);
            assert_eq!(signed.text(&date), text("string_to_sign"), "{}", vector["name"]);
            assert_eq!(
                signed.authorization(&credentials),
                text("authorization"),
                "{}",
                vector["name"]
            );
        }
    }
}
