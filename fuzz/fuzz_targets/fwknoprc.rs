//! fwknop's own client's file: what does not count changes nothing, no error shows a key.
#![no_main]

use knock_fuzz::{FWKNOP_SECRETS, secrets};
use libfuzzer_sys::fuzz_target;
use libknock::client::fwknoprc::read;

fuzz_target!(|text: &str| {
    // The name of the stanza, then the file.
    let (name, text) = text.split_once('\n').unwrap_or(("work", text));
    let stanza = read(text, name, &[]);
    // Comments, blank lines and other stanzas do not count.
    if text.ends_with('\n') && !name.eq_ignore_ascii_case("other-one") {
        let more = format!("{text}# KEY x\n\n;\n[other-one]\nKEY nonsense\nWHATEVER it is\n");
        assert_eq!(read(&more, name, &[]), stanza);
    }
    assert_eq!(read(text, &name.to_ascii_uppercase(), &[]).is_ok(), stanza.is_ok());
    // A variable that an option settles does not count.
    let without = read(text, name, &FWKNOP_SECRETS);
    if let Ok(without) = &without {
        assert!(without.keys.key.is_none() && without.keys.hmac.is_none());
    }
    match stanza {
        Ok(_) => assert!(without.is_ok(), "what does not count is wrong"),
        Err(error) => {
            let error = error.to_string();
            for secret in secrets(text, &FWKNOP_SECRETS).filter(|secret| !name.contains(secret)) {
                assert!(!error.contains(secret), "{error} shows {secret}");
            }
        }
    }
});
