//! The lines of `access.conf` and `fwknopd.conf`.

use crate::config::{Diagnosed, Place, SourceText};

/// A variable and its value. The value may be a key, in any bytes.
#[derive(Clone, Copy)]
pub(super) struct ConfLine<'a> {
    /// From 1.
    pub(super) number: u32,
    pub(super) name: &'a str,
    pub(super) value: &'a [u8],
}

/// The lines of a file that say something, each with its place.
///
/// As fwknopd: what does not fit into its buffer is the next line, and a line ends at a zero byte.
///
/// # Errors
/// A line that has no variable or no value.
pub(super) fn read_lines<'a>(
    source: &SourceText,
    bytes: &'a [u8],
) -> impl Iterator<Item = Diagnosed<(Place, ConfLine<'a>)>> {
    let lines = (1u32..).zip(bytes.split(|byte| *byte == b'\n'));
    let pieces = lines.flat_map(|(number, line)| line.chunks(LONGEST).map(move |it| (number, it)));
    pieces.filter_map(|(number, line)| {
        let line = line.split(|byte| *byte == 0).next().unwrap_or_default();
        if matches!(line.first(), None | Some(b'#' | b';' | b'\r')) {
            return None;
        }
        let at = source.place(number, 1, 1);
        match read(number, line) {
            // A comment, which fwknopd takes for a variable that it does not know.
            Some(line) if line.name.starts_with(['#', ';']) => None,
            Some(line) => Some(Ok((at, line))),
            None => Some(Err(at.error("left out: this line has no variable with a value"))),
        }
    })
}

/// How many bytes of a line fwknopd reads at a time.
const LONGEST: usize = 1023;

/// As C: a vertical tab is one too.
fn is_blank(byte: &u8) -> bool {
    byte.is_ascii_whitespace() || *byte == 0x0b
}

/// Blanks behind a value belong to it.
fn read(number: u32, line: &[u8]) -> Option<ConfLine<'_>> {
    let begins = |bytes: &[u8]| bytes.iter().position(|byte| !is_blank(byte));
    let line = line.get(begins(line)?..)?;
    let (name, rest) = line.split_at_checked(line.iter().position(is_blank)?)?;
    let value = rest.get(begins(rest)?..)?.split(|byte| matches!(byte, b';' | b'\r')).next()?;
    let name = str::from_utf8(name).ok()?;
    (!value.is_empty()).then_some(ConfLine { number, name, value })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn shown(text: &str) -> Vec<(u32, String, String)> {
        read_lines(&SourceText::new("f", ""), text.as_bytes())
            .map(|line| match line {
                Ok((_, line)) => {
                    let value = String::from_utf8_lossy(line.value).into_owned();
                    (line.number, line.name.to_owned(), value)
                }
                Err(error) => {
                    let number = error.to_string().split(':').nth(1).unwrap().parse().unwrap();
                    (number, String::new(), String::new())
                }
            })
            .collect()
    }

    #[test]
    fn a_value_goes_up_to_a_semicolon_or_the_end_of_the_line() {
        let expected = |name: &str, value: &str| vec![(1, name.to_owned(), value.to_owned())];
        assert_eq!(shown("KEY  pass word # x ; tail"), expected("KEY", "pass word # x "));
        assert_eq!(shown("\tKEY\thm\"ac\r"), expected("KEY", "hm\"ac"));
        assert_eq!(shown("PCAP_INTF eth0;"), expected("PCAP_INTF", "eth0"));
    }

    #[test]
    fn comments_and_empty_lines_say_nothing() {
        assert_eq!(shown("# KEY a\n\n;KEY b\n  # KEY c\n\r\n\0"), []);
    }

    #[test]
    fn a_line_without_a_value_is_told_by_its_number() {
        for text in ["KEY", "KEY=a", "KEY ;", "KEY  ", "  ", "  #KEY"] {
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
            let _ = read_lines(&SourceText::new("f", ""), &bytes).count();
        }
    }
}
