//! Lists of one-time sequences: the line that was knocked is struck out before the door opens, the
//! next one takes its place, and a list that somebody changes is taken up again.

use std::collections::HashMap;
use std::fs::{self, OpenOptions};
use std::io;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use tracing::{error, info, warn};

use super::ask::Ask;
use super::run::Keeper;
use crate::config::diagnostic::Diagnostic;
use crate::config::load::Options;
use crate::config::one_time::{self, OneTimeLine};
use crate::config::{Config, Door, OneTime, read_list};
use crate::engine::Reason;
use crate::proto::knock::Knock;
use crate::time::{Monotonic, Now};

/// How often lists are looked after.
const LOOK_EVERY: Duration = Duration::from_secs(2);
/// From here on each use says how many are left.
const FEW: usize = 3;

/// Why a line could not be struck out.
#[derive(Debug, thiserror::Error)]
enum StrikeError {
    #[error("cannot strike out the line that was knocked in {path}: {source}")]
    File { path: PathBuf, source: io::Error },
    /// Another line counts by now.
    #[error("the line that was knocked is no longer the first in {0}")]
    NotCurrent(PathBuf),
    /// It cannot be read, or others could have written it.
    #[error("{}", .0.to_string().replace('\n', ";"))]
    Unfit(#[from] Diagnostic),
    #[error("{path}, line {line}: {why}")]
    Line { path: PathBuf, line: u32, why: String },
}

/// The lists as they were seen last.
#[derive(Debug, Default)]
pub(super) struct Lists {
    seen: HashMap<PathBuf, Option<Stamp>>,
    next_look: Option<Monotonic>,
    /// What has been read could not be handed to a watcher yet.
    owed: bool,
}

/// What changes when somebody writes a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Stamp {
    device: u64,
    inode: u64,
    length: u64,
    /// Also when its owner or its mode changes.
    changed: (i64, i64),
}

impl Stamp {
    fn of(path: &Path) -> Option<Self> {
        let metadata = fs::metadata(path).ok()?;
        Some(Self {
            device: metadata.dev(),
            inode: metadata.ino(),
            length: metadata.len(),
            changed: (metadata.ctime(), metadata.ctime_nsec()),
        })
    }
}

fn lists(config: &Config) -> impl Iterator<Item = (&Door, &OneTime)> {
    config.doors.iter().filter_map(|door| Some((door, door.one_time.as_ref()?)))
}

impl Lists {
    /// When [`Keeper::look_after_lists`] has something to do.
    pub(super) const fn next_deadline(&self) -> Option<Monotonic> {
        self.next_look
    }
}

impl Keeper {
    /// Opens what a one-time sequence opens. Its line is struck out, durably, before that: one
    /// that cannot be opens nothing.
    pub(super) fn use_line(&mut self, now: Now, ask: &Ask) {
        let recognition = &ask.door.recognition;
        let Some(one_time) = &ask.door.one_time else { return };
        match strike_out(one_time, &recognition.sequence, self.cli.options()) {
            Ok(left) => {
                self.say_what_is_left(ask.door.name().as_str(), left);
                // A refusal has been logged.
                let _ = self.doors.ask(now, ask);
            }
            Err(why @ StrikeError::NotCurrent(_)) => {
                warn!(door = %ask.door.name(), "{why}");
                let _logged = self.doors.refuse_all(now, ask, Reason::Used);
            }
            Err(why) => {
                error!(door = %ask.door.name(), "{why}");
                self.doors.fail(now, ask, "its line could not be struck out");
            }
        }
        self.take_up_lists(now);
    }

    fn say_what_is_left(&self, door: &str, left: usize) {
        match left {
            0 => warn!(door, "no one-time sequence is left: the door stays shut for new knocks"),
            1 => warn!(door, "1 one-time sequence is left"),
            2..=FEW => warn!(door, "{left} one-time sequences are left"),
            _ => info!(door, "{left} one-time sequences are left"),
        }
    }

    /// Takes up lists that have changed since they were read.
    pub(super) fn look_after_lists(&mut self, now: Now) {
        if self.lists.next_look.is_none_or(|next| next > now.monotonic) {
            return;
        }
        let config = Arc::clone(self.watchers.config());
        let changed = lists(&config).any(|(_, one_time)| {
            let seen = self.lists.seen.get(&one_time.file);
            seen.is_none_or(|seen| *seen != Stamp::of(&one_time.file))
        });
        self.lists.next_look = Some(now.monotonic + LOOK_EVERY);
        if changed || self.lists.owed {
            self.take_up_lists(now);
        }
    }

    /// A configuration is in force: its lists are looked after from now on.
    pub(super) fn follow_lists(&mut self, now: Now, config: &Config) {
        let seen = lists(config)
            .map(|(_, one_time)| (one_time.file.clone(), Stamp::of(&one_time.file)))
            .collect::<HashMap<_, _>>();
        self.lists.next_look = (!seen.is_empty()).then_some(now.monotonic + LOOK_EVERY);
        // What was written while the watcher started is read once more.
        self.lists.owed = !seen.is_empty() && self.lists.seen != seen;
        self.lists.seen = seen;
    }

    /// Reads all lists, and starts a watcher that knows the lines that count now.
    fn take_up_lists(&mut self, now: Now) {
        if self.watchers.is_changing() {
            self.lists.owed = true;
            return;
        }
        self.lists.owed = false;
        let current = Arc::clone(self.watchers.config());
        let mut next = Config::clone(&current);
        let mut differs = false;
        for door in &mut next.doors {
            let Some(one_time) = &mut door.one_time else { continue };
            self.lists.seen.insert(one_time.file.clone(), Stamp::of(&one_time.file));
            let lines = match read(&one_time.file, self.cli.options()) {
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
        let left = |config: &Config| lists(config).map(|(_, it)| it.clone()).collect::<Vec<_>>();
        if !differs && left(&next) == left(&current) {
            return;
        }
        let server = self.watchers.server().cloned();
        if let Err(why) = self.watchers.start(now.monotonic, Arc::new(next), server) {
            error!("cannot start a watcher: {why}");
            self.lists.owed = true;
        }
    }
}

fn read(file: &Path, options: Options) -> Result<Vec<OneTimeLine>, StrikeError> {
    let path = || file.to_owned();
    let text = read_list(file, options)?;
    one_time::parse(&text).map_err(|errors| {
        let (line, why) =
            errors.first().map_or((0, String::new()), |error| (error.line, error.to_string()));
        StrikeError::Line { path: path(), line, why }
    })
}

/// Strikes out the line that counts, if it is still the one that was knocked: its first character
/// becomes `#`, nothing else of the file changes, and it is on the disk. How many are left.
fn strike_out(
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
        let offset = u64::try_from(line.offset).map_err(io::Error::other)?;
        file.write_all_at(&[one_time::STRUCK], offset)?;
        file.sync_data()
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
