//! The methods that open each door, in words.

use crate::config::lint::{rotating_odds, scan_odds};
use crate::config::watch::watch_sets;
use crate::config::{Client, Config, Door, OneTime};
use crate::ctl::wording::count;
use crate::proto::duration;
use crate::proto::port_range;
use crate::proto::ports::PortSet;
use crate::proto::totp::{Protocols, TotpMode};

/// The methods of each door, in their order: at least one each.
pub(super) fn methods(config: &Config) -> Vec<Vec<String>> {
    let watched = watch_sets(config.doors.iter().map(|door| &door.recognition));
    config
        .doors
        .iter()
        .zip(&watched)
        .map(|(door, watched)| {
            let holders = |has: fn(&Client) -> bool| {
                let opens = |client: &&Client| has(client) && client.doors.contains(door.name());
                config.clients.iter().filter(opens).count()
            };
            let datagram = door.recognition.spa.then(|| {
                let ports = port_range::show(&config.settings.spa.ports, '-');
                let holders = count(holders(|client| client.spa.is_some()), "client");
                format!("a datagram to {ports}/udp, by {holders}")
            });
            let request = door.recognition.fwknop.then(|| {
                let ports = port_range::show(&config.settings.fwknop.ports, '-');
                let holders = count(holders(|client| client.fwknop.is_some()), "client");
                format!("a request of fwknop's to {ports}/udp, by {holders}")
            });
            let rotates = rotates(door, holders(|client| client.totp.is_some()));
            let knocked = [fixed(door, watched), rotates];
            knocked.into_iter().chain([datagram, request]).flatten().collect()
        })
        .collect()
}

fn fixed(door: &Door, watched: &PortSet) -> Option<String> {
    let recognition = &door.recognition;
    let within = duration::format(recognition.seq_timeout);
    let odds = scan_odds(recognition, watched);
    if let Some(OneTime { file, line, left }) = &door.one_time {
        let file = file.display();
        return Some(match line {
            Some(line) => format!(
                "line {line} of {file}, {} left; within {within}; a scan in random order opens it {odds}",
                count(*left, "sequence")
            ),
            None => format!("nothing any more: no sequence is left in {file}"),
        });
    }
    let sequence: Vec<_> = recognition.sequence.iter().map(ToString::to_string).collect();
    let stages = count(sequence.len(), "stage");
    let sequence = sequence.join(" ");
    (!sequence.is_empty()).then(|| {
        format!("{sequence}; {stages} within {within}; a scan in random order opens it {odds}")
    })
}

fn rotates(door: &Door, clients: usize) -> Option<String> {
    let scheme = door.recognition.totp?;
    let what = match scheme.mode() {
        TotpMode::Ports { low, high, length, protocol } => {
            let protocol = match protocol {
                Protocols::Mixed => "tcp and udp",
                Protocols::Tcp => "tcp",
                Protocols::Udp => "udp",
            };
            format!("{length} knocks on {low}-{high} {protocol}")
        }
        TotpMode::Code { base, digits } => {
            let high = u32::from(base) + 99;
            format!("a code of {} digits on {base}-{high} tcp", digits.count())
        }
    };
    let step = duration::format(std::time::Duration::from_secs(scheme.step().into()));
    let within = duration::format(door.recognition.seq_timeout);
    let odds = rotating_odds(&scheme, clients, door.recognition.lockout);
    let clients = count(clients, "client");
    Some(format!(
        "{what}, new every {step}, by {clients}; within {within}; a scan in random order opens it {odds}"
    ))
}
