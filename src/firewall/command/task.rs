//! One step of a job: which of its commands runs when, and what came of it.

use super::{Failure, JobKind};
use crate::config::Rendered;

/// What one step of a job runs.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct CommandTask {
    /// Undoes what was opened for another time; how it ends does not matter.
    pub first: Option<Rendered>,
    /// Opens or closes; only looking needs none.
    pub run: Option<Rendered>,
    /// Exits 0 while what was opened is there.
    pub verify: Option<Rendered>,
    /// What is there already is left as it is.
    pub look_first: bool,
}

impl From<Rendered> for CommandTask {
    fn from(run: Rendered) -> Self {
        Self { run: Some(run), ..Self::default() }
    }
}

/// What came of a task.
#[must_use]
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum TaskOutcome {
    Done,
    /// It was there already, or nobody can tell: nothing was run.
    Untouched,
    Failed(Failure),
}

/// Which command of a task runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Phase {
    Look,
    First,
    Run,
    Verify,
}

/// The command that runs next, or what has come of the task.
pub(super) type NextPhase = Result<Phase, TaskOutcome>;

impl Phase {
    /// Whether a command only looks: its status is an answer, and what it prints is not for people.
    pub(super) const fn looks(self) -> bool {
        matches!(self, Self::Look | Self::Verify)
    }
}

impl CommandTask {
    pub(super) const fn command(&self, phase: Phase) -> Option<&Rendered> {
        match phase {
            Phase::Look | Phase::Verify => self.verify.as_ref(),
            Phase::First => self.first.as_ref(),
            Phase::Run => self.run.as_ref(),
        }
    }

    pub(super) const fn begin(&self) -> NextPhase {
        match (&self.verify, &self.run) {
            (None, None) => Err(TaskOutcome::Untouched),
            (Some(_), None) => Ok(Phase::Look),
            (Some(_), _) if self.look_first => Ok(Phase::Look),
            _ => Ok(self.act()),
        }
    }

    const fn act(&self) -> Phase {
        if self.first.is_some() { Phase::First } else { Phase::Run }
    }

    /// What follows a command that ended with this failure, or well. `earlier` is for its own use,
    /// `None` when the task begins.
    pub(super) fn next(
        &self,
        kind: JobKind,
        phase: Phase,
        ended: Option<Failure>,
        earlier: &mut Option<Failure>,
    ) -> NextPhase {
        match (phase, ended) {
            (Phase::Look, Some(Failure::Status(_))) if self.run.is_some() => Ok(self.act()),
            (Phase::Look, Some(Failure::Status(_))) => Err(TaskOutcome::Failed(Failure::NotThere)),
            (Phase::Look, _) => Err(TaskOutcome::Untouched),
            (Phase::First, _) => Ok(Phase::Run),
            (Phase::Run, ended)
                if self.verify.is_some() && ended.is_some() == (kind == JobKind::Close) =>
            {
                *earlier = ended;
                Ok(Phase::Verify)
            }
            (Phase::Run, ended) => Err(ended.map_or(TaskOutcome::Done, TaskOutcome::Failed)),
            (Phase::Verify, ended) => Err(match (earlier.take(), ended) {
                // It failed to close what was gone.
                (Some(_), Some(Failure::Status(_))) => TaskOutcome::Done,
                (Some(why), _) => TaskOutcome::Failed(why),
                (None, Some(_)) => TaskOutcome::Failed(Failure::NotThere),
                (None, None) => TaskOutcome::Done,
            }),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn command(text: &str) -> Option<Rendered> {
        Some(Rendered { argv: vec![text.to_owned()], environment: Vec::new() })
    }

    fn task() -> CommandTask {
        CommandTask { run: command("run"), verify: command("verify"), ..CommandTask::default() }
    }

    /// The commands that run where those in `fail` end with 1, and what comes of it.
    fn run(kind: JobKind, task: &CommandTask, fail: &[Phase]) -> (Vec<Phase>, TaskOutcome) {
        let mut ran = Vec::new();
        let mut earlier = None;
        let mut next = task.begin();
        loop {
            let phase = match next {
                Ok(phase) => phase,
                Err(outcome) => return (ran, outcome),
            };
            ran.push(phase);
            let ended = fail.contains(&phase).then_some(Failure::Status(1));
            next = task.next(kind, phase, ended, &mut earlier);
        }
    }

    use Phase::{First, Look, Run, Verify};

    const FAILED: TaskOutcome = TaskOutcome::Failed(Failure::Status(1));
    const NOT_THERE: TaskOutcome = TaskOutcome::Failed(Failure::NotThere);

    #[test]
    fn what_was_opened_is_looked_at() {
        assert_eq!(run(JobKind::Open, &task(), &[]), (vec![Run, Verify], TaskOutcome::Done));
        assert_eq!(run(JobKind::Open, &task(), &[Verify]), (vec![Run, Verify], NOT_THERE));
        assert_eq!(run(JobKind::Open, &task(), &[Run]), (vec![Run], FAILED));
    }

    #[test]
    fn what_is_there_already_is_not_opened_again() {
        let task = CommandTask { look_first: true, ..task() };
        assert_eq!(run(JobKind::Open, &task, &[]), (vec![Look], TaskOutcome::Untouched));
        assert_eq!(
            run(JobKind::Open, &task, &[Look]),
            (vec![Look, Run, Verify], TaskOutcome::Done)
        );
    }

    #[test]
    fn what_nobody_can_look_at_is_left_alone() {
        let next = CommandTask { look_first: true, ..task() }.next(
            JobKind::Open,
            Look,
            Some(Failure::TimedOut(Duration::from_secs(10))),
            &mut None,
        );
        assert_eq!(next, Err(TaskOutcome::Untouched));
    }

    #[test]
    fn what_gets_another_time_is_undone_first() {
        let task = CommandTask { first: command("undo"), ..task() };
        let (ran, outcome) = run(JobKind::Open, &task, &[First]);
        assert_eq!((ran, outcome), (vec![First, Run, Verify], TaskOutcome::Done));
    }

    #[test]
    fn what_is_gone_is_closed_though_its_command_failed() {
        let all = vec![Run, Verify];
        assert_eq!(run(JobKind::Close, &task(), &[Run, Verify]), (all.clone(), TaskOutcome::Done));
        assert_eq!(run(JobKind::Close, &task(), &[Run]), (all, FAILED));
        assert_eq!(run(JobKind::Close, &task(), &[]), (vec![Run], TaskOutcome::Done));
    }

    #[test]
    fn looking_runs_nothing_else() {
        let task = CommandTask { verify: command("verify"), ..CommandTask::default() };
        assert_eq!(run(JobKind::Look, &task, &[]), (vec![Look], TaskOutcome::Untouched));
        assert_eq!(run(JobKind::Look, &task, &[Look]), (vec![Look], NOT_THERE));
    }
}
