//! fwknop's `access.conf` and the `fwknopd.conf` beside it, as `knockctl import` reads them: what
//! comes out loads, or the notes say why there is nothing; no note shows a key.
#![no_main]

use std::cell::Cell;
use std::io;
use std::path::{Path, PathBuf};

use jiff::tz::TimeZone;
use knock_fuzz::{FWKNOP_SECRETS, is_clean, secrets};
use libfuzzer_sys::fuzz_target;
use libknock::config::diagnostic::SourceText;
use libknock::config::load;
use libknock::ctl::import::{Files, Imported, import};

/// The file itself, by any name that ends in `.conf`, and the fwknopd.conf beside it.
struct Memory<'a> {
    file: &'a [u8],
    daemon: &'a [u8],
    /// How often the file may still be read: it may include itself many times over.
    left: Cell<u8>,
}

impl Files for Memory<'_> {
    fn read(&self, path: &Path) -> io::Result<Vec<u8>> {
        match path.to_str() {
            Some("fwknopd.conf") => Ok(self.daemon.to_vec()),
            Some(name) if name.ends_with(".conf") && self.left.get() > 0 => {
                self.left.set(self.left.get() - 1);
                Ok(self.file.to_vec())
            }
            _ => Err(io::ErrorKind::NotFound.into()),
        }
    }

    fn list(&self, _: &Path) -> io::Result<Vec<PathBuf>> {
        Ok(vec!["a.conf".into(), "b.conf".into()])
    }
}

fuzz_target!(|input: &[u8]| {
    // The fwknopd.conf stands behind a NUL.
    let (rest, daemon) = match input.iter().position(|byte| *byte == 0) {
        Some(at) => (&input[..at], &input[at + 1..]),
        None => (input, &[][..]),
    };
    let file = [b"SOURCE ANY\n", rest].concat();
    let files = Memory { file: &file, daemon, left: Cell::new(4) };
    let open = ["22".parse().expect("is a port")];
    let Imported { yaml, notes, .. } =
        match import(Path::new("access.conf"), &files, &TimeZone::UTC, &open) {
            Ok(imported) => imported,
            Err(error) => return assert!(!error.to_string().is_empty()),
        };
    let said: String = notes.iter().map(|note| format!("{note}\n")).collect();
    assert!(is_clean(&said));
    let text = String::from_utf8_lossy(input);
    for secret in secrets(&text, &FWKNOP_SECRETS) {
        assert!(!said.contains(secret), "{said} shows {secret}");
    }
    if let Err(report) = load::parse(&SourceText::new("imported.yaml", yaml.as_str())) {
        panic!("what was imported does not load: {report}\n{yaml}");
    }
});
