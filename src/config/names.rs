//! Names that are given once, to doors that a foreign configuration calls something else.

use std::collections::BTreeSet;

use crate::proto::name::Name;

/// The names that are taken, and those that texts to come have a right to.
#[derive(Debug, Default)]
pub(crate) struct TakenNames {
    taken: BTreeSet<Name>,
    own: BTreeSet<Name>,
}

impl TakenNames {
    /// For these texts: what is a name as it stands keeps it, wherever it stands.
    pub(crate) fn among<'a>(texts: impl Iterator<Item = &'a str>) -> Self {
        let own = texts.filter_map(|text| text.parse().ok()).collect();
        Self { own, ..Self::default() }
    }

    /// The name that is nearest to a text among those that are free, and takes it.
    pub(crate) fn take(&mut self, text: &str) -> Name {
        let own = text.parse().ok().filter(|name| !self.taken.contains(name));
        let mut name = own.clone().unwrap_or_else(|| Name::closest(text));
        let mut number = 2u32;
        while own.is_none() && (self.taken.contains(&name) || self.own.contains(&name)) {
            let ending = format!("-{number}");
            let beginning: String = text.chars().take(32 - ending.len()).collect();
            name = Name::closest(&(beginning + &ending));
            number += 1;
        }
        self.taken.insert(name.clone());
        name
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_that_is_taken_gets_a_number() {
        let mut names = TakenNames::default();
        let mut take = |text: &str| names.take(text).to_string();
        assert_eq!([take("a b"), take("a b"), take("a_b")], ["a_b", "a_b-2", "a_b-3"]);
        let long = "x".repeat(40);
        assert_eq!(take(&long), "x".repeat(32));
        assert_eq!(take(&long), "x".repeat(30) + "-2");
    }

    #[test]
    fn what_is_a_name_keeps_it_wherever_it_stands() {
        let texts = ["a b", "a_b", "a_b", "a_b-2"];
        let mut names = TakenNames::among(texts.into_iter());
        let taken = texts.map(|text| names.take(text).to_string());
        assert_eq!(taken, ["a_b-3", "a_b", "a_b-4", "a_b-2"]);
    }
}
