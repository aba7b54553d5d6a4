//! The ground that client and daemon share: knocks, networks, ports, and proofs of who knocks.

pub(crate) mod duration;
pub(crate) mod escape;
pub(crate) mod family;
pub mod flags;
pub mod fleet;
pub mod fwknop;
pub(crate) mod interface;
pub mod knock;
mod latest;
pub mod link;
pub mod method;
pub(crate) mod name;
pub mod network;
pub mod open_ports;
pub mod port_range;
pub(crate) mod ports;
pub mod secret;
pub mod spa;
pub mod totp;
pub(crate) mod words;

pub use family::Family;
pub use flags::{FlagTest, TcpFlags};
pub use interface::InterfaceName;
pub use knock::{Knock, KnockError, Protocol};
pub(crate) use latest::push_latest;
pub use method::Method;
pub use network::{Network, NetworkError, Widths};
pub use open_ports::OpenPorts;
pub use port_range::PortRange;
#[cfg(feature = "daemon")]
pub(crate) use ports::PortSet;
pub use secret::Secret;
