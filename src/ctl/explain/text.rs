//! The explanation as people read it: aligned lines, then what they add up to.

use std::collections::BTreeMap;
use std::io::{self, Write};
use std::net::IpAddr;

use super::Outcome;
use crate::config::{Door, Name};
use crate::ctl::lines::Timeline;
use crate::ctl::words::{Told, family, locked_out, missed};
use crate::engine::{DoorId, Reason, Verdict};
use crate::grants::By;
use crate::proto::duration;
use crate::proto::knock::Knock;
use crate::time::Wall;
use crate::wire::{Ignored, Packet, Transport};

pub(super) struct Text<'a> {
    doors: &'a [Door],
    timeline: Timeline,
    tally: Tally,
    /// How far the one address that is asked about has come, where it has begun.
    stages: BTreeMap<DoorId, u8>,
}

#[derive(Default)]
struct Tally {
    /// Those that could be read, wanted or not.
    packets: u64,
    knocks: u64,
    /// Requests in one datagram.
    requests: u64,
    ignored: BTreeMap<Reason, u64>,
    unread: BTreeMap<Ignored, u64>,
}

impl<'a> Text<'a> {
    pub(super) fn new(doors: &'a [Door]) -> Self {
        Self {
            doors,
            timeline: Timeline::new(doors.iter().map(|door| door.name().as_str())),
            tally: Tally::default(),
            stages: BTreeMap::new(),
        }
    }

    pub(super) fn unread(&mut self, ignored: Ignored) {
        *self.tally.unread.entry(ignored).or_default() += 1;
    }

    pub(super) fn count(&mut self, wanted: bool, verdict: &Verdict<'_>) {
        self.tally.packets += 1;
        if !wanted {
            return;
        }
        match verdict {
            Verdict::Knock(_) => self.tally.knocks += 1,
            Verdict::Asked(_) | Verdict::Refused(_) => self.tally.requests += 1,
            Verdict::Ignored(reason) => *self.tally.ignored.entry(*reason).or_default() += 1,
        }
    }

    pub(super) fn event(
        &mut self,
        out: &mut dyn Write,
        at: Wall,
        source: IpAddr,
        door: Option<(DoorId, &Door)>,
        outcome: Outcome<'_>,
        packet: Option<&Packet>,
    ) -> io::Result<()> {
        let sequence = door.map_or([].as_slice(), |(_, door)| &door.recognition.sequence);
        let nth = |place: u8| sequence.get(usize::from(place)).map(Knock::to_string);
        let came = packet.map(|packet| packet.knock().to_string());
        let family = Some(family(source));
        let told = Told { of: Some(sequence.len()), knock: came, family, ..Told::default() };
        let what = match outcome {
            Outcome::Stage(stage) => {
                let knock = nth(stage.saturating_sub(1));
                Told { knock, ..told }.stage(stage.into())
            }
            Outcome::Open { by: By::Sequence | By::OneTimeSequence, .. } => told.open(),
            Outcome::Open { by, client } => told.open_by(by, client.map(Name::as_str)),
            Outcome::Close { by, client } => told.close_by(by, client.map(Name::as_str)),
            Outcome::Refused { reason, .. } => told.refused(reason.as_str()),
            Outcome::Missed { client, steps } => missed(client.map(Name::as_str), steps.into()),
            Outcome::LockedOut { seconds, everywhere } => locked_out(seconds, everywhere),
            Outcome::Reset { stage, reason } => {
                let within = door.map(|(_, door)| duration::format(door.recognition.seq_timeout));
                Told { expected: nth(stage), within, ..told }.reset(stage.into(), reason.as_str())
            }
        };
        match (door, outcome) {
            (Some((id, _)), Outcome::Stage(stage)) => _ = self.stages.insert(id, stage),
            (Some((id, _)), _) => _ = self.stages.remove(&id),
            (None, _) => {}
        }
        self.line(out, at, source, door.map_or("-", |(_, door)| door.name().as_str()), &what)
    }

    /// Why a packet that somebody meant as a knock was none, or changed nothing.
    pub(super) fn unseen(
        &mut self,
        out: &mut dyn Write,
        at: Wall,
        packet: &Packet,
        verdict: &Verdict<'_>,
    ) -> io::Result<()> {
        let knock = packet.knock();
        match verdict {
            Verdict::Ignored(Reason::Duplicate) => {
                let what = format!("{knock} again: a retransmission, no knock of its own");
                return self.line(out, at, packet.source, "-", &what);
            }
            Verdict::Knock([]) => {
                let is_trip_wire =
                    !self.doors.iter().any(|door| door.recognition.sequence.contains(&knock));
                let what = if is_trip_wire {
                    format!("{knock} is a trip-wire, but there was nothing to break")
                } else {
                    format!("{knock} does not come first, and nothing had begun")
                };
                self.line(out, at, packet.source, "-", &what)?;
            }
            _ => {}
        }
        for door in self.doors {
            if let Some(why) = why_unseen(door, packet) {
                let what = format!("{knock} is not seen: {why}");
                self.line(out, at, packet.source, door.name().as_str(), &what)?;
            }
        }
        Ok(())
    }

    fn line(
        &mut self,
        out: &mut dyn Write,
        at: Wall,
        source: IpAddr,
        door: &str,
        what: &str,
    ) -> io::Result<()> {
        self.timeline.line(out, at, &source.to_string(), door, what)
    }

    /// What is left to say at the end of the file.
    pub(super) fn finish(
        &mut self,
        out: &mut dyn Write,
        only: Option<IpAddr>,
        wanted: u64,
    ) -> io::Result<()> {
        let Tally { packets, knocks, requests, ignored, unread } = &self.tally;
        if !self.timeline.is_empty() {
            writeln!(out)?;
        }
        if let Some(only) = only {
            for (id, stage) in &self.stages {
                let Some(door) = super::door(self.doors, *id) else { continue };
                let sequence = &door.recognition.sequence;
                let Some(next) = sequence.get(usize::from(*stage)) else { continue };
                let (name, of) = (door.name(), sequence.len());
                writeln!(
                    out,
                    "the file ends at stage {stage} of {of} of {name}: {next} is missing"
                )?;
            }
            if wanted == 0 {
                writeln!(out, "no packet from {only} in this file ({packets} from others)")?;
                writeln!(
                    out,
                    "If it did knock, then its packets took another way, a firewall before this \
                     host dropped them,\nor it came from another address (behind NAT, or IPv6)."
                )?;
            } else {
                writeln!(
                    out,
                    "{} from {only}, {}",
                    packets_in_words(wanted),
                    knocks_in_words(*knocks, *requests)
                )?;
            }
        } else {
            let all = packets + unread.values().sum::<u64>();
            if all == 0 {
                return writeln!(out, "no packets in this file");
            }
            writeln!(out, "{}, {}", packets_in_words(all), knocks_in_words(*knocks, *requests))?;
        }
        for (reason, count) in ignored {
            writeln!(out, "{count:>8}  {}", meaning(*reason))?;
        }
        if only.is_some() && !unread.is_empty() {
            writeln!(out, "and, from whatever address:")?;
        }
        for (ignored, count) in unread {
            writeln!(out, "{count:>8}  {}", meaning(Reason::Ignored(*ignored)))?;
        }
        Ok(())
    }
}

/// Whoever was pushed out had to begin again.
pub(super) fn crowded(out: &mut dyn Write, sequences: u64) -> io::Result<()> {
    match sequences {
        0 => Ok(()),
        _ => writeln!(
            out,
            "{sequences} begun sequences were given up: too many sources at once for \
             knockd.track.sources"
        ),
    }
}

fn packets_in_words(count: u64) -> String {
    if count == 1 { "1 packet".to_owned() } else { format!("{count} packets") }
}

fn knocks_in_words(knocks: u64, requests: u64) -> String {
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

/// What stands behind a count of packets that are nobody's knock.
const fn meaning(reason: Reason) -> &'static str {
    match reason {
        Reason::NotWatched => "to ports that no door watches, or not with the flags it asks for",
        Reason::Duplicate => "retransmissions of a knock",
        Reason::NotForUs => "to a door's port, but not to its target",
        Reason::OnlyIpv4 => "IPv6, where only_ipv4 is set",
        Reason::Ignored(Ignored::Truncated) => {
            "cut off before the ports: capture with tcpdump -s 0"
        }
        Reason::Ignored(Ignored::Fragment) => "fragments: knocks have to come whole",
        Reason::Ignored(Ignored::Malformed) => "malformed: lengths that contradict each other",
        Reason::Ignored(Ignored::NotIp) => "neither IPv4 nor IPv6",
        Reason::Ignored(Ignored::NotTransport) => "neither TCP nor UDP",
        Reason::Ignored(Ignored::Outgoing) => "sent by the machine that captured",
        other => other.as_str(),
    }
}
