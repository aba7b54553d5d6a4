//! The sender of packets: each leaves when its schedule says so.

use std::collections::VecDeque;
use std::io;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, TcpStream, UdpSocket};
use std::num::NonZeroU16;
use std::thread;
use std::time::Duration;

use derive_more::Display;
use nix::errno::Errno;
use socket2::{Domain, SockAddr, Socket, Type};

use super::messages;
use super::schedule::{RequestDatagram, Schedule, Wait, WaitAction};
use crate::proto::knock::{Knock, Protocol};
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
    let Some(errno) = error.raw_os_error().map(Errno::from_raw) else { return error.to_string() };
    let meaning = match errno {
        Errno::EPERM => "this machine's own firewall refuses it",
        Errno::ENETUNREACH | Errno::EHOSTUNREACH => "this machine has no route to it",
        Errno::EAFNOSUPPORT => "this machine does not speak this version of IP",
        Errno::EADDRNOTAVAIL => "this machine has no address or no port to send from",
        _ => return errno.desc().to_owned(),
    };
    format!("{}: {meaning}", errno.desc())
}

/// The same, about a port that the user chose.
fn explain_port(error: &io::Error) -> String {
    match error.raw_os_error().map(Errno::from_raw) {
        Some(Errno::EADDRINUSE) => "another program uses it".to_owned(),
        Some(Errno::EACCES) => "ports below 1024 are root's".to_owned(),
        Some(Errno::EADDRNOTAVAIL) => {
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
    /// A knock on a port of `host`, whose own port does not matter; with a `datagram`, a request.
    pub(super) fn new(
        mut host: SocketAddr,
        knock: Knock,
        datagram: Option<&RequestDatagram>,
    ) -> Self {
        host.set_port(knock.port.get());
        let length = datagram.map(|datagram| datagram.bytes.len());
        Self { protocol: knock.protocol, to: host, length }
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

/// A sender to one host.
pub(super) struct Sender {
    host: SocketAddr,
    udp: VecDeque<UdpSocket>,
}

impl Sender {
    /// Sends to `host`, whose own port does not matter.
    pub(super) fn new(host: SocketAddr) -> Self {
        Self { host, udp: VecDeque::with_capacity(KEPT) }
    }

    /// Sends everything of one try, in order, nothing before it is due.
    ///
    /// # Errors
    /// [`SendError`] for the first packet that could not leave; those after it are not sent.
    pub(super) fn send(&mut self, schedule: &Schedule) -> Result<(), SendError> {
        let mut start = now();
        let knocks = schedule.knocks();
        let count = knocks.len();
        for (number, (at, knock)) in (1..).zip(knocks) {
            sleep_until(start + at);
            // A knock that is late makes those after it late: what matters is the time between.
            start = now() - at;
            let what = OutgoingPacket::new(self.host, knock, schedule.request.as_ref());
            messages::say_what_lasts(|| format!("hitting {what}"));
            let sent = match knock.protocol {
                Protocol::Tcp => send_syn(what.to),
                Protocol::Udp => self.send_datagram(what.to, schedule.request.as_ref()),
            };
            sent.map_err(|source| match schedule.request {
                None => SendError::Knock { number, count, what, source },
                Some(_) => SendError::Request { what, source },
            })?;
        }
        Ok(())
    }

    /// Knocks until the target accepts a connection, which, if it has a source port of its own, is
    /// broken off when it is dropped. `schedule` says what to send, anew for each try. `None`: the
    /// port stayed shut.
    ///
    /// # Errors
    /// [`SendError`] as [`Self::send`], or what `schedule` says. A connection that fails is no
    /// error, whatever the reason: a firewall may answer with any.
    pub(super) fn send_until_open<E: From<SendError>>(
        &mut self,
        target: WaitTarget,
        mut schedule: impl FnMut() -> Result<Schedule, E>,
    ) -> Result<Option<TcpStream>, E> {
        let mut to = self.host;
        to.set_port(target.port.get());
        let mut wait = Wait::new(target.retries);
        let mut has_knocked = false;
        loop {
            let now = now();
            match wait.next(now) {
                WaitAction::Knock => {
                    if has_knocked {
                        let again = || format!("{to} is still shut, knocking again");
                        messages::say_what_lasts(again);
                    }
                    self.send(&schedule()?)?;
                    has_knocked = true;
                    messages::say_what_lasts(|| format!("waiting for {to}"));
                }
                WaitAction::Connect { until } => {
                    if let Ok(stream) = connect(to, target.source_port, until.since(now))? {
                        messages::say(|| format!("{to} is open"));
                        return Ok(Some(stream));
                    }
                }
                WaitAction::Pause { until } => sleep_until(until),
                WaitAction::GiveUp => return Ok(None),
            }
        }
    }

    /// A request; without one, a knock of a byte.
    fn send_datagram(&mut self, to: SocketAddr, it: Option<&RequestDatagram>) -> io::Result<()> {
        let port = it.and_then(|request| request.from).map_or(0, NonZeroU16::get);
        if port != 0 {
            // An earlier try may have left from there.
            self.udp.clear();
        }
        let socket = UdpSocket::bind(any_like(to, port))?;
        socket.send_to(it.map_or(&[0], |request| &request.bytes), to)?;
        if self.udp.len() == KEPT {
            self.udp.pop_front();
        }
        self.udp.push_back(socket);
        Ok(())
    }
}

/// Sends one SYN from a fresh port. The socket is gone before the kernel would send another.
fn send_syn(to: SocketAddr) -> io::Result<()> {
    let socket = Socket::new(Domain::for_address(to), Type::STREAM, None)?;
    socket.set_nonblocking(true)?;
    // A port that happens to be open may have answered already: one RST ends that connection, where
    // a FIN would be sent again and again. A SYN that nothing answered is forgotten in silence.
    socket.set_linger(Some(Duration::ZERO))?;
    match socket.connect(&SockAddr::from(to)) {
        Err(error) if !is_sent(&error) => Err(error),
        _ => Ok(()),
    }
}

/// A connection to `to`, or why there is none yet.
///
/// # Errors
/// [`SendError::SourcePort`] if the port cannot be used, now or later.
fn connect(
    to: SocketAddr,
    source_port: Option<NonZeroU16>,
    within: Duration,
) -> Result<io::Result<TcpStream>, SendError> {
    let Some(port) = source_port else { return Ok(TcpStream::connect_timeout(&to, within)) };
    let wrong = |source| SendError::SourcePort { port, source };
    let socket = bound(to, port).map_err(wrong)?;
    match socket.connect_timeout(&SockAddr::from(to), within) {
        // No later try would fare better.
        Err(error) if error.kind() == io::ErrorKind::AddrNotAvailable => Err(wrong(error)),
        result => Ok(result.map(|()| socket.into())),
    }
}

/// A socket that connects from `port`. When it is dropped, its connection is broken off: were it
/// closed, nothing could connect from there for a minute.
fn bound(to: SocketAddr, port: NonZeroU16) -> io::Result<Socket> {
    let socket = Socket::new(Domain::for_address(to), Type::STREAM, None)?;
    socket.set_reuse_address(true)?;
    socket.set_linger(Some(Duration::ZERO))?;
    socket.bind(&any_like(to, port.get()).into())?;
    Ok(socket)
}

/// A port on all addresses that this machine has of the same family.
pub(super) fn any_like(address: SocketAddr, port: u16) -> SocketAddr {
    match address {
        SocketAddr::V4(_) => (Ipv4Addr::UNSPECIFIED, port).into(),
        SocketAddr::V6(_) => (Ipv6Addr::UNSPECIFIED, port).into(),
    }
}

/// A port that nothing uses now.
///
/// # Errors
/// What the kernel says where there is none.
pub(super) fn free_port() -> io::Result<NonZeroU16> {
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None)?;
    socket.bind(&SockAddr::from(SocketAddr::from((Ipv4Addr::UNSPECIFIED, 0))))?;
    let port = socket.local_addr()?.as_socket().and_then(|own| NonZeroU16::new(own.port()));
    port.ok_or_else(|| io::ErrorKind::AddrNotAvailable.into())
}

/// Whether a `connect` that failed has sent its SYN all the same: it is under way, or its answer is
/// already here.
fn is_sent(error: &io::Error) -> bool {
    matches!(
        error.raw_os_error().map(Errno::from_raw),
        Some(Errno::EINPROGRESS | Errno::ECONNREFUSED | Errno::ECONNRESET)
    )
}

fn now() -> Monotonic {
    clock::now().monotonic
}

fn sleep_until(until: Monotonic) {
    thread::sleep(until.since(now()));
}
