//! Reader of the sequences that open a door: one that stays, or a file of those that open once.

use std::fmt::Display;
use std::path::{Path, PathBuf};
use std::str::FromStr;

use super::files::read_list;
use crate::config::diagnostic::Parsed;
use crate::config::lint::scan::is_completed_in_order;
use crate::config::one_time::{self, OneTimeLine, OneTimeLineError};
use crate::config::tree::{Node, Reader, Value};
use crate::config::{Diagnosed, Diagnostic, OneTime, Options, Place, Problems, SourceText};
use crate::proto::Knock;
use crate::proto::knock::MAX_KNOCKS;

const A_PORT: &str = "a port such as 7000 or 8000/udp";

/// The knocks that open a door, and where each is written.
#[derive(Default)]
pub(super) struct Sequence {
    pub knocks: Vec<Knock>,
    pub places: Vec<Place>,
    pub one_time: Option<OneTime>,
}

/// Reads `sequence` or `one_time_sequences`; empty where neither is there.
pub(super) fn read_sequence(
    reader: &mut Reader<'_>,
    trip_wires: u16,
    options: Options,
) -> Parsed<Sequence> {
    match (reader.get("sequence"), reader.value("one_time_sequences")) {
        (Some(sequence), Some(one_time)) => {
            let error = one_time.at.error("'one_time_sequences' and 'sequence' exclude each other");
            reader.fail(error.help(format!("remove one; the other is at {}", sequence.at)))
        }
        (Some(given), None) => {
            let items = reader.problems.report(sequence_items(&given.node))?;
            let (knocks, places) = read_ports::<Knock>(items, reader.problems)?.into_iter().unzip();
            Ok(Sequence { knocks, places, one_time: None })
        }
        (None, Some(node)) => {
            let path = reader.problems.report(node.path())?;
            read_one_time(path, &node.at, trip_wires, options, reader.problems)
        }
        (None, None) => Ok(Sequence::default()),
    }
}

fn sequence_items(node: &Node) -> Diagnosed<&[Node]> {
    if let Value::Scalar(scalar) = &node.value {
        let error = node.at.error("a sequence is a list");
        return Err(error.help(format!("write sequence: [{}]", scalar.text)));
    }
    let items = node.list("a list of ports such as [7000, 8000/udp, 9000]")?;
    check_length(items.len(), &node.at)?;
    Ok(items)
}

/// Checks how many knocks a sequence has.
///
/// # Errors
/// Says that a sequence has no knock, or too many.
pub(super) fn check_length(knocks: usize, at: &Place) -> Diagnosed<()> {
    match knocks {
        0 => Err(at.error("a sequence needs at least one knock: three or more are sensible")),
        1..=MAX_KNOCKS => Ok(()),
        _ => Err(at.error(format!("a sequence has at most {MAX_KNOCKS} knocks, not {knocks}"))),
    }
}

/// Reads the file of one-time sequences that `at` names; its current line is the sequence.
pub(super) fn read_one_time(
    file: PathBuf,
    at: &Place,
    trip_wires: u16,
    options: Options,
    problems: &mut Problems,
) -> Parsed<Sequence> {
    let text = read_list(&file, options).map_err(|problem| problem.named_at(at));
    let text = problems.report(text)?;
    // Lines that are right are secrets, so no line is shown.
    let source = SourceText::new(&file, "");
    let wrong = |error: OneTimeLineError| {
        source.place(error.line, error.column, error.width).error(error.to_string())
    };
    let lines = one_time::parse(&text).map_err(|errors| {
        problems.extend(errors.into_iter().map(wrong));
        problems.reported()
    })?;
    problems.extend(doubts(&file, &lines, at, trip_wires));
    let current = lines.first();
    let knocks = current.map(|line| line.knocks.clone()).unwrap_or_default();
    Ok(Sequence {
        places: vec![at.clone(); knocks.len()],
        knocks,
        one_time: Some(OneTime { file, line: current.map(|line| line.number), left: lines.len() }),
    })
}

/// What is hardly wanted of the lines that are left. What concerns the current one is said where
/// it stands for the door.
fn doubts(file: &Path, lines: &[OneTimeLine], at: &Place, trip_wires: u16) -> Vec<Diagnostic> {
    let shown = file.display();
    let Some((_, later)) = lines.split_first() else {
        let warning = at.warning(format!("every sequence in {shown} is used up: nobody can knock"));
        return vec![warning.help("append new lines to it; 'knockctl one-time' makes some")];
    };
    let numbers = |doubtful: &dyn Fn(&[Knock]) -> bool| {
        let mut found = later.iter().filter(|line| doubtful(&line.knocks));
        let first = found.next()?.number;
        Some(match found.count() {
            0 => format!("line {first} of {shown}"),
            1 => format!("line {first} of {shown}, and one more,"),
            more => format!("line {first} of {shown}, and {more} more,"),
        })
    };
    let short = numbers(&|knocks| knocks.len() < 3).map(|lines| {
        at.warning(format!("{lines} has fewer than three knocks"))
            .help("three knocks or more are hard to hit by chance")
    });
    let monotone = numbers(&|knocks| is_completed_in_order(knocks, trip_wires)).map(|lines| {
        at.warning(format!("{lines} is monotone: a port scan in order completes it"))
            .help("mix the order of the ports, or leave room for trip-wires between them")
    });
    short.into_iter().chain(monotone).collect()
}

/// Reads a list of ports, with their places.
pub(super) fn read_ports<T: FromStr<Err: Display>>(
    items: &[Node],
    problems: &mut Problems,
) -> Parsed<Vec<(T, Place)>> {
    problems.report_all(items.iter().map(read_port))
}

fn read_port<T: FromStr<Err: Display>>(item: &Node) -> Diagnosed<(T, Place)> {
    let port = item.parsed(A_PORT).map_err(|error| match &item.value {
        Value::Mapping(_) => error.help("write 7000:udp without a blank after the colon"),
        Value::Scalar(scalar) if scalar.text.contains(char::is_whitespace) => {
            error.help("put a comma between two ports")
        }
        _ => error,
    });
    Ok((port?, item.at.clone()))
}
