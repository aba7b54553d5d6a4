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
/// A daemon that is away is looked for again at each line; one that does not read loses lines, and
/// is told how many when it reads again.
pub(super) struct Syslog {
    facility: Facility,
    path: PathBuf,
    socket: Option<UnixDatagram>,
    dropped: u64,
}

impl Syslog {
    pub(super) fn new(facility: Facility) -> Self {
        Self { facility, path: "/dev/log".into(), socket: None, dropped: 0 }
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

    /// With local time: daemons believe the stamp and expect that.
    fn line(&self, level: LogLevel, time: &Zoned, line: &str) -> Vec<u8> {
        let priority = self.facility as u8 | severity(level);
        let stamp = time.strftime("%b %e %H:%M:%S");
        format!("<{priority}>{stamp} knockd[{}]: {line}", process::id()).into_bytes()
    }
}

impl Sink for Syslog {
    fn write(&mut self, level: LogLevel, time: &Zoned, line: &str) {
        if self.dropped > 0 {
            let text = format!("syslog: {} lines were dropped", self.dropped);
            if self.send(&self.line(LogLevel::Warning, time, &text)).is_ok() {
                self.dropped = 0;
            }
        }
        if self.send(&self.line(level, time, line)).is_err() {
            self.dropped += 1;
        }
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

    fn write(syslog: &mut Syslog, line: &str) {
        let time = jiff::Timestamp::from_second(1_700_000_000).unwrap();
        syslog.write(LogLevel::Info, &time.to_zoned(jiff::tz::TimeZone::UTC), line);
    }

    #[test]
    fn a_line_is_one_rfc_3164_datagram() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("log");
        let daemon = UnixDatagram::bind(&path).unwrap();
        write(&mut at(path), "ssh: OPEN SESAME");
        let expected = format!("<30>Nov 14 22:13:20 knockd[{}]: ssh: OPEN SESAME", process::id());
        assert_eq!(received(&daemon), expected);
    }

    #[test]
    fn a_restarted_daemon_is_found_again() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("log");
        let mut syslog = at(path.clone());
        let first = UnixDatagram::bind(&path).unwrap();
        write(&mut syslog, "one");
        drop(first);
        std::fs::remove_file(&path).unwrap();
        write(&mut syslog, "lost");
        let second = UnixDatagram::bind(&path).unwrap();
        write(&mut syslog, "two");
        assert!(received(&second).ends_with("syslog: 1 lines were dropped"));
        assert!(received(&second).ends_with("two"));
    }

    #[test]
    fn a_daemon_that_does_not_read_delays_nobody() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("log");
        let _stalled = UnixDatagram::bind(&path).unwrap();
        let mut syslog = at(path);
        for _ in 0..10_000 {
            write(&mut syslog, "flood");
        }
        assert!(syslog.dropped > 0);
    }
}
