//! The variables of fwknop's two files, and what becomes of each.

use std::sync::LazyLock;

use self::VariableFate::{Carried, LeftOut, Refused};

/// What becomes of a variable.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum VariableFate {
    /// What it says is imported, to these keys; `""`: to what is called as it is.
    Carried(&'static str),
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

const TABLE: &str = include_str!("variables.txt");

/// All variables, each with its file, and what becomes of it.
static VARIABLES: LazyLock<Vec<(&str, &str, VariableFate)>> = LazyLock::new(|| {
    let lines = TABLE.lines().filter_map(|line| {
        let mut cells = line.split(" | ");
        let (file, kind, names) = (cells.next()?, cells.next()?, cells.next()?);
        let what = cells.next().unwrap_or_default();
        let fate = match kind {
            "carried" => Carried(what),
            "left out" => LeftOut(what),
            "refused" => Refused(None, what),
            "refused if on" => Refused(Some(Switch::On), what),
            "refused if off" => Refused(Some(Switch::Off), what),
            _ => return None,
        };
        Some(names.split(' ').map(move |name| (file, name, fate)))
    });
    lines.flatten().collect()
});

/// The variables of a file, `access` or `fwknopd`, and what becomes of each.
pub(super) fn variables(file: &str) -> impl Iterator<Item = (&'static str, VariableFate)> {
    VARIABLES.iter().filter(move |(of, ..)| *of == file).map(|(_, name, fate)| (*name, *fate))
}

/// The variable of this name, if a file has such a one, and what becomes of it with this value;
/// that is nothing where it is refused with another.
pub(super) fn find(
    file: &str,
    name: &str,
    value: &[u8],
) -> Option<(&'static str, Option<VariableFate>)> {
    let (name, fate) = variables(file).find(|(known, _)| *known == name)?;
    let is_idle = matches!(fate, Refused(Some(when), _) if when != Switch::read(value));
    Some((name, (!is_idle).then_some(fate)))
}

/// The keys that what a variable of `access.conf` says goes to, where they are called otherwise.
pub(in crate::ctl::import) fn keys_of(name: &str) -> &'static str {
    match find("access", name, b"") {
        Some((_, Some(Carried(keys)))) => keys,
        _ => "",
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    /// What becomes of each variable of a file, in words.
    fn of(file: &str) -> BTreeMap<String, &'static str> {
        let words = |fate| match fate {
            Carried(_) => "carried",
            LeftOut(_) => "left out",
            Refused(None, _) => "refused",
            Refused(Some(Switch::On), _) => "refused if on",
            Refused(Some(Switch::Off), _) => "refused if off",
        };
        let mut found = BTreeMap::new();
        for (name, fate) in variables(file) {
            assert_eq!(found.insert(name.to_owned(), words(fate)), None, "{name} stands twice");
        }
        found
    }

    #[test]
    fn every_line_of_the_table_is_read() {
        let lines = TABLE.lines().filter(|line| !line.is_empty() && !line.starts_with('#'));
        let names: usize =
            lines.map(|line| line.split(" | ").nth(2).unwrap().split(' ').count()).sum();
        assert_eq!(of("access").len() + of("fwknopd").len(), names);
    }

    #[test]
    fn the_page_about_moving_says_of_every_variable_what_becomes_of_it() {
        let page = include_str!("../../../../docs/moving-from-fwknop.md");
        for file in ["access", "fwknopd"] {
            let (_, table) = page.split_once(&format!("| {file}.conf |")).unwrap();
            let rows = table.lines().skip(2).take_while(|line| line.starts_with('|'));
            let mut said = BTreeMap::new();
            for row in rows {
                let cells: Vec<&str> = row.split(" | ").collect();
                for name in cells[0].split('`').skip(1).step_by(2) {
                    assert_eq!(said.insert(name.to_owned(), cells[1]), None, "{name} stands twice");
                }
            }
            assert_eq!(said, of(file), "{file}.conf");
        }
    }

    #[test]
    fn a_switch_says_nothing_where_it_is_as_it_is_here() {
        let fate = |file, name, value| find(file, name, value).unwrap().1;
        assert!(fate("access", "ENABLE_CMD_EXEC", b"N").is_none());
        assert!(matches!(fate("access", "ENABLE_CMD_EXEC", b"yes"), Some(Refused(..))));
        assert!(fate("fwknopd", "ENABLE_DIGEST_PERSISTENCE", b"Y").is_none());
        let off = fate("fwknopd", "ENABLE_DIGEST_PERSISTENCE", b"N");
        assert!(matches!(off, Some(Refused(..))));
        assert!(find("access", "ENABLE_DIGEST_PERSISTENCE", b"N").is_none());
    }
}
