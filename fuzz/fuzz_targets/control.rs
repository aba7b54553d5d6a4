//! The control socket: requests as the daemon reads them, in whatever pieces they come, and replies
//! as knockctl reads and tells them.
#![no_main]

use std::cell::RefCell;
use std::io::{Read, Write};
use std::net::Shutdown;
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::time::Duration;

use knock_fuzz::{NOW, is_clean, take};
use libfuzzer_sys::fuzz_target;
use libknock::control::{EventLine, LONGEST_REQUEST, Reply, Request, What};
use libknock::ctl::fuzzing::{read_replies, told};
use libknock::keeper::fuzzing::ControlSocket;
use libknock::time::Monotonic;

/// A daemon's socket, and what time it is there.
struct Daemon {
    path: PathBuf,
    socket: ControlSocket,
    now: Monotonic,
}

thread_local! {
    static DAEMON: RefCell<Daemon> = RefCell::new({
        let path = std::env::temp_dir().join(format!("knock-fuzz-{}", std::process::id()));
        Daemon { socket: ControlSocket::listen(&path), path, now: NOW.monotonic }
    });
}

impl Daemon {
    /// What is heard of one who writes these bytes, and what they read.
    fn asked(&mut self, bytes: &[u8], piece: usize) -> (Vec<Request>, Vec<u8>) {
        let mut stream = UnixStream::connect(&self.path).expect("somebody listens");
        let mut heard = Vec::new();
        for piece in bytes.chunks(piece) {
            // It may have been answered already.
            let _ = stream.write_all(piece);
            heard.extend(self.poll());
        }
        let _ = stream.shutdown(Shutdown::Write);
        heard.extend(self.poll());
        let mut read = Vec::new();
        let _ = stream.read_to_end(&mut read);
        (heard, read)
    }

    fn poll(&mut self) -> Vec<Request> {
        // Later than any pause that it makes.
        self.now = self.now + Duration::from_millis(20);
        self.socket.poll(self.now)
    }
}

fuzz_target!(|input: &[u8]| {
    let mut input = input;
    let [kind] = take(&mut input);
    if kind < 0x80 {
        let piece =
            if kind < 4 { input.len().div_ceil(usize::from(kind) + 1) } else { input.len() };
        let (heard, read) = DAEMON.with_borrow_mut(|daemon| daemon.asked(input, piece.max(1)));
        let line = input.split(|byte| *byte == b'\n').next().unwrap_or_default();
        let meant = serde_json::from_slice::<Request>(line).ok();
        assert!(heard.len() <= 1, "a connection carries one request");
        if line.len() <= LONGEST_REQUEST {
            assert_eq!(heard.first(), meant.as_ref());
        }
        if let Some(request) = meant {
            let again = serde_json::to_vec(&request).expect("a request can be written");
            assert_eq!(serde_json::from_slice::<Request>(&again).ok(), Some(request));
        }
        // Whoever asks is answered, by one whole line.
        let (replies, error) = replies(&read);
        let is_refused = error.contains("does not understand");
        assert!(input.is_empty() || replies.len() + usize::from(is_refused) == 1, "{error}");
        return;
    }
    let (replies, error) = replies(input);
    assert!(!error.is_empty());
    for reply in replies {
        let again = serde_json::to_vec(&reply).expect("a reply can be written");
        // Of what is not known one word counts that was there twice.
        if !matches!(&reply, Reply::Event(EventLine { what: What::Other { .. }, .. })) {
            assert_eq!(serde_json::from_slice::<Reply>(&again).ok().as_ref(), Some(&reply));
        }
        if let Reply::Event(event) = reply {
            let text = String::from_utf8(told(&event, false)).expect("text");
            // The day, and the event.
            assert!(is_clean(&text) && text.matches('\n').count() == 2, "{text:?}");
            let json = told(&event, true);
            assert!(serde_json::from_slice::<serde_json::Value>(&json).is_ok());
        }
    }
});

fn replies(bytes: &[u8]) -> (Vec<Reply>, String) {
    let (mut theirs, ours) = UnixStream::pair().expect("two sockets");
    // No more than what a socket takes at once: nobody reads meanwhile.
    theirs.write_all(&bytes[..bytes.len().min(16 << 10)]).expect("there is room");
    drop(theirs);
    read_replies(ours)
}
