//! The lines of `access.conf` and `fwknopd.conf`.

use crate::config::diagnostic::{Place, Problems, Source};

/// A variable and its value. The value may be a key, in any bytes.
#[derive(Clone, Copy)]
pub(super) struct Line<'a> {
    /// From 1.
    pub(super) number: u32,
    pub(super) name: &'a str,
    pub(super) value: &'a [u8],
}

/// The lines of a file that say something, each with its place; one that has no variable or no
/// value is noted.
pub(super) fn read_lines<'a>(
    source: &Source,
    bytes: &'a [u8],
    notes: &mut Problems,
) -> Vec<(Place, Line<'a>)> {
    let placed = lines(bytes).filter_map(|line| {
        let number = line.map_or_else(|number| number, |line| line.number);
        let at = source.place(number, 1, 1);
        let line = line.map_err(|_| at.error("left out: this line has no variable with a value"));
        notes.keep(line).map(|line| (at, line))
    });
    placed.collect()
}

/// The lines that say something; for one that has no variable or no value, its number.
fn lines(bytes: &[u8]) -> impl Iterator<Item = Result<Line<'_>, u32>> {
    (1u32..).zip(bytes.split(|byte| *byte == b'\n')).filter_map(|(number, line)| {
        let line = line.trim_ascii_start();
        match line.first() {
            None | Some(b'#' | b';') => None,
            Some(_) => Some(read(number, line).ok_or(number)),
        }
    })
}

fn read(number: u32, line: &[u8]) -> Option<Line<'_>> {
    let blank = line.iter().position(u8::is_ascii_whitespace)?;
    let (name, rest) = line.split_at_checked(blank)?;
    let ends = rest.iter().position(|byte| matches!(byte, b';' | b'\r')).unwrap_or(rest.len());
    let value = rest.get(..ends)?.trim_ascii();
    let name = str::from_utf8(name).ok()?;
    (!value.is_empty()).then_some(Line { number, name, value })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn shown(text: &str) -> Vec<(u32, String, String)> {
        lines(text.as_bytes())
            .map(|line| match line {
                Ok(line) => {
                    let value = String::from_utf8_lossy(line.value).into_owned();
                    (line.number, line.name.to_owned(), value)
                }
                Err(number) => (number, String::new(), String::new()),
            })
            .collect()
    }

    #[test]
    fn a_value_goes_up_to_a_semicolon_or_the_end_of_the_line() {
        let expected = |name: &str, value: &str| vec![(1, name.to_owned(), value.to_owned())];
        assert_eq!(shown("KEY  pass word # x ; tail"), expected("KEY", "pass word # x"));
        assert_eq!(shown("\tKEY\thm\"ac  \r"), expected("KEY", "hm\"ac"));
        assert_eq!(shown("PCAP_INTF eth0;"), expected("PCAP_INTF", "eth0"));
    }

    #[test]
    fn comments_and_empty_lines_say_nothing() {
        assert_eq!(shown("# KEY a\n\n  ; KEY b\n  \r\n"), []);
    }

    #[test]
    fn a_line_without_a_value_is_told_by_its_number() {
        for text in ["KEY", "KEY=a", "KEY ;", "KEY  "] {
            assert_eq!(
                shown(&format!("\n{text}\n")),
                [(2, String::new(), String::new())],
                "{text}"
            );
        }
    }

    proptest! {
        #[test]
        fn no_bytes_make_it_panic(bytes: Vec<u8>) {
            let _ = lines(&bytes).count();
        }
    }
}
