//! The addresses of this host, for the keeper and for its watchers, which cannot ask.

use std::collections::BTreeSet;
use std::io;
use std::net::IpAddr;
use std::os::fd::{AsFd, BorrowedFd};
use std::time::Duration;

use crate::engine::Local;
use crate::sys::changes::{ADDRESSES, Changes};
use crate::sys::{clock, host};
use crate::time::Monotonic;

/// How many times as long as a look took there is none after it, and how long at most: a host may
/// have thousands of addresses, and changes may come by the thousand.
const REST: u32 = 3;
const LONGEST_REST: Duration = Duration::from_millis(20);

/// The addresses of this host at the last look.
pub(super) struct Home {
    changes: Changes,
    pub(super) addresses: BTreeSet<IpAddr>,
    /// The same, as the engine's rules want it.
    pub(super) local: Local,
    /// Whether something has changed since.
    is_stale: bool,
    rests_until: Monotonic,
}

impl Home {
    /// Follows them from now on.
    ///
    /// # Errors
    /// When the kernel does not tell.
    pub(super) fn follow() -> io::Result<Self> {
        let changes = Changes::follow(ADDRESSES)?;
        let addresses = host::addresses()?;
        let local = Local::Addresses(addresses.clone());
        Ok(Self { changes, addresses, local, is_stale: false, rests_until: Monotonic::ZERO })
    }

    /// Looks again, where something has changed and it is time to. Whether they are others now.
    pub(super) fn poll(&mut self, now: Monotonic) -> bool {
        self.is_stale |= self.changes.have_come();
        if !self.is_stale || self.rests_until > now {
            return false;
        }
        let began = clock::now().monotonic;
        let looked = host::addresses();
        let ended = clock::now().monotonic;
        self.rests_until = ended + (ended.since(began) * REST).min(LONGEST_REST);
        // What the kernel does not tell now it may tell then.
        let Ok(addresses) = looked else { return false };
        self.is_stale = false;
        let have_changed = addresses != self.addresses;
        self.local = Local::Addresses(addresses.clone());
        self.addresses = addresses;
        have_changed
    }

    pub(super) fn next_deadline(&self) -> Option<Monotonic> {
        self.is_stale.then_some(self.rests_until)
    }

    pub(super) fn fd(&self) -> BorrowedFd<'_> {
        self.changes.as_fd()
    }
}
