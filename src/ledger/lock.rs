//! One keeper for one state directory.

use std::fs::{File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use nix::fcntl::{Flock, FlockArg};
use nix::libc::O_NOFOLLOW;

use super::LedgerError;

/// Held until it is dropped or the process ends, however it ends.
///
/// The file stays: were it removed, two processes could each lock a file of their own.
#[derive(Debug)]
pub(super) struct Lock {
    _file: Flock<File>,
}

impl Lock {
    pub fn take(state_dir: &Path) -> Result<Self, LedgerError> {
        let path = state_dir.join("lock");
        let failed = |doing| {
            let path = path.clone();
            move |source: io::Error| LedgerError::File { doing, path, source }
        };
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o600)
            .custom_flags(O_NOFOLLOW)
            .open(&path)
            .map_err(failed("open"))?;
        match Flock::lock(file, FlockArg::LockExclusiveNonblock) {
            Ok(mut file) => {
                file.set_len(0).map_err(failed("write"))?;
                // Only for the other one's message: a full disk must not keep knockd from closing
                // what is open.
                let _ = writeln!(file, "{}", std::process::id());
                Ok(Self { _file: file })
            }
            Err((mut file, nix::errno::Errno::EWOULDBLOCK)) => {
                let mut pid = String::new();
                let _ = file.read_to_string(&mut pid);
                let pid = pid.trim();
                let pid = if pid.is_empty() { "unknown" } else { pid }.to_owned();
                Err(LedgerError::InUse { pid, dir: state_dir.to_owned() })
            }
            Err((_, errno)) => Err(failed("lock")(errno.into())),
        }
    }
}
