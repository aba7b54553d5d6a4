//! What `knockctl import` is given: whatever it is, what comes out loads, or the notes say why not.
#![no_main]

use std::io;
use std::path::{Path, PathBuf};

use libfuzzer_sys::fuzz_target;
use libknock::config::diagnostic::SourceText;
use libknock::config::load;
use libknock::ctl::import::{Files, import};

/// The file itself, by any name that ends in `.conf`, and the fwknopd.conf beside it.
struct Memory<'a> {
    file: &'a [u8],
    daemon: &'a [u8],
}

impl Files for Memory<'_> {
    fn read(&self, path: &Path) -> io::Result<Vec<u8>> {
        match path.to_str() {
            Some("fwknopd.conf") => Ok(self.daemon.to_vec()),
            Some(name) if name.ends_with(".conf") => Ok(self.file.to_vec()),
            _ => Err(io::ErrorKind::NotFound.into()),
        }
    }

    fn list(&self, _: &Path) -> io::Result<Vec<PathBuf>> {
        Ok(vec!["a.conf".into(), "b.conf".into()])
    }
}

fuzz_target!(|input: (bool, &[u8], &[u8])| {
    let (classic, rest, daemon) = input;
    // The first line tells the two kinds apart.
    let first: &[u8] = if classic { b"[door]\n" } else { b"SOURCE ANY\n" };
    let file = [first, rest].concat();
    let files = Memory { file: &file, daemon };
    let open = ["22".parse().expect("is a port")];
    match import(Path::new("file.conf"), &files, &jiff::tz::TimeZone::UTC, &open) {
        Ok(imported) => {
            // A file of one-time sequences may not be there.
            let source = SourceText::new("imported.yaml", imported.yaml.as_str());
            if let Err(report) = load::parse(&source) {
                assert!(imported.yaml.contains("one_time_sequences"), "{report}");
            }
        }
        Err(error) => assert!(!error.to_string().is_empty()),
    }
});
