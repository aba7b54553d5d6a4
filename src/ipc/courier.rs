//! Messages between keeper and courier: as long as what gateways tell each other.
//!
//! The courier is believed no more than the store: what it brings from other gateways is sealed, and
//! of a proof it can say at the worst that nobody has used it.

use std::io;
use std::os::fd::AsRawFd;

use nix::sys::socket::{MsgFlags, send};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use super::{Channel, Received};
use crate::config::{SandboxMode, Store};
use crate::proto::fleet::ItemId;
use crate::sys::privileges::Identity;
use crate::sys::sandbox::SandboxReport;
use crate::time::Wall;

/// The longest message, in bytes.
pub const LONGEST: usize = 16 << 10;

/// All that a courier will ever know: the keeper hands it over in a sealed file.
#[derive(Debug, Serialize, Deserialize)]
pub struct CourierAssignment {
    pub store: Store,
    pub identity: Identity,
    pub sandbox: SandboxMode,
}

/// A proof by the name that the store knows it by.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum SharedProof {
    /// Good once, and with it all that were stamped before.
    Highest { id: ItemId, stamp: Wall },
    /// Good once; forgotten then, if ever.
    Once { id: ItemId, until: Option<Wall> },
}

/// An order of the keeper to its courier.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum ToCourier {
    /// Use a proof up, and answer by this number, if by any, whether it was unused:
    /// [`FromCourier::Taken`].
    Take { ask: Option<u64>, proof: SharedProof },
    /// Tell all gateways, and keep it until then for those that come later, in the place of an
    /// earlier one of this name. Answered in order, by this number: [`FromCourier::Told`].
    Tell { number: u64, sealed: Vec<u8>, keep: Option<(ItemId, Wall)> },
    /// Say that this gateway is there; answered by what all said before, [`FromCourier::Beat`] each,
    /// and [`FromCourier::Store`].
    Beat { id: ItemId, sealed: Vec<u8> },
    /// Forget what was used ahead of this time.
    Lower { id: ItemId, stamp: Wall },
}

/// A message of a courier to its keeper.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum FromCourier {
    /// This much of its sandbox holds.
    Sandbox { report: SandboxReport },
    /// It has reached the store, whose clock says this. Next it tells what is kept there.
    Joined { clock: Wall },
    /// What a gateway tells, this one too.
    Entry { sealed: Vec<u8> },
    /// All that was kept has been told; what comes from here on happens now.
    Live,
    /// Whether the proof that was asked about was unused.
    Taken { ask: u64, is_new: bool },
    /// All gateways are told what has this number.
    Told { number: u64 },
    /// What a gateway says of itself.
    Beat { sealed: Vec<u8> },
    /// What the store's clock says, and how many entries and stamps it keeps.
    Store { clock: Wall, kept: u64, stamps: u64 },
}

impl Channel {
    /// Sends one message.
    ///
    /// # Errors
    /// `WouldBlock` when the other side does not keep up, `BrokenPipe` when it has ended.
    pub fn send_message(&self, message: &impl Serialize) -> io::Result<()> {
        let bytes = postcard::to_extend(message, Vec::new()).map_err(io::Error::other)?;
        send(self.0.as_raw_fd(), &bytes, MsgFlags::MSG_NOSIGNAL)?;
        Ok(())
    }

    /// The next message, if one is queued. Never waits: poll the descriptor.
    pub fn receive_message<T: DeserializeOwned>(&self) -> Received<T> {
        // One byte more, to tell a longer one.
        self.take::<{ LONGEST + 1 }, _>(|bytes| {
            let read = postcard::take_from_bytes(bytes).ok();
            let whole = read.filter(|(_, rest)| bytes.len() <= LONGEST && rest.is_empty());
            whole.map(|(message, _)| message)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sys::descriptors::frame_channel;

    #[test]
    fn a_message_arrives_as_it_was_sent_and_what_is_none_is_told_from_it() {
        let (one, other) = frame_channel().unwrap();
        let (one, other) = (Channel(one), Channel(other));
        let told = FromCourier::Entry { sealed: vec![7; 5000] };
        one.send_message(&told).unwrap();
        assert_eq!(other.receive_message(), Received::Frame(told));
        assert_eq!(other.receive_message::<FromCourier>(), Received::Nothing);
        for bytes in [vec![255; 10], vec![3, 0], vec![0; LONGEST + 1]] {
            send(one.0.as_raw_fd(), &bytes, MsgFlags::empty()).unwrap();
            assert_eq!(other.receive_message::<FromCourier>(), Received::Malformed);
        }
        drop(one);
        assert_eq!(other.receive_message::<FromCourier>(), Received::Closed);
    }
}
