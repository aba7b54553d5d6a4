//! Signals, as a descriptor to poll.

use std::io::{self, Read};
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use signal_hook::consts::{SIGCHLD, SIGHUP, SIGINT, SIGTERM};

/// The signals that have come since they were last taken.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Pending {
    pub stop: bool,
    pub reload: bool,
}

/// The catcher of SIGTERM, SIGINT, SIGHUP and SIGCHLD; readable when one has come.
#[derive(derive_more::Deref)]
pub(crate) struct Signals {
    #[deref]
    wake: UnixStream,
    stop: Arc<AtomicBool>,
    reload: Arc<AtomicBool>,
}

impl Signals {
    /// Catches them from now on.
    ///
    /// # Errors
    /// When no descriptors are left.
    pub(crate) fn catch() -> io::Result<Self> {
        let (wake, sender) = UnixStream::pair()?;
        wake.set_nonblocking(true)?;
        sender.set_nonblocking(true)?;
        let signals = Self { wake, stop: Arc::default(), reload: Arc::default() };
        // The flag is set before the pipe is written, so whoever wakes sees it.
        let Self { stop, reload, .. } = &signals;
        for (signal, flag) in [(SIGTERM, stop), (SIGINT, stop), (SIGHUP, reload)] {
            signal_hook::flag::register(signal, Arc::clone(flag))?;
        }
        for signal in [SIGTERM, SIGINT, SIGHUP, SIGCHLD] {
            signal_hook::low_level::pipe::register(signal, sender.try_clone()?)?;
        }
        Ok(signals)
    }

    /// What has come since the last call.
    pub(crate) fn take(&mut self) -> Pending {
        let mut buffer = [0; 64];
        while matches!(self.wake.read(&mut buffer), Ok(count) if count > 0) {}
        Pending {
            stop: self.stop.swap(false, Ordering::SeqCst),
            reload: self.reload.swap(false, Ordering::SeqCst),
        }
    }
}
