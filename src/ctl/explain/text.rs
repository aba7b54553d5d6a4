//! Text beside the events: why a packet changed nothing, and the sums at the end.

use std::collections::BTreeMap;
use std::io::{self, Write};
use std::net::IpAddr;

use crate::config::Door;
use crate::control::{EventLine, What};
use crate::ctl::wording::{count, duplicate};
use crate::engine::{Reason, Verdict};
use crate::wire::{Ignored, Packet, Transport};

/// Counts of the packets of a file.
#[derive(Default)]
pub(super) struct Tally {
    /// Those that could be read, wanted or not.
    packets: usize,
    wanted: usize,
    knocks: usize,
    /// Requests in one datagram.
    requests: usize,
    ignored: BTreeMap<Reason, usize>,
    unread: BTreeMap<Ignored, usize>,
    /// At which doors the one address that is asked about has begun, and how far it has come.
    stages: BTreeMap<String, usize>,
}

impl Tally {
    /// Bytes that are no knock, and whose source is not known.
    pub(super) fn unread(&mut self, ignored: Ignored) {
        *self.unread.entry(ignored).or_default() += 1;
    }

    pub(super) fn count(&mut self, wanted: bool, verdict: &Verdict<'_>) {
        self.packets += 1;
        if !wanted {
            return;
        }
        self.wanted += 1;
        match verdict {
            Verdict::Knock(_) => self.knocks += 1,
            Verdict::Requests(_) | Verdict::Refused(_) | Verdict::NotOurs | Verdict::Waits => {
                self.requests += 1;
            }
            Verdict::Ignored(reason) => *self.ignored.entry(*reason).or_default() += 1,
        }
    }

    /// Takes note of how far somebody has come.
    pub(super) fn note(&mut self, line: &EventLine) {
        let Some(door) = &line.door else { return };
        match line.what {
            What::Stage { stage, .. } => _ = self.stages.insert(door.clone(), stage),
            _ => _ = self.stages.remove(door),
        }
    }

    /// Whether no packet was wanted.
    pub(super) const fn is_empty(&self) -> bool {
        self.wanted == 0
    }

    /// Prints the sums at the end of the file.
    pub(super) fn finish(
        &self,
        out: &mut dyn Write,
        doors: &[Door],
        only: Option<IpAddr>,
    ) -> io::Result<()> {
        let Self { packets, wanted, knocks, requests, ignored, unread, stages } = self;
        let all = packets + unread.values().sum::<usize>();
        let knocks = knocks_in_words(*knocks, *requests);
        if let Some(only) = only {
            for door in doors {
                let (name, sequence) = (door.name(), &door.recognition.sequence);
                let Some(stage) = stages.get(name.as_str()) else { continue };
                let Some(next) = sequence.get(*stage) else { continue };
                let of = sequence.len();
                writeln!(
                    out,
                    "the file ends at stage {stage} of {of} of {name}: {next} is missing"
                )?;
            }
            if self.is_empty() {
                writeln!(out, "no packet from {only} in this file ({packets} from others)")?;
                writeln!(
                    out,
                    "If it did knock, then its packets took another way, a firewall before this \
                     host dropped them,\nor it came from another address (behind NAT, or IPv6)."
                )?;
            } else {
                writeln!(out, "{} from {only}, {knocks}", count(*wanted, "packet"))?;
            }
        } else if all == 0 {
            writeln!(out, "no packets in this file")?;
        } else {
            writeln!(out, "{}, {knocks}", count(all, "packet"))?;
        }
        for (reason, count) in ignored {
            writeln!(out, "{count:>8}  {reason}")?;
        }
        if only.is_some() && !unread.is_empty() {
            writeln!(out, "and, from whatever address:")?;
        }
        for (ignored, count) in unread {
            writeln!(out, "{count:>8}  {}", Reason::Ignored(*ignored))?;
        }
        Ok(())
    }
}

/// Why a packet that somebody meant as a knock was none, or changed nothing; at which door.
pub(super) fn unseen<'a>(
    doors: &'a [Door],
    packet: &Packet,
    verdict: &Verdict<'_>,
) -> Vec<(&'a str, String)> {
    let knock = packet.knock();
    let mut lines = Vec::new();
    match verdict {
        Verdict::Ignored(Reason::Duplicate) => return vec![("-", duplicate(knock))],
        Verdict::Knock([]) => {
            let what = if doors.iter().any(|door| door.recognition.sequence.contains(&knock)) {
                "does not come first, and nothing had begun"
            } else {
                "is a trip-wire, but there was nothing to break"
            };
            lines.push(("-", format!("{knock} {what}")));
        }
        _ => {}
    }
    lines.extend(doors.iter().filter_map(|door| {
        let why = why_unseen(door, packet)?;
        Some((door.name().as_str(), format!("{knock} is not seen: {why}")))
    }));
    lines
}

fn knocks_in_words(knocks: usize, requests: usize) -> String {
    let knocks = match knocks {
        0 => "none of them a knock".to_owned(),
        1 => "1 of them a knock".to_owned(),
        _ => format!("{knocks} of them knocks"),
    };
    match requests {
        0 => knocks,
        1 => format!("{knocks}, 1 a request in one datagram"),
        _ => format!("{knocks}, {requests} requests in one datagram"),
    }
}

/// Why a door does not see a packet to a port of its sequence; `None` if it does, or if the port
/// is none of its.
fn why_unseen(door: &Door, packet: &Packet) -> Option<String> {
    let recognition = &door.recognition;
    if !recognition.sequence.contains(&packet.knock()) {
        return None;
    }
    if let Some(target) = recognition.target.filter(|&target| target != packet.destination) {
        return Some(format!("it went to {}, the target is {target}", packet.destination));
    }
    match packet.transport {
        Transport::Tcp { flags, .. } if !recognition.flags.passes(flags) => {
            Some(format!("its flags are {flags}, tcpflags are {}", recognition.flags))
        }
        _ => None,
    }
}
