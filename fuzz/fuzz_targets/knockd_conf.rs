//! Classic configurations: whatever the text is, it loads or says why not.
#![no_main]

use libfuzzer_sys::fuzz_target;
use libknock::config::diagnostic::SourceText;
use libknock::config::load;

fuzz_target!(|text: &str| {
    // The section makes it a classic one.
    let source = SourceText::new("knockd.conf", format!("[door]\n{text}"));
    if let Err(report) = load::parse(&source) {
        assert!(!report.to_string().is_empty());
    }
});
