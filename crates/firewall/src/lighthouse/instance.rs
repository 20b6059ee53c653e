//! The rules of one instance: reading all of them, and carrying changes out one request at a time.
//!
//! Every change names the version of the rules that it was planned for, so that it is refused where
//! another program was quicker; then the rules are read and the change is planned anew. What is
//! remembered is dropped before a request, since its answer may not come.

use std::collections::HashSet;

use ipnet::IpNet;
use knockpipe_base::civil::Date;

use super::account::{Account, Transport};
use super::api::{ApiError, Kind, PAGE, Request, Rule};
use super::plan::{Form, Work};
use crate::reconcile::Step;

/// The most rules of one request.
const TOGETHER: usize = 20;

/// The most descriptions that are renewed at once, so that a knock does not wait for all of them.
const RENAMES: usize = 10;

/// Attempts to read and plan anew without success in between.
const ATTEMPTS: u32 = 4;

/// The most pages that are read.
const MOST_PAGES: usize = 50;

/// An instance with what is known of it.
#[derive(Debug)]
pub(super) struct Instance {
    pub(super) id: String,
    /// The rules as they were read last, for reports.
    pub(super) rules: Option<Vec<Rule>>,
    /// Version of `rules`; `None` if they may have changed since.
    version: Option<u64>,
}

/// Steps with what is needed to carry them out.
pub(super) struct Task<'a> {
    pub(super) form: &'a Form,
    pub(super) steps: &'a [Step],
    pub(super) today: Date,
    /// Rules of ours with this date or an earlier one go where there is no room.
    pub(super) old: Date,
    /// Networks of which no rule goes.
    pub(super) keep: &'a HashSet<IpNet>,
}

/// Failure of an instance.
#[derive(Debug)]
pub(super) struct Failed {
    pub(super) instance: String,
    pub(super) error: ApiError,
    /// Rules for which there was no room.
    pub(super) left_out: usize,
    /// The steps were carried out all the same, as far as that is known.
    pub(super) is_done: bool,
}

/// One request, with what it makes of the rules.
enum Change {
    Create(Vec<Rule>),
    Rename(Rule),
    Delete(Vec<Rule>),
}

/// Course of the changes of a task.
struct Course {
    /// Rules of the next request.
    together: usize,
    /// Rules go before new ones come, because there is no room.
    room_first: bool,
    /// Attempts that are left until one succeeds.
    attempts: u32,
    renames: usize,
}

impl Instance {
    pub(super) fn new(id: String) -> Self {
        Self { id, rules: None, version: None }
    }

    /// Reads all rules.
    pub(super) async fn read<T: Transport>(
        &mut self,
        account: &mut Account<T>,
    ) -> Result<(), ApiError> {
        self.version = None;
        for _ in 1..ATTEMPTS {
            if self.read_pages(account).await? {
                return Ok(());
            }
        }
        let why = "the rules change faster than they can be read";
        Err(ApiError::Away(why.to_owned()))
    }

    /// Reads page after page. Returns false if the rules changed between two of them.
    async fn read_pages<T: Transport>(
        &mut self,
        account: &mut Account<T>,
    ) -> Result<bool, ApiError> {
        let mut rules: Vec<Rule> = vec![];
        let mut first = None;
        for _ in 0..MOST_PAGES {
            let page = account.ask(&Request::describe(&self.id, rules.len())).await?;
            let of_page = page.firewall_rule_set.unwrap_or_default();
            let is_last = of_page.len() < PAGE;
            let seen = (page.total_count, page.firewall_version);
            if *first.get_or_insert(seen) != seen {
                return Ok(false);
            }
            rules.extend(of_page);
            if is_last || page.total_count.is_some_and(|count| rules.len() >= count) {
                self.version = page.firewall_version;
                self.rules = Some(rules);
                return Ok(true);
            }
        }
        Err(ApiError::Malformed("there is no last page".to_owned()))
    }

    /// Carries the steps out.
    pub(super) async fn carry_out<T: Transport>(
        &mut self,
        account: &mut Account<T>,
        task: &Task<'_>,
    ) -> Result<(), Failed> {
        let mut course = Course::new();
        loop {
            if self.version.is_none()
                && let Err(error) = self.read(account).await
            {
                return self.carry_out_unread(account, task, error).await;
            }
            let work =
                task.form.work(self.rules.as_deref().unwrap_or_default(), task.steps, task.today);
            let Some(change) = self.next(&work, task, &mut course) else { return Ok(()) };
            match self.make(account, change).await {
                Ok(()) => course.succeed(),
                Err(error) if course.goes_on(error.kind()) => {}
                Err(error) => {
                    let is_full = error.kind() == Kind::Full;
                    let left_out = if is_full { work.create.len() } else { 0 };
                    return Err(self.failed(error, left_out, false));
                }
            }
        }
    }

    /// Returns the next change: new rules before others, so that no client waits for tidying.
    fn next(&self, work: &Work, task: &Task<'_>, course: &mut Course) -> Option<Change> {
        let some = |rules: &[Rule]| rules.iter().take(course.together).cloned().collect();
        if course.room_first {
            let rules = self.rules.as_deref().unwrap_or_default();
            let old = task.form.old(rules, task.old, |network| task.keep.contains(&network));
            let gone = if work.delete.is_empty() { &old } else { &work.delete };
            if !gone.is_empty() {
                return Some(Change::Delete(gone.iter().take(TOGETHER).cloned().collect()));
            }
        }
        if !work.create.is_empty() {
            return Some(Change::Create(some(&work.create)));
        }
        if !work.delete.is_empty() {
            return Some(Change::Delete(some(&work.delete)));
        }
        if course.renames >= RENAMES {
            return None;
        }
        course.renames += 1;
        work.rename.first().cloned().map(Change::Rename)
    }

    /// Sends a change, and remembers it.
    async fn make<T: Transport>(
        &mut self,
        account: &mut Account<T>,
        change: Change,
    ) -> Result<(), ApiError> {
        // Until the answer is there, nothing is known for certain.
        let version = self.version.take();
        account.ask(&change.request(&self.id, version)).await?;
        // The API counts the version up with each change.
        self.version = version.map(|version| version + 1);
        change.note(self.rules.get_or_insert_default());
        Ok(())
    }

    /// Makes the rules of steps that let in, although the rules there could not be read. One that
    /// is there already is refused, which does no harm. Nothing is deleted.
    async fn carry_out_unread<T: Transport>(
        &mut self,
        account: &mut Account<T>,
        task: &Task<'_>,
        error: ApiError,
    ) -> Result<(), Failed> {
        if matches!(error.kind(), Kind::NoInstance | Kind::Denied | Kind::Clock) {
            return Err(self.failed(error, 0, false));
        }
        let lasts = |step: &Step| match step {
            Step::Add(entry) | Step::Change(entry) => Some(entry.clone()),
            Step::Remove(_) => None,
        };
        for entry in task.steps.iter().filter_map(lasts) {
            for rule in task.form.rules(&entry, task.today) {
                let request = Request::create(&self.id, &[rule], None);
                match account.ask(&request).await {
                    Err(error) if error.kind() != Kind::Exists => {
                        return Err(self.failed(error, 0, false));
                    }
                    _ => {}
                }
            }
        }
        let is_done = !task.steps.iter().any(|step| matches!(step, Step::Remove(_)));
        Err(self.failed(error, 0, is_done))
    }

    pub(super) fn failed(&self, error: ApiError, left_out: usize, is_done: bool) -> Failed {
        Failed { instance: self.id.clone(), error, left_out, is_done }
    }
}

// === impl Course ===

impl Course {
    fn new() -> Self {
        Self { together: TOGETHER, room_first: false, attempts: ATTEMPTS, renames: 0 }
    }

    fn succeed(&mut self) {
        self.attempts = ATTEMPTS;
    }

    /// Decides what to do after an error: true if the rules are to be read and planned anew.
    fn goes_on(&mut self, kind: Kind) -> bool {
        self.attempts -= 1;
        match kind {
            Kind::Changed | Kind::Exists => {}
            Kind::Full if !self.room_first => self.room_first = true,
            // Some of them may fit.
            Kind::Full if self.together > 1 => self.together = 1,
            _ => return false,
        }
        self.attempts > 0
    }
}

// === impl Change ===

impl Change {
    fn request(&self, instance: &str, version: Option<u64>) -> Request {
        match self {
            Self::Create(rules) => Request::create(instance, rules, version),
            Self::Rename(rule) => Request::rename(instance, rule, version),
            Self::Delete(rules) => Request::delete(instance, rules, version),
        }
    }

    /// Makes the rules what they are after the change.
    fn note(self, rules: &mut Vec<Rule>) {
        let same = |one: &Rule, other: &Rule| {
            let without = Rule { firewall_rule_description: None, ..one.clone() };
            without == Rule { firewall_rule_description: None, ..other.clone() }
        };
        match self {
            Self::Create(new) => rules.extend(new),
            Self::Rename(new) => {
                rules.iter_mut().filter(|rule| same(rule, &new)).for_each(|rule| {
                    rule.firewall_rule_description.clone_from(&new.firewall_rule_description);
                });
            }
            Self::Delete(gone) => rules.retain(|rule| !gone.iter().any(|one| same(one, rule))),
        }
    }
}
