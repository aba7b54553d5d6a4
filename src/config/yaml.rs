//! Parser of YAML into a tree in which every key and value knows its place.
//!
//! It is built from the parser's events: the usual way through serde ends at the first mistake and
//! forgets how a value was spelt and where the first of two equal keys stood.

use std::collections::HashMap;

use serde_yaml::granit_parser::{self as yaml, Event, Parser, ScalarStyle, Span};

use super::tree::{Mapping, MappingEntry, Node, Scalar, Value, refuse_repetitions};
use crate::config::diagnostic::narrow;
use crate::config::{Diagnosed, Diagnostic, Place, Problems, SourceText};

/// How deep a file may nest; a configuration needs six levels.
const MAX_DEPTH: usize = 32;
/// How many nodes the aliases of a file may add up to.
const MAX_COPIED: usize = 100_000;

/// Reads one file; what is wrong goes to `problems`. An empty file is [`Value::Null`].
///
/// `None` if the text is not YAML at all: then the first error is all that can be said.
pub(crate) fn parse(source: &SourceText, problems: &mut Problems) -> Option<Node> {
    let options = yaml::options! {
        flow_nesting_limit: MAX_DEPTH,
        block_nesting_limit: MAX_DEPTH,
        disallow_directives: true,
    };
    let mut builder = TreeBuilder {
        source,
        events: Parser::new_from_str_with_options(source.text(), options),
        problems: Problems::default(),
        anchors: HashMap::new(),
        copied: 0,
    };
    let root = builder.document();
    problems.extend(builder.problems.into_sorted());
    problems.ok_or_report(root)
}

struct TreeBuilder<'a> {
    source: &'a SourceText,
    events: Parser<'a, yaml::StrInput<'a>>,
    problems: Problems,
    anchors: HashMap<usize, (Node, usize)>,
    copied: usize,
}

impl<'a> TreeBuilder<'a> {
    fn next(&mut self) -> Diagnosed<(Event<'a>, Span)> {
        match self.events.next_event() {
            Some(Ok(event)) => Ok(event),
            Some(Err(error)) => Err(self.syntax_error(&error)),
            None => Err(Diagnostic::file(self.source.path(), "the file ends unexpectedly")),
        }
    }

    fn syntax_error(&self, error: &yaml::ScanError) -> Diagnostic {
        let at = error.marker();
        let diagnostic = self.place_at(at, 1).error(format!("not valid YAML: {}", error.info()));
        match hint(self.source.text(), at.line(), at.col()) {
            Some(hint) => diagnostic.help(hint),
            None => diagnostic,
        }
    }

    fn place(&self, span: &Span) -> Place {
        let (start, end) = (span.start, span.end);
        if start.line() == end.line() {
            return self.place_at(&start, end.col() - start.col().min(end.col()));
        }
        self.place_at(&start, 1).of_text(span.slice(self.source.text()).unwrap_or_default())
    }

    /// A marker counts columns from 0.
    fn place_at(&self, at: &yaml::Marker, width: usize) -> Place {
        self.source.place(narrow(at.line()), narrow(at.col()).saturating_add(1), narrow(width))
    }

    fn document(&mut self) -> Diagnosed<Node> {
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
                    return Err(self.place(&span).error("a second document in one file").help(
                        "remove the '---' line, or put what follows it in a file of its own",
                    ));
                }
            }
        }
    }

    /// The node that an event begins, and how many nodes it consists of.
    fn node(&mut self, event: Event<'a>, span: &Span, depth: usize) -> Diagnosed<(Node, usize)> {
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

    fn mapping(&mut self, depth: usize, size: &mut usize) -> Diagnosed<Value> {
        let mut entries: Vec<MappingEntry> = Vec::new();
        loop {
            let (event, span) = self.next()?;
            if event == Event::MappingEnd {
                self.problems.extend(refuse_repetitions(&mut entries, |key| format!("'{key}'")));
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
            entries.push(MappingEntry { key: text, at: key.at, node });
        }
    }

    fn alias(&mut self, id: usize, at: Place) -> Diagnosed<(Node, usize)> {
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
        let place = self.place_at(&span.tag_start().unwrap_or(span.start), written.chars().count());
        let message = format!("'{written}' without quotes is a YAML tag, which means nothing here");
        self.problems.push(place.error(message).help("put text that begins with ! in quotes"));
        written
    }
}

/// What is probably wrong where the parser gave up, or shortly before. `number` counts from 1,
/// `column` from 0.
fn hint(text: &str, number: usize, column: usize) -> Option<String> {
    let line = text.lines().nth(number.checked_sub(1)?).unwrap_or_default();
    if let Some(c @ ('%' | '@' | '`')) = line.chars().nth(column) {
        return Some(format!("put text that begins with {c} in quotes"));
    }
    if line.trim_start_matches(' ').starts_with('\t') {
        return Some("indent with spaces, not with tabs".to_owned());
    }
    // The line itself, or the last one above it that says something.
    let above = text.lines().zip(1..).take(number.saturating_sub(1)).collect::<Vec<_>>();
    let says = |line: &str| !line.trim().is_empty() && !line.trim_start().starts_with('#');
    let before = above.into_iter().rev().find(|(line, _)| says(line));
    let near = || [Some((line, number)), before].into_iter().flatten();
    let find = |wrong: fn(&str) -> bool| near().find(|(line, _)| wrong(line)).map(|(_, at)| at);
    if let Some(at) = find(lacks_blank) {
        return Some(format!("put a blank after the colon in line {at}"));
    }
    if let Some(at) = find(|line| line.matches('"').count() % 2 == 1) {
        return Some(format!("a quotation mark is missing, probably in line {at}"));
    }
    let opened = |line: &str| line.matches(['[', '{']).count() > line.matches([']', '}']).count();
    if let Some(at) = find(opened) {
        return Some(format!("a bracket is not closed, probably in line {at}"));
    }
    if line.matches(": ").count() > 1 {
        return Some("put text with a colon in it in quotes".to_owned());
    }
    let indent = |line: &str| line.len() - line.trim_start().len();
    (says(line) && before.is_some_and(|(before, _)| indent(before) != indent(line))).then(|| {
        "keys that belong together begin in the same column: check how far this line is indented"
            .to_owned()
    })
}

/// Whether a line begins as `key:value` does.
fn lacks_blank(line: &str) -> bool {
    let word = |c: char| c.is_ascii_alphanumeric() || "_.-".contains(c);
    line.split_once(':').is_some_and(|(key, value)| {
        !key.trim().is_empty() && key.trim().chars().all(word) && value.starts_with(['[', '{', '"'])
    })
}

fn scalar(text: String, style: ScalarStyle) -> Value {
    let plain = style == ScalarStyle::Plain;
    if plain && matches!(text.as_str(), "" | "~" | "null" | "Null" | "NULL") {
        Value::Null
    } else {
        Value::Scalar(Scalar { text, plain })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn read(text: &str) -> (Option<Node>, Vec<String>) {
        let mut problems = Problems::default();
        let node = parse(&SourceText::new("f.yaml", text), &mut problems);
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
            "f.yaml:3:1: error: 'a' is given twice: first at f.yaml:1:1"
        );
    }

    #[test]
    fn an_unquoted_flag_is_told_to_take_quotes() {
        let (_, problems) = read("tcpflags: [syn, !ack]");
        assert!(problems[0].starts_with("f.yaml:1:17: error: '!ack' without quotes is a YAML tag"));
        assert!(problems[0].ends_with("put text that begins with ! in quotes"), "{}", problems[0]);
    }

    #[test]
    fn an_unquoted_hole_is_told_to_take_quotes() {
        let (node, problems) = read("open: [iptables, -s, %IP%]");
        assert!(node.is_none());
        assert!(problems[0].starts_with("f.yaml:1:22: error: not valid YAML: "), "{}", problems[0]);
        assert!(problems[0].ends_with("put text that begins with % in quotes"), "{}", problems[0]);
    }

    #[test]
    fn where_the_parser_gives_up_the_probable_mistake_is_named() {
        for (text, hint) in [
            ("a:\n  b:[1]\n  c: d\n", "put a blank after the colon in line 2"),
            ("a: \"b\nc: d\n", "a quotation mark is missing, probably in line 1"),
            ("a: [1, 2\nb: c\n", "a bracket is not closed, probably in line 1"),
            ("a: b c: d\n", "put text with a colon in it in quotes"),
            ("a:\n  b: 1\n   c: 2\n", "keys that belong together begin in the same column"),
            ("a:\n\tb: 1\n", "indent with spaces, not with tabs"),
        ] {
            let (_, problems) = read(text);
            assert!(problems[0].contains(hint), "{text:?}: {}", problems[0]);
        }
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
