//! YAML as a tree in which every key and value knows its place.
//!
//! [`yaml`](super::yaml) makes it of a text; [`Node`] and [`Mapping`] are asked for what belongs in
//! them, and say what else they found.

use std::collections::HashMap;
use std::fmt::Display;
use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

use crate::config::diagnostic::{Parsed, closest_match};
use crate::config::{Diagnosed, Diagnostic, Place, Problems};
use crate::proto::duration;
use crate::proto::name::Name;

/// A value and its place.
#[derive(Clone, Debug)]
pub(crate) struct Node {
    pub at: Place,
    pub value: Value,
}

/// The value of a node, before anybody has asked for its type.
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
    /// In groups: a blank is between two of one.
    pub known: &'static [&'static str],
}

impl KnownKeys {
    /// Each of them.
    pub(crate) fn names(&self) -> impl Iterator<Item = &'static str> {
        self.known.iter().flat_map(|some| some.split(' '))
    }
}

/// The error that two places give the same thing; the second leads.
pub(crate) fn given_twice(second: &Place, what: &str, first: &Place) -> Diagnostic {
    second.error(format!("{what} is given twice: first at {first}"))
}

/// Removes all entries but the first of each key, and returns the errors that they are given twice;
/// `what` names the thing that a key gives.
///
/// No key is copied for that: what is freed in the midst of a tree is where the configuration would
/// be put, and keep its pages.
pub(super) fn refuse_repetitions(
    entries: &mut Vec<MappingEntry>,
    what: impl Fn(&str) -> String,
) -> Vec<Diagnostic> {
    let mut first: HashMap<&str, &Place> = HashMap::new();
    let mut is_first = Vec::with_capacity(entries.len());
    let mut errors = Vec::new();
    for MappingEntry { key, at, .. } in entries.iter() {
        let earlier = first.get(key.as_str()).copied();
        let twice = earlier.map(|earlier| given_twice(at, &what(key), earlier));
        is_first.push(twice.is_none());
        errors.extend(twice);
        first.entry(key).or_insert(at);
    }
    let mut is_first = is_first.into_iter();
    entries.retain(|_| is_first.next().unwrap_or(true));
    errors
}

/// A path from `/` on.
///
/// # Errors
/// Says that it is none.
pub(crate) fn absolute_path(text: &str, at: &Place) -> Diagnosed<PathBuf> {
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
    pub(crate) fn text(&self, wanted: &str) -> Diagnosed<&str> {
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
    pub(crate) fn parsed<T: FromStr<Err: Display>>(&self, wanted: &str) -> Diagnosed<T> {
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
    ) -> Diagnosed<T> {
        parser(self.text(wanted)?).map_err(|error| self.at.error(error.to_string()))
    }

    /// `true` or `false`.
    ///
    /// # Errors
    /// Says that it is neither `true` nor `false`.
    pub(crate) fn boolean(&self) -> Diagnosed<bool> {
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
    pub(crate) fn integer<T>(&self, low: T, high: T) -> Diagnosed<T>
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
    pub(crate) fn duration(&self, key: &str, least: Duration) -> Diagnosed<Duration> {
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
    pub(crate) fn one_of<T: Copy>(&self, choices: &[(&str, T)]) -> Diagnosed<T> {
        let names = || choices.iter().map(|(name, _)| *name);
        let list = names().collect::<Vec<_>>().join(", ");
        let text = self.text(&format!("one of {list}"))?;
        if let Some((_, value)) = choices.iter().find(|(name, _)| *name == text) {
            return Ok(*value);
        }
        let meant = closest_match(text, names());
        let guess = meant.map(|meant| format!(": did you mean '{meant}'?")).unwrap_or_default();
        Err(self.at.error(format!("'{text}' is none of {list}{guess}")))
    }

    /// A path from `/` on.
    ///
    /// # Errors
    /// Says that it is none.
    pub(crate) fn path(&self) -> Diagnosed<PathBuf> {
        absolute_path(self.text("a path")?, &self.at)
    }

    /// The items of a list; of anything else that there is, itself.
    pub(crate) fn items(&self) -> &[Self] {
        match &self.value {
            Value::Null => &[],
            Value::List(items) => items,
            _ => std::slice::from_ref(self),
        }
    }

    /// The items of a list.
    ///
    /// # Errors
    /// Says that `wanted`, a list, belongs here.
    pub(crate) fn list(&self, wanted: &str) -> Diagnosed<&[Self]> {
        if let Value::List(items) = &self.value { Ok(items) } else { Err(self.unwanted(wanted)) }
    }

    /// The mapping that stands here.
    ///
    /// # Errors
    /// Says that `wanted`, a mapping, belongs here.
    pub(crate) fn mapping(&self, wanted: &str) -> Diagnosed<&Mapping> {
        match &self.value {
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
        self.check_keys_named(keys, |key| format!("'{key}'"), problems)
    }

    /// Likewise; `name` is what a key is called that was probably not meant to be any of them.
    pub(super) fn check_keys_named(
        &self,
        keys: &KnownKeys,
        name: impl Fn(&str) -> String,
        problems: &mut Problems,
    ) -> Vec<&'static str> {
        let mut found = Vec::new();
        for MappingEntry { key, at, .. } in &self.entries {
            if keys.names().any(|known| known == key) {
                continue;
            }
            if key == "<<" {
                let error = at.error("merge keys of YAML are not read");
                problems.push(error.help("write the keys out"));
                continue;
            }
            let meant = closest_match(key, keys.names());
            let name = if meant.is_some() { format!("'{key}'") } else { name(key) };
            let message = format!("{name} is not a key of {}", keys.of);
            let help = format!("its keys are: {}", keys.known.join(" ").replace(' ', ", "));
            problems.push(at.misspelt(&message, meant, &help));
            found.extend(meant);
        }
        found
    }
}

impl MappingEntry {
    /// The key as a name.
    pub(super) fn name(&self) -> Diagnosed<Name> {
        let wrong = |error| self.at.error(format!("'{}' is not a name: {error}", self.key));
        self.key.parse().map_err(wrong)
    }

    /// The warning that it says something in vain.
    pub(super) fn without_effect(&self, why: &str, help: &str) -> Diagnostic {
        self.at.warning(format!("'{}' has no effect: {why}", self.key)).help(help)
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
    ) -> Parsed<Self> {
        let mapping = problems.report(node.mapping(wanted))?;
        Ok(Self { mapping, misspelt: mapping.check_keys(keys, problems), problems })
    }

    pub(crate) fn get(&self, key: &str) -> Option<&'a MappingEntry> {
        self.mapping.get(key)
    }

    pub(crate) fn value(&self, key: &str) -> Option<&'a Node> {
        self.mapping.value(key)
    }

    /// Where the values of those keys are that are there.
    pub(super) fn places<const N: usize>(
        &self,
        keys: [&'static str; N],
    ) -> HashMap<&'static str, Place> {
        keys.into_iter().filter_map(|key| Some((key, self.value(key)?.at.clone()))).collect()
    }

    /// The value of a key, where it is there.
    ///
    /// # Errors
    /// Where it is wrong.
    pub(crate) fn read<T>(
        &mut self,
        key: &str,
        read: impl FnOnce(&'a Node) -> Diagnosed<T>,
    ) -> Parsed<Option<T>> {
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
        read: impl FnOnce(&'a Node) -> Diagnosed<T>,
        missing: Diagnostic,
    ) -> Parsed<T> {
        self.read(key, read)?.map_or_else(|| self.missing(&[key], missing), Ok)
    }

    /// Sets what a key says, where it is there and right.
    pub(crate) fn set<T>(
        &mut self,
        key: &str,
        to: &mut T,
        read: impl FnOnce(&'a Node) -> Diagnosed<T>,
    ) {
        if let Ok(Some(value)) = self.read(key, read) {
            *to = value;
        }
    }

    /// Reads what stands at a key, where it is there.
    pub(super) fn section(&mut self, key: &str, read: impl FnOnce(&'a Node, &mut Problems)) {
        if let Some(node) = self.value(key) {
            read(node, self.problems);
        }
    }

    /// The duration of a key, where it is there.
    ///
    /// # Errors
    /// Where it is not a duration, or less than `least`.
    pub(crate) fn duration(&mut self, key: &str, least: Duration) -> Parsed<Option<Duration>> {
        self.read(key, |node| node.duration(key, least))
    }

    /// Two values of which none makes sense alone.
    ///
    /// # Errors
    /// Where one is missing or wrong.
    pub(crate) fn both<A, B>(
        &mut self,
        (key, one): (&str, Parsed<Option<A>>),
        (other_key, other): (&str, Parsed<Option<B>>),
    ) -> Parsed<Option<(A, B)>> {
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
    pub(crate) fn fail<T>(&mut self, error: Diagnostic) -> Parsed<T> {
        self.problems.report(Err(error))
    }

    /// Reports that a key is missing.
    ///
    /// # Errors
    /// Always: reports that one of `keys` is missing, unless a misspelt one was meant to be it.
    pub(crate) fn missing<T>(&mut self, keys: &[&str], error: Diagnostic) -> Parsed<T> {
        if keys.iter().flat_map(|some| some.split(' ')).any(|key| self.misspelt.contains(&key)) {
            return Err(self.problems.reported());
        }
        self.fail(error)
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
        assert_eq!(error.message, "'yes' is neither true nor false");
    }

    #[test]
    fn an_unknown_key_names_the_one_that_was_meant() {
        let keys = KnownKeys { of: "a host", known: &["host", "ports"] };
        let root = read("prots: 1\nbanana: 3\n");
        let mut problems = Problems::default();
        root.mapping("").unwrap().check_keys(&keys, &mut problems);
        let messages: Vec<_> =
            problems.into_sorted().iter().map(|problem| problem.message.clone()).collect();
        assert_eq!(
            messages,
            [
                "'prots' is not a key of a host: did you mean 'ports'?",
                "'banana' is not a key of a host",
            ]
        );
    }
}
