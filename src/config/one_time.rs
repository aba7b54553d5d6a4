//! Files of one-time sequences, as classic knockd keeps them.
//!
//! One sequence a line, `7000,8000:udp,9000`. The first line that is not struck out is current;
//! when it has opened the door its first character becomes `#`. Nothing else of a file ever
//! changes, so its comments and its layout are safe.

use std::collections::HashSet;

use super::diagnostic::narrow;
use crate::proto::knock::MAX_KNOCKS;
use crate::proto::port_range::pick;
use crate::proto::{Knock, KnockError, PortRange, Protocol};

/// One sequence of a file that is still good.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OneTimeLine {
    /// From 1.
    pub number: u32,
    /// Where the line begins, in bytes: the one byte there becomes `#` when it has been used.
    pub offset: usize,
    /// 1 to 32 knocks.
    pub knocks: Vec<Knock>,
}

/// The reason why a line is no sequence. The message shows nothing of the line.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{why}")]
pub struct OneTimeLineError {
    /// From 1.
    pub line: u32,
    /// In characters, from 1.
    pub column: u32,
    /// In characters.
    pub width: u32,
    pub why: String,
}

/// The sequences that are left, in the order of the file.
///
/// Empty lines and those that begin with `#`, blanks before it or not, are passed over.
///
/// # Errors
/// One [`OneTimeLineError`] for each line that is neither a comment nor a sequence.
pub fn parse(text: &str) -> Result<Vec<OneTimeLine>, Vec<OneTimeLineError>> {
    let mut lines = Vec::new();
    let mut errors = Vec::new();
    let mut offset = 0;
    for (number, line) in (1u32..).zip(text.split_inclusive('\n')) {
        let content = line.trim_matches(BLANKS);
        if !content.is_empty() && !content.starts_with('#') {
            match parse_line(line.trim_end_matches(BLANKS), number) {
                Ok(knocks) => lines.push(OneTimeLine { number, offset, knocks }),
                Err(error) => errors.push(error),
            }
        }
        offset += line.len();
    }
    if errors.is_empty() { Ok(lines) } else { Err(errors) }
}

/// ASCII alone: the first character of a line that is still good is one byte.
const BLANKS: [char; 4] = [' ', '\t', '\r', '\n'];

fn parse_line(line: &str, number: u32) -> Result<Vec<Knock>, OneTimeLineError> {
    let mut knocks = Vec::new();
    let mut start = 0;
    for item in line.split(',') {
        let port = item.trim_matches(BLANKS);
        // No message shows anything of the line.
        let error = |why: &str| {
            let blanks = item.len() - item.trim_start_matches(BLANKS).len();
            let before = line.get(..start + blanks).unwrap_or_default();
            let column = narrow(before.chars().count()).saturating_add(1);
            let (width, why) = (narrow(port.chars().count()).max(1), why.to_owned());
            OneTimeLineError { line: number, column, width, why }
        };
        if knocks.len() == MAX_KNOCKS {
            return Err(error(&format!("a sequence has at most {MAX_KNOCKS} knocks")));
        }
        knocks.push(port.parse::<Knock>().map_err(|why| {
            error(match why {
                KnockError::Port(_) => {
                    "this is not a port: write numbers with commas between them, such as 7000,8000:udp"
                }
                KnockError::Range(_) => "this port is out of range: ports go from 1 to 65535",
                KnockError::Protocol(_) => "this is not a protocol: write tcp or udp",
            })
        })?);
        start += item.len() + 1;
    }
    Ok(knocks)
}

/// What a line begins with that has been used.
pub(crate) const STRUCK: u8 = b'#';

/// The recipe by which one-time sequences are made.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Recipe {
    /// How many lines.
    pub lines: usize,
    /// How many knocks in each.
    pub length: usize,
    /// Where the ports come from.
    pub ports: PortRange,
    /// `None`: either, as it comes.
    pub protocol: Option<Protocol>,
}

/// The reason why no sequences can be made.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum RecipeError {
    #[error("a sequence has 3 to {MAX_KNOCKS} knocks: a port scan completes shorter ones")]
    Length,
    #[error("there are too few ports for so many sequences: name a wider range, or fewer lines")]
    Range,
    #[error("no random numbers can be had: {0}")]
    Random(#[from] getrandom::Error),
}

/// A file of sequences, each with a blank before it for the `#` that strikes it out.
///
/// No line is there twice. Within a line no port is knocked on twice, and no line is monotone: a
/// port scan in order completes none. `random` gives evenly distributed numbers.
///
/// # Errors
/// [`RecipeError`] if there are not enough such sequences, or `random` does not find them.
pub(crate) fn generate(
    recipe: &Recipe,
    mut random: impl FnMut() -> Result<u64, getrandom::Error>,
) -> Result<String, RecipeError> {
    if !(3..=MAX_KNOCKS).contains(&recipe.length) {
        return Err(RecipeError::Length);
    }
    if recipe.ports.is_empty() {
        return Err(RecipeError::Range);
    }
    let mut seen: HashSet<Vec<Knock>> = HashSet::new();
    let mut text = String::new();
    // Where half of all sequences would be taken, this is enough to find them.
    let mut tries = recipe.lines.saturating_mul(64).saturating_add(4096);
    while seen.len() < recipe.lines {
        tries = tries.checked_sub(1).ok_or(RecipeError::Range)?;
        let mut knock = || {
            let port = pick(&recipe.ports, random()?);
            let protocol = match recipe.protocol {
                Some(protocol) => protocol,
                None if random()?.is_multiple_of(2) => Protocol::Tcp,
                None => Protocol::Udp,
            };
            Ok::<_, getrandom::Error>(Knock::new(protocol, port))
        };
        let knocks = (0..recipe.length).map(|_| knock()).collect::<Result<Vec<_>, _>>()?;
        if is_fit(&knocks) && seen.insert(knocks.clone()) {
            // Classic knockd's spelling, so that it can use the file too.
            let words: Vec<_> = knocks.iter().map(|knock| knock.short(':')).collect();
            text.push_str(&format!(" {}\n", words.join(",")));
        }
    }
    Ok(text)
}

fn is_fit(knocks: &[Knock]) -> bool {
    let ports: HashSet<_> = knocks.iter().map(|knock| knock.port).collect();
    ports.len() == knocks.len()
        && !knocks.is_sorted_by_key(|knock| knock.port)
        && !knocks.iter().rev().is_sorted_by_key(|knock| knock.port)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use std::num::NonZeroU16;

    use super::*;

    /// The text as it is after a line has been used.
    fn strike(text: &str, line: &OneTimeLine) -> String {
        let mut bytes = text.as_bytes().to_vec();
        bytes[line.offset] = STRUCK;
        String::from_utf8(bytes).unwrap()
    }

    fn shown(text: &str) -> Vec<(u32, usize, String)> {
        let lines = parse(text).unwrap();
        let knocks = |line: &OneTimeLine| {
            line.knocks.iter().map(ToString::to_string).collect::<Vec<_>>().join(" ")
        };
        lines.iter().map(|line| (line.number, line.offset, knocks(line))).collect()
    }

    #[test]
    fn the_file_of_classic_knockd_is_read_as_it_is() {
        let text = "# one line each\n#7000,8000\n\n 7001,8001:udp,9001\n7002:tcp, 8002:UDP\r\n";
        assert_eq!(
            shown(text),
            [
                (4, 28, "7001/tcp 8001/udp 9001/tcp".to_owned()),
                (5, 48, "7002/tcp 8002/udp".to_owned()),
            ]
        );
    }

    #[test]
    fn a_used_line_differs_in_one_byte() {
        for (text, struck) in [
            (" 7000,8000\n 1,2\n", "#7000,8000\n 1,2\n"),
            ("#x\n7000,8000", "#x\n#000,8000"),
            ("# \u{e9}\r\n\t7\r\n", "# \u{e9}\r\n#7\r\n"),
        ] {
            let lines = parse(text).unwrap();
            assert_eq!(strike(text, &lines[0]), struck);
        }
    }

    #[test]
    fn the_next_line_is_current_when_one_has_been_used() {
        let mut text = " 1,2,3\n 4,5,6\n".to_owned();
        for number in [1, 2] {
            let lines = parse(&text).unwrap();
            assert_eq!(lines[0].number, number);
            text = strike(&text, &lines[0]);
        }
        assert_eq!(parse(&text), Ok(Vec::new()));
    }

    #[test]
    fn a_wrong_line_says_where_and_shows_nothing() {
        let errors = parse("7000,8000\n  1, sesame,3\n70000\n1:upd\n,\n").unwrap_err();
        let places: Vec<_> = errors
            .iter()
            .map(|it| (it.line, it.column, it.width, it.why.split(':').next().unwrap()))
            .collect();
        assert_eq!(
            places,
            [
                (2, 6, 6, "this is not a port"),
                (3, 1, 5, "this port is out of range"),
                (4, 1, 5, "this is not a protocol"),
                (5, 1, 1, "this is not a port"),
            ]
        );
        assert!(errors.iter().all(|error| !error.to_string().contains("sesame")));
        let many = vec!["7"; 33].join(",");
        assert_eq!(parse(&many).unwrap_err()[0].why, "a sequence has at most 32 knocks");
    }

    #[test]
    fn what_is_missing_at_the_end_of_a_line_is_missing_there() {
        for text in ["7000,", "7000,\n", "7000, \r\n"] {
            let errors = parse(text).unwrap_err();
            assert_eq!((errors[0].line, errors[0].column, errors[0].width), (1, 6, 1), "{text:?}");
        }
    }

    fn recipe(lines: usize, length: usize, low: u16, high: u16) -> Recipe {
        let port = |port| NonZeroU16::new(port).unwrap();
        Recipe { lines, length, ports: port(low)..=port(high), protocol: None }
    }

    /// Numbers that look random, the same each time.
    fn numbers(mut state: u64) -> impl FnMut() -> Result<u64, getrandom::Error> {
        move || {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            Ok(state >> 33)
        }
    }

    #[test]
    fn too_few_ports_are_an_error_and_not_an_endless_search() {
        assert_eq!(generate(&recipe(1, 2, 1, 9), numbers(1)), Err(RecipeError::Length));
        assert_eq!(generate(&recipe(1, 3, 9, 1), numbers(1)), Err(RecipeError::Range));
        assert_eq!(generate(&recipe(100, 3, 7, 9), numbers(1)), Err(RecipeError::Range));
        assert_eq!(generate(&recipe(1, 3, 1, 9), || Ok(0)), Err(RecipeError::Range));
    }

    proptest! {
        #[test]
        fn generated_lines_are_different_and_not_monotone(
            lines in 0usize..200, length in 3usize..8, seed: u64, udp: Option<bool>,
        ) {
            let protocol = udp.map(|udp| if udp { Protocol::Udp } else { Protocol::Tcp });
            let recipe = Recipe { protocol, ..recipe(lines, length, 2000, 60000) };
            let text = generate(&recipe, numbers(seed)).unwrap();
            let read = parse(&text).unwrap();
            prop_assert_eq!(read.len(), lines);
            let distinct: HashSet<_> = read.iter().map(|line| line.knocks.clone()).collect();
            prop_assert_eq!(distinct.len(), lines);
            for OneTimeLine { knocks, offset, .. } in &read {
                prop_assert_eq!(text.as_bytes()[*offset], b' ');
                prop_assert_eq!(knocks.len(), length);
                prop_assert!(is_fit(knocks));
                prop_assert!(knocks.iter().all(|knock| (2000..=60000).contains(&knock.port.get())));
                prop_assert!(protocol.is_none_or(|one| knocks.iter().all(|k| k.protocol == one)));
            }
        }

        #[test]
        fn striking_out_changes_one_byte_and_takes_one_line(
            lines in prop::collection::vec(
                prop_oneof!["[ \t]?[1-9][0-9]{0,3}(,[1-9][0-9]{0,3}(:udp)?){0,3}", "#.{0,9}", " ?"],
                0..9,
            ),
            end in prop_oneof![Just("\n"), Just("\r\n")],
        ) {
            let text = lines.join(end);
            let before = parse(&text).unwrap();
            if let Some(current) = before.first() {
                let struck = strike(&text, current);
                let changed: Vec<_> = (0..text.len())
                    .filter(|at| text.as_bytes()[*at] != struck.as_bytes()[*at])
                    .collect();
                prop_assert_eq!(text.len(), struck.len());
                prop_assert_eq!(changed, [current.offset]);
                prop_assert_eq!(&parse(&struck).unwrap(), &before[1..]);
            }
        }

        #[test]
        fn no_text_makes_it_panic(text in "(?s).{0,200}") {
            for line in parse(&text).unwrap_or_default() {
                prop_assert_eq!(strike(&text, &line).len(), text.len());
            }
        }
    }
}
