//! The ways to knock at one host: each makes what one try sends.

use super::fwknop::FwknopKnocker;
use super::one_time::OneTimeKnocker;
use super::route::Route;
use super::schedule::Schedule;
use super::spa::{RequestError, SpaKnocker};
use super::totp::TotpKnocker;
use crate::proto::duration;
use crate::proto::totp::TotpMode;
use crate::time::Wall;

/// A source of tries at one host: the same knocks again, those of the moment, or a new request.
#[derive(Clone, Debug)]
pub(super) enum Knocker {
    Sequence(Schedule),
    /// Of a code that somebody typed.
    Code(Schedule),
    OneTime(OneTimeKnocker),
    Totp(TotpKnocker),
    Spa(SpaKnocker),
    Fwknop(Box<FwknopKnocker>),
}

/// A clock that shows an earlier time than this is wrong: it is when this program was written.
const WRITTEN: Wall = Wall::from_nanos(1_793_491_200_000_000_000);

impl Knocker {
    /// The moment at which a try may begin that is to open again what the one at `last` has opened.
    pub(super) fn start(&self, now: Wall, last: Option<Wall>) -> Wall {
        if let Self::Totp(totp) = self { totp.start(now, last) } else { now }
    }

    /// One that asks to close instead; `None`: knocks cannot ask that.
    pub(super) fn closing(&self) -> Option<Self> {
        let Self::Spa(spa) = self else { return None };
        Some(Self::Spa(SpaKnocker { close: true, open_for: None, ..spa.clone() }))
    }

    /// The packets of a try on this route that leaves at `now`.
    ///
    /// # Errors
    /// [`RequestError`] if no request can be made.
    pub(super) fn next(&self, now: Wall, route: &Route) -> Result<Schedule, RequestError> {
        match self {
            Self::Sequence(schedule) | Self::Code(schedule) => Ok(schedule.clone()),
            Self::OneTime(list) => Ok(list.schedule()),
            Self::Totp(totp) => Ok(totp.schedule(now)),
            Self::Spa(spa) => spa.request(now, route),
            Self::Fwknop(fwknop) => fwknop.request(now, route),
        }
    }

    /// Whether what is sent depends on a clock that is certainly wrong.
    pub(super) fn is_mistimed(&self, now: Wall) -> bool {
        now < WRITTEN && !matches!(self, Self::Sequence(_) | Self::Code(_) | Self::OneTime(_))
    }

    /// The word for what each try sends.
    pub(super) const fn noun(&self) -> &'static str {
        match self {
            Self::Spa(_) | Self::Fwknop(_) => "request",
            Self::Sequence(_) | Self::Code(_) | Self::OneTime(_) | Self::Totp(_) => "knock",
        }
    }

    /// Advice for where nothing opened.
    pub(super) fn advice(&self) -> Option<String> {
        const CODE: &str = "look at the code and the clock before you try again: \
                            a door may stop listening after a few wrong codes";
        let advice = match self {
            Self::Sequence(_) => return None,
            Self::OneTime(list) => return Some(list.advice()),
            Self::Totp(totp) if matches!(totp.scheme.mode(), TotpMode::Ports { .. }) => {
                let step = duration::format(totp.scheme.step_length());
                return Some(format!(
                    "each sequence opens once: if this one did, try again in {step}"
                ));
            }
            Self::Code(_) | Self::Totp(_) => CODE,
            Self::Spa(_) => "look at the clock: a request is good for a minute only",
            Self::Fwknop(_) => "look at keys, modes and clock: no fwknop server says what is wrong",
        };
        Some(advice.to_owned())
    }
}
