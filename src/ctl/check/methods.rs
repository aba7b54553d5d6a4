//! The methods that open each door, in words.

use crate::config::lint::{rotating_odds, scan_odds};
use crate::config::watch::watch_sets;
use crate::config::{Config, Door, OneTime, Settings};
use crate::ctl::wording::count;
use crate::proto::totp::TotpMode;
use crate::proto::{Method, PortSet, duration, port_range};

/// The methods of each door, in their order: at least one each.
pub(super) fn methods(config: &Config) -> Vec<Vec<String>> {
    let watched = watch_sets(config.doors.iter().map(|door| &door.recognition));
    let say = |(door, watched): (&Door, &PortSet)| {
        let clients = config.clients.iter().filter(|it| it.doors.contains(door.name()));
        let holders = |method| clients.clone().filter(|client| client.has(method)).count();
        let sent = |method, what, ports| {
            let (ports, holders) = (port_range::show(ports, '-'), holders(method));
            let said = format!("{what} to {ports}/udp, by {}", count(holders, "client"));
            door.takes(method).then_some(said)
        };
        let Settings { spa, fwknop, .. } = &config.settings;
        let all = [
            fixed(door, watched),
            rotates(door, holders(Method::Totp)),
            sent(Method::Spa, "a datagram", &spa.ports),
            sent(Method::Fwknop, "a request of fwknop's", &fwknop.ports),
        ];
        all.into_iter().flatten().collect()
    };
    config.doors.iter().zip(&watched).map(say).collect()
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
            let protocols = protocol.as_str().replace("mixed", "tcp and udp");
            format!("{length} knocks on {low}-{high} {protocols}")
        }
        TotpMode::Code { base, digits } => {
            let high = u32::from(base) + 99;
            format!("a code of {} digits on {base}-{high} tcp", digits.count())
        }
    };
    let step = duration::format(scheme.step_length());
    let within = duration::format(door.recognition.seq_timeout);
    let odds = rotating_odds(&scheme, clients, door.recognition.lockout);
    let clients = count(clients, "client");
    Some(format!(
        "{what}, new every {step}, by {clients}; within {within}; a scan in random order opens it {odds}"
    ))
}
