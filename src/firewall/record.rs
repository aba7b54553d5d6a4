//! A firewall that writes down what it was asked to do, for simulations.

use std::collections::VecDeque;
use std::os::fd::BorrowedFd;
use std::time::Duration;

use super::{Failure, Finished, Firewall, Job, OnFailure};
use crate::config::Rendered;
use crate::time::Monotonic;

/// Runs nothing: every command takes `takes` and succeeds, unless `fails` says otherwise.
pub struct Recorder {
    /// What was run, and when it ended.
    pub log: Vec<(Monotonic, String)>,
    pub takes: Duration,
    pub fails: fn(&Rendered) -> Option<Failure>,
    queue: VecDeque<(Monotonic, Job)>,
}

impl Recorder {
    #[must_use]
    pub fn new(takes: Duration) -> Self {
        Self { log: Vec::new(), takes, fails: |_| None, queue: VecDeque::new() }
    }
}

impl Firewall for Recorder {
    fn submit(&mut self, now: Monotonic, job: Job) {
        self.queue.push_back((now + self.takes, job));
    }

    fn poll(&mut self, now: Monotonic) -> Vec<Finished> {
        let mut finished = Vec::new();
        while self.queue.front().is_some_and(|&(ends, _)| ends <= now) {
            let Some((ends, job)) = self.queue.pop_front() else { break };
            let (mut done, mut failure) = (0, None);
            for command in &job.commands {
                self.log.push((ends, command.to_string()));
                match (self.fails)(command) {
                    None if failure.is_none() => done += 1,
                    None => {}
                    Some(why) => {
                        failure.get_or_insert(why);
                        if job.on_failure == OnFailure::Stop {
                            break;
                        }
                    }
                }
            }
            finished.push(Finished { id: job.id, done, failure });
        }
        finished
    }

    fn next_deadline(&self) -> Option<Monotonic> {
        self.queue.front().map(|&(ends, _)| ends)
    }

    fn fds(&self) -> Vec<BorrowedFd<'_>> {
        Vec::new()
    }
}
