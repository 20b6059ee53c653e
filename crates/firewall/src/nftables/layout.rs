//! The table: its sets, chains and rules as commands of one transaction.
//!
//! There is one set for each length of a network, and a rule that looks the first so many bits of
//! an address up in it. The kernel's sets of intervals would take networks of all lengths, but no
//! two that overlap: one inside another could not have an end of its own, the program `nft` refuses
//! to put one network in the place of another in a single transaction, and it reads all elements
//! before each change.
//!
//! `accept` ends a packet's way through our chain only: chains of others with the same hook see it
//! as well, and may drop it. So the table takes packets away and never lets through what another
//! program refuses.

use std::borrow::Cow;
use std::collections::{BTreeSet, HashSet};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::IpNet;
use nftables::expr::{
    BinaryOperation, CT, CTDir, Expression, Meta, MetaKey, NamedExpression, Payload, PayloadField,
    Range, SetItem,
};
use nftables::schema::{
    Chain, NfCmd, NfListObject, NfObject, Nftables, Rule, Set, SetFlag, SetType, SetTypeValue,
    Table,
};
use nftables::stmt::{
    AnonymousCounter, Counter, JumpTarget, Match, Operator, Reject, RejectType, Statement,
};
use nftables::types::{NfChainPolicy, NfChainType, NfFamily, NfHook, RejectCode};

use super::NftablesOptions;
use crate::backend::BackendError;
use crate::ports::{PortRange, Protocol};

/// Ahead of the chains of other programs, which stand at 0: what is dropped is dropped early.
const PRIORITY: i32 = -10;

/// The beginning of the name of the chain that marks a table as ours.
pub(super) const MARK: &str = "made_by_knockpipe_";

/// The chain that decides by address.
const GUARD: &str = "guard";

/// The chains with a hook.
const HOOKED: [(&str, NfHook); 2] = [("input", NfHook::Input), ("forward", NfHook::Forward)];

/// The chains that look an address of one family up.
pub(super) const FAMILIES: [(&str, bool); 2] = [("ipv4", true), ("ipv6", false)];

/// A set of the table: the networks of one family and length.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct SetOf {
    is_v4: bool,
    length: u8,
}

/// Commands of one transaction.
#[derive(Debug)]
pub(super) struct Commands(Nftables<'static>);

impl Default for Commands {
    fn default() -> Self {
        Self(Nftables { objects: Cow::Owned(vec![]) })
    }
}

impl Commands {
    pub(super) fn push(&mut self, command: NfCmd<'static>) {
        self.0.objects.to_mut().push(NfObject::CmdObject(command));
    }

    /// Adds others behind these.
    pub(super) fn append(&mut self, others: Self) {
        self.0.objects.to_mut().extend(others.0.objects.into_owned());
    }

    pub(super) fn is_empty(&self) -> bool {
        self.0.objects.is_empty()
    }

    /// Adds a set, and the rule that looks addresses up in it.
    pub(super) fn add_set(&mut self, table: &str, set: SetOf) {
        self.push(NfCmd::Add(NfListObject::Set(Box::new(set.definition(table)))));
        self.push(rule(
            table,
            set.chain(),
            vec![is(set.source(), text(&set.reference())), accept()],
        ));
    }

    /// Returns them as `nft -j` reads them.
    pub(super) fn json(&self) -> Result<Vec<u8>, BackendError> {
        serde_json::to_vec(&self.0).map_err(|error| {
            BackendError::lasting(format!("cannot write commands of nft: {error}"), "report it")
        })
    }

    /// Returns one line for each command.
    pub(super) fn lines(&self) -> Vec<String> {
        self.0.objects.iter().filter_map(|command| serde_json::to_string(command).ok()).collect()
    }
}

/// Returns the sets that there always are: those of single addresses.
pub(super) fn addresses() -> BTreeSet<SetOf> {
    BTreeSet::from([SetOf { is_v4: true, length: 32 }, SetOf { is_v4: false, length: 128 }])
}

/// Returns the commands that make the table anew, with these sets and those that there always are.
/// The same transaction removes what was there.
pub(super) fn commands(options: &NftablesOptions, sets: &BTreeSet<SetOf>) -> Commands {
    let name = options.table.as_str();
    let mut commands = removal(name);
    commands.push(NfCmd::Add(NfListObject::Table(table(name))));
    commands.push(NfCmd::Add(NfListObject::Chain(plain_chain(name, mark(options)))));
    commands.append(content(options, sets));
    commands
}

/// Returns the commands for what is in the table, but for its mark.
fn content(options: &NftablesOptions, sets: &BTreeSet<SetOf>) -> Commands {
    let mut commands = Commands::default();
    let name = options.table.as_str();
    let hooks = [options.hooks.input, options.hooks.forward];
    let hooked = hooks.into_iter().enumerate().filter(|(_, is_wanted)| *is_wanted);
    for chain in hooked.map(|(place, _)| hooked_chain(name, place)).chain(plain_chains(name)) {
        commands.push(NfCmd::Add(NfListObject::Chain(chain)));
    }
    sets.union(&addresses()).for_each(|set| commands.add_set(name, *set));
    let mut add = |chain, rules: Vec<Vec<Statement<'static>>>| {
        rules.into_iter().for_each(|expr| commands.push(rule(name, chain, expr)));
    };
    add(GUARD, guard_rules(options));
    if options.hooks.input {
        add(HOOKED[0].0, input_rules(options));
    }
    if options.hooks.forward {
        add(HOOKED[1].0, redirected_rules(options));
    }
    commands
}

/// Returns the name of the empty chain that marks a table as ours, and as made by these settings:
/// `nft` 1.0 lists no comments of tables as JSON.
pub(super) fn mark(options: &NftablesOptions) -> String {
    let lines = content(options, &BTreeSet::new()).lines();
    // FNV-1a, which is the same in each version of this program.
    let hash =
        lines.iter().flat_map(|line| line.bytes()).fold(0xcbf2_9ce4_8422_2325, |hash, byte| {
            (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
        });
    format!("{MARK}{hash:016x}")
}

/// Returns the commands that remove the table, also where there is none.
pub(super) fn removal(name: &str) -> Commands {
    let mut commands = Commands::default();
    commands.push(NfCmd::Add(NfListObject::Table(table(name))));
    commands.push(NfCmd::Delete(NfListObject::Table(table(name))));
    commands
}

fn owned(name: &str) -> Cow<'static, str> {
    Cow::Owned(name.to_owned())
}

fn table(name: &str) -> Table<'static> {
    Table { family: NfFamily::INet, name: owned(name), handle: None }
}

fn hooked_chain(table: &str, place: usize) -> Chain<'static> {
    let (name, hook) = HOOKED[place];
    Chain {
        family: NfFamily::INet,
        table: owned(table),
        name: name.into(),
        _type: Some(NfChainType::Filter),
        hook: Some(hook),
        prio: Some(PRIORITY),
        policy: Some(NfChainPolicy::Accept),
        ..Chain::default()
    }
}

/// Returns the chains without a hook.
fn plain_chains(table: &str) -> impl Iterator<Item = Chain<'static>> {
    let names = [GUARD].into_iter().chain(FAMILIES.map(|(name, _)| name));
    names.map(move |name| plain_chain(table, name))
}

fn plain_chain(table: &str, name: impl Into<Cow<'static, str>>) -> Chain<'static> {
    Chain { family: NfFamily::INet, table: owned(table), name: name.into(), ..Chain::default() }
}

fn rule(table: &str, chain: &'static str, expr: Vec<Statement<'static>>) -> NfCmd<'static> {
    NfCmd::Add(NfListObject::Rule(Rule {
        family: NfFamily::INet,
        table: owned(table),
        chain: chain.into(),
        expr: expr.into(),
        ..Rule::default()
    }))
}

/// Returns the rules for packets to this host. What comes from itself is not guarded: no other
/// host can send that.
fn input_rules(options: &NftablesOptions) -> Vec<Vec<Statement<'static>>> {
    let local = vec![is(meta(MetaKey::Iifname), text("lo")), accept()];
    // Another table may have sent them to another port or address of this host.
    let redirected = redirected_rules(options);
    let guarded = ports_of(options).map(|(protocol, ranges)| {
        let port = payload(protocol.as_str(), "dport");
        vec![is(port, any_of(&ranges)), go_to_guard()]
    });
    [local].into_iter().chain(guarded).chain(redirected).collect()
}

/// Returns the rules for packets that this host sends to another port or address, by the port that
/// the client wrote on them. Connections that nothing here redirects are others' business.
fn redirected_rules(options: &NftablesOptions) -> Vec<Vec<Statement<'static>>> {
    let rules = ports_of(options).map(|(protocol, ranges)| {
        let port = CT { key: "proto-dst".into(), family: None, dir: Some(CTDir::Original) };
        vec![
            has(ct("status"), "dnat"),
            is(meta(MetaKey::L4proto), text(protocol.as_str())),
            is(Expression::Named(NamedExpression::CT(port)), any_of(&ranges)),
            go_to_guard(),
        ]
    });
    rules.collect()
}

/// Returns the rules that decide by address.
///
/// Connections that this host began itself, from a guarded port, go on in any case: answers come from
/// any address.
/// With `--cut` a running connection of an address that may not connect is ended by a reset, and
/// by one only: its own resets pass, so that this host's end learns of it, too. That takes no
/// change of the kernel's table of connections, which another program might undo.
fn guard_rules(options: &NftablesOptions) -> Vec<Vec<Statement<'static>>> {
    let established = || has(ct("state"), "established");
    let tcp = || is(meta(MetaKey::L4proto), text("tcp"));
    let reset = || Statement::Reject(Some(Reject::new(Some(RejectType::TCPReset), None)));
    let mut rules = match options.cut {
        false => vec![vec![established(), accept()]],
        true => vec![vec![is(ct("direction"), text("reply")), accept()]],
    };
    for (chain, _) in FAMILIES {
        let jump = Statement::Jump(JumpTarget { target: chain.into() });
        rules.push(vec![is(meta(MetaKey::Nfproto), text(chain)), jump]);
    }
    if options.cut {
        rules.push(vec![is(reset_flag(), text("rst")), established(), accept()]);
        rules.push(vec![tcp(), established(), reset()]);
    }
    if options.reject {
        rules.push(vec![tcp(), counted(), reset()]);
        let unreachable = Reject::new(Some(RejectType::ICMPX), Some(RejectCode::PortUnreach));
        rules.push(vec![counted(), Statement::Reject(Some(unreachable))]);
    } else {
        rules.push(vec![counted(), Statement::Drop(None)]);
    }
    rules
}

/// Returns the ports of each protocol that has some.
fn ports_of(options: &NftablesOptions) -> impl Iterator<Item = (Protocol, Vec<PortRange>)> {
    let of = |protocol| (protocol, options.ports.of(protocol).collect::<Vec<_>>());
    [Protocol::Tcp, Protocol::Udp].map(of).into_iter().filter(|(_, ranges)| !ranges.is_empty())
}

fn any_of(ranges: &[PortRange]) -> Expression<'static> {
    let one = |range: &PortRange| {
        let first = u32::from(range.first);
        let last = u32::from(range.last);
        SetItem::Element(match first == last {
            true => Expression::Number(first),
            false => Expression::Range(Box::new(Range {
                range: [Expression::Number(first), Expression::Number(last)],
            })),
        })
    };
    Expression::Named(NamedExpression::Set(ranges.iter().map(one).collect()))
}

fn reset_flag() -> Expression<'static> {
    let flags = payload("tcp", "flags");
    Expression::BinaryOperation(Box::new(BinaryOperation::AND(flags, text("rst"))))
}

fn is(left: Expression<'static>, right: Expression<'static>) -> Statement<'static> {
    Statement::Match(Match { left, right, op: Operator::EQ })
}

/// Matches a field of bits.
fn has(left: Expression<'static>, bit: &str) -> Statement<'static> {
    Statement::Match(Match { left, right: text(bit), op: Operator::IN })
}

fn text(text: &str) -> Expression<'static> {
    Expression::String(text.to_owned().into())
}

fn meta(key: MetaKey) -> Expression<'static> {
    Expression::Named(NamedExpression::Meta(Meta { key }))
}

fn ct(key: &'static str) -> Expression<'static> {
    Expression::Named(NamedExpression::CT(CT { key: key.into(), family: None, dir: None }))
}

fn payload(protocol: &'static str, field: &'static str) -> Expression<'static> {
    let field = PayloadField { protocol: protocol.into(), field: field.into() };
    Expression::Named(NamedExpression::Payload(Payload::PayloadField(field)))
}

fn accept() -> Statement<'static> {
    Statement::Accept(None)
}

fn counted() -> Statement<'static> {
    Statement::Counter(Counter::Anonymous(Some(AnonymousCounter::default())))
}

fn go_to_guard() -> Statement<'static> {
    Statement::Goto(JumpTarget { target: GUARD.into() })
}

impl SetOf {
    /// Returns the set that a network is in.
    pub(super) fn of(network: IpNet) -> Self {
        Self { is_v4: matches!(network, IpNet::V4(_)), length: network.prefix_len() }
    }

    /// Returns the set of that name.
    pub(super) fn named(name: &str) -> Option<Self> {
        let (family, length) = name.split_once('_')?;
        let (_, is_v4) = FAMILIES.into_iter().find(|(name, _)| *name == family)?;
        let set = Self { is_v4, length: length.parse().ok()? };
        (set.length <= set.longest() && set.name() == name).then_some(set)
    }

    /// Returns its name: `ipv4_24`.
    pub(super) fn name(self) -> String {
        format!("{}_{}", self.chain(), self.length)
    }

    /// Returns the network of this length that begins with `address`.
    pub(super) fn network(self, address: IpAddr) -> Option<IpNet> {
        let network = IpNet::new(address, self.length).ok()?.trunc();
        (address.is_ipv4() == self.is_v4).then_some(network)
    }

    fn chain(self) -> &'static str {
        FAMILIES[usize::from(!self.is_v4)].0
    }

    fn longest(self) -> u8 {
        if self.is_v4 { 32 } else { 128 }
    }

    fn reference(self) -> String {
        format!("@{}", self.name())
    }

    /// Returns the first bits of a packet's source, as many as networks here have.
    fn source(self) -> Expression<'static> {
        let whole = payload(if self.is_v4 { "ip" } else { "ip6" }, "saddr");
        let all: IpAddr =
            if self.is_v4 { Ipv4Addr::BROADCAST.into() } else { Ipv6Addr::from(u128::MAX).into() };
        match self.network(all).filter(|_| self.length < self.longest()) {
            None => whole,
            Some(mask) => Expression::BinaryOperation(Box::new(BinaryOperation::AND(
                whole,
                text(&mask.addr().to_string()),
            ))),
        }
    }

    fn definition(self, table: &str) -> Set<'static> {
        let kind = if self.is_v4 { SetType::Ipv4Addr } else { SetType::Ipv6Addr };
        Set {
            family: NfFamily::INet,
            table: owned(table),
            name: self.name().into(),
            set_type: SetTypeValue::Single(kind),
            flags: Some(HashSet::from([SetFlag::Timeout])),
            ..Set::default()
        }
    }
}
