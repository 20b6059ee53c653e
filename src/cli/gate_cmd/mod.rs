//! `knockpipe gate`: shows and changes the allow-set and the bans.
//!
//! The commands talk to the store that a running tunnel asks; the tunnel itself only reports the
//! address of the store, and explains its decisions. Each change is printed with its server and
//! key, since a change at the wrong place looks just as successful, and a command that changed
//! nothing has its own exit status.

mod changes;
mod find_gate;
pub(super) mod grants_of;
mod import;
mod list;
mod note;
mod opened_store;
mod reap;
mod why;

use clap::{Args, Subcommand};

pub(super) use self::find_gate::SourceArgs;
use super::Done;
use super::gate_args::Balancer;
use super::output::{FormArgs, Output};
use crate::gate::Member;
use crate::run::Failure;

/// Examples under the commands.
pub(super) const EXAMPLES: &str = "\
The gate: --gate URL as the tunnel has it (or KNOCKPIPE_GATE), or -c FILE with --gate-name NAME,
or --admin PATH of the running process. An added address is admitted within a quarter of a
second, and connections of a removed one end within a second.

Examples:
  knockpipe gate allow 203.0.113.7 --ttl 12h --gate redis://127.0.0.1
  knockpipe gate why 203.0.113.7 --admin /run/knockpipe/admin.sock
  knockpipe gate list -c /etc/knockpipe/knockpipe.toml --gate-name staff
  knockpipe gate list --gate file:/var/lib/knockpipe/gate

Exit status: 0 changed or answered, 1 failed at run time, 2 wrong usage, 3 nothing had to change.";

const ALLOW_EXAMPLES: &str = "\
A member for ever goes into the set; with --ttl into a key of its own under --allow-prefix, or into
the set if that is a sorted one (or does not exist yet: then it becomes one, and other programs have
to use ZADD, since SADD fails). A ban or a --deny still keeps it out.
Who allowed it and when is noted beside it, with the --label; an entry that stays as it is keeps its
note, unless another label is given.

Examples:
  knockpipe gate allow 203.0.113.7 2001:db8::/64 --label office --gate redis://127.0.0.1
  knockpipe gate allow 203.0.113.7 --ttl 12h --gate file:/var/lib/knockpipe/gate";

const DENY_EXAMPLES: &str = "\
The opposite of allow, which works at once and in every case: the address is banned for --ttl, which
also beats a network that it is in, and removed from the set, so that it stays out afterwards.
'remove' only removes it, 'ban' only bans it: afterwards it is admitted as before.

Example:
  knockpipe gate deny 203.0.113.7 --ttl 7d --gate redis://127.0.0.1";

const REMOVE_EXAMPLES: &str = "\
Undoes 'allow', for a network as it was written. An address stays in if a network that it is in
remains, or as internal where the tunnel has --internal allow: see 'why'. To keep it out for certain, see 'deny'.

Example:
  knockpipe gate remove 203.0.113.7 203.0.113.0/24 --gate redis://127.0.0.1";

const BAN_EXAMPLES: &str = "\
A ban is a key as GitLab's Rack::Attack writes it, and replaces an earlier one.

Example:
  knockpipe gate ban 203.0.113.7 --ttl 7d --gate redis://127.0.0.1";

const LIST_EXAMPLES: &str = "\
One line for each entry: what it is, the address or network, the time left, and its note: who
let it in, the label, and when. 'key:ID' is a knock under that key, 'operator:USER' a command;
what other programs write has no note. A set that ends as a whole (EXPIRE) has a line 'key', and its
entries end with it.

Examples:
  knockpipe gate list --gate redis://127.0.0.1 | grep ^banned
  knockpipe gate list --json --gate redis://127.0.0.1";

const WHY_EXAMPLES: &str = "\
Shows every rule in order, what it found, and which one decided. With --admin the running tunnel
says what it would do now; -c takes the rules from the file. With --gate give the --allow, --deny,
--internal and --gate-failure of the tunnel as well, since the store does not know them.

Example:
  knockpipe gate why 203.0.113.7 --admin /run/knockpipe/admin.sock --tunnel redis
  knockpipe gate why 203.0.113.7 -c /etc/knockpipe/knockpipe.toml
  knockpipe gate why 203.0.113.7 --allow 198.51.100.0/24 --gate redis://127.0.0.1";

const REAP_EXAMPLES: &str = "\
Removes addresses from the history and the set that were admitted before but not lately.
Addresses that were never seen, and networks, stay.

Example:
  knockpipe gate reap --idle 30d --dry-run --gate redis://127.0.0.1";

const IMPORT_EXAMPLES: &str = "\
Reads lines of 'gate export', or addresses and networks, one in each line; # begins a comment,
also behind an address. Notes of an export are kept; other entries are noted as this command's, with
the --label.
Nothing is changed unless all lines are good. Entries that last as long already stay as they are.
A file takes all entries or none, whatever happens meanwhile. Redis takes them in transactions of
10,000: should one fail, the message says how many were made, and the same import does the rest. In
a Cluster each ban is changed by itself.

Examples:
  knockpipe gate export --gate redis://old | knockpipe gate import - --gate file:new
  knockpipe gate import office.txt --gate redis://127.0.0.1";

const EXPORT_EXAMPLES: &str = "\
One JSON object in each line, with its note, and ends in unix milliseconds, for 'gate import'.

Example:
  knockpipe gate export --gate redis://127.0.0.1 > gate.jsonl";

/// `knockpipe gate`.
#[derive(Debug, Args)]
pub(super) struct CommandArgs {
    #[command(subcommand)]
    command: GateCommand,
}

#[derive(Debug, Subcommand)]
enum GateCommand {
    /// Admit addresses or networks
    #[command(after_help = ALLOW_EXAMPLES)]
    Allow(changes::AllowArgs),
    /// Keep addresses out: ban them and remove them from the set
    #[command(after_help = DENY_EXAMPLES)]
    Deny(changes::BanArgs),
    /// Remove addresses or networks from the set
    #[command(after_help = REMOVE_EXAMPLES)]
    Remove(changes::RemoveArgs),
    /// Ban addresses for a while
    #[command(after_help = BAN_EXAMPLES)]
    Ban(changes::BanArgs),
    /// Lift bans
    Unban(changes::UnbanArgs),
    /// List the allow-set and the bans
    #[command(after_help = LIST_EXAMPLES)]
    List(list::ListArgs),
    /// Explain the decision of the gate about an address
    #[command(after_help = WHY_EXAMPLES)]
    Why(why::WhyArgs),
    /// List when addresses were last admitted, the latest at the end
    History(list::HistoryArgs),
    /// Forget addresses that were not seen for long
    #[command(after_help = REAP_EXAMPLES)]
    Reap(reap::ReapArgs),
    /// Add entries from a file
    #[command(after_help = IMPORT_EXAMPLES)]
    Import(import::ImportArgs),
    /// Print all entries for import
    #[command(after_help = EXPORT_EXAMPLES)]
    Export(list::ExportArgs),
}

/// Flags of every command.
#[derive(Debug, Args)]
struct CommonArgs {
    #[command(flatten)]
    store: SourceArgs,

    #[command(flatten)]
    form: FormArgs,
}

/// Keeps an operator from locking out addresses that they need.
#[derive(Debug, Args)]
struct SafetyArgs {
    /// Do it even if it affects one of --allow or --proxy-from, or far more than one host
    #[arg(long)]
    force: bool,

    /// Address or network that is not to be banned without --force; repeatable
    #[arg(long, value_name = "NET")]
    allow: Vec<Member>,

    /// Load balancers, which are not to be banned without --force; repeatable
    #[arg(long, value_name = "NET[,NET]", value_delimiter = ',')]
    proxy_from: Vec<Balancer>,
}

/// A change that is refused without `--force`, or altogether.
#[derive(Debug, thiserror::Error)]
enum GateCommandError {
    /// Wider than /16 or /64.
    #[error(
        "{0} admits more than a /16 (IPv4) or /64 (IPv6); add --force if you mean it, or write a smaller network"
    )]
    Wide(Member),
    /// A ban of an address that is to be admitted.
    #[error("{member} is in {flag} {net}; add --force if you mean to ban it, or leave it out")]
    Spared {
        /// The address to ban.
        member: Member,
        /// The flag that names the network.
        flag: &'static str,
        /// The network of the flag.
        net: Member,
    },
    /// A ban of a network that does not count as one address.
    #[error(
        "{0} is a network, and only single addresses and IPv6 /64s can be banned; remove it with 'knockpipe gate remove', or start the tunnel with --deny {0}"
    )]
    NetworkBan(Member),
    /// A decision is about one address.
    #[error("{0} is a network, and a decision is about one address; name one that is in it")]
    NetworkWhy(Member),
}

impl From<GateCommandError> for Failure {
    fn from(error: GateCommandError) -> Self {
        Self::Usage(error.into())
    }
}

/// Runs one command.
///
/// # Errors
/// [`Failure`] of the arguments or the store.
pub(super) fn run(args: CommandArgs) -> Result<Done, Failure> {
    block_on(async {
        match args.command {
            GateCommand::Allow(args) => changes::allow(args).await,
            GateCommand::Deny(args) => changes::deny(args).await,
            GateCommand::Remove(args) => changes::remove(args).await,
            GateCommand::Ban(args) => changes::ban(args).await,
            GateCommand::Unban(args) => changes::unban(args).await,
            GateCommand::List(args) => list::list(args).await,
            GateCommand::Why(args) => why::why(args).await,
            GateCommand::History(args) => list::history(args).await,
            GateCommand::Reap(args) => reap::reap(args).await,
            GateCommand::Import(args) => import::import(args).await,
            GateCommand::Export(args) => list::export(args).await,
        }
    })
}

/// Runs what asks a store.
fn block_on<T>(asking: impl Future<Output = Result<T, Failure>>) -> Result<T, Failure> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let runtime = runtime.map_err(|error| {
        let advice = "check the limits of threads and memory";
        Failure::Runtime(anyhow::anyhow!("cannot start the runtime: {error}; {advice}"))
    })?;
    let done = runtime.block_on(asking);
    // A look-up at a name server that hangs must not delay the end.
    runtime.shutdown_background();
    done
}

impl CommonArgs {
    fn output(&self) -> Output {
        Output::new(self.form.form())
    }
}

impl SafetyArgs {
    /// Refuses to admit far more than one host.
    fn check_width(&self, member: Member) -> Result<(), GateCommandError> {
        if member.needs_force() && !self.force {
            Err(GateCommandError::Wide(member))
        } else {
            Ok(())
        }
    }

    /// Refuses to ban an address that is to be admitted. `known` is spared as well: the networks
    /// of the gate's own flags.
    fn check_ban(
        &self,
        member: Member,
        known: &[(&'static str, Member)],
    ) -> Result<(), GateCommandError> {
        if !member.can_be_banned() {
            return Err(GateCommandError::NetworkBan(member));
        }
        let own = self.allow.iter().map(|net| ("--allow", *net));
        let own = own.chain(
            self.proxy_from
                .iter()
                .filter_map(|balancer| balancer.net())
                .map(|net| ("--proxy-from", net)),
        );
        let mut all = own.chain(known.iter().copied());
        match all.find(|(_, net)| net.meets(&member) && !self.force) {
            Some((flag, net)) => Err(GateCommandError::Spared { member, flag, net }),
            None => Ok(()),
        }
    }
}
