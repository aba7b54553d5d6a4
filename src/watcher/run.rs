//! The watcher's loop.

use std::io;
use std::ops::ControlFlow;
use std::os::fd::{AsFd, BorrowedFd};
use std::process::ExitCode;
use std::time::Duration;

use nix::net::if_::InterfaceFlags;

use super::report::Reporter;
use super::sandbox;
use crate::capture::{CaptureError, Live, Stats};
use crate::engine::{Engine, Local, Reason, TriedDatagram, Verdict};
use crate::ipc::{Assignment, Channel, EARLY, FromWatcher, InterfaceState, Received, ToWatcher};
use crate::sys::memory::Code;
use crate::sys::privileges::PrivilegeError;
use crate::sys::{clock, descriptors, host, memory, process, scheduling};
use crate::time::{Monotonic, Now, Wall};
use crate::wire::filter::Filter;
use crate::wire::{self, Packet};

/// How many packets of one interface are looked at before the others have their turn.
const BATCH: usize = 256;
/// How long packets that come fast are left to gather: a wake-up costs more than many of them.
const NAP: Duration = Duration::from_micros(500);
/// How long trying keys takes before packets have their turn; a single trial may take longer.
const TURN: Duration = Duration::from_micros(250);
/// The part of that time for which there is no trial then, whatever waits: 1 in so many.
const PAUSE: u32 = 4;
/// How often the kernel is asked what it has dropped.
const LOOK_AFTER_DROPS: Duration = Duration::from_secs(10);
/// How much longer than its window a watcher stays at the least: a packet may still be on its way
/// through the kernel.
const LINGER: Duration = Duration::from_millis(100);

/// The reason why a watcher cannot work.
#[derive(Debug, thiserror::Error)]
enum WatchError {
    #[error("this is for knockd itself to use: {0}")]
    Assignment(io::Error),
    #[error(transparent)]
    Capture(#[from] CaptureError),
    #[error("cannot give up root: {0}")]
    Privileges(#[from] PrivilegeError),
    #[error("cannot wait for packets: {0}")]
    Wait(io::Error),
}

/// Runs the watcher: captures what the inherited assignment says, gives up root, and reports until
/// it is told to end or its keeper is gone.
pub fn run() -> ExitCode {
    // Whoever does without wakes later from its naps.
    let _ = scheduling::request_exact_waits();
    match Watcher::start().and_then(Watcher::run) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{error}");
            ExitCode::FAILURE
        }
    }
}

struct Watcher {
    engine: Engine,
    captures: Vec<Interface>,
    reporter: Reporter,
    longest: Duration,
    /// From when on it ends as soon as no sequence is under way, and when it ends in any case.
    leave: Option<(Monotonic, Monotonic)>,
    next_drops: Monotonic,
    crowded: u64,
    pace: Pace,
    is_napping: bool,
    /// When the datagrams that wait have their next turn.
    next_turn: Monotonic,
}

/// How fast packets come. Nobody's knocks come as fast as a flood, so no knock waits for a nap while
/// there is none.
#[derive(Debug, Default)]
struct Pace {
    since: Monotonic,
    packets: usize,
    is_fast: bool,
}

impl Pace {
    /// How long one is looked at.
    const SPAN: Duration = Duration::from_millis(2);
    /// How many packets in that time are fast.
    const FAST: usize = 40;

    fn note(&mut self, now: Monotonic, packets: usize) {
        self.packets += packets;
        let spans = now.since(self.since).as_nanos() / Self::SPAN.as_nanos();
        if let spans @ 1.. = usize::try_from(spans).unwrap_or(usize::MAX) {
            let is_fast = self.packets / spans >= Self::FAST;
            *self = Self { since: now, packets: 0, is_fast };
        }
    }
}

struct Interface {
    index: u32,
    /// Whether it is a loopback interface.
    looped: bool,
    capture: Live,
    /// The time of its latest packet: none after it may be earlier.
    latest: Monotonic,
}

impl Watcher {
    fn start() -> Result<Self, WatchError> {
        let channel = Channel(
            descriptors::inherited(process::WATCHER_CHANNEL).map_err(WatchError::Assignment)?,
        );
        let Assignment { setup, interfaces, addresses, identity, verbose, sandbox } =
            process::assignment().map_err(WatchError::Assignment)?;
        sandbox::begin(sandbox);
        let only_ipv4 = setup.only_ipv4;
        let longest = setup.doors.iter().map(|door| door.seq_timeout).max();
        let mut engine = Engine::new(setup);
        while !engine.is_ready() {
            engine.work(clock::now());
        }
        let filter = engine.datagrams().fold(Filter::new(engine.watched(), only_ipv4), Filter::and);
        let mut reporter = Reporter::new(channel, verbose);
        let mut captures = Vec::new();
        for (index, name) in (0..).zip(&interfaces) {
            let state = match Live::open(name, &filter) {
                Ok(capture) => {
                    let latest = Monotonic::ZERO;
                    let looped = host::has(name, InterfaceFlags::IFF_LOOPBACK);
                    captures.push(Interface { index, looped, capture, latest });
                    InterfaceState::Listening
                }
                Err(CaptureError::NoInterface { .. }) => InterfaceState::Missing,
                Err(error) => return Err(error.into()),
            };
            reporter.say(FromWatcher::Interface { index, state });
        }
        engine.local = Local::Addresses(addresses);
        // All that is still needed of the setup is in the engine.
        memory::give_back();
        let code = Code::of_this_process();
        let report = sandbox::enter(&identity, sandbox)?;
        code.give_back();
        reporter.say(FromWatcher::Sandbox { report });
        reporter.say(FromWatcher::Ready);
        Ok(Self {
            engine,
            captures,
            reporter,
            longest: longest.unwrap_or_default(),
            leave: None,
            next_drops: clock::now().monotonic + LOOK_AFTER_DROPS,
            crowded: 0,
            pace: Pace::default(),
            is_napping: false,
            next_turn: Monotonic::ZERO,
        })
    }

    fn run(mut self) -> Result<(), WatchError> {
        loop {
            if self.wait()? && self.handle_orders().is_break() {
                return Ok(());
            }
            // Of what comes after this it is not known whether it has been looked at.
            let now = clock::now();
            self.reporter.events(now.monotonic, self.engine.work(now));
            // Packets wait in the kernel while what they may be is not known.
            let more = !self.engine.is_ready() || self.read_packets(now);
            self.is_napping = self.pace.is_fast && !more;
            // A packet that is still queued goes before trials, and may have come before a deadline.
            if !more {
                self.try_waiting(now.monotonic);
                self.reporter.events(now.monotonic, self.engine.on_deadline(now));
            }
            self.look_after_losses(now.monotonic);
            self.reporter.poll(now.monotonic);
            if !more && self.may_leave(now.monotonic) {
                self.tell_captured();
                self.reporter.send_all();
                self.reporter.say(FromWatcher::Done);
                return Ok(());
            }
        }
    }

    /// Whether it was asked to end, and all that is its to tell has been told.
    fn may_leave(&self, now: Monotonic) -> bool {
        let is_over = |(early, late)| late <= now || (early <= now && self.engine.is_idle());
        self.leave.is_some_and(is_over)
    }

    /// Sleeps until something happens or is due. True: the keeper has said something, or is gone.
    fn wait(&self) -> Result<bool, WatchError> {
        let now = clock::now().monotonic;
        // Whoever is still on the way when it could end early has a deadline in the engine.
        let leave = self.leave.map(|(early, late)| if now < early { early } else { late });
        let drops = (!self.captures.is_empty()).then_some(self.next_drops);
        let deadlines =
            [self.engine.next_deadline(), self.reporter.next_deadline(now), leave, drops];
        let nap = self.is_napping.then(|| now + NAP);
        let turn = self.engine.has_waiting().then_some(self.next_turn);
        let deadlines = deadlines.into_iter().chain([self.engine.next_work(), nap, turn]);
        let timeout = deadlines.flatten().min().map(|deadline| deadline.since(now));
        let mut fds: Vec<BorrowedFd<'_>> = vec![self.reporter.channel.as_fd()];
        if !self.is_napping {
            fds.extend(self.captures.iter().map(|interface| interface.capture.capture.as_fd()));
        }
        Ok(descriptors::wait(&fds, timeout).map_err(WatchError::Wait)?.first() == Some(&true))
    }

    /// Does what the keeper says; `Break`: it has to end.
    fn handle_orders(&mut self) -> ControlFlow<()> {
        loop {
            match self.reporter.channel.receive() {
                Received::Nothing => return ControlFlow::Continue(()),
                Received::Frame(ToWatcher::After { time }) => {
                    self.engine.window.after = Some(time);
                    self.reporter.begin(time);
                }
                Received::Frame(ToWatcher::Until { time }) => {
                    self.engine.window.until = Some(time);
                    let early = time + LINGER;
                    self.leave = Some((early, early.max(time + self.longest)));
                }
                Received::Frame(ToWatcher::Explain { asked }) => self.reporter.explain(asked),
                Received::Frame(ToWatcher::Lock { lock }) => {
                    self.engine.lock(clock::now().monotonic, lock);
                }
                Received::Frame(ToWatcher::Unlock { source }) => self.engine.unlock(source),
                Received::Frame(ToWatcher::Address { address, is_own }) => {
                    if let Local::Addresses(all) = &mut self.engine.local {
                        let _was_so =
                            if is_own { all.insert(address) } else { all.remove(&address) };
                    }
                }
                Received::Closed | Received::Malformed => return ControlFlow::Break(()),
            }
        }
    }

    /// Looks at what is queued, up to a batch for each interface; true: there may be more.
    fn read_packets(&mut self, now: Now) -> bool {
        let (mut all, mut more) = (0, false);
        let Self { engine, captures, reporter, .. } = self;
        captures.retain_mut(|interface| {
            let Interface { capture, latest, looped, index, .. } = interface;
            let link = capture.link;
            let read = capture.read(BATCH, |frame| {
                let at = packet_time(now, frame.time, *latest);
                *latest = at.monotonic;
                match wire::parse(link, frame.bytes) {
                    Ok((mut packet, payload)) => {
                        packet.looped |= *looped;
                        let verdict = engine.receive(at, &packet, payload);
                        report(reporter, at.monotonic, &packet, verdict);
                    }
                    Err(ignored) => reporter.count(at.monotonic, ignored.into(), 1),
                }
            });
            match read {
                Ok(count) => {
                    all += count;
                    more |= count == BATCH;
                }
                Err(_) => {
                    let (index, state) = (*index, InterfaceState::Gone);
                    reporter.say(FromWatcher::Interface { index, state });
                }
            }
            read.is_ok()
        });
        self.pace.note(now.monotonic, all);
        more
    }

    /// Tries the keys of all clients with datagrams that wait, for a short while, and then not for
    /// a while: packets have their turn in between.
    fn try_waiting(&mut self, now: Monotonic) {
        if now < self.next_turn {
            return;
        }
        let begun = if self.engine.has_waiting() { clock::now().monotonic } else { now };
        let mut spent = Duration::ZERO;
        while spent < TURN
            && let Some(TriedDatagram { at, packet, verdict }) = self.engine.try_waiting()
        {
            report(&mut self.reporter, at, &packet, verdict);
            spent = clock::now().monotonic.since(begun);
        }
        self.next_turn = begun + spent + spent / PAUSE;
    }

    /// Counts what was lost for want of room: in the tracker, in the kernel.
    fn look_after_losses(&mut self, now: Monotonic) {
        let crowded = self.engine.crowded();
        self.reporter.count(now, Reason::Crowded, crowded.saturating_sub(self.crowded));
        self.crowded = crowded;
        if self.next_drops > now {
            return;
        }
        self.next_drops = now + LOOK_AFTER_DROPS;
        self.tell_captured();
    }

    fn tell_captured(&mut self) {
        for Interface { index, capture, .. } in &mut self.captures {
            if let Ok(Stats { received: seen, dropped }) = capture.stats()
                && seen.max(dropped) > 0
            {
                self.reporter.say(FromWatcher::Captured { index: *index, seen, dropped });
            }
        }
    }
}

/// Reports what a packet has come to.
fn report(reporter: &mut Reporter, at: Monotonic, packet: &Packet, verdict: Verdict<'_>) {
    match verdict {
        Verdict::NotOurs | Verdict::Waits => {}
        Verdict::Ignored(reason) => reporter.ignored(at, packet, reason),
        Verdict::Knock(events) => reporter.events(at, events),
        Verdict::Requests(requests) => {
            for &request in requests {
                reporter.report(FromWatcher::Request { request, at });
            }
        }
        Verdict::Refused(refusal) => reporter.report(FromWatcher::Refused { refusal, at }),
    }
}

/// When a packet came, on the clock that does not jump.
///
/// The kernel stamps packets in calendar time. What the calendar says of a packet's age holds
/// unless the calendar was set since; then the packet is at least no earlier than the one before
/// it, and no later than now.
fn packet_time(now: Now, stamp: Wall, latest: Monotonic) -> Now {
    let age = now.wall.since(stamp);
    let ahead = stamp.since(now.wall).min(EARLY);
    let monotonic = (now.monotonic - age + ahead).max(latest);
    Now { monotonic, wall: stamp }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn now(monotonic: u64, wall: u64) -> Now {
        let seconds = Duration::from_secs;
        Now { monotonic: Monotonic::ZERO + seconds(monotonic), wall: Wall::ZERO + seconds(wall) }
    }

    fn came(stamp: u64, latest: u64) -> Monotonic {
        let latest = now(latest, 0).monotonic;
        packet_time(now(100, 1_000_000), now(0, stamp).wall, latest).monotonic
    }

    /// Whether packets are fast after so many came at each of these microseconds.
    fn is_fast(reads: impl IntoIterator<Item = (u64, usize)>) -> bool {
        let mut pace = Pace::default();
        for (micros, packets) in reads {
            pace.note(Monotonic::ZERO + Duration::from_micros(1_000_000 + micros), packets);
        }
        pace.is_fast
    }

    #[test]
    fn whoever_knocks_is_not_fast_however_quickly() {
        assert!(!is_fast([(0, 1), (3000, 1), (6000, 1)]));
        assert!(!is_fast([(0, 1), (10, 1), (20, 1), (5000, 0)]));
        assert!(!is_fast((0..1000).map(|n| (n * 100, 1))), "10,000 a second");
    }

    #[test]
    fn a_flood_is_fast_until_it_ends() {
        let flood = (0..1000).map(|n| (n * 10, 1));
        assert!(is_fast(flood.clone()), "100,000 a second");
        assert!(is_fast((0..100).map(|n| (n * 150, 15))), "the same, seen after each nap");
        assert!(!is_fast(flood.chain([(12_100, 0), (14_200, 0)])));
    }

    #[test]
    fn a_packet_is_as_old_as_its_stamp_says() {
        assert_eq!(came(999_990, 0), now(90, 0).monotonic);
    }

    #[test]
    fn a_packet_that_came_after_the_clock_was_read_is_later() {
        assert_eq!(came(1_000_001, 0), now(101, 0).monotonic);
    }

    #[test]
    fn a_calendar_that_was_set_moves_no_packet_before_another_nor_far_ahead() {
        assert_eq!(came(0, 95), now(95, 0).monotonic);
        assert_eq!(came(9_000_000, 95), now(101, 0).monotonic);
    }
}
