//! seccomp: the system calls that watcher and courier may make, in each of their phases.
//!
//! All that is allowed stands here. Whoever adds a system call to the watcher's work adds it to
//! `list::WORK`, with its reason; `tests/netns/sandbox.rs` takes the watcher through all that it
//! does under the filter.

use std::io;

use super::sandbox::SeccompState;
use crate::config::SandboxMode;

/// A phase of the life of a watcher or a courier.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Phase {
    /// Until it captures and root is gone: libpcap opens what it needs, and no packet has been
    /// looked at; or until it is connected. What no opening takes is forbidden.
    Opening,
    /// From then on only what a watcher's work takes is allowed.
    Working,
    /// The same of a courier, which may also send through whatever it has open.
    Carrying,
}

/// The kernel's refusal of a filter.
#[derive(Debug, thiserror::Error)]
#[error("the kernel takes no filter of system calls: {0}")]
pub(crate) struct SeccompError(io::Error);

/// Restricts this process, and those that it starts, to the system calls of a phase: another one
/// kills it, or is logged by the kernel. There is no way back. To be called before there is a
/// thread.
///
/// # Errors
/// Where the kernel, or whoever runs this container, allows no filter. Those that are there hold.
pub(crate) fn restrict(phase: Phase, mode: SandboxMode) -> Result<SeccompState, SeccompError> {
    let state = match mode {
        SandboxMode::Off => return Ok(SeccompState::Off),
        SandboxMode::Log => SeccompState::Logging,
        SandboxMode::Enforce => SeccompState::Enforced,
    };
    #[cfg(any(target_arch = "x86_64", target_arch = "aarch64"))]
    return match list::restrict(phase, state) {
        Ok(()) => Ok(state),
        Err(seccompiler::Error::Prctl(error) | seccompiler::Error::Seccomp(error)) => {
            Err(SeccompError(error))
        }
        Err(other) => Err(SeccompError(io::Error::other(other))),
    };
    #[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
    return Ok(SeccompState::NoList);
}

#[cfg(any(target_arch = "x86_64", target_arch = "aarch64"))]
mod list {
    use std::ops::RangeInclusive;

    use nix::libc;
    use seccompiler::{
        BackendError, BpfProgram, SeccompAction, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition,
        SeccompFilter, SeccompRule,
    };

    use super::Phase;
    use crate::sys::process::WATCHER_CHANNEL;
    use crate::sys::sandbox::SeccompState;

    /// System calls that came after those that are known here. A newer libc tries them and does
    /// without where there is none: it is told so, instead of killed. Both processors count alike.
    const NEWER: RangeInclusive<i64> = 463..=511;

    /// A system call, and what has to be so of its arguments.
    type Call = (i64, Vec<Condition>);
    /// An argument by its place, its bits that matter, and their value.
    type Condition = (u8, u64, u64);
    const ALL_BITS: u64 = 0xffff_ffff;
    /// What is written reaches the keeper as lines of the log.
    const TO_STDERR: Condition = (0, ALL_BITS, libc::STDERR_FILENO as u64);
    const TO_KEEPER: Condition = (0, ALL_BITS, WATCHER_CHANNEL as u64);
    const NOT_TO_RUN: Condition = (2, libc::PROT_EXEC as u64, 0);

    /// System calls by their names, a row a purpose.
    macro_rules! calls {
        ($($(#[$of:meta])? $call:ident)*) => { [$($(#[$of])? libc::$call),*] };
    }

    /// What the watcher's work takes whatever its arguments, [besides](with_arguments) what it takes
    /// with some.
    const WORK: &[i64] = &calls![
        // Waiting, by us and by libpcap.
        SYS_ppoll #[cfg(target_arch = "x86_64")] SYS_poll SYS_restart_syscall
        // What the keeper says, what libpcap wakes itself with, and errors and counts of packets.
        SYS_recvfrom SYS_recvmsg SYS_read SYS_getsockopt SYS_getsockname SYS_close
        // Memory; locks, where a library takes one.
        SYS_brk SYS_munmap SYS_mremap SYS_madvise SYS_futex SYS_sched_yield
        // Clocks and chance, where they are not had without a system call.
        SYS_clock_gettime SYS_gettimeofday #[cfg(target_arch = "x86_64")] SYS_time SYS_getrandom
        // Ending, by itself and by a fault, so that the keeper is told which.
        SYS_exit SYS_exit_group SYS_sigaltstack SYS_rt_sigaction SYS_rt_sigprocmask
        SYS_rt_sigreturn SYS_getpid SYS_gettid
    ];

    /// What a courier's work takes besides: through its connection, and by TLS.
    const SENDS: &[i64] = &calls![SYS_sendto SYS_sendmsg SYS_write SYS_writev];

    fn with_arguments() -> [Call; 8] {
        let own = u64::from(std::process::id());
        [
            (libc::SYS_sendto, vec![TO_KEEPER]),
            (libc::SYS_write, vec![TO_STDERR]),
            (libc::SYS_writev, vec![TO_STDERR]),
            (libc::SYS_mmap, vec![NOT_TO_RUN]),
            (libc::SYS_mprotect, vec![NOT_TO_RUN]),
            // A build for tests asks so whether what it closes is open.
            (libc::SYS_fcntl, vec![(1, ALL_BITS, libc::F_GETFD as u64)]),
            // libpcap asks so whether an interface has gone or is merely down.
            (libc::SYS_ioctl, vec![(1, ALL_BITS, SIOCGIFFLAGS)]),
            // What abort(3) ends with.
            (libc::SYS_tgkill, vec![(0, ALL_BITS, own), (2, ALL_BITS, libc::SIGABRT as u64)]),
        ]
    }

    /// `SIOCGIFFLAGS` of netdevice(7).
    const SIOCGIFFLAGS: u64 = 0x8913;

    /// What no opening of a capture takes, and no giving up of root.
    const NEVER: &[i64] = &calls![
        // Other programs and processes, and their memory.
        SYS_execve SYS_execveat SYS_clone SYS_clone3
        #[cfg(target_arch = "x86_64")] SYS_fork #[cfg(target_arch = "x86_64")] SYS_vfork
        SYS_kill SYS_tkill SYS_pidfd_open SYS_pidfd_getfd SYS_pidfd_send_signal SYS_kcmp
        SYS_ptrace SYS_process_vm_readv SYS_process_vm_writev SYS_process_madvise
        // Mounts and namespaces.
        SYS_mount SYS_umount2 SYS_move_mount SYS_mount_setattr SYS_open_tree SYS_fsopen SYS_fsmount
        SYS_pivot_root SYS_chroot SYS_setns SYS_unshare
        // The kernel's own parts, the machine, the clock.
        SYS_init_module SYS_finit_module SYS_delete_module SYS_kexec_load SYS_reboot SYS_swapon
        SYS_swapoff SYS_bpf SYS_perf_event_open SYS_userfaultfd SYS_io_uring_setup SYS_add_key
        SYS_request_key SYS_keyctl SYS_personality SYS_settimeofday SYS_clock_settime
        SYS_clock_adjtime SYS_adjtimex
        #[cfg(target_arch = "x86_64")] SYS_iopl #[cfg(target_arch = "x86_64")] SYS_ioperm
        // Whoever would connect from outside.
        SYS_listen SYS_accept SYS_accept4
    ];

    /// What libraries try and can do without: it is not there. libpcap calls the first when it closes
    /// a capture.
    fn refused() -> impl Iterator<Item = Call> + Clone {
        [libc::SYS_setsockopt].into_iter().chain(NEWER).map(unconditional)
    }

    pub(super) fn restrict(phase: Phase, state: SeccompState) -> Result<(), seccompiler::Error> {
        let is_enforced = state == SeccompState::Enforced;
        let breach = if is_enforced { SeccompAction::KillProcess } else { SeccompAction::Log };
        let allow = SeccompAction::Allow;
        let unconditionally = |calls: &'static [i64]| calls.iter().copied().map(unconditional);
        if phase == Phase::Opening {
            return install(unconditionally(NEVER), breach, allow);
        }
        // Of two filters the harsher wins, and the last would not let another be set.
        if is_enforced {
            install(refused(), SeccompAction::Errno(libc::ENOSYS as u32), allow.clone())?;
        }
        let sends = if phase == Phase::Carrying { SENDS } else { &[] };
        // Of two rules for a call the later holds.
        let work = unconditionally(WORK).chain(with_arguments()).chain(unconditionally(sends));
        install(work.chain(refused()), allow, breach)
    }

    const fn unconditional(number: i64) -> Call {
        (number, Vec::new())
    }

    /// Installs a filter that does one thing with those calls and another with all others.
    fn install(
        calls: impl Iterator<Item = Call>,
        with: SeccompAction,
        otherwise: SeccompAction,
    ) -> Result<(), seccompiler::Error> {
        let so = |(argument, bits, value)| {
            let operator = SeccompCmpOp::MaskedEq(bits);
            SeccompCondition::new(argument, SeccompCmpArgLen::Dword, operator, value)
        };
        let rules = calls.map(|(number, conditions)| {
            let all = conditions.into_iter().map(so).collect::<Result<Vec<_>, _>>()?;
            // No rule: whatever its arguments are.
            let rule = if all.is_empty() { None } else { Some(SeccompRule::new(all)?) };
            Ok((number, rule.into_iter().collect()))
        });
        let rules = rules.collect::<Result<_, BackendError>>()?;
        let architecture = std::env::consts::ARCH.try_into()?;
        let filter = SeccompFilter::new(rules, otherwise, with, architecture)?;
        seccompiler::apply_filter(&BpfProgram::try_from(filter)?)
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use std::panic::{AssertUnwindSafe, catch_unwind};

    use nix::errno::Errno;
    use nix::libc;
    use nix::sys::wait::{WaitStatus, waitpid};
    use nix::unistd::{ForkResult, fork};

    /// Makes any system call.
    pub(crate) fn call(number: i64, arguments: [i64; 6]) -> nix::Result<i64> {
        let [a, b, c, d, e, f] = arguments;
        // SAFETY: whoever makes it is a process of its own that ends then.
        Errno::result(unsafe { libc::syscall(number, a, b, c, d, e, f) })
    }

    /// Does something in a process of one thread, and tells how that ended: by the error that came of
    /// it, 101 where it panicked, by a signal.
    pub(crate) fn alone(deed: impl FnOnce() -> nix::Result<i64>) -> WaitStatus {
        // SAFETY: the only other thread waits for this one and holds no lock.
        match unsafe { fork() }.unwrap() {
            ForkResult::Parent { child } => waitpid(child, None).unwrap(),
            ForkResult::Child => {
                let done = catch_unwind(AssertUnwindSafe(deed));
                let status = done.map_or(101, |done| done.err().map_or(0, |errno| errno as i64));
                let _ = call(libc::SYS_exit_group, [status, 0, 0, 0, 0, 0]);
                unreachable!("it has ended")
            }
        }
    }
}
