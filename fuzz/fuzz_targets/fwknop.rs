//! No datagram makes the decoder panic, and what it reads can be sealed and read again.
#![no_main]

use libfuzzer_sys::fuzz_target;
use libknock::proto::fwknop::{CipherMode, FwknopDatagram, FwknopKey, FwknopKeys, FwknopRequest, Hash, HmacKey, seal};

fuzz_target!(|input: (u8, u8, bool, &[u8])| {
    let (mode, hash, with_hmac, bytes) = input;
    let mode = CipherMode::ALL[usize::from(mode) % CipherMode::ALL.len()];
    let hash = Hash::ALL[usize::from(hash) % Hash::ALL.len()];
    let Ok(key) = FwknopKey::new(b"testkey".to_vec()) else { return };
    let Ok(hmac_key) = HmacKey::new(b"hmackey".to_vec()) else { return };
    let hmac = with_hmac.then_some((&hmac_key, hash));
    let keys = FwknopKeys { key: &key, mode, hmac };
    let open = |datagram| FwknopDatagram::new(datagram)?.open(keys);
    let _ = open(bytes);
    // What is behind the encryption: no fuzzer finds the key.
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    let Ok(request) = FwknopRequest::from_text(text) else { return };
    if let Ok(datagram) = seal(&request, hash, keys, [0; 8]) {
        let opened = open(datagram.as_bytes());
        assert_eq!(opened.map(|opened| opened.request), Ok(request));
    }
});
