//! Starting processes that do not outlive this one.

use std::ffi::OsStr;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::process::CommandExt;
use std::process::{Child, Command, Stdio};

use command_fds::{CommandFdExt, FdMapping};
use nix::sys::signal::{Signal, killpg};
use nix::unistd::{Pid, getppid};

use super::fault;
use crate::config::PATH;

/// The descriptors under which the watcher finds its channel and its configuration.
pub const WATCHER_CHANNEL: i32 = 3;
pub const WATCHER_CONFIG: i32 = 4;

/// Runs a program in a process group of its own, with both outputs going to `output`, nothing to
/// read and nothing inherited but `environment` and [`PATH`].
///
/// The kernel kills it when this process dies.
///
/// # Errors
/// Whatever keeps the program from starting: most often that it does not exist.
pub fn run(
    argv: &[String],
    environment: &[(&'static str, String)],
    output: OwnedFd,
) -> io::Result<Child> {
    run_reading(argv, environment, Stdio::null(), output)
}

/// As [`run`], with `input` to read.
///
/// # Errors
/// As [`run`].
pub fn run_with_input(argv: &[String], input: OwnedFd, output: OwnedFd) -> io::Result<Child> {
    run_reading(argv, &[], input.into(), output)
}

fn run_reading(
    argv: &[String],
    environment: &[(&'static str, String)],
    input: Stdio,
    output: OwnedFd,
) -> io::Result<Child> {
    let (program, arguments) =
        argv.split_first().ok_or_else(|| io::Error::other("an empty command"))?;
    let mut command = command(program);
    command
        .args(arguments)
        .env_clear()
        .env("PATH", PATH)
        .envs(environment.iter().map(|(name, value)| (*name, value.as_str())))
        .current_dir("/")
        .process_group(0)
        .stdin(input)
        .stdout(output.try_clone()?)
        .stderr(output);
    die_with_parent(&mut command);
    command.spawn()
}

/// Runs this very program anew as the watcher. `complaints` gets what it writes to standard error.
///
/// # Errors
/// Whatever keeps the program from starting.
pub fn run_watcher(
    channel: OwnedFd,
    configuration: OwnedFd,
    complaints: OwnedFd,
) -> io::Result<Child> {
    let mut command = command(fault::watcher());
    command
        .arg0("knockd: watcher")
        .arg("--watcher")
        .env_clear()
        .current_dir("/")
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(complaints)
        .fd_mappings(vec![
            FdMapping { parent_fd: channel, child_fd: WATCHER_CHANNEL },
            FdMapping { parent_fd: configuration, child_fd: WATCHER_CONFIG },
        ])
        .map_err(io::Error::other)?;
    die_with_parent(&mut command);
    command.spawn()
}

/// Kills a process that [`run`] has started, and its children.
pub fn kill_group(child: &Child) {
    if let Ok(pid) = i32::try_from(child.id()) {
        // An error means that it has ended in the meantime.
        let _ = killpg(Pid::from_raw(pid), Signal::SIGKILL);
    }
}

#[expect(clippy::disallowed_methods, reason = "this is where processes start")]
fn command(program: impl AsRef<OsStr>) -> Command {
    Command::new(program)
}

fn die_with_parent(command: &mut Command) {
    let parent = nix::unistd::getpid();
    let arm = move || {
        nix::sys::prctl::set_pdeathsig(Signal::SIGKILL)?;
        // The parent may have died before the kernel was told.
        if getppid() == parent { Ok(()) } else { Err(io::Error::other("the parent is gone")) }
    };
    // SAFETY: between fork and exec only async-signal-safe calls are made: prctl and getppid.
    // The error of a parent that has died allocates, but then nobody waits for this child.
    unsafe { command.pre_exec(arm) };
}
