//! `knockctl`: lets the administrator look.
#![forbid(unsafe_code)]

pub mod check;
pub mod explain;
mod host;

use std::path::PathBuf;
use std::process::ExitCode;

use clap::{ArgAction, CommandFactory, Parser, Subcommand};

/// Looks at the configuration of knockd, and at what it would make of the packets in a file.
///
/// See knockctl(8) and knock.d(5).
#[derive(Clone, Debug, Parser)]
#[command(name = "knockctl", version, disable_version_flag = true, max_term_width = 90)]
#[command(arg_required_else_help = true)]
struct Cli {
    /// A directory of *.yaml files, one such file, or a classic knockd.conf
    #[arg(short, long, value_name = "PATH", default_value = "/etc/knock.d", global = true)]
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

    /// Say what each knock in a capture did, and why; opens nothing
    Explain(explain::ExplainArgs),
}

/// The whole command line, for the tests that hold it against its manual page.
#[must_use]
pub fn command() -> clap::Command {
    Cli::command()
}

/// Runs `knockctl`. Usage errors end the process with status 2.
#[must_use]
pub fn main() -> ExitCode {
    let cli = Cli::parse();
    match cli.task {
        Task::Check => check::run(&cli.config, cli.insecure_permissions),
        Task::Explain(args) => explain::run(&cli.config, cli.insecure_permissions, &args),
    }
}
