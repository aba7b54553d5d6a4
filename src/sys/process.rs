//! Child processes, which do not outlive this one and inherit nothing.

use std::env;
use std::ffi::{CStr, OsStr};
use std::fs;
use std::io;
use std::os::fd::{BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;

use command_fds::{CommandFdExt, FdMapping};
use nix::fcntl::{FcntlArg, FdFlag, fcntl};
use nix::libc;
use nix::sys::resource::{RLIM_INFINITY, Resource, getrlimit, setrlimit};
use nix::sys::signal::{SigSet, Signal, killpg};
use nix::sys::stat::{Mode, umask};
use nix::unistd::{Pid, getppid, setsid};
use serde::de::DeserializeOwned;

use super::command_table::CommandTable;
use super::{descriptors, fault};
use crate::config::{NewPrivileges, PATH};

/// The descriptors under which watcher and courier find their channel and its configuration.
pub const WATCHER_CHANNEL: i32 = 3;
pub const WATCHER_CONFIG: i32 = 4;

/// The name of the watcher, by which it knows itself: its first argument, and what `ps` shows, of
/// 15 bytes at most.
pub const WATCHER: &CStr = c"knockd: watcher";

/// The same of the process that looks up names.
pub const NAMES: &CStr = c"knockd: names";

/// The same of the courier.
pub const COURIER: &CStr = c"knock-courier";

/// How many descriptors the keeper wants to have: connections, commands, watchers, files.
const DESCRIPTORS: u64 = 1024;
/// `CAP_NET_RAW`, by its number.
const NET_RAW: libc::c_ulong = 13;

/// Frees this process, and those that it starts, of what its own starter left it: descriptors other
/// than the standard ones go no further, no signal is blocked, nobody else may write new files,
/// no other process of the same user looks into this one, and there are descriptors enough, as far
/// as that is allowed. The environment goes to nobody.
///
/// # Errors
/// When `/proc` is not mounted.
pub fn disinherit() -> io::Result<()> {
    let others_write = Mode::S_IWGRP | Mode::S_IWOTH;
    umask(umask(others_write) | others_write);
    SigSet::empty().thread_set_mask()?;
    nix::sys::prctl::set_dumpable(false)?;
    let (soft, hard) = getrlimit(Resource::RLIMIT_NOFILE)?;
    setrlimit(Resource::RLIMIT_NOFILE, soft.max(DESCRIPTORS.min(hard)), hard)?;
    // Watchers lock their memory, also where the keeper may set no limits by then.
    let (soft, _) = getrlimit(Resource::RLIMIT_MEMLOCK)?;
    let _ = setrlimit(Resource::RLIMIT_MEMLOCK, soft, RLIM_INFINITY);
    for entry in fs::read_dir("/proc/self/fd")?.flatten() {
        let number = entry.file_name().to_str().and_then(|name| name.parse::<i32>().ok());
        let Some(number) = number.filter(|&number| number > 2) else { continue };
        // SAFETY: the descriptor is only marked. One that has been closed by now, as that of the
        // directory may have been, is an error.
        let fd = unsafe { BorrowedFd::borrow_raw(number) };
        let _ = fcntl(fd, FcntlArg::F_SETFD(FdFlag::FD_CLOEXEC));
    }
    Ok(())
}

/// Runs a program in a session of its own, with both outputs going to `output` and nothing inherited
/// but `environment` and [`PATH`]. `slot`: its place in a table, which it enters first.
///
/// It dumps no core, has as many descriptors as programs expect, and not the right to capture where
/// that was handed down to this process. The kernel kills it when this process dies.
///
/// # Errors
/// Whatever keeps the program from starting: most often that it does not exist.
pub fn run(
    argv: &[String],
    environment: &[(String, String)],
    new_privileges: NewPrivileges,
    output: OwnedFd,
    slot: Option<(&Arc<CommandTable>, usize)>,
) -> io::Result<Child> {
    let (program, arguments) =
        argv.split_first().ok_or_else(|| io::Error::other("an empty command"))?;
    let mut command = command(program);
    command
        .args(arguments)
        .env("PATH", PATH)
        .envs(environment.iter().cloned())
        .stdout(output.try_clone()?)
        .stderr(output);
    stand_alone(&mut command, new_privileges)?;
    if let Some((table, slot)) = slot {
        let table = Arc::clone(table);
        // A command that is in no table runs all the same: it may be one that closes.
        let enter = move || table.enter(slot).or(Ok(()));
        // SAFETY: between fork and exec only open, read and pwrite are called, on short paths and
        // buffers of the stack; an error is a number.
        unsafe { command.pre_exec(enter) };
    }
    command.spawn()
}

/// What a child is given: its channel, its configuration, and where its standard error goes.
pub type ChildEnds = [OwnedFd; 3];

/// Runs this very program anew as the watcher.
///
/// # Errors
/// Whatever keeps the program from starting.
pub fn run_watcher(ends: ChildEnds) -> io::Result<Child> {
    run_child(fault::watcher(), WATCHER, ends)
}

/// Runs the courier, a program beside this one.
///
/// # Errors
/// Whatever keeps the program from starting: most often that it is not installed.
pub fn run_courier(ends: ChildEnds) -> io::Result<Child> {
    run_child(courier()?, COURIER, ends)
}

/// Where the courier is: beside this program, also after that has been replaced.
///
/// # Errors
/// When `/proc` is not mounted.
pub fn courier() -> io::Result<PathBuf> {
    let beside = || Ok(fs::read_link("/proc/self/exe")?.with_file_name("knock-courier"));
    fault::courier().map_or_else(beside, Ok)
}

/// That the courier is not installed, in words, and what installs it.
pub fn missing_courier() -> Option<String> {
    let courier = courier().ok().filter(|courier| !courier.exists())?.display().to_string();
    Some(format!(
        "the fleet's store is not reached, since there is no {courier}: install the package \
         knock-fleet"
    ))
}

fn run_child(
    program: impl AsRef<OsStr>,
    name: &CStr,
    [channel, configuration, complaints]: ChildEnds,
) -> io::Result<Child> {
    let descriptors = vec![
        FdMapping { parent_fd: channel, child_fd: WATCHER_CHANNEL },
        FdMapping { parent_fd: configuration, child_fd: WATCHER_CONFIG },
    ];
    let mut command = command(program);
    command.fd_mappings(descriptors).map_err(io::Error::other)?;
    command.arg0(OsStr::from_bytes(name.to_bytes())).stderr(complaints).spawn()
}

/// Runs this very program anew as the process that looks up names, which reads and writes lines.
///
/// # Errors
/// Whatever keeps the program from starting.
pub fn run_names(asked: OwnedFd, answers: OwnedFd) -> io::Result<Child> {
    let mut command = command("/proc/self/exe");
    command.arg0(OsStr::from_bytes(NAMES.to_bytes())).stdin(asked).stdout(answers).spawn()
}

/// Whether this process was started by a name of those above; it has it from then on.
pub fn is_called(name: &CStr) -> bool {
    let is_called = env::args_os().next().is_some_and(|it| it.as_bytes() == name.to_bytes());
    if is_called {
        // It only looks worse if that fails.
        let _ = nix::sys::prctl::set_name(name);
    }
    is_called
}

/// What its keeper has written for a watcher or a courier. Closes whatever else that has been handed
/// down beside its channel, so that nothing is left of what the keeper, or who started that, has
/// open. To be called first of all.
///
/// # Errors
/// When nothing that can be read is there.
pub fn assignment<T: DeserializeOwned>() -> io::Result<T> {
    let sealed = descriptors::inherited(WATCHER_CONFIG)?;
    let assignment = serde_json::from_slice(&descriptors::read_sealed(sealed)?)?;
    let first = WATCHER_CONFIG + 1;
    // SAFETY: nothing has been opened yet, so nobody owns what is closed. On a kernel before 5.9 all
    // that others opened has closed by itself: the keeper marks what it was handed down.
    unsafe { libc::syscall(libc::SYS_close_range, first, libc::c_uint::MAX, 0) };
    Ok(assignment)
}

/// Kills a process that [`run`] has started, and its children.
pub fn kill_group(child: &Child) {
    if let Ok(pid) = i32::try_from(child.id()) {
        // An error means that it has ended in the meantime.
        let _ = killpg(Pid::from_raw(pid), Signal::SIGKILL);
    }
}

/// A program to be run, which inherits nothing: neither environment nor working directory, neither
/// input nor outputs. The kernel kills it when this process dies.
#[expect(clippy::disallowed_methods, reason = "this is where processes start")]
fn command(program: impl AsRef<OsStr>) -> Command {
    let mut command = Command::new(program);
    command.env_clear().current_dir("/");
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    die_with_parent(&mut command);
    command
}

/// Leaves a command what it needs, and nothing else of this process.
fn stand_alone(command: &mut Command, new_privileges: NewPrivileges) -> io::Result<()> {
    let (_, most) = getrlimit(Resource::RLIMIT_NOFILE)?;
    let prepare = move || {
        setsid()?;
        setrlimit(Resource::RLIMIT_CORE, 0, 0)?;
        setrlimit(Resource::RLIMIT_NOFILE, DESCRIPTORS.min(most), most)?;
        // SAFETY: two system calls that take numbers alone. Where the kernel is older than they are,
        // all descriptors close by their own flags, and nothing was handed down.
        unsafe {
            libc::syscall(libc::SYS_close_range, 3, u32::MAX, libc::CLOSE_RANGE_CLOEXEC);
            libc::prctl(libc::PR_CAP_AMBIENT, libc::PR_CAP_AMBIENT_LOWER, NET_RAW, 0, 0);
        }
        match new_privileges {
            NewPrivileges::Granted => Ok(()),
            NewPrivileges::Denied => Ok(nix::sys::prctl::set_no_new_privs()?),
        }
    };
    // SAFETY: between fork and exec only system calls are made, and an error is a number.
    unsafe { command.pre_exec(prepare) };
    Ok(())
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
