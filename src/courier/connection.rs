//! The connection to a store: a socket, TLS where that is wanted, and the store's words.

use std::io::{self, Read, Write};
use std::os::fd::{AsFd, BorrowedFd};
use std::time::Duration;

use redis::{Cmd, Parser, Value};
use rustls::ClientConnection;
use socket2::Socket;
use zeroize::Zeroizing;

use crate::proto::escape::escape;

/// How long the store may owe a reply and say nothing.
pub(super) const SILENCE: Duration = Duration::from_secs(3);
/// The longest reply, in bytes: all that some million grants come to.
const LONGEST_REPLY: u64 = 512 << 20;

/// The reason why a store is not to be had, or no longer.
#[derive(Debug, thiserror::Error)]
pub(super) enum StoreError {
    #[error("cannot be reached: {0}")]
    Unreachable(io::Error),
    #[error("the connection ended: {0}")]
    Ended(String),
    #[error(
        "TLS with it fails: {0}: where its certificate is right, name who has signed it as 'ca_file'"
    )]
    Tls(rustls::Error),
    #[error("no TLS: {0}")]
    Authorities(String),
    #[error("it says: {code} {text}{}", remedy(code))]
    Refusal { code: String, text: String },
    #[error(
        "it is a replica, which takes nothing: name the primary, or the Sentinels that know it"
    )]
    Replica,
    #[error("it knows no primary '{0}'")]
    NoService(String),
    #[error("it has not answered for {} s", SILENCE.as_secs())]
    Silent,
    #[error("what it says is no reply of Valkey or Redis to what was asked: {0}")]
    Nonsense(String),
}

/// What helps where the store refuses.
fn remedy(code: &str) -> &'static str {
    match code {
        "WRONGPASS" | "NOAUTH" => ": check the user in 'store', and what 'password_file' holds",
        "NOPERM" => ": let the store's user do that: see ACL in docs/fleet.md",
        "OOM" => ": give the store more memory ('maxmemory')",
        "ERR" => ": is it Valkey, or Redis 7 or newer?",
        _ => "",
    }
}

impl StoreError {
    /// How long to wait before another try: longer where somebody has to do something.
    pub(super) fn pause(&self) -> Duration {
        let is_settled = match self {
            Self::Refusal { code, .. } => !remedy(code).is_empty(),
            Self::Tls(_) | Self::Authorities(_) | Self::Nonsense(_) => true,
            _ => false,
        };
        Duration::from_millis(if is_settled { 2000 } else { 200 })
    }

    /// The error that a reply is, or has in it.
    pub(super) fn of_reply(reply: &Value) -> Option<Self> {
        match reply {
            Value::ServerError(error) => Some(Self::Refusal {
                code: escape(error.code()),
                text: escape(error.details().unwrap_or_default()),
            }),
            Value::Array(all) => all.iter().find_map(Self::of_reply),
            _ => None,
        }
    }

    fn of_io(error: io::Error) -> Self {
        match error.get_ref().and_then(|inner| inner.downcast_ref::<rustls::Error>()) {
            Some(tls) => Self::Tls(tls.clone()),
            None if error.kind() == io::ErrorKind::WouldBlock => Self::Silent,
            None => Self::Ended(error.to_string()),
        }
    }
}

/// A connection, and what has come of a reply.
pub(super) struct Connection {
    wire: Wire,
    parser: Parser,
    /// How many bytes had come before the reply that is coming.
    before: u64,
}

impl Connection {
    /// One that waits while it is not [nonblocking](Self::set_nonblocking), for a reply at most
    /// [`SILENCE`].
    pub(super) fn new(socket: Socket, tls: Option<ClientConnection>) -> io::Result<Self> {
        socket.set_read_timeout(Some(SILENCE))?;
        socket.set_write_timeout(Some(SILENCE))?;
        let wire = Wire { socket, tls, received: 0 };
        Ok(Self { wire, parser: Parser::new(), before: 0 })
    }

    pub(super) fn set_nonblocking(&self) -> io::Result<()> {
        self.wire.socket.set_nonblocking(true)
    }

    /// Asks, and waits for the reply, which is no error.
    pub(super) fn ask(&mut self, command: &Cmd) -> Result<Value, StoreError> {
        let packed = Zeroizing::new(command.get_packed_command());
        self.wire.write_all(&packed).map_err(StoreError::of_io)?;
        let reply = self.next()?.ok_or(StoreError::Silent)?;
        StoreError::of_reply(&reply).map_or(Ok(reply), Err)
    }

    /// The next reply, if all of it has come.
    pub(super) fn next(&mut self) -> Result<Option<Value>, StoreError> {
        match self.parser.parse_value(&mut self.wire) {
            Ok(reply) => {
                self.before = self.wire.received;
                Ok(Some(reply))
            }
            Err(error) if error.is_timeout() => {
                let is_endless = self.wire.received - self.before > LONGEST_REPLY;
                if is_endless {
                    Err(StoreError::Nonsense("it has no end".into()))
                } else {
                    Ok(None)
                }
            }
            Err(error) if error.is_io_error() => Err(StoreError::Ended(error.to_string())),
            Err(error) => Err(StoreError::Nonsense(escape(&error.to_string()))),
        }
    }

    /// How many bytes have come.
    pub(super) fn received(&self) -> u64 {
        self.wire.received
    }

    /// Sends as much of it as can be sent now, and takes it away.
    pub(super) fn send(&mut self, bytes: &mut Vec<u8>) -> Result<(), StoreError> {
        let mut sent = 0;
        let done = loop {
            match self.wire.write(&bytes[sent..]) {
                Ok(0) => break self.wire.flush(),
                Ok(count) => sent += count,
                Err(error) => break Err(error),
            }
        };
        bytes.drain(..sent);
        match done {
            Err(error) if error.kind() != io::ErrorKind::WouldBlock => {
                Err(StoreError::of_io(error))
            }
            _ => Ok(()),
        }
    }

    /// Whether something that was sent has yet to leave.
    pub(super) fn wants_write(&self) -> bool {
        self.wire.tls.as_ref().is_some_and(|tls| tls.wants_write())
    }
}

impl AsFd for Connection {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.wire.socket.as_fd()
    }
}

/// A socket, and TLS where that is spoken.
struct Wire {
    socket: Socket,
    tls: Option<ClientConnection>,
    received: u64,
}

impl Read for Wire {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let Self { socket, tls, received } = self;
        let count = match tls {
            Some(tls) => rustls::Stream::new(tls, socket).read(buffer),
            None => socket.read(buffer),
        }?;
        *received += count as u64;
        Ok(count)
    }
}

impl Write for Wire {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match &mut self.tls {
            _ if bytes.is_empty() => Ok(0),
            Some(tls) => rustls::Stream::new(tls, &mut self.socket).write(bytes),
            None => self.socket.write(bytes),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        self.tls.as_mut().map_or(Ok(()), |tls| rustls::Stream::new(tls, &mut self.socket).flush())
    }
}
