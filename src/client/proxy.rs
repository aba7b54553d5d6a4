//! A connection as a plain pipe: standard input goes to it, what it says to standard output.

use std::fs::File;
use std::io::{self, Read, Write};
use std::net::{Shutdown, TcpStream};
use std::ops::ControlFlow;
use std::thread;

use socket2::SockRef;

use super::platform;

/// The reason why a connection ended before both sides were done.
#[derive(Debug, thiserror::Error)]
pub(super) enum ProxyError {
    #[error("the connection broke: {0}")]
    Connection(#[source] io::Error),
    #[error("standard input or output cannot be used: {0}")]
    Standard(#[source] io::Error),
    #[cfg(unix)]
    #[error("--fdpass wants a socket as standard output: write 'ProxyUseFdpass yes' for ssh")]
    NoSocket,
}

/// Hands a connection to the other end of standard output, as ssh wants it: with one byte.
///
/// # Errors
/// [`ProxyError::Standard`] if it does not take it.
pub(super) fn pass(stream: &TcpStream) -> Result<(), ProxyError> {
    // How it ends is the receiver's affair.
    SockRef::from(stream).set_linger(None).map_err(ProxyError::Connection)?;
    platform::pass(stream).map_err(ProxyError::Standard)
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
    let (input, output) = platform::standard().map_err(ProxyError::Standard)?;
    let up = thread::spawn(move || upwards(input, &outgoing));
    if downwards(stream, output)?.is_continue() {
        let _ = up.join();
    }
    Ok(())
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
    platform::close_output().map_err(ProxyError::Standard)?;
    Ok(ControlFlow::Continue(()))
}
