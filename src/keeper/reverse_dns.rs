//! Reverse look-ups of addresses, on a thread that nobody waits for.

use std::net::IpAddr;
use std::sync::mpsc::{SyncSender, sync_channel};
use std::thread;

use tracing::info;

/// Looks names up one after the other, on a thread of its own.
pub(super) struct ReverseDns {
    queue: SyncSender<IpAddr>,
}

/// How many look-ups may wait; a name is a comfort, so more are left out.
const WAITING: usize = 64;

impl ReverseDns {
    /// # Errors
    /// When no thread can be started.
    pub(super) fn start() -> std::io::Result<Self> {
        let (queue, addresses) = sync_channel::<IpAddr>(WAITING);
        thread::Builder::new().name("names".to_owned()).spawn(move || {
            for address in addresses {
                if let Ok(name) = dns_lookup::lookup_addr(&address)
                    && name != address.to_string()
                {
                    info!(source = %address, name, "is {name}");
                }
            }
        })?;
        Ok(Self { queue })
    }

    /// Logs the name of an address when it is known.
    pub(super) fn look_up(&self, address: IpAddr) {
        // Full means that the name server does not keep up.
        let _ = self.queue.try_send(address);
    }
}
