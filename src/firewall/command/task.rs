//! One step of a job: which of its commands runs when, and what came of it.

use super::{Failure, JobKind};
use crate::config::Rendered;

/// The commands of one step of a job.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct CommandTask {
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

/// The result of a task.
#[must_use]
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum TaskOutcome {
    Done,
    /// It was there already, or nobody can tell: nothing was run.
    Untouched,
    Failed(Failure),
}

/// The command of a task that runs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Phase {
    Look,
    First,
    Run,
    /// After one that ran and failed so, or well.
    Verify(Option<Failure>),
}

/// The command that runs next, or what has come of the task.
pub(super) type NextPhase = Result<Phase, TaskOutcome>;

impl Phase {
    /// Whether a command only looks: its status is an answer, and what it prints is not for people.
    pub(super) const fn looks(&self) -> bool {
        matches!(self, Self::Look | Self::Verify(_))
    }
}

impl CommandTask {
    pub(super) const fn command(&self, phase: &Phase) -> Option<&Rendered> {
        match phase {
            Phase::Look | Phase::Verify(_) => self.verify.as_ref(),
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

    /// What follows a command that ended with this failure, or well.
    pub(super) fn next(&self, kind: JobKind, phase: Phase, ended: Option<Failure>) -> NextPhase {
        match (phase, ended) {
            (Phase::Look, Some(Failure::Status(_))) if self.run.is_some() => Ok(self.act()),
            (Phase::Look, Some(Failure::Status(_))) => Err(TaskOutcome::Failed(Failure::NotThere)),
            (Phase::Look, _) => Err(TaskOutcome::Untouched),
            (Phase::First, _) => Ok(Phase::Run),
            (Phase::Run, ended)
                if self.verify.is_some() && ended.is_some() == (kind == JobKind::Close) =>
            {
                Ok(Phase::Verify(ended))
            }
            (Phase::Run, ended) => Err(ended.map_or(TaskOutcome::Done, TaskOutcome::Failed)),
            // It failed to close what was gone.
            (Phase::Verify(Some(_)), Some(Failure::Status(_))) => Err(TaskOutcome::Done),
            (Phase::Verify(Some(why)), _) => Err(TaskOutcome::Failed(why)),
            (Phase::Verify(None), Some(_)) => Err(TaskOutcome::Failed(Failure::NotThere)),
            (Phase::Verify(None), None) => Err(TaskOutcome::Done),
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
        let mut next = task.begin();
        loop {
            let phase = match next {
                Ok(phase) => phase,
                Err(outcome) => return (ran, outcome),
            };
            ran.push(phase.clone());
            let ended = fail.contains(&phase).then_some(Failure::Status(1));
            next = task.next(kind, phase, ended);
        }
    }

    use Phase::{First, Look, Run};

    const VERIFY: Phase = Phase::Verify(None);

    const FAILED: TaskOutcome = TaskOutcome::Failed(Failure::Status(1));
    const NOT_THERE: TaskOutcome = TaskOutcome::Failed(Failure::NotThere);

    #[test]
    fn what_was_opened_is_looked_at() {
        assert_eq!(run(JobKind::Open, &task(), &[]), (vec![Run, VERIFY], TaskOutcome::Done));
        assert_eq!(run(JobKind::Open, &task(), &[VERIFY]), (vec![Run, VERIFY], NOT_THERE));
        assert_eq!(run(JobKind::Open, &task(), &[Run]), (vec![Run], FAILED));
    }

    #[test]
    fn what_is_there_already_is_not_opened_again() {
        let task = CommandTask { look_first: true, ..task() };
        assert_eq!(run(JobKind::Open, &task, &[]), (vec![Look], TaskOutcome::Untouched));
        assert_eq!(
            run(JobKind::Open, &task, &[Look]),
            (vec![Look, Run, VERIFY], TaskOutcome::Done)
        );
    }

    #[test]
    fn what_nobody_can_look_at_is_left_alone() {
        let next = CommandTask { look_first: true, ..task() }.next(
            JobKind::Open,
            Look,
            Some(Failure::TimedOut(Duration::from_secs(10))),
        );
        assert_eq!(next, Err(TaskOutcome::Untouched));
    }

    #[test]
    fn what_gets_another_time_is_undone_first() {
        let task = CommandTask { first: command("undo"), ..task() };
        let (ran, outcome) = run(JobKind::Open, &task, &[First]);
        assert_eq!((ran, outcome), (vec![First, Run, VERIFY], TaskOutcome::Done));
    }

    #[test]
    fn what_is_gone_is_closed_though_its_command_failed() {
        let verify = Phase::Verify(Some(Failure::Status(1)));
        let all = vec![Run, verify.clone()];
        assert_eq!(run(JobKind::Close, &task(), &[Run, verify]), (all.clone(), TaskOutcome::Done));
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
