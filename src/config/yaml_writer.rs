//! YAML as it is written: every text comes back from the loader as it went in.

use std::borrow::Cow;
use std::fmt::Write;

/// A YAML document in the making, line by line.
#[derive(Debug, Default, PartialEq, Eq, Hash)]
pub(crate) struct YamlWriter(String);

impl YamlWriter {
    pub(crate) fn blank(&mut self) {
        if !self.0.is_empty() {
            self.0.push('\n');
        }
    }

    /// Lines that nothing reads. Control characters are left out.
    pub(crate) fn comment(&mut self, depth: usize, text: &str) {
        for line in text.split('\n') {
            let clean: String = line.chars().filter(|&c| printable(c)).collect();
            self.line(depth, format!("# {clean}").trim_end());
        }
    }

    /// A key whose value stands below it, one step deeper.
    pub(crate) fn open(&mut self, depth: usize, key: &str) {
        self.line(depth, &format!("{}:", scalar(key)));
    }

    /// A key with what another page says below it, if that is anything.
    pub(crate) fn section(&mut self, depth: usize, key: &str, below: &Self) {
        if !below.0.is_empty() {
            self.open(depth, key);
            self.append(below);
        }
    }

    pub(crate) fn entry(&mut self, depth: usize, key: &str, value: &str) {
        self.line(depth, &format!("{}: {}", scalar(key), scalar(value)));
    }

    /// The same where there is a value.
    pub(crate) fn optional(&mut self, depth: usize, key: &str, value: Option<impl ToString>) {
        if let Some(value) = value {
            self.entry(depth, key, &value.to_string());
        }
    }

    pub(crate) fn list<T: ToString>(&mut self, depth: usize, key: &str, items: &[T]) {
        let items: Vec<_> = items.iter().map(|it| scalar(&it.to_string()).into_owned()).collect();
        self.line(depth, &format!("{}: [{}]", scalar(key), items.join(", ")));
    }

    /// An item of a list that is written line by line.
    pub(crate) fn item(&mut self, depth: usize, text: &str) {
        self.line(depth, &format!("- {}", scalar(text)));
    }

    /// The lines of another page, none of them less deep than this, turned into comments there.
    pub(crate) fn commented(&mut self, depth: usize, page: &Self) {
        for line in page.0.lines() {
            let line = line.get(depth * 2..).unwrap_or_default();
            self.line(depth, format!("# {line}").trim_end());
        }
    }

    pub(crate) fn append(&mut self, other: &Self) {
        self.0.push_str(&other.0);
    }

    pub(crate) const fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub(crate) fn into_text(self) -> String {
        self.0
    }

    /// A line as it is.
    pub(crate) fn line(&mut self, depth: usize, text: &str) {
        // Writing to a string cannot fail.
        let _ = writeln!(self.0, "{:depth$}{text}", "", depth = depth * 2);
    }
}

/// A text as a scalar that stands for exactly this text, in a block and in a list.
fn scalar(text: &str) -> Cow<'_, str> {
    let bare = |c: char| c.is_ascii_alphanumeric() || " _./%=+@-".contains(c);
    let starts = |c: char| c.is_ascii_alphanumeric() || "_/".contains(c);
    let null = ["null", "Null", "NULL"].contains(&text);
    if text.starts_with(starts) && text.chars().all(bare) && !text.ends_with(' ') && !null {
        return Cow::Borrowed(text);
    }
    if text.chars().all(printable) {
        return Cow::Owned(format!("'{}'", text.replace('\'', "''")));
    }
    let mut quoted = String::from("\"");
    for c in text.chars() {
        match c {
            '"' | '\\' => quoted.extend(['\\', c]),
            '\t' => quoted.push_str("\\t"),
            c if printable(c) => quoted.push(c),
            c => {
                let _ = write!(quoted, "\\U{:08x}", u32::from(c));
            }
        }
    }
    quoted.push('"');
    Cow::Owned(quoted)
}

/// Whether a character may stand in YAML as it is, and ends no line there.
fn printable(c: char) -> bool {
    !c.is_control() && !matches!(c, '\u{2028}' | '\u{2029}' | '\u{feff}' | '\u{fffe}' | '\u{ffff}')
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::config::diagnostic::{Problems, SourceText};
    use crate::config::tree::Value;
    use crate::config::yaml;

    /// What the loader makes of a page with one mapping.
    fn read(page: YamlWriter) -> Vec<(String, Vec<String>)> {
        let mut problems = Problems::default();
        let source = SourceText::new("page", page.into_text());
        let root = yaml::parse(&source, &mut problems).expect("the page is YAML");
        assert!(!problems.has_errors());
        let entries = &root.mapping("").unwrap().entries;
        let texts = |value: &Value| match value {
            Value::Scalar(scalar) => vec![scalar.text.clone()],
            Value::List(items) => items
                .iter()
                .map(|item| match &item.value {
                    Value::Scalar(scalar) => scalar.text.clone(),
                    other => panic!("{other:?}"),
                })
                .collect(),
            other => panic!("{other:?}"),
        };
        entries.iter().map(|entry| (entry.key.clone(), texts(&entry.node.value))).collect()
    }

    #[test]
    fn a_plain_command_stays_readable() {
        let command = "/usr/sbin/iptables -A INPUT -p tcp --dport 22 -s %IP% -j ACCEPT";
        assert_eq!(scalar(command), command);
        assert_eq!(scalar("7000/udp"), "7000/udp");
    }

    #[test]
    fn what_yaml_would_read_otherwise_is_quoted() {
        for (text, quoted) in [
            ("", "''"),
            ("null", "'null'"),
            ("~", "'~'"),
            ("-x", "'-x'"),
            ("it's", "'it''s'"),
            ("a: b", "'a: b'"),
            ("a #b", "'a #b'"),
            ("a ", "'a '"),
            ("%IP%", "'%IP%'"),
            ("a\tb", "\"a\\tb\""),
        ] {
            assert_eq!(scalar(text), quoted);
        }
    }

    #[test]
    fn what_is_commented_out_reads_as_nothing() {
        let mut inner = YamlWriter::default();
        inner.open(1, "ssh");
        inner.entry(2, "open", "22");
        let mut page = YamlWriter::default();
        page.entry(0, "a", "b");
        page.commented(1, &inner);
        page.comment(0, "two\nlines\u{7}");
        assert_eq!(page.0, "a: b\n  # ssh:\n  #   open: 22\n# two\n# lines\n");
        assert_eq!(read(page).len(), 1);
    }

    proptest! {
        #[test]
        fn every_text_comes_back_as_it_went_in(
            text: String,
            items in prop::collection::vec(any::<String>(), 1..4),
        ) {
            let mut page = YamlWriter::default();
            page.comment(0, &text);
            page.entry(0, &text, &text);
            page.list(0, &format!("{text}2"), &items);
            let read = read(page);
            prop_assert_eq!(&read[0], &(text.clone(), vec![text.clone()]));
            prop_assert_eq!(&read[1], &(format!("{text}2"), items));
        }

        #[test]
        fn what_looks_like_yaml_comes_back_as_text(text in "[ \n:\\-\\[\\]{},&*!%a\"'|>?#~0.=<\\\\@`]{0,20}") {
            let mut page = YamlWriter::default();
            page.entry(0, "a", &text);
            page.list(0, "b", &[&text, &text]);
            let read = read(page);
            prop_assert_eq!(&read[0].1, &vec![text.clone()]);
            prop_assert_eq!(&read[1].1, &vec![text.clone(), text]);
        }
    }
}
