//! Signals, as a descriptor to poll.

use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::net::UnixStream;

use signal_hook::consts::{SIGCHLD, SIGHUP, SIGINT, SIGTERM};
use signal_hook::iterator::backend::SignalDelivery;
use signal_hook::iterator::exfiltrator::SignalOnly;

/// The signals that have come since they were last taken.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Pending {
    pub stop: bool,
    pub reload: bool,
}

/// The catcher of SIGTERM, SIGINT, SIGHUP and SIGCHLD.
pub(crate) struct Signals(SignalDelivery<UnixStream, SignalOnly>);

impl Signals {
    /// Catches them from now on.
    ///
    /// # Errors
    /// When no descriptors are left.
    pub(crate) fn catch() -> io::Result<Self> {
        let (wake, sender) = UnixStream::pair()?;
        let signals = [SIGTERM, SIGINT, SIGHUP, SIGCHLD];
        SignalDelivery::with_pipe(wake, sender, SignalOnly, signals).map(Self)
    }

    /// Readable when one has come.
    pub(crate) fn fd(&self) -> BorrowedFd<'_> {
        self.0.get_read().as_fd()
    }

    /// What has come since the last call.
    pub(crate) fn take(&mut self) -> Pending {
        let mut pending = Pending::default();
        for signal in self.0.pending() {
            pending.stop |= [SIGTERM, SIGINT].contains(&signal);
            pending.reload |= signal == SIGHUP;
        }
        pending
    }
}
