//! `knockctl server-key`: the public key that clients need to ask this server.

use std::io::{self, Write};

use super::{Error, Target};
use crate::config::read_server_key;

pub(super) fn run(target: &Target) -> Result<(), Error> {
    let path = &target.load()?.config.settings.spa.key_file;
    match read_server_key(path, target.options()).map_err(Error::unfit)? {
        Some(key) => Ok(writeln!(io::stdout(), "{}", key.public())?),
        None => Err(Error::Unfit(format!(
            "this server has no key yet: there is no {}\n    \
             knockd makes it when it starts with a door that has spa: true",
            path.display()
        ))),
    }
}
