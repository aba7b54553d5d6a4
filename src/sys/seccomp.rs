//! seccomp: the system calls that the watcher may make, in each of its phases.
//!
//! All that is allowed stands here. Whoever adds a system call to the watcher's work adds it to
//! [`list::working`], with its reason; `tests/netns/sandbox.rs` takes the watcher through all that it
//! does under the filter.

use std::io;

use super::sandbox::SeccompState;
use crate::config::SandboxMode;

/// A phase of the watcher's life.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Phase {
    /// Until it captures and root is gone: libpcap opens what it needs, and no packet has been
    /// looked at. What no opening takes is forbidden.
    Opening,
    /// From then on only what its work takes is allowed.
    Working,
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
    return list::restrict(phase, state).map(|()| state);
    #[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
    return Ok(SeccompState::NoList);
}

#[cfg(any(target_arch = "x86_64", target_arch = "aarch64"))]
mod list {
    use std::collections::BTreeMap;
    use std::io;
    use std::ops::RangeInclusive;

    use nix::libc;
    use seccompiler::{
        BackendError, BpfProgram, SeccompAction, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition,
        SeccompFilter, SeccompRule,
    };

    use super::{Phase, SeccompError};
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

    /// What the watcher's work takes. Besides that, libraries are told that there is no `setsockopt`,
    /// which libpcap calls when it closes a capture and can do without.
    pub(super) fn working() -> Vec<Call> {
        let own = u64::from(std::process::id());
        let any = [
            // Waiting; the second is libpcap's.
            libc::SYS_ppoll,
            #[cfg(target_arch = "x86_64")]
            libc::SYS_poll,
            libc::SYS_restart_syscall,
            // What the keeper says, what libpcap wakes itself with, and errors and counts of packets.
            libc::SYS_recvfrom,
            libc::SYS_recvmsg,
            libc::SYS_read,
            libc::SYS_getsockopt,
            libc::SYS_getsockname,
            libc::SYS_close,
            // Memory; locks, where a library takes one.
            libc::SYS_brk,
            libc::SYS_munmap,
            libc::SYS_mremap,
            libc::SYS_madvise,
            libc::SYS_futex,
            libc::SYS_sched_yield,
            // Clocks and chance, where they are not had without a system call.
            libc::SYS_clock_gettime,
            libc::SYS_gettimeofday,
            #[cfg(target_arch = "x86_64")]
            libc::SYS_time,
            libc::SYS_getrandom,
            // Ending, by itself and by a fault, so that the keeper is told which.
            libc::SYS_exit,
            libc::SYS_exit_group,
            libc::SYS_sigaltstack,
            libc::SYS_rt_sigaction,
            libc::SYS_rt_sigprocmask,
            libc::SYS_rt_sigreturn,
            libc::SYS_getpid,
            libc::SYS_gettid,
        ];
        let some = [
            (libc::SYS_sendto, vec![TO_KEEPER]),
            (libc::SYS_write, vec![TO_STDERR]),
            (libc::SYS_writev, vec![TO_STDERR]),
            (libc::SYS_mmap, vec![NOT_TO_RUN]),
            (libc::SYS_mprotect, vec![NOT_TO_RUN]),
            // libpcap asks so whether an interface has gone or is merely down.
            (libc::SYS_ioctl, vec![(1, ALL_BITS, SIOCGIFFLAGS)]),
            // What abort(3) ends with.
            (libc::SYS_tgkill, vec![(0, ALL_BITS, own), (2, ALL_BITS, libc::SIGABRT as u64)]),
        ];
        any.map(unconditional).into_iter().chain(some).collect()
    }

    const SIOCGIFFLAGS: u64 = 0x8913;

    /// What no opening of a capture takes, and no giving up of root: other programs and processes,
    /// other people's memory, mounts and namespaces, the kernel's own parts, the clock.
    const NEVER: &[i64] = &[
        libc::SYS_execve,
        libc::SYS_execveat,
        #[cfg(target_arch = "x86_64")]
        libc::SYS_fork,
        #[cfg(target_arch = "x86_64")]
        libc::SYS_vfork,
        libc::SYS_clone,
        libc::SYS_clone3,
        libc::SYS_ptrace,
        libc::SYS_process_vm_readv,
        libc::SYS_process_vm_writev,
        libc::SYS_process_madvise,
        libc::SYS_pidfd_open,
        libc::SYS_pidfd_getfd,
        libc::SYS_pidfd_send_signal,
        libc::SYS_kill,
        libc::SYS_tkill,
        libc::SYS_kcmp,
        libc::SYS_mount,
        libc::SYS_umount2,
        libc::SYS_move_mount,
        libc::SYS_mount_setattr,
        libc::SYS_open_tree,
        libc::SYS_fsopen,
        libc::SYS_fsmount,
        libc::SYS_pivot_root,
        libc::SYS_chroot,
        libc::SYS_setns,
        libc::SYS_unshare,
        libc::SYS_init_module,
        libc::SYS_finit_module,
        libc::SYS_delete_module,
        libc::SYS_kexec_load,
        libc::SYS_reboot,
        libc::SYS_swapon,
        libc::SYS_swapoff,
        libc::SYS_bpf,
        libc::SYS_perf_event_open,
        libc::SYS_userfaultfd,
        libc::SYS_io_uring_setup,
        libc::SYS_add_key,
        libc::SYS_request_key,
        libc::SYS_keyctl,
        libc::SYS_settimeofday,
        libc::SYS_clock_settime,
        libc::SYS_clock_adjtime,
        libc::SYS_adjtimex,
        #[cfg(target_arch = "x86_64")]
        libc::SYS_iopl,
        #[cfg(target_arch = "x86_64")]
        libc::SYS_ioperm,
        libc::SYS_personality,
        libc::SYS_listen,
        libc::SYS_accept,
        libc::SYS_accept4,
    ];

    pub(super) fn restrict(phase: Phase, state: SeccompState) -> Result<(), SeccompError> {
        let is_enforced = state == SeccompState::Enforced;
        let breach = if is_enforced { SeccompAction::KillProcess } else { SeccompAction::Log };
        match phase {
            Phase::Opening => {
                install(NEVER.iter().copied().map(unconditional), breach, SeccompAction::Allow)
            }
            Phase::Working => {
                let refused = [libc::SYS_setsockopt].into_iter().chain(NEWER).map(unconditional);
                // Of two filters the harsher wins, and the last would not let another be set.
                if is_enforced {
                    let error = SeccompAction::Errno(libc::ENOSYS as u32);
                    install(refused.clone(), error, SeccompAction::Allow)?;
                }
                install(working().into_iter().chain(refused), SeccompAction::Allow, breach)
            }
        }
    }

    const fn unconditional(number: i64) -> Call {
        (number, Vec::new())
    }

    /// Installs a filter that does one thing with those calls and another with all others.
    fn install(
        calls: impl Iterator<Item = Call>,
        with: SeccompAction,
        otherwise: SeccompAction,
    ) -> Result<(), SeccompError> {
        seccompiler::apply_filter(&program(calls, with, otherwise).map_err(refused)?)
            .map_err(refused)
    }

    fn program(
        calls: impl Iterator<Item = Call>,
        with: SeccompAction,
        otherwise: SeccompAction,
    ) -> Result<BpfProgram, BackendError> {
        let so = |(argument, bits, value)| {
            let operator = SeccompCmpOp::MaskedEq(bits);
            SeccompCondition::new(argument, SeccompCmpArgLen::Dword, operator, value)
        };
        let rules = calls.map(|(number, conditions)| {
            let rules = match conditions.as_slice() {
                [] => Vec::new(),
                _ => vec![SeccompRule::new(
                    conditions.into_iter().map(so).collect::<Result<_, _>>()?,
                )?],
            };
            Ok((number, rules))
        });
        let rules = rules.collect::<Result<BTreeMap<i64, Vec<SeccompRule>>, _>>()?;
        let architecture = std::env::consts::ARCH.try_into()?;
        SeccompFilter::new(rules, otherwise, with, architecture)?.try_into()
    }

    fn refused(error: impl Into<seccompiler::Error>) -> SeccompError {
        SeccompError(match error.into() {
            seccompiler::Error::Prctl(error) | seccompiler::Error::Seccomp(error) => error,
            other => io::Error::other(other),
        })
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
