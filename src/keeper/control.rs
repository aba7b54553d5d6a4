//! The control socket: requests of administrators in, replies out, never waiting for anybody.

use std::collections::BTreeSet;
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::fs::{PermissionsExt, chown};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::time::Duration;
use std::{fs, mem};

use nix::sys::socket::getsockopt;
use nix::sys::socket::sockopt::PeerCredentials;
use serde::Serialize;

use super::daemon::DaemonError;
use crate::control::{LONGEST_REQUEST, Reply, Request};
use crate::sys::privileges;
use crate::time::Monotonic;

/// How many connections there may be at once.
const CONNECTIONS: usize = 64;
/// How much may wait for somebody who does not read, in bytes.
const LONGEST_OUTPUT: usize = 16 << 20;
/// How long somebody may take to ask.
const TIME_TO_ASK: Duration = Duration::from_secs(5);
/// The group whose members may ask.
const GROUP: &str = "knockd";

/// Names one connection for as long as the daemon lives.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct ConnectionId(u64);

/// What a connection is told of unasked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Follows {
    Nothing,
    /// All events.
    Events,
    /// What became of knocks, of one address or of all.
    Knocks(Option<std::net::IpAddr>),
}

pub(super) struct Control {
    listener: UnixListener,
    path: PathBuf,
    connections: Vec<Connection>,
    last: u64,
}

struct Connection {
    id: ConnectionId,
    stream: UnixStream,
    input: Vec<u8>,
    output: Vec<u8>,
    follows: Follows,
    /// Until when it has to have asked; `None`: it has.
    ask_by: Option<Monotonic>,
    /// Nothing more will be said: it ends when all output has left.
    ends: bool,
    dead: bool,
}

impl Control {
    /// Listens for root and the group `knockd`. A socket that nobody listens on is replaced.
    ///
    /// # Errors
    /// [`DaemonError`].
    pub(super) fn listen(path: &Path) -> Result<Self, DaemonError> {
        let failed =
            |doing| move |source| DaemonError::File { doing, path: path.to_owned(), source };
        if UnixStream::connect(path).is_ok() {
            let pid = "the one that listens there".to_owned();
            return Err(DaemonError::Running { pid, path: path.to_owned() });
        }
        match fs::remove_file(path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                return Err(failed("remove the stale socket")(error));
            }
            _ => {}
        }
        let listener = UnixListener::bind(path).map_err(failed("listen on"))?;
        let group = privileges::group(GROUP);
        let mode = if group.is_some() { 0o660 } else { 0o600 };
        if group.is_some() {
            chown(path, None, group).map_err(failed("hand over"))?;
        }
        fs::set_permissions(path, fs::Permissions::from_mode(mode))
            .map_err(failed("set the mode of"))?;
        listener.set_nonblocking(true).map_err(failed("listen on"))?;
        Ok(Self { listener, path: path.to_owned(), connections: Vec::new(), last: 0 })
    }

    /// Takes new connections, reads and writes what can be; gives the requests that have come.
    ///
    /// The users of the watchers are not heard. They may well be in the group that may ask, and a
    /// watcher that somebody has taken over would open doors without a knock.
    pub(super) fn poll(
        &mut self,
        now: Monotonic,
        watchers: &BTreeSet<u32>,
    ) -> Vec<(ConnectionId, Request)> {
        while let Ok((stream, _)) = self.listener.accept() {
            let is_watcher = getsockopt(&stream, PeerCredentials)
                .map_or(true, |peer| watchers.contains(&peer.uid()));
            let has_room = self.connections.len() < CONNECTIONS;
            if !is_watcher && has_room && stream.set_nonblocking(true).is_ok() {
                self.last += 1;
                self.connections.push(Connection {
                    id: ConnectionId(self.last),
                    stream,
                    input: Vec::new(),
                    output: Vec::new(),
                    follows: Follows::Nothing,
                    ask_by: Some(now + TIME_TO_ASK),
                    ends: false,
                    dead: false,
                });
            }
        }
        let mut requests = Vec::new();
        for connection in &mut self.connections {
            if let Some(request) = connection.read() {
                requests.push((connection.id, request));
            }
            if connection.ask_by.is_some_and(|ask_by| ask_by <= now) {
                connection.dead = true;
            }
            connection.write();
        }
        self.connections.retain(|connection| !connection.is_over());
        requests
    }

    fn find(&mut self, id: ConnectionId) -> Option<&mut Connection> {
        self.connections.iter_mut().find(|connection| connection.id == id)
    }

    /// Says something; after [`Reply::Done`] or [`Reply::Failed`] the connection ends.
    pub(super) fn reply(&mut self, id: ConnectionId, reply: &Reply) {
        if let Some(connection) = self.find(id) {
            connection.say(reply);
            connection.ends |= matches!(reply, Reply::Done { .. } | Reply::Failed { .. });
            connection.write();
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
    pub(super) fn publish(&mut self, reply: &Reply, to: impl Fn(Follows) -> bool) {
        for connection in &mut self.connections {
            if to(connection.follows) {
                connection.say(reply);
                connection.write();
            }
        }
    }

    /// What is followed by anybody.
    pub(super) fn follows(&self) -> impl Iterator<Item = Follows> + '_ {
        self.connections.iter().map(|connection| connection.follows)
    }

    pub(super) fn fds(&self) -> impl Iterator<Item = BorrowedFd<'_>> {
        let connections = self.connections.iter().map(|connection| connection.stream.as_fd());
        std::iter::once(self.listener.as_fd()).chain(connections)
    }

    /// When [`poll`](Self::poll) has to be called next.
    pub(super) fn next_deadline(&self, now: Monotonic) -> Option<Monotonic> {
        let waiting = self.connections.iter().any(|connection| !connection.output.is_empty());
        let retry = waiting.then(|| now + Duration::from_millis(10));
        self.connections.iter().filter_map(|connection| connection.ask_by).chain(retry).min()
    }
}

impl Drop for Control {
    fn drop(&mut self) {
        // It is stale from here on in any case.
        let _ = fs::remove_file(&self.path);
    }
}

impl Connection {
    /// Reads what is there; gives the request when it is whole.
    fn read(&mut self) -> Option<Request> {
        let mut buffer = [0; LONGEST_REQUEST];
        loop {
            match self.stream.read(&mut buffer) {
                Ok(0) => {
                    // Whoever closes its side after asking still wants the answer.
                    self.dead |= self.ask_by.is_some() || self.follows != Follows::Nothing;
                    return None;
                }
                Ok(_) if self.ask_by.is_none() => {}
                Ok(count) => self.input.extend(buffer.iter().take(count)),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return None,
                Err(_) => {
                    self.dead = true;
                    return None;
                }
            }
            let end = self.input.iter().position(|&byte| byte == b'\n');
            if self.ask_by.is_some() && (end.is_some() || self.input.len() > LONGEST_REQUEST) {
                self.ask_by = None;
                let line = mem::take(&mut self.input);
                match serde_json::from_slice(line.get(..end.unwrap_or(0)).unwrap_or_default()) {
                    Ok(request) => return Some(request),
                    Err(error) => {
                        let why = format!("knockd does not understand the request: {error}");
                        self.say(&Reply::Failed { why });
                        self.ends = true;
                    }
                }
            }
        }
    }

    fn say(&mut self, reply: &impl Serialize) {
        // Replies are maps with string keys: they can always be written.
        if serde_json::to_writer(&mut self.output, reply).is_ok() {
            self.output.push(b'\n');
        }
        self.dead |= self.output.len() > LONGEST_OUTPUT;
    }

    fn write(&mut self) {
        while !self.output.is_empty() {
            match self.stream.write(&self.output) {
                Ok(count) => drop(self.output.drain(..count)),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return,
                Err(_) => {
                    self.dead = true;
                    return;
                }
            }
        }
    }

    const fn is_over(&self) -> bool {
        self.dead || (self.ends && self.output.is_empty())
    }
}

#[cfg(test)]
mod tests {
    use std::io::{BufRead, BufReader};

    use super::*;

    fn now() -> Monotonic {
        Monotonic::from_nanos(1_000_000_000_000)
    }

    fn ask(control: &mut Control, text: &str) -> (UnixStream, Vec<(ConnectionId, Request)>) {
        let mut stream = UnixStream::connect(&control.path).unwrap();
        stream.write_all(text.as_bytes()).unwrap();
        let requests = control.poll(now(), &BTreeSet::new());
        (stream, requests)
    }

    fn answer(stream: UnixStream) -> Vec<String> {
        BufReader::new(stream).lines().map(Result::unwrap).collect()
    }

    #[test]
    fn a_request_is_answered_and_the_connection_ends() {
        let dir = tempfile::tempdir().unwrap();
        let mut control = Control::listen(&dir.path().join("s")).unwrap();
        let (stream, requests) = ask(&mut control, "{\"do\":\"status\"}\n");
        let [(id, Request::Status)] = requests[..] else { panic!("{requests:?}") };
        control.reply(id, &Reply::Done { text: "well".into() });
        assert_eq!(answer(stream), [r#"{"reply":"done","text":"well"}"#]);
        assert!(control.connections.is_empty());
    }

    #[test]
    fn nonsense_is_answered_with_what_is_wrong() {
        let dir = tempfile::tempdir().unwrap();
        let mut control = Control::listen(&dir.path().join("s")).unwrap();
        let long = "x".repeat(LONGEST_REQUEST + 1);
        for nonsense in ["what?\n", "{\"do\":\"fly\"}\n", &long] {
            let (stream, requests) = ask(&mut control, nonsense);
            assert!(requests.is_empty());
            assert!(answer(stream)[0].contains("does not understand"));
        }
    }

    #[test]
    fn whoever_does_not_ask_is_sent_away() {
        let dir = tempfile::tempdir().unwrap();
        let mut control = Control::listen(&dir.path().join("s")).unwrap();
        let (_stream, _) = ask(&mut control, "{\"do\":");
        assert_eq!(control.connections.len(), 1);
        control.poll(now() + TIME_TO_ASK, &BTreeSet::new());
        assert!(control.connections.is_empty());
    }

    #[test]
    fn the_user_of_a_watcher_is_not_heard() {
        let dir = tempfile::tempdir().unwrap();
        let mut control = Control::listen(&dir.path().join("s")).unwrap();
        let mut stream = UnixStream::connect(&control.path).unwrap();
        stream.write_all(b"{\"do\":\"close_all\"}\n").unwrap();
        let user = nix::unistd::geteuid().as_raw();
        assert!(control.poll(now(), &[user].into()).is_empty());
        assert!(control.connections.is_empty());
    }

    #[test]
    fn somebody_who_follows_and_does_not_read_is_cut_off_in_the_end() {
        let dir = tempfile::tempdir().unwrap();
        let mut control = Control::listen(&dir.path().join("s")).unwrap();
        let (_stream, requests) = ask(&mut control, "{\"do\":\"watch\"}\n");
        control.follow(requests[0].0, Follows::Events);
        let line = Reply::Done { text: "x".repeat(1 << 20) };
        for _ in 0..20 {
            control.publish(&line, |follows| follows == Follows::Events);
        }
        control.poll(now(), &BTreeSet::new());
        assert!(control.connections.is_empty());
    }

    #[test]
    fn a_live_socket_means_that_knockd_is_running_and_a_stale_one_is_replaced() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("s");
        let control = Control::listen(&path).unwrap();
        assert!(matches!(Control::listen(&path), Err(DaemonError::Running { .. })));
        drop(control);
        drop(UnixListener::bind(&path).unwrap());
        assert!(path.exists());
        Control::listen(&path).unwrap();
    }
}
