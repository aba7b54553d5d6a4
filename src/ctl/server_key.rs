//! `knockctl server-key`: what clients have to know to ask this server.

use std::fs;
use std::io::{self, Write};
use std::path::Path;

use zeroize::Zeroizing;

use super::failure::Failure;
use crate::config::load::{self, Options};
use crate::proto::spa::{PrivateKey, PublicKey};

/// The public key that belongs to a key file; `None`: there is no such file yet.
///
/// # Errors
/// When it can't be read, or is no key file.
pub(super) fn read(path: &Path) -> Result<Option<PublicKey>, Failure> {
    let text = match fs::read_to_string(path) {
        Ok(text) => Zeroizing::new(text),
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => {
            return Err(Failure::Unfit(format!("cannot read {}: {error}", path.display())));
        }
    };
    let key: PrivateKey = text
        .trim()
        .parse()
        .map_err(|error| Failure::Unfit(format!("{}: {error}", path.display())))?;
    Ok(Some(key.public()))
}

pub(super) fn run(config: &Path, insecure_permissions: bool) -> Result<(), Failure> {
    let options = Options { insecure_permissions };
    let loaded = load::load(config, &options).map_err(Failure::NoConfiguration)?;
    let path = &loaded.config.settings.spa.key_file;
    match read(path)? {
        Some(key) => Ok(writeln!(io::stdout(), "{key}")?),
        None => Err(Failure::Unfit(format!(
            "this server has no key yet: there is no {}\n    \
             knockd makes it when it starts with a door that has spa: true",
            path.display()
        ))),
    }
}
