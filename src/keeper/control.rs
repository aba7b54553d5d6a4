//! The control socket: requests of administrators in, replies out, never waiting for anybody.

use std::collections::VecDeque;
use std::io::{self, Read, Write};
use std::os::fd::AsFd;
use std::os::unix::fs::{FileTypeExt, PermissionsExt, chown};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::time::Duration;
use std::{fs, mem};

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags};
use nix::sys::socket::sockopt::PeerCredentials;
use nix::sys::socket::{Backlog, UnixCredentials, getsockopt, listen};
use nix::unistd::{getegid, geteuid, setegid};
use serde::Serialize;

use super::daemon::DaemonError;
use crate::control::{EventLine, LONGEST_REQUEST, MetricsFormat, Reply, Request, What};
use crate::sys::{descriptors, files, privileges};
use crate::time::Monotonic;

/// How many connections there may be at once: in all, of all but root, of one other user.
const CONNECTIONS: usize = 64;
const CONNECTIONS_OF_OTHERS: usize = 48;
const CONNECTIONS_OF_ONE: usize = 8;
/// How many connections are taken at a time. More have to wait for a [`PAUSE`].
const TAKEN: usize = 64;
/// How many wait to be taken.
const BACKLOG: i32 = 64;
/// How much may wait for somebody who does not read, in bytes: more than the longest history has.
const LONGEST_OUTPUT: usize = 6 << 20;
/// How long somebody may take to ask, and whoever reads figures to read them.
const TIME_TO_ASK: Duration = Duration::from_secs(5);
/// At least how long after a request of somebody else than root the next one is answered.
const PAUSE: Duration = Duration::from_millis(10);
/// How many times as long as that request took: the keeper has a door to open, too.
const REST: u32 = 3;
/// The group whose members may ask.
const GROUP: &str = "knockd";

/// Names one connection for as long as the daemon lives.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct ConnectionId(u64);

/// The language of a socket and of those who connect to it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Language {
    /// Requests and replies of knockctl's.
    Json,
    /// Whatever is asked for with GET is the figures, and nothing else can be asked.
    Http,
}

/// The events that a connection is told of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Follows {
    Nothing,
    /// All events, but no packets that changed nothing.
    Events,
    /// What became of knocks, of one address or of all.
    Knocks(Option<std::net::IpAddr>),
}

pub(super) struct Control {
    language: Language,
    listener: UnixListener,
    path: PathBuf,
    /// The user that the keeper runs as.
    own: u32,
    /// In the order in which they came.
    connections: Vec<ControlConnection>,
    last: u64,
    now: Monotonic,
    /// Until then nobody is let in.
    shut_until: Option<Monotonic>,
    /// Until then only root is answered.
    rests_until: Monotonic,
}

struct ControlConnection {
    id: ConnectionId,
    language: Language,
    user: u32,
    stream: UnixStream,
    state: ConnectionState,
    input: Vec<u8>,
    output: VecDeque<u8>,
    follows: Follows,
    /// Until when it has to have asked, or read; `None`: it has.
    ask_by: Option<Monotonic>,
    dead: bool,
}

/// The state of a connection: how far it has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum ConnectionState {
    Asks,
    /// The request is whole, and has its turn to come.
    Waits,
    Answered,
    /// Nothing more will be said: it ends when all output has left.
    Ends,
}

impl Control {
    /// Listens for root and a group, by default `knockd`. A socket that nobody listens on is
    /// replaced.
    ///
    /// # Errors
    /// [`DaemonError`].
    pub(super) fn listen(
        language: Language,
        path: &Path,
        group: Option<&str>,
    ) -> Result<Self, DaemonError> {
        let failed =
            |doing| move |source| DaemonError::File { doing, path: path.to_owned(), source };
        if UnixStream::connect(path).is_ok() {
            let pid = "the one that listens there".to_owned();
            return Err(DaemonError::Running { pid, path: path.to_owned() });
        }
        // What else stands there was not left by us.
        if fs::symlink_metadata(path).is_ok_and(|found| found.file_type().is_socket()) {
            files::remove(path).map_err(failed("remove the stale socket"))?;
        }
        let gid = privileges::group(group.unwrap_or(GROUP));
        if let (None, Some(group)) = (gid, group) {
            return Err(DaemonError::NoGroup(group.to_owned()));
        }
        // Once rights are given up it cannot be handed over, but be made as that group's.
        let own_group = getegid();
        let _ = gid.map(|gid| setegid(gid.into()));
        let listener = UnixListener::bind(path);
        let _ = setegid(own_group);
        let listener = listener.map_err(failed("listen on"))?;
        let mut mode = 0o600;
        if let Some(group) = gid {
            match chown(path, None, Some(group)) {
                Ok(()) => mode = 0o660,
                // In a user namespace that has no such group nobody can be in it.
                Err(error) if error.raw_os_error() == Some(Errno::EINVAL as i32) => {}
                // It is for the user alone who has started this.
                Err(_) if !privileges::is_root() => {}
                Err(error) => return Err(failed("hand over")(error)),
            }
        }
        fs::set_permissions(path, fs::Permissions::from_mode(mode))
            .map_err(failed("set the mode of"))?;
        listener.set_nonblocking(true).map_err(failed("listen on"))?;
        // However fast somebody connects, there are never more than this before root.
        let shorter = Backlog::new(BACKLOG).and_then(|backlog| listen(&listener, backlog));
        shorter.map_err(|errno| failed("listen on")(errno.into()))?;
        Ok(Self {
            language,
            listener,
            path: path.to_owned(),
            own: geteuid().as_raw(),
            connections: Vec::new(),
            last: 0,
            now: Monotonic::ZERO,
            shut_until: None,
            rests_until: Monotonic::ZERO,
        })
    }

    /// Takes new connections, reads and writes what can be; gives the requests that have come: all
    /// of root's, and one of others where it is [time](Self::answered) for one.
    ///
    /// No watcher is heard, and none of their users. They may well be in the group that may ask, and a
    /// watcher that somebody has taken over would open doors without a knock.
    pub(super) fn poll(
        &mut self,
        now: Monotonic,
        is_watcher: impl Fn(&UnixCredentials) -> bool,
    ) -> Vec<(ConnectionId, Request)> {
        self.now = now;
        self.shut_until = self.shut_until.filter(|until| *until > now);
        if self.shut_until.is_none() {
            self.accept(is_watcher);
        }
        let mut polled: Vec<_> = self.connections.iter().map(ControlConnection::polled).collect();
        // Without memory for it nothing is ready.
        let _ = descriptors::poll(&mut polled, Some(Duration::ZERO));
        let revents = polled.iter().map(|fd| fd.revents().unwrap_or(PollFlags::POLLERR));
        let ready: Vec<PollFlags> = revents.collect();
        let mut requests = Vec::new();
        for (connection, ready) in self.connections.iter_mut().zip(ready) {
            connection.exchange(ready);
            connection.dead |= connection.ask_by.is_some_and(|ask_by| ask_by <= now);
            let is_root = connection.user == 0;
            if connection.state == ConnectionState::Waits && (is_root || self.rests_until <= now) {
                if !is_root {
                    self.rests_until = now + PAUSE;
                }
                connection.ask_by = (self.language == Language::Http).then_some(now + TIME_TO_ASK);
                requests.extend(connection.request().map(|request| (connection.id, request)));
            }
        }
        self.connections.retain(|connection| !connection.is_over());
        requests
    }

    fn accept(&mut self, is_watcher: impl Fn(&UnixCredentials) -> bool) {
        for _ in 0..TAKEN {
            match self.listener.accept() {
                Ok((stream, _)) => {
                    let peer = getsockopt(&stream, PeerCredentials).ok();
                    let user = peer.filter(|peer| !is_watcher(peer)).map(|peer| peer.uid());
                    // Whoever has started this can do with it what root can.
                    let user = user.map(|user| if user == self.own { 0 } else { user });
                    if let Some(user) = user
                        && stream.set_nonblocking(true).is_ok()
                    {
                        self.admit(stream, user);
                    }
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return,
                // No descriptors are left: whoever waits would be taken for new at once.
                Err(_) => break,
            }
        }
        self.shut_until = Some(self.now + PAUSE);
    }

    /// Takes a connection of a user, where there is room for one more.
    fn admit(&mut self, stream: UnixStream, user: u32) {
        let others = self.connections.iter().filter(|it| it.user != 0).count();
        let own = self.connections.iter().filter(|it| it.user == user).count();
        let has_room = user == 0 || (others < CONNECTIONS_OF_OTHERS && own < CONNECTIONS_OF_ONE);
        if !has_room || self.connections.len() >= CONNECTIONS {
            return;
        }
        self.last += 1;
        self.connections.push(ControlConnection {
            id: ConnectionId(self.last),
            language: self.language,
            user,
            stream,
            state: ConnectionState::Asks,
            input: Vec::new(),
            output: VecDeque::new(),
            follows: Follows::Nothing,
            ask_by: Some(self.now + TIME_TO_ASK),
            dead: false,
        });
    }

    /// How long the answers took that were given since the last [`poll`](Self::poll): others than
    /// root have no more than a part of the keeper's time, however often they ask for whatever.
    pub(super) fn answered(&mut self, began: Monotonic, ended: Monotonic) {
        self.rests_until = self.rests_until.max(ended + ended.since(began) * REST);
    }

    fn find(&mut self, id: ConnectionId) -> Option<&mut ControlConnection> {
        self.connections.iter_mut().find(|connection| connection.id == id)
    }

    /// Says something; after [`Reply::Done`] or [`Reply::Failed`] the connection ends.
    pub(super) fn reply(&mut self, id: ConnectionId, reply: &Reply) {
        if let Some(connection) = self.find(id) {
            match (connection.language, reply) {
                (Language::Http, Reply::Done { text }) => connection.say(&page(text)),
                _ => connection.say(&line(reply)),
            }
            if matches!(reply, Reply::Done { .. } | Reply::Failed { .. }) {
                connection.end();
            }
        }
        // Whoever reads to the end must not wait for something else to happen.
        self.connections.retain(|connection| !connection.is_over());
    }

    /// From now on this connection is told of these things as they happen.
    pub(super) fn follow(&mut self, id: ConnectionId, follows: Follows) {
        if let Some(connection) = self.find(id) {
            connection.follows = follows;
        }
    }

    /// Tells those who follow such things.
    pub(super) fn publish(&mut self, event: &EventLine) {
        let is_told = |it: &&mut ControlConnection| match it.follows {
            Follows::Nothing => false,
            Follows::Events => !matches!(event.what, What::Ignored { .. }),
            Follows::Knocks(wanted) => event.is_about(wanted),
        };
        let mut told = self.connections.iter_mut().filter(is_told).peekable();
        // Most of the time nobody is there to read it.
        let event = told.peek().map(|_| line(&Reply::Event(event.clone()))).unwrap_or_default();
        told.for_each(|connection| connection.say(&event));
    }

    /// What is followed by anybody.
    pub(super) fn follows(&self) -> impl Iterator<Item = Follows> + '_ {
        self.connections.iter().map(|connection| connection.follows)
    }

    /// What to wait for.
    pub(super) fn fds(&self) -> impl Iterator<Item = PollFd<'_>> {
        let listener = PollFd::new(self.listener.as_fd(), PollFlags::POLLIN);
        let listener = self.shut_until.is_none().then_some(listener);
        let waits = |connection: &&ControlConnection| connection.state != ConnectionState::Waits;
        listener
            .into_iter()
            .chain(self.connections.iter().filter(waits).map(ControlConnection::polled))
    }

    /// When [`poll`](Self::poll) has to be called next.
    pub(super) fn next_deadline(&self) -> Option<Monotonic> {
        let waits = self.connections.iter().any(|it| it.state == ConnectionState::Waits);
        let deadlines = self.connections.iter().filter_map(|connection| connection.ask_by);
        deadlines.chain(self.shut_until).chain(waits.then_some(self.rests_until)).min()
    }
}

impl Drop for Control {
    fn drop(&mut self) {
        // It is stale from here on in any case.
        let _ = fs::remove_file(&self.path);
    }
}

impl ControlConnection {
    /// Whoever closes its side after asking still wants the answer: only one that asks is read.
    fn polled(&self) -> PollFd<'_> {
        let mut wanted = PollFlags::empty();
        wanted.set(PollFlags::POLLIN, self.state == ConnectionState::Asks);
        wanted.set(PollFlags::POLLOUT, !self.output.is_empty());
        PollFd::new(self.stream.as_fd(), wanted)
    }

    /// Reads and writes what can be now, a bounded amount.
    fn exchange(&mut self, ready: PollFlags) {
        let is_gone = ready.intersects(PollFlags::POLLHUP | PollFlags::POLLERR);
        match self.state {
            ConnectionState::Asks if !ready.is_empty() => self.read(),
            // What was asked is done, though nobody waits for the answer.
            ConnectionState::Asks | ConnectionState::Waits => {}
            ConnectionState::Answered | ConnectionState::Ends => self.dead |= is_gone,
        }
        if ready.contains(PollFlags::POLLOUT) {
            self.write();
        }
    }

    /// Reads what is there of a request.
    fn read(&mut self) {
        // One byte more than a request, to tell a longer one.
        let mut buffer = [0; LONGEST_REQUEST + 1];
        let count = match self.stream.read(&mut buffer) {
            Ok(count) => count,
            Err(error) => return self.failed(&error),
        };
        self.input.extend(buffer.iter().take(count));
        let is_closed = count == 0;
        self.dead |= is_closed && self.input.is_empty();
        let ends: &[&[u8]] = match self.language {
            Language::Json => &[b"\n"],
            Language::Http => &[b"\r\n\r\n", b"\n\n"],
        };
        let is_whole = ends.iter().any(|end| self.input.windows(end.len()).any(|it| it == *end));
        if is_closed || is_whole || self.input.len() > LONGEST_REQUEST {
            self.state = ConnectionState::Waits;
            self.ask_by = None;
        }
    }

    /// The request that has come, whose turn it is.
    fn request(&mut self) -> Option<Request> {
        self.state = ConnectionState::Answered;
        let input = mem::take(&mut self.input);
        let asked = match self.language {
            Language::Json => json_request(&input),
            Language::Http if input.starts_with(b"GET ") => {
                Ok(Request::Metrics { format: MetricsFormat::OpenMetrics })
            }
            Language::Http => Err(NOT_ALLOWED.to_vec()),
        };
        let failed = |refusal: Vec<u8>| {
            self.say(&refusal);
            self.end();
        };
        asked.map_err(failed).ok()
    }

    fn say(&mut self, line: &[u8]) {
        self.output.extend(line);
        self.dead |= self.output.len() > LONGEST_OUTPUT;
    }

    fn end(&mut self) {
        self.state = ConnectionState::Ends;
        self.write();
    }

    fn write(&mut self) {
        while !self.output.is_empty() {
            match self.stream.write(self.output.as_slices().0) {
                Ok(count) => drop(self.output.drain(..count)),
                Err(error) => return self.failed(&error),
            }
        }
    }

    /// It is over, unless more can be read or written later.
    fn failed(&mut self, error: &io::Error) {
        let later = [io::ErrorKind::Interrupted, io::ErrorKind::WouldBlock];
        self.dead |= !later.contains(&error.kind());
    }

    fn is_over(&self) -> bool {
        self.dead || (self.state == ConnectionState::Ends && self.output.is_empty())
    }
}

/// The request on a line, or what is said where it is none.
fn json_request(input: &[u8]) -> Result<Request, Vec<u8>> {
    let asked = input.split(|&byte| byte == b'\n').next().unwrap_or_default();
    serde_json::from_slice(asked).map_err(|error| {
        line(&Reply::Failed { why: format!("knockd does not understand the request: {error}") })
    })
}

/// The answer to whoever wants anything else than figures.
const NOT_ALLOWED: &[u8] =
    b"HTTP/1.0 405 Method Not Allowed\r\nAllow: GET\r\nContent-Length: 0\r\n\r\n";

fn line(reply: &impl Serialize) -> Vec<u8> {
    // Replies are maps with string keys: they can always be written.
    let mut line = serde_json::to_vec(reply).unwrap_or_default();
    line.push(b'\n');
    line
}

/// Figures, as HTTP/1.0 has them.
fn page(text: &str) -> Vec<u8> {
    let length = text.len();
    format!(
        "HTTP/1.0 200 OK\r\n\
         Content-Type: application/openmetrics-text; version=1.0.0; charset=utf-8\r\n\
         Content-Length: {length}\r\n\r\n{text}"
    )
    .into_bytes()
}

#[cfg(test)]
mod tests {
    use std::io::{BufRead, BufReader};

    use proptest::prelude::*;

    use super::*;
    use crate::time::Wall;

    fn now() -> Monotonic {
        Monotonic::from_nanos(1_000_000_000_000)
    }

    fn listen() -> (tempfile::TempDir, Control) {
        let dir = tempfile::tempdir().unwrap();
        let mut control = Control::listen(Language::Json, &dir.path().join("s"), None).unwrap();
        poll(&mut control, 0);
        (dir, control)
    }

    fn poll(control: &mut Control, millis: u64) -> Vec<(ConnectionId, Request)> {
        control.poll(now() + Duration::from_millis(millis), |_| false)
    }

    fn ask(control: &mut Control, text: &str) -> (UnixStream, Vec<(ConnectionId, Request)>) {
        let mut stream = UnixStream::connect(&control.path).unwrap();
        stream.write_all(text.as_bytes()).unwrap();
        let requests = poll(control, 0);
        (stream, requests)
    }

    /// A connection of a user, which has written this.
    fn connect(control: &mut Control, user: u32, text: &str) -> UnixStream {
        let (mut theirs, ours) = UnixStream::pair().unwrap();
        ours.set_nonblocking(true).unwrap();
        theirs.write_all(text.as_bytes()).unwrap();
        control.admit(ours, user);
        theirs
    }

    fn answer(stream: UnixStream) -> Vec<String> {
        BufReader::new(stream).lines().map_while(Result::ok).collect()
    }

    const STATUS: &str = "{\"do\":\"status\"}\n";
    const MEMBER: u32 = 1000;

    fn news(message: &str) -> EventLine {
        EventLine::new(Wall::ZERO, None, None, What::Close, message)
    }

    #[test]
    fn a_request_is_answered_and_the_connection_ends() {
        let (_dir, mut control) = listen();
        let (stream, requests) = ask(&mut control, STATUS);
        let [(id, Request::Status)] = requests[..] else { panic!("{requests:?}") };
        control.reply(id, &Reply::Done { text: "well".into() });
        assert_eq!(answer(stream), [r#"{"reply":"done","text":"well"}"#]);
        assert!(control.connections.is_empty());
    }

    fn readers() -> (tempfile::TempDir, Control) {
        let dir = tempfile::tempdir().unwrap();
        let readers = Control::listen(Language::Http, &dir.path().join("m"), None).unwrap();
        (dir, readers)
    }

    #[test]
    fn figures_are_told_to_whoever_asks_for_a_page_and_end_the_connection() {
        let (_dir, mut readers) = readers();
        let (stream, requests) = ask(&mut readers, "GET /metrics HTTP/1.1\r\nHost: a\r\n\r\n");
        let [(id, Request::Metrics { format: MetricsFormat::OpenMetrics })] = requests[..] else {
            panic!("{requests:?}")
        };
        assert_eq!(readers.next_deadline(), Some(now() + TIME_TO_ASK));
        readers.reply(id, &Reply::Done { text: "# EOF\n".into() });
        let answer = answer(stream);
        assert_eq!(answer[0], "HTTP/1.0 200 OK");
        assert_eq!(answer[2..], ["Content-Length: 6", "", "# EOF"]);
        assert!(readers.connections.is_empty());
    }

    #[test]
    fn a_reader_of_figures_who_does_not_read_is_sent_away() {
        let (_dir, mut readers) = readers();
        let (_stream, requests) = ask(&mut readers, "GET / HTTP/1.0\n\n");
        readers.reply(requests[0].0, &Reply::Done { text: "x".repeat(4 << 20) });
        assert_eq!(readers.connections.len(), 1);
        poll(&mut readers, 5_000);
        assert!(readers.connections.is_empty());
    }

    proptest! {
        #[test]
        fn nothing_but_figures_can_be_asked_for_where_they_are_read(
            text in "(?s).{0,99}|(GET |POST )?/.{0,99}\r\n\r\n|\\{\"do\":\"(close_all|status)\"\\}\n\n"
        ) {
            let (_dir, mut readers) = readers();
            let stream = connect(&mut readers, 0, &text);
            stream.shutdown(std::net::Shutdown::Write).unwrap();
            for (_, request) in poll(&mut readers, 0) {
                prop_assert!(text.starts_with("GET "));
                prop_assert_eq!(request, Request::Metrics { format: MetricsFormat::OpenMetrics });
            }
        }
    }

    #[test]
    fn nonsense_is_answered_with_what_is_wrong() {
        let (_dir, mut control) = listen();
        let long = "x".repeat(LONGEST_REQUEST + 1);
        for nonsense in ["what?\n", "{\"do\":\"fly\"}\n", &long] {
            let (stream, requests) = ask(&mut control, nonsense);
            assert!(requests.is_empty());
            assert!(answer(stream)[0].contains("does not understand"));
        }
    }

    #[test]
    fn whoever_does_not_ask_is_sent_away() {
        let (_dir, mut control) = listen();
        let (_stream, _) = ask(&mut control, "{\"do\":");
        assert_eq!(control.connections.len(), 1);
        assert_eq!(control.next_deadline(), Some(now() + TIME_TO_ASK));
        poll(&mut control, 5_000);
        assert!(control.connections.is_empty());
    }

    #[test]
    fn whoever_closes_their_side_is_answered_and_goes_on_being_told() {
        let (_dir, mut control) = listen();
        let half = |control: &mut Control, text: &str| {
            let stream = connect(control, 0, text);
            stream.shutdown(std::net::Shutdown::Write).unwrap();
            let request = poll(control, 0).into_iter().chain(poll(control, 0)).next();
            (stream, request.unwrap().0)
        };
        // The end of what they write is the end of the request.
        let (stream, id) = half(&mut control, STATUS.trim());
        control.reply(id, &Reply::Done { text: String::new() });
        assert_eq!(answer(stream).len(), 1);
        let (stream, id) = half(&mut control, "{\"do\":\"watch\"}\n");
        control.follow(id, Follows::Events);
        poll(&mut control, 1);
        control.publish(&news("it is open"));
        poll(&mut control, 2);
        assert_eq!(control.connections.len(), 1);
        let mut buffer = [0; 100];
        assert!((&stream).read(&mut buffer).unwrap() > 0);
        drop(stream);
        poll(&mut control, 3);
        assert!(control.connections.is_empty());
    }

    #[test]
    fn the_user_of_a_watcher_is_not_heard() {
        let (_dir, mut control) = listen();
        let mut stream = UnixStream::connect(&control.path).unwrap();
        stream.write_all(b"{\"do\":\"close_all\"}\n").unwrap();
        let user = geteuid().as_raw();
        assert!(control.poll(now(), |peer| peer.uid() == user).is_empty());
        assert!(control.connections.is_empty());
    }

    #[test]
    fn one_user_cannot_use_up_the_connections_nor_all_others_those_of_root() {
        let (_dir, mut control) = listen();
        let mut kept = Vec::new();
        for user in 1000..1020 {
            for _ in 0..20 {
                kept.push(connect(&mut control, user, ""));
            }
            let of_user = control.connections.iter().filter(|it| it.user == user).count();
            assert!(of_user <= CONNECTIONS_OF_ONE);
        }
        assert_eq!(control.connections.len(), CONNECTIONS_OF_OTHERS);
        assert_eq!(answer(kept.pop().unwrap()), [""; 0]);
        for _ in 0..CONNECTIONS {
            kept.push(connect(&mut control, 0, STATUS));
        }
        assert_eq!(poll(&mut control, 0).len(), CONNECTIONS - CONNECTIONS_OF_OTHERS);
    }

    #[test]
    fn others_than_root_are_answered_one_by_one_and_have_a_part_of_the_time() {
        let (_dir, mut control) = listen();
        let others: Vec<_> = (0..3).map(|it| connect(&mut control, MEMBER + it, STATUS)).collect();
        assert_eq!(poll(&mut control, 0).len(), 1);
        // It took a fifth of a second.
        let at = |millis| now() + Duration::from_millis(millis);
        control.answered(at(0), at(200));
        assert_eq!(control.next_deadline(), Some(at(800)));
        // Those that wait are not what is waited for.
        assert_eq!(control.fds().count(), 2);
        let _root = connect(&mut control, 0, STATUS);
        assert_eq!(poll(&mut control, 799).len(), 1);
        assert_eq!(poll(&mut control, 800).len(), 1);
        assert_eq!(poll(&mut control, 809).len(), 0);
        assert_eq!(poll(&mut control, 810).len(), 1);
        drop(others);
    }

    #[test]
    fn whoever_connects_again_and_again_is_let_in_a_few_at_a_time() {
        let (_dir, mut control) = listen();
        let streams: Vec<_> =
            (0..=TAKEN).map(|_| UnixStream::connect(&control.path).unwrap()).collect();
        drop(streams);
        poll(&mut control, 0);
        assert_eq!(control.next_deadline(), Some(now() + PAUSE));
        // Nothing wakes before that.
        assert_eq!(control.fds().count(), control.connections.len());
        let (_stream, _) = ask(&mut control, STATUS);
        assert_eq!(poll(&mut control, 10).len(), 1);
    }

    #[test]
    fn somebody_who_follows_and_does_not_read_is_cut_off_in_the_end() {
        let (_dir, mut control) = listen();
        let mut streams = Vec::new();
        for user in [MEMBER, MEMBER + 1, 0] {
            streams.push(connect(&mut control, user, "{\"do\":\"watch\"}\n"));
        }
        for at in 0..3 {
            for (id, _) in poll(&mut control, at * 10) {
                control.follow(id, Follows::Events);
            }
        }
        let line = news(&"x".repeat(1 << 18));
        for at in 0..30 {
            assert!(at > 20 || control.connections.len() == 3);
            control.publish(&line);
            poll(&mut control, 100);
        }
        assert!(control.connections.is_empty());
    }

    #[test]
    fn an_answer_that_waits_is_written_when_it_can_be() {
        let (_dir, mut control) = listen();
        let (stream, requests) = ask(&mut control, STATUS);
        let text = "x".repeat(3 << 20);
        control.reply(requests[0].0, &Reply::Done { text: text.clone() });
        let wanted = control.fds().nth(1).unwrap();
        assert_eq!(wanted.events(), PollFlags::POLLOUT);
        let reader = std::thread::spawn(move || answer(stream));
        while !control.connections.is_empty() {
            poll(&mut control, 0);
        }
        assert!(reader.join().unwrap()[0].len() > text.len());
    }

    #[test]
    fn a_live_socket_means_that_knockd_is_running_and_a_stale_one_is_replaced() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("s");
        let control = Control::listen(Language::Json, &path, None).unwrap();
        assert!(matches!(
            Control::listen(Language::Json, &path, None),
            Err(DaemonError::Running { .. })
        ));
        drop(control);
        drop(UnixListener::bind(&path).unwrap());
        assert!(path.exists());
        Control::listen(Language::Json, &path, None).unwrap();
    }
}
