//! Gateways that share a real store: what one opens, uses up or closes, the others do; and what the
//! store, or whoever owns it, can do about that.
//!
//! Needs root and redis-server; says loudly what it skips where it cannot run.

mod forged;
mod grants;
mod loss;
mod processes;
mod proofs;
mod told;
