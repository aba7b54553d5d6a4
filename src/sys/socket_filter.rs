//! The filter of a socket (socket(7)), which says what it hears.

use std::io;
use std::os::fd::AsFd;

use nix::sys::socket::setsockopt;
use nix::{libc, setsockopt_impl, sockopt_impl};

/// Keeps the filter of a socket as it is, for good: nobody can detach or replace it any more.
///
/// # Errors
/// When it is no socket.
pub(crate) fn lock(socket: &impl AsFd) -> io::Result<()> {
    Ok(setsockopt(socket, LockFilter, &true)?)
}

// Android's libc does not know it, and the client is built there.
sockopt_impl!(LockFilter, SetOnly, libc::SOL_SOCKET, libc::SO_LOCK_FILTER, bool);
