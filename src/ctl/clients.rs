//! Clients: who may knock, how, where, and when they last did; enrolling, revoking, resetting them.

mod bundle;
pub(super) mod client_file;
pub(super) mod enroll;
pub(super) mod revoke;
mod site;
mod stanza;

use std::io::{self, Write};

use jiff::tz::TimeZone;

use super::args::JsonArgs;
use super::output::{self, local, table, wall};
use super::{Error, Target, Timeout};
use crate::config::Name;
use crate::control::{ClientStatus, Reply, Request};
use crate::sys::clock;
use crate::time::Wall;

#[derive(Clone, Debug, clap::Subcommand)]
pub(super) enum ClientCommand {
    /// Forget what a client seems to have used in the future, which keeps it out until then
    ///
    /// That happens where the clock of this host was wrong. What it can have used by now stays
    /// used.
    #[command(after_help = "Example: knockctl client reset laptop")]
    Reset {
        /// The name of the client
        client: Name,
    },
}

pub(super) fn run(target: &Target, args: &JsonArgs) -> Result<(), Error> {
    let reply = target.ask(&Request::Clients, Timeout::Reply)?.next()?;
    let Reply::Clients { clients } = reply else { return Err(Error::Ended) };
    let (now, zone) = (clock::now().wall, TimeZone::system());
    Ok(output::print(args.json, &clients, |out| print(out, &clients, now, &zone))?)
}

pub(super) fn reset(target: &Target, task: ClientCommand) -> Result<(), Error> {
    let ClientCommand::Reset { client } = task;
    target.act(&Request::ResetClient { client }, Timeout::Reply)
}

fn print(
    out: &mut dyn Write,
    clients: &[ClientStatus],
    now: Wall,
    zone: &TimeZone,
) -> io::Result<()> {
    let time = |at: f64| local(wall(at), zone).strftime("%Y-%m-%d %H:%M:%S").to_string();
    let rows = clients.iter().map(|client| {
        let doors: Vec<_> = client.doors.iter().map(ToString::to_string).collect();
        let is_over = client.expires.is_some_and(|end| wall(end) <= now);
        let expires = client.expires.map_or_else(|| "never".to_owned(), time);
        let expires = expires + if is_over { ", expired" } else { "" };
        let last_used = client.last_used.map_or_else(|| "-".to_owned(), time);
        let by: Vec<_> = client.by.iter().map(|by| by.as_str()).collect();
        vec![client.client.to_string(), by.join(" "), doors.join(" "), last_used, expires]
    });
    table(out, &["CLIENT", "BY", "DOORS", "LAST USED", "EXPIRES"], rows)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_client_has_a_line_with_what_it_proves_itself_by_and_when_it_did() {
        let client = |text: &str| serde_json::from_str(text).unwrap();
        let clients = [
            client(r#"{"client":"phone","by":["totp","spa"],"doors":["a","b"],"last_used":60.0}"#),
            client(r#"{"client":"old","by":["fwknop"],"doors":["a"],"expires":120.0}"#),
        ];
        let mut out = Vec::new();
        print(&mut out, &clients, Wall::from_nanos(130_000_000_000), &TimeZone::UTC).unwrap();
        assert_eq!(
            String::from_utf8(out).unwrap(),
            "CLIENT  BY        DOORS  LAST USED            EXPIRES\n\
             phone   totp spa  a b    1970-01-01 00:01:00  never\n\
             old     fwknop    a      -                    1970-01-01 00:02:00, expired\n"
        );
    }
}
