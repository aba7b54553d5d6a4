//! Ending what the commands of a keeper that was killed have left behind.
//!
//! The kernel kills a command with its keeper, but not what the command has started. All of it
//! carries the keeper's mark in its environment, and is found by that.

use std::fs;
use std::io;
use std::time::Duration;

use nix::errno::Errno;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use super::clock;

/// The variable that marks the commands of a keeper: its value is the keeper's state directory.
pub const MARK: &str = "KNOCKD_STATE_DIR";

/// How long a killed process may take to go.
const LIMIT: Duration = Duration::from_secs(5);
/// How often in a row none must be found.
const LOOKS: u32 = 2;
const PAUSE: Duration = Duration::from_millis(5);

/// Kills every process that carries this mark, and returns when none is left. How many there were.
///
/// # Errors
/// When the processes cannot be listed, or one does not go: it may still act.
pub fn end(state_dir: &str) -> io::Result<usize> {
    let mark = format!("{MARK}={state_dir}");
    let limit = clock::now().monotonic + LIMIT;
    let (mut ended, mut looks_without) = (0, 0);
    loop {
        let marked = marked(&mark)?;
        // While a process changes its program its environment cannot be seen for a moment.
        looks_without = if marked.is_empty() { looks_without + 1 } else { 0 };
        if looks_without >= LOOKS {
            return Ok(ended);
        }
        ended = ended.max(marked.len());
        for pid in marked {
            match kill(pid, Signal::SIGKILL) {
                Ok(()) | Err(Errno::ESRCH) => {}
                Err(errno) => return Err(errno.into()),
            }
        }
        if clock::now().monotonic >= limit {
            return Err(io::Error::other("a command of an earlier knockd does not end"));
        }
        std::thread::sleep(PAUSE);
    }
}

/// A process that is going has no environment any more, so it is not found again.
fn marked(mark: &str) -> io::Result<Vec<Pid>> {
    let own = nix::unistd::getpid();
    let mut found = Vec::new();
    for entry in fs::read_dir("/proc")? {
        // A process may end while it is looked at.
        let Ok(entry) = entry else { continue };
        let Some(pid) = entry.file_name().to_str().and_then(|name| name.parse().ok()) else {
            continue;
        };
        let pid = Pid::from_raw(pid);
        let Ok(environment) = fs::read(entry.path().join("environ")) else { continue };
        let is_marked = environment.split(|&byte| byte == 0).any(|one| one == mark.as_bytes());
        if is_marked && pid != own {
            found.push(pid);
        }
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::super::{files, process};
    use super::*;

    #[test]
    fn what_carries_the_mark_is_ended_with_what_it_has_started() {
        let dir = tempfile::tempdir().unwrap();
        let state_dir = dir.path().display().to_string();
        let (_read, write) = files::output_pipe().unwrap();
        let script = "setsid sleep 1000 & sleep 1000 & exec sleep 1000".to_owned();
        let argv = ["/bin/sh".to_owned(), "-c".to_owned(), script];
        let mut child = process::run(&argv, &[(MARK, state_dir.clone())], write).unwrap();
        let mark = format!("{MARK}={state_dir}");
        while marked(&mark).unwrap().len() < 3 {
            std::thread::sleep(PAUSE);
        }
        assert_eq!(end(&state_dir).unwrap(), 3);
        assert!(!child.wait().unwrap().success());
        assert!(marked(&mark).unwrap().is_empty());
    }

    #[test]
    fn nothing_else_is_touched() {
        assert_eq!(end("/no/such/state/directory").unwrap(), 0);
    }
}
