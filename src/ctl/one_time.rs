//! `knockctl one-time`: sequences of which each opens once, as a file.

use std::io::{self, Write};
use std::path::PathBuf;

use zeroize::Zeroizing;

use super::edit::write_new;
use super::{Error, say};
use crate::config::one_time::{Recipe, generate};
use crate::proto::port_range::parse_wide;
use crate::proto::totp::Protocols;
use crate::proto::{PortRange, Protocol};

#[derive(Clone, Debug, clap::Args)]
pub(super) struct OneTimeArgs {
    /// How many sequences
    #[arg(long, value_name = "N", default_value = "100", value_parser = clap::value_parser!(u32).range(1..=100_000))]
    lines: u32,
    /// How many knocks in each
    #[arg(long, value_name = "N", default_value = "4", value_parser = clap::value_parser!(u8).range(3..=32))]
    length: u8,
    /// Where their ports come from
    #[arg(long, value_name = "LOW-HIGH", default_value = "20000-29999", value_parser = parse_wide)]
    ports: PortRange,
    /// tcp, udp, or mixed: either, as it comes
    #[arg(long, value_name = "P", default_value = "tcp")]
    protocol: Protocols,
    /// Make this file, readable for its owner only, instead of printing them
    file: Option<PathBuf>,
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
    let text = Zeroizing::new(generate(&recipe, getrandom::u64).map_err(Error::unfit)?);
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
