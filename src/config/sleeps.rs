//! An estimate, from its text, of how long a command sleeps before it ends.

use std::mem;
use std::net::{IpAddr, Ipv4Addr};
use std::time::Duration;

use super::template::{Command, Holes};
use crate::proto::name::Name;

/// An estimate of how long a command runs, from its text.
#[must_use]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct RunTime {
    /// All its sleeps that it waits for; what it leaves in the background does not count.
    pub sleeps: Duration,
    /// Whether nothing else in it takes long: it runs firewall tools and the like alone.
    pub is_known: bool,
}

impl RunTime {
    /// Whether it takes longer than `limit`, or nearly.
    pub(crate) fn exceeds(&self, limit: Duration) -> bool {
        self.sleeps.saturating_add(Duration::from_secs(1)) > limit
    }
}

/// The estimate for a command whose `%SECONDS%` are those of `open_for`.
pub(crate) fn run_time(command: &Command, open_for: Duration) -> RunTime {
    let network = IpAddr::from(Ipv4Addr::UNSPECIFIED).into();
    let (door, seconds) = (&Name::closest("door"), open_for.as_secs());
    let rendered = command.render(&Holes { network, door, client: None, port: None, seconds });
    let (seconds, is_known) = simple(&rendered.argv, 0);
    let sleeps = Duration::try_from_secs_f64(seconds).unwrap_or(Duration::MAX);
    RunTime { sleeps, is_known }
}

/// Programs and builtins that end at once, whatever their arguments.
const QUICK: &str = " iptables ip6tables nft ipset ufw firewall-cmd echo printf logger date touch \
                     test [ true false : exit export set ";
const SLEEPERS: &str = " sleep usleep timeout eval sh bash dash ash ksh zsh ";
const RESERVED: &str = " if then elif else fi while until for do done case esac { } ! ";
/// Shells within shells.
const MAX_DEPTH: u8 = 16;

/// How long the text of a shell sleeps, in seconds, and whether nothing else in it takes long.
fn script(text: &str, depth: u8) -> (f64, bool) {
    let (mut words, mut is_known) = (Vec::new(), depth < MAX_DEPTH);
    // Of the group at hand, and of the list in it that a `&` would send to the background.
    let (mut done, mut list, mut outer) = (0.0, 0.0, Vec::new());
    for word in split(text).into_iter().chain([";".to_owned()]) {
        let is_reserved = words.is_empty() && is(RESERVED, &word);
        if !is_reserved && !is(" ; & | ( ) ", &word) {
            words.push(word);
            continue;
        }
        let (seconds, known) = simple(&mem::take(&mut words), depth);
        list += seconds;
        is_known &= known;
        match word.as_str() {
            ";" => done += mem::take(&mut list),
            "&" => list = 0.0,
            "(" | "{" | "if" | "while" | "until" | "for" | "case" => {
                outer.push((mem::take(&mut done), mem::take(&mut list)));
            }
            ")" | "}" | "fi" | "done" | "esac" => {
                let around = outer.pop().unwrap_or_default();
                // Nobody knows how often a loop turns.
                let turns = if word == "done" { f64::INFINITY } else { 1.0 };
                let within = if done + list > 0.0 { (done + list) * turns } else { 0.0 };
                is_known &= word != "done";
                (done, list) = (around.0, around.1 + within);
            }
            _ => {}
        }
    }
    (outer.iter().fold(done, |sum, (done, list)| sum + done + list), is_known)
}

/// The words of a shell's text, with `; & | ( )` each a word; `&&` and `||` are `|`.
fn split(text: &str) -> Vec<String> {
    let mut text = text.replace("\\\n", " ").replace('\n', "\n;").replace('`', ";");
    text = text.replace(">&", ">").replace("&&", "|").replace("||", "|");
    for end in [";", "&", "|", "(", ")"] {
        text = text.replace(end, &format!(" {end} "));
    }
    shlex::split(&text).unwrap_or_else(|| text.split_whitespace().map(str::to_owned).collect())
}

/// Whether a list of names has that of a program, whatever its directory.
fn is(names: &str, program: &str) -> bool {
    let name = program.rsplit('/').next().unwrap_or_default();
    names.split(' ').any(|known| !known.is_empty() && known == name)
}

/// How long one command sleeps, in seconds, and whether nothing else in it takes long.
fn simple(words: &[String], depth: u8) -> (f64, bool) {
    let is_assignment = |word: &&String| word.contains('=') && !word.starts_with('-');
    let words = words.get(words.iter().take_while(is_assignment).count()..).unwrap_or_default();
    if words.first().is_none_or(|program| is(QUICK, program)) {
        return (0.0, true);
    }
    // Something else may run it: sudo, busybox, flock.
    let found = words.iter().position(|word| is(SLEEPERS, word));
    let Some((program, arguments)) = found.and_then(|at| words.get(at..)?.split_first()) else {
        return (0.0, false);
    };
    let rest = |at: usize| arguments.get(at + 1..).unwrap_or_default();
    let times: Vec<Option<f64>> = arguments.iter().map(|word| seconds(word)).collect();
    let sum: f64 = times.iter().flatten().sum();
    match program.rsplit('/').next() {
        Some("sleep") => (sum, times.iter().all(Option::is_some)),
        Some("usleep") => (sum / 1e6, true),
        Some("timeout") => {
            let of_option =
                |at: usize| at > 0 && arguments.get(at - 1).is_some_and(|it| it == "-k");
            let at = (0..times.len()).find(|&at| times[at].is_some() && !of_option(at));
            let limit = at.and_then(|at| times[at]).unwrap_or_default();
            let (inner, known) = simple(at.map_or(&[], rest), depth);
            (if known { inner.min(limit) } else { limit }, true)
        }
        Some("eval") => script(&arguments.join(" "), depth + 1),
        _ => {
            let option = |word: &String| word.starts_with('-') && word.ends_with('c');
            let text = arguments.iter().position(option).and_then(|at| rest(at).first());
            text.map_or((0.0, false), |text| script(text, depth + 1))
        }
    }
}

/// A time as sleep(1) takes it.
fn seconds(word: &str) -> Option<f64> {
    let units = [('s', 1.0), ('m', 60.0), ('h', 3600.0), ('d', 86_400.0)];
    let found = units.iter().find_map(|(unit, of)| Some((word.strip_suffix(*unit)?, *of)));
    let (number, of) = found.unwrap_or((word, 1.0));
    number.parse::<f64>().ok().filter(|number| *number >= 0.0).map(|number| number * of)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::CommandText;
    use super::*;

    fn of(text: &str) -> RunTime {
        run_time(&Command::Shell(CommandText::parse(text).unwrap()), Duration::from_secs(40))
    }

    fn sleeps(text: &str) -> f64 {
        of(text).sleeps.as_secs_f64()
    }

    #[test]
    fn every_way_to_write_a_sleep_is_read() {
        for (text, seconds) in [
            ("sleep 30", 30.0),
            ("sleep 30s", 30.0),
            ("sleep 1m", 60.0),
            ("sleep 0.5h", 1800.0),
            ("sleep 1m 30s", 90.0),
            ("usleep 20000000", 20.0),
            ("/bin/sleep 12", 12.0),
            ("busybox sleep 12", 12.0),
            ("sudo -u nobody /usr/bin/sleep 12", 12.0),
            ("A=b c=d nice -n 5 sleep 12", 12.0),
            ("timeout 20 nc -l 99", 20.0),
            ("timeout -k 5 -s KILL 2m nc", 120.0),
            ("timeout 5 sleep 60", 5.0),
            ("timeout 60 sleep 5", 5.0),
            ("sleep %SECONDS%", 40.0),
            ("exec sleep 12 >/dev/null 2>&1", 12.0),
            ("eval 'sleep 12; x'", 12.0),
            ("bash -ec 'sleep 12 && x'", 12.0),
            ("sh -c \"sh -c 'sleep 12'\"", 12.0),
        ] {
            assert!((sleeps(text) - seconds).abs() < 0.001, "{text}: {}", sleeps(text));
        }
        assert_eq!(of("sleep infinity").sleeps, Duration::MAX);
    }

    #[test]
    fn sleeps_add_up_wherever_they_stand() {
        for (text, seconds) in [
            ("open; sleep 6; close; sleep 6", 12.0),
            ("open && sleep 12 && close", 12.0),
            ("open\nsleep 12 # sleep 100\nclose", 12.0),
            ("if open; then sleep 12; fi; sleep 1", 13.0),
            ("case $KNOCK_IP in a|b) x;; *) sleep 12;; esac; sleep 1", 13.0),
            ("{ sleep 12; }; (sleep 2; (sleep 3))", 17.0),
            ("x=$(sleep 12; date)", 12.0),
            ("x=`sleep 12`", 12.0),
            ("open; \\\n sleep 12", 12.0),
        ] {
            assert!((sleeps(text) - seconds).abs() < 0.001, "{text}: {}", sleeps(text));
        }
    }

    #[test]
    fn a_loop_that_sleeps_may_go_on_for_ever() {
        for text in [
            "until a; do sleep 5; done",
            "while [ -e f ]; do sleep 1; done; nft",
            "x; for i in a b; do y && sleep 0.1; done",
        ] {
            assert_eq!(of(text).sleeps, Duration::MAX, "{text}");
            assert!(!of(text).is_known, "{text}");
        }
        for text in ["while a; do b; done", "while a; do sleep 1; done &"] {
            assert!(sleeps(text).abs() < 0.001, "{text}");
            assert!(!of(text).is_known, "{text}");
        }
    }

    #[test]
    fn what_goes_on_in_the_background_holds_nothing_up() {
        for text in [
            "open; (sleep 60; close) &",
            "open; sleep 60 && close &",
            "nohup sleep 60 & open",
            "setsid sh -c 'sleep 60; close' >/dev/null 2>&1 &",
            "open; { sleep 60; close; } & exit 0",
        ] {
            assert!(sleeps(text).abs() < 0.001, "{text}: {}", sleeps(text));
        }
    }

    #[test]
    fn what_only_looks_like_a_sleep_is_none() {
        for text in ["no-sleep 30", "echo sleep 30", "logger 'sleep 30'", "# sleep 30", "sleep"] {
            assert!(sleeps(text).abs() < 0.001, "{text}: {}", sleeps(text));
        }
    }

    #[test]
    fn firewall_tools_are_known_to_be_quick_and_other_programs_are_not() {
        for text in
            ["iptables -I x; /usr/sbin/nft add y", "A=b ipset add z && sleep 2", "ufw allow"]
        {
            assert!(of(text).is_known, "{text}");
        }
        for text in ["mail.sh", "iptables -I x; curl y", "sleep $DELAY", "for i in a; do nft; done"]
        {
            assert!(!of(text).is_known, "{text}");
        }
    }

    #[test]
    fn a_limit_is_exceeded_from_a_second_before_it_on() {
        let limit = Duration::from_secs(10);
        assert!(of("sleep 10").exceeds(limit) && of("sleep 9.5").exceeds(limit));
        assert!(!of("sleep 9").exceeds(limit) && of("sleep infinity").exceeds(Duration::MAX / 2));
    }

    proptest! {
        #[test]
        fn no_text_makes_it_panic(text: String, shell in "((sleep|timeout|sh -c|eval|if|then|case|esac|fi|done|wait|x=|nc) ?|[0-9]{1,3}[smhd]?|[;&|(){}`'\"\n\\\\$> ])*") {
            for text in [text, shell] {
                let _ = run_time(&Command::Shell(CommandText::classic(&text)), Duration::MAX);
            }
        }

        #[test]
        fn a_sleep_counts_before_and_behind_others(seconds in 0u32..1000, other in "[a-z]{1,5}( [0-9]{1,3})?( [;&] [a-z]{1,5})?") {
            for text in [format!("{other}; sleep {seconds}"), format!("sleep {seconds}; {other}")] {
                prop_assert!(of(&text).sleeps >= Duration::from_secs(seconds.into()), "{}", text);
            }
        }
    }
}
