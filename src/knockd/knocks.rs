//! From a request to the store and back: who asks, what is decided, what is written.
//!
//! Each step costs more than the one before and is reached by fewer: the lock of the source, the
//! token, the body, the decision, the limit of grants, the store. Knows no HTTP but the headers
//! that name the client and the token.

use std::sync::{Arc, MutexGuard};
use std::time::{Duration, Instant};

use hyper::HeaderMap;
use tokio::sync::OwnedMutexGuard as TurnGuard;
use tokio::time::Instant as Deadline;
use tracing::{debug, info, warn};

use super::api::{GrantReply, GrantsReply, KnockReply, LeaveReply, StateReply, TOKEN_HEADER};
use super::caller::{Caller, Refused, Sender};
use super::limits::Limits;
use super::options::KnockRules;
use super::policy::{Asked, Decided, Knocking, Refusal};
use super::progress::{Making, Progress, lock};
use super::tokens::Token;
use crate::addr::ClientAddr;
use crate::gate::granting::{ChangeError, NewGrant, PATIENCE};
use crate::gate::owners::Terms;
use crate::gate::store::{Grant, StoreError};
use crate::gate::{Gate, GrantNote, Member, Peer, UnixMillis};
use crate::http::client_address::ClientRules;
use crate::net::clock;
use crate::observe::{HttpKnockResult, Meters, RefusedKnocks};
use crate::web::Visitor;

/// Longest time until a change of the store is in the memory of the gate: an answer waits no
/// longer for it.
const SHOWN: Duration = Duration::from_millis(250);

/// Most earlier grants of a token that a new one takes back.
const MOST_EARLIER: usize = 1_000;

/// Most grants in one answer.
const MOST_LISTED: usize = 10_000;

/// The knocks of one service.
pub(super) struct Knocks {
    /// Name in the log, where a process has several services.
    name: Option<Arc<str>>,
    rules: KnockRules,
    pub(super) gate: Gate,
    client_rules: ClientRules,
    meters: Arc<Meters>,
    pub(super) progress: Arc<Progress>,
    refused: RefusedKnocks<HttpKnockResult>,
}

/// Objects of the service that knocks are taken for.
pub(super) struct KnockParts {
    /// Name in the log, where a process has several services.
    pub(super) name: Option<Arc<str>>,
    pub(super) clients: ClientRules,
    pub(super) gate: Gate,
    pub(super) meters: Arc<Meters>,
}

impl Knocks {
    /// Creates the knocks at a gate. What a service that it replaces has counted goes on, or else a
    /// reload would end every lock; and so do its grants under way.
    pub(super) fn new(rules: &KnockRules, parts: KnockParts, before: Option<&Self>) -> Self {
        let KnockParts { name, clients, gate, meters } = parts;
        let progress = before.map_or_else(Arc::default, |before| Arc::clone(&before.progress));
        lock(&progress.limits).set_rates(rules.failures, rules.successes);
        progress.take_tokens(&rules.tokens, clock::now);
        let has_turns = |name: &str| rules.tokens.named(name).is_some_and(|it| it.one_address);
        lock(&progress.turns).retain(|name, _| has_turns(name));
        Self {
            progress,
            refused: RefusedKnocks::of(name.clone()),
            client_rules: clients,
            name,
            rules: rules.clone(),
            gate,
            meters,
        }
    }

    /// Logs a summary of refused knocks that is due.
    pub(super) fn tick(&self) {
        self.refused.tick();
    }

    /// Logs all refused knocks that were not logged yet.
    pub(super) fn flush_log(&self) {
        self.refused.flush();
    }

    /// Finds out who asks.
    ///
    /// # Errors
    /// The refusal of a source that is locked out, of one without an address, or of its token.
    pub(super) fn caller(
        &self,
        visitor: &Visitor,
        headers: &HeaderMap,
    ) -> Result<Caller<'_>, Refused> {
        let mut lines = headers.get_all(TOKEN_HEADER).iter();
        // Of two a proxy in front may have checked the other one.
        let presented = match (lines.next(), lines.next()) {
            (Some(presented), None) => Some(presented.as_bytes()),
            _ => None,
        };
        let peer = visitor.client(&self.client_rules, headers);
        self.caller_of(visitor.address(), peer, presented)
    }

    /// Finds out who asks, where the client and what it presents as its token are known; `None` is
    /// no token, or several.
    ///
    /// # Errors
    /// As for [`Self::caller`].
    pub(super) fn caller_of(
        &self,
        socket: ClientAddr,
        peer: Option<Peer>,
        presented: Option<&[u8]>,
    ) -> Result<Caller<'_>, Refused> {
        let own = match socket {
            ClientAddr::Ip(address) => Some(address.ip()),
            _ => None,
        };
        let client = peer.and_then(|peer| peer.ip());
        // One without an address counts for the proxy that did not say it.
        let sender = Sender { token: None, ip: client.or(own) };
        let wait = self.limits().failures.wait(sender.source(), Instant::now());
        if wait.is_some() {
            return Err(self.refuse(&sender, Refused { refusal: Refusal::Locked, wait }, None));
        }
        let (Some(peer), Some(client)) = (peer, client) else {
            return Err(self.fail(&sender, Refusal::NoClient));
        };
        let token = presented.and_then(|presented| self.rules.tokens.find(presented));
        let token = token.filter(|token| !self.is_revoked(token));
        let token = token.ok_or_else(|| self.fail(&sender, Refusal::Token))?;
        Ok(Caller { token, peer, client })
    }

    /// Refuses what a caller asked for.
    pub(super) fn refuse_caller(&self, caller: &Caller<'_>, refusal: Refusal) -> Refused {
        self.fail(&caller.sender(), refusal)
    }

    /// Makes a grant.
    ///
    /// # Errors
    /// The refusal.
    pub(super) async fn knock(
        &self,
        caller: &Caller<'_>,
        body: &[u8],
    ) -> Result<KnockReply, Refused> {
        let now = clock::now();
        let Caller { token, client, .. } = *caller;
        let knocking = Knocking { token, client, gates: &self.rules.gates, now };
        let decided = Asked::read(body).and_then(|asked| asked.decide(&knocking));
        let Decided { grant, terms, entry } =
            decided.map_err(|refusal| self.refuse_caller(caller, refusal))?;
        let lasting = grant.lasting;
        self.make(caller, grant, terms).await?;
        Ok(KnockReply {
            whitelisted_entry: entry,
            expires_at: now.as_secs().saturating_add(lasting.as_secs()),
            expires_in_seconds: lasting.as_secs(),
        })
    }

    /// Lets an address in for as long as the token may.
    ///
    /// # Errors
    /// The refusal.
    pub(super) async fn let_in(
        &self,
        caller: &Caller<'_>,
        member: Member,
        label: Option<&str>,
    ) -> Result<(), Refused> {
        let note = GrantNote::new(&caller.token.who(), label, clock::now());
        let grant = NewGrant { member, lasting: caller.token.max_ttl, note };
        self.make(caller, grant, Terms::Anew).await
    }

    /// Makes a grant, which counts for the source if it was made.
    async fn make(
        &self,
        caller: &Caller<'_>,
        grant: NewGrant,
        terms: Terms,
    ) -> Result<(), Refused> {
        self.take_success(caller)?;
        let made = self.grant(caller, grant, terms).await;
        if made.is_err() {
            self.limits().successes.take_back(caller.sender().source());
        }
        made
    }

    /// Takes a grant of the token back.
    ///
    /// # Errors
    /// The refusal.
    pub(super) async fn leave(
        &self,
        caller: &Caller<'_>,
        body: &[u8],
    ) -> Result<LeaveReply, Refused> {
        let Caller { token, client, .. } = *caller;
        let member = match Asked::read_leave(body) {
            Ok(Some(_)) if !token.any_address => Err(Refusal::Remote),
            Ok(named) => Ok(named.map_or_else(|| client.into(), |named| named.member)),
            Err(refusal) => Err(refusal),
        };
        let member: Member = member.map_err(|refusal| self.refuse_caller(caller, refusal))?;
        self.take_success(caller)?;
        let taken = self.gate.take_back(member, &token.who(), None).await;
        if !taken.as_ref().is_ok_and(|taken| taken.changed) {
            self.limits().successes.take_back(caller.sender().source());
        }
        let removed = taken.map_err(|error| self.store_failed(caller, &error))?.changed;
        if removed {
            self.meters.http_knocks.count(HttpKnockResult::Left);
            let (tunnel, who) = (self.name(), token.who());
            info!(tunnel, who, address = %member, source = %client, "grant taken back");
            self.gate.lacks(member, Deadline::now() + SHOWN).await;
        }
        Ok(LeaveReply { removed })
    }

    /// Tells whether the caller's own address is in.
    pub(super) async fn state(&self, caller: &Caller<'_>) -> StateReply {
        let Caller { token, peer, client } = *caller;
        let now = clock::now();
        let decision = self.gate.decide(peer);
        let until = decision.until.as_millis().filter(|_| decision.is_allowed());
        let note = match decision.member.filter(|member| self.gate.has(*member)) {
            // Without an answer of the store there is no label: nothing depends on it.
            Some(member) => self.gate.note_of(member, &token.who()).await.ok().flatten(),
            None => None,
        };
        StateReply {
            address: client.to_string(),
            allowed: decision.is_allowed(),
            expires_at: until.map(|ms| UnixMillis(ms).as_secs()),
            expires_in_seconds: until.map(|ms| UnixMillis(ms).saturating_since(now).as_secs()),
            label: note.and_then(|note| note.label),
            max_ttl: token.max_ttl.as_secs(),
        }
    }

    /// Lists the allow-set.
    ///
    /// # Errors
    /// The refusal.
    pub(super) async fn list(&self, caller: &Caller<'_>) -> Result<GrantsReply, Refused> {
        if !caller.token.sees_grants {
            return Err(self.refuse_caller(caller, Refusal::List));
        }
        let listed = self.gate.grants(MOST_LISTED + 1, PATIENCE, |_| true).await;
        let mut grants = listed.map_err(|error| self.store_failed(caller, &error))?;
        grants.sort_unstable_by_key(|grant| grant.member);
        let more = grants.len() > MOST_LISTED;
        let grants = grants.into_iter().take(MOST_LISTED).map(reply).collect();
        Ok(GrantsReply { grants, more })
    }

    /// Counts a change that the source is about to make.
    fn take_success(&self, caller: &Caller<'_>) -> Result<(), Refused> {
        let sender = caller.sender();
        let now = Instant::now();
        let mut limits = self.limits();
        let Some(wait) = limits.successes.wait(sender.source(), now) else {
            limits.successes.mark(sender.source(), now);
            return Ok(());
        };
        drop(limits);
        let refused = Refused { refusal: Refusal::TooMany, wait: Some(wait) };
        Err(self.refuse(&sender, refused, None))
    }

    /// Writes a grant, and waits until the gate knows it.
    async fn grant(
        &self,
        caller: &Caller<'_>,
        grant: NewGrant,
        terms: Terms,
    ) -> Result<(), Refused> {
        let member = grant.member;
        let _turn = self.turn(caller.token).await;
        let _making = self.begin_making(member).map_err(|full| {
            self.refuse(&caller.sender(), Refused { refusal: full, wait: None }, None)
        })?;
        let failed = |error| self.store_failed(caller, &error);
        let earlier = self.earlier(caller.token, member).await.map_err(failed)?;
        // Has connections of the address wait.
        let _granting = self.gate.knocks().granting(member);
        let is_open = self.gate.has(member);
        let revoked = || self.refuse_caller(caller, Refusal::Token);
        if self.is_revoked(caller.token) {
            return Err(revoked());
        }
        self.gate.grant(grant.clone(), terms).await.map_err(failed)?;
        if self.is_revoked(caller.token) {
            // A reload in between may have looked for its grants before this one was there.
            let (who, until) = (&grant.note.who, Some(grant.note.at));
            self.gate.take_back(member, who, until).await.map_err(failed)?;
            return Err(revoked());
        }
        self.meters.http_knocks.count(HttpKnockResult::Granted);
        self.log(caller, &grant, is_open);
        for member in earlier {
            self.take_earlier(caller.token, member).await;
        }
        if !is_open {
            self.gate.admits(member, Deadline::now() + SHOWN).await;
        }
        Ok(())
    }

    /// Waits until no other grant of a token that has one at a time is being made.
    async fn turn(&self, token: &Token) -> Option<TurnGuard<()>> {
        if !token.one_address {
            return None;
        }
        let turn = Arc::clone(lock(&self.progress.turns).entry(token.name.clone()).or_default());
        Some(turn.lock_owned().await)
    }

    /// Lists the grants that a new one takes back.
    async fn earlier(&self, token: &Token, new: Member) -> Result<Vec<Member>, ChangeError> {
        if !token.one_address {
            return Ok(vec![]);
        }
        let who = token.who();
        let is_of = |grant: &Grant| grant.member != new && grant.is_by(&who);
        let earlier = self.gate.grants_by_note(MOST_EARLIER, PATIENCE, is_of).await?;
        Ok(earlier.into_iter().map(|grant| grant.member).collect())
    }

    async fn take_earlier(&self, token: &Token, member: Member) {
        let (tunnel, who) = (self.name(), token.who());
        match self.gate.take_back(member, &who, None).await {
            Ok(done) if done.changed => {
                info!(tunnel, who, address = %member, "previous grant taken back");
            }
            Ok(_) => {}
            Err(error) => {
                let detail = "it ends by itself, or with 'knockpipe gate remove'";
                warn!(tunnel, who, address = %member, %error, detail, "previous grant not taken back");
            }
        }
    }

    /// Enters a grant that is to be made.
    fn begin_making(&self, member: Member) -> Result<Making<'_>, Refusal> {
        let mut making = lock(&self.progress.making);
        if !self.gate.has(member) {
            let is_new = |other: &&Member| **other != member && !self.gate.has(**other);
            let others = making.keys().filter(is_new).count();
            if self.gate.has_grants(self.rules.most_grants.saturating_sub(others)) {
                return Err(Refusal::Full);
            }
        }
        *making.entry(member).or_default() += 1;
        Ok(Making { progress: &self.progress, member })
    }

    /// Logs a grant; one that changes another only for those who debug.
    fn log(&self, caller: &Caller<'_>, grant: &NewGrant, is_open: bool) {
        let NewGrant { member, lasting, note } = grant;
        let until_s = note.at.saturating_add(*lasting).as_secs();
        let (who, label) = (&*note.who, note.label.as_deref());
        let (tunnel, source) = (self.name(), caller.client);
        if is_open {
            debug!(tunnel, who, label, address = %member, %source, until_s, "grant changed");
        } else {
            info!(tunnel, who, label, address = %member, %source, until_s, "knock granted");
        }
    }

    fn store_failed(&self, caller: &Caller<'_>, error: &ChangeError) -> Refused {
        let refusal = match error {
            ChangeError::Store(StoreError::NoGrant { .. } | StoreError::NoExpiry { .. }) => {
                Refusal::PlainSet
            }
            _ => Refusal::Store,
        };
        let refused = Refused { refusal, wait: None };
        self.refuse(&caller.sender(), refused, Some(&error.to_string()))
    }

    /// Refuses, and counts it towards the lock of the source.
    fn fail(&self, sender: &Sender<'_>, refusal: Refusal) -> Refused {
        let mut refused = Refused { refusal, wait: None };
        if refusal.counts() {
            let now = Instant::now();
            let mut limits = self.limits();
            // Others of the source may have failed since the lock was looked at.
            match limits.failures.wait(sender.source(), now) {
                wait @ Some(_) => refused = Refused { refusal: Refusal::Locked, wait },
                None => limits.failures.mark(sender.source(), now),
            }
        }
        self.refuse(sender, refused, None)
    }

    /// Counts a refusal, and logs it in a summary.
    fn refuse(&self, sender: &Sender<'_>, refused: Refused, error: Option<&str>) -> Refused {
        let result = refused.result();
        self.meters.http_knocks.count(result);
        self.refused.refused(result, sender, error);
        refused
    }

    pub(super) fn name(&self) -> Option<&str> {
        self.name.as_deref()
    }

    fn limits(&self) -> MutexGuard<'_, Limits> {
        lock(&self.progress.limits)
    }
}

fn reply(grant: Grant) -> GrantReply {
    let Grant { member, expiry, note, .. } = grant;
    GrantReply {
        address: member.to_string(),
        who: note.as_ref().map(|note| note.who.clone()),
        since: note.as_ref().map(|note| note.at.as_secs()),
        label: note.and_then(|note| note.label),
        expires_at: expiry.as_millis().map(|ms| UnixMillis(ms).as_secs()),
    }
}
