//! The client, `knock`: from its command line to the packets that leave.

pub mod cli;
mod error;
mod fwknop;
pub mod fwknoprc;
pub mod hosts;
mod import;
mod keys;
mod knocker;
mod messages;
mod names;
mod one_time;
mod plan;
mod platform;
mod proxy;
mod requested_address;
mod route;
pub mod schedule;
mod send;
mod settings;
mod spa;
mod stamps;
mod stay;
mod staying;
pub mod totp;
mod values;

use std::io::{self, Write};
use std::net::IpAddr;
use std::ops::RangeInclusive;
use std::process::ExitCode;
use std::thread;
use std::time::Duration;

use cli::{Invocation, KnockCommand};
use error::{ClientError, GaveUp};
use knocker::Knocker;
use messages::Stream;
pub use messages::complain;
use plan::Plan;
#[cfg(feature = "daemon")]
pub(crate) use platform::prompt_hidden;
use route::Route;
use schedule::Schedule;
use send::{OutgoingPacket, Sender};

use crate::sys::clock;

/// The longest time between two knocks.
const MAX_DELAY: Duration = Duration::from_secs(3_600);
/// How many times a client may be told to knock again.
const RETRY_RANGE: RangeInclusive<u16> = 0..=1_000;

/// Runs `knock` with the arguments of this process.
pub fn main() -> ExitCode {
    let result = run();
    messages::takes_time(None);
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            error.say();
            ExitCode::from(error.status())
        }
    }
}

fn run() -> Result<(), ClientError> {
    match cli::read(std::env::args_os())? {
        KnockCommand::Knock(invocation) => knock(&invocation),
        KnockCommand::Import(arguments) => import::import(&arguments),
        KnockCommand::Keygen(file) => print(&keys::keygen(&file)?.to_string()),
        KnockCommand::Print(text) => print(&text),
        KnockCommand::ListHosts => list_hosts(),
    }
}

fn list_hosts() -> Result<(), ClientError> {
    let Some(path) = hosts::default_path() else { return Ok(()) };
    let (hosts, _) = hosts::read(&path)?;
    hosts.names().try_for_each(print)
}

fn knock(invocation: &Invocation) -> Result<(), ClientError> {
    let is_proxy = invocation.proxy.is_some() && !invocation.dry_run;
    let stream = if is_proxy { Stream::Error } else { Stream::Output };
    if invocation.verbose {
        messages::be_verbose(stream);
    }
    if is_proxy && invocation.fdpass {
        platform::check_passing()?;
    }
    let plan = Plan::new(invocation)?;
    if plan.knocker.is_mistimed(clock::now().wall) {
        messages::warn(&"this machine's clock is wrong, and what is sent depends on it: set it");
    }
    match plan.stay {
        Some(every) if !invocation.dry_run => staying::stay(&plan, every),
        _ => carry_out(invocation, plan),
    }
}

fn carry_out(invocation: &Invocation, mut plan: Plan) -> Result<(), ClientError> {
    let (name, options) = (&plan.host, &plan.route);
    if name.parse::<IpAddr>().is_err() {
        messages::say_if_it_lasts(|| format!("looking up the address of {name}"));
    }
    let host = names::resolve(name, plan.family)?;
    let other = host.other_family();
    let used = [host.address].into_iter().chain(other.filter(|_| options.both));
    let routes = used.map(|host| Route { host, options: options.clone() }).collect::<Vec<_>>();
    if !host.others.is_empty() {
        let used = routes.iter().map(|route| route.host.ip().to_string()).collect::<Vec<_>>();
        let (used, count) = (used.join(" and "), host.others.len() + 1);
        messages::say(|| format!("{name} has {count} addresses, using {used}"));
    }
    if options.both && plan.family.is_none() && other.is_none() {
        messages::say(|| format!("{name} has no address of the other family"));
    }
    let knocker = &plan.knocker;
    if invocation.dry_run {
        let now = clock::now().wall;
        return routes.iter().try_for_each(|route| {
            let schedule = knocker.next(knocker.start(now, None), route)?;
            schedule.knocks().try_for_each(|(_, knock)| {
                print(&OutgoingPacket::new(route, knock, schedule.request.as_ref()).to_string())
            })
        });
    }
    if let Knocker::OneTime(list) = &mut plan.knocker {
        list.strike_out()?;
    }
    let knocker = &plan.knocker;
    let mut sender = Sender::new(routes);
    let mut schedule = |route: &Route| next(knocker, route);
    let Some(target) = plan.wait else { return sender.knock(&mut schedule) };
    match sender.send_until_open(target, schedule)? {
        Some(stream) if invocation.fdpass => Ok(proxy::pass(&stream)?),
        Some(stream) if target.for_proxy => Ok(proxy::pipe(&stream)?),
        Some(_) => Ok(()),
        None => {
            let to = sender.shown(target);
            let other = other.filter(|_| !options.both).map(|it| if it.is_ipv4() { 4 } else { 6 });
            let other = other.map(|it| format!("-{it} takes another address of this host"));
            let advice = knocker.advice().into_iter().chain(other);
            let (what, advice) = (knocker.noun(), advice.collect());
            Err(GaveUp { to, target, what, advice }.into())
        }
    }
}

/// The next try; waits for the moment at which it may leave.
fn next(knocker: &Knocker, route: &Route) -> Result<Schedule, ClientError> {
    loop {
        let now = clock::now().wall;
        let left = knocker.start(now, None).since(now);
        if left.is_zero() {
            return Ok(knocker.next(now, route)?);
        }
        messages::say_what_lasts(|| {
            format!("the sequence changes in {left:.1?}: waiting for the next one")
        });
        thread::sleep(left);
    }
}

/// Prints a line. A reader that has gone away is no error.
fn print(line: &str) -> Result<(), ClientError> {
    match writeln!(io::stdout(), "{line}") {
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(()),
        result => result.map_err(ClientError::Output),
    }
}
