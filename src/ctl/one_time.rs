//! `knockctl one-time`: sequences of which each opens once, as a file.

use std::io::{self, Write};
use std::num::NonZeroU16;
use std::ops::RangeInclusive;
use std::path::PathBuf;

use zeroize::Zeroizing;

use super::enroll::files::write_new;
use super::error::{Error, say};
use crate::config::one_time::{Recipe, generate};
use crate::proto::knock::{Protocol, parse_port};
use crate::proto::totp::Protocols;

#[derive(Clone, Debug, clap::Args)]
pub(super) struct OneTimeArgs {
    /// How many sequences
    #[arg(long, value_name = "N", default_value = "100", value_parser = clap::value_parser!(u32).range(1..=100_000))]
    lines: u32,
    /// How many knocks in each
    #[arg(long, value_name = "N", default_value = "4", value_parser = clap::value_parser!(u8).range(3..=32))]
    length: u8,
    /// Where their ports come from
    #[arg(long, value_name = "LOW-HIGH", default_value = "20000-29999", value_parser = ports)]
    ports: RangeInclusive<NonZeroU16>,
    /// tcp, udp, or mixed: either, as it comes
    #[arg(long, value_name = "P", default_value = "tcp")]
    protocol: Protocols,
    /// Make this file, readable for its owner only, instead of printing them
    file: Option<PathBuf>,
}

fn ports(text: &str) -> Result<RangeInclusive<NonZeroU16>, String> {
    let (low, high) =
        text.split_once('-').ok_or("write the first and the last port, as in 20000-29999")?;
    let port = |text: &str| parse_port(text.trim()).map_err(|error| error.to_string());
    let (low, high) = (port(low)?, port(high)?);
    if low > high { Err("write the lower port first".to_owned()) } else { Ok(low..=high) }
}

pub(super) fn run(args: OneTimeArgs) -> Result<(), Error> {
    let recipe = Recipe {
        lines: usize::try_from(args.lines).unwrap_or(usize::MAX),
        length: args.length.into(),
        ports: args.ports,
        protocol: match args.protocol {
            Protocols::Tcp => Some(Protocol::Tcp),
            Protocols::Udp => Some(Protocol::Udp),
            Protocols::Mixed => None,
        },
    };
    let mut failed = None;
    let random = || {
        getrandom::u64().unwrap_or_else(|error| {
            failed = Some(error);
            0
        })
    };
    let made = generate(&recipe, random);
    if let Some(error) = failed {
        return Err(error.into());
    }
    let text = Zeroizing::new(made?);
    match args.file {
        Some(path) => {
            write_new(&path, &text)?;
            say(&format!(
                "{} is for a door's 'one_time_sequences'; its owner needs the same lines, in the \
                 same order, on paper or in a file that nobody else reads",
                path.display()
            ));
        }
        None => {
            say("these lines are secret: whoever reads them can knock");
            io::stdout().write_all(text.as_bytes())?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_range_is_its_first_and_its_last_port() {
        let range = ports("20000-29999").unwrap();
        assert_eq!((range.start().get(), range.end().get()), (20000, 29999));
        for (text, error) in [
            ("20000", "write the first and the last port, as in 20000-29999"),
            ("3-2", "write the lower port first"),
        ] {
            assert_eq!(ports(text), Err(error.to_owned()));
        }
        assert!(ports("0-70000").is_err());
    }
}
