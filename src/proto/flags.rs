//! TCP flags, and which of them a door asks for.

use serde::{Deserialize, Serialize};

/// The six classic TCP flags, as the bits of the header's fourteenth byte (RFC 9293, 3.1).
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize,
)]
pub struct TcpFlags(pub u8);

impl TcpFlags {
    pub const FIN: Self = Self(0x01);
    pub const SYN: Self = Self(0x02);
    pub const RST: Self = Self(0x04);
    pub const PSH: Self = Self(0x08);
    pub const ACK: Self = Self(0x10);
    pub const URG: Self = Self(0x20);
}

/// Which TCP packets a door sees: all of `set`, none of `clear`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct FlagTest {
    pub set: TcpFlags,
    pub clear: TcpFlags,
}

impl FlagTest {
    /// The default: the first packet of a connection.
    pub const SYN: Self = Self { set: TcpFlags::SYN, clear: TcpFlags::ACK };
    /// Every TCP packet, as classic knockd without `TCPFlags`.
    pub const ANY: Self = Self { set: TcpFlags(0), clear: TcpFlags(0) };

    #[must_use]
    pub const fn passes(self, flags: TcpFlags) -> bool {
        flags.0 & self.set.0 == self.set.0 && flags.0 & self.clear.0 == 0
    }
}
