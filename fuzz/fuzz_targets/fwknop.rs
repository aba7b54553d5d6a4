//! fwknop's datagrams: what one says is sealed and opened again as it was; nothing altered is taken
//! where requests are authenticated, and nothing else ever for the request that it was.
#![no_main]

use std::sync::LazyLock;

use data_encoding::BASE64_NOPAD;
use knock_fuzz::take;
use libfuzzer_sys::fuzz_target;
use libknock::proto::fwknop::{
    CipherMode, END_LEN, FwknopDatagram, FwknopKey, FwknopKeys, FwknopRequest, Hash, HmacKey,
    MAX_TIMEOUT, MIN_LEN, NatAccess, seal,
};
use sha2::{Digest, Sha256};

static KEY: LazyLock<FwknopKey> =
    LazyLock::new(|| FwknopKey::new(b"testkey".to_vec()).expect("a key"));
static HMAC: LazyLock<HmacKey> =
    LazyLock::new(|| HmacKey::new(b"hmackey".to_vec()).expect("a key"));

fuzz_target!(|input: &[u8]| {
    let mut bytes = input;
    let [mode, hash, at, change] = take(&mut bytes);
    let is_authenticated = mode >= 0x80;
    let mode = CipherMode::ALL[usize::from(mode & 0x7f) % CipherMode::ALL.len()];
    let hash = Hash::ALL[usize::from(hash) % Hash::ALL.len()];
    let hmac = is_authenticated.then_some((&*HMAC, hash));
    let keys = FwknopKeys { key: &KEY, mode, hmac };
    let open = |datagram: &[u8]| FwknopDatagram::new(datagram)?.open(&keys.into());
    if let Ok(opened) = open(bytes) {
        assert!((MIN_LEN..END_LEN).contains(&bytes.len()));
        assert!(!opened.request.access.ports.is_empty());
    }
    // What is behind the encryption: no fuzzer finds the key, nor a digest.
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    let digest = BASE64_NOPAD.encode(&Sha256::digest(text));
    let Ok(request) = FwknopRequest::from_text(&format!("{text}:{digest}")) else { return };
    let access = &request.access;
    assert!(!access.ports.is_empty() && access.timeout.is_none_or(|it| it <= MAX_TIMEOUT));
    if let Some(nat) = &access.nat {
        assert_eq!(NatAccess::new(nat.host(), nat.port, nat.is_local).as_ref(), Ok(nat));
    }
    let Ok(datagram) = seal(&request, hash, keys, [at; 8]) else { return };
    let sealed = open(datagram.as_bytes()).expect("what was sealed is opened");
    assert_eq!(sealed.request, request);
    if change == 0 {
        return;
    }
    let mut altered = datagram.into_bytes();
    let place = usize::from(at) % altered.len();
    altered[place] = altered[place].wrapping_add(change);
    if let Ok(opened) = open(&altered) {
        assert!(!is_authenticated, "an altered request is taken");
        assert_ne!(opened.replay, sealed.replay, "two datagrams are the same request");
    }
});
