//! The client that stays: it does what a [`Stay`] says, until it is stopped.

use std::sync::mpsc::{self, Sender as Channel};
use std::thread;
use std::time::Duration;

use super::error::ClientError;
use super::names::{self, Resolved};
use super::plan::Plan;
use super::requested_address::own_address;
use super::route::Route;
use super::send::Sender;
use super::stay::{Stay, StayAction};
use super::{messages, platform};
use crate::proto::spa::PORTS;
use crate::sys::clock;
use crate::time::Wall;

/// When the last try that left began, and how it went.
type LastTry = (Wall, Vec<Route>);

/// What a client is told while it rests.
enum StayNews {
    /// By this.
    Stopped(String),
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
    let (ends, changes) = (tell.clone(), tell.clone());
    platform::hear_end(move |by| drop(ends.send(StayNews::Stopped(by))));
    platform::hear_changes(move || drop(changes.send(StayNews::Changed)));
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
                    Ok(StayNews::Stopped(by)) => return close(plan, last, &by),
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

/// Asks to close what the last try has opened.
fn close(plan: &Plan, last: Option<LastTry>, by: &str) -> Result<(), ClientError> {
    let (Some((_, routes)), Some(closing)) = (last, plan.knocker.closing()) else {
        messages::say(|| format!("{by}: what is open closes when its time is over"));
        return Ok(());
    };
    messages::say(|| format!("{by}: asking {} to close", plan.host));
    Sender::new(routes).knock(&mut |route| Ok(closing.next(clock::now().wall, route)?))
}
