//! What makes each try: the same knocks again, those of the moment, or a new request.

use std::net::SocketAddr;
use std::time::Duration;

use super::fwknop::Fwknop;
use super::plan::{Attempt, Plan};
use super::requests::{RequestError, Requests};
use super::rotating::{Rotating, Start};
use super::voice::Voice;
use crate::time::Wall;

/// A source of tries at one host.
#[derive(Clone, Debug)]
pub enum Attempts {
    Same(Plan),
    Rotating(Rotating),
    Requests(Requests),
    Fwknop(Box<Fwknop>),
}

/// A clock that shows an earlier time than this is wrong: it is when this program was written.
const WRITTEN: Wall = Wall::from_nanos(1_793_491_200_000_000_000);

impl Attempts {
    /// Whether a try may begin.
    pub fn start(&self, now: Wall) -> Start {
        match self {
            Self::Rotating(rotating) => rotating.start(now),
            Self::Same(_) | Self::Requests(_) | Self::Fwknop(_) => Start::Now,
        }
    }

    /// What to send to `host` at `now`.
    ///
    /// # Errors
    /// [`RequestError`] if no request can be made.
    pub fn next(&self, now: Wall, host: SocketAddr, voice: Voice) -> Result<Attempt, RequestError> {
        Ok(match self {
            Self::Same(plan) => Attempt::Sequence(plan.clone()),
            Self::Rotating(rotating) => Attempt::Sequence(rotating.plan(now)),
            Self::Requests(requests) => Attempt::Request(requests.datagram(now, host, voice)?),
            Self::Fwknop(fwknop) => Attempt::Request(fwknop.datagram(now, host, voice)?),
        })
    }

    /// Whether what is sent depends on a clock that is certainly wrong.
    #[must_use]
    pub fn is_mistimed(&self, now: Wall) -> bool {
        now < WRITTEN && !matches!(self, Self::Same(_))
    }

    /// How long the same knocks open nothing a second time.
    #[must_use]
    pub fn opens_once_in(&self) -> Option<Duration> {
        match self {
            Self::Rotating(rotating) => Some(Duration::from_secs(rotating.scheme.step().into())),
            Self::Same(_) | Self::Requests(_) | Self::Fwknop(_) => None,
        }
    }
}
