//! The platform of Windows.

use std::env;
use std::fs::File;
use std::io;
use std::net::TcpStream;
use std::os::windows::io::AsHandle;
use std::path::{Path, PathBuf};

use windows_sys::Win32::Networking::WinSock::{WSAEACCES, WSAEAFNOSUPPORT, WSAEWOULDBLOCK};
use zeroize::Zeroizing;

use crate::client::cli::UsageError;
use crate::client::error::ClientError;
use crate::config::Diagnostic;
use crate::sys::access::{READ, WRITE};
use crate::sys::windows::access;
pub(crate) use crate::sys::windows::{close_output, lock};

/// The numbers of errors that [`io::ErrorKind`] has no name for.
pub(crate) const REFUSED_BY_FIREWALL: i32 = WSAEACCES;
pub(crate) const NO_SUCH_FAMILY: i32 = WSAEAFNOSUPPORT;
/// No error here: there are no interfaces to name.
pub(crate) const NO_SUCH_INTERFACE: i32 = 0;
pub(crate) const UNDER_WAY: i32 = WSAEWOULDBLOCK;
pub(crate) const PORT_DENIED: i32 = WSAEACCES;
/// What that means of a port.
pub(crate) const WHO_HAS_PORT: &str = "another program, or Windows, keeps it for itself";

/// The directory below which users keep their settings.
pub(crate) fn config_directory() -> Option<PathBuf> {
    env::var_os("APPDATA").map(PathBuf::from)
}

/// The name of the user who runs the program.
pub(crate) fn user_name() -> Option<String> {
    env::var("USERNAME").ok()
}

/// The command that keeps others from reading a file, where they can.
pub(crate) fn others_read(path: &Path, file: &File) -> io::Result<Option<String>> {
    Ok(access(file)?.other_than_owner(READ | WRITE).map(|other| remedy(path, &other)))
}

/// The error that others than administrators and the user could have written a file.
pub(crate) fn others_write(path: &Path, file: &File) -> io::Result<Option<Diagnostic>> {
    let error = |other: String| {
        let message = format!("others than its owner can write it: {other}");
        Diagnostic::file(path, message).help(format!("run: {}", remedy(path, &other)))
    };
    Ok(access(file)?.other_than_owner(WRITE).map(error))
}

fn remedy(path: &Path, other: &str) -> String {
    let (path, user) = (path.display(), user_name().unwrap_or_else(|| "%USERNAME%".to_owned()));
    format!(r#"icacls "{path}" /inheritance:r /grant:r "{user}:F" /remove:g *{other}"#)
}

/// Refuses to hand over a connection.
pub(crate) fn check_passing() -> Result<(), ClientError> {
    let instead = "leave it out: ssh is the same with --proxy alone";
    Err(UsageError::Unsupported("fdpass", instead).into())
}

/// Hands over nothing, see [`check_passing`].
pub(crate) fn pass(_: &TcpStream) -> io::Result<()> {
    Err(io::ErrorKind::Unsupported.into())
}

/// Standard input and output, without what the standard library keeps in between.
pub(crate) fn standard() -> io::Result<(File, File)> {
    let duplicate = |it: &dyn AsHandle| it.as_handle().try_clone_to_owned().map(File::from);
    Ok((duplicate(&io::stdin())?, duplicate(&io::stdout())?))
}

/// The terminal, to read from and to write to, whatever standard input and output are.
pub(crate) fn terminal() -> io::Result<(File, File)> {
    Ok((File::open("CONIN$")?, File::options().write(true).open("CONOUT$")?))
}

/// Asks at the terminal, which does not show the answer.
pub(crate) fn prompt_hidden(prompt: &str) -> io::Result<Zeroizing<String>> {
    rpassword::prompt_password(prompt).map(Zeroizing::new)
}

/// What has been typed and was not read is the shell's.
pub(crate) const fn drop_typed() {}

/// Hears of Ctrl-C.
pub(crate) fn hear_end(tell: impl Fn(String) + Send + 'static) {
    // Otherwise it ends the program at once.
    let _ = ctrlc::set_handler(move || tell("Ctrl-C".to_owned()));
}
