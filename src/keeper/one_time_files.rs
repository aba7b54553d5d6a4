//! Files of one-time sequences: read, watched for changes, and the line that was knocked struck
//! out.

use std::collections::HashMap;
use std::fs::{self, OpenOptions};
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use tracing::error;

use crate::config::one_time::{self, OneTimeLine};
use crate::config::{Config, Diagnostic, OneTime, Options, read_list};
use crate::proto::Knock;
use crate::sys::files;
use crate::time::Monotonic;

/// How often they are looked after.
const LOOK_EVERY: Duration = Duration::from_secs(2);

/// The reason why a line could not be struck out.
#[derive(Debug, thiserror::Error)]
pub(super) enum StrikeError {
    #[error("cannot strike out the line that was knocked in {path}: {source}")]
    File { path: PathBuf, source: io::Error },
    /// Another line counts by now.
    #[error("the line that was knocked is no longer the first in {0}")]
    NotCurrent(PathBuf),
    /// It cannot be read, or others could have written it.
    #[error("{}", .0.to_string().replace('\n', ";"))]
    Unfit(#[from] Diagnostic),
    #[error("{path}, line {line}: {why}")]
    OneTimeLine { path: PathBuf, line: u32, why: String },
}

/// The files as they were seen last.
#[derive(Debug, Default)]
pub(super) struct OneTimeFiles {
    seen: HashMap<PathBuf, Option<FileVersion>>,
    /// When [`have_changed`](Self::have_changed) has something to do.
    pub(super) next_look: Option<Monotonic>,
    /// What has been read could not be handed to a watcher yet.
    pub(super) pending: bool,
}

/// The version of a file, other when somebody has written it: which one it is, its length, and when
/// it was changed, which also tells of its owner and its mode.
type FileVersion = (u64, u64, u64, (i64, i64));

fn version(path: &Path) -> Option<FileVersion> {
    let file = fs::metadata(path).ok()?;
    Some((file.dev(), file.ino(), file.len(), (file.ctime(), file.ctime_nsec())))
}

fn lists(config: &Config) -> impl Iterator<Item = &OneTime> {
    config.doors.iter().filter_map(|door| door.one_time.as_ref())
}

impl OneTimeFiles {
    /// Looks whether those of a configuration have to be read again, where it is time to.
    pub(super) fn have_changed(&mut self, now: Monotonic, config: &Config) -> bool {
        if self.next_look.is_none_or(|next| next > now) {
            return false;
        }
        self.next_look = Some(now + LOOK_EVERY);
        let changed = |file| self.seen.get(file).is_none_or(|seen| *seen != version(file));
        self.pending || lists(config).any(|one_time| changed(&one_time.file))
    }

    /// A configuration is in force: its files are looked after from now on.
    pub(super) fn follow(&mut self, now: Monotonic, config: &Config) {
        let seen = lists(config)
            .map(|one_time| (one_time.file.clone(), version(&one_time.file)))
            .collect::<HashMap<_, _>>();
        self.next_look = (!seen.is_empty()).then_some(now + LOOK_EVERY);
        // What was written while the watcher started is read once more.
        self.pending = !seen.is_empty() && self.seen != seen;
        self.seen = seen;
    }

    /// The configuration with the lines that count now; `None`: as it is.
    pub(super) fn read_into(&mut self, current: &Config, options: Options) -> Option<Config> {
        let mut next = current.clone();
        let mut differs = false;
        for door in &mut next.doors {
            let Some(one_time) = &mut door.one_time else { continue };
            self.seen.insert(one_time.file.clone(), version(&one_time.file));
            let lines = match read(&one_time.file, options) {
                Ok(lines) => lines,
                Err(why) => {
                    error!(door = %door.recognition.name, "opens to nobody until this is mended: {why}");
                    continue;
                }
            };
            one_time.left = lines.len();
            one_time.line = lines.first().map(|line| line.number);
            let knocks = lines.into_iter().next().map(|line| line.knocks).unwrap_or_default();
            differs |= door.recognition.sequence != knocks;
            door.recognition.sequence = knocks;
        }
        (differs || !lists(&next).eq(lists(current))).then_some(next)
    }
}

fn read(file: &Path, options: Options) -> Result<Vec<OneTimeLine>, StrikeError> {
    one_time::parse(&read_list(file, options)?).map_err(|errors| {
        let (line, why) =
            errors.first().map_or((0, String::new()), |error| (error.line, error.to_string()));
        StrikeError::OneTimeLine { path: file.to_owned(), line, why }
    })
}

/// Strikes out the line that counts, if it is still the one that was knocked: its first character
/// becomes `#`, nothing else of the file changes, and it is on the disk. How many are left.
pub(super) fn strike_out(
    one_time: &OneTime,
    knocks: &[Knock],
    options: Options,
) -> Result<usize, StrikeError> {
    let lines = read(&one_time.file, options)?;
    let line = lines
        .first()
        .filter(|line| line.knocks == knocks)
        .ok_or_else(|| StrikeError::NotCurrent(one_time.file.clone()))?;
    let write = || {
        let file = OpenOptions::new().write(true).open(&one_time.file)?;
        files::overwrite(&file, line.offset, one_time::STRUCK)
    };
    write().map_err(|source| StrikeError::File { path: one_time.file.clone(), source })?;
    Ok(lines.len() - 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn list(text: &str) -> (tempfile::NamedTempFile, OneTime) {
        let file = tempfile::NamedTempFile::new().unwrap();
        fs::write(file.path(), text).unwrap();
        let one_time = OneTime { file: file.path().to_owned(), line: Some(1), left: 2 };
        (file, one_time)
    }

    fn strike(one_time: &OneTime, knocks: &str) -> Result<usize, StrikeError> {
        let knocks: Vec<Knock> = knocks.split(',').map(|knock| knock.parse().unwrap()).collect();
        strike_out(one_time, &knocks, Options::default())
    }

    #[test]
    fn a_line_is_struck_out_in_place_and_all_else_is_left_as_it_is() {
        let (file, one_time) = list("# mine\r\n 1,2:udp,3\n\n4,5,6");
        assert_eq!(strike(&one_time, "1,2/udp,3").unwrap(), 1);
        let text = fs::read_to_string(file.path()).unwrap();
        assert_eq!(text, "# mine\r\n#1,2:udp,3\n\n4,5,6");
        assert_eq!(strike(&one_time, "4,5,6").unwrap(), 0);
        let text = fs::read_to_string(file.path()).unwrap();
        assert_eq!(text, "# mine\r\n#1,2:udp,3\n\n#,5,6");
    }

    #[test]
    fn a_line_that_does_not_count_any_more_is_not_struck_out() {
        let text = "#1,2,3\n4,5,6\n";
        let (file, one_time) = list(text);
        let struck = strike(&one_time, "1,2,3");
        assert!(matches!(struck, Err(StrikeError::NotCurrent(_))), "{struck:?}");
        assert_eq!(fs::read_to_string(file.path()).unwrap(), text);
    }
}
