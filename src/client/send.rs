//! Packets: sends what the plan says, when it says so.

use std::collections::VecDeque;
use std::io;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, TcpStream, UdpSocket};
use std::num::NonZeroU16;
use std::thread;
use std::time::{Duration, Instant};

use nix::errno::Errno;
use socket2::{Domain, SockAddr, Socket, Type};

use super::plan::{Next, Plan, Step, Wait};
use crate::proto::knock::{Knock, Protocol};
use crate::time::Monotonic;

/// A knock that did not leave this machine.
#[derive(Debug, thiserror::Error)]
#[error("knock {number} of {count} was not sent: {what}: {}", explain(source))]
pub struct SendError {
    number: usize,
    count: usize,
    what: Packet,
    source: io::Error,
}

/// What the kernel said, and what it means where that is not obvious.
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

/// One packet that a knock is: a protocol and where it goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Packet {
    pub protocol: Protocol,
    pub to: SocketAddr,
}

impl Packet {
    /// A knock on a port of `host`, whose own port does not matter.
    #[must_use]
    pub const fn new(mut host: SocketAddr, knock: Knock) -> Self {
        host.set_port(knock.port.get());
        Self { protocol: knock.protocol, to: host }
    }
}

/// `tcp 192.0.2.1:7000`, `udp [2001:db8::1]:7000`.
impl std::fmt::Display for Packet {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} {}", self.protocol, self.to)
    }
}

/// What happens while knocking, for those who want to read along.
#[derive(Clone, Copy, Debug)]
pub enum Progress {
    Hitting(Packet),
    Waiting(SocketAddr),
    StillShut(SocketAddr),
    Open(SocketAddr),
}

/// Whether the port opened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use]
pub enum Waited {
    Open,
    GaveUp { knocked: u32 },
}

/// How many UDP sockets stay open, so that their source ports are not given out again: a server
/// takes two datagrams with the same ports for one.
const KEPT: usize = 32;

/// Knocks at one host and tells `report` what it does.
pub struct Sender<R> {
    host: SocketAddr,
    report: R,
    start: Instant,
    udp: VecDeque<UdpSocket>,
}

impl<R: FnMut(Progress)> Sender<R> {
    /// Sends to `host`, whose own port does not matter.
    pub fn new(host: SocketAddr, report: R) -> Self {
        Self { host, report, start: clock(), udp: VecDeque::with_capacity(KEPT) }
    }

    fn now(&self) -> Monotonic {
        Monotonic::ZERO + clock().saturating_duration_since(self.start)
    }

    fn sleep_until(&self, until: Monotonic) {
        thread::sleep(until.since(self.now()));
    }

    /// Sends every knock of the plan, in order, none before it is due.
    ///
    /// # Errors
    /// [`SendError`] for the first knock that could not leave; those after it are not sent.
    pub fn knock(&mut self, plan: &Plan) -> Result<(), SendError> {
        let mut start = self.now();
        let steps = plan.steps();
        let count = steps.len();
        for (number, Step { at, knock }) in (1..).zip(steps) {
            self.sleep_until(start + at);
            // A knock that is late makes those after it late: what matters is the time between.
            start = self.now() - at;
            let what = Packet::new(self.host, knock);
            (self.report)(Progress::Hitting(what));
            let sent = match knock.protocol {
                Protocol::Tcp => send_syn(what.to),
                Protocol::Udp => self.send_datagram(what.to),
            };
            sent.map_err(|source| SendError { number, count, what, source })?;
        }
        Ok(())
    }

    /// Knocks until the TCP port `port` accepts a connection, which is closed again.
    ///
    /// # Errors
    /// [`SendError`] as [`Self::knock`]. A connection that fails is no error, whatever the reason:
    /// a firewall may answer with any.
    pub fn knock_and_wait(
        &mut self,
        plan: &Plan,
        port: NonZeroU16,
        retries: u16,
    ) -> Result<Waited, SendError> {
        let mut to = self.host;
        to.set_port(port.get());
        let mut wait = Wait::new(retries);
        let mut knocked = 0;
        loop {
            let now = self.now();
            match wait.next(now) {
                Next::Knock => {
                    if knocked > 0 {
                        (self.report)(Progress::StillShut(to));
                    }
                    self.knock(plan)?;
                    knocked += 1;
                    (self.report)(Progress::Waiting(to));
                }
                Next::Connect { until } => {
                    if TcpStream::connect_timeout(&to, until.since(now)).is_ok() {
                        (self.report)(Progress::Open(to));
                        return Ok(Waited::Open);
                    }
                }
                Next::Pause { until } => self.sleep_until(until),
                Next::GiveUp => return Ok(Waited::GaveUp { knocked }),
            }
        }
    }

    /// Sends one datagram of one zero byte.
    fn send_datagram(&mut self, to: SocketAddr) -> io::Result<()> {
        let socket = match to {
            SocketAddr::V4(_) => UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0)),
            SocketAddr::V6(_) => UdpSocket::bind((Ipv6Addr::UNSPECIFIED, 0)),
        }?;
        socket.send_to(&[0], to)?;
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

/// Whether a `connect` that failed has sent its SYN all the same: it is under way, or its answer is
/// already here.
fn is_sent(error: &io::Error) -> bool {
    matches!(
        error.raw_os_error().map(Errno::from_raw),
        Some(Errno::EINPROGRESS | Errno::ECONNREFUSED | Errno::ECONNRESET)
    )
}

#[expect(clippy::disallowed_methods, reason = "the sender is the shell that sleeps and sends")]
fn clock() -> Instant {
    Instant::now()
}
