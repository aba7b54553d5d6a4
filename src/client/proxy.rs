//! A connection as a plain pipe: standard input goes to it, what it says to standard output.

use std::fs::File;
use std::io::{self, IoSlice, Read, Write};
use std::net::{Shutdown, TcpStream};
use std::ops::ControlFlow;
use std::os::fd::{AsFd, AsRawFd};
use std::thread;

use nix::sys::socket::{ControlMessage, MsgFlags, sendmsg};
use socket2::{Domain, SockRef};

/// The reason why a connection ended before both sides were done.
#[derive(Debug, thiserror::Error)]
pub(super) enum ProxyError {
    #[error("the connection broke: {0}")]
    Connection(#[source] io::Error),
    #[error("standard input or output cannot be used: {0}")]
    Standard(#[source] io::Error),
    #[error("--fdpass wants a socket as standard output: write 'ProxyUseFdpass yes' for ssh")]
    NoSocket,
}

/// Checks that standard output can take a connection.
///
/// # Errors
/// [`ProxyError::NoSocket`].
pub(super) fn check_passing() -> Result<(), ProxyError> {
    let domain = SockRef::from(&io::stdout()).domain();
    domain.ok().filter(|domain| *domain == Domain::UNIX).map(drop).ok_or(ProxyError::NoSocket)
}

/// Hands a connection to the other end of standard output, as ssh wants it: with one byte.
///
/// # Errors
/// [`ProxyError::Standard`] if it does not take it.
pub(super) fn pass(stream: &TcpStream) -> Result<(), ProxyError> {
    // How it ends is the receiver's affair.
    SockRef::from(stream).set_linger(None).map_err(ProxyError::Connection)?;
    let (fds, byte) = ([stream.as_raw_fd()], [IoSlice::new(&[0])]);
    let rights = [ControlMessage::ScmRights(&fds)];
    let to = io::stdout().as_raw_fd();
    let sent = sendmsg::<()>(to, &byte, &rights, MsgFlags::empty(), None);
    sent.map(drop).map_err(|errno| ProxyError::Standard(errno.into()))
}

/// Carries bytes both ways until both sides have said that they are done.
///
/// Either may stop talking and still listen: the end of standard input is the end of what the peer
/// hears, and the end of what the peer says closes standard output, each without ending the other.
/// A reader of standard output that has gone away ends everything.
///
/// # Errors
/// [`ProxyError`] if the connection is reset or an end of it cannot be used.
pub(super) fn pipe(stream: &TcpStream) -> Result<(), ProxyError> {
    // A key that is pressed shall not wait for the next.
    let _ = stream.set_nodelay(true);
    // What is still under way when the program ends shall arrive.
    SockRef::from(stream).set_linger(None).map_err(ProxyError::Connection)?;
    let outgoing = stream.try_clone().map_err(ProxyError::Connection)?;
    let input = duplicate(io::stdin()).map_err(ProxyError::Standard)?;
    let output = duplicate(io::stdout()).map_err(ProxyError::Standard)?;
    let up = thread::spawn(move || upwards(input, &outgoing));
    if downwards(stream, output)?.is_continue() {
        let _ = up.join();
    }
    Ok(())
}

fn duplicate(standard: impl AsFd) -> io::Result<File> {
    Ok(standard.as_fd().try_clone_to_owned()?.into())
}

fn upwards(mut input: File, mut stream: &TcpStream) {
    // What broke on either side ends this direction only: a connection that is gone shows, and is
    // told, where it is read.
    let _ = io::copy(&mut input, &mut stream);
    let _ = stream.shutdown(Shutdown::Write);
}

/// Whether the other direction goes on, or nobody is left to speak to.
fn downwards(mut stream: &TcpStream, mut output: File) -> Result<ControlFlow<()>, ProxyError> {
    let mut buffer = vec![0; 1 << 16];
    loop {
        match stream.read(&mut buffer) {
            Ok(0) => break,
            Ok(length) => match output.write_all(&buffer[..length]) {
                Err(error) if error.kind() == io::ErrorKind::BrokenPipe => {
                    return Ok(ControlFlow::Break(()));
                }
                written => written.map_err(ProxyError::Standard)?,
            },
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(ProxyError::Connection(error)),
        }
    }
    drop(output);
    close_standard_output().map_err(ProxyError::Standard)?;
    Ok(ControlFlow::Continue(()))
}

/// Its number must not be given out again: something else would be written there.
fn close_standard_output() -> io::Result<()> {
    Ok(nix::unistd::dup2_stdout(File::options().write(true).open("/dev/null")?)?)
}
