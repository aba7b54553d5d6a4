//! YAML as a tree in which every key and value knows its place.
//!
//! [`parse`] makes it of a text; [`Node`] and [`Mapping`] are asked for what belongs in them, and
//! say what else they found.

use std::fmt::Display;
use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

use crate::config::diagnostic::{Diagnostic, Place, Problems, Reported, closest_match};
use crate::proto::duration;
use crate::proto::name::Name;

/// A value and its place.
#[derive(Clone, Debug)]
pub(crate) struct Node {
    pub at: Place,
    pub value: Value,
}

/// What stands at a place.
#[derive(Clone, Debug)]
pub(crate) enum Value {
    /// Nothing, `~` or `null`.
    Null,
    Scalar(Scalar),
    List(Vec<Node>),
    Mapping(Mapping),
}

/// A value as it was written: `7000`, `yes` and `"7000"` are all text here.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Scalar {
    pub text: String,
    /// Without quotes, and no block.
    pub plain: bool,
}

/// Keys, each once, in the order of the file.
#[derive(Clone, Debug)]
pub(crate) struct Mapping {
    pub entries: Vec<MappingEntry>,
}

/// A key, its place and its value.
#[derive(Clone, Debug)]
pub(crate) struct MappingEntry {
    pub key: String,
    pub at: Place,
    pub node: Node,
}

/// The keys that a mapping may have.
#[derive(Clone, Copy, Debug)]
pub struct KnownKeys {
    /// What has them, with its article: `a door`.
    pub of: &'static str,
    pub known: &'static [&'static str],
}

/// The error that two places give the same thing; the second leads.
pub(crate) fn given_twice(second: &Place, what: &str, first: &Place) -> Diagnostic {
    second.error(format!("{what} is given twice: first at {first}"))
}

/// A path from `/` on.
///
/// # Errors
/// Says that it is none.
pub(crate) fn absolute_path(text: &str, at: &Place) -> Result<PathBuf, Diagnostic> {
    let path = PathBuf::from(text);
    if path.is_absolute() {
        return Ok(path);
    }
    let message = format!("'{text}' depends on where knockd is started");
    Err(at.error(message).help("write the whole path, from / on"))
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
    pub(crate) fn unwanted(&self, wanted: &str) -> Diagnostic {
        self.at.error(format!("{wanted} belongs here, not {}", self.kind()))
    }

    /// The text of a value that is neither a list nor a mapping nor empty.
    ///
    /// # Errors
    /// Says that `wanted` belongs here.
    pub(crate) fn text(&self, wanted: &str) -> Result<&str, Diagnostic> {
        match &self.value {
            Value::Scalar(scalar) if !scalar.text.is_empty() => Ok(&scalar.text),
            Value::Scalar(_) => Err(self.at.error(format!("{wanted} belongs here, not nothing"))),
            _ => Err(self.unwanted(wanted)),
        }
    }

    /// What the type's own parser makes of the text.
    ///
    /// # Errors
    /// Says that `wanted` belongs here, or what the type's parser says of the text.
    pub(crate) fn parsed<T: FromStr<Err: Display>>(&self, wanted: &str) -> Result<T, Diagnostic> {
        self.read(wanted, str::parse)
    }

    /// What a parser makes of the text.
    ///
    /// # Errors
    /// Says that `wanted` belongs here, or what `parser` says of the text.
    pub(crate) fn read<T, E: Display>(
        &self,
        wanted: &str,
        parser: impl FnOnce(&str) -> Result<T, E>,
    ) -> Result<T, Diagnostic> {
        parser(self.text(wanted)?).map_err(|error| self.at.error(error.to_string()))
    }

    /// `true` or `false`.
    ///
    /// # Errors
    /// Says that it is neither `true` nor `false`.
    pub(crate) fn boolean(&self) -> Result<bool, Diagnostic> {
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
    pub(crate) fn integer<T>(&self, low: T, high: T) -> Result<T, Diagnostic>
    where
        T: FromStr + PartialOrd + Display,
    {
        let wanted = format!("a number from {low} to {high}");
        let text = self.text(&wanted)?;
        let digits = text.bytes().all(|byte| byte.is_ascii_digit());
        match text.parse::<T>() {
            Ok(number) if digits && (low..=high).contains(&number) => Ok(number),
            _ => Err(self.at.error(format!("'{text}' is not valid here: write {wanted}"))),
        }
    }

    /// A duration of at least `least`; `key` is what the error calls it.
    ///
    /// # Errors
    /// Says that it is not a duration, or too short.
    pub(crate) fn duration(&self, key: &str, least: Duration) -> Result<Duration, Diagnostic> {
        let time = self.read("a duration such as 30s or 5m", duration::parse)?;
        if time >= least {
            Ok(time)
        } else if time.is_zero() {
            Err(self.at.error(format!("{key} cannot be zero")))
        } else {
            let least = duration::format(least);
            Err(self.at.error(format!("{key} has to be at least {least}")))
        }
    }

    /// The value that a word stands for.
    ///
    /// # Errors
    /// Says which words there are.
    pub(crate) fn one_of<T: Copy>(&self, choices: &[(&str, T)]) -> Result<T, Diagnostic> {
        let names = || choices.iter().map(|(name, _)| *name);
        let list = names().collect::<Vec<_>>().join(", ");
        let text = self.text(&format!("one of {list}"))?;
        if let Some((_, value)) = choices.iter().find(|(name, _)| *name == text) {
            return Ok(*value);
        }
        let message = format!("'{text}' is none of {list}");
        Err(match closest_match(text, names()) {
            Some(meant) => self.at.error(format!("{message}: did you mean '{meant}'?")),
            None => self.at.error(message),
        })
    }

    /// A path from `/` on.
    ///
    /// # Errors
    /// Says that it is none.
    pub(crate) fn path(&self) -> Result<PathBuf, Diagnostic> {
        absolute_path(self.text("a path")?, &self.at)
    }

    /// The items of a list; of anything else, itself.
    pub(crate) fn items(&self) -> &[Self] {
        match &self.value {
            Value::List(items) => items,
            _ => std::slice::from_ref(self),
        }
    }

    /// The items of a list.
    ///
    /// # Errors
    /// Says that `wanted`, a list, belongs here.
    pub(crate) fn list(&self, wanted: &str) -> Result<&[Self], Diagnostic> {
        match &self.value {
            Value::List(items) => Ok(items),
            _ => Err(self.unwanted(wanted)),
        }
    }

    /// The mapping that stands here.
    ///
    /// # Errors
    /// Says that `wanted`, a mapping, belongs here.
    pub(crate) fn mapping(&self, wanted: &str) -> Result<&Mapping, Diagnostic> {
        match &self.value {
            Value::Mapping(mapping) => Ok(mapping),
            _ => Err(self.unwanted(wanted)),
        }
    }

    /// As [`mapping`](Self::mapping), for whoever needs the rest no more.
    ///
    /// # Errors
    /// As [`mapping`](Self::mapping).
    pub(crate) fn into_mapping(self, wanted: &str) -> Result<Mapping, Diagnostic> {
        match self.value {
            Value::Mapping(mapping) => Ok(mapping),
            _ => Err(self.unwanted(wanted)),
        }
    }
}

impl Mapping {
    pub(crate) fn get(&self, key: &str) -> Option<&MappingEntry> {
        self.entries.iter().find(|entry| entry.key == key)
    }

    /// The value of a key that is there and not empty.
    pub(crate) fn value(&self, key: &str) -> Option<&Node> {
        self.get(key).map(|entry| &entry.node).filter(|node| !matches!(node.value, Value::Null))
    }

    /// Reports every key that is not one of `keys`, and returns which those were probably meant to
    /// be: nobody need be told that they are missing.
    pub(crate) fn check_keys(
        &self,
        keys: &KnownKeys,
        problems: &mut Problems,
    ) -> Vec<&'static str> {
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

impl MappingEntry {
    /// The key as a name.
    pub(super) fn name(&self) -> Result<Name, Diagnostic> {
        self.key
            .parse()
            .map_err(|error| self.at.error(format!("'{}' is not a name: {error}", self.key)))
    }
}

/// A mapping that is being read; what is wrong in it is reported.
pub(crate) struct Reader<'a> {
    pub mapping: &'a Mapping,
    /// What unknown keys were probably meant to be.
    pub misspelt: Vec<&'static str>,
    pub problems: &'a mut Problems,
}

impl<'a> Reader<'a> {
    /// Takes a node for a mapping, and reports the keys that it should not have.
    ///
    /// # Errors
    /// Where `wanted`, a mapping, belongs there.
    pub(crate) fn new(
        node: &'a Node,
        wanted: &str,
        keys: &KnownKeys,
        problems: &'a mut Problems,
    ) -> Result<Self, Reported> {
        let mapping = problems.report(node.mapping(wanted))?;
        Ok(Self { mapping, misspelt: mapping.check_keys(keys, problems), problems })
    }

    pub(crate) fn get(&self, key: &str) -> Option<&'a MappingEntry> {
        self.mapping.get(key)
    }

    pub(crate) fn value(&self, key: &str) -> Option<&'a Node> {
        self.mapping.value(key)
    }

    /// Where the value of a key is.
    pub(crate) fn place(&self, key: &str) -> Option<Place> {
        self.value(key).map(|node| node.at.clone())
    }

    /// The value of a key, where it is there.
    ///
    /// # Errors
    /// Where it is wrong.
    pub(crate) fn read<T>(
        &mut self,
        key: &str,
        read: impl FnOnce(&'a Node) -> Result<T, Diagnostic>,
    ) -> Result<Option<T>, Reported> {
        self.problems.report(self.mapping.value(key).map(read).transpose())
    }

    /// The value of a key; `missing` is the error where it is not there, and no misspelt key was
    /// meant to be it.
    ///
    /// # Errors
    /// Where it is missing or wrong.
    pub(crate) fn require<T>(
        &mut self,
        key: &str,
        read: impl FnOnce(&'a Node) -> Result<T, Diagnostic>,
        missing: Diagnostic,
    ) -> Result<T, Reported> {
        match self.read(key, read)? {
            Some(value) => Ok(value),
            None => self.missing(&[key], missing),
        }
    }

    /// Sets what a key says, where it is there and right.
    pub(crate) fn set<T>(
        &mut self,
        key: &str,
        to: &mut T,
        read: impl FnOnce(&'a Node) -> Result<T, Diagnostic>,
    ) {
        if let Ok(Some(value)) = self.read(key, read) {
            *to = value;
        }
    }

    /// The duration of a key, where it is there.
    ///
    /// # Errors
    /// Where it is not a duration, or less than `least`.
    pub(crate) fn duration(
        &mut self,
        key: &str,
        least: Duration,
    ) -> Result<Option<Duration>, Reported> {
        self.read(key, |node| node.duration(key, least))
    }

    /// Two values of which none makes sense alone.
    ///
    /// # Errors
    /// Where one is missing or wrong.
    pub(crate) fn both<A, B>(
        &mut self,
        (key, one): (&str, Result<Option<A>, Reported>),
        (other_key, other): (&str, Result<Option<B>, Reported>),
    ) -> Result<Option<(A, B)>, Reported> {
        let (there, missing) = match (one?, other?) {
            (Some(one), Some(other)) => return Ok(Some((one, other))),
            (None, None) => return Ok(None),
            (Some(_), None) => (key, other_key),
            (None, Some(_)) => (other_key, key),
        };
        let Some(entry) = self.get(there) else { return Ok(None) };
        let error = entry.at.error(format!("'{there}' without '{missing}'"));
        self.fail(error.help(format!("write {missing} too, or remove {there}")))
    }

    /// Reports an error in place of a value.
    ///
    /// # Errors
    /// Always: reports an error.
    pub(crate) fn fail<T>(&mut self, error: Diagnostic) -> Result<T, Reported> {
        self.problems.report(Err(error))
    }

    /// Reports that a key is missing.
    ///
    /// # Errors
    /// Always: reports that one of `keys` is missing, unless a misspelt one was meant to be it.
    pub(crate) fn missing<T>(&mut self, keys: &[&str], error: Diagnostic) -> Result<T, Reported> {
        if self.misspelt.iter().any(|key| keys.contains(key)) {
            return Err(self.problems.reported());
        }
        self.fail(error)
    }
}

impl KnownKeys {
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
        let meant = closest_match(key, self.known.iter().copied());
        let help = format!("its keys are: {}", self.known.join(", "));
        Some((at.misspelt(&message, meant, &help), meant))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::diagnostic::SourceText;

    fn read(text: &str) -> Node {
        crate::config::yaml::parse(&SourceText::new("f.yaml", text), &mut Problems::default())
            .unwrap()
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
        let keys = KnownKeys { of: "a host", known: &["host", "ports"] };
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
