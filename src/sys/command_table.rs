//! The table of running commands, in a file: by it, a keeper finds what one that was killed has
//! left running.
//!
//! A command's process writes its line of `/proc/PID/stat` into a slot before it runs its program;
//! the keeper empties the slot when it has seen the command end. The first slot names the boot.
//! Whatever a command has started is in its process group, unless it has left it (setsid): that is
//! not found, and nothing that is not in such a group is ever touched.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read};
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use nix::libc::O_NOFOLLOW;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use super::clock;

/// The bytes of a slot: more than a line needs until the start time.
const SLOT: usize = 512;
/// How many commands the table has room for.
pub(crate) const SLOTS: usize = 128;
/// How often killed processes are looked for until they have gone.
const LOOKS: u32 = 400;
const PAUSE: Duration = Duration::from_millis(5);

/// The table of this keeper's commands: [`SLOTS`] of them, from 0.
#[derive(Debug)]
pub struct CommandTable(File);

impl CommandTable {
    /// Begins an empty table. All the room that it will ever need on the disk is taken now.
    ///
    /// # Errors
    /// What the file system says: commands can run without a table.
    pub fn create(path: &Path) -> io::Result<Arc<Self>> {
        let mut options = OpenOptions::new();
        options.write(true).create(true).truncate(false).mode(0o600).custom_flags(O_NOFOLLOW);
        let file = options.open(path)?;
        let mut bytes = clock::boot_id()?.to_string().into_bytes();
        bytes.resize(SLOT * (SLOTS + 1), 0);
        file.write_all_at(&bytes, 0)?;
        Ok(Arc::new(Self(file)))
    }

    fn write(&self, slot: usize, bytes: &[u8]) -> io::Result<()> {
        self.0.write_all_at(bytes, ((slot + 1) * SLOT) as u64)
    }

    /// Writes the calling process into a slot. Makes system calls and nothing else, so it may be
    /// called between fork and exec.
    pub(super) fn enter(&self, slot: usize) -> io::Result<()> {
        let mut line = [0; SLOT];
        let _ = File::open("/proc/self/stat")?.read(&mut line)?;
        self.write(slot, &line)
    }

    /// The command in a slot has ended, or did not start.
    pub fn clear(&self, slot: usize) {
        // Left in the table, it names a process that is no more.
        let _ = self.write(slot, &[0]);
    }
}

/// Kills what the commands in a table, of an earlier keeper of this boot, have left running.
/// Returns when it is gone; how many processes it was.
///
/// # Errors
/// When the table or the processes cannot be read, or some do not go within two seconds.
pub(crate) fn end_unfinished(path: &Path) -> io::Result<usize> {
    let table = match fs::read(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(0),
        table => table?,
    };
    let commands = unfinished(&table, &clock::boot_id()?.to_string());
    let mut most = 0;
    for _ in 0..LOOKS {
        let mut left = if commands.is_empty() { Vec::new() } else { processes()? };
        let all = left.clone();
        left.retain(|process| commands.iter().any(|command| process.is_of(command, &all)));
        if left.is_empty() {
            return Ok(most);
        }
        most = most.max(left.len());
        for process in left {
            // Errors mean that it has gone, or that it is not ours to kill: then it is still there.
            let _ = kill(Pid::from_raw(process.pid), Signal::SIGKILL);
        }
        std::thread::sleep(PAUSE);
    }
    Err(io::Error::other("they do not end, and may still act"))
}

fn unfinished(table: &[u8], boot: &str) -> Vec<Process> {
    let mut slots = table.chunks(SLOT).map(|slot| slot.split(|&byte| byte == 0).next());
    if slots.next().flatten() != Some(boot.as_bytes()) {
        return Vec::new();
    }
    let lines = slots.flatten().filter_map(|slot| std::str::from_utf8(slot).ok());
    lines.filter_map(Process::parse).filter(|command| command.group == command.pid).collect()
}

fn processes() -> io::Result<Vec<Process>> {
    let stats = fs::read_dir("/proc")?.flatten().filter_map(|entry| {
        // Anything may end while it is looked at.
        Process::parse(&String::from_utf8_lossy(&fs::read(entry.path().join("stat")).ok()?))
    });
    Ok(stats.collect())
}

/// A process that has not ended, as `/proc/PID/stat` tells of it (proc_pid_stat(5)).
#[derive(Clone, Debug, PartialEq, Eq)]
struct Process {
    /// At least 2, as is the group: 0 and 1, and less, mean others to kill(2).
    pid: i32,
    group: i32,
    session: i32,
    /// Clock ticks since the boot.
    started: u64,
}

impl Process {
    fn parse(line: &str) -> Option<Self> {
        let (pid, rest) = line.split_once(" (")?;
        // The name before may hold anything.
        let (_, rest) = rest.rsplit_once(") ")?;
        let field = |number: usize| rest.split_ascii_whitespace().nth(number - 3);
        let process = Self {
            pid: pid.parse().ok()?,
            group: field(5)?.parse().ok()?,
            session: field(6)?.parse().ok()?,
            started: field(22)?.parse().ok()?,
        };
        let is_alive = !["Z", "X"].contains(&field(3)?);
        (is_alive && process.pid > 1 && process.group > 1).then_some(process)
    }

    /// Whether it is this command, or in its group: a number names a group as long as it has a
    /// member, and no other process or group can have it meanwhile. Where another process has the
    /// number now, the command and its group are no more; where a group has it that began anew, it
    /// is in another session.
    fn is_of(&self, command: &Self, all: &[Self]) -> bool {
        let is_taken =
            |process: &Self| process.pid == command.pid && process.started != command.started;
        let is_member = self.group == command.group
            && self.session == command.session
            && self.started >= command.started;
        let is_it = self.pid == command.pid && self.started == command.started;
        is_it || (is_member && !all.iter().any(is_taken))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::{descriptors, process};
    use super::*;
    use crate::config::NewPrivileges;

    fn run(table: &Arc<CommandTable>, script: &str) -> std::process::Child {
        let (_read, write) = descriptors::output_pipe().unwrap();
        let argv = ["/bin/sh", "-c", script].map(str::to_owned);
        process::run(&argv, &[], NewPrivileges::Granted, write, Some((table, 7))).unwrap()
    }

    fn group_of(child: &std::process::Child) -> Vec<Process> {
        let pid = i32::try_from(child.id()).unwrap();
        processes().unwrap().into_iter().filter(|process| process.group == pid).collect()
    }

    fn wait_until(question: impl Fn() -> bool) {
        while !question() {
            std::thread::sleep(PAUSE);
        }
    }

    #[test]
    fn a_command_that_nobody_has_seen_end_is_ended_with_its_group() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("commands");
        let table = CommandTable::create(&path).unwrap();
        let mut child = run(&table, "sleep 1000 & sleep 1000 & exec sleep 1000");
        wait_until(|| group_of(&child).len() == 3);
        assert_eq!(end_unfinished(&path).unwrap(), 3);
        assert!(!child.wait().unwrap().success());
        assert_eq!(group_of(&child), []);
    }

    #[test]
    fn a_group_whose_leader_is_gone_is_ended() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("commands");
        let table = CommandTable::create(&path).unwrap();
        let mut child = run(&table, "sleep 1000 & true");
        child.wait().unwrap();
        assert_eq!(end_unfinished(&path).unwrap(), 1);
    }

    #[test]
    fn what_a_command_that_was_seen_to_end_has_left_running_lives_on() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("commands");
        let table = CommandTable::create(&path).unwrap();
        let mut child = run(&table, "sleep 1000 & true");
        child.wait().unwrap();
        table.clear(7);
        assert_eq!(end_unfinished(&path).unwrap(), 0);
        assert_eq!(group_of(&child).len(), 1);
        process::kill_group(&child);
    }

    #[test]
    fn a_table_of_another_boot_or_none_or_one_that_is_not_a_table_ends_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("commands");
        assert_eq!(end_unfinished(&path).unwrap(), 0);
        let table = CommandTable::create(&path).unwrap();
        let mut child = run(&table, "exec sleep 1000");
        let mut bytes = fs::read(&path).unwrap();
        bytes[0] ^= 1;
        for bytes in [bytes, vec![0xff; 3000], Vec::new()] {
            fs::write(&path, bytes).unwrap();
            assert_eq!(end_unfinished(&path).unwrap(), 0);
        }
        child.kill().unwrap();
        child.wait().unwrap();
    }

    fn process(pid: i32, group: i32, session: i32, started: u64) -> Process {
        Process { pid, group, session, started }
    }

    #[test]
    fn a_number_that_has_gone_to_somebody_else_names_nothing_of_ours() {
        let command = process(100, 100, 50, 1000);
        let child = process(101, 100, 50, 1001);
        assert!(command.is_of(&command, &[]));
        assert!(child.is_of(&command, &[]));
        let another = process(100, 100, 50, 2000);
        assert!(!another.is_of(&command, std::slice::from_ref(&another)));
        assert!(!child.is_of(&command, std::slice::from_ref(&another)));
        for other in [process(101, 100, 51, 1001), process(101, 100, 50, 999)] {
            assert!(!other.is_of(&command, &[]), "{other:?}");
        }
    }

    #[test]
    fn a_line_of_stat_is_read_whatever_the_name_is() {
        let rest = "S 1 7 5 0 -1 4194560 1 2 3 4 5 6 7 8 20 0 1 0 4242 9";
        for name in ["sh", "a b", ") S 1 (", ""] {
            let line = format!("8 ({name}) {rest}");
            assert_eq!(Process::parse(&line), Some(process(8, 7, 5, 4242)), "{line}");
        }
        for line in ["", "8", "8 (sh) S 1 7", &format!("1 (sh) {rest}"), "8 (sh) Z 1 7 5"] {
            assert_eq!(Process::parse(line), None, "{line}");
        }
    }

    proptest! {
        #[test]
        fn no_table_names_a_process_that_kill_takes_for_many(bytes in any::<Vec<u8>>(), pid: i32) {
            let line = format!("{pid} (sh) S 1 {pid} 5 0 0 0 0 0 0 0 0 0 0 0 0 0 0 0 42 0");
            let mut table = vec![b'b'; 1];
            table.resize(SLOT, 0);
            table.extend(line.bytes());
            table.resize(2 * SLOT, 0);
            table.extend(bytes);
            for command in unfinished(&table, "b") {
                prop_assert!(command.pid > 1 && command.group == command.pid);
            }
        }
    }
}
