//! YAML configurations: whatever the text is, it loads or says why not.
#![no_main]

use libfuzzer_sys::fuzz_target;
use libknock::config::diagnostic::SourceText;
use libknock::config::load;

fuzz_target!(|text: &str| {
    if let Err(report) = load::parse(&SourceText::new("doors.yaml", text)) {
        assert!(!report.to_string().is_empty());
    }
});
