//! The stamps of a key's requests: each is later than all before it, whatever the clock does.

use std::fs::File;
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::platform;
use crate::proto::duration;
use crate::proto::spa::Stamp;
use crate::sys::files;
use crate::time::Wall;

/// The age of a request, by default, up to which a server takes it.
const MAX_AGE: Duration = Duration::from_secs(60);

/// The stamp after `last`: the time that the clock shows, or the next possible one.
pub(super) fn next(now: Wall, last: Option<Stamp>) -> Stamp {
    let after = last.map(|last| Stamp::from_micros(last.as_micros().saturating_add(1)));
    after.map_or(now.into(), |after| after.max(now.into()))
}

/// The last stamp of a key, in a file beside it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Stamps {
    key: PathBuf,
    last: PathBuf,
}

/// A stamp that was issued, and what makes it doubtful.
#[derive(Debug)]
pub(super) struct Issued {
    pub stamp: Stamp,
    pub warnings: Vec<StampWarning>,
}

/// A doubt that this request, or the next one, will be accepted.
#[derive(Debug, thiserror::Error)]
pub(super) enum StampWarning {
    #[error(
        "the last request was made {} after what the clock says now: either the clock is wrong \
         now, and has to be set, or it was wrong then: if so, remove {}",
        duration::format_seconds(*by), last.display()
    )]
    ClockBack { by: Duration, last: PathBuf },
    #[error("{}: not the time of a request: it is written anew", last.display())]
    Nonsense { last: PathBuf },
    #[error(
        "{}: the time of this request cannot be kept: {source}: \
         should the clock be set back, the next requests are refused",
        last.display()
    )]
    NotKept { last: PathBuf, source: io::Error },
}

impl Stamps {
    /// Those of the key in `file`: `file.last` has the last one.
    pub(super) fn of(file: &Path) -> Self {
        let mut last = file.as_os_str().to_owned();
        last.push(".last");
        Self { key: file.to_owned(), last: last.into() }
    }

    /// A stamp that no other request of this key has, nor will have.
    ///
    /// It is in the file before the request leaves, where it outlives this process, and on the disk
    /// only after [`Self::flush`], which no request waits for. What a power cut takes in between is a
    /// time that has passed when the machine is up again: only a clock that the power cut has set back
    /// by more than that, and less than [`MAX_AGE`], makes a request that is refused for it.
    ///
    /// A disk that is full or cannot be written does not keep anyone from knocking: the clock alone
    /// gives the stamp then.
    pub(super) fn issue(&self, now: Wall) -> Issued {
        let mut warnings = Vec::new();
        // The key is locked: what holds the stamp may be replaced.
        let kept = File::open(&self.key).and_then(|key| {
            platform::lock(&key)?;
            let last = self.read(&mut warnings)?;
            let stamp = next(now, last);
            let line = format!("{}\n", stamp.as_micros()).into_bytes();
            self.overwrite(&line).or_else(|_| files::replace(&self.last, &line))?;
            Ok(stamp)
        });
        let stamp = kept.unwrap_or_else(|source| {
            warnings.push(StampWarning::NotKept { last: self.last.clone(), source });
            now.into()
        });
        let by =
            Duration::from_micros(stamp.as_micros().saturating_sub(Stamp::from(now).as_micros()));
        if by > MAX_AGE {
            warnings.push(StampWarning::ClockBack { by, last: self.last.clone() });
        }
        Issued { stamp, warnings }
    }

    /// Has the last stamp that was issued on the disk, as far as that is possible: whether it could
    /// be kept was said when it was issued, and the kernel tries it again by itself.
    pub(super) fn flush(&self) {
        let _ = File::options().write(true).open(&self.last).and_then(|file| file.sync_data());
    }

    /// Writes a stamp over one that is as long: nothing has to be flushed before the next step, as with
    /// a new file. Both are in one sector, of which a disk has the old or the new.
    ///
    /// # Errors
    /// Also where there is none that is as long.
    fn overwrite(&self, line: &[u8]) -> io::Result<()> {
        let mut file = File::options().write(true).open(&self.last)?;
        if usize::try_from(file.metadata()?.len()).ok() != Some(line.len()) {
            return Err(io::ErrorKind::InvalidData.into());
        }
        file.write_all(line)
    }

    fn read(&self, warnings: &mut Vec<StampWarning>) -> io::Result<Option<Stamp>> {
        let mut text = String::new();
        match File::open(&self.last).and_then(|file| file.take(64).read_to_string(&mut text)) {
            Ok(_) => {}
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            // No text.
            Err(error) if error.kind() == io::ErrorKind::InvalidData => text.clear(),
            Err(error) => return Err(error),
        }
        let stamp = text.trim().parse().ok().map(Stamp::from_micros);
        if stamp.is_none() {
            warnings.push(StampWarning::Nonsense { last: self.last.clone() });
        }
        Ok(stamp)
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::MetadataExt;

    use proptest::prelude::*;

    use super::*;

    fn at(seconds: u64) -> Wall {
        Wall::ZERO + Duration::from_secs(seconds)
    }

    fn stamps() -> (tempfile::TempDir, Stamps) {
        let directory = tempfile::tempdir().unwrap();
        let key = directory.path().join("work.key");
        fs::write(&key, "").unwrap();
        (directory, Stamps::of(&key))
    }

    fn said(taken: &Issued) -> Vec<String> {
        taken.warnings.iter().map(ToString::to_string).collect()
    }

    #[test]
    fn a_stamp_is_the_time_in_microseconds() {
        let (_directory, stamps) = stamps();
        let taken = stamps.issue(at(1_700_000_000));
        assert_eq!(taken.stamp.as_micros(), 1_700_000_000_000_000);
        assert!(taken.warnings.is_empty());
        let kept = fs::read_to_string(&stamps.last).unwrap();
        assert_eq!(kept, "1700000000000000\n");
        assert_eq!(fs::metadata(&stamps.last).unwrap().mode() & 0o777, 0o600);
    }

    #[test]
    fn two_requests_within_one_microsecond_differ() {
        let (_directory, stamps) = stamps();
        let first = stamps.issue(at(1_700_000_000)).stamp;
        assert!(stamps.issue(at(1_700_000_000)).stamp > first);
    }

    #[test]
    fn a_clock_that_was_set_back_a_little_is_made_up_for_in_silence() {
        let (_directory, stamps) = stamps();
        let first = stamps.issue(at(1_700_000_060)).stamp;
        let second = stamps.issue(at(1_700_000_001));
        assert_eq!(second.stamp.as_micros(), first.as_micros() + 1);
        assert!(second.warnings.is_empty());
    }

    #[test]
    fn a_clock_that_was_set_back_far_is_told() {
        let (_directory, stamps) = stamps();
        let first = stamps.issue(at(1_700_007_200)).stamp;
        let second = stamps.issue(at(1_700_000_000));
        assert_eq!(second.stamp.as_micros(), first.as_micros() + 1);
        let said = said(&second);
        assert!(said[0].starts_with("the last request was made 2h after what the clock says now"));
        assert!(said[0].ends_with(&format!("remove {}", stamps.last.display())));
    }

    #[test]
    fn a_file_with_nonsense_is_written_anew() {
        let (_directory, stamps) = stamps();
        for nonsense in [&b"yesterday"[..], b"", b"\xff\xfe", b"-1"] {
            fs::write(&stamps.last, nonsense).unwrap();
            let taken = stamps.issue(at(1_700_000_000));
            assert_eq!(taken.stamp.as_micros(), 1_700_000_000_000_000);
            assert!(said(&taken)[0].ends_with("written anew"));
            assert!(stamps.issue(at(1_700_000_001)).warnings.is_empty());
        }
    }

    #[test]
    fn a_stamp_is_written_over_the_last_one_in_one_piece() {
        let (_directory, stamps) = stamps();
        stamps.issue(at(1_700_000_000));
        let file = fs::metadata(&stamps.last).unwrap().ino();
        // Were a new file made, it would have no place.
        fs::create_dir(stamps.last.with_file_name(".work.key.last.new")).unwrap();
        let taken = stamps.issue(at(1_700_000_001));
        assert!(taken.warnings.is_empty());
        stamps.flush();
        assert_eq!(fs::read_to_string(&stamps.last).unwrap(), "1700000001000000\n");
        assert_eq!(fs::metadata(&stamps.last).unwrap().ino(), file);
    }

    #[test]
    fn a_stamp_that_is_longer_than_the_last_one_takes_a_new_file() {
        let (_directory, stamps) = stamps();
        fs::write(&stamps.last, "999999999999999\n").unwrap();
        let file = File::open(&stamps.last).unwrap();
        assert!(stamps.issue(at(1_700_000_000)).warnings.is_empty());
        assert_eq!(fs::read_to_string(&stamps.last).unwrap(), "1700000000000000\n");
        assert_eq!(io::read_to_string(file).unwrap(), "999999999999999\n");
    }

    #[test]
    fn of_stamps_that_are_taken_at_once_over_an_old_one_the_file_has_the_last() {
        let (_directory, stamps) = stamps();
        stamps.issue(at(1_700_000_000));
        let take = || {
            let taken = stamps.issue(at(1_700_000_000)).stamp;
            stamps.flush();
            taken
        };
        let mut taken: Vec<Stamp> = std::thread::scope(|scope| {
            let all: Vec<_> = (0..8).map(|_| scope.spawn(take)).collect();
            all.into_iter().map(|one| one.join().unwrap()).collect()
        });
        taken.sort_unstable();
        taken.dedup();
        assert_eq!(taken.len(), 8);
        let last = fs::read_to_string(&stamps.last).unwrap();
        assert_eq!(last.trim().parse().ok(), taken.last().map(|stamp| stamp.as_micros()));
    }

    #[test]
    fn a_place_that_cannot_be_written_keeps_no_one_from_knocking() {
        let (_directory, stamps) = stamps();
        fs::create_dir(stamps.last.with_file_name(".work.key.last.new")).unwrap();
        let taken = stamps.issue(at(1_700_000_000));
        assert_eq!(taken.stamp.as_micros(), 1_700_000_000_000_000);
        assert!(said(&taken)[0].contains("cannot be kept: "));
    }

    #[test]
    fn stamps_that_are_taken_at_once_all_differ() {
        let (_directory, stamps) = stamps();
        let mut taken: Vec<Stamp> = std::thread::scope(|scope| {
            let all: Vec<_> =
                (0..8).map(|_| scope.spawn(|| stamps.issue(at(1_700_000_000)).stamp)).collect();
            all.into_iter().map(|one| one.join().unwrap()).collect()
        });
        taken.sort_unstable();
        taken.dedup();
        assert_eq!(taken.len(), 8);
    }

    proptest! {
        #[test]
        fn no_stamp_is_earlier_than_the_clock_or_not_later_than_the_last(
            now: u64,
            last in proptest::option::of(0..u64::MAX),
        ) {
            let now = Wall::from_nanos(now);
            let stamp = next(now, last.map(Stamp::from_micros));
            prop_assert!(stamp >= now.into());
            prop_assert!(last.is_none_or(|last| stamp > Stamp::from_micros(last)));
        }
    }
}
