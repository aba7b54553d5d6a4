//! `knockd`: see knockd(8).

use std::process::ExitCode;

use clap::Parser;
use libknock::{keeper, watcher};

fn main() -> ExitCode {
    let cli = keeper::cli::Cli::parse();
    if cli.watcher { watcher::run() } else { keeper::run(&cli) }
}
