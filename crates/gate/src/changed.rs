//! The addresses for which the decision may differ after a change of the store, so that only
//! the live connections of these are checked again.

use std::net::IpAddr;

use crate::member::Member;

/// More subjects than this are `Everything`: a busy machine has a few thousand
/// live connections, and checking all of them is then as cheap.
const MOST_SUBJECTS: usize = 1024;

/// The subjects for which the decision may differ from the one before.
#[derive(Clone, Debug, PartialEq, Eq)]
#[must_use = "live connections are checked again by it"]
pub enum Changed {
    /// These addresses, and the addresses in these networks. May name some for which the
    /// decision is the same as before, and name one twice.
    Subjects(Vec<Member>),
    /// Too many to name, or the state of the store itself.
    Everything,
}

impl Changed {
    /// Returns true if no decision differs.
    pub fn is_empty(&self) -> bool {
        matches!(self, Self::Subjects(members) if members.is_empty())
    }

    /// Returns true if the decision about `ip` may differ from the one before.
    pub fn affects(&self, ip: IpAddr) -> bool {
        match self {
            Self::Subjects(members) => members.iter().any(|member| member.contains(ip)),
            Self::Everything => true,
        }
    }

    /// Adds the subjects of another change.
    pub fn merge(&mut self, other: Self) {
        match other {
            Self::Subjects(members) => members.into_iter().for_each(|member| self.add(member)),
            Self::Everything => *self = Self::Everything,
        }
    }

    pub(crate) fn add(&mut self, member: Member) {
        match self {
            Self::Subjects(members) if members.len() < MOST_SUBJECTS => members.push(member),
            _ => *self = Self::Everything,
        }
    }

    pub(crate) fn only(member: Member, differs: bool) -> Self {
        Self::Subjects(if differs { vec![member] } else { vec![] })
    }
}

impl Default for Changed {
    fn default() -> Self {
        Self::Subjects(vec![])
    }
}
