//! SPA datagrams: what was not made for this server is refused, whatever it is; what a client says
//! is read, and would be said the same again, or is named malformed.
#![no_main]

use libfuzzer_sys::fuzz_target;
use libknock::proto::spa::{Error, LEN, Opener, PAYLOAD_LEN, PrivateKey, Request};

fuzz_target!(|input: ([u8; LEN], [u8; PAYLOAD_LEN])| {
    let (datagram, payload) = input;
    let opener = Opener::new(&PrivateKey::from([1; 32]), []);
    assert_eq!(opener.has_tag(&datagram), opener.open(&datagram) != Err(Error::BadTag));
    if let Ok(request) = Request::decode(&payload) {
        assert_eq!(request.encode(), payload);
    }
});
