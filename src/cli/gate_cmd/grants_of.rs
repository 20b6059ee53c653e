//! The end of all grants that one token has made.

use super::find_gate::Source;
use super::opened_store::{Absent, OpenedStore, each};
use crate::gate::Member;
use crate::gate::granting::ChangeError;
use crate::gate::store::{Edit, Grant};
use crate::run::Failure;

/// Ends the grants of `who`, and returns their number. Without notes none would be found: that is a
/// failure.
///
/// # Errors
/// [`Failure`] of the store.
pub(in crate::cli) fn end(source: Source, who: &str) -> Result<usize, Failure> {
    super::block_on(async {
        let opened = OpenedStore::of(source, Absent::Refuse)?;
        let store = opened.store();
        let mut members: Vec<Member> = vec![];
        let is_of = |grant: &Grant| grant.is_by(who);
        let listed = each(
            |to| store.list_grants(to),
            |batch| {
                members.extend(batch.into_iter().filter(is_of).map(|grant| grant.member));
                Ok(())
            },
        )
        .await?;
        if let Some(why) = listed.without_notes {
            return Err(Failure::Runtime(ChangeError::NoNotes(why).into()));
        }
        let edit = |member| Edit::TakeBack { member, who: who.to_owned(), until: None };
        let edits = members.into_iter().map(edit).collect();
        let mut ended = 0;
        opened.edit_all(edits, |result| ended += usize::from(result.changed)).await?;
        Ok(ended)
    })
}
