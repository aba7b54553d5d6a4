//! `knockd`: see knockd(8).

use std::process::ExitCode;

use clap::Parser;
use libknock::sys::process;
use libknock::{ctl, keeper, watcher};

fn main() -> ExitCode {
    if process::is_called(process::WATCHER) {
        return watcher::run();
    }
    if process::is_called(process::NAMES) {
        return keeper::look_up_names();
    }
    let cli = keeper::cli::KnockdCli::parse();
    if cli.check {
        ctl::check::of_knockd(&cli.config, cli.options(), |settings| cli.apply(settings))
    } else if cli.lock_only {
        keeper::lock_only(&cli)
    } else {
        keeper::run(&cli)
    }
}
