//! YAML configurations: whatever the text is, it loads or what is wrong is said, without its secrets;
//! what has loaded can be doubted, and gives an engine and filter.
#![no_main]

use knock_fuzz::{YAML_SECRETS, is_clean, secrets};
use libfuzzer_sys::fuzz_target;
use libknock::config::diagnostic::SourceText;
use libknock::config::lint::{HostFacts, lint};
use libknock::config::load;

fuzz_target!(|text: &str| {
    // Paths lead nowhere: what files say is not this target's.
    let source = SourceText::new("doors.yaml", text);
    let said = match load::parse(&source) {
        Err(report) => report.to_string(),
        Ok(loaded) => {
            assert!(loaded.config.doors.is_sorted_by(|one, other| one.name() < other.name()));
            assert!(loaded.config.clients.is_sorted_by(|one, other| one.name < other.name));
            for client in &loaded.config.clients {
                assert!(client.doors.iter().all(|door| loaded.config.door(door).is_some()));
            }
            let doubts = lint(&loaded, &HostFacts::default());
            let said = loaded.warnings.iter().chain(&doubts).map(ToString::to_string);
            said.collect::<Vec<_>>().join("\n")
        }
    };
    assert!(is_clean(&said));
    for secret in secrets(text, &YAML_SECRETS) {
        assert!(!said.contains(secret), "{said} shows {secret}");
    }
});
