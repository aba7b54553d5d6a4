//! `knockctl status`: what a running daemon looks at, and what is open.

use std::io::{self, Write};
use std::time::Duration;

use jiff::tz::TimeZone;

use super::fleet::link;
use super::output::{self, local, table, wall};
use super::wording::count;
use super::{Error, Target, Timeout};
use crate::config::{Forward, Name};
use crate::control::{
    DoorStatus, GrantCondition, GrantStatus, LockStatus, Reply, Request, Status, WatcherSandbox,
};
use crate::log::escape;
use crate::proto::duration;
use crate::sys::clock;
use crate::time::Wall;

#[derive(Clone, Debug, clap::Args)]
pub(super) struct StatusArgs {
    /// Only these doors, who has them open, and who is locked out there
    #[arg(value_name = "DOOR")]
    doors: Vec<Name>,
    /// Only doors that are open for somebody
    #[arg(long)]
    open: bool,
    /// One JSON object, for scripts
    #[arg(long)]
    json: bool,
}

pub(super) fn run(target: &Target, args: &StatusArgs) -> Result<(), Error> {
    let mut status = ask(target)?;
    let known = || status.doors.iter().map(|it| &it.door);
    if let Some(door) = args.doors.iter().find(|door| !known().any(|known| known == *door)) {
        return Err(Error::not_among("door", door, known()));
    }
    let is_wanted = |door: &Name| args.doors.is_empty() || args.doors.contains(door);
    status.doors.retain(|it| is_wanted(&it.door) && (!args.open || it.open > 0));
    status.grants.retain(|grant| is_wanted(&grant.door));
    status.locked_out.retain(|lock| lock.door.as_ref().is_none_or(is_wanted));
    let now = clock::now().wall;
    Ok(output::print(args.json, &[&status], |out| print(out, &status, now))?)
}

/// How the daemon fares.
pub(super) fn ask(target: &Target) -> Result<Status, Error> {
    match target.ask(&Request::Status, Timeout::Reply)?.next()? {
        Reply::Status(status) => Ok(status),
        _ => Err(Error::Ended),
    }
}

fn print(out: &mut dyn Write, status: &Status, now: Wall) -> io::Result<()> {
    let since = local(wall(status.since), &TimeZone::system());
    let running = duration::format_seconds(now.since(wall(status.since)));
    writeln!(
        out,
        "knockd {}, process {}, running for {running}, since {}",
        escape(&status.version),
        status.pid,
        since.strftime("%Y-%m-%d %H:%M:%S")
    )?;
    let listening = match status.listening.as_slice() {
        [] => "nothing: nobody can knock, and the guarded ports stay locked".to_owned(),
        names => names.join(", "),
    };
    let zone = TimeZone::system();
    let Status { fleet, sandbox, waiting_for, .. } = status;
    let on_trial = status.on_trial_until.map(|until| time_and_left(wall(until), now, &zone));
    let facts = [
        ("configuration", Some(status.configuration.display().to_string())),
        ("listening on", Some(listening)),
        ("waiting for", (!waiting_for.is_empty()).then(|| waiting_for.join(", "))),
        ("on trial", on_trial.map(|until| format!("until {until}, unless confirmed"))),
        ("keeper", sandbox.keeper.as_ref().map(|keeper| format!("has {keeper}"))),
        ("watcher", sandbox.watcher.as_ref().map(extent)),
        ("courier", sandbox.courier.as_ref().map(extent)),
        ("fleet", fleet.as_ref().map(|fleet| link(fleet, &zone))),
    ];
    let known = facts.into_iter().filter_map(|(name, fact)| Some(vec![name.to_owned(), fact?]));
    table(out, &[], known)?;
    writeln!(out)?;
    doors(out, &status.doors)?;
    writeln!(out)?;
    grants(out, &status.grants, now)?;
    if status.grants_not_shown > 0 {
        writeln!(out, "and {} more", status.grants_not_shown)?;
    }
    locked_out(out, &status.locked_out, now)?;
    counters(out, status)
}

/// How much of a sandbox holds.
fn extent(sandbox: &WatcherSandbox) -> String {
    match sandbox.whole {
        true => "its sandbox holds".to_owned(),
        false => format!("its sandbox holds in part: {sandbox}"),
    }
}

fn doors(out: &mut dyn Write, doors: &[DoorStatus]) -> io::Result<()> {
    if doors.is_empty() {
        return writeln!(out, "no such doors");
    }
    let rows = doors.iter().map(|door| {
        let forwards = door.forwards.iter().map(Forward::to_string);
        let opens: Vec<_> = door.opens.iter().cloned().chain(forwards).collect();
        let opens = if opens.is_empty() { "-".to_owned() } else { opens.join(" ") };
        let open = match door.open {
            0 => "nobody".to_owned(),
            1 => "1 address".to_owned(),
            many => format!("{many} addresses"),
        };
        let open = match door.sequences_left {
            None => open,
            Some(0) => format!("{open}; no one-time sequence is left"),
            Some(1) => format!("{open}; 1 one-time sequence is left"),
            Some(left) => format!("{open}; {left} one-time sequences are left"),
        };
        let via = door.via.clone() + if door.observes { ", only observes" } else { "" };
        vec![door.door.to_string(), opens, via, open]
    });
    table(out, &["DOOR", "OPENS", "VIA", "OPEN FOR"], rows)
}

fn grants(out: &mut dyn Write, grants: &[GrantStatus], now: Wall) -> io::Result<()> {
    if grants.is_empty() {
        return writeln!(out, "nothing is open");
    }
    let rows = grants.iter().map(|grant| {
        let client = grant.client.as_ref().map_or("-", |client| client.as_str());
        let left = time_left(grant.seconds_left, now, &TimeZone::system());
        let closes = match grant.state {
            GrantCondition::Open if grant.held_by == 0 => left,
            // When that is over nobody knows yet.
            GrantCondition::Open => format!("held by {}", count(grant.held_by, "connection")),
            state @ (GrantCondition::OpenedWithErrors | GrantCondition::Gone) => {
                format!("{left}, {state}")
            }
            state => state.to_string(),
        };
        vec![
            grant.door.to_string(),
            match grant.source_port {
                Some(port) => format!("{} port {port}", grant.address),
                None => grant.address.to_string(),
            },
            client.to_owned(),
            grant.by.to_string(),
            closes,
        ]
    });
    table(out, &["OPEN", "ADDRESS", "CLIENT", "BY", "CLOSES"], rows)
}

/// When something ends, and in how long.
fn time_left(seconds: f64, now: Wall, zone: &TimeZone) -> String {
    time_and_left(now + Duration::try_from_secs_f64(seconds).unwrap_or_default(), now, zone)
}

/// `12:03:04, in 25s`; with the day where it is not today.
pub(super) fn time_and_left(then: Wall, now: Wall, zone: &TimeZone) -> String {
    let left = then.since(now);
    let (now_there, then) = (local(now, zone), local(then, zone));
    let form = if then.date() == now_there.date() { "%H:%M:%S" } else { "%Y-%m-%d %H:%M:%S" };
    let left = duration::format_seconds(left + Duration::from_millis(500));
    format!("{}, in {left}", then.strftime(form))
}

fn locked_out(out: &mut dyn Write, locks: &[LockStatus], now: Wall) -> io::Result<()> {
    if locks.is_empty() {
        return Ok(());
    }
    writeln!(out, "\nlocked out, after too many failures")?;
    let rows = locks.iter().map(|lock| {
        let door = lock.door.as_ref().map_or_else(|| "any door".to_owned(), Name::to_string);
        vec![lock.address.to_string(), door, time_left(lock.seconds_left, now, &TimeZone::system())]
    });
    table(out, &["ADDRESS", "NOT LISTENED TO AT", "UNTIL"], rows)
}

fn counters(out: &mut dyn Write, status: &Status) -> io::Result<()> {
    if status.counters.is_empty() && status.dropped == 0 {
        return Ok(());
    }
    writeln!(out, "\nwhat came to nothing, by reason")?;
    for (reason, count) in &status.counters {
        writeln!(out, "{count:>10}  {}", escape(reason))?;
    }
    if status.dropped > 0 {
        let count = status.dropped;
        writeln!(out, "{count:>10}  dropped by the kernel, unseen: more came than could be read")?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: u64 = 1_700_000_000_000_000_000;

    fn closing_in(seconds_left: f64) -> String {
        time_left(seconds_left, Wall::from_nanos(NOW), &TimeZone::UTC)
    }

    #[test]
    fn the_end_of_a_grant_is_a_time_and_what_is_left() {
        assert_eq!(closing_in(24.6), "22:13:44, in 25s");
        assert_eq!(closing_in(0.2), "22:13:20, in 0s");
    }

    #[test]
    fn the_end_of_a_grant_on_another_day_has_its_day() {
        assert_eq!(closing_in(86_400.0), "2023-11-15 22:13:20, in 1d");
    }

    #[test]
    fn a_time_that_is_none_is_now() {
        for seconds in [-3.0, f64::NAN, f64::INFINITY] {
            assert_eq!(closing_in(seconds), "22:13:20, in 0s");
        }
    }
}
