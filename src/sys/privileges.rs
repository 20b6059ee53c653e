//! Gives up root for good, after ports are bound and keys are read.
//!
//! `-u USER` becomes that user with their own group, `-u USER:GROUP` with that group, `-u :GROUP`
//! changes the group only. Supplementary groups are always dropped: those of root would keep rights
//! that the user wants to give up.

use std::str::FromStr;

use nix::errno::Errno;
use nix::unistd::{self, Gid, Group, Uid, User as Account};

use crate::files::place::user_name;

/// The user that the process becomes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct User {
    spelling: String,
    uid: Option<Uid>,
    gid: Gid,
}

/// Fault of a `-u` value.
#[derive(Debug, thiserror::Error)]
pub enum UnknownUser {
    /// Neither user nor group.
    #[error("names no user; write USER, USER:GROUP or :GROUP")]
    Empty,
    /// No such user.
    #[error(
        "there is no user '{0}'; create it, or give a name or number that 'getent passwd' shows"
    )]
    User(String),
    /// A number without an account has no group of its own.
    #[error("user {0} has no account, so its group is unknown; write {0}:GROUP")]
    NoGroup(Uid),
    /// No such group.
    #[error(
        "there is no group '{0}'; create it, or give a name or number that 'getent group' shows"
    )]
    Group(String),
    /// The account database failed.
    #[error("cannot look up '{0}': {1}; try numbers, as in -u 1000:1000")]
    Lookup(String, Errno),
}

/// Cause of privileges that were not dropped. The process must end: it still has them.
#[derive(Debug, thiserror::Error)]
pub enum DropError {
    /// A system call refused.
    #[error("cannot become '{0}': {1}; start as root, or leave -u out")]
    Refused(String, Errno),
    /// It seemed to work, but root could be regained.
    #[error(
        "became '{0}', but root can be had back; this system cannot drop privileges, leave -u out"
    )]
    NotForGood(String),
}

impl User {
    /// Makes a user by number, with that group or the account's own.
    ///
    /// # Errors
    /// [`UnknownUser`] where there is no group.
    pub fn of(uid: Uid, gid: Option<Gid>) -> Result<Self, UnknownUser> {
        let failed = |errno| UnknownUser::Lookup(uid.to_string(), errno);
        let gid = match gid {
            Some(gid) => gid,
            None => Account::from_uid(uid).map_err(failed)?.ok_or(UnknownUser::NoGroup(uid))?.gid,
        };
        Ok(Self { spelling: user_name(uid), uid: Some(uid), gid })
    }

    /// Returns its number; `None` when only the group changes.
    pub fn uid(&self) -> Option<Uid> {
        self.uid
    }

    /// Becomes this user for good and proves that there is no way back.
    ///
    /// Everything that needs root must have happened.
    ///
    /// # Errors
    /// [`DropError`]; then the process must end.
    pub fn become_for_good(&self) -> Result<(), DropError> {
        let refused = |errno| DropError::Refused(self.spelling.clone(), errno);
        // In this order: after the change of its uid the process may not change groups.
        unistd::setgroups(&[]).map_err(refused)?;
        unistd::setgid(self.gid).map_err(refused)?;
        if let Some(uid) = self.uid {
            unistd::setuid(uid).map_err(refused)?;
        }
        if self.holds() { Ok(()) } else { Err(DropError::NotForGood(self.spelling.clone())) }
    }

    /// Returns the number of its group.
    pub fn gid(&self) -> Gid {
        self.gid
    }

    /// Returns true if the process is this user, in every respect and for good.
    fn holds(&self) -> bool {
        let groups_dropped = unistd::getgroups().is_ok_and(|groups| groups.is_empty());
        let group_holds = [unistd::getgid(), unistd::getegid()].iter().all(|gid| *gid == self.gid);
        let Some(uid) = self.uid else {
            return groups_dropped && group_holds;
        };
        let user_holds = [unistd::getuid(), unistd::geteuid()].iter().all(|have| *have == uid);
        // Trying is the proof: it also sees saved ids and capabilities.
        let no_way_back = uid.is_root() || unistd::setuid(Uid::from_raw(0)).is_err();
        groups_dropped && group_holds && user_holds && no_way_back
    }
}

impl FromStr for User {
    type Err = UnknownUser;

    fn from_str(text: &str) -> Result<Self, UnknownUser> {
        let (user, group) = match text.split_once(':') {
            Some((user, group)) => (user, Some(group)),
            None => (text, None),
        };
        let spelling = text.to_owned();
        let gid = group.map(find_group);
        if user.is_empty() {
            return Ok(Self { spelling, uid: None, gid: gid.ok_or(UnknownUser::Empty)?? });
        }
        let (uid, own_group) = find_user(user)?;
        let gid = match gid {
            Some(gid) => gid?,
            None => own_group.ok_or(UnknownUser::NoGroup(uid))?,
        };
        Ok(Self { spelling, uid: Some(uid), gid })
    }
}

/// Returns the number of a user that is given by name or by number.
///
/// # Errors
/// [`UnknownUser`]
pub fn uid_of(text: &str) -> Result<Uid, UnknownUser> {
    find_user(text).map(|(uid, _)| uid)
}

/// Finds a user by name, else by number, with the group of the account.
fn find_user(text: &str) -> Result<(Uid, Option<Gid>), UnknownUser> {
    let failed = |errno| UnknownUser::Lookup(text.to_owned(), errno);
    if let Some(account) = Account::from_name(text).map_err(failed)? {
        return Ok((account.uid, Some(account.gid)));
    }
    let uid = number(text).map(Uid::from_raw).ok_or_else(|| UnknownUser::User(text.to_owned()))?;
    let account = Account::from_uid(uid).map_err(failed)?;
    Ok((uid, account.map(|account| account.gid)))
}

/// Finds a group by name, else by number.
fn find_group(text: &str) -> Result<Gid, UnknownUser> {
    let found = Group::from_name(text)
        .map_err(|errno| UnknownUser::Lookup(text.to_owned(), errno))?
        .map(|group| group.gid);
    found
        .or_else(|| number(text).map(Gid::from_raw))
        .ok_or_else(|| UnknownUser::Group(text.to_owned()))
}

/// Parses a decimal id. The highest means "no change" to the system, so it is none.
fn number(text: &str) -> Option<u32> {
    text.bytes().all(|byte| byte.is_ascii_digit()).then_some(())?;
    text.parse().ok().filter(|id| *id != u32::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ids(text: &str) -> (Option<u32>, u32) {
        let user: User = text.parse().unwrap();
        (user.uid.map(Uid::as_raw), user.gid.as_raw())
    }

    #[test]
    fn names_and_numbers() {
        assert_eq!(ids("root"), (Some(0), 0));
        assert_eq!(ids("0"), (Some(0), 0));
        assert_eq!(ids("root:7"), (Some(0), 7));
        assert_eq!(ids("54321:54322"), (Some(54321), 54322));
        assert_eq!(ids(":54322"), (None, 54322));
    }

    #[test]
    fn an_unknown_user_is_refused_with_the_remedy() {
        let cases = [
            ("", "write USER"),
            (":", "no group ''"),
            ("root:", "no group ''"),
            ("54321", "write 54321:GROUP"),
            ("no-such-user", "no user 'no-such-user'"),
            ("root:no-such-group", "no group 'no-such-group'"),
            ("-1", "no user '-1'"),
            ("+5:5", "no user '+5'"),
            ("4294967295:5", "no user"),
            ("4294967296:5", "no user"),
        ];
        for (text, expected) in cases {
            let error = text.parse::<User>().unwrap_err().to_string();
            assert!(error.contains(expected), "{text}: {error}");
            assert_eq!(error.lines().count(), 1);
        }
    }
}
