//! The sender of packets: each leaves when its schedule says so.

use std::collections::VecDeque;
use std::io;
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::num::NonZeroU16;
use std::thread;
use std::time::Duration;

use derive_more::Display;
use socket2::{Socket, Type};

use super::route::Route;
use super::schedule::{RequestDatagram, Schedule, Wait, WaitAction};
use super::{messages, platform};
use crate::proto::{Knock, Protocol, push_latest};
use crate::sys::clock;
use crate::time::Monotonic;

/// The reason why a packet did not leave this machine.
#[derive(Debug, thiserror::Error)]
pub(super) enum SendError {
    #[error("knock {number} of {count} was not sent: {what}: {}", explain(source))]
    Knock { number: usize, count: usize, what: OutgoingPacket, source: io::Error },
    #[error("the request was not sent: {what}: {}", explain(source))]
    Request { what: OutgoingPacket, source: io::Error },
    #[error("no connection can be made from port {port}: {}", explain_port(source))]
    SourcePort { port: NonZeroU16, source: io::Error },
}

/// The words of the kernel, and what they mean where that is not obvious.
fn explain(error: &io::Error) -> String {
    let text = error.to_string();
    let words = text.split(" (os error ").next().unwrap_or(&text);
    let meaning = match (error.kind(), error.raw_os_error()) {
        (_, Some(platform::REFUSED_BY_FIREWALL)) => "this machine's own firewall refuses it",
        (io::ErrorKind::NetworkUnreachable | io::ErrorKind::HostUnreachable, _) => {
            "this machine has no route to it"
        }
        (_, Some(platform::NO_SUCH_FAMILY)) => "this machine does not speak this version of IP",
        (io::ErrorKind::AddrNotAvailable, _) => {
            "this machine has no such address, or no port, to send from"
        }
        (_, Some(platform::NO_SUCH_INTERFACE)) => {
            "this machine has no such interface: see 'ip link'"
        }
        _ => return words.to_owned(),
    };
    format!("{words}: {meaning}")
}

/// The same, about a port that the user chose.
fn explain_port(error: &io::Error) -> String {
    match error.kind() {
        io::ErrorKind::AddrInUse => "another program uses it".to_owned(),
        _ if error.raw_os_error() == Some(platform::PORT_DENIED) => {
            platform::WHO_HAS_PORT.to_owned()
        }
        io::ErrorKind::AddrNotAvailable => {
            "the last connection from there has ended less than a minute ago: \
             wait, or use another port"
                .to_owned()
        }
        _ => explain(error),
    }
}

/// A packet that leaves: its protocol, where it goes, and the length of a request. Shown as
/// `tcp 192.0.2.1:7000` or `udp [2001:db8::1]:62201 192 bytes`.
#[derive(Clone, Copy, Debug, Display, PartialEq, Eq)]
#[display("{protocol} {to}{}", length.map_or_else(String::new, |it| format!(" {it} bytes")))]
pub(super) struct OutgoingPacket {
    pub protocol: Protocol,
    pub to: SocketAddr,
    length: Option<usize>,
}

impl OutgoingPacket {
    /// A knock on a port of the host; with a `datagram`, a request.
    pub(super) fn new(route: &Route, knock: Knock, datagram: Option<&RequestDatagram>) -> Self {
        let length = datagram.map(|datagram| datagram.bytes.len());
        Self { protocol: knock.protocol, to: route.to(knock.port), length }
    }
}

/// The port that is waited for, and how.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct WaitTarget {
    pub port: NonZeroU16,
    /// Bound for every connection; `None`: the kernel chooses.
    pub source_port: Option<NonZeroU16>,
    /// The number of knocks after the first.
    pub retries: u16,
    /// The program becomes the connection.
    pub for_proxy: bool,
}

/// The number of UDP sockets that stay open, so that their source ports are not given out again: a
/// server takes two datagrams with the same ports for one.
const KEPT: usize = 32;

/// The time that a knock by connection may take. The kernel sends its SYN again after a second: no
/// second one leaves.
pub(super) const CONNECTED: Duration = Duration::from_millis(500);

/// The time between the requests on two routes. They are of one key, and of two that overtake each
/// other on their ways only the later one counts.
const APART: Duration = Duration::from_millis(250);

/// A sender to one host, on one route or on one for each version of IP.
pub(super) struct Sender {
    routes: Vec<Route>,
    udp: VecDeque<Socket>,
}

impl Sender {
    pub(super) fn new(routes: Vec<Route>) -> Self {
        Self { routes, udp: VecDeque::with_capacity(KEPT) }
    }

    /// Sends one try on each route. `schedule` says what.
    ///
    /// # Errors
    /// What `schedule` says, or the last [`SendError`] if no route has taken a whole try: a machine
    /// may have one version of IP, and the host both.
    pub(super) fn knock<E: From<SendError>>(
        &mut self,
        schedule: &mut impl FnMut(&Route) -> Result<Schedule, E>,
    ) -> Result<(), E> {
        let (mut is_sent, mut failed, mut pause) = (false, None, Duration::ZERO);
        for route in &self.routes.clone() {
            thread::sleep(pause);
            let schedule = schedule(route)?;
            pause = if schedule.request.is_some() { APART } else { Duration::ZERO };
            match self.send(route, &schedule) {
                Ok(()) => is_sent = true,
                Err(error) => failed = Some(error),
            }
        }
        match failed {
            Some(error) if !is_sent => return Err(error.into()),
            Some(error) => messages::say(|| error.to_string()),
            None => {}
        }
        Ok(())
    }

    /// Sends everything of one try, in order, nothing before it is due.
    ///
    /// # Errors
    /// [`SendError`] for the first packet that could not leave; those after it are not sent.
    fn send(&mut self, route: &Route, schedule: &Schedule) -> Result<(), SendError> {
        let mut start = now();
        let knocks = schedule.knocks();
        let count = knocks.len();
        for (number, (at, knock)) in (1..).zip(knocks) {
            sleep_until(start + at);
            // A knock that is late makes those after it late: what matters is the time between.
            start = now() - at;
            let what = OutgoingPacket::new(route, knock, schedule.request.as_ref());
            let line = || format!("hitting {what}");
            // To show what lasts takes a thread, whose start the knock would wait for.
            if schedule.delay < messages::PATIENCE {
                messages::say(line);
            } else {
                messages::say_what_lasts(line);
            }
            let sent = match knock.protocol {
                Protocol::Tcp => send_syn(route, what.to),
                Protocol::Udp => self.send_datagram(route, what.to, schedule.request.as_ref()),
            };
            sent.map_err(|source| match schedule.request {
                None => SendError::Knock { number, count, what, source },
                Some(_) => SendError::Request { what, source },
            })?;
        }
        let stamps = schedule.request.as_ref().and_then(|it| it.stamps.as_ref());
        stamps.into_iter().for_each(|stamps| stamps.flush());
        Ok(())
    }

    /// Knocks until the target accepts a connection on a route, which, if it has a source port of
    /// its own, is broken off when it is dropped. `schedule` says what to send, anew for each try.
    /// `None`: the port stayed shut.
    ///
    /// # Errors
    /// As [`Self::knock`]. A connection that fails is no error, whatever the reason: a firewall may
    /// answer with any.
    pub(super) fn send_until_open<E: From<SendError>>(
        &mut self,
        target: WaitTarget,
        mut schedule: impl FnMut(&Route) -> Result<Schedule, E>,
    ) -> Result<Option<TcpStream>, E> {
        let to = self.shown(target);
        let mut wait = Wait::new(target.retries);
        let mut has_knocked = false;
        loop {
            match wait.next(now()) {
                WaitAction::Knock => {
                    if has_knocked {
                        messages::say_what_lasts(|| format!("{to} is still shut, knocking again"));
                    }
                    self.knock(&mut schedule)?;
                    has_knocked = true;
                    messages::say_what_lasts(|| format!("waiting for {to}"));
                }
                WaitAction::Connect { until } => {
                    for (left, route) in (1..=self.routes.len()).rev().zip(&self.routes) {
                        let within = until.since(now()) / u32::try_from(left).unwrap_or(1);
                        if let Ok(stream) = connect(route, target, within)? {
                            messages::say(|| format!("{} is open", route.to(target.port)));
                            return Ok(Some(stream));
                        }
                    }
                }
                WaitAction::Pause { until } => sleep_until(until),
                WaitAction::GiveUp => return Ok(None),
            }
        }
    }

    /// What is waited for, in words.
    pub(super) fn shown(&self, target: WaitTarget) -> String {
        let to = self.routes.iter().map(|route| route.to(target.port).to_string());
        to.collect::<Vec<_>>().join(" or ")
    }

    /// A request; without one, a knock of a byte.
    fn send_datagram(
        &mut self,
        route: &Route,
        to: SocketAddr,
        it: Option<&RequestDatagram>,
    ) -> io::Result<()> {
        let port = it.and_then(|request| request.from);
        if port.is_some() {
            // An earlier try may have left from there.
            self.udp.clear();
        }
        let socket = route.socket(Type::DGRAM, port)?;
        socket.send_to(it.map_or(&[0], |request| &request.bytes), &to.into())?;
        push_latest(&mut self.udp, KEPT, socket);
        Ok(())
    }
}

/// Sends one SYN from a fresh port, and waits for the connection if one is wanted. The socket is
/// gone before the kernel would send another SYN.
fn send_syn(route: &Route, to: SocketAddr) -> io::Result<()> {
    let socket = route.socket(Type::STREAM, None)?;
    socket.set_nonblocking(true)?;
    if !route.options.connect {
        // A port that happens to be open may have answered already: one RST ends that connection,
        // where a FIN would be sent again and again. A SYN that nothing answered is forgotten in
        // silence.
        socket.set_linger(Some(Duration::ZERO))?;
    }
    match socket.connect(&to.into()) {
        Err(error) if !is_sent(&error) => Err(error),
        Err(_) if route.options.connect => {
            let end = now() + CONNECTED;
            // It has a peer, or an error, once it is answered.
            while now() < end && socket.peer_addr().is_err() && socket.take_error()?.is_none() {
                thread::sleep(Duration::from_millis(1));
            }
            Ok(())
        }
        _ => Ok(()),
    }
}

/// Whether the kernel says of a port that it cannot be used.
fn is_about_port(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::AddrInUse | io::ErrorKind::AddrNotAvailable)
        || error.raw_os_error() == Some(platform::PORT_DENIED)
}

/// A connection to the target, or why there is none yet. From a port of its own, it is broken off
/// when it is dropped: were it closed, nothing could connect from there for a minute.
///
/// # Errors
/// [`SendError::SourcePort`] if the port cannot be used, now or later.
fn connect(
    route: &Route,
    target: WaitTarget,
    within: Duration,
) -> Result<io::Result<TcpStream>, SendError> {
    let attempt = || {
        let socket = route.socket(Type::STREAM, target.source_port)?;
        socket.set_linger(target.source_port.map(|_| Duration::ZERO))?;
        let connected = socket.connect_timeout(&route.to(target.port).into(), within);
        // On Windows it passes for a failure if the server has said at once that it is done.
        connected.or_else(|error| socket.peer_addr().map(drop).map_err(|_| error))?;
        Ok(socket.into())
    };
    match (target.source_port, attempt()) {
        // No later try would fare better.
        (Some(port), Err(source)) if is_about_port(&source) => {
            Err(SendError::SourcePort { port, source })
        }
        (_, result) => Ok(result),
    }
}

/// A port that nothing uses now.
///
/// # Errors
/// What the kernel says where there is none.
pub(super) fn free_port() -> io::Result<NonZeroU16> {
    let own = TcpListener::bind((Ipv4Addr::UNSPECIFIED, 0))?.local_addr()?;
    NonZeroU16::new(own.port()).ok_or_else(|| io::ErrorKind::AddrNotAvailable.into())
}

/// Whether a `connect` that failed has sent its SYN all the same: it is under way, or its answer is
/// already here.
fn is_sent(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::ConnectionRefused | io::ErrorKind::ConnectionReset)
        || error.raw_os_error() == Some(platform::UNDER_WAY)
}

fn now() -> Monotonic {
    clock::now().monotonic
}

fn sleep_until(until: Monotonic) {
    thread::sleep(until.since(now()));
}
