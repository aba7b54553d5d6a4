//! What the parts of an imported file say, beside what has become of it.

use std::io::{self, Write};

use super::fwknop::variables::keys_of;
use crate::config::diagnostic::Severity;
use crate::config::tree::{Mapping, Node, Value};
use crate::config::{Diagnostic, Name, Place, Problems, SourceText, yaml};
use crate::ctl::output::table;

/// A stanza or a section of an imported file.
#[derive(Debug)]
pub struct ImportedPart {
    /// Its file and line, for people.
    pub(super) origin: String,
    /// The client or the door that it became, if it became one.
    pub(super) name: Option<Name>,
    pub(super) says: Vec<Saying>,
}

/// A variable or directive and what it says, which is no key; without a place, what goes without
/// saying, and is otherwise here.
pub(super) type Saying = (&'static str, String, Option<Place>);

/// How many characters of a text stand in a line, if its words are shorter.
const WIDTH: usize = 40;

/// Writes all parts, one after the other, and what the imported page has for each. A `!` stands
/// before what is not as it was, a `?` before what a warning is about.
pub(super) fn write(
    out: &mut dyn Write,
    parts: &[ImportedPart],
    page: String,
    notes: &[Diagnostic],
) -> io::Result<()> {
    let root = yaml::parse(&SourceText::new("", page), &mut Problems::default());
    for ImportedPart { origin, name, says } in parts {
        let called = name.as_ref().map_or("left out", Name::as_str);
        let at = |path: &[&str]| {
            path.iter().try_fold(root.as_ref()?, |node, key| node.mapping("").ok()?.value(key))
        };
        let doors = at(&["clients", called, "doors"]).map_or_else(|| called.to_owned(), text);
        let client = [at(&["clients", called]), at(&["clients", called, "fwknop"])].into_iter();
        let places = client.chain(doors.split(' ').map(|door| at(&["doors", door])));
        let places: Vec<&Mapping> = places.filter_map(|place| place?.mapping("").ok()).collect();
        let mut rows = vec![["", "", origin, called].map(str::to_owned).to_vec()];
        for (about, before, at) in says {
            let noted = |at| notes.iter().filter_map(|note| note.severity_on_line_of(at)).min();
            let mark = match at.as_ref().filter(|_| name.is_some()).map(noted) {
                None | Some(Some(Severity::Error)) => "!",
                Some(Some(Severity::Warning)) => "?",
                Some(None) => "",
            };
            let lower = about.to_lowercase();
            let keys = match keys_of(about) {
                "" if *about == "Seq_Cooldown" => "cooldown",
                "" => &lower,
                keys => keys,
            };
            let mut now: Vec<String> = places
                .iter()
                .flat_map(|place| keys.split(' ').filter_map(|key| Some(text(place.value(key)?))))
                .collect();
            now.dedup();
            let now = match now.join(", ") {
                now if now.is_empty() && mark == "!" => "nothing".to_owned(),
                now if now.is_empty() => "goes without saying".to_owned(),
                _ if about.contains("KEY") => "a key".to_owned(),
                now => now,
            };
            let (before, now) = (fold(before), fold(&now));
            for line in 0..before.len().max(now.len()) {
                let cell = |of: &[String]| of.get(line).cloned().unwrap_or_default();
                let (mark, about) = if line == 0 { (mark, *about) } else { ("", "") };
                rows.push(vec![mark.to_owned(), about.to_owned(), cell(&before), cell(&now)]);
            }
        }
        table(out, &[], rows.into_iter())?;
        writeln!(out)?;
    }
    Ok(())
}

/// A value in words.
fn text(node: &Node) -> String {
    let words: Vec<String> = match &node.value {
        Value::Scalar(scalar) => return scalar.text.clone(),
        Value::List(items) => items.iter().map(text).collect(),
        Value::Mapping(mapping) => {
            mapping.entries.iter().map(|it| format!("{} {}", it.key, text(&it.node))).collect()
        }
        Value::Null => Vec::new(),
    };
    words.join(" ")
}

/// The lines of a text, no wider than a column where its words are not.
fn fold(text: &str) -> Vec<String> {
    let mut lines = Vec::<String>::new();
    for word in text.split(' ') {
        match lines.last_mut() {
            Some(line) if line.len() + word.len() < WIDTH => line.extend([" ", word]),
            _ => lines.push(word.to_owned()),
        }
    }
    lines
}
