//! Descriptors that pass between processes, and waits for them.

use std::fs::File;
use std::io::{self, Read, Seek, Write};
use std::os::fd::{AsFd, BorrowedFd, FromRawFd, OwnedFd};
use std::time::Duration;

use nix::errno::Errno;
use nix::fcntl::{FcntlArg, FdFlag, OFlag, SealFlag, fcntl};
use nix::poll::{PollFd, PollFlags, ppoll};
use nix::sys::memfd::{MFdFlags, memfd_create};
use nix::sys::socket::{AddressFamily, SockFlag, SockType, setsockopt, socketpair};
use nix::sys::time::TimeSpec;
use nix::{libc, setsockopt_impl, sockopt_impl};
use zeroize::Zeroizing;

use super::clock;

/// Of asm-generic/socket.h.
const SO_PASSRIGHTS: libc::c_int = 83;
sockopt_impl!(PassRights, SetOnly, libc::SOL_SOCKET, SO_PASSRIGHTS, bool);

/// Errors of a read that says nothing about the next one.
const AGAIN: [io::ErrorKind; 2] = [io::ErrorKind::Interrupted, io::ErrorKind::WouldBlock];

/// Puts `bytes` into a file that lives in memory and can never change again.
///
/// # Errors
/// When the kernel refuses memory or seals.
pub fn sealed(name: &str, bytes: &[u8]) -> io::Result<OwnedFd> {
    let fd = memfd_create(name, MFdFlags::MFD_CLOEXEC | MFdFlags::MFD_ALLOW_SEALING)?;
    let mut file = File::from(fd);
    file.write_all(bytes)?;
    file.rewind()?;
    fcntl(&file, FcntlArg::F_ADD_SEALS(all_seals()))?;
    Ok(file.into())
}

/// Reads what [`sealed`] has written.
///
/// # Errors
/// When the file is not sealed: then whoever holds it could still change it.
pub fn read_sealed(fd: OwnedFd) -> io::Result<Zeroizing<Vec<u8>>> {
    if !SealFlag::from_bits_truncate(fcntl(&fd, FcntlArg::F_GET_SEALS)?).contains(all_seals()) {
        return Err(io::Error::other("the configuration is not sealed"));
    }
    let mut file = File::from(fd);
    file.rewind()?;
    // At its full length: what outgrows its place leaves a copy there.
    let length = usize::try_from(file.metadata()?.len()).map_err(io::Error::other)?;
    let mut bytes = Zeroizing::new(vec![0; length]);
    file.read_exact(&mut bytes)?;
    Ok(bytes)
}

fn all_seals() -> SealFlag {
    SealFlag::F_SEAL_WRITE | SealFlag::F_SEAL_GROW | SealFlag::F_SEAL_SHRINK | SealFlag::F_SEAL_SEAL
}

/// Two ends of a channel that keeps frames apart and never blocks. No descriptor comes through it,
/// where the kernel knows how to refuse them (Linux 6.16 and later): to close one can take as long
/// as its sender likes (`SO_LINGER`), and it would be closed by whoever receives it.
///
/// # Errors
/// When no descriptors are left.
pub fn frame_channel() -> io::Result<(OwnedFd, OwnedFd)> {
    let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
    let (one, other) = socketpair(AddressFamily::Unix, SockType::SeqPacket, None, flags)?;
    for end in [&one, &other] {
        // An older kernel knows no such option.
        let _ = setsockopt(end, PassRights, &false);
    }
    Ok((one, other))
}

/// A pipe whose reading end does not block; both ends close on exec.
///
/// # Errors
/// When no descriptors are left.
pub fn output_pipe() -> io::Result<(OwnedFd, OwnedFd)> {
    let (read, write) = nix::unistd::pipe2(OFlag::O_CLOEXEC)?;
    fcntl(&read, FcntlArg::F_SETFL(OFlag::O_NONBLOCK))?;
    Ok((read, write))
}

/// A pipe whose writing end does not block; both ends close on exec.
///
/// # Errors
/// When no descriptors are left.
pub fn input_pipe() -> io::Result<(OwnedFd, OwnedFd)> {
    let (read, write) = nix::unistd::pipe2(OFlag::O_CLOEXEC)?;
    fcntl(&write, FcntlArg::F_SETFL(OFlag::O_NONBLOCK))?;
    Ok((read, write))
}

/// Reads from a pipe that does not block until its other end is closed, and keeps the first `most`
/// bytes. `None`: it was not closed within `limit`.
///
/// # Errors
/// When it cannot be read.
pub fn read_within(pipe: &mut File, limit: Duration, most: usize) -> io::Result<Option<Vec<u8>>> {
    let begun = clock::now().monotonic;
    let mut kept = Vec::new();
    let mut buffer = [0; 4096];
    loop {
        let Some(left) = limit.checked_sub(clock::now().monotonic.since(begun)) else {
            return Ok(None);
        };
        if !wait(&[pipe.as_fd()], Some(left))?.contains(&true) {
            continue;
        }
        match pipe.read(&mut buffer) {
            Ok(0) => return Ok(Some(kept)),
            Ok(count) => {
                let room = most.saturating_sub(kept.len());
                kept.extend(buffer.iter().take(count.min(room)));
            }
            Err(error) if AGAIN.contains(&error.kind()) => {}
            Err(error) => return Err(error),
        }
    }
}

/// Takes over a descriptor that the parent process handed down under a fixed number.
///
/// # Errors
/// When nothing is open under that number.
pub fn inherited(number: i32) -> io::Result<OwnedFd> {
    // SAFETY: the number is only looked at here, and owned by nobody else: this runs once, in a
    // fresh process, before anything has been opened.
    let fd = unsafe {
        fcntl(BorrowedFd::borrow_raw(number), FcntlArg::F_GETFD)?;
        OwnedFd::from_raw_fd(number)
    };
    fcntl(&fd, FcntlArg::F_SETFD(FdFlag::FD_CLOEXEC))?;
    Ok(fd)
}

/// Waits until one of the descriptors is readable or closed, or until `timeout` is over.
///
/// Returns which of them are; none after a signal.
///
/// # Errors
/// When the kernel has no memory.
pub fn wait(fds: &[BorrowedFd<'_>], timeout: Option<Duration>) -> io::Result<Vec<bool>> {
    let mut polled: Vec<_> =
        fds.iter().map(|fd| PollFd::new(fd.as_fd(), PollFlags::POLLIN)).collect();
    poll(&mut polled, timeout)?;
    Ok(polled.iter().map(|fd| fd.any().unwrap_or(true)).collect())
}

/// Waits until one of the descriptors is as wanted or closed, or until `timeout` is over; each then
/// says what it is, none after a signal.
///
/// # Errors
/// When the kernel has no memory.
pub fn poll(fds: &mut [PollFd<'_>], timeout: Option<Duration>) -> io::Result<()> {
    match ppoll(fds, timeout.map(TimeSpec::from), None) {
        Ok(_) | Err(Errno::EINTR) => Ok(()),
        Err(errno) => Err(errno.into()),
    }
}

#[cfg(test)]
mod tests {
    use std::os::fd::AsRawFd;

    use nix::sys::socket::{ControlMessage, MsgFlags, sendmsg};

    use super::*;

    #[test]
    fn a_sealed_file_cannot_change() {
        let fd = sealed("test", b"one").unwrap();
        let mut file = File::from(fd.try_clone().unwrap());
        assert!(file.write_all(b"two").is_err());
        assert!(file.set_len(0).is_err());
        assert_eq!(*read_sealed(fd).unwrap(), b"one");
    }

    #[test]
    fn no_descriptor_comes_through_a_channel() {
        let (one, other) = frame_channel().unwrap();
        let rights = [one.as_raw_fd()];
        let rights = [ControlMessage::ScmRights(&rights)];
        let bytes = [io::IoSlice::new(b"frame")];
        let sent = sendmsg::<()>(one.as_raw_fd(), &bytes, &rights, MsgFlags::empty(), None);
        let release = nix::sys::utsname::uname().unwrap().release().to_string_lossy().into_owned();
        let mut numbers = release.split(['.', '-']).map(|number| number.parse::<u32>());
        let release = (numbers.next().unwrap().unwrap(), numbers.next().unwrap().unwrap());
        if release < (6, 16) {
            eprintln!(
                "SKIPPED: no descriptor comes through a channel: Linux {release:?} has no SO_PASSRIGHTS"
            );
        } else {
            assert_eq!(sent, Err(Errno::EPERM));
        }
        drop(other);
    }

    #[test]
    fn a_file_that_could_change_is_refused() {
        let fd = memfd_create("test", MFdFlags::MFD_ALLOW_SEALING).unwrap();
        assert!(read_sealed(fd).is_err());
    }

    #[test]
    fn a_pipe_is_read_to_its_end_and_no_more_is_kept_than_asked_for() {
        let (read, write) = output_pipe().unwrap();
        let mut write = File::from(write);
        write.write_all(b"12345").unwrap();
        drop(write);
        let kept = read_within(&mut read.into(), Duration::from_secs(10), 3).unwrap();
        assert_eq!(kept.unwrap(), b"123");
    }

    #[test]
    fn a_pipe_that_nobody_closes_is_given_up() {
        let (read, _write) = output_pipe().unwrap();
        let kept = read_within(&mut read.into(), Duration::from_millis(1), 3).unwrap();
        assert_eq!(kept, None);
    }

    #[test]
    fn waiting_tells_which_descriptor_is_readable() {
        let (quiet, _keep) = output_pipe().unwrap();
        let (read, write) = output_pipe().unwrap();
        File::from(write).write_all(b"x").unwrap();
        let ready = wait(&[quiet.as_fd(), read.as_fd()], None).unwrap();
        assert_eq!(ready, [false, true]);
    }
}
