//! Edits of a hosts file that leave what else is in it as it is.

use std::mem::replace;
use std::path::Path;

use super::{HostProfiles, HostsError, of_text};
use crate::client::settings::ClientSettings;
use crate::config::Place;

/// What becomes of a hosts file to which an entry is added.
#[must_use]
#[derive(Debug)]
pub(in crate::client) enum Edited {
    /// It says all of that already.
    Same,
    /// The file with the entry below all others.
    Added(String),
    /// The file with the entry in the place of the one of its name, which said something else.
    Replaced { text: String, at: Place },
    /// The file is written in a way that only a person can add to.
    ByHand,
}

/// Puts an entry into the text of the hosts file at `path`; `entry` has its lines, and none of them
/// is indented for the place that they get.
///
/// # Errors
/// [`HostsError`] with what is wrong in the file, or in the entry.
pub(in crate::client) fn put(path: &Path, text: &str, entry: &str) -> Result<Edited, HostsError> {
    let (there, _) = of_text(path, text)?;
    // Files are named from where the hosts file is.
    let link = path.with_file_name("the link");
    let (new, _) = of_text(&link, &format!("hosts:\n{}", indented(entry, 2)))?;
    let Some(new) = new.entries.into_iter().next() else { return Ok(Edited::Same) };
    let first = there.entries.first().and_then(|first| first.at.split());
    let depth = first.map_or(2, |(before, _)| before.len() - before.trim_end_matches(' ').len());
    let mut wanted = there.clone();
    let (old, before, after) = match wanted.entries.iter_mut().find(|it| it.name == new.name) {
        Some(entry) => {
            let old = replace(entry, new);
            let (before, rest) = old.at.split().unwrap_or_default();
            let deeper = |line: &str| depth_of(line).is_none_or(|it| it > depth);
            let lines = rest.split_inclusive('\n').enumerate();
            let own = lines.take_while(|(at, line)| *at == 0 || deeper(line));
            // What stands between it and the next is not its own.
            let last = own.filter(|(_, line)| depth_of(line).is_some()).last();
            let after = rest.split_inclusive('\n').skip(last.map_or(1, |(at, _)| at + 1));
            (Some(old.at.clone()), before.trim_end_matches(' ').to_owned(), after.collect())
        }
        None => {
            wanted.entries.push(new);
            let end = if text.is_empty() || text.ends_with('\n') { "" } else { "\n" };
            (None, format!("{text}{end}"), String::new())
        }
    };
    let is_empty = text.lines().all(|line| depth_of(line).is_none());
    let start = if is_empty { "hosts:\n" } else { "" };
    let text = [&before, start, &indented(entry, depth), &after].concat();
    Ok(match old {
        _ if says(&there) == says(&wanted) => Edited::Same,
        _ if !of_text(path, &text).is_ok_and(|(it, _)| says(&it) == says(&wanted)) => {
            Edited::ByHand
        }
        Some(at) => Edited::Replaced { text, at },
        None => Edited::Added(text),
    })
}

fn indented(lines: &str, depth: usize) -> String {
    lines.lines().map(|line| format!("{:depth$}{line}\n", "")).collect()
}

/// How far a line is indented; `None` where nothing stands in it but a comment.
fn depth_of(line: &str) -> Option<usize> {
    let text = line.trim_start();
    (!text.is_empty() && !text.starts_with('#')).then(|| line.len() - text.len())
}

/// What a hosts file says, wherever in it.
fn says(hosts: &HostProfiles) -> Vec<(&String, &Option<String>, &ClientSettings)> {
    hosts.entries.iter().map(|entry| (&entry.name, &entry.host, &entry.settings)).collect()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const ENTRY: &str = "gw:\n  host: gw.example.com\n  ports: [1, 2, 3]\n";

    fn edited(text: &str) -> Edited {
        put(Path::new("/h/hosts.yaml"), text, ENTRY).unwrap()
    }

    fn added(text: &str) -> String {
        let Edited::Added(text) = edited(text) else { panic!("{:?}", edited(text)) };
        text
    }

    fn replaced(text: &str) -> String {
        let Edited::Replaced { text, .. } = edited(text) else { panic!("{:?}", edited(text)) };
        text
    }

    #[test]
    fn an_entry_goes_below_all_others_and_everything_else_stays() {
        for (before, after) in [
            ("", "hosts:\n  gw:\n    host: gw.example.com\n    ports: [1, 2, 3]\n"),
            ("# mine\n", "# mine\nhosts:\n  gw:\n    host: gw.example.com\n    ports: [1, 2, 3]\n"),
            (
                "hosts: # all\n\n",
                "hosts: # all\n\n  gw:\n    host: gw.example.com\n    ports: [1, 2, 3]\n",
            ),
            (
                "hosts:\r\n # of old\r\n a: {ports: [7]} # one\r\n",
                "hosts:\r\n # of old\r\n a: {ports: [7]} # one\r\n \
                 gw:\n   host: gw.example.com\n   ports: [1, 2, 3]\n",
            ),
            (
                "hosts:\n  a:\n    ports: [7]",
                "hosts:\n  a:\n    ports: [7]\n  gw:\n    host: gw.example.com\n    ports: [1, 2, 3]\n",
            ),
        ] {
            assert_eq!(added(before), after);
            assert!(matches!(edited(after), Edited::Same));
        }
    }

    #[test]
    fn an_entry_of_the_same_name_gives_its_lines_and_no_others() {
        let before = "hosts:\n  # one\n  gw:\n    # inner\n    host: old\n    ports:\n      - 7001:udp\n\n  \
                      # two\n  b:\n    ports: [8]\n";
        let after = "hosts:\n  # one\n  gw:\n    host: gw.example.com\n    ports: [1, 2, 3]\n\n  \
                     # two\n  b:\n    ports: [8]\n";
        assert_eq!(replaced(before), after);
        let last = "hosts: \n  b: {ports: [8]}\n  gw: {ports: [1]}\n# end";
        let text = replaced(last);
        assert!(text.starts_with("hosts: \n  b: {ports: [8]}\n  gw:\n") && text.ends_with("# end"));
    }

    #[test]
    fn an_entry_that_says_the_same_in_other_words_is_left() {
        let text = "hosts: {gw: {ports: [1/tcp, '2', 3], host: gw.example.com}}";
        assert!(matches!(edited(text), Edited::Same));
    }

    #[test]
    fn what_only_a_person_can_add_to_is_left_to_one() {
        for text in [
            "hosts: {a: {ports: [7]}}\n",
            "hosts: {}\n",
            "hosts:\n  gw: {ports: [1],\n  }\n",
            "{hosts:\n  {a: {ports: [7]}}}",
        ] {
            assert!(matches!(edited(text), Edited::ByHand), "{text}");
        }
    }

    #[test]
    fn what_is_wrong_in_the_file_is_not_edited() {
        let error =
            put(Path::new("/h/hosts.yaml"), "hosts:\n  a: {prots: [1]}\n", ENTRY).unwrap_err();
        assert!(error.to_string().starts_with("/h/hosts.yaml:2:"), "{error}");
        let error = put(Path::new("/h/hosts.yaml"), "", "gw:\n  mode: wolf\n").unwrap_err();
        assert!(error.to_string().starts_with("/h/the link:3:"), "{error}");
    }

    proptest! {
        #[test]
        fn whatever_is_written_reads_as_before_with_the_entry_in_it(
            text in "hosts:\n(( {1,3}|    )(a|gw|b|#|  |\n)(:|: \\{ports: \\[1\\]\\}|\n)(\n *ports: \\[[12]\\])?\n){0,5}( *# x|\n|\\.\\.\\.)?",
        ) {
            let path = Path::new("/h/hosts.yaml");
            let Ok(edited) = put(path, &text, ENTRY) else { return Ok(()) };
            let (text, after) = match edited {
                Edited::Added(after) | Edited::Replaced { text: after, .. } => (text, after),
                Edited::Same | Edited::ByHand => return Ok(()),
            };
            let [before, after] = [text, after].map(|it| of_text(path, &it).unwrap().0);
            for entry in before.entries.iter().filter(|entry| entry.name != "gw") {
                let found = after.entries.iter().find(|other| other.name == entry.name).unwrap();
                prop_assert_eq!((&found.host, &found.settings), (&entry.host, &entry.settings));
            }
            prop_assert!(after.names().any(|name| name == "gw"));
        }
    }
}
