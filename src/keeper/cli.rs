//! The command line of `knockd`.

use std::path::PathBuf;

use std::time::Duration;

use clap::{ArgAction, Parser};

use crate::config::{LogLevel, Options, Settings};
use crate::control::CONFIG;
use crate::proto::{InterfaceName, duration};

/// Watches the wire for a knock and opens a door in the firewall for the address that knocked.
///
/// Signals: SIGHUP reads the configuration again, SIGTERM and SIGINT stop.
/// See knockd(8) and knock.d(5).
#[derive(Clone, Debug, Parser)]
#[command(name = "knockd", version, disable_version_flag = true, max_term_width = 90)]
pub struct KnockdCli {
    /// Listen on this interface instead of the configured ones; again for more; any: all
    #[arg(short = 'i', long = "interface", value_name = "IF")]
    pub interfaces: Vec<InterfaceName>,

    /// Detach from the terminal; the exit status says whether start-up worked
    #[arg(short, long)]
    pub daemon: bool,

    /// A directory of *.yaml files, one such file, or a classic knockd.conf
    #[arg(short, long, value_name = "PATH", default_value = CONFIG)]
    pub config: PathBuf,

    /// Write the process id to this file and keep it locked
    #[arg(short, long, value_name = "PIDFILE")]
    pub pidfile: Option<PathBuf>,

    /// Keep the control socket and the pid file in this directory
    #[arg(long, value_name = "DIR")]
    pub run_dir: Option<PathBuf>,

    /// Keep what has to outlive the daemon in this directory
    #[arg(long, value_name = "DIR")]
    pub state_dir: Option<PathBuf>,

    /// Log to this file
    #[arg(short = 'g', long, value_name = "LOGFILE")]
    pub logfile: Option<PathBuf>,

    /// Log everything, wrong knocks too
    #[arg(short = 'D', long)]
    pub debug: bool,

    /// Log at least each stage and each command, whatever the configured level
    #[arg(short, long)]
    pub verbose: bool,

    /// Look up the name of an address, after its door has been opened, and log it
    #[arg(short, long)]
    pub lookup: bool,

    /// Listen for IPv4 only
    #[arg(short = '4', long = "only-ip-v4")]
    pub only_ipv4: bool,

    /// Lock the guarded ports on trial: unless knockctl confirm comes in time, they are unlocked
    /// and knockd ends
    #[arg(long = "try", value_name = "TIME", value_parser = duration::parse)]
    pub try_for: Option<Duration>,

    /// Lock the guarded ports, before there is a network, and exit; where the configuration is
    /// wrong, those of the last one that worked
    #[arg(long, conflicts_with_all = ["interfaces", "daemon", "pidfile", "logfile", "debug",
        "run_dir", "state_dir", "verbose", "lookup", "only_ipv4", "try_for", "check"])]
    pub lock_only: bool,

    /// Check the configuration, print what is wrong with it, and exit
    #[arg(short = 't', long)]
    pub check: bool,

    /// Accept files and directories that others could have written, or secrets that others can read
    #[arg(long)]
    pub insecure_permissions: bool,

    /// Nothing, as memory is bounded anyway; a fork of classic knockd has this option
    #[arg(short, long)]
    pub save_mem: bool,

    /// Print the version
    #[arg(short = 'V', long, action = ArgAction::Version)]
    pub version: Option<bool>,
}

impl KnockdCli {
    /// How the files of a configuration are read.
    pub const fn options(&self) -> Options {
        Options { insecure_permissions: self.insecure_permissions }
    }

    /// What is given on the command line wins over the file.
    pub fn apply(&self, settings: &mut Settings) {
        if !self.interfaces.is_empty() {
            settings.interfaces.clone_from(&self.interfaces);
        }
        if let Some(path) = &self.pidfile {
            settings.pid_file.clone_from(path);
            settings.set_apart();
        }
        if let Some(path) = &self.run_dir {
            settings.set_run_dir(path);
        }
        if let Some(path) = &self.state_dir {
            settings.state_dir.clone_from(path);
        }
        if let Some(path) = &self.logfile {
            settings.log.file = Some(path.clone());
        }
        if self.verbose {
            settings.log.level = settings.log.level.max(LogLevel::Info);
        }
        if self.debug {
            settings.log.level = LogLevel::Debug;
        }
        settings.only_ipv4 |= self.only_ipv4;
    }
}
