//! Runs commands: each for as long as its job allows, none able to hold up another for long.
//!
//! The jobs of one door run one after the other, because programs such as iptables take a lock and
//! some fail when it is taken. A command that has not ended after [`PATIENCE`] no longer keeps the
//! next job of its door waiting.

use std::collections::{HashMap, VecDeque};
use std::fs::File;
use std::io::{self, Read};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::process::{Child, ExitStatus, Stdio};
use std::sync::Arc;
use std::time::Duration;

use tracing::{error, info, warn};

use super::{Failure, Finished, Job, OnFailure};
use crate::config::{Name, Rendered};
use crate::sys::command_table::{CommandTable, SLOTS};
use crate::sys::{files, process};
use crate::time::Monotonic;

/// How long the next job of a door waits for the one before it.
const PATIENCE: Duration = Duration::from_millis(250);
/// How many commands run at once; more wait.
const AT_ONCE: usize = SLOTS;
/// How much of a command's output is logged, in lines and in bytes of each.
const OUTPUT_LINES: usize = 20;
const OUTPUT_WIDTH: usize = 400;

/// The jobs that run and those that wait.
pub struct Commands {
    /// Where those that run are written down.
    table: Option<Arc<CommandTable>>,
    running: Vec<Running>,
    /// What ended commands have left in the background prints to these: closed, they would kill it.
    left: VecDeque<(Name, Output)>,
    waiting: HashMap<Name, VecDeque<Job>>,
    finished: Vec<Finished>,
}

struct Running {
    job: Job,
    /// The place in the job of the command that runs.
    at: usize,
    done: usize,
    failure: Option<Failure>,
    job_started: Monotonic,
    command_started: Monotonic,
    child: Child,
    killed: bool,
    output: Output,
    /// Its place in the table.
    slot: usize,
}

impl Running {
    fn killed_at(&self) -> Option<Monotonic> {
        self.job.limit.map(|limit| self.command_started + limit)
    }
}

impl Commands {
    /// Those that run are written down in a [table](CommandTable) at this path.
    #[must_use]
    pub fn new(table: &Path) -> Self {
        let created = CommandTable::create(table).inspect_err(|error| {
            let path = table.display();
            warn!("cannot write {path}: {error}; what a command starts outlives a crash of knockd");
        });
        Self {
            table: created.ok(),
            running: Vec::new(),
            left: VecDeque::new(),
            waiting: HashMap::new(),
            finished: Vec::new(),
        }
    }

    /// Whether nothing runs and nothing waits.
    #[must_use]
    pub fn is_idle(&self) -> bool {
        self.running.is_empty() && self.waiting.is_empty() && self.finished.is_empty()
    }

    /// Starts what may start now.
    fn start_waiting(&mut self, now: Monotonic) {
        let doors: Vec<Name> = self.waiting.keys().cloned().collect();
        for door in doors {
            while self.running.len() < AT_ONCE && !self.is_held_up(&door, now) {
                let Some(queue) = self.waiting.get_mut(&door) else { break };
                let job = queue.pop_front();
                if queue.is_empty() {
                    self.waiting.remove(&door);
                }
                let Some(job) = job else { break };
                self.start(now, now, job, 0, 0, None);
            }
        }
    }

    /// Whether a job of this door is running that may still end soon.
    fn is_held_up(&self, door: &Name, now: Monotonic) -> bool {
        self.last_started(door).is_some_and(|started| now.since(started) < PATIENCE)
    }

    fn last_started(&self, door: &Name) -> Option<Monotonic> {
        let of_door = self.running.iter().filter(|running| running.job.door == *door);
        of_door.map(|running| running.job_started).max()
    }

    /// Runs the command at `at`, or the next that can be started, or finishes the job.
    fn start(
        &mut self,
        now: Monotonic,
        job_started: Monotonic,
        job: Job,
        mut at: usize,
        done: usize,
        mut failure: Option<Failure>,
    ) {
        while let Some(command) = job.commands.get(at)
            && (failure.is_none() || job.on_failure == OnFailure::GoOn)
        {
            info!(door = %job.door, "running command: {command}");
            let taken = |slot: &usize| self.running.iter().any(|other| other.slot == *slot);
            let slot = (0..SLOTS).find(|slot| !taken(slot)).unwrap_or_default();
            match self.spawn(command, slot) {
                Ok((child, output)) => {
                    let running = Running {
                        job,
                        at,
                        done,
                        failure,
                        job_started,
                        command_started: now,
                        child,
                        killed: false,
                        output,
                        slot,
                    };
                    self.running.push(running);
                    return;
                }
                Err(error) => {
                    self.table.iter().for_each(|table| table.clear(slot));
                    let program = command.argv.first().cloned().unwrap_or_default();
                    let why = Failure::NotStarted { program, reason: error.to_string() };
                    error!(door = %job.door, "{why}");
                    failure.get_or_insert(why);
                    at += 1;
                }
            }
        }
        self.finished.push(Finished { id: job.id, done, failure });
    }

    fn spawn(&self, command: &Rendered, slot: usize) -> io::Result<(Child, Output)> {
        let (read, write) = files::output_pipe()?;
        let (argv, environment) = (&command.argv, &command.environment);
        let slot = self.table.as_ref().map(|table| (table, slot));
        let child = process::run(argv, environment, Stdio::null(), write, slot)?;
        Ok((child, Output { pipe: Some(read.into()), line: Vec::new(), lines: 0 }))
    }

    /// Takes note of a command that has ended and goes on with its job.
    fn command_ended(&mut self, now: Monotonic, mut running: Running, status: ExitStatus) {
        running.output.drain(&running.job.door);
        running.output.finish(&running.job.door);
        self.table.iter().for_each(|table| table.clear(running.slot));
        if self.left.len() >= AT_ONCE {
            self.left.pop_front();
        }
        self.left.push_back((running.job.door.clone(), running.output));
        let why = match (running.killed, status.code(), status.signal()) {
            (true, ..) => Some(Failure::TimedOut(running.job.limit.unwrap_or_default())),
            (_, Some(0), _) => None,
            (_, Some(code), _) => Some(Failure::Status(code)),
            (_, None, signal) => Some(Failure::Signal(signal.unwrap_or(0))),
        };
        match why {
            None if running.failure.is_none() => running.done += 1,
            None => {}
            Some(why) => {
                warn!(door = %running.job.door, "{why}");
                running.failure.get_or_insert(why);
            }
        }
        let Running { job, at, done, failure, job_started, .. } = running;
        self.start(now, job_started, job, at + 1, done, failure);
    }
}

impl Commands {
    /// Takes a job; it starts now or when its turn comes.
    pub fn submit(&mut self, now: Monotonic, job: Job) {
        self.waiting.entry(job.door.clone()).or_default().push_back(job);
        self.start_waiting(now);
    }

    /// Looks after what runs, and tells what has ended since the last call.
    pub fn poll(&mut self, now: Monotonic) -> Vec<Finished> {
        let mut at = 0;
        while let Some(running) = self.running.get_mut(at) {
            running.output.drain(&running.job.door);
            match running.child.try_wait() {
                Ok(Some(status)) => {
                    let running = self.running.swap_remove(at);
                    self.command_ended(now, running, status);
                }
                Ok(None) => {
                    if !running.killed && running.killed_at().is_some_and(|at| at <= now) {
                        process::kill_group(&running.child);
                        running.killed = true;
                    }
                    at += 1;
                }
                Err(error) => {
                    // Only a bug takes a child away from its parent; the job must still end.
                    error!(door = %running.job.door, "lost sight of a command: {error}");
                    let running = self.running.swap_remove(at);
                    self.finished.push(Finished {
                        id: running.job.id,
                        done: running.done,
                        failure: Some(Failure::Signal(0)),
                    });
                }
            }
        }
        self.left.retain_mut(|(door, output)| {
            output.drain(door);
            output.pipe.is_some()
        });
        self.start_waiting(now);
        std::mem::take(&mut self.finished)
    }

    /// When [`poll`](Self::poll) has to be called next, whatever else happens.
    #[must_use]
    pub fn next_deadline(&self) -> Option<Monotonic> {
        if !self.finished.is_empty() {
            return Some(Monotonic::ZERO);
        }
        let limits =
            self.running.iter().filter(|running| !running.killed).filter_map(Running::killed_at);
        let patience = self
            .waiting
            .keys()
            .filter(|_| self.running.len() < AT_ONCE)
            .filter_map(|door| self.last_started(door).map(|started| started + PATIENCE));
        limits.chain(patience).min()
    }

    /// What makes a call of [`poll`](Self::poll) worth while as soon as it is readable.
    #[must_use]
    pub fn fds(&self) -> Vec<BorrowedFd<'_>> {
        let left = self.left.iter().filter_map(|(_, output)| output.fd());
        self.running.iter().filter_map(|running| running.output.fd()).chain(left).collect()
    }
}

/// What a command prints, line by line into the log; the rest of a flood is thrown away.
struct Output {
    pipe: Option<File>,
    line: Vec<u8>,
    lines: usize,
}

impl Output {
    fn fd(&self) -> Option<BorrowedFd<'_>> {
        self.pipe.as_ref().map(File::as_fd)
    }

    /// Reads what is there now, a bounded amount at a time.
    fn drain(&mut self, door: &Name) {
        let mut buffer = [0; 16 * 1024];
        for _ in 0..8 {
            let Some(pipe) = &mut self.pipe else { return };
            match pipe.read(&mut buffer) {
                Ok(0) => self.pipe = None,
                Ok(count) => buffer.iter().take(count).for_each(|&byte| self.take(byte, door)),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return,
                Err(_) => self.pipe = None,
            }
        }
    }

    fn take(&mut self, byte: u8, door: &Name) {
        if byte == b'\n' {
            self.say(door);
        } else if self.line.len() < OUTPUT_WIDTH {
            self.line.push(byte);
        }
    }

    fn say(&mut self, door: &Name) {
        self.lines += 1;
        let line = String::from_utf8_lossy(&self.line);
        match self.lines {
            1..=OUTPUT_LINES => info!(door = %door, "command says: {line}"),
            lines if lines == OUTPUT_LINES + 1 => {
                info!(door = %door, "command says more, which is not logged");
            }
            _ => {}
        }
        self.line.clear();
    }

    fn finish(&mut self, door: &Name) {
        if !self.line.is_empty() {
            self.say(door);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::JobId;
    use super::*;

    fn at(millis: u64) -> Monotonic {
        Monotonic::ZERO + Duration::from_secs(1000) + Duration::from_millis(millis)
    }

    fn shell(text: &str) -> Rendered {
        let argv = ["/bin/sh", "-c", text].map(str::to_owned).to_vec();
        Rendered { argv, environment: vec![("KNOCK_IP", "192.0.2.2".to_owned())] }
    }

    fn job(id: u64, door: &str, commands: &[Rendered], on_failure: OnFailure) -> Job {
        let door = door.parse().unwrap();
        let limit = Some(Duration::from_secs(10));
        Job { id: JobId(id), door, commands: commands.to_vec(), limit, on_failure }
    }

    /// Waits in real time, while the clock that the commands see stands at `now`.
    fn wait_for(commands: &mut Commands, now: Monotonic, count: usize) -> Vec<Finished> {
        let mut finished = Vec::new();
        for _ in 0..2000 {
            finished.extend(commands.poll(now));
            if finished.len() >= count {
                return finished;
            }
            std::thread::sleep(Duration::from_millis(5));
        }
        panic!("only {finished:?} came");
    }

    fn outcome(commands: &[Rendered], on_failure: OnFailure) -> (usize, Option<Failure>) {
        let mut runner = Commands::new(Path::new("/no/such/table"));
        runner.submit(at(0), job(1, "ssh", commands, on_failure));
        let finished = wait_for(&mut runner, at(0), 1);
        assert!(runner.is_idle());
        (finished[0].done, finished[0].failure.clone())
    }

    #[test]
    fn commands_of_a_job_run_one_after_the_other() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("out");
        let append = |text: &str| shell(&format!("sleep 0.02; echo {text} >> {}", file.display()));
        let all = [append("one"), append("two"), append("three")];
        assert_eq!(outcome(&all, OnFailure::Stop), (3, None));
        assert_eq!(std::fs::read_to_string(&file).unwrap(), "one\ntwo\nthree\n");
    }

    #[test]
    fn opening_stops_at_the_first_failure() {
        let commands = [shell("exit 0"), shell("exit 3"), shell("exit 0")];
        assert_eq!(outcome(&commands, OnFailure::Stop), (1, Some(Failure::Status(3))));
    }

    #[test]
    fn closing_goes_on_after_a_failure() {
        let dir = tempfile::tempdir().unwrap();
        let touch = shell(&format!("touch {}", dir.path().join("closed").display()));
        let (_, failure) = outcome(&[shell("exit 3"), touch], OnFailure::GoOn);
        assert_eq!(failure, Some(Failure::Status(3)));
        assert!(dir.path().join("closed").exists());
    }

    #[test]
    fn a_program_that_does_not_exist_is_a_failure_with_its_name() {
        let command =
            Rendered { argv: vec!["/no/such/program".to_owned()], environment: Vec::new() };
        let (done, failure) = outcome(&[command], OnFailure::Stop);
        assert_eq!(done, 0);
        assert!(
            matches!(failure, Some(Failure::NotStarted { program, .. }) if program == "/no/such/program")
        );
    }

    #[test]
    fn a_command_that_hangs_is_killed_after_its_time_with_its_children() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("pid");
        let mut runner = Commands::new(Path::new("/no/such/table"));
        let hangs = shell(&format!("sleep 1000 & echo $! > {}; wait", file.display()));
        runner.submit(at(0), job(1, "ssh", &[hangs], OnFailure::Stop));
        let pid = loop {
            assert!(runner.poll(at(9_999)).is_empty());
            let text = std::fs::read_to_string(&file).unwrap_or_default();
            if let Ok(pid) = text.trim().parse::<i32>() {
                break pid;
            }
            std::thread::sleep(Duration::from_millis(5));
        };
        let finished = wait_for(&mut runner, at(10_000), 1);
        assert_eq!(finished[0].failure, Some(Failure::TimedOut(Duration::from_secs(10))));
        assert!(finished[0].failure.as_ref().is_some_and(Failure::is_doubtful));
        let gone = || {
            std::fs::read_to_string(format!("/proc/{pid}/stat"))
                .map_or(true, |stat| stat.contains(") Z "))
        };
        for _ in 0..1000 {
            if gone() {
                return;
            }
            std::thread::sleep(Duration::from_millis(5));
        }
        panic!("the child of the command lives on");
    }

    #[test]
    fn a_command_without_a_limit_runs_as_long_as_it_does() {
        let mut runner = Commands::new(Path::new("/nonexistent"));
        let long = shell("sleep 0.2");
        runner.submit(at(0), Job { limit: None, ..job(1, "ssh", &[long], OnFailure::Stop) });
        assert!(runner.poll(at(1_000_000_000)).is_empty());
        assert_eq!(runner.next_deadline(), None);
        assert_eq!(wait_for(&mut runner, at(1_000_000_000), 1)[0].failure, None);
    }

    #[test]
    fn what_a_command_leaves_in_the_background_may_print_after_its_end() {
        let dir = tempfile::tempdir().unwrap();
        let closed = dir.path().join("closed");
        let text = format!("(sleep 0.3; echo closing; touch {}) &", closed.display());
        let mut runner = Commands::new(Path::new("/nonexistent"));
        runner.submit(at(0), job(1, "ssh", &[shell(&text)], OnFailure::Stop));
        assert_eq!(wait_for(&mut runner, at(0), 1)[0].failure, None);
        assert!(runner.is_idle());
        for _ in 0..2000 {
            let _nothing = runner.poll(at(0));
            if closed.exists() && runner.fds().is_empty() {
                return;
            }
            std::thread::sleep(Duration::from_millis(5));
        }
        panic!("it was ended, or is still listened to");
    }

    #[test]
    fn a_flood_of_output_neither_blocks_the_command_nor_fills_the_log() {
        let flood = shell("head -c 3000000 /dev/zero | tr '\\0' 'x'; yes | head -n 20000");
        assert_eq!(outcome(&[flood], OnFailure::Stop), (1, None));
    }

    #[test]
    fn jobs_of_one_door_take_turns_and_those_of_another_do_not_wait() {
        let mut runner = Commands::new(Path::new("/no/such/table"));
        let hangs = shell("exec sleep 1000");
        runner.submit(at(0), job(1, "slow", &[hangs], OnFailure::Stop));
        runner.submit(at(0), job(2, "slow", &[shell("exit 0")], OnFailure::Stop));
        runner.submit(at(0), job(3, "fast", &[shell("exit 0")], OnFailure::Stop));
        assert_eq!(wait_for(&mut runner, at(100), 1)[0].id, JobId(3));
        assert_eq!(runner.next_deadline(), Some(at(250)));
        // The hanging one has used up everybody's patience.
        assert_eq!(wait_for(&mut runner, at(250), 1)[0].id, JobId(2));
        assert_eq!(wait_for(&mut runner, at(10_000), 1)[0].id, JobId(1));
    }

    #[test]
    fn a_command_sees_its_values_and_nothing_of_the_daemons_environment() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("env");
        let command = shell(&format!("env | sort > {}", file.display()));
        assert_eq!(outcome(&[command], OnFailure::Stop), (1, None));
        let text = std::fs::read_to_string(&file).unwrap();
        let names: Vec<&str> = text.lines().filter_map(|line| line.split('=').next()).collect();
        assert_eq!(names, ["KNOCK_IP", "PATH", "PWD"]);
    }
}
