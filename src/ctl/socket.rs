//! The client of the control socket: where a daemon listens, requests, replies.

use std::fs;
use std::io::{self, BufRead, BufReader, IsTerminal, Read, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::Duration;

use nix::poll::{PollFd, PollFlags};
use socket2::{Domain, SockAddr, Socket, Type};

use super::{Error, Target};
use crate::config::Directories;
use crate::config::load::{self, Report};
use crate::control::{self, Reply, Request};
use crate::sys::descriptors;

/// How long a daemon that is well takes to say something, at the very most.
const REPLY_TIMEOUT: Duration = Duration::from_secs(5);
/// How long it takes to change the firewall, to find room for a watcher and to start it, at the
/// very most.
const WATCHER_TIMEOUT: Duration = Duration::from_secs(60);
/// How long the commands of doors may keep it.
const COMMANDS_TIMEOUT: Duration = Duration::from_secs(120);

/// The time that an answer may take.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Timeout {
    Reply,
    /// The daemon may have commands to run first.
    Commands,
    /// The daemon may have to change the firewall and start a watcher first.
    Watcher,
    /// Things happen when they happen. Ends when nobody reads standard output any more.
    None,
}

/// Asks the daemon that may be running with this configuration, and gives what is answered.
///
/// As much of the configuration is read as can be: the daemon may have been started before a
/// mistake was made, and a member of its group may be allowed to ask it but not to read.
///
/// # Errors
/// [`Error::Configuration`] if the path was chosen and is not there: another daemon than the one
/// that was meant must not be asked.
pub(super) fn ask(target: &Target, request: &Request, timeout: Timeout) -> Result<Replies, Error> {
    let Target { config, pidfile, run_dir, .. } = target;
    let (mut settings, report) = load::settings(config, &target.options());
    if let Some(path) = pidfile {
        settings.pid_file.clone_from(path);
        settings.set_apart();
    }
    let missing = fs::metadata(config).is_err_and(|error| error.kind() == io::ErrorKind::NotFound);
    let doubt = match report {
        Some(report) if missing && *config != Path::new(control::CONFIG) => {
            return Err(report.into());
        }
        doubt => doubt,
    };
    let run_dir = run_dir.clone().unwrap_or_else(|| {
        let is_there = |directory: &Path| control::socket(directory).exists();
        own_or_system(&Directories::own(), settings.run_dir, config, is_there)
    });
    let path = control::socket(&run_dir);
    let mut line = serde_json::to_vec(request).map_err(io::Error::from)?;
    line.push(b'\n');
    match connect(&path).and_then(|mut stream| stream.write_all(&line).map(|()| stream)) {
        Ok(stream) => Ok(Replies { reader: BufReader::new(ReplyStream { stream, timeout }), path }),
        Err(error) => Err(explain(path, doubt, error)),
    }
}

/// The run directory of a daemon of the asking user's, or of root's, where no other is named: another
/// user than root may ask both. Of two that run the default configuration is root's.
fn own_or_system(
    own: &Directories,
    run_dir: PathBuf,
    config: &Path,
    is_there: impl Fn(&Path) -> bool,
) -> PathBuf {
    let Ok(below) = run_dir.strip_prefix(&own.run) else { return run_dir };
    let system = Directories::system().run.join(below);
    let is_roots = config == Path::new(control::CONFIG);
    match (is_there(&run_dir), is_there(&system)) {
        (false, true) => system,
        (false, false) | (true, true) if is_roots => system,
        _ => run_dir,
    }
}

fn connect(path: &Path) -> io::Result<UnixStream> {
    let socket = Socket::new(Domain::UNIX, Type::STREAM, None)?;
    // Of connecting, too: a daemon that hangs accepts nobody.
    socket.set_write_timeout(Some(REPLY_TIMEOUT))?;
    socket.connect(&SockAddr::unix(path)?)?;
    Ok(OwnedFd::from(socket).into())
}

fn explain(path: PathBuf, doubt: Option<Report>, source: io::Error) -> Error {
    match source.kind() {
        io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused => {
            Error::NotRunning { path, doubt }
        }
        io::ErrorKind::PermissionDenied => Error::NotAllowed { path },
        io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut => Error::Silent { path },
        io::ErrorKind::BrokenPipe | io::ErrorKind::ConnectionReset => Error::Ended,
        _ => Error::Unreachable { path, source },
    }
}

/// The replies of a daemon, one by one.
#[derive(Debug)]
pub(super) struct Replies {
    pub(super) reader: BufReader<ReplyStream>,
    pub(super) path: PathBuf,
}

impl Replies {
    /// The next reply, once it is there.
    ///
    /// # Errors
    /// [`Error::Refused`] where the daemon refuses; the others where no reply comes.
    pub(super) fn next(&mut self) -> Result<Reply, Error> {
        let mut line = Vec::new();
        self.reader.read_until(b'\n', &mut line).map_err(|error| match error.kind() {
            // A connection that is read has no broken pipe.
            io::ErrorKind::BrokenPipe => Error::Output(error),
            _ => explain(self.path.clone(), None, error),
        })?;
        if !line.ends_with(b"\n") {
            return Err(Error::Ended);
        }
        match serde_json::from_slice(&line).map_err(Error::NotUnderstood)? {
            Reply::Failed { why } => Err(Error::Refused(why)),
            reply => Ok(reply),
        }
    }

    /// The text of the last reply; those before are passed over.
    pub(super) fn done(mut self) -> Result<String, Error> {
        loop {
            if let Reply::Done { text } = self.next()? {
                return Ok(text);
            }
        }
    }
}

#[derive(Debug)]
pub(super) struct ReplyStream {
    pub(super) stream: UnixStream,
    pub(super) timeout: Timeout,
}

impl Read for ReplyStream {
    /// # Errors
    /// `TimedOut` where nothing comes, `BrokenPipe` where nobody reads standard output any more.
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let limit = match self.timeout {
            Timeout::Reply | Timeout::Commands => Some(REPLY_TIMEOUT),
            Timeout::Watcher => Some(WATCHER_TIMEOUT),
            Timeout::None => None,
        };
        let mut is_ready = self.is_ready_within(limit)?;
        if !is_ready && self.timeout == Timeout::Commands {
            if io::stderr().is_terminal() {
                let _ = writeln!(io::stderr(), "knockctl: waiting for the commands of the door");
            }
            is_ready = self.is_ready_within(Some(COMMANDS_TIMEOUT))?;
        }
        if is_ready { self.stream.read(buffer) } else { Err(io::ErrorKind::TimedOut.into()) }
    }
}

impl ReplyStream {
    fn is_ready_within(&self, limit: Option<Duration>) -> io::Result<bool> {
        let output = io::stdout();
        let mut fds = vec![PollFd::new(self.stream.as_fd(), PollFlags::POLLIN)];
        if self.timeout == Timeout::None {
            // Only whether anybody is left to read it.
            fds.push(PollFd::new(output.as_fd(), PollFlags::empty()));
        }
        descriptors::poll(&mut fds, limit)?;
        match fds.as_slice() {
            [reply, ..] if reply.any() != Some(false) => Ok(true),
            [_, output] if output.any() != Some(false) => Err(io::ErrorKind::BrokenPipe.into()),
            _ => Ok(limit.is_none()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn asked(run_dir: &str, config: &str, there: &[&str]) -> PathBuf {
        let own = Directories { state: "/home/a/knockd".into(), run: "/run/user/1/knockd".into() };
        let is_there = |directory: &Path| there.iter().any(|it| directory == Path::new(it));
        own_or_system(&own, run_dir.into(), Path::new(config), is_there)
    }

    #[test]
    fn whoever_runs_one_without_root_asks_it_and_others_ask_roots() {
        let (own, system) = ("/run/user/1/knockd", "/run/knockd");
        for config in ["/etc/knock.d", "/home/a/knock.yaml"] {
            assert_eq!(asked(own, config, &[own]), Path::new(own));
            assert_eq!(asked(own, config, &[system]), Path::new(system));
        }
        assert_eq!(asked(own, "/etc/knock.d", &[own, system]), Path::new(system));
        assert_eq!(asked(own, "/home/a/knock.yaml", &[own, system]), Path::new(own));
        assert_eq!(asked(own, "/etc/knock.d", &[]), Path::new(system));
        let [own, system] = [own, system].map(|directory| format!("{directory}/instances/x"));
        assert_eq!(asked(&own, "/etc/x.conf", &[&system]), Path::new(&system));
    }

    #[test]
    fn a_run_directory_that_is_named_is_the_one() {
        assert_eq!(asked("/srv/run", "/etc/knock.d", &["/run/knockd"]), Path::new("/srv/run"));
    }
}
