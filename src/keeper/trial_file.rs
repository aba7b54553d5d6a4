//! The file in the state directory that says that a trial goes on. A service manager starts a
//! knockd that has died anew, with the configuration as it is: what nobody has confirmed must not
//! be locked for good then.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use tracing::warn;

use crate::sys::files;
use crate::time::{BootId, Monotonic};

/// How long a trial goes on at least after a start.
const AT_LEAST: Duration = Duration::from_secs(60);

/// The file of a trial, which is there while one goes on.
pub(crate) struct TrialFile {
    path: PathBuf,
    boot: BootId,
}

impl TrialFile {
    pub(crate) fn new(state_dir: &Path, boot: BootId) -> Self {
        Self { path: state_dir.join("trial"), boot }
    }

    /// Until when a trial goes on that a knockd has left as it died, in this boot.
    pub(crate) fn left(&self, now: Monotonic) -> Option<Monotonic> {
        let text = fs::read_to_string(&self.path).ok()?;
        let (boot, until) = text.trim_end().split_once(' ')?;
        let is_of_this_boot = boot.parse() == Ok(self.boot);
        let until = Monotonic::from_nanos(until.parse().ok()?);
        is_of_this_boot.then(|| until.max(now + AT_LEAST))
    }

    pub(crate) fn set(&self, until: Monotonic) {
        let text = format!("{} {}\n", self.boot, until.as_nanos());
        if let Err(error) = files::replace(&self.path, text.as_bytes()) {
            let path = self.path.display();
            warn!("cannot write {path}: {error}; started anew, knockd would not know of the trial");
        }
    }

    pub(crate) fn clear(&self) {
        if let Err(error) = files::remove(&self.path) {
            warn!("cannot remove {}: {error}", self.path.display());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: Monotonic = Monotonic::from_nanos(1_000_000_000_000);

    fn boot(text: &str) -> BootId {
        text.repeat(16).parse().unwrap()
    }

    #[test]
    fn a_trial_goes_on_after_a_start_in_the_same_boot_for_a_minute_at_least() {
        let dir = tempfile::tempdir().unwrap();
        let trial_file = TrialFile::new(dir.path(), boot("ab"));
        assert_eq!(trial_file.left(NOW), None);
        trial_file.set(NOW + Duration::from_secs(100));
        assert_eq!(trial_file.left(NOW), Some(NOW + Duration::from_secs(100)));
        assert_eq!(trial_file.left(NOW + AT_LEAST), Some(NOW + AT_LEAST * 2));
        assert_eq!(TrialFile::new(dir.path(), boot("cd")).left(NOW), None);
        trial_file.clear();
        assert_eq!(trial_file.left(NOW), None);
    }

    #[test]
    fn what_is_no_mark_is_none() {
        let dir = tempfile::tempdir().unwrap();
        let trial_file = TrialFile::new(dir.path(), boot("ab"));
        for text in ["", "\n", "ab 1", &format!("{} soon", boot("ab")), "\u{0}"] {
            fs::write(&trial_file.path, text).unwrap();
            assert_eq!(trial_file.left(NOW), None, "{text:?}");
        }
    }
}
