//! The connection to a store: a socket, TLS where that is wanted, and the store's words.

use std::io::{self, Read, Write};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};
use std::time::Duration;

use nix::sys::socket::{MsgFlags, recv};
use redis::{Cmd, FromRedisValue, Parser, Value};
use rustls::ClientConnection;
use socket2::Socket;
use zeroize::Zeroizing;

use super::talk::read;
use crate::proto::escape::escape;

/// How long the store may owe a reply and say nothing.
pub(super) const SILENCE: Duration = Duration::from_secs(3);

/// The reason why a store is not to be had, or no longer.
#[derive(Debug, thiserror::Error)]
pub(super) enum StoreError {
    #[error("cannot be reached: {0}")]
    Unreachable(#[from] io::Error),
    #[error("the connection ended: {0}")]
    Ended(String),
    #[error("TLS fails: {0}: where its certificate is right, name who has signed it as 'ca_file'")]
    Tls(#[from] rustls::Error),
    #[error("{0}")]
    Unfit(String),
    #[error("it says: {code} {text}{}", remedy(code))]
    Refusal { code: String, text: String },
    #[error(
        "it is a replica, which takes nothing: name the primary, or the Sentinels that know it"
    )]
    Replica,
    #[error("it has not answered for {} s", SILENCE.as_secs())]
    Silent,
    #[error("what it says is no reply of Valkey or Redis to what was asked: {0}")]
    Nonsense(String),
    /// Another process may try, which is still root.
    #[error("the connection that was made as root is spent")]
    Spent,
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
            Self::Tls(_) | Self::Unfit(_) | Self::Nonsense(_) => true,
            _ => false,
        };
        Duration::from_millis(if is_settled { 2000 } else { 200 })
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
    socket: ReplySocket,
    tls: Option<ClientConnection>,
    parser: Parser,
}

impl Connection {
    /// One that waits for a reply, until it is to [wait no more](Self::wait_no_more).
    pub(super) fn new(socket: Socket, tls: Option<ClientConnection>) -> io::Result<Self> {
        socket.set_read_timeout(Some(SILENCE))?;
        socket.set_write_timeout(Some(SILENCE))?;
        let socket = ReplySocket { socket, flags: MsgFlags::empty() };
        Ok(Self { socket, tls, parser: Parser::new() })
    }

    pub(super) fn wait_no_more(&mut self) {
        self.socket.flags = MsgFlags::MSG_DONTWAIT;
    }

    /// Asks, and waits for what the reply means.
    pub(super) fn ask<T: FromRedisValue>(&mut self, command: &Cmd) -> Result<T, StoreError> {
        self.send(&Zeroizing::new(command.get_packed_command()))?;
        read(self.next()?.ok_or(StoreError::Silent)?)
    }

    /// The next reply, if all of it has come.
    pub(super) fn next(&mut self) -> Result<Option<Value>, StoreError> {
        let reply = match &mut self.tls {
            Some(tls) => self.parser.parse_value(rustls::Stream::new(tls, &mut self.socket)),
            None => self.parser.parse_value(&mut self.socket),
        };
        match reply {
            Ok(reply) => Ok(Some(reply)),
            Err(error) if error.is_timeout() => Ok(None),
            Err(error) if error.is_io_error() => Err(StoreError::Ended(error.to_string())),
            Err(error) => Err(StoreError::Nonsense(escape(&error.to_string()))),
        }
    }

    /// Sends all of it: a store takes what it is told, whatever it has to say itself.
    pub(super) fn send(&mut self, bytes: &[u8]) -> Result<(), StoreError> {
        let sent = match &mut self.tls {
            Some(tls) => {
                let mut stream = rustls::Stream::new(tls, &mut self.socket);
                stream.write_all(bytes).and_then(|()| stream.flush())
            }
            None => self.socket.write_all(bytes),
        };
        sent.map_err(StoreError::of_io)
    }
}

impl AsFd for Connection {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.socket.as_fd()
    }
}

/// A socket that can be read without waiting.
struct ReplySocket {
    socket: Socket,
    flags: MsgFlags,
}

impl Read for ReplySocket {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        Ok(recv(self.socket.as_raw_fd(), buffer, self.flags)?)
    }
}

impl Write for ReplySocket {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.socket.write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
