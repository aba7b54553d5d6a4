//! A watcher that somebody has taken over, in the sandbox: what it tries, and what comes of it.

use std::io::Write as _;
use std::net::TcpStream;
use std::os::fd::{AsFd, AsRawFd};
use std::process::Command;
use std::{env, fs};

use nix::errno::Errno;
use nix::libc;
use nix::sys::prctl;
use nix::unistd::{Pid, getpid, getppid};

use super::*;
use crate::capture::Live;
use crate::control::WatcherSandbox;
use crate::proto::{FlagTest, Knock, PortSet};
use crate::sys::seccomp::tests::{alone, call};
use crate::wire::filter::Filter;

const ROLE: &str = "KNOCK_TAKEN_OVER";

/// What is tried by its name; without one, nothing.
fn attempt(deed: &str, capture: &Live, keeper: Pid) -> Result<i64, Errno> {
    let capture = i64::from(capture.capture.as_fd().as_raw_fd());
    let (keeper, own) = (i64::from(keeper.as_raw()), i64::from(getpid().as_raw()));
    let zeros = [0_u8; 128];
    let nothing = zeros.as_ptr() as i64;
    let path = c"/proc/self/maps".as_ptr() as i64;
    let code = libc::PROT_READ | libc::PROT_EXEC;
    let anonymous = i64::from(libc::MAP_PRIVATE | libc::MAP_ANONYMOUS);
    let (number, arguments): (i64, [i64; 6]) = match deed {
        "nothing" => (libc::SYS_getpid, [0; 6]),
        "bind the capture anew" => (libc::SYS_bind, [capture, nothing, 20, 0, 0, 0]),
        "detach its filter" => {
            let (level, option) = (libc::SOL_SOCKET.into(), libc::SO_DETACH_FILTER.into());
            (libc::SYS_setsockopt, [capture, level, option, nothing, 4, 0])
        }
        "send through it" => (libc::SYS_sendto, [capture, nothing, 60, 0, 0, 0]),
        "write to it" => (libc::SYS_write, [capture, nothing, 60, 0, 0, 0]),
        "send messages" => (libc::SYS_sendmsg, [capture, nothing, 0, 0, 0, 0]),
        "open a file" => (libc::SYS_openat, [libc::AT_FDCWD.into(), path, 0, 0, 0, 0]),
        "open a socket" => (libc::SYS_socket, [libc::AF_INET.into(), 1, 0, 0, 0, 0]),
        "connect" => (libc::SYS_connect, [3, nothing, 16, 0, 0, 0]),
        "listen" => (libc::SYS_listen, [3, 1, 0, 0, 0, 0]),
        "execute" => (libc::SYS_execve, [path, nothing, nothing, 0, 0, 0]),
        "fork" => (libc::SYS_clone, [libc::SIGCHLD.into(), 0, 0, 0, 0, 0]),
        "fork anew" => (libc::SYS_clone3, [nothing, 88, 0, 0, 0, 0]),
        "signal the keeper" => (libc::SYS_kill, [keeper, 0, 0, 0, 0, 0]),
        "abort the keeper" => (libc::SYS_tgkill, [keeper, keeper, libc::SIGABRT.into(), 0, 0, 0]),
        "kill itself as if it were not" => {
            (libc::SYS_tgkill, [own, own, libc::SIGTERM.into(), 0, 0, 0])
        }
        "trace the keeper" => (libc::SYS_ptrace, [16, keeper, 0, 0, 0, 0]),
        "read the keeper's memory" => {
            (libc::SYS_process_vm_readv, [keeper, nothing, 0, nothing, 0, 0])
        }
        "take the keeper's descriptors" => (libc::SYS_pidfd_open, [keeper, 0, 0, 0, 0, 0]),
        "copy a descriptor" => (libc::SYS_dup, [capture, 0, 0, 0, 0, 0]),
        "map code" => (libc::SYS_mmap, [0, 4096, code.into(), anonymous, -1, 0]),
        "make memory code" => (libc::SYS_mprotect, [nothing, 0, code.into(), 0, 0, 0]),
        "map data" => (libc::SYS_mmap, [0, 4096, libc::PROT_READ.into(), anonymous, -1, 0]),
        "set an interface's flags" => (libc::SYS_ioctl, [capture, 0x8914, nothing, 0, 0, 0]),
        "read an interface's flags" => (libc::SYS_ioctl, [capture, 0x8913, nothing, 0, 0, 0]),
        "let itself be traced" => (libc::SYS_prctl, [libc::PR_SET_DUMPABLE.into(), 1, 0, 0, 0, 0]),
        "raise its limits" => (libc::SYS_prlimit64, [0, 6, nothing, 0, 0, 0]),
        "become root" => (libc::SYS_setresuid, [0, 0, 0, 0, 0, 0]),
        "load a program into the kernel" => (libc::SYS_bpf, [5, nothing, 0, 0, 0, 0]),
        "queue calls" => (libc::SYS_io_uring_setup, [1, nothing, 0, 0, 0, 0]),
        "make a namespace" => (libc::SYS_unshare, [libc::CLONE_NEWUSER.into(), 0, 0, 0, 0, 0]),
        "call what is newer than this" => (500, [0; 6]),
        other => panic!("what is {other}?"),
    };
    call(number, arguments)
}

/// The watcher: not a test of its own. Says how it ended.
#[test]
#[ignore = "the tests below start it"]
fn plays_the_taken_over_watcher() {
    let deed = env::var(ROLE).unwrap();
    let (deed, mode) = deed.split_once('/').unwrap();
    let ended = alone(|| take_over(deed, SandboxMode::of_word(mode).unwrap()));
    eprintln!("{ended:?}");
}

fn take_over(deed: &str, mode: SandboxMode) -> Result<i64, Errno> {
    let ports: PortSet = ["7000".parse::<Knock>().unwrap()].into_iter().collect();
    let filter = Filter::new([(&ports, FlagTest::SYN)], false);
    begin(mode);
    let capture = Live::open("lo", &filter).unwrap();
    let identity = Identity::resolve(Some("nobody")).unwrap().0;
    // Asked while it may be.
    let keeper = getppid();
    let report = enter(&identity, mode).unwrap();
    match deed {
        "look around" => {
            let status = fs::read_to_string("/proc/self/status").unwrap();
            let is_traceable = prctl::get_dumpable().unwrap();
            let ends_by = prctl::get_pdeathsig().unwrap();
            let report = WatcherSandbox::from(report);
            eprintln!("{status}\n{report}; traceable {is_traceable}, ends by {ends_by:?}");
            Ok(0)
        }
        "open the keeper's memory" => {
            fs::File::open(format!("/proc/{keeper}/mem")).map(|_| 0).map_err(errno)
        }
        "connect to itself" => TcpStream::connect("127.0.0.1:9").map(|_| 0).map_err(errno),
        "panic" => panic!("as it may"),
        "abort" => std::process::abort(),
        deed => attempt(deed, &capture, keeper),
    }
}

fn errno(error: std::io::Error) -> Errno {
    Errno::from_raw(error.raw_os_error().unwrap())
}

/// How a watcher in such a sandbox ends that tries something, and what it has said before.
#[expect(clippy::disallowed_methods, reason = "starts the process that is restricted")]
fn ending_of(deed: &str, mode: SandboxMode) -> String {
    let this = "watcher::sandbox::tests::plays_the_taken_over_watcher";
    let tried = Command::new(env::current_exe().unwrap())
        .args(["--exact", "--ignored", "--nocapture", "--test-threads=1", this])
        .env_remove("RUST_BACKTRACE")
        .env(ROLE, format!("{deed}/{mode}"))
        .output()
        .unwrap();
    String::from_utf8_lossy(&tried.stderr).into_owned()
}

/// Whether this can be tried here; says loudly where not.
fn can_try() -> bool {
    let can = nix::unistd::geteuid().is_root();
    if !can {
        let _ = writeln!(std::io::stderr(), "SKIPPED: the watcher's sandbox: needs root");
    }
    can
}

/// How a process ended that came to this.
fn comes_to(errno: Option<Errno>) -> String {
    format!(", {})", errno.map_or(0, |errno| errno as i32))
}

#[test]
fn whatever_no_watcher_has_to_do_ends_it() {
    if !can_try() {
        return;
    }
    for deed in [
        "bind the capture anew",
        "send through it",
        "write to it",
        "send messages",
        "open a file",
        "open a socket",
        "connect",
        "listen",
        "execute",
        "fork",
        "fork anew",
        "signal the keeper",
        "abort the keeper",
        "kill itself as if it were not",
        "trace the keeper",
        "read the keeper's memory",
        "take the keeper's descriptors",
        "copy a descriptor",
        "map code",
        "make memory code",
        "set an interface's flags",
        "let itself be traced",
        "raise its limits",
        "become root",
        "load a program into the kernel",
        "queue calls",
        "make a namespace",
    ] {
        let ending = ending_of(deed, SandboxMode::Enforce);
        assert!(ending.contains(", SIGSYS, "), "{deed}: {ending}");
    }
}

#[test]
fn what_libraries_can_do_without_is_not_there_and_what_they_need_is() {
    if !can_try() {
        return;
    }
    for (deed, errno) in [
        ("nothing", None),
        ("detach its filter", Some(Errno::ENOSYS)),
        ("call what is newer than this", Some(Errno::ENOSYS)),
        ("map data", None),
        // Of the interface without a name.
        ("read an interface's flags", Some(Errno::ENODEV)),
    ] {
        let ending = ending_of(deed, SandboxMode::Enforce);
        assert!(ending.contains(&comes_to(errno)), "{deed}: {ending}");
    }
}

#[test]
fn a_fault_of_its_own_is_told_as_what_it_is() {
    if !can_try() {
        return;
    }
    let ending = ending_of("panic", SandboxMode::Enforce);
    assert!(ending.contains("as it may") && ending.contains(", 101)"), "{ending}");
    let ending = ending_of("abort", SandboxMode::Enforce);
    assert!(ending.contains(", SIGABRT, "), "{ending}");
}

#[test]
fn where_breaches_are_only_logged_files_networks_and_the_filter_are_out_of_reach() {
    if !can_try() {
        return;
    }
    // Before Linux 6.7 Landlock knows files alone.
    let is_old = ending_of("look around", SandboxMode::Log).contains(" network,");
    let of_connecting = if is_old { Errno::ECONNREFUSED } else { Errno::EACCES };
    for (deed, errno) in [
        ("detach its filter", Errno::EPERM),
        ("bind the capture anew", Errno::EINVAL),
        ("open a file", Errno::EACCES),
        ("open the keeper's memory", Errno::EACCES),
        ("connect to itself", of_connecting),
        ("signal the keeper", Errno::EPERM),
        ("become root", Errno::EPERM),
        ("fork", Errno::EAGAIN),
    ] {
        let ending = ending_of(deed, SandboxMode::Log);
        assert!(ending.contains(&comes_to(Some(errno))), "{deed}: {ending}");
    }
}

#[test]
fn without_its_sandbox_it_still_has_no_root_no_core_and_an_end_with_its_keeper() {
    if !can_try() {
        return;
    }
    let said = ending_of("look around", SandboxMode::Off);
    for holds in [
        "system calls off; Landlock: off; memory locked",
        "traceable false, ends by Some(SIGKILL)",
        "CapPrm:\t0000000000000000",
        "Uid:\t65534\t65534\t65534\t65534",
    ] {
        assert!(said.contains(holds), "{holds}: {said}");
    }
    assert!(!said.contains("VmLck:\t       0 kB"), "{said}");
    let ending = ending_of("detach its filter", SandboxMode::Off);
    assert!(ending.contains(&comes_to(Some(Errno::EPERM))), "{ending}");
}
