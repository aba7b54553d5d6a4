//! The stand-in for the watcher: what it says in each scene.

use std::fs;
use std::io::Write;
use std::net::{IpAddr, Ipv4Addr};
use std::os::fd::{AsRawFd, OwnedFd};
use std::path::Path;
use std::thread;
use std::time::Duration;

use libknock::engine::{
    ClientId, CompletedBy, Credential, DatagramRequest, DoorId, Event, EventKind, NAME_LEN, Reason,
    Refusal,
};
use libknock::ipc::{Channel, FRAME, FrameCodec, FromWatcher, InterfaceState, Received, ToWatcher};
use libknock::proto::fwknop::MAX_TIMEOUT;
use libknock::proto::method::Method;
use libknock::sys::{clock, descriptors, process};
use libknock::time::{Monotonic, Wall};
use nix::sys::socket::{MsgFlags, send};

use super::{CODE, FWKNOP, GUARDED, ONCE, PLAIN, SPA};

const LAPTOP: ClientId = ClientId(0);
const OLD: ClientId = ClientId(1);
const OTHER: ClientId = ClientId(2);
const KNOCKER: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 7);

/// What no honest watcher sends, with what the keeper says of it.
pub(super) fn lies(now: Monotonic) -> Vec<(&'static str, Vec<u8>)> {
    let event = |kind| Event { door: Some(PLAIN), source: KNOCKER.into(), kind, began: now };
    let stage = |stage, knock: &str| event(EventKind::Stage { stage, knock: knock.parse().ok() });
    let reset = |stage, reason| event(EventKind::Reset { stage, reason, knock: None });
    let open = event(EventKind::Open(CompletedBy::Sequence));
    let code = |client| EventKind::Open(CompletedBy::Totp { client, step: 1 });
    let at = |door, event: Event| Event { door: Some(door), ..event };
    let from = |source: &str| Event { source: source.parse().unwrap(), ..stage(1, "7000") };
    let lock = |until| event(EventKind::LockedOut { until });
    let missed = |client, steps| at(CODE, event(EventKind::Missed { client, steps }));
    let minute = Duration::from_secs(60);
    let malformed = [
        vec![0xff; FRAME],
        [FromWatcher::Ready.encode().as_slice(), &[0]].concat(),
        vec![1; FRAME - 1],
        vec![3; 60_000],
    ];
    let events = [
        ("a time to come", Event { began: now + minute, ..open }),
        ("a sequence that took too long", Event { began: now - minute, ..open }),
        ("a sequence that the door does not have", at(SPA, open)),
        ("a sequence that the door does not have", at(CODE, open)),
        ("a door that it was not given", at(DoorId(99), open)),
        ("an event at no door", Event { door: None, ..open }),
        ("a code of a client that has none for the door", at(CODE, event(code(OTHER)))),
        ("a code of a client that has none for the door", at(CODE, event(code(ClientId(9))))),
        ("a code of a client that has none for the door", event(code(LAPTOP))),
        ("a stage that the door does not have", stage(0, "7000")),
        ("a stage that the door does not have", stage(3, "9000")),
        ("a stage that the door does not have", at(SPA, stage(1, ""))),
        ("a stage by a knock that the door does not have", stage(1, "7001")),
        ("a stage that the door does not have", reset(3, Reason::WrongKnock)),
        ("a reason for which no sequence ends", reset(1, Reason::BadTag)),
        ("a clock that is off by more than is searched", missed(LAPTOP, 0)),
        ("a clock that is off by more than is searched", missed(LAPTOP, i32::MIN)),
        ("a clock that is off by more than is searched", missed(OTHER, 5)),
        ("a code at a door that has none", event(EventKind::Unmatched)),
        ("a lock that no rule allows", lock(now)),
        ("a lock that no rule allows", at(CODE, lock(Monotonic::MAX))),
        ("a lock that no rule allows", Event { door: None, ..lock(now) }),
        ("a packet from where none comes from", from("0.0.0.0")),
        ("a packet from where none comes from", from("255.255.255.255")),
        ("a packet from where none comes from", from("224.0.0.1")),
        ("a packet from where none comes from", from("::")),
        ("a packet from where none comes from", from("ff02::1")),
        ("a packet from where none comes from", from("::ffff:192.0.2.7")),
    ];
    let (spa, fwknop) = (request(Wall::ZERO), digest([0; 32], Wall::ZERO));
    let v4 = |text: &str| text.parse().ok();
    let v6 = "2001:db8::7".parse().ok();
    let key = Credential::Spa { key: 1, stamp: Wall::ZERO };
    let not_fwknops = "a request that fwknop's format cannot make";
    let not_theirs = "a request for an address that none may be for";
    let requests = [
        ("a door that it was not given", DatagramRequest { door: DoorId(99), ..spa }),
        ("a client that it was not given", DatagramRequest { client: ClientId(9), ..spa }),
        ("a client at a door that it may not open", DatagramRequest { client: OTHER, ..spa }),
        ("a client at a door that it may not open", DatagramRequest { door: PLAIN, ..spa }),
        ("a key that it was not given", DatagramRequest { credential: key, ..spa }),
        ("a key that it was not given", DatagramRequest { door: SPA, ..fwknop }),
        ("a key that it was not given", DatagramRequest { door: FWKNOP, ..spa }),
        ("a request for no time at all", DatagramRequest { open_for: Some(0), ..spa }),
        (not_theirs, DatagramRequest { v4: v4("127.0.0.1"), ..spa }),
        (not_theirs, DatagramRequest { v4: v4("224.0.0.1"), ..spa }),
        (not_theirs, DatagramRequest { v6: "ff02::1".parse().ok(), ..spa }),
        (not_fwknops, DatagramRequest { close: true, ..fwknop }),
        (not_fwknops, DatagramRequest { source_port: 4000.try_into().ok(), ..fwknop }),
        (not_fwknops, DatagramRequest { open_for: Some(MAX_TIMEOUT + 1), ..fwknop }),
        (not_fwknops, DatagramRequest { v6, ..fwknop }),
        (
            "a packet from where none comes from",
            DatagramRequest { source: Ipv4Addr::BROADCAST.into(), ..spa },
        ),
    ];
    let refusal = Refusal::new(Method::Spa, KNOCKER.into(), Reason::NoSuchDoor);
    let asked_for = Some([b'\n'; NAME_LEN]);
    let refusals = [
        ("a door or a client that it was not given", Refusal { door: Some(DoorId(99)), ..refusal }),
        (
            "a door or a client that it was not given",
            Refusal { client: Some(ClientId(9)), ..refusal },
        ),
        ("a name that no door has", Refusal { asked_for, ..refusal }),
        (
            "a packet from where none comes from",
            Refusal { source: Ipv4Addr::UNSPECIFIED.into(), ..refusal },
        ),
    ];
    let (knock, reason) = ("7000".parse().unwrap(), Reason::Duplicate);
    let later = now + minute;
    let interface = |index, state| FromWatcher::Interface { index, state };
    let others = [
        ("that it begins or ends", FromWatcher::Ready),
        ("that it begins or ends", FromWatcher::Done),
        ("a time to come", FromWatcher::Event { event: open, at: later }),
        ("a time to come", FromWatcher::ReplayedEvent { event: open, at: later }),
        ("a time to come", FromWatcher::Request { request: spa, at: later }),
        ("a time to come", FromWatcher::Refused { refusal, at: later }),
        ("a time to come", FromWatcher::ReplayedRefusal { refusal, at: later }),
        (
            "a time to come",
            FromWatcher::Ignored { source: KNOCKER.into(), knock, reason, at: later },
        ),
        ("news of no interface of its own", interface(9, InterfaceState::Gone)),
        ("news of no interface of its own", interface(0, InterfaceState::Listening)),
        ("news of no interface of its own", interface(0, InterfaceState::Missing)),
        ("an impossible count", FromWatcher::Count { reason, count: u64::MAX }),
        ("an impossible count", FromWatcher::Captured { index: 0, seen: u64::MAX, dropped: 0 }),
        ("an impossible count", FromWatcher::Suppressed { count: u64::MAX }),
    ];
    let encoded = |(lie, frame): (&'static str, FromWatcher)| (lie, frame.encode().to_vec());
    let events = events.map(|(lie, event)| (lie, FromWatcher::Event { event, at: now }));
    let requests = requests.map(|(lie, request)| (lie, FromWatcher::Request { request, at: now }));
    let refusals = refusals.map(|(lie, refusal)| (lie, FromWatcher::Refused { refusal, at: now }));
    let frames = events.into_iter().chain(requests).chain(refusals).chain(others);
    let malformed = malformed.map(|bytes| ("a malformed message", bytes));
    malformed.into_iter().chain(frames.map(encoded)).collect()
}

/// Plays a scene, as often as a watcher is started; ends with its keeper.
pub(super) fn play(scene: &str) {
    let starts = fs::read_to_string("starts").unwrap().len();
    let it = StandIn {
        channel: Channel(descriptors::inherited(process::WATCHER_CHANNEL).unwrap()),
        starts,
    };
    it.tell(&FromWatcher::Interface { index: 0, state: InterfaceState::Listening });
    match (scene, starts) {
        ("late", 2..) => return it.is_late(),
        ("early", 2..) => {
            it.tell(&opened(PLAIN));
            return it.idle();
        }
        _ => {}
    }
    let captures = clock::now().monotonic;
    it.tell(&FromWatcher::Ready);
    let Some(begins) = it.begins() else { return };
    let (word, number) = scene.split_once(' ').unwrap_or((scene, "0"));
    match word {
        "nothing" => {}
        "lie" => {
            const IN_A_ROW: usize = 4;
            let lies = lies(clock::now().monotonic);
            let place = number.parse::<usize>().unwrap() + starts - 1;
            match lies.get(place).filter(|_| starts <= IN_A_ROW) {
                Some((_, lie)) => it.say(lie),
                None => return it.idle(),
            }
        }
        "refused" => it.is_refused(),
        "stamp" => it.tell(&asked(Wall::MAX)),
        "words" => it.says_much(),
        "opens" => return it.opens_much(),
        "stderr" => return it.writes_much(number),
        "chatter" => return it.chatters(begins, captures),
        "stays" => return it.stays(),
        "late" | "early" => {
            // The first one works on, and says so when it is asked.
            while !Path::new("now").exists() {
                thread::sleep(Duration::from_millis(1));
            }
        }
        "deaf" => loop {
            // Never reads, and says something now and then.
            it.tell(&FromWatcher::Captured { index: 0, seen: 1, dropped: 1 });
            thread::sleep(Duration::from_millis(100));
            if fs::exists("now").unwrap() {
                it.tell(&opened(PLAIN));
                thread::sleep(Duration::from_secs(3600));
            }
        },
        "closes" => {
            it.channel.shut();
            thread::sleep(Duration::from_secs(3600));
        }
        "lives" => {
            let keeper = nix::unistd::getppid();
            nix::unistd::setuid(nix::unistd::Uid::from_raw(65534)).unwrap();
            it.tell(&FromWatcher::Done);
            while nix::unistd::getppid() == keeper {
                thread::sleep(Duration::from_millis(10));
            }
            return;
        }
        "gone" => it.tell(&FromWatcher::Interface { index: 0, state: InterfaceState::Gone }),
        "burns" => it.burns(),
        other => panic!("what is {other}?"),
    }
    if matches!(word, "gone" | "burns") {
        return it.idle();
    }
    // Nobody who lies is believed any more.
    it.tell(&opened(PLAIN));
    it.tell(&asked(clock::now().wall));
    it.idle();
}

struct StandIn {
    channel: Channel,
    /// How many have been started, this one included.
    starts: usize,
}

impl StandIn {
    /// When this one is to begin; `None`: never.
    fn begins(&self) -> Option<Monotonic> {
        loop {
            match self.channel.receive::<ToWatcher>() {
                Received::Frame(ToWatcher::After { time }) => return Some(time),
                Received::Nothing => thread::sleep(Duration::from_millis(1)),
                Received::Frame(_) => {}
                Received::Closed | Received::Malformed => return None,
            }
        }
    }

    /// Says nothing more, whatever it is told.
    fn idle(&self) {
        while self.channel.receive::<ToWatcher>() != Received::Closed {
            thread::sleep(Duration::from_millis(10));
        }
    }

    fn tell(&self, frame: &FromWatcher) {
        self.say(&frame.encode());
    }

    /// Waits while the keeper does not keep up; one that has closed the channel hears nothing.
    fn say(&self, frame: &[u8]) {
        let channel: &OwnedFd = &self.channel.0;
        let full = Err(nix::errno::Errno::EAGAIN);
        while send(channel.as_raw_fd(), frame, MsgFlags::MSG_NOSIGNAL) == full {
            thread::sleep(Duration::from_micros(100));
        }
    }

    /// What depends on the clock, the addresses and the configuration of the moment.
    fn is_refused(&self) {
        let now = clock::now();
        let FromWatcher::Event { event, .. } = opened(PLAIN) else { unreachable!() };
        for source in ["127.0.0.1", "192.0.2.1"] {
            let event = Event { source: source.parse().unwrap(), ..event };
            self.tell(&FromWatcher::Event { event, at: now.monotonic });
            let v4 = source.parse().ok();
            let request =
                DatagramRequest { v4, source: source.parse().unwrap(), ..request(now.wall) };
            self.tell(&FromWatcher::Request { request, at: now.monotonic });
        }
        let old = now.monotonic - Duration::from_secs(61);
        self.tell(&FromWatcher::Event { event: Event { began: old, ..event }, at: old });
        self.tell(&FromWatcher::Request { request: request(now.wall), at: old });
        self.tell(&asked(Wall::ZERO));
        self.tell(&asked(now.wall + Duration::from_secs(10)));
        self.tell(&asked(Wall::MAX));
        for step in [0, u64::MAX] {
            self.tell(&code(step, clock::now().monotonic));
        }
        let request = DatagramRequest { client: OLD, ..request(now.wall) };
        self.tell(&FromWatcher::Request { request, at: now.monotonic });
    }

    fn says_much(&self) {
        for _ in 0..10_000 {
            words().iter().for_each(|frame| self.tell(frame));
        }
    }

    /// Asks for all that it can, from everywhere, until a file tells it to stop.
    fn opens_much(&self) {
        let mut frames = 0_u64;
        let mut tell = |frame: &FromWatcher| {
            self.tell(frame);
            frames += 1;
        };
        for number in 0_u32.. {
            let address = Ipv4Addr::from(0x6440_0000 + number % 100_000);
            let now = clock::now();
            let from = |request| DatagramRequest {
                source: address.into(),
                v4: Some(IpAddr::V4(address).into()),
                ..request
            };
            // Commands take longer than the kernel.
            let doors = if number % 100 == 0 { &[GUARDED, PLAIN, ONCE][..] } else { &[GUARDED] };
            for &door in doors {
                let FromWatcher::Event { event, at } = opened(door) else { unreachable!() };
                let event = Event { source: address.into(), ..event };
                tell(&FromWatcher::Event { event, at });
            }
            let bytes = std::array::from_fn(|place| number.to_be_bytes()[place % 4]);
            let asked = from(digest(bytes, now.wall));
            tell(&FromWatcher::Request { request: asked, at: now.monotonic });
            if number % 100 == 0 {
                let step = now.wall.since(Wall::ZERO).as_secs() / 2;
                (step - 2..=step + 2).for_each(|step| tell(&code(step, now.monotonic)));
                for close in [false, true] {
                    let request = DatagramRequest { close, ..from(request(now.wall)) };
                    tell(&FromWatcher::Request { request, at: now.monotonic });
                }
                words().iter().for_each(&mut tell);
                if fs::exists("enough").unwrap() {
                    break;
                }
            }
        }
        fs::write("said", frames.to_string()).unwrap();
        self.idle();
    }

    fn writes_much(&self, what: &str) {
        let bytes: &[u8] = match what {
            "lines" => b"a line\n",
            "newlines" => b"\n",
            "bytes" => b"x",
            other => panic!("what is {other}?"),
        };
        let bytes = bytes.repeat(60_000);
        thread::spawn(move || while std::io::stderr().write_all(&bytes).is_ok() {});
        thread::sleep(Duration::from_millis(500));
        self.tell(&opened(PLAIN));
        self.tell(&asked(clock::now().wall));
        self.idle();
    }

    fn chatters(&self, begins: Monotonic, captures: Monotonic) {
        // The one before it reports what begins up to a millisecond after the cut, which is
        // one after this.
        if begins + Duration::from_millis(1) >= captures {
            eprintln!("from then on");
        } else if begins > Monotonic::ZERO {
            eprintln!("from {:?} before it captured", captures.since(begins));
        }
        // Keeps the keeper from looking at the next one for a while, at each turn.
        while self.channel.receive::<ToWatcher>() == Received::Nothing {
            let FromWatcher::Event { event, at } = opened(PLAIN) else { unreachable!() };
            let event = Event { kind: EventKind::Stage { stage: 1, knock: None }, ..event };
            for _ in 0..100 {
                self.tell(&FromWatcher::ReplayedEvent { event, at });
            }
        }
        self.tell(&FromWatcher::Done);
    }

    /// Does not leave when it has to, and goes on asking.
    fn stays(&self) {
        if self.starts > 1 {
            return self.idle();
        }
        loop {
            match self.channel.receive::<ToWatcher>() {
                Received::Frame(ToWatcher::Until { .. }) => break,
                Received::Closed => return,
                _ => thread::sleep(Duration::from_millis(1)),
            }
        }
        loop {
            let now = clock::now();
            let step = now.wall.since(Wall::ZERO).as_secs() / 2;
            for frame in [opened(PLAIN), asked(now.wall), code(step, now.monotonic)] {
                self.tell(&frame);
            }
            if self.channel.receive::<ToWatcher>() == Received::Closed {
                return;
            }
            thread::sleep(Duration::from_millis(5));
        }
    }

    /// Never begins, and says much meanwhile; later than it may, it does.
    fn is_late(&self) {
        let begun = clock::now().monotonic;
        while clock::now().monotonic.since(begun) < Duration::from_secs(12) {
            self.tell(&FromWatcher::Interface { index: 0, state: InterfaceState::Missing });
            eprintln!("soon");
        }
        self.tell(&FromWatcher::Ready);
        self.idle();
    }

    /// Uses up whatever it can of each credential.
    fn burns(&self) {
        let now = clock::now();
        let ahead = now.wall + Duration::from_millis(1900);
        self.tell(&asked(ahead));
        let step = now.wall.since(Wall::ZERO).as_secs() / 2;
        (step - 4..=step + 4).for_each(|step| self.tell(&code(step, now.monotonic)));
        self.tell(&opened(ONCE));
    }
}

/// One of each kind that is only logged or remembered.
fn words() -> [FromWatcher; 9] {
    let FromWatcher::Event { event, at } = opened(PLAIN) else { unreachable!() };
    let (client, reason) = (Some(LAPTOP), Reason::TooOld);
    let refusal = Refusal { client, ..Refusal::new(Method::Spa, event.source, reason) };
    let event = Event { kind: EventKind::Stage { stage: 1, knock: None }, ..event };
    let knock = "7000".parse().unwrap();
    [
        FromWatcher::Event { event, at },
        FromWatcher::ReplayedEvent { event, at },
        FromWatcher::Refused { refusal, at },
        FromWatcher::ReplayedRefusal { refusal, at },
        FromWatcher::Ignored { source: event.source, knock, reason, at },
        FromWatcher::Count { reason: Reason::BadTag, count: 1 },
        FromWatcher::Captured { index: 0, seen: 1, dropped: 1 },
        FromWatcher::Suppressed { count: 1 },
        asked(Wall::MAX),
    ]
}

fn opened(door: DoorId) -> FromWatcher {
    let at = clock::now().monotonic;
    let kind = EventKind::Open(CompletedBy::Sequence);
    let event = Event { door: Some(door), source: IpAddr::V4(KNOCKER), kind, began: at };
    FromWatcher::Event { event, at }
}

fn code(step: u64, at: Monotonic) -> FromWatcher {
    let kind = EventKind::Open(CompletedBy::Totp { client: LAPTOP, step });
    let event = Event { door: Some(CODE), source: IpAddr::V4(KNOCKER), kind, began: at };
    FromWatcher::Event { event, at }
}

fn request(stamp: Wall) -> DatagramRequest {
    DatagramRequest {
        door: SPA,
        client: LAPTOP,
        credential: Credential::Spa { key: 0, stamp },
        source: KNOCKER.into(),
        v4: Some(IpAddr::V4(KNOCKER).into()),
        v6: None,
        open_for: None,
        source_port: None,
        close: false,
    }
}

fn digest(digest: [u8; 32], stamp: Wall) -> DatagramRequest {
    let credential = Credential::Fwknop { digest, stamp };
    DatagramRequest { door: FWKNOP, credential, ..request(stamp) }
}

fn asked(stamp: Wall) -> FromWatcher {
    FromWatcher::Request { request: request(stamp), at: clock::now().monotonic }
}
