//! Files that one process at a time holds locked, each with the number of that process in it.

use std::fs::{File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use nix::errno::Errno;
use nix::fcntl::{Flock, FlockArg};
use nix::libc::O_NOFOLLOW;

/// The reason why a file is not locked.
#[derive(Debug)]
pub(crate) enum LockFileError {
    /// This process holds it.
    Held { pid: String },
    /// What could not be done with it.
    File { doing: &'static str, source: io::Error },
}

/// Locks a file, which is made with this mode where there is none, and writes this process's number
/// into it. The lock holds until it is dropped or the process ends, however it ends. Whether the
/// number could be written is told beside it: a full disk need not be in the way.
///
/// # Errors
/// [`LockFileError`].
pub(crate) fn lock(path: &Path, mode: u32) -> Result<(Flock<File>, io::Result<()>), LockFileError> {
    let failed = |doing| move |source| LockFileError::File { doing, source };
    let mut options = OpenOptions::new();
    options.read(true).write(true).create(true).truncate(false).mode(mode);
    let file = options.custom_flags(O_NOFOLLOW).open(path).map_err(failed("open"))?;
    match Flock::lock(file, FlockArg::LockExclusiveNonblock) {
        Ok(mut file) => {
            file.set_len(0).map_err(failed("write"))?;
            let written = writeln!(file, "{}", std::process::id());
            Ok((file, written))
        }
        Err((mut file, Errno::EWOULDBLOCK)) => {
            let mut pid = String::new();
            // Only for the message.
            let _ = file.read_to_string(&mut pid);
            let pid = if pid.trim().is_empty() { "unknown" } else { pid.trim() };
            Err(LockFileError::Held { pid: pid.to_owned() })
        }
        Err((_, errno)) => Err(failed("lock")(errno.into())),
    }
}
