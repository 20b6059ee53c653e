//! The gate whose store is the memory of the process: its entries, and changes of them, which no
//! other program could make elsewhere.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::RequestError;
use crate::gate::store::{Edit, EditResult};
use crate::gate::{GrantNote, Member};

/// A change.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct EditRequest {
    /// `allow`, `remove`, `ban`, `unban` or `forget`.
    pub action: String,
    /// The address or network.
    pub subject: String,
    /// The time for which it is allowed or banned.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ttl_ms: Option<u64>,
    /// The note of an allowed one, as a gate file has it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub note: Option<String>,
    /// The unix second before which a forgotten one was last admitted.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub before_s: Option<u64>,
}

/// The result of a change.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct EditReply {
    /// The store.
    pub server: String,
    /// The part of it that changed.
    pub key: String,
    /// True if anything is different now.
    pub changed: bool,
}

/// The content of the store.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct EntriesReply {
    /// Lines of a gate file, without their checksums.
    pub lines: Vec<String>,
    /// Number of further lines that do not fit into a reply.
    pub more: usize,
}

impl EditRequest {
    /// The request for a change; `None` for one that only the process makes.
    pub fn of(edit: &Edit) -> Option<Self> {
        let of = |action: &str, subject: String| Self {
            action: action.to_owned(),
            subject,
            ttl_ms: None,
            note: None,
            before_s: None,
        };
        let ms = |time: &Duration| u64::try_from(time.as_millis()).unwrap_or(u64::MAX);
        Some(match edit {
            Edit::Allow { member, lasting, note } => Self {
                ttl_ms: lasting.as_ref().map(ms),
                note: note.as_ref().map(GrantNote::json),
                ..of("allow", member.to_string())
            },
            Edit::Remove(member) => of("remove", member.to_string()),
            Edit::Ban(member, time) => {
                Self { ttl_ms: Some(ms(time)), ..of("ban", member.to_string()) }
            }
            Edit::Unban(member) => of("unban", member.to_string()),
            Edit::Forget { ip, before_s } => {
                Self { before_s: Some(*before_s), ..of("forget", ip.to_string()) }
            }
            Edit::Grant { .. }
            | Edit::Renew { .. }
            | Edit::TakeBack { .. }
            | Edit::RecordSeen(_)
            | Edit::Strike { .. }
            | Edit::ClearStrikes { .. } => return None,
        })
    }

    /// The change that is requested.
    ///
    /// # Errors
    /// [`RequestError`] if it is none.
    pub fn edit(&self) -> Result<Edit, RequestError> {
        let Self { action, subject, ttl_ms, note, before_s } = self;
        let member: Member = subject.parse().map_err(|_| RequestError::Address(subject.clone()))?;
        let lasting = ttl_ms.map(Duration::from_millis);
        let note = note.as_deref().map(|text| GrantNote::parse(text).ok_or(RequestError::Change));
        match (action.as_str(), lasting, member, before_s) {
            ("allow", lasting, member, None) => {
                Ok(Edit::Allow { member, lasting, note: note.transpose()? })
            }
            ("remove", None, member, None) => Ok(Edit::Remove(member)),
            ("ban", Some(time), member, None) if member.can_be_banned() => {
                Ok(Edit::Ban(member, time))
            }
            ("unban", None, member, None) => Ok(Edit::Unban(member)),
            ("forget", None, Member::Address(ip), Some(before_s)) => {
                Ok(Edit::Forget { ip, before_s: *before_s })
            }
            _ => Err(RequestError::Change),
        }
    }
}

impl From<EditResult> for EditReply {
    fn from(EditResult { server, key, changed, .. }: EditResult) -> Self {
        Self { server, key, changed }
    }
}

impl From<EditReply> for EditResult {
    fn from(EditReply { server, key, changed }: EditReply) -> Self {
        Self { server, key, changed, count: None }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::gate::UnixMillis;

    #[test]
    fn every_change_of_a_command_is_read_as_it_was_meant() {
        let (member, hour) = ("203.0.113.7".parse().unwrap(), Duration::from_secs(3_600));
        let note = GrantNote::new("operator:anna", Some("the \"office\""), UnixMillis(7));
        for edit in [
            Edit::Allow { member, lasting: Some(hour), note: Some(note) },
            Edit::Allow { member, lasting: None, note: None },
            Edit::Remove(member),
            Edit::Ban(member, hour),
            Edit::Unban("2001:db8::/64".parse().unwrap()),
            Edit::Forget { ip: [203, 0, 113, 7].into(), before_s: 9 },
        ] {
            let text = serde_json::to_string(&EditRequest::of(&edit).unwrap()).unwrap();
            let read: EditRequest = serde_json::from_str(&text).unwrap();
            assert_eq!(read.edit().unwrap(), edit, "{text}");
        }
    }

    #[test]
    fn what_is_no_change_is_refused() {
        for text in [
            r#"{"action":"allow","subject":"office"}"#,
            r#"{"action":"allow","subject":"203.0.113.7","note":"me"}"#,
            r#"{"action":"ban","subject":"203.0.113.7"}"#,
            r#"{"action":"ban","subject":"203.0.113.0/24","ttl_ms":1}"#,
            r#"{"action":"forget","subject":"203.0.113.0/24","before_s":1}"#,
            r#"{"action":"renew","subject":"203.0.113.7"}"#,
        ] {
            let read: EditRequest = serde_json::from_str(text).unwrap();
            assert!(read.edit().is_err(), "{text}");
        }
    }
}
