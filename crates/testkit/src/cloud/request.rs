//! A request, and the check of its signature by the letter of the documentation.

use std::time::Duration;

use knockpipe_base::civil::Date;
use sha2::{Digest, Sha256};

use super::{REGION, SECRET_ID, SECRET_KEY};

/// The most seconds between both clocks.
const TOLERANCE: u64 = 300;

/// A request as it came.
pub struct Asked<'a> {
    /// Names in small letters.
    pub headers: &'a [(String, String)],
    pub body: &'a [u8],
    /// Time since some moment, for the limit of requests.
    pub at: Duration,
    /// Unix second.
    pub now: u64,
}

impl Asked<'_> {
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(known, _)| known == name).map(|(_, value)| value.as_str())
    }

    /// Checks version, region, clock and signature.
    ///
    /// # Errors
    /// Code and message; the message repeats what the client sent.
    pub(super) fn check(&self) -> Result<(), (&'static str, String)> {
        let of = |name: &'static str| {
            self.header(name).ok_or_else(|| ("MissingParameter", name.to_owned()))
        };
        if of("x-tc-version")? != "2020-03-24" || of("x-tc-region")? != REGION {
            return Err(("InvalidParameter", "version or region".to_owned()));
        }
        let timestamp = of("x-tc-timestamp")?;
        let given = of("authorization")?;
        let second: u64 = timestamp.parse().unwrap_or_default();
        if second.abs_diff(self.now) > TOLERANCE {
            return Err(("AuthFailure.SignatureExpire", "the clocks differ".to_owned()));
        }
        if !given.contains(&format!("Credential={SECRET_ID}/")) {
            return Err(("AuthFailure.SecretIdNotFound", format!("not known: {given}")));
        }
        if given != self.authorization(second) {
            return Err(("AuthFailure.SignatureFailure", format!("not right: {given}")));
        }
        Ok(())
    }

    fn authorization(&self, second: u64) -> String {
        let date = format!("{:#}", Date::of_unix(second));
        let of = |name: &str| self.header(name).unwrap_or_default();
        let body = hex(&Sha256::digest(self.body));
        let (kind, host) = (of("content-type"), of("host"));
        let request =
            format!("POST\n/\n\ncontent-type:{kind}\nhost:{host}\n\ncontent-type;host\n{body}");
        let scope = format!("{date}/lighthouse/tc3_request");
        let request = hex(&Sha256::digest(request));
        let text = format!("TC3-HMAC-SHA256\n{second}\n{scope}\n{request}");
        let mut key = format!("TC3{SECRET_KEY}").into_bytes();
        for step in [&*date, "lighthouse", "tc3_request"] {
            key = hmac(&key, step);
        }
        let signature = hex(&hmac(&key, &text));
        format!(
            "TC3-HMAC-SHA256 Credential={SECRET_ID}/{scope}, SignedHeaders=content-type;host, Signature={signature}"
        )
    }
}

/// HMAC-SHA256 with a key of at most 64 bytes.
fn hmac(key: &[u8], text: &str) -> Vec<u8> {
    let mut block = [0; 64];
    block[..key.len()].copy_from_slice(key);
    let padded = |pad: u8| block.map(|byte| byte ^ pad);
    let inner = Sha256::new().chain_update(padded(0x36)).chain_update(text).finalize();
    Sha256::new().chain_update(padded(0x5c)).chain_update(inner).finalize().to_vec()
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}
