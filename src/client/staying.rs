//! The client that stays: it does what a [`Stay`] says, until it is stopped.

use std::fs;
use std::os::fd::AsFd;
use std::sync::mpsc::{self, Sender as Channel};
use std::thread;
use std::time::Duration;

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::{SigSet, Signal};

use super::error::ClientError;
use super::messages;
use super::names::{self, Resolved};
use super::plan::Plan;
use super::requested_address::own_address;
use super::route::Route;
use super::send::Sender;
use super::stay::{Stay, StayAction};
use crate::proto::spa::PORTS;
use crate::sys::clock;
use crate::sys::host::{ADDRESSES, Changes, LINKS, ROUTES};
use crate::time::Wall;

/// When the last try that left began, and how it went.
type LastTry = (Wall, Vec<Route>);

/// What a client is told while it rests.
enum StayNews {
    Stopped(Signal),
    Changed,
    Found(Resolved),
}

/// Knocks as planned each time that `every` is over, and when the way to the host has changed,
/// until a signal ends it; then asks to close, where that can be asked.
///
/// # Errors
/// [`ClientError`] if no request can be made, or if the one to close cannot leave. A network that
/// is not there is waited for.
pub(super) fn stay(plan: &Plan, every: Duration) -> Result<(), ClientError> {
    let (tell, news) = mpsc::channel();
    hear_signals(tell.clone());
    hear_changes(tell.clone());
    let route = |host| Route { host, options: plan.route.clone() };
    let own = |host| own_address(&route(host), *PORTS.start()).ok();
    let (mut stay, mut last, mut other) = (Stay::new(every), None, None);
    loop {
        let now = clock::now();
        let (host, why) = match stay.next(now.monotonic, own) {
            StayAction::Knock { host, why } => (host, why),
            StayAction::Rest { until } => {
                // Its clock stands still while the machine sleeps; but no rest is long.
                match news.recv_timeout(until.since(now.monotonic)) {
                    Ok(StayNews::Stopped(signal)) => return close(plan, last, signal),
                    Ok(StayNews::Changed) => stay.changed(clock::now().monotonic),
                    Ok(StayNews::Found(found)) => {
                        other = found.other_family().filter(|_| plan.route.both);
                        stay.found(clock::now().monotonic, found.or_equal(stay.host));
                    }
                    Err(_) => {}
                }
                continue;
            }
        };
        let used: Option<&LastTry> = last.as_ref();
        let left = plan.knocker.start(now.wall, used.map(|(at, _)| *at)).since(now.wall);
        if !left.is_zero() {
            messages::say(|| format!("waiting {left:.1?} for the next sequence"));
            stay.postpone(now.monotonic + left);
            continue;
        }
        look_up(plan, tell.clone());
        let Some(host) = host else {
            stay.failed(now.monotonic);
            continue;
        };
        let routes: Vec<Route> = [host].into_iter().chain(other).map(route).collect();
        let mut schedule = |route: &Route| Ok(plan.knocker.next(now.wall, route)?);
        match Sender::new(routes.clone()).knock(&mut schedule) {
            Ok(()) => {
                messages::say(|| format!("knocked at {}: {why}", host.ip()));
                last = Some((now.wall, routes));
                stay.knocked(clock::now().monotonic);
            }
            Err(ClientError::Send(error)) => {
                messages::say_what_lasts(|| format!("{error}: trying again"));
                stay.failed(clock::now().monotonic);
            }
            Err(error) => return Err(error),
        }
    }
}

/// Looks the name up while the client goes on: where the network is gone, that may take long.
fn look_up(plan: &Plan, tell: Channel<StayNews>) {
    let (name, family) = (plan.host.clone(), plan.family);
    thread::spawn(move || match names::resolve(&name, family) {
        Ok(found) => drop(tell.send(StayNews::Found(found))),
        Err(error) => messages::say_what_lasts(|| error),
    });
}

/// Hears of the signals that end programs, but for those that whoever started this one has had it
/// ignore, as nohup(1) does.
fn hear_signals(tell: Channel<StayNews>) {
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    let ignored = status.lines().find_map(|line| line.strip_prefix("SigIgn:"));
    let ignored = ignored.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok()).unwrap_or(0);
    let ending = [Signal::SIGINT, Signal::SIGTERM, Signal::SIGHUP].into_iter();
    let signals: SigSet = ending.filter(|it| ignored >> (*it as u32 - 1) & 1 == 0).collect();
    // Otherwise they end it at once.
    if signals.thread_block().is_ok() {
        thread::spawn(move || signals.wait().map(|it| tell.send(StayNews::Stopped(it))));
    }
}

/// Hears of changes; where the kernel does not tell, the client finds them a little later.
fn hear_changes(tell: Channel<StayNews>) {
    let Ok(changes) = Changes::follow(LINKS | ADDRESSES | ROUTES) else { return };
    thread::spawn(move || {
        let mut readable = [PollFd::new(changes.as_fd(), PollFlags::POLLIN)];
        while poll(&mut readable, PollTimeout::NONE).is_ok() {
            if changes.have_come() {
                let _ = tell.send(StayNews::Changed);
            }
        }
    });
}

/// Asks to close what the last try has opened.
fn close(plan: &Plan, last: Option<LastTry>, signal: Signal) -> Result<(), ClientError> {
    let (Some((_, routes)), Some(closing)) = (last, plan.knocker.closing()) else {
        messages::say(|| format!("{signal}: what is open closes when its time is over"));
        return Ok(());
    };
    messages::say(|| format!("{signal}: asking {} to close", plan.host));
    Sender::new(routes).knock(&mut |route| Ok(closing.next(clock::now().wall, route)?))
}
