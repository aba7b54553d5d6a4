//! What makes each try: the same knocks again, those of the moment, or a new request.

use std::net::SocketAddr;
use std::time::Duration;

use super::fwknop::Fwknop;
use super::plan::{Attempt, Plan};
use super::requests::{RequestError, Requests};
use super::rotating::{Rotating, Start};
use super::voice::Voice;
use crate::proto::duration;
use crate::proto::totp::TotpMode;
use crate::time::Wall;

/// A source of tries at one host.
#[derive(Clone, Debug)]
pub enum Attempts {
    Same(Plan),
    /// Of a code that somebody typed.
    Typed(Plan),
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
            Self::Same(_) | Self::Typed(_) | Self::Requests(_) | Self::Fwknop(_) => Start::Now,
        }
    }

    /// What to send to `host` at `now`.
    ///
    /// # Errors
    /// [`RequestError`] if no request can be made.
    pub fn next(&self, now: Wall, host: SocketAddr, voice: Voice) -> Result<Attempt, RequestError> {
        Ok(match self {
            Self::Same(plan) | Self::Typed(plan) => Attempt::Sequence(plan.clone()),
            Self::Rotating(rotating) => Attempt::Sequence(rotating.plan(now)),
            Self::Requests(requests) => Attempt::Request(requests.datagram(now, host, voice)?),
            Self::Fwknop(fwknop) => Attempt::Request(fwknop.datagram(now, host, voice)?),
        })
    }

    /// Whether what is sent depends on a clock that is certainly wrong.
    pub fn is_mistimed(&self, now: Wall) -> bool {
        now < WRITTEN && matches!(self, Self::Rotating(_) | Self::Requests(_) | Self::Fwknop(_))
    }

    /// What to think of where nothing opened.
    pub fn advice(&self) -> Option<String> {
        const CODE: &str = "look at the code and the clock before you try again: \
                            a door may stop listening after a few wrong codes";
        const FWKNOP: &str = "look at keys, modes and clock: no fwknop server says what is wrong";
        match self {
            Self::Same(_) => None,
            Self::Typed(_) => Some(CODE.to_owned()),
            Self::Rotating(rotating) => Some(match rotating.scheme.mode() {
                TotpMode::Code { .. } => CODE.to_owned(),
                TotpMode::Ports { .. } => {
                    let step = Duration::from_secs(rotating.scheme.step().into());
                    let step = duration::format(step);
                    format!("each sequence opens once: if this one did, try again in {step}")
                }
            }),
            Self::Requests(_) => {
                Some("look at the clock: a request is good for a minute only".to_owned())
            }
            Self::Fwknop(_) => Some(FWKNOP.to_owned()),
        }
    }
}
