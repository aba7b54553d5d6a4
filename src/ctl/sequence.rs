//! `knockctl sequence`: the knocks that open a door now, or at another time.

use std::io::{self, Write};

use jiff::Zoned;
use jiff::tz::TimeZone;
use serde::Serialize;

use super::output::{self, local, table};
use super::{Error, Target, say};
use crate::config::{Client, Config, Door, Name};
use crate::engine::is_over;
use crate::proto::totp::{TotpKey, TotpMode, code};
use crate::proto::{Knock, Method};
use crate::sys::clock;
use crate::time::Wall;

#[derive(Clone, Debug, clap::Args)]
pub(super) struct SequenceArgs {
    /// The name of the door
    door: Name,
    /// Whose knocks, where they rotate with time
    client: Option<Name>,
    /// At another time: 2026-11-22T13:00:00Z, '2026-11-22 13:00' here, or seconds since 1970
    #[arg(long, value_name = "TIME", value_parser = super::args::time)]
    at: Option<Wall>,
    /// One JSON object for each sequence, for scripts
    #[arg(long)]
    json: bool,
}

pub(super) fn run(target: &Target, args: &SequenceArgs) -> Result<(), Error> {
    let config = target.load()?.config;
    let (door, client) = find(&config, &args.door, args.client.as_ref())?;
    let at = args.at.unwrap_or_else(|| clock::now().wall);
    if let Some(client) = client.filter(|client| is_over(client.expires, at)) {
        say(&format!("'{}' has expired: knockd takes none of these", client.name));
    }
    let valid = valid(door, client, at);
    say("whoever reads these knocks can open the door");
    Ok(output::print(args.json, &valid, |out| print(out, &valid, &local(at, &TimeZone::system())))?)
}

/// The door, and the client where its knocks depend on one.
pub(super) fn find<'a>(
    config: &'a Config,
    name: &Name,
    named: Option<&Name>,
) -> Result<(&'a Door, Option<&'a Client>), Error> {
    let door = config.door(name).ok_or_else(|| Error::no_door(config, name))?;
    let known = |name| config.client(name).ok_or_else(|| Error::no_client(config, name));
    let client = named.map(known).transpose()?;
    let rotates = door.recognition.totp.is_some();
    let knocks = |client: &&Client| client.totp.is_some() && client.doors.contains(name);
    Err(Error::Unfit(match client {
        Some(client) if rotates && knocks(&client) => return Ok((door, Some(client))),
        Some(Client { name: wanted, totp, .. }) if rotates => {
            let (lacks, gives) = match totp {
                Some(_) => (format!("may not open '{name}'"), "lets it"),
                None => ("has no TOTP secret".to_owned(), "--totp gives it one"),
            };
            format!("'{wanted}' {lacks}\n    knockctl enroll {wanted} --door {name} {gives}")
        }
        _ if !door.recognition.sequence.is_empty() => return Ok((door, None)),
        None if rotates => {
            let clients: Vec<_> =
                config.clients.iter().filter(knocks).map(|client| client.name.as_str()).collect();
            let which = match clients.as_slice() {
                [] => "there is none yet: knockctl enroll makes one".to_owned(),
                clients => format!("one of: {}", clients.join(", ")),
            };
            format!("the knocks at '{name}' are different for each client: name one\n    {which}")
        }
        _ => match &door.one_time {
            Some(list) => format!(
                "no sequence opens '{name}' any more: all in {} are used up\n    \
                 knockctl one-time makes new ones",
                list.file.display()
            ),
            None => format!("no sequence of knocks opens '{name}': it takes datagrams"),
        },
    }))
}

/// A sequence that opens a door.
#[derive(Clone, Debug, PartialEq, Serialize)]
struct OpeningSequence {
    door: Name,
    #[serde(skip_serializing_if = "Option::is_none")]
    client: Option<Name>,
    by: Method,
    knocks: Vec<Knock>,
    #[serde(flatten)]
    rotating: Option<RotatingStep>,
}

#[derive(Clone, Debug, PartialEq, Serialize)]
struct RotatingStep {
    /// The number of its step.
    step: u64,
    /// From when to when knockd takes it, in seconds since 1970-01-01 UTC.
    from: u64,
    until: u64,
    /// Whether its step is the one of the moment.
    current: bool,
    /// Whether it is of the secret before the last enrolment.
    old_secret: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    code: Option<String>,
}

/// Every sequence that opens the door at that time, the earlier step first.
fn valid(door: &Door, client: Option<&Client>, at: Wall) -> Vec<OpeningSequence> {
    let mut valid = Vec::new();
    if let (Some(client), Some(scheme)) = (client, &door.recognition.totp)
        && let Some(totp) = &client.totp
    {
        let old = totp.old.as_ref().filter(|(_, until)| at < *until);
        let secrets = [Some((&totp.secret, false)), old.map(|(old, _)| (old, true))];
        for (secret, old_secret) in secrets.into_iter().flatten() {
            let key = TotpKey::from(secret);
            let (long, skew) = (u64::from(scheme.step()), u64::from(scheme.skew()));
            valid.extend(scheme.window(at).map(|step| OpeningSequence {
                door: door.name().clone(),
                client: Some(client.name.clone()),
                by: Method::Totp,
                knocks: scheme.knocks(&key, door.name().as_str(), step).to_vec(),
                rotating: Some(RotatingStep {
                    step,
                    from: step.saturating_sub(skew).saturating_mul(long),
                    until: step.saturating_add(skew + 1).saturating_mul(long),
                    current: step == scheme.step_at(at),
                    old_secret,
                    code: match scheme.mode() {
                        TotpMode::Ports { .. } => None,
                        TotpMode::Code { digits, .. } => Some(code(&key, step, digits).to_string()),
                    },
                }),
            }));
        }
    }
    if !door.recognition.sequence.is_empty() {
        valid.push(OpeningSequence {
            door: door.name().clone(),
            client: None,
            by: door.one_time.as_ref().map_or(Method::Sequence, |_| Method::OneTimeSequence),
            knocks: door.recognition.sequence.clone(),
            rotating: None,
        });
    }
    valid
}

fn print(out: &mut dyn Write, valid: &[OpeningSequence], at: &Zoned) -> io::Result<()> {
    writeln!(out, "at {}:", at.strftime("%Y-%m-%d %H:%M:%S %Z"))?;
    let clock = |seconds| {
        let time = Wall::ZERO + std::time::Duration::from_secs(seconds);
        local(time, at.time_zone()).strftime("%H:%M:%S").to_string()
    };
    let row = |sequence: &OpeningSequence| {
        let knocks: Vec<_> = sequence.knocks.iter().map(ToString::to_string).collect();
        let knocks = knocks.join(" ");
        let Some(rotating) = &sequence.rotating else {
            let when = if sequence.by == Method::Sequence { "always" } else { "once" };
            return vec![when.to_owned(), knocks];
        };
        let mut row =
            vec![format!("{} to {}", clock(rotating.from), clock(rotating.until)), knocks];
        row.extend(rotating.code.as_ref().map(|code| format!("code {code}")));
        row.extend(rotating.current.then(|| "now".to_owned()));
        row.extend(rotating.old_secret.then(|| "old secret".to_owned()));
        row
    };
    table(out, &[], valid.iter().map(row))
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use proptest::prelude::*;

    use super::*;
    use crate::config::diagnostic::SourceText;
    use crate::config::load;
    use crate::config::{OneTime, TotpClient};
    use crate::proto::totp::{Digits, Protocols, Scheme, parse_secret};

    const SECRET: &str = "JBSWY3DPEHPK3PXPJBSWY3DPEHPK3PXP";
    const OTHER: &str = "GEZDGNBVGY3TQOJQGEZDGNBVGY3TQOJQ";

    fn at(seconds: u64) -> Wall {
        Wall::ZERO + Duration::from_secs(seconds)
    }

    fn door(mode: Option<TotpMode>) -> Door {
        let text = "doors: {ssh: {sequence: [7000, 8000/udp, 9000], start_command: 'true'}}";
        let mut door = load::parse(&SourceText::new("f", text)).unwrap().config.doors.remove(0);
        if let Some(mode) = mode {
            door.recognition.sequence.clear();
            door.recognition.totp = Some(Scheme::new(mode, 30, 1).unwrap());
        }
        door
    }

    fn ports() -> Option<TotpMode> {
        let port = |port: u16| port.try_into().unwrap();
        let (low, high) = (port(20000), port(29999));
        Some(TotpMode::Ports { low, high, length: 4, protocol: Protocols::Mixed })
    }

    fn client(old: Option<(&str, u64)>) -> Client {
        let secret = |text: &str| parse_secret(text).unwrap();
        let old = old.map(|(text, until)| (secret(text), at(until)));
        Client {
            width: None,
            name: "phone".parse().unwrap(),
            doors: vec!["ssh".parse().unwrap()],
            expires: None,
            totp: Some(TotpClient { secret: secret(SECRET), old }),
            spa: None,
            fwknop: None,
        }
    }

    fn find_ssh<'a>(
        config: &'a Config,
        client: Option<&str>,
    ) -> Result<(&'a Door, Option<&'a Client>), Error> {
        let client = client.map(|name| name.parse().unwrap());
        find(config, &"ssh".parse().unwrap(), client.as_ref())
    }

    fn printed(valid: &[OpeningSequence], at: Wall) -> String {
        let mut out = Vec::new();
        print(&mut out, valid, &local(at, &TimeZone::UTC)).unwrap();
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn every_sequence_of_the_window_is_shown_with_the_time_for_which_it_holds() {
        let valid = valid(&door(ports()), Some(&client(None)), at(59));
        assert_eq!(valid.len(), 3);
        let rotating = valid[1].rotating.as_ref().unwrap();
        assert_eq!((rotating.step, rotating.from, rotating.until), (1, 0, 90));
        let lines = printed(&valid, at(59));
        let lines: Vec<&str> = lines.lines().collect();
        assert_eq!(lines[0], "at 1970-01-01 00:00:59 UTC:");
        assert_eq!(lines[2], "00:00:00 to 00:01:30  20259/tcp 29408/udp 28589/tcp 25841/udp  now");
        assert!(lines[3].starts_with("00:00:30 to 00:02:00  "), "{lines:?}");
    }

    #[test]
    fn a_code_is_shown_beside_its_knocks() {
        let code = TotpMode::Code { base: 7000, digits: Digits::Six };
        let valid = valid(&door(Some(code)), Some(&client(None)), at(1_111_111_109));
        let line = printed(&valid, at(1_111_111_109));
        let line = line.lines().nth(2).unwrap();
        assert!(line.ends_with("7008/tcp 7083/tcp 7009/tcp  code 088309  now"), "{line}");
    }

    #[test]
    fn the_secret_before_counts_until_its_grace_is_over() {
        let phone = client(Some((OTHER, 100)));
        for (now, count) in [(99, 6), (100, 3)] {
            let valid = valid(&door(ports()), Some(&phone), at(now));
            assert_eq!(valid.len(), count);
            let old = valid.iter().filter_map(|it| it.rotating.as_ref()).filter(|it| it.old_secret);
            assert_eq!(old.count(), count - 3);
        }
    }

    #[test]
    fn a_sequence_that_is_the_same_for_all_needs_no_client() {
        let config = |door| Config {
            settings: crate::config::Settings::default(),
            doors: vec![door],
            clients: vec![client(None)],
        };
        let fixed = config(door(None));
        for name in [None, Some("phone")] {
            let (door, client) = find_ssh(&fixed, name).unwrap();
            let valid = valid(door, client, at(0));
            assert_eq!(
                printed(&valid, at(0)).lines().nth(1),
                Some("always  7000/tcp 8000/udp 9000/tcp")
            );
        }
        let rotating = config(door(ports()));
        let error = find_ssh(&rotating, None).unwrap_err().to_string();
        assert!(error.contains("different for each client") && error.contains("phone"), "{error}");
        assert!(find_ssh(&rotating, Some("phone")).unwrap().1.is_some());
    }

    #[test]
    fn what_does_not_go_together_is_said() {
        let mut one_time = door(None);
        one_time.recognition.sequence.clear();
        one_time.one_time = Some(OneTime { file: "/k/ssh".into(), line: None, left: 0 });
        let mut datagrams = door(None);
        datagrams.recognition.sequence.clear();
        let mut stranger = client(None);
        stranger.doors.clear();
        for (door, client, name, said) in [
            (one_time, client(None), None, "all in /k/ssh are used up"),
            (datagrams, client(None), None, "it takes datagrams"),
            (door(ports()), stranger, Some("phone"), "'phone' may not open 'ssh'"),
            (door(ports()), client(None), Some("tablet"), "there is no client 'tablet'"),
        ] {
            let settings = crate::config::Settings::default();
            let config = Config { settings, doors: vec![door], clients: vec![client] };
            let error = find_ssh(&config, name).unwrap_err().to_string();
            assert!(error.contains(said), "{error}");
        }
    }

    proptest! {
        #[test]
        fn each_sequence_that_is_shown_holds_at_that_time(now in 0u64..5_000_000_000) {
            for sequence in valid(&door(ports()), Some(&client(None)), at(now)) {
                let rotating = sequence.rotating.unwrap();
                prop_assert!(rotating.from <= now && now < rotating.until);
            }
        }
    }
}
