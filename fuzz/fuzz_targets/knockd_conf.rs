//! Classic configurations, as the daemon reads them and as `knockctl import` writes them anew: each
//! loads or says why not; what is written anew loads, and has the same doors where nothing is said
//! to have been left out.
#![no_main]

use std::io;
use std::path::{Path, PathBuf};

use jiff::tz::TimeZone;
use knock_fuzz::is_clean;
use libfuzzer_sys::fuzz_target;
use libknock::config::diagnostic::SourceText;
use libknock::config::load;
use libknock::ctl::import::{Files, Imported, import};

struct OneFile(String);

impl Files for OneFile {
    fn read(&self, _: &Path) -> io::Result<Vec<u8>> {
        Ok(self.0.clone().into_bytes())
    }

    fn list(&self, _: &Path) -> io::Result<Vec<PathBuf>> {
        Ok(Vec::new())
    }
}

fuzz_target!(|text: &str| {
    // The section makes it a classic one.
    let file = OneFile(format!("[door]\n{text}"));
    let classic = load::parse(&SourceText::new("knockd.conf", file.0.as_str()));
    if let Err(report) = &classic {
        assert!(is_clean(&report.to_string()));
    }
    let imported = import(Path::new("knockd.conf"), &file, &TimeZone::UTC, &[]);
    let Imported { yaml, notes, complete, .. } = match imported {
        Ok(imported) => imported,
        // With one of their words it is taken for a file of fwknop's client's.
        Err(error) => return assert!(error.to_string().contains("--fwknoprc"), "{error}"),
    };
    assert!(notes.iter().all(|note| is_clean(&note.to_string())));
    // A file of one-time sequences is not there.
    if yaml.contains("one_time_sequences") {
        return;
    }
    let loaded = match load::parse(&SourceText::new("imported.yaml", yaml.as_str())) {
        Ok(loaded) => loaded.config,
        Err(report) => panic!("what was imported does not load: {report}\n{yaml}"),
    };
    if let Ok(classic) = classic
        && complete
    {
        assert_eq!(loaded.doors.len(), classic.config.doors.len());
    }
});
