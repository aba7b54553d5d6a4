//! The platform of every Unix; what Linux alone has is told apart in it.

use std::fs::{self, File};
use std::io::{self, IoSlice};
use std::net::TcpStream;
use std::os::fd::{AsFd, AsRawFd};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::Duration;

use nix::libc;
use nix::sys::signal::{SigSet, Signal};
use nix::sys::socket::{ControlMessage, MsgFlags, sendmsg};
use nix::sys::termios::{FlushArg, tcflush};
use nix::unistd::{User, dup2_stdout, geteuid};
use socket2::SockRef;
use zeroize::Zeroizing;

use crate::client::error::ClientError;
use crate::client::proxy::ProxyError;
use crate::config::{Diagnostic, OTHERS_WRITE, unsafe_to_use};

/// The numbers of errors that [`io::ErrorKind`] has no name for.
pub(crate) const REFUSED_BY_FIREWALL: i32 = libc::EPERM;
pub(crate) const NO_SUCH_FAMILY: i32 = libc::EAFNOSUPPORT;
pub(crate) const NO_SUCH_INTERFACE: i32 = libc::ENODEV;
pub(crate) const UNDER_WAY: i32 = libc::EINPROGRESS;
pub(crate) const PORT_DENIED: i32 = libc::EACCES;
/// What that means of a port.
pub(crate) const WHO_HAS_PORT: &str = "ports below 1024 are root's";

/// The directory below which users keep their settings.
pub(crate) fn config_directory() -> Option<PathBuf> {
    Some(std::env::home_dir()?.join(".config"))
}

/// The name of the user who runs the program.
pub(crate) fn user_name() -> Option<String> {
    User::from_uid(geteuid()).ok().flatten().map(|user| user.name)
}

/// The command that keeps others from reading a file, where they can.
pub(crate) fn others_read(path: &Path, file: &File) -> io::Result<Option<String>> {
    let is_open = file.metadata()?.mode() & 0o077 != 0;
    Ok(is_open.then(|| format!("chmod 600 {}", path.display())))
}

/// The error that others than root and the user could have written a file.
pub(crate) fn others_write(path: &Path, file: &File) -> io::Result<Option<Diagnostic>> {
    Ok(unsafe_to_use(path, &file.metadata()?, None, OTHERS_WRITE, ""))
}

/// Waits until no other program has this file locked, and locks it until it is closed.
pub(crate) fn lock(file: &File) -> io::Result<()> {
    file.lock()
}

/// Lets a socket send through this interface alone.
#[cfg(any(target_os = "linux", target_os = "android"))]
pub(crate) fn bind_device(socket: &socket2::Socket, interface: &str) -> io::Result<()> {
    socket.bind_device(Some(interface.as_bytes()))
}

/// Checks that standard output can take a connection.
pub(crate) fn check_passing() -> Result<(), ClientError> {
    let is_socket = SockRef::from(&io::stdout()).local_addr().is_ok_and(|it| it.is_unix());
    if is_socket { Ok(()) } else { Err(ProxyError::NoSocket.into()) }
}

/// Hands a connection to the other end of standard output, as ssh wants it: with one byte.
pub(crate) fn pass(stream: &TcpStream) -> io::Result<()> {
    let (fds, byte) = ([stream.as_raw_fd()], [IoSlice::new(&[0])]);
    let rights = [ControlMessage::ScmRights(&fds)];
    sendmsg::<()>(io::stdout().as_raw_fd(), &byte, &rights, MsgFlags::empty(), None)?;
    Ok(())
}

/// Standard input and output, without what the standard library keeps in between.
pub(crate) fn standard() -> io::Result<(File, File)> {
    let duplicate = |it: &dyn AsFd| it.as_fd().try_clone_to_owned().map(File::from);
    Ok((duplicate(&io::stdin())?, duplicate(&io::stdout())?))
}

/// The terminal, to read from and to write to, whatever standard input and output are.
pub(crate) fn terminal() -> io::Result<(File, File)> {
    let terminal = File::options().read(true).write(true).open("/dev/tty")?;
    Ok((terminal.try_clone()?, terminal))
}

/// Asks at the terminal, which does not show the answer.
pub(crate) fn prompt_hidden(prompt: &str) -> io::Result<Zeroizing<String>> {
    // Ctrl-C would end the program before the terminal shows again what is typed.
    let interrupt = SigSet::from(Signal::SIGINT);
    interrupt.thread_block()?;
    let answer = rpassword::prompt_password(prompt).map(Zeroizing::new);
    interrupt.thread_unblock()?;
    answer
}

/// Drops what has been typed or pasted at the terminal and was not read.
pub(crate) fn drop_typed() {
    // All that was pasted takes a moment to come.
    thread::sleep(Duration::from_millis(100));
    let _ = tcflush(io::stdin(), FlushArg::TCIFLUSH);
}

/// Closes standard output. Its number must not be given out again: something else would be written
/// there.
pub(crate) fn close_output() -> io::Result<()> {
    Ok(dup2_stdout(File::options().write(true).open("/dev/null")?)?)
}

/// Hears of the first signal that ends programs, but for those that whoever started this one has had
/// it ignore, as nohup(1) does.
pub(crate) fn hear_end(tell: impl Fn(String) + Send + 'static) {
    // Elsewhere than on Linux an ignored signal is not heard of anyway.
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    let ignored = status.lines().find_map(|line| line.strip_prefix("SigIgn:"));
    let ignored = ignored.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok()).unwrap_or(0);
    let ending = [Signal::SIGINT, Signal::SIGTERM, Signal::SIGHUP].into_iter();
    let signals: SigSet = ending.filter(|it| ignored >> (*it as u32 - 1) & 1 == 0).collect();
    // Otherwise they end it at once.
    if signals.thread_block().is_ok() {
        thread::spawn(move || signals.wait().map(|signal| tell(signal.to_string())));
    }
}

/// Hears of changes of the network; where the system does not tell, the client finds them a little
/// later.
#[cfg(any(target_os = "linux", target_os = "android"))]
pub(crate) fn hear_changes(tell: impl Fn() + Send + 'static) {
    use crate::sys::changes::{ADDRESSES, Changes, LINKS, ROUTES};
    use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

    let Ok(changes) = Changes::follow(LINKS | ADDRESSES | ROUTES) else { return };
    thread::spawn(move || {
        let mut readable = [PollFd::new(changes.as_fd(), PollFlags::POLLIN)];
        while poll(&mut readable, PollTimeout::NONE).is_ok() {
            if changes.have_come() {
                tell();
            }
        }
    });
}
