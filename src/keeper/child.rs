//! A child process that the keeper speaks with over a channel.

use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::process::{Child, ExitStatus};
use std::time::Duration;

use serde::Serialize;
use zeroize::Zeroizing;

use super::output_lines::OutputLines;
use crate::ipc::{Channel, Received};
use crate::sys::process::ChildEnds;
use crate::sys::{clock, descriptors};
use crate::time::Monotonic;

/// A running child and what connects it with its keeper.
pub(super) struct ChildProcess {
    pub(super) child: Child,
    pub(super) channel: Channel,
    pub(super) stderr: OutputLines,
    /// Since when its channel is: it ends, or has.
    pub(super) closed: Option<Monotonic>,
    /// How much more is heard before the keeper looks after everything else.
    pub(super) budget: u32,
}

/// How many frames one child may send at a time: none can keep the keeper from closing doors.
pub(super) const BUDGET: u32 = 256;
/// How many of them a line on standard error takes the place of: an honest one has little to say.
pub(super) const LINE: u32 = 8;

/// How long one may take to end.
const TIME_TO_END: Duration = Duration::from_secs(1);

/// The output of a child: what it has to say.
pub(super) enum ChildOutput<T> {
    Frame(T),
    /// It wrote this to standard error.
    StderrLine(String),
    /// It has ended, or should have; the status is missing where it could not be learnt.
    Ended(Option<ExitStatus>),
    /// It sent what none of ours sends.
    Malformed,
}

/// What reads the next message of a channel.
type Receive<T> = fn(&Channel) -> Received<T>;

impl ChildProcess {
    /// Starts a child by `run`, and gives it what it is told.
    ///
    /// # Errors
    /// When there is no memory, or no process to be had.
    pub(super) fn start(
        run: impl FnOnce(ChildEnds) -> io::Result<Child>,
        assignment: &impl Serialize,
    ) -> io::Result<Self> {
        let bytes = Zeroizing::new(serde_json::to_vec(assignment)?);
        let assignment = descriptors::sealed("knockd configuration", &bytes)?;
        let (ours, theirs) = descriptors::frame_channel()?;
        let (ours_stderr, stderr) = descriptors::output_pipe()?;
        let child = run([theirs, assignment, stderr])?;
        let (channel, stderr) = (Channel(ours), OutputLines::of(ours_stderr));
        Ok(Self { child, channel, stderr, closed: None, budget: BUDGET })
    }

    /// The next thing it has to say; `None`: nothing now, or it has said enough for now.
    pub(super) fn hear<T>(&mut self, receive: Receive<T>) -> Option<ChildOutput<T>> {
        let heard = if self.budget > 0 { self.hear_next(receive) } else { None };
        self.budget = match heard {
            None => BUDGET,
            Some(ChildOutput::StderrLine(_)) => self.budget.saturating_sub(LINE),
            Some(_) => self.budget - 1,
        };
        heard
    }

    fn hear_next<T>(&mut self, receive: Receive<T>) -> Option<ChildOutput<T>> {
        // First what may open a door.
        if self.closed.is_none() {
            match receive(&self.channel) {
                Received::Frame(frame) => return Some(ChildOutput::Frame(frame)),
                Received::Malformed => return Some(ChildOutput::Malformed),
                Received::Nothing => {}
                // Who has no channel has no work.
                Received::Closed => self.kill(),
            }
        }
        if let Some(line) = self.stderr.next() {
            return Some(ChildOutput::StderrLine(line));
        }
        let end_by = self.end_by()?;
        match self.child.try_wait() {
            Ok(None) if clock::now().monotonic < end_by => None,
            status => Some(ChildOutput::Ended(status.ok().flatten())),
        }
    }

    /// When it has to have ended; `None`: it may work.
    pub(super) fn end_by(&self) -> Option<Monotonic> {
        self.closed.map(|since| since + TIME_TO_END)
    }

    /// What to poll: a closed channel is always readable, so it is left out.
    pub(super) fn fds(&self) -> impl Iterator<Item = BorrowedFd<'_>> {
        self.closed.is_none().then(|| self.channel.as_fd()).into_iter().chain(self.stderr.fd())
    }

    /// Ends it, and does not wait for that: a child ends when its channel does, which needs no
    /// right to kill. Nothing is heard any more of what it has said since.
    pub(super) fn kill(&mut self) {
        self.closed.get_or_insert_with(|| clock::now().monotonic);
        self.channel.shut();
        // An error means that it may not be, or has ended already.
        let _ = self.child.kill();
    }

    /// Whether it has not ended.
    pub(super) fn is_alive(&mut self) -> bool {
        matches!(self.child.try_wait(), Ok(None))
    }

    pub(super) fn pid(&self) -> u32 {
        self.child.id()
    }
}

impl Drop for ChildProcess {
    fn drop(&mut self) {
        self.kill();
    }
}
