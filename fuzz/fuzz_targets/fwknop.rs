//! No datagram makes the decoder panic, and what it reads can be sealed and read again.
#![no_main]

use libfuzzer_sys::fuzz_target;
use libknock::proto::fwknop::{CipherMode, FwknopKey, FwknopRequest, Hash, HmacKey, open, seal};

fuzz_target!(|input: (u8, u8, bool, &[u8])| {
    let (mode, hash, with_hmac, bytes) = input;
    let mode = CipherMode::ALL[usize::from(mode) % CipherMode::ALL.len()];
    let hash = Hash::ALL[usize::from(hash) % Hash::ALL.len()];
    let Ok(key) = FwknopKey::new(b"testkey".to_vec()) else { return };
    let Ok(hmac_key) = HmacKey::new(b"hmackey".to_vec()) else { return };
    let hmac = with_hmac.then_some((&hmac_key, hash));
    let _ = open(bytes, &key, mode, hmac);
    // What is behind the encryption: no fuzzer finds the key.
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    let Ok(request) = FwknopRequest::from_text(text) else { return };
    if let Ok(datagram) = seal(&request, hash, &key, mode, hmac, [0; 8]) {
        let opened = open(datagram.as_bytes(), &key, mode, hmac);
        assert_eq!(opened.map(|opened| opened.request), Ok(request));
    }
});
