//! Link layers: where the network header starts.

/// The link types that knockd understands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum LinkType {
    Ethernet,
    Sll,
    Sll2,
    Raw,
    /// NULL and LOOP: four bytes of address family, in the byte order of whoever captured.
    Null,
}
