//! YAML as a tree in which every key and value knows its place.
//!
//! [`parse`] makes it of a text; [`Node`] and [`Mapping`] are asked for what belongs in them, and
//! say what else they found.

use std::fmt::Display;
use std::path::PathBuf;
use std::str::FromStr;

use super::diagnostic::{Diagnostic, Place, Problems, meant};
pub use super::yaml::parse;

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

    /// The value that a word stands for.
    ///
    /// # Errors
    /// Says which words there are.
    pub fn one_of<T: Copy>(&self, choices: &[(&str, T)]) -> Result<T, Diagnostic> {
        let names = || choices.iter().map(|(name, _)| *name);
        let list = names().collect::<Vec<_>>().join(", ");
        let text = self.text(&format!("one of {list}"))?;
        if let Some((_, value)) = choices.iter().find(|(name, _)| *name == text) {
            return Ok(*value);
        }
        let message = format!("'{text}' is none of {list}");
        Err(match meant(text, names()) {
            Some(meant) => self.at.error(format!("{message}: did you mean '{meant}'?")),
            None => self.at.error(message),
        })
    }

    /// A path from `/` on.
    ///
    /// # Errors
    /// Says that it is none.
    pub fn path(&self) -> Result<PathBuf, Diagnostic> {
        let path = PathBuf::from(self.text("a path")?);
        if path.is_absolute() {
            return Ok(path);
        }
        let message = format!("'{}' depends on where knockd is started", path.display());
        Err(self.at.error(message).help("write the whole path, from / on"))
    }

    /// The items of a list; of anything else, itself.
    #[must_use]
    pub fn items(&self) -> &[Self] {
        match &self.value {
            Value::List(items) => items,
            _ => std::slice::from_ref(self),
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

    /// As [`mapping`](Self::mapping), for whoever needs the rest no more.
    ///
    /// # Errors
    /// As [`mapping`](Self::mapping).
    pub fn into_mapping(self, wanted: &str) -> Result<Mapping, Diagnostic> {
        match self.value {
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
        if key == "<<" {
            let problem = at.error("merge keys of YAML are not read");
            return Some((problem.help("write the keys out"), None));
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
    use super::super::diagnostic::Source;
    use super::*;

    fn read(text: &str) -> Node {
        parse(&Source::new("f.yaml", text), &mut Problems::default()).unwrap()
    }

    #[test]
    fn a_boolean_is_true_or_false() {
        let root = read("a: true\nb: yes\n");
        let mapping = root.mapping("").unwrap();
        assert!(mapping.value("a").unwrap().boolean().unwrap());
        let error = mapping.value("b").unwrap().boolean().unwrap_err();
        assert_eq!(error.message(), "'yes' is neither true nor false");
    }

    #[test]
    fn an_unknown_key_names_the_one_that_was_meant() {
        let keys = Keys { of: "a host", known: &["host", "ports"] };
        let root = read("prots: 1\nbanana: 3\n");
        let mut problems = Problems::default();
        root.mapping("").unwrap().check_keys(&keys, &mut problems);
        let messages: Vec<_> =
            problems.into_sorted().iter().map(|problem| problem.message().to_owned()).collect();
        assert_eq!(
            messages,
            [
                "'prots' is not a key of a host: did you mean 'ports'?",
                "'banana' is not a key of a host",
            ]
        );
    }
}
