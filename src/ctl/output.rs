//! Lines on standard output: what happened when, tables, objects for scripts.

use std::io::{self, BufWriter, Write};
use std::iter;

use jiff::civil::Date;
use jiff::tz::TimeZone;
use serde::Serialize;

use crate::log::escape;
pub(super) use crate::log::local;
use crate::time::Wall;

/// Lines about what happened, aligned, in local time, each day under its name.
pub(super) struct Timeline {
    zone: TimeZone,
    /// The day of the line before.
    day: Option<Date>,
    source_width: usize,
    door_width: usize,
}

impl Timeline {
    /// `doors` are those that may be spoken of.
    pub(super) fn new<'a>(doors: impl Iterator<Item = &'a str>) -> Self {
        let door_width = doors.map(str::len).max().unwrap_or(0);
        Self { zone: TimeZone::system(), day: None, source_width: 15, door_width }
    }

    pub(super) const fn is_empty(&self) -> bool {
        self.day.is_none()
    }

    /// One line, whatever is in its parts.
    pub(super) fn line(
        &mut self,
        out: &mut dyn Write,
        at: Wall,
        source: &str,
        door: &str,
        what: &str,
    ) -> io::Result<()> {
        let time = local(at, &self.zone);
        if self.day.replace(time.date()) != Some(time.date()) {
            writeln!(out, "{}", time.strftime("%A, %Y-%m-%d, %Z"))?;
        }
        let (source, door, what) = (escape(source), escape(door), escape(what));
        self.source_width = self.source_width.max(source.chars().count());
        self.door_width = self.door_width.max(door.chars().count());
        let (wide, door_wide) = (self.source_width, self.door_width);
        let time = time.strftime("%H:%M:%S.%6f");
        writeln!(out, "{time}  {source:wide$}  {door:door_wide$}  {what}")
    }
}

/// The point in time so many seconds after 1970-01-01 UTC; to the microsecond, which is what a
/// double holds.
#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "such a cast saturates, and makes no number 0"
)]
pub(super) fn wall(seconds: f64) -> Wall {
    Wall::from_nanos(((seconds * 1e6).round() as u64).saturating_mul(1_000))
}

/// Rows in columns, each as wide as it has to be, below a heading where there is one.
pub(super) fn table(
    out: &mut dyn Write,
    heading: &[&str],
    rows: impl Iterator<Item = Vec<String>>,
) -> io::Result<()> {
    let heading = heading.iter().map(|&column| column.to_owned()).collect();
    let rows = iter::once(heading).chain(rows).filter(|row| !row.is_empty());
    let rows: Vec<Vec<_>> = rows.map(|row| row.iter().map(|it| escape(it)).collect()).collect();
    let mut widths = Vec::new();
    for row in &rows {
        widths.resize(widths.len().max(row.len()), 0);
        for (width, cell) in widths.iter_mut().zip(row) {
            *width = cell.chars().count().max(*width);
        }
    }
    for row in &rows {
        let mut line = String::new();
        for (cell, width) in row.iter().zip(&widths) {
            line.push_str(&format!("{cell:width$}  "));
        }
        writeln!(out, "{}", line.trim_end())?;
    }
    Ok(())
}

/// Prints objects for scripts, or what `text` says of them.
pub(super) fn print(
    json: bool,
    objects: &[impl Serialize],
    text: impl FnOnce(&mut dyn Write) -> io::Result<()>,
) -> io::Result<()> {
    let mut out = BufWriter::new(io::stdout().lock());
    if json {
        objects.iter().try_for_each(|it| object(&mut out, it))?;
    } else {
        text(&mut out)?;
    }
    out.flush()
}

/// One object on one line, without anything that a terminal obeys.
pub(super) fn object(out: &mut dyn Write, value: &impl Serialize) -> io::Result<()> {
    let text = serde_json::to_string(value)?;
    let mut line = String::with_capacity(text.len() + 1);
    for character in text.chars() {
        // JSON escapes no more than the control characters of ASCII.
        if character >= '\x7f' && escape(character.encode_utf8(&mut [0; 4])).starts_with('\\') {
            line.push_str(&format!("\\u{:04x}", u32::from(character)));
        } else {
            line.push(character);
        }
    }
    line.push('\n');
    out.write_all(line.as_bytes())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn written(write: impl FnOnce(&mut dyn Write) -> io::Result<()>) -> String {
        let mut out = Vec::new();
        write(&mut out).unwrap();
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn columns_are_as_wide_as_their_widest_cell_and_lines_have_no_spaces_at_their_end() {
        let rows = [["a", "bb", ""], ["ccc", "d", "e"]];
        let rows = rows.map(|row| row.map(str::to_owned).to_vec());
        assert_eq!(written(|out| table(out, &[], rows.into_iter())), "a    bb\nccc  d   e\n");
    }

    #[test]
    fn a_time_is_read_to_the_microsecond() {
        assert_eq!(wall(1_700_000_000.123_456).as_nanos(), 1_700_000_000_123_456_000);
        assert_eq!(wall(-1.0), Wall::ZERO);
        assert_eq!(wall(f64::NAN), Wall::ZERO);
    }

    proptest! {
        #[test]
        fn an_object_is_one_line_that_says_the_same(text in "(?s).*") {
            let line = written(|out| object(out, &text));
            let inner = line.strip_suffix('\n').unwrap();
            prop_assert_eq!(&escape(inner), inner);
            prop_assert_eq!(serde_json::from_str::<String>(inner).unwrap(), text);
        }

        #[test]
        fn a_row_is_one_line(cells in prop::collection::vec("(?s).*", 1..4)) {
            let line = written(|out| table(out, &[], [cells].into_iter()));
            prop_assert_eq!(line.matches(char::is_control).count(), 1);
        }

        #[test]
        fn an_event_is_one_line_under_its_day(
            time in any::<f64>(), source in "(?s).*", door in "(?s).*", what in "(?s).*"
        ) {
            let mut timeline = Timeline::new(["ssh"].into_iter());
            let lines = written(|out| timeline.line(out, wall(time), &source, &door, &what));
            prop_assert_eq!(lines.matches(char::is_control).count(), 2);
        }
    }
}
