//! The variables of fwknop's two files, and what becomes of each.

/// All of them.
const TABLE: &str = include_str!("variables.txt");

/// What becomes of a variable.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Fate {
    /// What it says is imported.
    Carried,
    /// It says nothing about who gets in, and why.
    LeftOut(&'static str),
    /// Where it has such a value, it lets somebody in, or opens something, in a way that there is
    /// not here; and what to do without it.
    Refused(Option<Switch>, &'static str),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Switch {
    On,
    Off,
}

impl Switch {
    /// As fwknopd reads it.
    pub(super) fn read(value: &[u8]) -> Self {
        if matches!(value.first(), Some(b'Y' | b'y')) { Self::On } else { Self::Off }
    }
}

/// The variables of a file, `access` or `fwknopd`, and what becomes of each.
pub(super) fn variables(file: &str) -> impl Iterator<Item = (&'static str, Fate)> {
    let lines = TABLE.lines().filter_map(move |line| {
        let cells: Vec<&str> = line.split(" | ").collect();
        let (names, fate) = match *cells {
            [of, ..] if of != file => return None,
            [_, "carried", names] => (names, Fate::Carried),
            [_, "left out", names, why] => (names, Fate::LeftOut(why)),
            [_, "refused", names, help] => (names, Fate::Refused(None, help)),
            [_, "refused if on", names, help] => (names, Fate::Refused(Some(Switch::On), help)),
            [_, "refused if off", names, help] => (names, Fate::Refused(Some(Switch::Off), help)),
            _ => return None,
        };
        Some(names.split(' ').map(move |name| (name, fate)))
    });
    lines.flatten()
}

/// The variable of this name, if a file has such a one, and what becomes of it with this value;
/// that is nothing where it is refused with another.
pub(super) fn find(file: &str, name: &str, value: &[u8]) -> Option<(&'static str, Option<Fate>)> {
    let (name, fate) = variables(file).find(|(known, _)| *known == name)?;
    let is_idle = matches!(fate, Fate::Refused(Some(when), _) if when != Switch::read(value));
    Some((name, (!is_idle).then_some(fate)))
}
