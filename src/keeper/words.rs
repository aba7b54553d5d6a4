//! What watchers say, in the words of the log.

use tracing::{debug, info, warn};

use super::ask::client_name;
use crate::config::{Config, Door, Name};
use crate::engine::{ClientId, Event, EventKind, Knocked, Reason, Refusal};
use crate::proto::knock::Knock;
use crate::time::Monotonic;

/// The door and the client of a request that was refused, as far as they are known.
pub(super) fn names_of<'a>(
    config: &'a Config,
    refusal: &Refusal,
) -> (Option<&'a Name>, Option<&'a Name>) {
    let door = refusal.door.and_then(|door| config.doors.get(door.0 as usize)).map(Door::name);
    let client = refusal.client.and_then(|client| client_name(config, client));
    (door, client)
}

pub(super) fn log_refusal(config: &Config, refusal: &Refusal) {
    let Refusal { source, reason, .. } = refusal;
    let (door, client) = names_of(config, refusal);
    let (door, client) = (door.map(Name::as_str), client.map(Name::as_str));
    let of = client.map_or_else(String::new, |client| format!(" of {client}"));
    warn!(%source, door, client, event = "refused", reason = reason.as_str(),
        "request{of} refused: {reason}");
}

/// What is said of a sequence that would have been right at another time.
pub(super) fn missed(client: Option<&str>, steps: i32) -> String {
    let client = client.unwrap_or("a client");
    let (count, when) = (steps.unsigned_abs(), if steps < 0 { "ago" } else { "ahead" });
    let noun = if count == 1 { "step" } else { "steps" };
    format!("right for {client} {count} {noun} {when}: is a clock off?")
}

/// What is said of a source that has failed too often.
pub(super) const fn locked_out(everywhere: bool) -> &'static str {
    if everywhere {
        "failed too often: not listened to at any door"
    } else {
        "failed too often: not listened to at this door"
    }
}

/// A sequence that came to nothing, for people.
pub(super) fn broken(stage: u8, reason: Reason, knock: Option<Knock>) -> String {
    let knock = knock.map(|knock| format!("{knock}, ")).unwrap_or_default();
    format!("sequence broken (stage {stage}): {knock}{reason}")
}

pub(super) fn log_event(config: &Config, event: &Event, at: Monotonic, door: &Name) {
    let source = event.source;
    match event.kind {
        EventKind::Stage(stage) => {
            info!(%source, %door, event = "stage", stage, "Stage {stage}");
        }
        EventKind::Reset { stage, reason: Reason::Timeout, .. } => {
            info!(%source, %door, event = "reset", stage, reason = Reason::Timeout.as_str(),
                "sequence timeout (stage {stage})");
        }
        EventKind::Reset { stage, reason: reason @ (Reason::Used | Reason::Expired), .. } => {
            warn!(%source, %door, event = "refused", stage, reason = reason.as_str(),
                "not opened: {reason}");
        }
        EventKind::Reset { stage, reason, knock } => {
            let what = broken(stage, reason, knock);
            let (word, knock) = (reason.as_str(), knock.map(|knock| knock.to_string()));
            debug!(%source, %door, event = "reset", stage, reason = word, knock, "{what}");
        }
        EventKind::Missed { client, steps } => {
            let client = client_name(config, client).map(Name::as_str);
            warn!(%source, %door, event = "missed", client, steps, "{}", missed(client, steps));
        }
        EventKind::LockedOut { until, everywhere } => {
            let seconds = until.since(at).as_secs();
            warn!(%source, %door, event = "locked_out", seconds, everywhere,
                "{} for {seconds} s", locked_out(everywhere));
        }
        // Logged by whoever acts upon it.
        EventKind::Open(_) => {}
    }
}

/// The client that an event is about, where that is known.
pub(super) const fn client_of(event: &Event) -> Option<ClientId> {
    match event.kind {
        EventKind::Open(Knocked::Totp { client, .. }) | EventKind::Missed { client, .. } => {
            Some(client)
        }
        EventKind::Open(Knocked::Sequence)
        | EventKind::Stage(_)
        | EventKind::Reset { .. }
        | EventKind::LockedOut { .. } => None,
    }
}
