//! The end of watchers: those that have been told to, and what is said of how they have.

use std::os::unix::process::ExitStatusExt;
use std::process::ExitStatus;

use nix::sys::signal::Signal;
use tracing::warn;

use super::WatcherProcess;
use crate::time::Monotonic;

/// How many may have been told to end and not have ended before no other is started.
const MOST: usize = 8;

/// The watchers that have been told to end, and whether they should have, which has been said then.
#[derive(Default)]
pub(super) struct EndingWatchers(Vec<(WatcherProcess, bool)>);

impl EndingWatchers {
    /// Ends a watcher, and does not wait for that.
    pub(super) fn end(&mut self, mut watcher: WatcherProcess) {
        watcher.kill();
        self.0.push((watcher, false));
    }

    pub(super) fn poll(&mut self, now: Monotonic) {
        self.0.retain_mut(|(watcher, is_late)| {
            let is_alive = watcher.is_alive();
            if is_alive && !*is_late && watcher.end_by().is_some_and(|by| by <= now) {
                *is_late = true;
                let pid = watcher.pid();
                warn!("a watcher (process {pid}) does not end, and may not be killed");
            }
            is_alive
        });
    }

    pub(super) const fn are_too_many(&self) -> bool {
        self.0.len() >= MOST
    }

    /// Those that may still end in time.
    pub(super) fn due(&self) -> impl Iterator<Item = &WatcherProcess> {
        self.0.iter().filter(|(_, is_late)| !is_late).map(|(watcher, _)| watcher)
    }
}

/// The end of a watcher, shown as what the log says of it.
#[derive(derive_more::Display)]
pub(super) enum WatcherEnd {
    /// It is to be ended, since it sent this: somebody must have taken it over.
    #[display("the watcher is ended: it sent {_0}, which no watcher of ours does")]
    Lied(&'static str),
    /// It has ended or is done; how, where that is known.
    #[display("the watcher ended ({})", how_ended(*_0))]
    Over(Option<ExitStatus>),
}

/// How a watcher has ended; where its sandbox has ended it also what that means, and what to do.
pub(super) fn how_ended(status: Option<ExitStatus>) -> String {
    let Some(status) = status else { return "status unknown".to_owned() };
    if status.signal() != Some(Signal::SIGSYS as i32) {
        return status.to_string();
    }
    format!(
        "{status}: it made a system call that a watcher does not make: somebody may have taken it over, \
         or a new libc or libpcap wants more; the kernel's log names it ('syscall=' after 'type=1326'); \
         'knockd: {{sandbox: log}}' has it logged instead of ended"
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn how_a_watcher_ended_is_one_line_also_where_its_sandbox_has_ended_it() {
        let of = |signal: Signal| how_ended(Some(ExitStatus::from_raw(signal as i32)));
        assert_eq!(of(Signal::SIGKILL), "signal: 9 (SIGKILL)");
        let by_sandbox = of(Signal::SIGSYS);
        assert!(by_sandbox.contains("'knockd: {sandbox: log}' has it logged"), "{by_sandbox}");
        assert_eq!(by_sandbox.lines().count(), 1);
    }
}
