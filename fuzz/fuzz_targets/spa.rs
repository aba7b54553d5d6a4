//! SPA datagrams: what was not made for this server is refused, whatever it is; what a client says
//! is read, and would be said the same again, or is named malformed.
#![no_main]

use libfuzzer_sys::fuzz_target;
use libknock::proto::spa::{LEN, PAYLOAD_LEN, PrivateKey, Receiver, SpaError, SpaRequest};

fuzz_target!(|input: ([u8; LEN], [u8; PAYLOAD_LEN])| {
    let (datagram, payload) = input;
    let receiver = Receiver::new(&PrivateKey::from([1; 32]), []);
    assert_eq!(receiver.has_tag(&datagram), receiver.open(&datagram) != Err(SpaError::BadTag));
    if let Ok(request) = SpaRequest::decode(&payload) {
        assert_eq!(request.encode(), payload);
    }
});
