//! `knockctl server-key`: what clients have to know to ask this server.

use std::io::{self, Write};
use std::path::Path;

use super::failure::Failure;
use crate::config::load::{self, Options};
use crate::config::read_server_key;

pub(super) fn run(config: &Path, insecure_permissions: bool) -> Result<(), Failure> {
    let options = Options { insecure_permissions };
    let loaded = load::load(config, &options).map_err(Failure::NoConfiguration)?;
    let path = &loaded.config.settings.spa.key_file;
    match read_server_key(path, options).map_err(|error| Failure::Unfit(error.to_string()))? {
        Some(key) => Ok(writeln!(io::stdout(), "{}", key.public())?),
        None => Err(Failure::Unfit(format!(
            "this server has no key yet: there is no {}\n    \
             knockd makes it when it starts with a door that has spa: true",
            path.display()
        ))),
    }
}
