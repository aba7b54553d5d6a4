//! Names that are given once.

use std::collections::BTreeSet;

use super::Name;

/// The names that are taken.
#[derive(Debug, Default)]
pub(crate) struct Names(BTreeSet<Name>);

impl Names {
    /// The name that is nearest to a text among those that are free, and takes it.
    pub(crate) fn take(&mut self, text: &str) -> Name {
        let mut name = Name::closest(text);
        let mut number = 2u32;
        while self.0.contains(&name) {
            let ending = format!("-{number}");
            let beginning: String = text.chars().take(32 - ending.len()).collect();
            name = Name::closest(&(beginning + &ending));
            number += 1;
        }
        self.0.insert(name.clone());
        name
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_that_is_taken_gets_a_number() {
        let mut names = Names::default();
        let mut take = |text: &str| names.take(text).to_string();
        assert_eq!([take("a b"), take("a b"), take("a_b")], ["a_b", "a_b-2", "a_b-3"]);
        let long = "x".repeat(40);
        assert_eq!(take(&long), "x".repeat(32));
        assert_eq!(take(&long), "x".repeat(30) + "-2");
    }
}
