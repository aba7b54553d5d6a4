//! How long a command sleeps before it ends: an estimate from its text.

use std::mem;
use std::net::{IpAddr, Ipv4Addr};
use std::time::Duration;

use super::{Command, Holes, Name};

/// What the text of a command tells of how long it runs.
#[must_use]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RunTime {
    /// All its sleeps that it waits for; what it leaves in the background does not count.
    pub sleeps: Duration,
    /// Whether nothing else in it takes long: it runs firewall tools and the like alone.
    pub is_known: bool,
}

impl RunTime {
    /// Whether it takes longer than `limit`, or nearly; no limit is never reached.
    #[must_use]
    pub fn exceeds(&self, limit: Option<Duration>) -> bool {
        limit.is_some_and(|limit| self.sleeps.saturating_add(Duration::from_secs(1)) > limit)
    }
}

/// What a command tells whose `%SECONDS%` are those of `open_for`.
pub fn run_time(command: &Command, open_for: Duration) -> RunTime {
    let address = IpAddr::V4(Ipv4Addr::UNSPECIFIED);
    let (door, seconds) = (&Name::closest("door"), open_for.as_secs());
    let rendered = command.render(&Holes { address, door, client: None, port: None, seconds });
    let (seconds, is_known) = simple(&rendered.argv, 0);
    let sleeps = Duration::try_from_secs_f64(seconds).unwrap_or(Duration::MAX);
    RunTime { sleeps, is_known }
}

/// Programs and builtins that end at once, whatever their arguments.
const QUICK: &[&str] = &[
    "iptables",
    "ip6tables",
    "nft",
    "ipset",
    "ufw",
    "firewall-cmd",
    "echo",
    "printf",
    "logger",
    "date",
    "touch",
    "test",
    "[",
    "true",
    "false",
    ":",
    "exit",
    "export",
    "set",
];
const SHELLS: &[&str] = &["sh", "bash", "dash", "ash", "ksh", "zsh"];
const SLEEPERS: &[&str] = &["sleep", "usleep", "timeout", "eval"];
/// Shells within shells.
const MAX_DEPTH: u8 = 16;

/// Commands between brackets or reserved words; times are in seconds.
#[derive(Default)]
struct Group {
    is_case: bool,
    /// Of the longest branch before this one.
    branch: f64,
    done: f64,
    /// Of the list that a `&` would send to the background.
    list: f64,
    background: f64,
}

/// How long the text of a shell sleeps, in seconds, and whether nothing else in it takes long.
fn script(text: &str, depth: u8) -> (f64, bool) {
    let (mut groups, mut group) = (Vec::new(), Group::default());
    let (mut words, mut is_known) = (Vec::new(), depth < MAX_DEPTH);
    let all = if is_known { split(text) } else { Vec::new() };
    for word in all.into_iter().chain([";".to_owned()]) {
        let first = words.is_empty();
        match word.as_str() {
            ";" | "&" | "|" | "(" | ")" => {
                let of_case = group.is_case && word == ")";
                let command = mem::take(&mut words);
                match command.first().map(String::as_str) {
                    _ if of_case => continue,
                    Some("wait") => group.list += group.background,
                    _ => {
                        let (seconds, known) = simple(&command, depth);
                        group.list += seconds;
                        is_known &= known;
                    }
                }
                match word.as_str() {
                    "(" => groups.push(mem::take(&mut group)),
                    ")" => group = close(&mut groups, group),
                    ";" => group.done += mem::take(&mut group.list),
                    "&" => group.background = group.background.max(mem::take(&mut group.list)),
                    _ => {}
                }
            }
            "if" | "while" | "until" | "for" | "case" | "{" if first => {
                groups.push(mem::take(&mut group));
                group.is_case = word == "case";
            }
            "else" | "elif" if first => group.branch = group.branch.max(mem::take(&mut group.done)),
            "fi" | "done" | "esac" | "}" if first => group = close(&mut groups, group),
            "then" | "do" | "!" if first => {}
            _ => words.push(word),
        }
    }
    while !groups.is_empty() {
        group = close(&mut groups, group);
    }
    (group.branch.max(group.done + group.list), is_known)
}

/// The group around one that ends.
fn close(groups: &mut Vec<Group>, inner: Group) -> Group {
    let Some(mut outer) = groups.pop() else { return inner };
    outer.list += inner.branch.max(inner.done + inner.list);
    outer
}

/// The words of a shell's text, with `; & | ( )` each a word; `&&` and `||` are `|`.
fn split(text: &str) -> Vec<String> {
    let mut text = text.replace("\\\n", " ").replace(">&", ">").replace("&&", "|");
    for (from, to) in
        [("||", "|"), ("|", " | "), ("&", " & "), ("(", " ( "), (")", " ) "), (";", " ; ")]
    {
        text = text.replace(from, to);
    }
    let text = text.replace('`', " ; ").replace('\n', "\n ; ");
    shlex::split(&text).unwrap_or_else(|| text.split_whitespace().map(str::to_owned).collect())
}

/// The same of one command and its arguments.
fn simple(words: &[String], depth: u8) -> (f64, bool) {
    let base = |word: &String| word.rsplit('/').next().unwrap_or_default().to_owned();
    let is_assignment = |word: &&String| {
        let letter = |c: char| c.is_ascii_alphanumeric() || c == '_';
        word.split_once('=').is_some_and(|(name, _)| name.chars().all(letter))
    };
    let words = words.get(words.iter().take_while(is_assignment).count()..).unwrap_or_default();
    let is = |names: &[&str], word: &String| names.contains(&base(word).as_str());
    if words.first().is_none_or(|program| is(QUICK, program)) {
        return (0.0, true);
    }
    // Something else may run it: sudo, busybox, flock.
    let found = words.iter().position(|word| is(SLEEPERS, word) || is(SHELLS, word));
    let Some((program, arguments)) = found.and_then(|at| words.get(at..)?.split_first()) else {
        return (0.0, false);
    };
    let times = || arguments.iter().map(|word| seconds(word));
    match base(program).as_str() {
        "sleep" => (times().flatten().sum(), times().all(|time| time.is_some())),
        "usleep" => (times().flatten().sum::<f64>() / 1e6, true),
        "timeout" => {
            let is_time = |(at, word): &(usize, &String)| {
                let before = at.checked_sub(1).and_then(|at| arguments.get(at));
                seconds(word).is_some() && before.is_none_or(|it| it != "-k")
            };
            let Some((at, limit)) = arguments.iter().enumerate().find(is_time) else {
                return (0.0, false);
            };
            let limit = seconds(limit).unwrap_or_default();
            let (inner, known) = simple(arguments.get(at + 1..).unwrap_or_default(), depth);
            (if known { inner.min(limit) } else { limit }, true)
        }
        "eval" => script(&arguments.join(" "), depth + 1),
        _ => {
            let option = |word: &String| word.starts_with('-') && word.ends_with('c');
            let text = arguments.iter().skip_while(|word| !option(word)).nth(1);
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
            ("if a; then sleep 12; elif b; then sleep 13; else sleep 11; fi", 13.0),
            ("while a; do sleep 12; done", 12.0),
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
        assert!((sleeps("sleep 60 & sleep 20 & wait") - 60.0).abs() < 0.001);
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
        let limit = Some(Duration::from_secs(10));
        assert!(of("sleep 10").exceeds(limit) && of("sleep 9.5").exceeds(limit));
        assert!(!of("sleep 9").exceeds(limit) && !of("sleep infinity").exceeds(None));
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
