//! `firewall`: keeps a firewall in step with the gate's store, or says what it would do.

use std::sync::Arc;

use clap::{Args, Subcommand};

use super::Done;
use super::firewall_args::FirewallArgs;
use super::firewall_backend_args::FIREWALL;
use super::output::print;
use super::process_args::{ProcessArgs, Reloading};
use crate::firewall::BackendOptions;
use crate::run::{self, Failure, FirewallLook, Plan, Ports};
use crate::service::ServiceOptions;
use crate::sys::background::Readiness;

/// Notes and examples under the flags of `firewall`.
pub(super) const EXAMPLES: &str = "\
Only addresses in the gate's store may connect to the ports; all others get no answer. A grant, a
ban, a removal or an end in the store is in the firewall within a moment, and what others remove
from it is put back. Connections that are running go on unless --cut is given.

Examples:
  ssh for who is in a set of Redis:
    knockpipe firewall --ports 22 --gate redis://127.0.0.1
  A game server, and the connections of who is banned end:
    knockpipe firewall --ports 27015/udp,27015 --cut --gate file:/var/lib/knockpipe/gate
  A sealed port that opens for who knocks ('knockpipe decrypt --knock', which writes the store):
    knockpipe firewall --ports 6380 --gate redis://127.0.0.1 --allow-prefix ip-allowed:
  What it would change, and what on this host stands in the way:
    knockpipe firewall --dry-run --ports 22 --gate redis://127.0.0.1
    knockpipe firewall check --ports 22 --gate redis://127.0.0.1";

/// Notes under the flags of `firewall status` and `firewall check`.
const LOOK_NOTES: &str = "\
Take the flags of the service. Exit status: 0 the firewall is as the store wants it and nothing
stands in the way, 1 it is not.";

/// `knockpipe firewall`.
#[derive(Debug, Args)]
#[command(args_conflicts_with_subcommands = true, subcommand_negates_reqs = true)]
pub(super) struct FirewallCommandArgs {
    #[command(subcommand)]
    command: Option<FirewallCommand>,

    #[command(flatten)]
    firewall: FirewallArgs,

    /// Print what it would do to the firewall now, and do nothing
    #[arg(long, help_heading = FIREWALL)]
    dry_run: bool,

    #[command(flatten)]
    process: ProcessArgs,
}

#[derive(Debug, Subcommand)]
enum FirewallCommand {
    /// Show what the firewall lets in, and what differs from the store
    #[command(after_help = LOOK_NOTES)]
    Status(Box<LookArgs>),
    /// Say what differs, and what else on this host stands in the way
    #[command(after_help = LOOK_NOTES)]
    Check(Box<LookArgs>),
}

/// Flags of a look at the firewall.
#[derive(Debug, Args)]
struct LookArgs {
    #[command(flatten)]
    firewall: FirewallArgs,
}

impl FirewallCommandArgs {
    /// Runs the service until it is stopped, or looks at the firewall.
    ///
    /// # Errors
    /// [`Failure`] of the arguments or the run.
    pub(super) fn run(self) -> Result<Done, Failure> {
        let Self { command, firewall, dry_run, process } = self;
        match command {
            Some(FirewallCommand::Status(args)) => {
                return show(&look_at_there(&args.firewall)?, Shown::State);
            }
            Some(FirewallCommand::Check(args)) => {
                return show(&look_at_there(&args.firewall)?, Shown::Check);
            }
            None => {}
        }
        if dry_run {
            let lines = look(&firewall)?.commands;
            return print(&lines.iter().map(|line| format!("{line}\n")).collect::<String>())
                .map(|_| Done::Clean);
        }
        let user = process.uid();
        let plan: Vec<ServiceOptions> = vec![firewall.options(None, user)?.into()];
        let files = firewall.files();
        let reread = Arc::new(move || {
            let services = vec![firewall.options(None, user)?.into()];
            Ok(Plan { services, restart: vec![] })
        });
        let reloading = Reloading { reread, files, ports: Ports::Fixed };
        process.run(Readiness::foreground(), plan, reloading).map(Done::from)
    }
}

/// Part of a look that is shown.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Shown {
    /// Entries, and what differs.
    State,
    /// What differs, and what stands in the way.
    Check,
}

fn look(args: &FirewallArgs) -> Result<FirewallLook, Failure> {
    run::look_at_firewall(args.options(None, None)?)
}

/// Looks at a firewall that can be asked for what it has.
fn look_at_there(args: &FirewallArgs) -> Result<FirewallLook, Failure> {
    let options = args.options(None, None)?;
    if matches!(options.backend, BackendOptions::Exec(_)) {
        return Err(Failure::Usage(anyhow::anyhow!(
            "what a program was told is known to the running process only; see 'knockpipe status' there"
        )));
    }
    run::look_at_firewall(options)
}

fn show(look: &FirewallLook, shown: Shown) -> Result<Done, Failure> {
    let FirewallLook { place, entries, differing, store, obstacles, .. } = look;
    let mut text = format!("{place}: {} entries, store {store}\n", entries.len());
    if shown == Shown::State {
        text.extend(entries.iter().map(|entry| format!("  {entry}\n")));
    }
    text.extend(differing.iter().map(|step| format!("differs: {step}\n")));
    if shown == Shown::Check {
        text.extend(obstacles.iter().map(|obstacle| format!("in the way: {obstacle}\n")));
    }
    let is_well = differing.is_empty() && (shown == Shown::State || obstacles.is_empty());
    if is_well {
        text += "it is as the store wants it\n";
    }
    print(&text)?;
    match is_well {
        true => Ok(Done::Clean),
        false => Err(Failure::Runtime(anyhow::anyhow!(
            "the firewall is not as it should be, see above; start 'knockpipe firewall' with these flags, or read its log"
        ))),
    }
}
