//! The configuration that a command is about.

use std::io::{self, Write};
use std::path::PathBuf;

use super::socket::{self, Replies};
use super::{Error, Timeout};
use crate::config::{Loaded, Options, load};
use crate::control::{CONFIG, Request, command};
use crate::log::escape;

#[derive(Clone, Debug, clap::Args)]
pub(super) struct Target {
    /// A directory of *.yaml files, one such file, or a classic knockd.conf
    #[arg(short, long, value_name = "PATH", default_value = CONFIG, global = true)]
    pub(super) config: PathBuf,

    /// The pid file that knockd was started with, where its classic knockd.conf names none
    #[arg(short, long, value_name = "PIDFILE", global = true)]
    pub(super) pidfile: Option<PathBuf>,

    /// The run directory that knockd was started with
    #[arg(long, value_name = "DIR", global = true)]
    pub(super) run_dir: Option<PathBuf>,

    /// Accept files and directories that others could have written
    #[arg(long, global = true)]
    insecure_permissions: bool,
}

impl Target {
    pub(super) const fn options(&self) -> Options {
        Options { insecure_permissions: self.insecure_permissions }
    }

    /// Reads the whole configuration.
    pub(super) fn load(&self) -> Result<Loaded, Error> {
        load::load(&self.config, &self.options()).map_err(Error::Configuration)
    }

    /// A command line of a program of ours that means this configuration.
    pub(super) fn command(&self, program: &str, rest: &str) -> String {
        escape(&command(program, &self.config, self.run_dir.as_deref(), rest))
    }

    /// Asks the daemon that may be running with this configuration.
    pub(super) fn ask(&self, request: &Request, timeout: Timeout) -> Result<Replies, Error> {
        socket::ask(self, request, timeout)
    }

    /// Asks that daemon, and gives what it says when all is done.
    pub(super) fn text(&self, request: &Request, timeout: Timeout) -> Result<String, Error> {
        self.ask(request, timeout).and_then(Replies::done)
    }

    /// Asks that daemon, and prints what it says.
    pub(super) fn act(&self, request: &Request, timeout: Timeout) -> Result<(), Error> {
        Ok(writeln!(io::stdout(), "{}", escape(&self.text(request, timeout)?))?)
    }
}
