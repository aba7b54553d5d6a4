//! Hostile bytes in, [`Packet`] out: link layers, headers, and the capture filter.

pub mod filter;
pub mod link;
mod packet;

#[cfg(test)]
pub(crate) mod tests;

pub use packet::{Ignored, Packet, Transport, parse};
