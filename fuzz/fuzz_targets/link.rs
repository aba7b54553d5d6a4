//! Links, as `knock import` reads them: what is read is written as the same text, what is damaged
//! is told so, and nothing shows a secret.
#![no_main]

use data_encoding::BASE64URL_NOPAD;
use libfuzzer_sys::fuzz_target;
use libknock::proto::link::{Link, LinkError};
use sha2::{Digest, Sha256};

/// The link that has these bytes for its body.
fn of_body(body: &[u8]) -> String {
    let hash = Sha256::new().chain_update(b"knock link v1\0").chain_update(body).finalize();
    let rest = BASE64URL_NOPAD.encode(&[body, &hash[..4]].concat());
    let [.., high, middle, low] = rest.len().to_be_bytes();
    format!("knock://1/{}{rest}", BASE64URL_NOPAD.encode(&[high, middle, low]))
}

fuzz_target!(|input: &[u8]| {
    if let Err(error) = Link::decode(&String::from_utf8_lossy(input)) {
        assert!(!error.to_string().is_empty());
    }
    let text = of_body(input);
    match Link::decode(&text) {
        Ok(link) => {
            assert_eq!(*link.encode().expect("it is no longer than it was"), text);
            assert_eq!(link.names().len(), link.entries.len());
            let shown = format!("{link:?}");
            assert!(link.secret.is_none() || shown.contains("Secret(..)"), "{shown}");
            if let Some(keys) = link.fwknop_keys() {
                assert_eq!(keys.each_ref().map(|key| key.len()), [44, 88], "of 32 and 64 bytes");
                assert!(shown.contains("keys: Some(Secret(..))"), "{shown}");
            }
        }
        Err(error) => assert_eq!(error, LinkError::Newer, "{text}"),
    }
    // Cut off, and with another character at a place that the input chooses.
    let at =
        text.len() - 1 - input.first().map_or(0, |byte| usize::from(*byte) % (text.len() - 14));
    assert_eq!(Link::decode(&text[..at]), Err(LinkError::CutOff(text.len() - at)));
    let mut wrong = text.clone().into_bytes();
    wrong[at] = if wrong[at] == b'A' { b'B' } else { b'A' };
    let wrong = String::from_utf8(wrong).expect("is ASCII");
    assert_eq!(Link::decode(&wrong), Err(LinkError::Mistyped), "{wrong}");
});
