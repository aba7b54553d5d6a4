//! `knockctl`: lets the administrator look, and act.
#![forbid(unsafe_code)]

pub mod check;
mod client;
mod completions;
mod enroll;
mod events;
pub mod explain;
mod failure;
mod hand;
mod host;
pub mod import;
mod lines;
mod one_time;
mod qr;
mod revoke;
mod sequence;
mod server_key;
mod socket;
mod status;
mod trial;
mod words;

use std::path::PathBuf;
use std::process::ExitCode;

use clap::{ArgAction, CommandFactory, Parser, Subcommand};

use crate::config::load::Options;

/// Where the configuration is unless another path is given.
const CONFIG: &str = "/etc/knock.d";

/// Looks at the configuration of knockd, at what it makes of packets, and at a running knockd;
/// opens and closes doors by hand.
///
/// A running knockd is found by its configuration. It answers root and the members of the group
/// knockd. See knockctl(8) and knock.d(5).
#[derive(Clone, Debug, Parser)]
#[command(name = "knockctl", version, disable_version_flag = true, max_term_width = 90)]
#[command(arg_required_else_help = true)]
struct Cli {
    /// A directory of *.yaml files, one such file, or a classic knockd.conf
    #[arg(short, long, value_name = "PATH", default_value = CONFIG, global = true)]
    config: PathBuf,

    /// Accept a configuration that others could have written
    #[arg(long, global = true)]
    insecure_permissions: bool,

    /// Print the version
    #[arg(short = 'V', long, action = ArgAction::Version)]
    version: Option<bool>,

    #[command(subcommand)]
    task: Task,
}

#[derive(Clone, Debug, Subcommand)]
enum Task {
    /// Say what is wrong with the configuration or doubtful, and what each door takes and does
    ///
    /// Errors and warnings go to standard error. The exit status is 1 if there are errors.
    Check,

    /// Say what a running knockd listens on, which doors are open for whom, and for how long
    ///
    /// At the end stands what came to nothing, counted by reason; knockctl(8) explains the reasons.
    Status(status::StatusArgs),

    /// Open a door for an address by hand; it closes by itself as after a knock
    ///
    /// Where it is open already it stays open at least as long as asked for.
    #[command(after_help = "Example: knockctl open ssh 192.0.2.2 --for 10m")]
    Open(hand::OpenArgs),

    /// Close a door for an address, or every door, before the time is over
    ///
    /// Connections that stand already go on where the firewall lets them.
    #[command(override_usage = "knockctl close [OPTIONS] DOOR IP
       knockctl close --all")]
    Close(hand::CloseArgs),

    /// Listen again to an address that is locked out since it failed too often
    ///
    /// 'knockctl status' shows who is locked out, where, and for how long.
    Unlock(hand::UnlockArgs),

    /// Have a running knockd take up its configuration on trial: it goes unless it is confirmed
    ///
    /// Check from a new connection that you still get in, then confirm. The ports that the guard
    /// locks are unlocked in time by the kernel, even if knockd dies.
    #[command(after_help = "Example: knockctl try --for 5m")]
    Try(trial::TryArgs),

    /// Keep the configuration that is on trial
    Confirm,

    /// Print what happens at the doors, as it happens, until interrupted
    Watch(events::WatchArgs),

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

    /// Let a client open doors: make its secrets, and print what it needs
    ///
    /// Writes client-NAME.yaml into the directory of the configuration and has a running knockd
    /// take it up. For a client that is enrolled already it adds what is new.
    #[command(after_help = "Examples: knockctl enroll phone --door ssh --totp --qr
          knockctl enroll laptop --door ssh --spa")]
    Enroll(enroll::EnrollArgs),

    /// Let a client open nothing any more: close what it has opened, and remove it
    Revoke(revoke::RevokeArgs),

    /// Do something about a client that is enrolled
    Client(client::ClientArgs),

    /// Print the server's public key for SPA
    ServerKey,

    /// Print the knocks that open a door now, or at another time
    ///
    /// They are a secret of the client's for as long as they hold.
    #[command(after_help = "Example: knockctl sequence ssh phone")]
    Sequence(sequence::SequenceArgs),

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

/// The whole command line, for the tests that hold it against its manual page.
#[must_use]
pub fn command() -> clap::Command {
    Cli::command()
}

/// Runs `knockctl`. Usage errors end the process with status 2.
#[must_use]
pub fn main() -> ExitCode {
    let Cli { config, insecure_permissions: insecure, task, .. } = Cli::parse();
    let done = match task {
        Task::Check => {
            return check::run(&config, Options { insecure_permissions: insecure }, |_| ());
        }
        Task::Explain(args) => match args.of() {
            explain::Of::File(args) => return explain::run(&config, insecure, &args),
            explain::Of::Live { address, json } => {
                events::explain(&config, insecure, address, json)
            }
        },
        Task::Enroll(args) => return failure::finish(enroll::run(&config, insecure, &args)),
        Task::Revoke(args) => return failure::finish(revoke::run(&config, insecure, &args)),
        Task::ServerKey => return failure::finish(server_key::run(&config, insecure)),
        Task::Sequence(args) => return failure::finish(sequence::run(&config, insecure, &args)),
        Task::OneTime(args) => return failure::finish(one_time::run(args)),
        Task::Import(args) => return import::run(&args),
        Task::Status(args) => status::run(&config, insecure, &args),
        Task::Open(args) => hand::open(&config, insecure, args),
        Task::Close(args) => hand::close(&config, insecure, args),
        Task::Unlock(args) => hand::unlock(&config, insecure, &args),
        Task::Client(args) => client::run(&config, insecure, &args),
        Task::Try(args) => trial::start(&config, insecure, &args),
        Task::Confirm => trial::confirm(&config, insecure),
        Task::Watch(args) => events::watch(&config, insecure, &args),
        Task::History(args) => events::history(&config, insecure, args),
        Task::Completions(args) => completions::run(&config, insecure, &args),
    };
    socket::finish(done)
}
