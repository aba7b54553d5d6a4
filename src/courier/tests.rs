//! The talk with a store, without one; and what a courier that somebody has taken over can do.

use std::env;
use std::io::{self, Read};
use std::process::Command;

use nix::libc;
use proptest::prelude::*;
use redis::{Parser, Value};

use super::talk::Talk;
use super::*;
use crate::config::SandboxMode;
use crate::ipc::courier::{LONGEST, SharedProof, ToCourier};
use crate::sys::sandbox::MemoryState;
use crate::sys::seccomp::tests::{alone, call};
use crate::time::Wall;

/// One that has been told what is kept: nothing.
fn live() -> Talk {
    let mut talk = Talk::new([]);
    talk.reply(Value::Map(Vec::new())).unwrap();
    assert_eq!(talk.to_keeper.pop_front(), Some(FromCourier::Live));
    talk.to_store.clear();
    talk
}

fn take(ask: u64) -> ToCourier {
    let proof = SharedProof::Highest { id: [1; 16], stamp: Wall::ZERO };
    ToCourier::Take { ask: Some(ask), proof }
}

fn tell(number: u64) -> ToCourier {
    let keep = Some(([2; 16], Wall::ZERO));
    ToCourier::Tell { number, sealed: vec![3], keep }
}

fn news(sealed: &[u8]) -> Value {
    let data = ["knockd:news".as_bytes(), sealed].map(|it| Value::BulkString(it.to_vec())).into();
    Value::Push { kind: redis::PushKind::Message, data }
}

#[test]
fn replies_answer_in_the_order_of_what_was_asked_and_news_come_between() {
    let mut talk = live();
    for order in [take(1), tell(2), take(3)] {
        talk.order(Wall::ZERO, order);
    }
    let replies = [Value::Int(1), Value::Int(1), Value::Int(0), news(b"x"), Value::Int(9)];
    for reply in replies.into_iter().chain([Value::Int(0)]) {
        assert!(talk.is_owed());
        talk.reply(reply).unwrap();
    }
    assert!(!talk.is_owed());
    let told = [
        FromCourier::Taken { ask: 1, is_new: true },
        FromCourier::Entry { sealed: b"x".into() },
        FromCourier::Told { number: 2 },
        FromCourier::Taken { ask: 3, is_new: false },
    ];
    assert_eq!(Vec::from(talk.to_keeper), told);
}

#[test]
fn news_from_before_what_is_kept_are_in_that() {
    let mut talk = Talk::new([]);
    talk.reply(news(b"kept")).unwrap();
    talk.reply(Value::Map(vec![(Value::Nil, Value::BulkString(b"kept".into()))])).unwrap();
    talk.reply(news(b"then")).unwrap();
    let entry = |sealed: &[u8]| FromCourier::Entry { sealed: sealed.into() };
    assert_eq!(Vec::from(talk.to_keeper), [entry(b"kept"), FromCourier::Live, entry(b"then")]);
}

#[test]
fn of_what_a_store_refuses_with_the_first_sentence_is_told() {
    let long = "x".repeat(1000);
    for (said, told) in [
        ("-NEW too long. Do this. And that.", "it says: NEW too long"),
        ("-OOM used > 'max'. script: 1a, on 2.", "it says: OOM used > 'max': give the store"),
        (&format!("-NEW {long}"), &format!("it says: NEW {}", &long[..200])),
    ] {
        let mut talk = live();
        talk.order(Wall::ZERO, take(1));
        let reply = Parser::new().parse_value(format!("{said}\r\n").as_bytes()).unwrap();
        let why = talk.reply(reply).unwrap_err().to_string();
        assert!(why.starts_with(told) && why.len() < 300, "{why}");
    }
}

#[test]
fn what_answers_nothing_ends_the_talk() {
    let mut talk = live();
    assert!(talk.reply(Value::Okay).is_err());
    for wrong in [Value::Okay, Value::Array(vec![]), Value::BulkString(vec![]), Value::Nil] {
        talk.order(Wall::ZERO, ToCourier::Beat { id: [1; 16], sealed: vec![] });
        assert!(talk.reply(wrong).is_err());
    }
}

/// A reader that has one byte, then none for once, and so on.
struct Drip<'a>(&'a [u8], bool);

impl Read for Drip<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.1 = !self.1;
        match self.0.split_first() {
            Some((byte, rest)) if self.1 => {
                (buffer[0], self.0) = (*byte, rest);
                Ok(1)
            }
            _ => Err(io::ErrorKind::WouldBlock.into()),
        }
    }
}

#[test]
fn a_long_reply_may_come_byte_by_byte() {
    let mut bytes = b"%2000\r\n".to_vec();
    for number in 0..2000 {
        bytes.extend(
            format!("${}\r\n{number}\r\n$3\r\na\r\n\r\n", number.to_string().len()).bytes(),
        );
    }
    bytes.extend(b":7\r\n");
    let (mut parser, mut drip) = (Parser::new(), Drip(&bytes, false));
    let mut next = || loop {
        match parser.parse_value(&mut drip) {
            Ok(value) => return value,
            Err(error) => assert!(error.is_timeout(), "{error}"),
        }
    };
    let Value::Map(all) = next() else { panic!("no map") };
    assert_eq!(all.len(), 2000);
    assert_eq!(all[1999], (Value::BulkString(b"1999".into()), Value::BulkString(b"a\r\n".into())));
    assert_eq!(next(), Value::Int(7));
}

proptest! {
    #[test]
    fn no_reply_makes_it_panic_and_no_message_is_too_long(
        bytes in proptest::collection::vec(
            prop_oneof![any::<u8>(), proptest::sample::select(b"*$:%>-+_#,~|=!(\r\n0123456789".as_slice())],
            0..60,
        ),
        length in 0..LONGEST + 100,
    ) {
        let mut talk = live();
        talk.order(Wall::ZERO, take(1));
        talk.order(Wall::ZERO, ToCourier::Beat { id: [1; 16], sealed: vec![] });
        let mut parser = Parser::new();
        let mut from = &*bytes;
        while let Ok(reply) = parser.parse_value(&mut from) {
            let _ = talk.reply(reply);
        }
        let mut talk = live();
        talk.reply(news(&vec![0; length])).unwrap();
        for message in talk.to_keeper {
            prop_assert!(postcard::to_extend(&message, Vec::new()).unwrap().len() <= LONGEST);
        }
    }
}

const ROLE: &str = "KNOCK_TAKEN_OVER_COURIER";

/// The courier: not a test of its own. Says how it ended.
#[test]
#[ignore = "the test below starts it"]
fn plays_the_taken_over_courier() {
    let deed = env::var(ROLE).unwrap();
    let ended = alone(|| {
        let (one, _other) = descriptors::frame_channel().unwrap();
        sandbox::close(Phase::Carrying, SandboxMode::Enforce, MemoryState::Locked);
        let fd = i64::from(std::os::fd::AsRawFd::as_raw_fd(&one));
        let path = c"/proc/self/maps".as_ptr() as i64;
        let (number, arguments) = match &*deed {
            "send" => (libc::SYS_sendto, [fd, path, 5, 0, 0, 0]),
            "open a file" => (libc::SYS_openat, [libc::AT_FDCWD.into(), path, 0, 0, 0, 0]),
            "open a socket" => (libc::SYS_socket, [libc::AF_INET.into(), 1, 0, 0, 0, 0]),
            "connect" => (libc::SYS_connect, [fd, path, 16, 0, 0, 0]),
            "bind" => (libc::SYS_bind, [fd, path, 16, 0, 0, 0]),
            "set an option" => (libc::SYS_setsockopt, [fd, 1, 2, path, 4, 0]),
            "execute" => (libc::SYS_execve, [path, 0, 0, 0, 0, 0]),
            "fork" => (libc::SYS_clone, [libc::SIGCHLD.into(), 0, 0, 0, 0, 0]),
            "copy a descriptor" => (libc::SYS_fcntl, [fd, libc::F_DUPFD.into(), 0, 0, 0, 0]),
            other => panic!("what is {other}?"),
        };
        call(number, arguments).map(|_| 0)
    });
    eprintln!("{ended:?}");
}

#[test]
#[expect(clippy::disallowed_methods, reason = "starts the process that is restricted")]
fn one_that_is_taken_over_sends_through_what_it_has_and_opens_nothing() {
    if !nix::unistd::geteuid().is_root() {
        eprintln!("SKIPPED: the courier's sandbox: needs root");
        return;
    }
    let this = "courier::tests::plays_the_taken_over_courier";
    for (deed, ending) in [
        ("send", ", 0)"),
        ("open a file", ", SIGSYS, "),
        ("open a socket", ", SIGSYS, "),
        ("connect", ", SIGSYS, "),
        ("bind", ", SIGSYS, "),
        ("set an option", ", 38)"),
        ("execute", ", SIGSYS, "),
        ("fork", ", SIGSYS, "),
        ("copy a descriptor", ", SIGSYS, "),
    ] {
        let tried = Command::new(env::current_exe().unwrap())
            .args(["--exact", "--ignored", "--nocapture", "--test-threads=1", this])
            .env(ROLE, deed)
            .output()
            .unwrap();
        let said = String::from_utf8_lossy(&tried.stderr);
        assert!(said.contains(ending), "{deed}: {said}");
    }
}
