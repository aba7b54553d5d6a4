//! YAML as a tree in which every key and value knows its place.
//!
//! It is built from the parser's events: the usual way through serde ends at the first mistake and
//! forgets how a value was spelt and where the first of two equal keys stood.

use std::collections::HashMap;
use std::fmt::Display;
use std::str::FromStr;

use serde_yaml::granit_parser::{self as yaml, Event, Parser, ScalarStyle, Span};

use super::diagnostic::{Diagnostic, Place, Problems, Source, meant};

/// A value and its place.
#[derive(Clone, Debug)]
pub struct Node {
    pub at: Place,
    pub value: Value,
}

#[derive(Clone, Debug)]
pub enum Value {
    /// Nothing, `~` or `null`.
    Null,
    Scalar(Scalar),
    List(Vec<Node>),
    Mapping(Mapping),
}

/// A value as it was written: `7000`, `yes` and `"7000"` are all text here.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Scalar {
    pub text: String,
    /// Without quotes, and no block.
    pub plain: bool,
}

/// Keys, each once, in the order of the file.
#[derive(Clone, Debug)]
pub struct Mapping {
    pub entries: Vec<Entry>,
}

#[derive(Clone, Debug)]
pub struct Entry {
    pub key: String,
    pub at: Place,
    pub node: Node,
}

/// The keys that a mapping may have.
#[derive(Clone, Copy, Debug)]
pub struct Keys {
    /// What has them, with its article: `a door`.
    pub of: &'static str,
    pub known: &'static [&'static str],
    /// Keys that exist but not in this version, and what to do without them.
    pub later: &'static [(&'static str, &'static str)],
}

/// How deep a file may nest; a configuration needs six levels.
const MAX_DEPTH: usize = 32;
/// How many nodes the aliases of a file may add up to.
const MAX_COPIED: usize = 100_000;

/// Reads one file; what is wrong goes to `problems`. An empty file is [`Value::Null`].
///
/// `None` if the text is not YAML at all: then the first error is all that can be said.
pub fn parse(source: &Source, problems: &mut Problems) -> Option<Node> {
    let options = yaml::options! {
        flow_nesting_limit: MAX_DEPTH,
        block_nesting_limit: MAX_DEPTH,
        disallow_directives: true,
    };
    let mut builder = Builder {
        source,
        events: Parser::new_from_str_with_options(source.text(), options),
        problems: Problems::default(),
        anchors: HashMap::new(),
        copied: 0,
    };
    let root = builder.document();
    problems.extend(builder.problems.into_sorted());
    problems.keep(root)
}

struct Builder<'a> {
    source: &'a Source,
    events: Parser<'a, yaml::StrInput<'a>>,
    problems: Problems,
    anchors: HashMap<usize, (Node, usize)>,
    copied: usize,
}

impl<'a> Builder<'a> {
    fn next(&mut self) -> Result<(Event<'a>, Span), Diagnostic> {
        match self.events.next_event() {
            Some(Ok(event)) => Ok(event),
            Some(Err(error)) => Err(self.syntax_error(&error)),
            None => Err(Diagnostic::file(self.source.path(), "the file ends unexpectedly")),
        }
    }

    fn syntax_error(&self, error: &yaml::ScanError) -> Diagnostic {
        let (line, column) = (error.marker().line(), error.marker().col());
        let place = self.source.place(narrow(line), narrow(column).saturating_add(1), 1);
        let found = self.source.text().lines().nth(line.saturating_sub(1));
        let diagnostic = place.error(format!("not valid YAML: {}", error.info()));
        match found.and_then(|line| line.chars().nth(column)) {
            Some(c @ ('%' | '@' | '`')) => {
                diagnostic.help(format!("put text that begins with {c} in quotes"))
            }
            _ if found.is_some_and(|line| line.trim_start_matches(' ').starts_with('\t')) => {
                diagnostic.help("indent with spaces, not with tabs")
            }
            _ => diagnostic,
        }
    }

    fn place(&self, span: &Span) -> Place {
        let (start, end) = (span.start, span.end);
        let width =
            if start.line() == end.line() { end.col() - start.col().min(end.col()) } else { 1 };
        self.source.place(
            narrow(start.line()),
            narrow(start.col()).saturating_add(1),
            narrow(width),
        )
    }

    fn document(&mut self) -> Result<Node, Diagnostic> {
        let mut root: Option<Node> = None;
        loop {
            let (event, span) = self.next()?;
            match event {
                Event::StreamStart | Event::DocumentEnd => {}
                Event::StreamEnd => {
                    let at = self.source.place(1, 1, 1);
                    return Ok(root.unwrap_or(Node { at, value: Value::Null }));
                }
                Event::DocumentStart(..) if root.is_none() => {
                    let (event, span) = self.next()?;
                    root = Some(self.node(event, &span, 0)?.0);
                }
                _ => {
                    let place = self.place(&span);
                    return Err(place.error("a second document in one file").help(
                        "remove the '---' line, or put what follows it in a file of its own",
                    ));
                }
            }
        }
    }

    /// The node that an event begins, and how many nodes it consists of.
    fn node(
        &mut self,
        event: Event<'a>,
        span: &Span,
        depth: usize,
    ) -> Result<(Node, usize), Diagnostic> {
        let at = self.place(span);
        if depth > MAX_DEPTH {
            return Err(at.error("nested too deeply"));
        }
        let tag = event.tag().map(|tag| self.refuse_tag(tag, span));
        let anchor = event.anchor_id();
        let mut size = 1;
        let value = match event {
            // A tag that nothing follows was meant as a word.
            Event::Scalar(text, ScalarStyle::Plain, ..) if text.is_empty() && tag.is_some() => {
                Value::Scalar(Scalar { text: tag.unwrap_or_default(), plain: true })
            }
            Event::Scalar(text, style, ..) => scalar(text.into_owned(), style),
            Event::SequenceStart(..) => {
                let mut items = Vec::new();
                loop {
                    let (event, span) = self.next()?;
                    if event == Event::SequenceEnd {
                        break Value::List(items);
                    }
                    let (item, more) = self.node(event, &span, depth + 1)?;
                    items.push(item);
                    size += more;
                }
            }
            Event::MappingStart(..) => self.mapping(depth, &mut size)?,
            Event::Alias(id) => return self.alias(id, at),
            _ => return Err(at.error("not valid YAML here")),
        };
        let node = Node { at, value };
        if let Some(id) = anchor {
            self.anchors.insert(id, (node.clone(), size));
        }
        Ok((node, size))
    }

    fn mapping(&mut self, depth: usize, size: &mut usize) -> Result<Value, Diagnostic> {
        let mut entries: Vec<Entry> = Vec::new();
        let mut places: HashMap<String, Place> = HashMap::new();
        loop {
            let (event, span) = self.next()?;
            if event == Event::MappingEnd {
                return Ok(Value::Mapping(Mapping { entries }));
            }
            let (key, key_size) = self.node(event, &span, depth + 1)?;
            let (event, span) = self.next()?;
            let (node, node_size) = self.node(event, &span, depth + 1)?;
            *size += key_size + node_size;
            let Value::Scalar(Scalar { text, .. }) = key.value else {
                self.problems.push(key.at.error("a key has to be a word"));
                continue;
            };
            match places.get(&text) {
                Some(first) => {
                    self.problems.push(given_twice(&key.at, &format!("'{text}'"), first))
                }
                None => {
                    places.insert(text.clone(), key.at.clone());
                    entries.push(Entry { key: text, at: key.at, node });
                }
            }
        }
    }

    fn alias(&mut self, id: usize, at: Place) -> Result<(Node, usize), Diagnostic> {
        let Some((node, size)) = self.anchors.get(&id) else {
            return Err(at.error("this alias stands inside what it refers to"));
        };
        self.copied += size;
        if self.copied > MAX_COPIED {
            return Err(at.error("the aliases of this file add up to too much"));
        }
        Ok((node.clone(), *size))
    }

    /// Says so, and gives the tag as it is written.
    fn refuse_tag(&mut self, tag: &yaml::Tag, span: &Span) -> String {
        let written = tag.original();
        let start = span.tag_start().unwrap_or(span.start);
        let width = narrow(written.chars().count());
        let place =
            self.source.place(narrow(start.line()), narrow(start.col()).saturating_add(1), width);
        self.problems.push(
            place
                .error(format!("{written} without quotes is a YAML tag, which means nothing here"))
                .help(format!("write \"{written}\"")),
        );
        written
    }
}

fn narrow(number: usize) -> u32 {
    u32::try_from(number).unwrap_or(u32::MAX)
}

fn scalar(text: String, style: ScalarStyle) -> Value {
    let plain = style == ScalarStyle::Plain;
    if plain && matches!(text.as_str(), "" | "~" | "null" | "Null" | "NULL") {
        Value::Null
    } else {
        Value::Scalar(Scalar { text, plain })
    }
}

/// Of two places that give the same thing, the second leads.
pub fn given_twice(second: &Place, what: &str, first: &Place) -> Diagnostic {
    second.error(format!("{what} is given twice: first at {first}"))
}

impl Node {
    const fn kind(&self) -> &'static str {
        match &self.value {
            Value::Null => "nothing",
            Value::Scalar(_) => "a word",
            Value::List(_) => "a list",
            Value::Mapping(_) => "a mapping",
        }
    }

    /// The error that something else was wanted here; `wanted` has its article.
    pub fn unwanted(&self, wanted: &str) -> Diagnostic {
        self.at.error(format!("{wanted} belongs here, not {}", self.kind()))
    }

    /// The text of a value that is neither a list nor a mapping nor empty.
    ///
    /// # Errors
    /// Says that `wanted` belongs here.
    pub fn text(&self, wanted: &str) -> Result<&str, Diagnostic> {
        match &self.value {
            Value::Scalar(scalar) if !scalar.text.is_empty() => Ok(&scalar.text),
            Value::Scalar(_) => Err(self.at.error(format!("{wanted} belongs here, not nothing"))),
            _ => Err(self.unwanted(wanted)),
        }
    }

    /// # Errors
    /// Says that `wanted` belongs here, or what the type's parser says of the text.
    pub fn parsed<T: FromStr<Err: Display>>(&self, wanted: &str) -> Result<T, Diagnostic> {
        self.read(wanted, str::parse)
    }

    /// # Errors
    /// Says that `wanted` belongs here, or what `parser` says of the text.
    pub fn read<T, E: Display>(
        &self,
        wanted: &str,
        parser: impl FnOnce(&str) -> Result<T, E>,
    ) -> Result<T, Diagnostic> {
        parser(self.text(wanted)?).map_err(|error| self.at.error(error.to_string()))
    }

    /// # Errors
    /// Says that it is neither `true` nor `false`.
    pub fn boolean(&self) -> Result<bool, Diagnostic> {
        match &self.value {
            Value::Scalar(Scalar { text, plain: true }) if text == "true" => Ok(true),
            Value::Scalar(Scalar { text, plain: true }) if text == "false" => Ok(false),
            Value::Scalar(Scalar { text, .. }) => {
                Err(self.at.error(format!("'{text}' is neither true nor false")))
            }
            _ => Err(self.unwanted("true or false")),
        }
    }

    /// A whole number from `low` to `high`.
    ///
    /// # Errors
    /// Says which numbers are possible.
    pub fn integer(&self, low: u64, high: u64) -> Result<u64, Diagnostic> {
        let wanted = format!("a number from {low} to {high}");
        let text = self.text(&wanted)?;
        let digits = text.bytes().all(|byte| byte.is_ascii_digit());
        match text.parse() {
            Ok(number) if digits && (low..=high).contains(&number) => Ok(number),
            _ => Err(self.at.error(format!("'{text}' does not do here: write {wanted}"))),
        }
    }

    /// # Errors
    /// Says that `wanted`, a list, belongs here.
    pub fn list(&self, wanted: &str) -> Result<&[Self], Diagnostic> {
        match &self.value {
            Value::List(items) => Ok(items),
            _ => Err(self.unwanted(wanted)),
        }
    }

    /// # Errors
    /// Says that `wanted`, a mapping, belongs here.
    pub fn mapping(&self, wanted: &str) -> Result<&Mapping, Diagnostic> {
        match &self.value {
            Value::Mapping(mapping) => Ok(mapping),
            _ => Err(self.unwanted(wanted)),
        }
    }
}

impl Mapping {
    #[must_use]
    pub fn get(&self, key: &str) -> Option<&Entry> {
        self.entries.iter().find(|entry| entry.key == key)
    }

    /// The value of a key that is there and not empty.
    #[must_use]
    pub fn value(&self, key: &str) -> Option<&Node> {
        self.get(key).map(|entry| &entry.node).filter(|node| !matches!(node.value, Value::Null))
    }

    /// Reports every key that is not one of `keys`, and returns which those were probably meant to
    /// be: nobody need be told that they are missing.
    pub fn check_keys(&self, keys: &Keys, problems: &mut Problems) -> Vec<&'static str> {
        let mut found = Vec::new();
        for entry in &self.entries {
            if let Some((problem, meant)) = keys.problem(&entry.key, &entry.at) {
                problems.push(problem);
                found.extend(meant);
            }
        }
        found
    }
}

impl Keys {
    /// What is wrong with a key, if anything is.
    fn problem(&self, key: &str, at: &Place) -> Option<(Diagnostic, Option<&'static str>)> {
        if self.known.contains(&key) {
            return None;
        }
        if let Some((later, instead)) = self.later.iter().find(|(later, _)| *later == key) {
            let message = format!("'{key}' is not supported by this version yet");
            return Some((at.error(message).help(*instead), Some(later)));
        }
        let message = format!("'{key}' is not a key of {}", self.of);
        let meant = meant(key, self.known.iter().copied());
        let problem = match meant {
            Some(meant) => at.error(format!("{message}: did you mean '{meant}'?")),
            None => at.error(message).help(format!("its keys are: {}", self.known.join(", "))),
        };
        Some((problem, meant))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn read(text: &str) -> (Option<Node>, Vec<String>) {
        let mut problems = Problems::default();
        let node = parse(&Source::new("f.yaml", text), &mut problems);
        (node, problems.into_sorted().iter().map(|problem| problem.to_string()).collect())
    }

    fn first_line(text: &str) -> String {
        let (_, problems) = read(text);
        problems[0].lines().next().unwrap().to_owned()
    }

    #[test]
    fn every_key_and_value_knows_its_place() {
        let (root, problems) = read("doors:\n  ssh:\n    sequence: [7000, \"8000\"]\n");
        assert!(problems.is_empty());
        let root = root.unwrap();
        let doors = root.mapping("").unwrap().get("doors").unwrap();
        let ssh = doors.node.mapping("").unwrap().get("ssh").unwrap();
        let sequence = ssh.node.mapping("").unwrap().get("sequence").unwrap();
        let items = sequence.node.list("").unwrap();
        assert_eq!(ssh.at.to_string(), "f.yaml:2:3");
        assert_eq!(sequence.at.to_string(), "f.yaml:3:5");
        assert_eq!(items[1].at.to_string(), "f.yaml:3:22");
        assert_eq!(items[1].text("").unwrap(), "8000");
    }

    #[test]
    fn a_value_stays_as_it_was_spelt() {
        let (root, _) = read("a: 007\nb: no\nc: 1e3\nd: 7000:udp");
        let root = root.unwrap();
        let texts: Vec<_> =
            root.mapping("").unwrap().entries.iter().map(|e| e.node.text("").unwrap()).collect();
        assert_eq!(texts, ["007", "no", "1e3", "7000:udp"]);
    }

    #[test]
    fn a_key_given_twice_names_both_places() {
        assert_eq!(
            first_line("a: 1\nb: 2\na: 3\n"),
            "f.yaml:3:1: 'a' is given twice: first at f.yaml:1:1"
        );
    }

    #[test]
    fn an_unquoted_flag_is_told_to_take_quotes() {
        let (_, problems) = read("tcpflags: [syn, !ack]");
        assert!(problems[0].starts_with("f.yaml:1:17: !ack without quotes is a YAML tag"));
        assert!(problems[0].ends_with("write \"!ack\""), "{}", problems[0]);
    }

    #[test]
    fn an_unquoted_hole_is_told_to_take_quotes() {
        let (node, problems) = read("open: [iptables, -s, %IP%]");
        assert!(node.is_none());
        assert!(problems[0].starts_with("f.yaml:1:22: not valid YAML: "), "{}", problems[0]);
        assert!(problems[0].ends_with("put text that begins with % in quotes"), "{}", problems[0]);
    }

    #[test]
    fn a_second_document_is_refused() {
        assert!(first_line("a: 1\n---\nb: 2\n").contains("a second document"));
    }

    #[test]
    fn an_alias_is_a_copy_of_its_anchor() {
        let (root, problems) = read("a: &x [1, 2]\nb: *x\n");
        assert!(problems.is_empty());
        let root = root.unwrap();
        assert_eq!(root.mapping("").unwrap().value("b").unwrap().list("").unwrap().len(), 2);
    }

    #[test]
    fn aliases_cannot_grow_without_bound() {
        let mut text = "a0: &a0 [1, 1, 1, 1, 1, 1, 1, 1, 1, 1]\n".to_owned();
        for level in 1..20 {
            let copies = vec![format!("*a{}", level - 1); 10].join(", ");
            text.push_str(&format!("a{level}: &a{level} [{copies}]\n"));
        }
        assert!(first_line(&text).contains("add up to too much"));
    }

    #[test]
    fn deep_nesting_is_refused() {
        assert!(read(&"[".repeat(100_000)).0.is_none());
        assert!(read(&"- ".repeat(100_000)).0.is_none());
    }

    #[test]
    fn a_boolean_is_true_or_false() {
        let (root, _) = read("a: true\nb: yes\n");
        let root = root.unwrap();
        let mapping = root.mapping("").unwrap();
        assert!(mapping.value("a").unwrap().boolean().unwrap());
        let error = mapping.value("b").unwrap().boolean().unwrap_err();
        assert_eq!(error.message(), "'yes' is neither true nor false");
    }

    #[test]
    fn an_unknown_key_names_the_one_that_was_meant() {
        let keys =
            Keys { of: "a host", known: &["host", "ports"], later: &[("totp", "leave it out")] };
        let (root, _) = read("prots: 1\ntotp: 2\nbanana: 3\n");
        let mut problems = Problems::default();
        root.unwrap().mapping("").unwrap().check_keys(&keys, &mut problems);
        let messages: Vec<_> =
            problems.into_sorted().iter().map(|problem| problem.message().to_owned()).collect();
        assert_eq!(
            messages,
            [
                "'prots' is not a key of a host: did you mean 'ports'?",
                "'totp' is not supported by this version yet",
                "'banana' is not a key of a host",
            ]
        );
    }

    proptest! {
        #[test]
        fn no_text_makes_it_panic(text in "(?s).{0,200}") {
            let _ = read(&text);
        }

        #[test]
        fn no_yaml_like_text_makes_it_panic(text in "[ \n:\\-\\[\\]{},&*!%a\"'|>?#~0]{0,80}") {
            let _ = read(&text);
        }
    }
}
