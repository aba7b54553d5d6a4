//! A watcher that somebody has taken over, and what the keeper makes of what it says.
//!
//! Needs root; says loudly what it skips where it cannot run. This program plays the watcher
//! itself: knockd starts it in place of its own.

use std::fs::{self, Permissions};
use std::net::Ipv4Addr;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::fs::PermissionsExt;
use std::thread;
use std::time::Duration;

use libknock::engine::Reason;
use libknock::engine::{
    ClientId, CompletedBy, Credential, DatagramRequest, DoorId, Event, EventKind, Refusal,
};
use libknock::ipc::{Channel, FRAME, FrameCodec, FromWatcher, InterfaceState, Received, ToWatcher};
use libknock::proto::spa::PrivateKey;
use libknock::sys::fault::WATCHER;
use libknock::sys::{clock, files, process};
use libknock::time::{Monotonic, Wall};
use nix::sys::signal::Signal;
use nix::sys::socket::{MsgFlags, send};

use crate::support::{Host, Knockd, PATIENCE, eventually, needs};

const PLAIN: DoorId = DoorId(0);
const SPA: DoorId = DoorId(1);

/// Once with a watcher that says what `lie` names, each time that one is started.
fn run(host: &Host, lie: &str) -> Knockd {
    let directory = tempfile::tempdir().unwrap();
    let script = directory.path().join("watcher");
    let program = std::env::current_exe().unwrap();
    fs::write(
        &script,
        format!(
            "#!/bin/sh\nLIE={lie} exec {} --exact --ignored --nocapture \
             lying_watcher::plays_the_watcher\n",
            program.display()
        ),
    )
    .unwrap();
    fs::set_permissions(&script, Permissions::from_mode(0o755)).unwrap();
    let config = directory.path().join("knock.yaml");
    let text = format!(
        "knockd: {{interfaces: [lo], run_dir: DIR/run, state_dir: DIR/state, user: nobody,\n\
         \x20 log: {{level: debug}}, spa: {{key_file: DIR/server.key}}}}\n\
         clients: {{laptop: {{doors: [spa], spa: {{public_key: {}}}}}}}\n\
         doors:\n\
         \x20 plain: {{sequence: [7000, 8000, 9000], start_command: echo plain %IP% >> DIR/acts}}\n\
         \x20 spa: {{spa: true, start_command: echo spa %IP% >> DIR/acts}}\n",
        PrivateKey::from([1; 32]).public()
    );
    fs::write(&config, text.replace("DIR", directory.path().to_str().unwrap())).unwrap();
    fs::set_permissions(&config, Permissions::from_mode(0o600)).unwrap();
    let environment = [(WATCHER, script.to_str().unwrap())];
    Knockd::run(host, directory, config, &[], &environment)
}

/// What the doors did, sorted: their commands run at the same time.
fn acts(knockd: &Knockd) -> String {
    let acts = fs::read_to_string(knockd.directory.path().join("acts")).unwrap_or_default();
    let mut acts: Vec<&str> = acts.split_inclusive('\n').collect();
    acts.sort_unstable();
    acts.concat()
}

#[test]
fn what_is_true_opens() {
    needs!("true words");
    let host = Host::new("server");
    let knockd = run(&host, "nothing");
    assert!(
        eventually(PATIENCE, || acts(&knockd) == "plain 192.0.2.7\nspa 192.0.2.7\n"),
        "{}\n{}",
        acts(&knockd),
        knockd.log().join("\n")
    );
    assert_eq!(knockd.count("is ended"), 0);
}

#[test]
fn what_stands_behind_a_lie_or_a_malformed_message_is_not_acted_on() {
    needs!("behind a lie");
    let host = Host::new("server");
    for (lie, said) in [
        ("malformed", "the watcher is ended: it sent a malformed message"),
        ("sequence", "the watcher is ended: it sent a sequence that the door does not have"),
        ("future", "the watcher is ended: it sent a time to come"),
        ("nobody", "the watcher is ended: it sent a packet from where none comes from"),
    ] {
        let knockd = run(&host, lie);
        // Each that follows does the same.
        knockd.wait_for_count(said, 2);
        assert_eq!(acts(&knockd), "", "{lie}");
        let (status, _) = knockd.stop();
        assert_eq!(status.code(), Some(0), "{lie}");
    }
}

#[test]
fn a_forged_stamp_burns_nothing_and_ends_nobody() {
    needs!("forged stamp");
    let host = Host::new("server");
    let knockd = run(&host, "stamp");
    assert!(eventually(PATIENCE, || acts(&knockd) == "plain 192.0.2.7\nspa 192.0.2.7\n"));
    assert_eq!(knockd.count("spa: not opened: from the future: is a clock off?"), 1);
    assert_eq!(knockd.count("is ended"), 0);
    let history = knockd.ask(r#"{"do":"history"}"#);
    assert!(history.iter().any(|line| line["message"] == "too-far-ahead"), "{history:?}");
}

#[test]
fn a_flood_of_words_is_not_a_flood_of_lines() {
    needs!("flood of words");
    let host = Host::new("server");
    let knockd = run(&host, "words");
    assert!(eventually(PATIENCE, || acts(&knockd) == "plain 192.0.2.7\nspa 192.0.2.7\n"));
    let history = knockd.ask(r#"{"do":"history"}"#).len();
    assert!(history < 100, "{history} entries");
    // It sent 60,000; a thousand may come at once, then 200 a second.
    assert!(knockd.log().len() < 20_000, "{} lines", knockd.log().len());
    assert_eq!(knockd.count("is ended"), 0);
}

#[test]
fn a_watcher_takes_over_no_earlier_than_it_captures_however_much_the_other_says() {
    needs!("cut");
    let host = Host::new("server");
    let knockd = run(&host, "chatter");
    knockd.wait_for("starting up, listening on");
    for reload in 1..=8 {
        knockd.signal(Signal::SIGHUP);
        knockd.wait_for_count("watcher: from ", reload);
    }
    assert_eq!(knockd.count("watcher: from then on"), 8, "{}", knockd.log().join("\n"));
}

/// The watcher: not a test of its own.
#[test]
#[ignore = "knockd starts it"]
fn plays_the_watcher() {
    let channel = files::inherited(process::WATCHER_CHANNEL).unwrap();
    let copy = channel.try_clone().unwrap();
    let channel = Channel(channel);
    channel.send(&FromWatcher::Interface { index: 0, state: InterfaceState::Listening }).unwrap();
    let captures = clock::now().monotonic;
    channel.send(&FromWatcher::Ready).unwrap();
    let begins = loop {
        match channel.receive::<ToWatcher>() {
            Received::Frame(ToWatcher::After { time }) => break time,
            Received::Nothing => thread::sleep(Duration::from_millis(1)),
            Received::Frame(_) => {}
            Received::Closed | Received::Malformed => return,
        }
    };
    match std::env::var("LIE").unwrap().as_str() {
        "nothing" => {}
        "chatter" => {
            // The one before it reports what begins up to a millisecond after the cut, which is
            // one after this.
            if begins + Duration::from_millis(1) >= captures {
                eprintln!("from then on");
            } else if begins > Monotonic::ZERO {
                eprintln!("from {:?} before it captured", captures.since(begins));
            }
            // Keeps the keeper from looking at the next one for a while, at each turn.
            while channel.receive::<ToWatcher>() == Received::Nothing {
                let FromWatcher::Event { event, at } = opened(PLAIN) else { unreachable!() };
                let event = Event { kind: EventKind::Stage { stage: 1, knock: None }, ..event };
                for _ in 0..100 {
                    tell(&copy, &FromWatcher::ReplayedEvent { event, at });
                }
            }
            return tell(&copy, &FromWatcher::Done);
        }
        "malformed" => say(&copy, &[0xff; FRAME]),
        "sequence" => tell(&copy, &opened(SPA)),
        "future" => {
            let at = clock::now().monotonic + Duration::from_secs(60);
            let FromWatcher::Event { event, .. } = opened(PLAIN) else { unreachable!() };
            tell(&copy, &FromWatcher::Event { event, at });
        }
        "nobody" => {
            let FromWatcher::Event { event, at } = opened(PLAIN) else { unreachable!() };
            let event = Event { source: Ipv4Addr::UNSPECIFIED.into(), ..event };
            tell(&copy, &FromWatcher::Event { event, at });
        }
        "stamp" => tell(&copy, &asked(Wall::MAX)),
        "words" => {
            for _ in 0..10_000 {
                let FromWatcher::Event { event, at } = opened(PLAIN) else { unreachable!() };
                let (client, reason) = (Some(ClientId(0)), Reason::TooOld);
                let refusal = Refusal { client, ..Refusal::new(event.source, reason) };
                let event = Event { kind: EventKind::Stage { stage: 1, knock: None }, ..event };
                tell(&copy, &FromWatcher::Event { event, at });
                tell(&copy, &FromWatcher::ReplayedEvent { event, at });
                tell(&copy, &FromWatcher::Refused { refusal, at });
                tell(&copy, &FromWatcher::Count { reason: Reason::BadTag, count: 1 });
                tell(&copy, &FromWatcher::Dropped { count: 1 });
                tell(&copy, &asked(Wall::MAX));
            }
        }
        other => panic!("what is {other}?"),
    }
    // Nobody who lies is believed any more.
    tell(&copy, &opened(PLAIN));
    tell(&copy, &asked(clock::now().wall));
    while channel.receive::<ToWatcher>() != Received::Closed {
        thread::sleep(Duration::from_millis(10));
    }
}

fn opened(door: DoorId) -> FromWatcher {
    let at = clock::now().monotonic;
    let kind = EventKind::Open(CompletedBy::Sequence);
    let source = Ipv4Addr::new(192, 0, 2, 7).into();
    FromWatcher::Event { event: Event { door: Some(door), source, kind, began: at }, at }
}

fn asked(stamp: Wall) -> FromWatcher {
    let v4 = Ipv4Addr::new(192, 0, 2, 7);
    let request = DatagramRequest {
        door: SPA,
        client: ClientId(0),
        credential: Credential::Spa { key: 0, stamp },
        source: v4.into(),
        v4: Some(v4),
        v6: None,
        open_for: None,
        source_port: None,
        close: false,
    };
    FromWatcher::Request { request, at: clock::now().monotonic }
}

fn tell(channel: &OwnedFd, frame: &FromWatcher) {
    say(channel, &frame.encode());
}

/// Waits while the keeper does not keep up; one that has closed the channel hears nothing.
fn say(channel: &OwnedFd, frame: &[u8; FRAME]) {
    while send(channel.as_raw_fd(), frame, MsgFlags::MSG_NOSIGNAL) == Err(nix::errno::Errno::EAGAIN)
    {
        thread::sleep(Duration::from_micros(100));
    }
}
