//! `knockctl`: lets the administrator look, and act.

mod args;
pub mod check;
mod clients;
mod completions;
mod doors;
mod edit;
mod error;
mod events;
pub(crate) mod explain;
mod fleet;
#[cfg(fuzzing)]
#[path = "../fuzz/src/ctl.rs"]
pub mod fuzzing;
mod host;
pub mod import;
mod init;
mod lock;
mod metrics;
pub mod observe;
mod one_time;
mod output;
mod page;
mod qr;
mod sequence;
mod server_key;
mod socket;
mod status;
mod target;
mod trial;
mod wording;

use std::process::ExitCode;

use clap::{ArgAction, Parser, Subcommand};

use error::{Error, say};
use socket::Timeout;
use target::Target;

use crate::control::Request;

/// Looks at the configuration of knockd, at what it makes of packets, and at a running knockd;
/// opens and closes doors by hand.
///
/// A running knockd is found by its configuration. It answers root and the members of the group
/// knockd. See knockctl(8) and knock.d(5).
#[derive(Clone, Debug, Parser)]
#[command(name = "knockctl", version, disable_version_flag = true, max_term_width = 90)]
#[command(arg_required_else_help = true)]
pub struct Knockctl {
    #[command(flatten)]
    target: Target,

    /// Print the version
    #[arg(short = 'V', long, action = ArgAction::Version)]
    version: Option<bool>,

    #[command(subcommand)]
    task: KnockctlCommand,
}

#[derive(Clone, Debug, Subcommand)]
enum KnockctlCommand {
    /// Say what is wrong with the configuration or doubtful, and what each door takes and does
    ///
    /// Errors and warnings go to standard error. The exit status is 1 if there are errors.
    Check(args::JsonArgs),

    /// Say what a running knockd listens on, which doors are open for whom, and for how long
    ///
    /// At the end stands what came to nothing, counted by reason; knockctl(8) explains the reasons.
    Status(status::StatusArgs),

    /// Print figures for monitoring, in the OpenMetrics text format
    ///
    /// knockctl(8) explains them. With --textfile they are in the older format of Prometheus.
    #[command(after_help = "Example: knockctl metrics \
                            --textfile /var/lib/prometheus/node-exporter/knockd.prom")]
    Metrics(metrics::MetricsArgs),

    /// Open a door for an address by hand; it closes by itself as after a knock
    ///
    /// Where it is open already it stays open at least as long as asked for.
    #[command(after_help = "Example: knockctl open ssh 192.0.2.2 --for 10m")]
    Open(doors::OpenArgs),

    /// Close a door for an address, or every door, before the time is over
    ///
    /// Connections that stand already go on where the firewall lets them.
    #[command(override_usage = "knockctl close [OPTIONS] DOOR IP
       knockctl close --all")]
    Close(doors::CloseArgs),

    /// Listen again to an address that is locked out since it failed too often
    ///
    /// 'knockctl status' shows who is locked out, where, and for how long.
    Unlock(doors::UnlockArgs),

    /// Have a running knockd take up its configuration, and say whether it has
    ///
    /// Where the configuration is wrong, or cannot be put into force, the one before stays.
    Reload,

    /// Have a running knockd take up its configuration on trial: it goes unless it is confirmed
    ///
    /// Check from a new connection that you still get in, then confirm. The ports that the guard
    /// locks are unlocked in time by the kernel, even if knockd dies.
    #[command(after_help = "Example: knockctl try --for 5m")]
    Try(trial::TryArgs),

    /// Lock a door that only observes, on trial: it observes again unless that is confirmed
    ///
    /// 'knockctl observe' shows who would be kept out. Check from a new connection that you still
    /// get in, then confirm: only then is the file of the door changed.
    #[command(after_help = "Example: knockctl lock ssh --for 5m")]
    Lock(trial::LockArgs),

    /// Keep what is on trial: the configuration, or a lock
    Confirm,

    /// Say who came to doors that only observe, and whom to trust before they are locked
    Observe(args::JsonArgs),

    /// Print what happens at the doors, as it happens, until interrupted
    Watch(args::JsonArgs),

    /// Print what has happened at the doors, the newest last
    #[command(after_help = "Example: knockctl history --door ssh --since 2d")]
    History(events::HistoryArgs),

    /// Say what each knock in a capture, or of now, did, and why; opens nothing
    ///
    /// With --live it tells what the running knockd made of the knocks that came lately, and goes
    /// on with those that come, until interrupted.
    #[command(override_usage = "knockctl explain [OPTIONS] FILE.pcap\n       \
                                knockctl explain [OPTIONS] --live")]
    Explain(explain::ExplainArgs),

    /// Make a first configuration: a door, a client for it, and a start on trial
    ///
    /// Asks three questions at a terminal, unless the options answer them. Never overwrites
    /// anything: for more doors and clients see knock.d(5) and 'knockctl enroll'.
    #[command(after_help = "Example: knockctl init --open 22/tcp --by phone --from 192.0.2.2")]
    Init(init::InitArgs),

    /// Let a client open doors: make its secrets, and print what it needs
    ///
    /// Writes client-NAME.yaml into the directory of the configuration and has a running knockd
    /// take it up. For a client that is enrolled already it adds what is new.
    #[command(after_help = "Examples: knockctl enroll phone --door ssh --totp --qr
          knockctl enroll laptop --door ssh --spa")]
    Enroll(clients::enroll::EnrollArgs),

    /// Let a client open nothing any more: close what it has opened, and remove it
    Revoke(clients::revoke::RevokeArgs),

    /// Say who may knock, how, at which doors, when they last did, and until when they may
    Clients(args::JsonArgs),

    /// Do something about a client that is enrolled
    #[command(subcommand)]
    Client(clients::ClientCommand),

    /// Say which gateways share what they know, how far behind they are, and what is shared
    Fleet(args::JsonArgs),

    /// Make the key of a fleet, with which its gateways seal what they tell each other
    ///
    /// Never overwrites one, and never prints it.
    FleetKey(fleet::FleetKeyArgs),

    /// Print the server's public key for SPA
    ServerKey,

    /// Print the knocks that open a door now, or at another time
    ///
    /// They are a secret of the client's for as long as they hold.
    #[command(after_help = "Example: knockctl sequence ssh phone")]
    Sequence(sequence::SequenceArgs),

    /// Make a page with which a browser knocks at a door that takes codes
    ///
    /// It asks for a code; with --client it works the code out itself, once it is told the
    /// passphrase under which the client's secret stands in it.
    #[command(
        after_help = "Example: knockctl page --door ssh --out knock.html --host gw.example.com"
    )]
    Page(page::PageArgs),

    /// Make sequences of which each opens a door once, for its 'one_time_sequences'
    #[command(after_help = "Example: knockctl one-time --lines 50 /etc/knock.d/keys/ssh.sequences")]
    OneTime(one_time::OneTimeArgs),

    /// Print the configuration of classic knockd or of fwknopd as YAML
    ///
    /// Notes go to standard error. The exit status is 0 if everything was carried over as it
    /// stands. FILE is a knockd.conf, or an access.conf of fwknop, whose fwknopd.conf is read too.
    #[command(after_help = "Example: knockctl import /etc/knockd.conf >/etc/knock.d/doors.yaml")]
    Import(import::ImportArgs),

    /// Print a script that completes the command lines of knock, knockd and knockctl
    ///
    /// Names of doors are completed too: those of the running knockd, or of its configuration.
    #[command(after_help = "For this shell only: source <(knockctl completions bash)")]
    Completions(completions::CompletionsArgs),
}

/// Runs `knockctl`. Usage errors end the process with status 2.
pub fn main() -> ExitCode {
    let Knockctl { target, task, .. } = Knockctl::parse();
    ended(run(&target, task))
}

/// Says what went wrong, if anything has.
fn ended(result: Result<(), Error>) -> ExitCode {
    result.map_or_else(Error::exit, |()| ExitCode::SUCCESS)
}

fn run(target: &Target, task: KnockctlCommand) -> Result<(), Error> {
    match task {
        KnockctlCommand::Check(args) => check::run(target, &args),
        KnockctlCommand::Import(args) => import::run(&args),
        KnockctlCommand::Explain(args) => explain::run(target, &args),
        KnockctlCommand::Watch(args) => events::watch(target, &args),
        KnockctlCommand::History(args) => events::history(target, args),
        KnockctlCommand::Status(args) => status::run(target, &args),
        KnockctlCommand::Metrics(args) => metrics::run(target, &args),
        KnockctlCommand::Open(args) => doors::open(target, args),
        KnockctlCommand::Close(args) => doors::close(target, args),
        KnockctlCommand::Unlock(args) => doors::unlock(target, &args),
        KnockctlCommand::Clients(args) => clients::run(target, &args),
        KnockctlCommand::Client(task) => clients::reset(target, task),
        KnockctlCommand::Try(args) => trial::start(target, &args, None),
        KnockctlCommand::Reload => target.act(&Request::Reload, Timeout::Watcher),
        KnockctlCommand::Lock(args) => trial::start(target, &args.trial, Some(args.door)),
        KnockctlCommand::Confirm => lock::confirm(target),
        KnockctlCommand::Observe(args) => observe::run(target, &args),
        KnockctlCommand::Init(args) => init::run(target, &args),
        KnockctlCommand::Enroll(args) => clients::enroll::run(target, &args),
        KnockctlCommand::Revoke(args) => clients::revoke::run(target, &args),
        KnockctlCommand::Fleet(args) => fleet::run(target, &args),
        KnockctlCommand::FleetKey(args) => fleet::make_key(target, args),
        KnockctlCommand::ServerKey => server_key::run(target),
        KnockctlCommand::Sequence(args) => sequence::run(target, &args),
        KnockctlCommand::Page(args) => page::run(target, &args),
        KnockctlCommand::OneTime(args) => one_time::run(args),
        KnockctlCommand::Completions(args) => completions::run(target, &args),
    }
}
