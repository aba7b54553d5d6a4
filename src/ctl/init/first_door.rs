//! The first door: its knocks, and the text of its file. Pure.

use clap::ValueEnum;

use crate::config::Name;
use crate::ctl::error::Error;
use crate::proto::{Knock, Network, PortSet, Protocol};

/// As many ports as two digits of a code tell apart.
const CODE_PORTS: u16 = 100;
/// As wide as the trip-wires are.
const AROUND: u16 = 16;

/// What somebody knocks with.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(super) enum Means {
    /// An authenticator app, whose codes are knocked with a browser
    Phone,
    /// The program knock, which sends one encrypted datagram
    Laptop,
    /// Anything that knocks: a sequence of ports that stays the same
    Plain,
}

/// A door that the guard locks.
#[derive(Debug)]
pub(super) struct FirstDoor {
    pub(super) name: Name,
    /// Of its file.
    pub(super) text: String,
    /// What to knock, for whoever has been shown the client's secret.
    pub(super) knock: String,
}

impl FirstDoor {
    /// Nobody is to knock on the ports that something on this `host` is `listening` on, or beside
    /// them. `random` gives evenly distributed numbers.
    ///
    /// # Errors
    /// Where no other ports are left, or no random numbers can be had.
    pub(super) fn draw(
        open: &[Knock],
        by: Means,
        trusted: Option<Network>,
        host: &str,
        listening: &PortSet,
        random: impl FnMut() -> Result<u64, getrandom::Error>,
    ) -> Result<Self, Error> {
        let mut taken = listening.clone();
        taken.extend(open.iter().copied());
        let is_free = |low: u16, high: u16| {
            !taken.ranges(Protocol::Tcp).any(|(from, to)| from <= high && low <= to)
        };
        // Past what usually listens, below where connections begin, and without 10080, to which
        // browsers connect for nobody.
        let thousands = || (7..=31).filter(|it| *it != 10).map(|thousand| thousand * 1000);
        let (method, knock) = match by {
            Means::Phone => {
                // Two digits are easily added to whole thousands.
                let bases = thousands().filter(|base| is_free(*base, base + CODE_PORTS - 1));
                let [base] = pick(bases.collect(), random)?;
                let method = format!("totp: {{mode: code, base: {base}}}");
                (method, "the code that the app shows, as said above".to_owned())
            }
            Means::Laptop => {
                ("spa: true".to_owned(), format!("knock {host} (with the files above in place)"))
            }
            Means::Plain => {
                let ports = thousands().flat_map(|base| base..base + 1000);
                let ports = ports.filter(|port| is_free(port - AROUND, port + AROUND));
                let mut ports: [u16; 4] = pick(ports.collect(), random)?;
                // No scan in order completes it.
                if ports.is_sorted() || ports.iter().rev().is_sorted() {
                    ports.swap(0, 1);
                }
                let ports = ports.map(|port| port.to_string());
                let method = format!("sequence: [{}]", ports.join(", "));
                (method, format!("knock {host} {}", ports.join(" ")))
            }
        };
        let opens: Vec<_> = open.iter().map(ToString::to_string).collect();
        let name = match opens.first().map_or("", String::as_str) {
            "22/tcp" => Name::closest("ssh"),
            first => Name::closest(&first.replace('/', "-")),
        };
        // With nobody in it, it would only stand in the way of another file that has it.
        let trusted = trusted.map_or_else(String::new, |it| {
            format!(
                "knockd:\n  # Who connects from there need not knock. An address may be somebody \
                 else's one day.\n  trusted: ['{it}']\n\n"
            )
        });
        let text = include_str!("door.yaml")
            .replace("TRUSTED", &trusted)
            .replace("NAME", name.as_str())
            .replace("METHOD", &method)
            .replace("PORTS", &opens.join(", "));
        Ok(Self { name, text, knock })
    }
}

/// Some of these ports, each once, in any order.
fn pick<const N: usize>(
    mut ports: Vec<u16>,
    mut random: impl FnMut() -> Result<u64, getrandom::Error>,
) -> Result<[u16; N], Error> {
    let mut picked = [0; N];
    for place in &mut picked {
        // Half of the number: every size of memory has room for that.
        let at = usize::try_from(random()? >> 32).unwrap_or_default().checked_rem(ports.len());
        let at = at.ok_or_else(|| Error::unfit("no ports are left here to knock on"))?;
        *place = ports.swap_remove(at);
    }
    Ok(picked)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::config::diagnostic::SourceText;
    use crate::config::load::parse;

    fn draw(
        open: &[&str],
        by: Means,
        listening: &PortSet,
        random: impl FnMut() -> Result<u64, getrandom::Error>,
    ) -> Result<FirstDoor, Error> {
        let open: Vec<Knock> = open.iter().map(|port| port.parse().unwrap()).collect();
        let trusted = (by == Means::Phone).then(|| "2001:db8::2".parse().unwrap());
        FirstDoor::draw(&open, by, trusted, "gw", listening, random)
    }

    fn listening(low: u16, high: u16) -> PortSet {
        let mut ports = PortSet::default();
        let port = |port: u16| port.try_into().unwrap();
        ports.insert_range(Protocol::Tcp, port(low)..=port(high));
        ports
    }

    #[test]
    fn its_file_says_what_was_answered() {
        let door = draw(&["8443", "1194/udp"], Means::Phone, &PortSet::default(), || Ok(0));
        assert_eq!(
            door.unwrap().text,
            "# Written once by knockctl init, and yours from then on: see knock.d(5).
# After a change: knockctl try, and from a new connection: knockctl confirm

knockd:
  # Who connects from there need not knock. An address may be somebody else's one day.
  trusted: ['2001:db8::2']

doors:
  8443-tcp:
    totp: {mode: code, base: 7000}
    open: [8443/tcp, 1194/udp]
    # Long enough to log in; connections that stand go on.
    open_for: 1m
"
        );
    }

    #[test]
    fn knockd_reads_the_file_as_it_was_meant() {
        for by in [Means::Phone, Means::Laptop, Means::Plain] {
            let door = draw(&["22"], by, &PortSet::default(), || Ok(5)).unwrap();
            let loaded = parse(&SourceText::new("door-ssh.yaml", door.text.as_str())).unwrap();
            let [read] = &loaded.config.doors[..] else { panic!("{}", door.text) };
            assert_eq!(read.name().as_str(), "ssh");
            let opens: Vec<_> = read.opening.ports.iter().map(ToString::to_string).collect();
            assert_eq!(opens, ["22/tcp"]);
            let recognition = &read.recognition;
            let found =
                [recognition.totp.is_some(), recognition.spa, !recognition.sequence.is_empty()];
            assert_eq!(found, [Means::Phone, Means::Laptop, Means::Plain].map(|it| it == by));
            assert_eq!(loaded.config.settings.trusted.len(), usize::from(by == Means::Phone));
        }
    }

    #[test]
    fn a_file_that_trusts_nobody_leaves_the_settings_to_others() {
        let door = draw(&["22"], Means::Plain, &PortSet::default(), || Ok(5)).unwrap();
        assert!(
            !door.text.contains("knockd:\n") && !door.text.contains("trusted"),
            "{}",
            door.text
        );
    }

    #[test]
    fn codes_are_knocked_where_nothing_listens() {
        for (listens, base) in [(7100, "base: 7000"), (7099, "base: 8000"), (7000, "base: 8000")] {
            let door = draw(&["22"], Means::Phone, &listening(listens, listens), || Ok(0));
            assert!(door.unwrap().text.contains(base), "{listens}");
        }
    }

    #[test]
    fn where_every_port_is_taken_there_is_an_error() {
        for by in [Means::Phone, Means::Plain] {
            let error = draw(&["22"], by, &listening(1, 65535), || Ok(0)).unwrap_err();
            assert!(error.to_string().contains("no ports are left"), "{error}");
        }
    }

    proptest! {
        #[test]
        fn a_sequence_has_four_ports_that_go_up_and_down_far_from_what_listens(
            random in prop::collection::vec(any::<u64>(), 4),
            listens in 7000u16..32000,
        ) {
            let mut random = random.into_iter();
            let random = || Ok(random.next().unwrap());
            let door = draw(&["22"], Means::Plain, &listening(listens, listens), random).unwrap();
            let ports = door.knock.strip_prefix("knock gw ").unwrap().split(' ');
            let mut ports: Vec<u16> = ports.map(|port| port.parse().unwrap()).collect();
            prop_assert!(!ports.is_sorted() && !ports.iter().rev().is_sorted());
            prop_assert!(ports.iter().all(|port| port.abs_diff(listens) > AROUND));
            ports.sort_unstable();
            ports.dedup();
            prop_assert_eq!(ports.len(), 4);
        }
    }
}
