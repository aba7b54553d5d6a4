//! The local syslog daemon, told a datagram a line; nobody is ever waited for.

use std::io;
use std::os::unix::net::UnixDatagram;
use std::path::PathBuf;
use std::process;

use ::syslog::Facility;
use jiff::Zoned;

use super::sink::{Sink, severity};
use crate::config::LogLevel;

/// The sink that writes RFC 3164 lines to `/dev/log`.
///
/// A daemon that is away is looked for again at each line; one that does not read loses lines.
pub(super) struct Syslog {
    facility: Facility,
    path: PathBuf,
    socket: Option<UnixDatagram>,
}

impl Syslog {
    pub(super) fn new(facility: Facility) -> Self {
        Self { facility, path: "/dev/log".into(), socket: None }
    }

    fn send(&mut self, packet: &[u8]) -> io::Result<()> {
        if let Some(socket) = &self.socket {
            match socket.send(packet) {
                Ok(_) => return Ok(()),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Err(error),
                // The daemon was restarted: its new socket has the old name.
                Err(_) => self.socket = None,
            }
        }
        let socket = UnixDatagram::unbound()?;
        socket.set_nonblocking(true)?;
        socket.connect(&self.path)?;
        socket.send(packet)?;
        self.socket = Some(socket);
        Ok(())
    }
}

impl Sink for Syslog {
    /// With local time: daemons believe the stamp and expect that.
    fn put(&mut self, level: LogLevel, time: &Zoned, line: &str) -> io::Result<()> {
        let priority = self.facility as u8 | severity(level);
        let stamp = time.strftime("%b %e %H:%M:%S");
        let pid = process::id();
        self.send(format!("<{priority}>{stamp} knockd[{pid}]: {line}").as_bytes())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(path: PathBuf) -> Syslog {
        Syslog { path, ..Syslog::new(Facility::LOG_DAEMON) }
    }

    fn received(socket: &UnixDatagram) -> String {
        let mut buffer = [0; 1024];
        let count = socket.recv(&mut buffer).unwrap();
        String::from_utf8(buffer[..count].to_vec()).unwrap()
    }

    fn put(syslog: &mut Syslog, line: &str) -> io::Result<()> {
        let time = jiff::Timestamp::from_second(1_700_000_000).unwrap();
        syslog.put(LogLevel::Info, &time.to_zoned(jiff::tz::TimeZone::UTC), line)
    }

    #[test]
    fn a_line_is_one_rfc_3164_datagram() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("log");
        let daemon = UnixDatagram::bind(&path).unwrap();
        put(&mut at(path), "ssh: OPEN SESAME").unwrap();
        let expected = format!("<30>Nov 14 22:13:20 knockd[{}]: ssh: OPEN SESAME", process::id());
        assert_eq!(received(&daemon), expected);
    }

    #[test]
    fn a_restarted_daemon_is_found_again() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("log");
        let mut syslog = at(path.clone());
        let first = UnixDatagram::bind(&path).unwrap();
        put(&mut syslog, "one").unwrap();
        drop(first);
        std::fs::remove_file(&path).unwrap();
        assert!(put(&mut syslog, "lost").is_err());
        let second = UnixDatagram::bind(&path).unwrap();
        put(&mut syslog, "two").unwrap();
        assert!(received(&second).ends_with("two"));
    }

    #[test]
    fn a_daemon_that_does_not_read_delays_nobody() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("log");
        let _stalled = UnixDatagram::bind(&path).unwrap();
        let mut syslog = at(path);
        assert!((0..10_000).any(|_| put(&mut syslog, "flood").is_err()));
    }
}
