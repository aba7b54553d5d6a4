//! What differs between systems: permissions of files, the numbers of errors, signals, standard
//! output. Outside of it the client is the same on all.

#[cfg(unix)]
mod unix;
#[cfg(windows)]
mod windows;

#[cfg(unix)]
pub(super) use unix::*;
#[cfg(windows)]
pub(super) use windows::*;
