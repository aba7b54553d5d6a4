//! Diagnostics: what is wrong with a file, where, and how to mend it without a manual.

use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde::Serialize;
use serde_with::SerializeDisplay;

use crate::proto::escape::escape;
use crate::proto::words::words;

/// A file's path and text, shared by every place in it.
///
/// Neither `Debug` nor an error shows a line that holds a secret; it is written as its path.
#[derive(Clone, derive_more::Debug, derive_more::Display, SerializeDisplay)]
#[debug("SourceText({:?}, ..)", _0.path)]
#[display("{}", _0.path.display())]
pub struct SourceText(Arc<Text>);

struct Text {
    path: PathBuf,
    text: String,
    /// Where each line begins, in bytes.
    lines: Vec<usize>,
    /// The lines that are never shown, ascending, from 1.
    secret: Vec<u32>,
    /// Who may read and write the file, where that is known.
    mode: Option<u32>,
}

impl SourceText {
    pub fn new(path: impl Into<PathBuf>, text: impl Into<String>) -> Self {
        Self::of_mode(path.into(), text.into(), None)
    }

    /// The text of a file with its mode, where that is known.
    pub(super) fn of_mode(path: PathBuf, text: String, mode: Option<u32>) -> Self {
        let mode = mode.map(|mode| mode & 0o7777);
        let secret = secret_lines(&text);
        let ends = text.match_indices('\n').map(|(end, _)| end + 1);
        let lines = std::iter::once(0).chain(ends).collect();
        Self(Arc::new(Text { path, text, lines, secret, mode }))
    }

    pub fn path(&self) -> &Path {
        &self.0.path
    }

    pub fn text(&self) -> &str {
        &self.0.text
    }

    /// A place in this file; line and column count from 1, column and width in characters.
    pub fn place(&self, line: u32, column: u32, width: u32) -> Place {
        Place { source: self.clone(), line, column, width, holds_secret: false }
    }

    /// Whether a line is never shown.
    fn is_secret(&self, number: u32) -> bool {
        self.0.secret.binary_search(&number).is_ok()
    }

    fn line(&self, number: u32) -> Option<&str> {
        let start = self.0.lines.get(usize::try_from(number.checked_sub(1)?).ok()?)?;
        self.0.text.get(*start..)?.lines().next()
    }
}

/// The keys whose values are secrets.
const SECRET_KEYS: [&str; 6] =
    ["secret", "key", "key_base64", "hmac_key", "hmac_key_base64", "password"];
/// Keys that look like one of them, and are none.
const NO_SECRETS: [&str; 2] = ["hmac_type", "socket"];

/// The lines of a value that belongs to a secret key, found without a parser, since the file may
/// be none that a parser takes: the key's own line and those below that are indented deeper, or are
/// what a key that ends its line lacks.
fn secret_lines(text: &str) -> Vec<u32> {
    let mut lines = Vec::new();
    let mut within: Option<usize> = None;
    let mut before = "";
    for (number, line) in (1u32..).zip(text.lines()) {
        let indent = line.len() - line.trim_start().len();
        let said = line.trim();
        let is_value = said.is_empty() || (before.ends_with(':') && !said.contains(':'));
        if within.is_none_or(|key| indent <= key && !is_value) {
            within = (names_secret(line) || resembles_secret(line)).then_some(indent);
        }
        if within.is_some() {
            lines.push(number);
        }
        before = if said.is_empty() { before } else { said };
    }
    lines
}

/// Whether a word of a line is the key of a secret, or nearly so: what follows a misspelt one is no
/// less a secret, and the slip may be that of the colon.
fn names_secret(line: &str) -> bool {
    line.split(ends_word).any(|word| {
        !NO_SECRETS.iter().any(|known| word.eq_ignore_ascii_case(known))
            && closest_match(word, SECRET_KEYS).is_some()
    })
}

/// The least length of a word that is taken for a secret, by its alphabet: base32, as authenticator
/// apps have it, and base64, as keys of 32 bytes are written.
const BASE32: usize = 16;
const BASE64: usize = 43;

/// Whether a word of a line looks like a secret, whatever the key before it but that of a public
/// one: it may be in a wrong place, or where no parser comes to.
fn resembles_secret(line: &str) -> bool {
    let is_base32 = |c| matches!(c, 'A'..='Z' | '2'..='7');
    let is_base64 = |c: char| c.is_ascii_alphanumeric() || "+/".contains(c);
    // `redis://USER:PASSWORD@HOST`.
    let url = line.split_once("://").and_then(|(_, rest)| rest.rsplit_once('@'));
    line.split(|c| !is_base32(c)).any(|word| word.len() >= BASE32)
        || !line.contains("public_key")
            && line.split(|c| !is_base64(c)).any(|word| word.len() >= BASE64)
        || url.is_some_and(|(user, _)| user.contains(':'))
}

/// Whether something stands behind the key of a secret.
fn holds_secret(text: &str) -> bool {
    names_secret(text.trim_end_matches(ends_word).trim_end_matches(|c| !ends_word(c)))
}

fn ends_word(c: char) -> bool {
    c.is_whitespace() || "{}[],:=|\"'".contains(c)
}

/// A place in a configuration: a file, a line, a column and a width; in line 0, the file as a
/// whole.
#[derive(Clone, Debug, Serialize)]
pub struct Place {
    #[serde(rename = "file")]
    source: SourceText,
    line: u32,
    column: u32,
    width: u32,
    /// Whether a text of several lines has the key of a secret in it.
    #[serde(skip)]
    holds_secret: bool,
}

impl Place {
    /// The error that something is wrong here. What `message` quotes is left out where it may be, or
    /// hold, a secret: a quotation mark or a bracket that is not closed takes in what follows.
    pub fn error(&self, message: impl Into<String>) -> Diagnostic {
        let (at, mut message) = (self.clone(), message.into());
        if let (Some(start), Some(end)) = (message.find('\''), message.rfind('\''))
            && start < end
            && (end - start > QUOTED || self.reaches_secret())
        {
            message.replace_range(start + 1..end, "...");
        }
        Diagnostic { severity: Severity::Error, at, message, help: None, hidden: false }
    }

    /// The same place, where a text begins that may go on over more lines.
    pub(super) fn of_text(self, text: &str) -> Self {
        Self { holds_secret: holds_secret(text), ..self }
    }

    /// Whether a secret may stand here, or what stands here may hold one.
    fn reaches_secret(&self) -> bool {
        let Some(line) = self.source.line(self.line) else { return self.holds_secret };
        let end = self.column.saturating_sub(1).saturating_add(self.width);
        let upto: String = line.chars().take(usize::try_from(end).unwrap_or(usize::MAX)).collect();
        // A line that belongs to a key above holds a value.
        let is_value = self.source.is_secret(self.line) && !names_secret(line);
        is_value || self.holds_secret || holds_secret(&upto)
    }

    /// The file.
    pub fn path(&self) -> &Path {
        self.source.path()
    }

    /// The text of the file before this place, and from it on.
    pub(crate) fn split(&self) -> Option<(&str, &str)> {
        let Text { text, lines, .. } = &*self.source.0;
        let start = *lines.get(usize::try_from(self.line.checked_sub(1)?).ok()?)?;
        let column = usize::try_from(self.column.checked_sub(1)?).ok()?;
        let (within, _) = text.get(start..)?.char_indices().nth(column)?;
        text.split_at_checked(start + within)
    }

    /// The mode of the file, where it is known.
    pub(super) fn file_mode(&self) -> Option<u32> {
        self.source.0.mode
    }

    /// The warning that something is doubtful here.
    pub fn warning(&self, message: impl Into<String>) -> Diagnostic {
        self.error(message).into_warning()
    }

    /// The error of a word that was probably `meant` to be another; the help where it was not.
    pub fn misspelt(&self, message: &str, meant: Option<&str>, help: &str) -> Diagnostic {
        let mut error = self.error(message);
        match meant {
            Some(meant) => error.message += &format!(": did you mean '{meant}'?"),
            None => error.help = Some(help.to_owned()),
        }
        error
    }
}

/// `file:line:column`, as editors understand it, or the file alone.
impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let path = self.path().display();
        if self.line == 0 { path.fmt(f) } else { write!(f, "{path}:{}:{}", self.line, self.column) }
    }
}

words! {
    /// The severity of a finding: whether a configuration can be used in spite of it; errors come
    /// first.
    #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
    #[serde(rename_all = "snake_case")]
    pub enum Severity {
        Error = "error",
        Warning = "warning",
    }
}

/// One mistake or doubt: where it is, what is wrong and what to write instead.
#[derive(Clone, Debug, Serialize)]
#[must_use]
pub struct Diagnostic {
    #[serde(rename = "level")]
    severity: Severity,
    #[serde(flatten)]
    at: Place,
    /// What is wrong, without the place and the help.
    pub message: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    help: Option<String>,
    /// Whether the line is left out, since it may hold a secret.
    #[serde(skip)]
    hidden: bool,
}

impl Diagnostic {
    /// What is wrong with a file as a whole.
    pub fn file(path: impl Into<PathBuf>, message: impl Into<String>) -> Self {
        SourceText::new(path, "").place(0, 0, 0).error(message)
    }

    /// The same, as a doubt.
    pub fn into_warning(mut self) -> Self {
        self.severity = Severity::Warning;
        self
    }

    /// What to write instead.
    pub fn help(mut self, help: impl Into<String>) -> Self {
        self.help = Some(help.into());
        self
    }

    /// The same at the place where a configuration names the file that it is about.
    pub(super) fn named_at(self, place: &Place) -> Self {
        if self.at.line > 0 {
            return self;
        }
        let message = format!("{}: {}", self.at.path().display(), self.message);
        Self { help: self.help, ..place.error(message) }
    }

    /// The same, without the line and its caret.
    pub fn without_line(mut self) -> Self {
        self.hidden = true;
        self
    }

    fn rank(&self) -> (Severity, &Path, u32, u32) {
        (self.severity, self.at.path(), self.at.line, self.at.column)
    }

    /// How grave it is, if it is about something in the line of this place.
    pub(crate) fn severity_on_line_of(&self, place: &Place) -> Option<Severity> {
        let is_there = self.at.line == place.line && self.at.path() == place.path();
        is_there.then_some(self.severity)
    }
}

impl std::error::Error for Diagnostic {}

/// The place, what is wrong, the line with a caret under it, and what to write instead. Ends
/// without a newline. Control characters are escaped.
impl fmt::Display for Diagnostic {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (at, severity) = (escape(&self.at.to_string()), self.severity.as_str());
        write!(f, "{at}: {severity}: {}", escape(&self.message))?;
        if !self.hidden {
            write_excerpt(f, &self.at)?;
        }
        match &self.help {
            Some(help) => write!(f, "\n    {}", escape(help)),
            None => Ok(()),
        }
    }
}

/// How much a message quotes at most, in bytes.
const QUOTED: usize = 200;
/// How much of a long line is shown, in characters, and how much of that stands before the caret.
const SHOWN: usize = 100;
const BEFORE: usize = 60;

fn write_excerpt(f: &mut fmt::Formatter<'_>, place: &Place) -> fmt::Result {
    let shown = place.source.line(place.line).filter(|_| !place.source.is_secret(place.line));
    let Some(line) = shown else { return Ok(()) };
    let length = line.chars().count();
    let at = usize::try_from(place.column.saturating_sub(1)).unwrap_or(0).min(length);
    let skip = if length > SHOWN { at.saturating_sub(BEFORE) } else { 0 };
    // One character stays one column, so that the caret stands where it should.
    let printable = |c: char| match c {
        '\t' => ' ',
        c if c.is_control() => '?',
        c => c,
    };
    let shown: String = line.chars().skip(skip).take(SHOWN).map(printable).collect();
    let left = shown.chars().count().saturating_sub(at - skip);
    let width = usize::try_from(place.width).unwrap_or(1).clamp(1, left.max(1));
    let caret = "^".repeat(width);
    write!(f, "\n    {}\n    {:pad$}{caret}", shown.trim_end(), "", pad = at - skip)
}

/// A count of lines or characters; more than a `u32` holds are as many as it holds.
pub(super) fn narrow(number: usize) -> u32 {
    u32::try_from(number).unwrap_or(u32::MAX)
}

/// The result of a check: the value, or what is wrong with it.
pub type Diagnosed<T> = Result<T, Diagnostic>;

/// Proof that an error is among the problems: nothing more need be said.
#[derive(Clone, Copy, Debug)]
pub struct Reported(());

/// The result of reading: the value, or that what was wrong has been reported.
pub(crate) type Parsed<T> = Result<T, Reported>;

/// Everything found wrong so far.
#[derive(Clone, Debug, Default)]
pub struct Problems(Vec<Diagnostic>);

impl Problems {
    pub fn push(&mut self, diagnostic: Diagnostic) {
        self.0.push(diagnostic);
    }

    /// The value, or nothing and one more problem.
    pub fn ok_or_report<T>(&mut self, result: Diagnosed<T>) -> Option<T> {
        result.map_err(|diagnostic| self.push(diagnostic)).ok()
    }

    /// The value, or that there is one more problem.
    ///
    /// # Errors
    /// [`Reported`] where there was an error.
    pub fn report<T>(&mut self, result: Diagnosed<T>) -> Parsed<T> {
        result.map_err(|diagnostic| {
            self.push(diagnostic);
            Reported(())
        })
    }

    /// The values, or everything that is wrong with them.
    ///
    /// # Errors
    /// [`Reported`] where there was an error.
    pub fn report_all<T>(
        &mut self,
        results: impl IntoIterator<Item = Diagnosed<T>>,
    ) -> Parsed<Vec<T>> {
        let results: Vec<_> = results.into_iter().map(|result| self.report(result)).collect();
        results.into_iter().collect()
    }

    /// Proof for what is wrong because of something that was reported before.
    pub fn reported(&self) -> Reported {
        debug_assert!(self.has_errors(), "an error was reported");
        Reported(())
    }

    pub fn has_errors(&self) -> bool {
        self.0.iter().any(|diagnostic| diagnostic.severity == Severity::Error)
    }

    /// Errors first, then warnings, each in the order of the files and lines.
    pub fn into_sorted(mut self) -> Vec<Diagnostic> {
        self.0.sort_by(|one, other| one.rank().cmp(&other.rank()));
        self.0
    }
}

impl Extend<Diagnostic> for Problems {
    fn extend<I: IntoIterator<Item = Diagnostic>>(&mut self, diagnostics: I) {
        self.0.extend(diagnostics);
    }
}

/// The one of `known`, in any case of letters, that `word` was probably meant to be.
pub fn closest_match<'a>(word: &str, known: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    // Nobody mistypes a word into one that is much longer; comparing it would only take time.
    if word.len() > 64 {
        return None;
    }
    let word = word.to_ascii_lowercase().replace('-', "_");
    let most = |candidate: &str| candidate.len().div_ceil(3).min(3);
    // Of another length, or without its letters, it is as far away at least: that takes no time.
    let length = word.chars().count();
    let distance =
        |candidate: &str| strsim::damerau_levenshtein(&word, &candidate.to_ascii_lowercase());
    let lacks = |candidate: &str| {
        candidate.chars().filter(|c| !word.contains(c.to_ascii_lowercase())).count()
    };
    known
        .into_iter()
        .filter(|candidate| candidate.len().abs_diff(length) <= most(candidate))
        .filter(|candidate| lacks(candidate) <= most(candidate))
        .map(|candidate| (distance(candidate), candidate))
        .filter(|&(distance, candidate)| distance <= most(candidate))
        .min_by_key(|&(distance, _)| distance)
        .map(|(_, candidate)| candidate)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn source(text: &str) -> SourceText {
        SourceText::new("doors.yaml", text)
    }

    #[test]
    fn an_error_shows_place_line_and_caret() {
        let text = "doors:\n  ssh:\n    sequnce: [7000]\n";
        let error = source(text).place(3, 5, 7).error("no such key").help("write sequence");
        assert_eq!(
            error.to_string(),
            "doors.yaml:3:5: error: no such key\n        sequnce: [7000]\n        ^^^^^^^\n    write sequence"
        );
    }

    #[test]
    fn a_warning_says_that_it_is_one() {
        let warning = source("a: 1").place(1, 1, 1).warning("odd");
        assert!(warning.to_string().starts_with("doors.yaml:1:1: warning: odd\n"));
    }

    #[test]
    fn a_line_with_a_secret_is_not_shown() {
        for text in [
            "totp: {secret: ABC}",
            "key : ABC",
            "\"hmac_key\": ABC",
            "secret: |\n  x: ABC\n\n  ABC",
            "KEY_BASE64: ABC",
            "HMAC_KEY: ABC",
            "hmac-key-base64: ABC",
            "secrt: ABC",
            "hmac_kye: ABC",
            "key ABC",
            "key base64\": ABC",
            "key=ABC",
        ] {
            for line in 1..5 {
                let shown = source(text).place(line, 1, 1).error("wrong").to_string();
                assert!(!shown.contains("ABC"), "{text:?}: {shown}");
            }
            assert!(!format!("{:?}", source(text)).contains("ABC"));
        }
    }

    #[test]
    fn what_looks_like_a_secret_is_not_shown_whatever_its_key() {
        let base64 = "c2VjcmV0c2VjcmV0c2VjcmV0c2VjcmV0c2VjcmV0IT0=";
        for secret in ["GEZDGNBVGY3TQOJQGEZDGNBV", "JBSWY3DPEHPK3PXP", base64] {
            for text in [
                "totp: SECRET",
                "totp: !!int SECRET",
                "totp: *SECRET",
                "totp:SECRET",
                "totp:\n    SECRET",
                "\ttotp: SECRET",
                "<<: {totp: 'SECRET'}",
                "SECRET: totp",
            ] {
                let text = text.replace("SECRET", secret);
                let line = narrow(text.lines().count());
                let error = source(&text).place(line, 1, 4).error(format!("'{secret}' is odd"));
                assert!(!error.to_string().contains(&secret[..8]), "{text:?}: {error}");
            }
        }
    }

    #[test]
    fn a_line_after_a_secret_and_one_that_names_only_a_file_are_shown() {
        for (text, line) in [
            ("secret: A\nuser: BCD", 2),
            ("secret_file: BCD", 1),
            ("key_file: /etc/knock.d/keys/BCD.key", 1),
            ("public_key: BCD", 1),
            ("hmac_key_file: BCD", 1),
            ("hmac_type: BCD", 1),
            ("secret_file: /etc/knock.d/keys/BCD-of-a-client-with-a-long-name.totp", 1),
        ] {
            assert!(source(text).place(line, 1, 1).error("wrong").to_string().contains("BCD"));
        }
    }

    #[test]
    fn behind_the_key_of_a_secret_nothing_is_quoted_and_before_it_everything() {
        let text = "{doors: [shh], totp: {secret: ABC}, mode: DEF}";
        let said = |word: &str| {
            let column = narrow(text.find(word).unwrap() + 1);
            source(text).place(1, column, 3).error(format!("'{word}' is wrong")).message
        };
        assert_eq!(said("shh"), "'shh' is wrong");
        assert_eq!(said("ABC"), "'...' is wrong");
        assert_eq!(said("DEF"), "'...' is wrong");
        // The key itself is none.
        let key = source("kye: ABC").place(1, 1, 3).misspelt("'kye' is not a key", Some("key"), "");
        assert_eq!(key.message, "'kye' is not a key: did you mean 'key'?");
    }

    #[test]
    fn what_is_too_long_for_a_word_is_not_quoted() {
        let long = "a".repeat(QUOTED);
        let error = source(&long).place(1, 1, 1).error(format!("'{long}' is not one of 'b'"));
        assert_eq!(error.message, "'...'");
    }

    #[test]
    fn control_characters_do_not_reach_the_terminal() {
        let error = source("\u{1b}[31m: 1").place(1, 1, 1).error("'\u{1b}[31m' is not a key");
        assert!(!error.to_string().contains('\u{1b}'));
    }

    #[test]
    fn of_a_long_line_the_part_around_the_caret_is_shown() {
        let text = format!("{}HERE{}", "a ".repeat(250), " b".repeat(250));
        let shown = source(&text).place(1, 501, 4).error("wrong").to_string();
        assert!(shown.contains("HERE") && shown.lines().all(|line| line.chars().count() < 120));
    }

    #[test]
    fn the_word_that_was_meant_is_found() {
        let known = ["sequence", "seq_timeout", "open_for"];
        assert_eq!(closest_match("sequnce", known), Some("sequence"));
        assert_eq!(closest_match("Open-For", known), Some("open_for"));
        assert_eq!(closest_match("banana", known), None);
    }

    proptest! {
        #[test]
        fn no_place_makes_it_panic(text in ".{0,200}", line in 0u32..5, column: u32, width: u32) {
            let _ = source(&text).place(line, column, width).error("wrong").to_string();
        }
    }
}
