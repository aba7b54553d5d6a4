//! The file in the state directory that says that a trial goes on. A service manager starts a
//! knockd that has died anew, with the configuration as it is: what nobody has confirmed must not
//! be locked for good then.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use tracing::warn;

use super::rights;
use crate::sys::files;
use crate::time::{BootId, Monotonic};

/// How long a trial goes on at least after a start.
const AT_LEAST: Duration = Duration::from_secs(60);
/// In the place of a boot id, for the next start: in a container a service may see another one.
const NEXT: &str = "next";
/// How long a trial takes at most.
const AT_MOST: Duration = Duration::from_secs(3600);

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
        let until = Monotonic::from_nanos(until.parse().ok()?);
        let is_of_this_boot = boot.parse() == Ok(self.boot);
        let is_handed_over = boot == NEXT && until >= now && until <= now + AT_MOST;
        (is_of_this_boot || is_handed_over).then(|| until.max(now + AT_LEAST))
    }

    pub(crate) fn set(&self, until: Monotonic) {
        let text = format!("{} {}\n", self.boot, until.as_nanos());
        rights::replace(&self.path, &text, "started anew, knockd would not know of the trial");
    }

    /// Has the knockd that starts next go on with a trial that has not begun yet.
    ///
    /// # Errors
    /// Where it could not know of it.
    pub(crate) fn hand_over(&self, until: Monotonic) -> io::Result<()> {
        files::replace(&self.path, format!("{NEXT} {}\n", until.as_nanos()).as_bytes())
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
    fn a_trial_that_is_handed_over_begins_whatever_the_boot_id_and_only_while_it_lasts() {
        let dir = tempfile::tempdir().unwrap();
        TrialFile::new(dir.path(), boot("ab")).hand_over(NOW + AT_LEAST * 5).unwrap();
        let other = TrialFile::new(dir.path(), boot("cd"));
        assert_eq!(other.left(NOW), Some(NOW + AT_LEAST * 5));
        assert_eq!(other.left(NOW + AT_LEAST * 5), Some(NOW + AT_LEAST * 6));
        assert_eq!(other.left(NOW + AT_LEAST * 6), None, "over");
        other.hand_over(NOW + AT_MOST * 2).unwrap();
        assert_eq!(other.left(NOW), None, "of another boot, which had lasted longer");
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
