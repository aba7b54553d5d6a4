//! Ports that a door opens: one, or some that follow each other.

use std::collections::BTreeSet;
use std::num::NonZeroU16;
use std::str::FromStr;

use derive_more::Display;
use serde_with::{DeserializeFromStr, SerializeDisplay};

use super::knock::{Knock, Protocol, with_protocol};
use super::port_range::{self, PortRange, RangeError};

/// Ports of one protocol that follow each other; hardly ever more than one.
///
/// Written `22/tcp`, or `60000-61000/udp`; with a colon as well, and tcp is the default.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Display)]
#[display("{}/{protocol}", port_range::show(&self.range(), '-'))]
#[derive(SerializeDisplay, DeserializeFromStr)]
pub struct OpenPorts {
    protocol: Protocol,
    low: NonZeroU16,
    high: NonZeroU16,
}

impl OpenPorts {
    pub const fn protocol(self) -> Protocol {
        self.protocol
    }

    pub const fn range(self) -> PortRange {
        self.low..=self.high
    }

    /// The first of them.
    pub const fn first(self) -> Knock {
        Knock::new(self.protocol, self.low)
    }

    /// The only one, where there are not several.
    pub fn single(self) -> Option<Knock> {
        (self.low == self.high).then(|| self.first())
    }

    /// Cut where one of these ranges begins or ends within them.
    pub fn cut_at(self, ranges: impl Iterator<Item = PortRange>) -> Vec<Self> {
        // The first ports of the pieces.
        let begins = |it: PortRange| [Some(*it.start()), it.end().checked_add(1)];
        let inside =
            ranges.flat_map(begins).flatten().filter(|at| self.low < *at && *at <= self.high);
        let firsts: BTreeSet<NonZeroU16> = inside.chain([self.low]).collect();
        let lasts = firsts.iter().skip(1).map(|next| NonZeroU16::new(next.get() - 1));
        let lasts = lasts.flatten().chain([self.high]);
        firsts.iter().zip(lasts).map(|(&low, high)| Self { low, high, ..self }).collect()
    }

    pub fn contains(self, knock: Knock) -> bool {
        self.protocol == knock.protocol && self.range().contains(&knock.port)
    }
}

impl From<Knock> for OpenPorts {
    fn from(Knock { protocol, port }: Knock) -> Self {
        Self { protocol, low: port, high: port }
    }
}

impl FromStr for OpenPorts {
    type Err = RangeError;

    fn from_str(text: &str) -> Result<Self, RangeError> {
        // As iptables has a range.
        let is_port = |after: &str| after.starts_with(|first: char| first.is_ascii_digit());
        if text.split_once(':').is_some_and(|(_, after)| is_port(after)) {
            return Err(RangeError::None(text.to_owned()));
        }
        let (ports, protocol) = with_protocol(text)?;
        let (low, high) = port_range::parse(ports)?.into_inner();
        Ok(Self { protocol, low, high })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn shown(text: &str) -> Result<String, String> {
        text.parse::<OpenPorts>().map(|ports| ports.to_string()).map_err(|why| why.to_string())
    }

    #[test]
    fn one_port_or_a_range_is_read() {
        for (text, expected) in [
            ("22", "22/tcp"),
            ("53:UDP", "53/udp"),
            ("60000-61000/udp", "60000-61000/udp"),
            ("60000-61000", "60000-61000/tcp"),
            ("443-443:tcp", "443/tcp"),
        ] {
            assert_eq!(shown(text), Ok(expected.to_owned()));
        }
    }

    #[test]
    fn what_names_none_says_what_to_write() {
        for (text, why) in [
            ("-1", "'-1' is not a port: write a number from 1 to 65535"),
            ("2-1/udp", "the range 2-1 holds no port: write the lower port first"),
            ("1-70000", "port 70000 is out of range: ports go from 1 to 65535"),
            (
                "60000:61000/udp",
                "'60000:61000/udp' is not a range of ports: write the first and the last, as in 20000-29999",
            ),
            ("1-2/icmp", "'icmp' is not a protocol: write tcp or udp"),
        ] {
            assert_eq!(shown(text), Err(why.to_owned()));
        }
    }

    proptest! {
        #[test]
        fn it_is_printed_as_it_is_read(a in 1u16.., b in 1u16.., tried in 1u16.., udp: bool) {
            let text = format!("{}-{}/{}", a.min(b), a.max(b), if udp { "udp" } else { "tcp" });
            let ports: OpenPorts = text.parse().unwrap();
            prop_assert_eq!(ports.to_string().parse(), Ok(ports));
            let knock = |protocol| Knock::new(protocol, tried.try_into().unwrap());
            let is_in = (a.min(b)..=a.max(b)).contains(&tried);
            prop_assert_eq!(ports.contains(knock(Protocol::Udp)), is_in && udp);
            prop_assert_eq!(ports.contains(knock(Protocol::Tcp)), is_in && !udp);
        }

        #[test]
        fn ranges_that_are_cut_at_each_other_do_not_meet_unless_they_are_the_same(
            ends in prop::collection::vec((1u16..40, 1u16..40), 1..5),
        ) {
            let ranges: Vec<OpenPorts> = ends
                .iter()
                .map(|(a, b)| format!("{}-{}", a.min(b), a.max(b)).parse().unwrap())
                .collect();
            let cut = |it: &OpenPorts| it.cut_at(ranges.iter().map(|other| other.range()));
            for one in &ranges {
                let pieces = cut(one);
                let ports = |it: OpenPorts| it.range().start().get()..=it.range().end().get();
                let all: Vec<u16> = pieces.iter().flat_map(|piece| ports(*piece)).collect();
                prop_assert_eq!(all, ports(*one).collect::<Vec<_>>());
                for (piece, other) in pieces.iter().zip(&ranges).flat_map(|(piece, other)| {
                    cut(other).into_iter().map(move |other| (*piece, other))
                }) {
                    let meet = ports(piece).any(|port| ports(other).contains(&port));
                    prop_assert!(!meet || piece == other, "{} and {}", piece, other);
                }
            }
        }

        #[test]
        fn no_text_makes_it_panic(text in "[0-9/:-]{0,14}|.{0,20}") {
            let _ = text.parse::<OpenPorts>();
        }
    }
}
