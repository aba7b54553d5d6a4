//! Commands that open and close doors, run as jobs, and what they print.
//!
//! Each runs for as long as its job allows, and none can hold up another for long. The jobs of one
//! door run one after the other, because programs such as iptables take a lock and some fail when
//! it is taken. A command that has not ended after [`PATIENCE`] no longer keeps the next job of its
//! door waiting. What closes comes before everything else.

mod output;
mod task;

use std::collections::{HashMap, VecDeque};
use std::io;
use std::os::fd::BorrowedFd;
use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::process::{Child, ExitStatus};
use std::sync::Arc;
use std::time::Duration;

use nix::errno::Errno;
use tracing::{debug, error, info, warn};

use self::output::CommandOutput;
use self::task::Phase;
pub(crate) use self::task::{CommandTask, TaskOutcome};
use crate::config::{COMMAND_LIMIT, Name, NewPrivileges, Rendered};
use crate::proto::push_latest;
use crate::sys::command_table::{CommandTable, SLOTS};
use crate::sys::{descriptors, process};
use crate::time::Monotonic;

/// How long the next job of a door waits for the one before it.
const PATIENCE: Duration = Duration::from_millis(250);
/// How many commands run at once; more wait. Some of these are only for what closes.
const AT_ONCE: usize = SLOTS;
const FOR_CLOSING: usize = 32;
/// How many jobs of one door wait, and of all together; what closes always may.
const WAITING: usize = 200;
const WAITING_IN_ALL: usize = 2_000;

/// The number of a job, given back with what came of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct JobId(pub u64);

/// A job: tasks to do one after the other.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Job {
    pub id: JobId,
    /// Whose commands they are: jobs of one door start in the order in which they came, those that
    /// close before all others.
    pub door: Name,
    pub kind: JobKind,
    /// How long each command may run before it is killed; `None`: without end.
    pub limit: Option<Duration>,
    pub new_privileges: NewPrivileges,
    pub tasks: Vec<CommandTask>,
}

/// The purpose of a job, which decides what a failure means for the tasks after it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum JobKind {
    /// Stops at the first failure: a door that opened by half is not an open door.
    Open,
    /// Goes on after a failure: whatever can be closed is.
    Close,
    /// Only looks what is there.
    Look,
}

/// A job that has ended, and what came of it.
#[must_use]
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Finished {
    pub id: JobId,
    /// Of each task in turn; those after one at which the job stopped have none.
    pub outcomes: Vec<TaskOutcome>,
}

impl Finished {
    /// The first failure.
    pub(crate) fn failure(&self) -> Option<&Failure> {
        self.outcomes.iter().find_map(|outcome| match outcome {
            TaskOutcome::Failed(why) => Some(why),
            TaskOutcome::Done | TaskOutcome::Untouched => None,
        })
    }
}

/// The reason why a command failed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Failure {
    #[error("command returned non-zero status code ({0})")]
    Status(i32),
    #[error("command was killed by signal {0}")]
    Signal(i32),
    /// With the limit that was in force.
    #[error("command did not end within {} s and was killed", .0.as_secs())]
    TimedOut(Duration),
    #[error("cannot run {program}: {reason}")]
    NotStarted { program: String, reason: String },
    /// No process, descriptor or memory was to be had: nothing is wrong with the command.
    #[error("cannot run {program} now: {reason}")]
    NoRoom { program: String, reason: String },
    #[error("what it opens is not there after its open command")]
    NotThere,
}

impl Failure {
    fn of_start(program: String, error: &io::Error) -> Self {
        let reason = error.to_string();
        let shortages = [Errno::EAGAIN, Errno::ENOMEM, Errno::EMFILE, Errno::ENFILE];
        match error.raw_os_error().map(Errno::from_raw) {
            Some(errno) if shortages.contains(&errno) => Self::NoRoom { program, reason },
            _ => Self::NotStarted { program, reason },
        }
    }
}

/// The jobs that run and those that wait.
#[derive(Default)]
pub(crate) struct CommandRunner {
    /// Where those that run are written down.
    table: Option<Arc<CommandTable>>,
    running: Vec<Running>,
    /// What ended commands have left in the background prints to these: closed, they would kill it.
    left: VecDeque<CommandOutput>,
    /// By door: what closes, in its order, and then the rest.
    waiting: HashMap<Name, VecDeque<Job>>,
    finished: Vec<Finished>,
}

impl CommandRunner {
    /// A runner without jobs, which writes those that run into a [table](CommandTable) at this
    /// path.
    pub(crate) fn new(table: &Path) -> Self {
        let created = CommandTable::create(table).inspect_err(|error| {
            let path = table.display();
            warn!("cannot write {path}: {error}; what a command starts outlives a crash of knockd");
        });
        Self { table: created.ok(), ..Self::default() }
    }

    /// Whether so many jobs wait, of a door or of all, that no more should be asked for.
    pub(crate) fn is_full(&self, door: &Name) -> bool {
        self.waiting.get(door).is_some_and(|queue| queue.len() >= WAITING)
            || self.waiting.values().map(VecDeque::len).sum::<usize>() >= WAITING_IN_ALL
    }

    /// Takes a job; it starts now or when its turn comes.
    pub(crate) fn submit(&mut self, now: Monotonic, job: Job) {
        let queue = self.waiting.entry(job.door.clone()).or_default();
        let closes = |job: &Job| job.kind == JobKind::Close;
        let at = if closes(&job) { queue.partition_point(closes) } else { queue.len() };
        queue.insert(at, job);
        self.start_waiting(now);
    }

    /// Ends what only looks with the command that runs.
    pub(crate) fn stop_looking(&mut self) {
        let running = self.running.iter_mut().map(|running| {
            let over = running.work.outcomes.len() + 1;
            (&mut running.work.job, over)
        });
        let waiting = self.waiting.values_mut().flatten().map(|job| (job, 0));
        for (job, left) in running.chain(waiting).filter(|(job, _)| job.kind == JobKind::Look) {
            job.tasks.truncate(left);
        }
    }

    /// Lets what runs for these jobs run for so long at most.
    pub(crate) fn limit(&mut self, is_meant: impl Fn(JobId) -> bool, limit: Duration) {
        let jobs = self.running.iter_mut().map(|running| &mut running.work.job);
        for job in jobs.filter(|job| is_meant(job.id)) {
            job.limit = Some(job.limit.map_or(limit, |own| own.min(limit)));
        }
    }

    /// Lets nothing that waits start any more, except what closes.
    pub(crate) fn only_close(&mut self) {
        for job in self.waiting.values_mut().flatten().filter(|job| job.kind == JobKind::Open) {
            job.kind = JobKind::Close;
            job.tasks.clear();
        }
    }

    /// Looks after what runs, and tells what has ended since the last call.
    pub(crate) fn poll(&mut self, now: Monotonic) -> Vec<Finished> {
        let mut at = 0;
        while let Some(running) = self.running.get_mut(at) {
            running.output.drain();
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
                    let Work { job, mut outcomes, .. } = self.running.swap_remove(at).work;
                    error!(door = %job.door, "lost sight of a command: {error}");
                    outcomes.push(TaskOutcome::Failed(Failure::Signal(0)));
                    self.finished.push(Finished { id: job.id, outcomes });
                }
            }
        }
        self.left.retain_mut(|output| {
            output.drain();
            output.fd().is_some()
        });
        self.start_waiting(now);
        std::mem::take(&mut self.finished)
    }

    /// When [`poll`](Self::poll) has to be called next, whatever else happens.
    pub(crate) fn next_deadline(&self) -> Option<Monotonic> {
        if !self.finished.is_empty() {
            return Some(Monotonic::ZERO);
        }
        let limits =
            self.running.iter().filter(|running| !running.killed).filter_map(Running::killed_at);
        let patience = self
            .waiting
            .iter()
            .filter(|(_, queue)| queue.front().is_some_and(|job| self.has_room(job)))
            .filter_map(|(door, _)| self.last_started(door).map(|started| started + PATIENCE));
        limits.chain(patience).min()
    }

    /// What makes a call of [`poll`](Self::poll) worth while as soon as it is readable.
    pub(crate) fn fds(&self) -> Vec<BorrowedFd<'_>> {
        let running = self.running.iter().map(|running| &running.output);
        running.chain(&self.left).filter_map(CommandOutput::fd).collect()
    }

    /// Starts what may start now.
    fn start_waiting(&mut self, now: Monotonic) {
        let doors: Vec<Name> = self.waiting.keys().cloned().collect();
        for door in doors {
            while let Some(queue) = self.waiting.get(&door)
                && queue.front().is_some_and(|job| self.has_room(job))
                && self.last_started(&door).is_none_or(|at| now.since(at) >= PATIENCE)
                && let Some(job) = self.waiting.get_mut(&door).and_then(VecDeque::pop_front)
            {
                self.go_on(now, Work { job, started: now, outcomes: Vec::new() }, None);
            }
        }
        self.waiting.retain(|_, queue| !queue.is_empty());
    }

    /// Whether another command may run for this job.
    fn has_room(&self, job: &Job) -> bool {
        let reserved = if job.kind == JobKind::Close { 0 } else { FOR_CLOSING };
        self.running.len() < AT_ONCE - reserved
    }

    fn last_started(&self, door: &Name) -> Option<Monotonic> {
        let of_door = self.running.iter().filter(|running| running.work.job.door == *door);
        of_door.map(|running| running.work.started).max()
    }

    /// Runs the next command of a job that can be started, after one that `ended` so, or finishes
    /// the job.
    fn go_on(&mut self, now: Monotonic, mut work: Work, ended: Option<(Phase, Option<Failure>)>) {
        let mut ended = ended;
        while let Some(task) = work.task() {
            let next = match ended.take() {
                None => task.begin(),
                Some((phase, why)) => task.next(work.job.kind, phase, why),
            };
            let next = next.and_then(|phase| {
                let command = task.command(&phase).ok_or(TaskOutcome::Untouched)?.clone();
                Ok((phase, command))
            });
            let (phase, command) = match next {
                Ok(next) => next,
                Err(outcome) => {
                    work.outcomes.push(outcome);
                    continue;
                }
            };
            let Job { door, new_privileges, .. } = &work.job;
            if phase.looks() {
                debug!(door = %door, "looking: {command}");
            } else {
                info!(door = %door, "running command: {command}");
            }
            let taken = |slot: &usize| self.running.iter().any(|other| other.slot == *slot);
            let slot = (0..SLOTS).find(|slot| !taken(slot)).unwrap_or_default();
            let started = descriptors::output_pipe().and_then(|(read, write)| {
                let place = self.table.as_ref().map(|table| (table, slot));
                let Rendered { argv, environment } = &command;
                let child = process::run(argv, environment, *new_privileges, write, place)?;
                // After an open command it says why the door is not open.
                Ok((child, CommandOutput::new(door.clone(), read.into(), phase == Phase::Look)))
            });
            match started {
                Ok((child, output)) => {
                    return self.running.push(Running {
                        work,
                        phase,
                        command_started: now,
                        child,
                        killed: false,
                        output,
                        slot,
                    });
                }
                Err(error) => {
                    self.table.iter().for_each(|table| table.clear(slot));
                    let program = command.argv.first().cloned().unwrap_or_default();
                    let why = Failure::of_start(program, &error);
                    error!(door = %door, "{why}");
                    ended = Some((phase, Some(why)));
                }
            }
        }
        self.finished.push(Finished { id: work.job.id, outcomes: work.outcomes });
    }

    /// Takes note of a command that has ended and goes on with its job.
    fn command_ended(&mut self, now: Monotonic, mut running: Running, status: ExitStatus) {
        running.output.finish();
        self.table.iter().for_each(|table| table.clear(running.slot));
        let why = match (running.killed, status.code(), status.signal()) {
            (true, ..) => Some(Failure::TimedOut(running.limit().unwrap_or_default())),
            (_, Some(0), _) => None,
            (_, Some(code), _) => Some(Failure::Status(code)),
            (_, None, signal) => Some(Failure::Signal(signal.unwrap_or(0))),
        };
        let is_answer = running.phase.looks() && matches!(why, Some(Failure::Status(_)));
        if let Some(why) = why.as_ref().filter(|_| !is_answer) {
            warn!(door = %running.work.job.door, "{why}");
        }
        push_latest(&mut self.left, AT_ONCE, running.output);
        self.go_on(now, running.work, Some((running.phase, why)));
    }
}

/// A job under way.
struct Work {
    job: Job,
    started: Monotonic,
    /// Of the tasks that are over.
    outcomes: Vec<TaskOutcome>,
}

impl Work {
    /// The task that comes after those that are over.
    fn task(&self) -> Option<&CommandTask> {
        let stops = self.job.kind == JobKind::Open
            && matches!(self.outcomes.last(), Some(TaskOutcome::Failed(_)));
        self.job.tasks.get(self.outcomes.len()).filter(|_| !stops)
    }
}

/// A command that runs, and the job that it runs for.
struct Running {
    work: Work,
    phase: Phase,
    command_started: Monotonic,
    child: Child,
    killed: bool,
    output: CommandOutput,
    /// Its place in the table.
    slot: usize,
}

impl Running {
    fn limit(&self) -> Option<Duration> {
        // Somebody waits for what is only looked at, whatever else may take its time.
        self.work.job.limit.or(self.phase.looks().then_some(COMMAND_LIMIT))
    }

    fn killed_at(&self) -> Option<Monotonic> {
        self.limit().map(|limit| self.command_started + limit)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(millis: u64) -> Monotonic {
        Monotonic::ZERO + Duration::from_secs(1000) + Duration::from_millis(millis)
    }

    fn shell(text: &str) -> Rendered {
        let argv = ["/bin/sh", "-c", text].map(str::to_owned).to_vec();
        Rendered { argv, environment: vec![("KNOCK_IP".to_owned(), "192.0.2.2".to_owned())] }
    }

    fn job(id: u64, door: &str, commands: &[Rendered], kind: JobKind) -> Job {
        let door = door.parse().unwrap();
        let limit = Some(Duration::from_secs(10));
        let tasks = commands.iter().cloned().map(CommandTask::from).collect();
        Job { id: JobId(id), door, kind, limit, new_privileges: NewPrivileges::Granted, tasks }
    }

    /// Waits in real time, while the clock that the commands see stands at `now`.
    fn wait_for(commands: &mut CommandRunner, now: Monotonic, count: usize) -> Vec<Finished> {
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

    fn outcome(commands: &[Rendered], kind: JobKind) -> (usize, Option<Failure>) {
        let mut runner = CommandRunner::new(Path::new("/no/such/table"));
        runner.submit(at(0), job(1, "ssh", commands, kind));
        let finished = wait_for(&mut runner, at(0), 1);
        assert!(runner.running.is_empty() && runner.waiting.is_empty());
        let done = |outcome: &&TaskOutcome| matches!(outcome, TaskOutcome::Done);
        let finished = &finished[0];
        (finished.outcomes.iter().take_while(done).count(), finished.failure().cloned())
    }

    #[test]
    fn commands_of_a_job_run_one_after_the_other() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("out");
        let append = |text: &str| shell(&format!("sleep 0.02; echo {text} >> {}", file.display()));
        let all = [append("one"), append("two"), append("three")];
        assert_eq!(outcome(&all, JobKind::Open), (3, None));
        assert_eq!(std::fs::read_to_string(&file).unwrap(), "one\ntwo\nthree\n");
    }

    #[test]
    fn opening_stops_at_the_first_failure() {
        let commands = [shell("exit 0"), shell("exit 3"), shell("exit 0")];
        assert_eq!(outcome(&commands, JobKind::Open), (1, Some(Failure::Status(3))));
    }

    #[test]
    fn closing_goes_on_after_a_failure() {
        let dir = tempfile::tempdir().unwrap();
        let touch = shell(&format!("touch {}", dir.path().join("closed").display()));
        let (_, failure) = outcome(&[shell("exit 3"), touch], JobKind::Close);
        assert_eq!(failure, Some(Failure::Status(3)));
        assert!(dir.path().join("closed").exists());
    }

    #[test]
    fn a_program_that_does_not_exist_is_a_failure_with_its_name() {
        let command =
            Rendered { argv: vec!["/no/such/program".to_owned()], environment: Vec::new() };
        let (done, failure) = outcome(&[command], JobKind::Open);
        assert_eq!(done, 0);
        assert!(
            matches!(failure, Some(Failure::NotStarted { program, .. }) if program == "/no/such/program")
        );
    }

    #[test]
    fn a_command_that_hangs_is_killed_after_its_time_with_its_children() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("pid");
        let mut runner = CommandRunner::new(Path::new("/no/such/table"));
        let hangs = shell(&format!("sleep 1000 & echo $! > {}; wait", file.display()));
        runner.submit(at(0), job(1, "ssh", &[hangs], JobKind::Open));
        let pid = loop {
            assert!(runner.poll(at(9_999)).is_empty());
            let text = std::fs::read_to_string(&file).unwrap_or_default();
            if let Ok(pid) = text.trim().parse::<i32>() {
                break pid;
            }
            std::thread::sleep(Duration::from_millis(5));
        };
        let finished = wait_for(&mut runner, at(10_000), 1);
        assert_eq!(finished[0].failure(), Some(&Failure::TimedOut(Duration::from_secs(10))));
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
        let mut runner = CommandRunner::new(Path::new("/no/such/table"));
        let long = shell("sleep 0.2");
        runner.submit(at(0), Job { limit: None, ..job(1, "ssh", &[long], JobKind::Open) });
        assert!(runner.poll(at(1_000_000_000)).is_empty());
        assert_eq!(runner.next_deadline(), None);
        assert_eq!(wait_for(&mut runner, at(1_000_000_000), 1)[0].failure(), None);
    }

    #[test]
    fn what_a_command_leaves_in_the_background_may_print_after_its_end() {
        let dir = tempfile::tempdir().unwrap();
        let closed = dir.path().join("closed");
        let text = format!("(sleep 0.3; echo closing; touch {}) &", closed.display());
        let mut runner = CommandRunner::new(Path::new("/no/such/table"));
        runner.submit(at(0), job(1, "ssh", &[shell(&text)], JobKind::Open));
        assert_eq!(wait_for(&mut runner, at(0), 1)[0].failure(), None);
        assert!(runner.running.is_empty() && runner.waiting.is_empty());
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
        assert_eq!(outcome(&[flood], JobKind::Open), (1, None));
    }

    #[test]
    fn jobs_of_one_door_take_turns_and_those_of_another_do_not_wait() {
        let mut runner = CommandRunner::new(Path::new("/no/such/table"));
        let hangs = shell("exec sleep 1000");
        runner.submit(at(0), job(1, "slow", &[hangs], JobKind::Open));
        runner.submit(at(0), job(2, "slow", &[shell("exit 0")], JobKind::Open));
        runner.submit(at(0), job(3, "fast", &[shell("exit 0")], JobKind::Open));
        assert_eq!(wait_for(&mut runner, at(100), 1)[0].id, JobId(3));
        assert_eq!(runner.next_deadline(), Some(at(250)));
        // The hanging one has used up everybody's patience.
        assert_eq!(wait_for(&mut runner, at(250), 1)[0].id, JobId(2));
        assert_eq!(wait_for(&mut runner, at(10_000), 1)[0].id, JobId(1));
    }

    #[test]
    fn what_closes_comes_before_what_was_asked_for_earlier() {
        let mut runner = CommandRunner::new(Path::new("/no/such/table"));
        let quick = [shell("exit 0")];
        runner.submit(at(0), job(1, "ssh", &[shell("exec sleep 1000")], JobKind::Open));
        (2..50).for_each(|id| runner.submit(at(0), job(id, "ssh", &quick, JobKind::Open)));
        runner.submit(at(0), job(50, "ssh", &quick, JobKind::Close));
        assert_eq!(wait_for(&mut runner, at(250), 1)[0].id, JobId(50));
        assert_eq!(wait_for(&mut runner, at(250), 1)[0].id, JobId(2));
    }

    #[test]
    fn what_closes_finds_room_where_what_opens_has_taken_all_that_it_may() {
        let mut runner = CommandRunner::new(Path::new("/no/such/table"));
        for number in 0..200 {
            let hangs = [shell("exec sleep 1000")];
            runner.submit(at(0), job(number, &format!("d{number}"), &hangs, JobKind::Open));
        }
        runner.submit(at(0), job(1000, "other", &[shell("exit 0")], JobKind::Close));
        assert_eq!(wait_for(&mut runner, at(0), 1)[0].id, JobId(1000));
        runner.running.iter().for_each(|running| process::kill_group(&running.child));
    }

    #[test]
    fn a_door_is_full_when_many_of_its_jobs_wait_and_still_closes() {
        let mut runner = CommandRunner::new(Path::new("/no/such/table"));
        let quick = [shell("exit 0")];
        let door = "ssh".parse().unwrap();
        for id in 0..=WAITING as u64 {
            assert!(!runner.is_full(&door));
            runner.submit(at(0), job(id, "ssh", &quick, JobKind::Open));
        }
        assert!(runner.is_full(&door) && !runner.is_full(&"web".parse().unwrap()));
    }

    #[test]
    fn at_the_end_only_closing_goes_on() {
        let mut runner = CommandRunner::new(Path::new("/no/such/table"));
        let quick = [shell("exit 0")];
        runner.submit(at(0), job(1, "ssh", &[shell("exec sleep 1000")], JobKind::Open));
        runner.submit(at(0), job(2, "ssh", &quick, JobKind::Open));
        runner.submit(at(0), job(3, "ssh", &quick, JobKind::Close));
        runner.only_close();
        let finished = wait_for(&mut runner, at(250), 2);
        let of = |id| finished.iter().find(|finished| finished.id == JobId(id)).unwrap();
        assert!(of(2).outcomes.is_empty(), "it did not run");
        assert_eq!(of(3).outcomes, [TaskOutcome::Done]);
        runner.running.iter().for_each(|running| process::kill_group(&running.child));
    }

    #[test]
    fn a_command_sees_its_values_and_nothing_of_the_daemons_environment() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("env");
        let command = shell(&format!("env | sort > {}", file.display()));
        assert_eq!(outcome(&[command], JobKind::Open), (1, None));
        let text = std::fs::read_to_string(&file).unwrap();
        let names: Vec<&str> = text.lines().filter_map(|line| line.split('=').next()).collect();
        assert_eq!(names, ["KNOCK_IP", "PATH", "PWD"]);
    }
}
