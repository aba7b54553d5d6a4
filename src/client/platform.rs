//! What differs between systems: permissions of files, the numbers of errors, signals, standard
//! output. Outside of it the client is the same on all.

#[cfg(unix)]
mod unix;
#[cfg(windows)]
mod windows;

#[cfg(unix)]
pub(crate) use unix::*;
#[cfg(windows)]
pub(crate) use windows::*;

/// Whether packets can be sent through one interface alone.
pub(super) const HAS_INTERFACES: bool = cfg!(any(target_os = "linux", target_os = "android"));

/// Lets a socket send through nothing, see [`HAS_INTERFACES`].
#[cfg(not(any(target_os = "linux", target_os = "android")))]
pub(super) fn bind_device(_: &socket2::Socket, _: &str) -> std::io::Result<()> {
    Err(std::io::ErrorKind::Unsupported.into())
}

/// Hears of nothing: the client finds what has changed a little later.
#[cfg(not(any(target_os = "linux", target_os = "android")))]
pub(super) fn hear_changes(_: impl Fn() + Send + 'static) {}
