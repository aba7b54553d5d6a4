//! SPA datagrams: what was not made for this server is refused, whatever it is; of what was, every
//! byte counts; what a client says is read as it was said, or named malformed.
#![no_main]

use std::sync::LazyLock;

use hmac::{Hmac, KeyInit, Mac};
use knock_fuzz::{CLIENT, SERVER, take};
use libfuzzer_sys::fuzz_target;
use libknock::proto::spa::{LEN, PAYLOAD_LEN, PrivateKey, Receiver, SpaError, SpaRequest, seal};
use sha2::{Digest, Sha256};

static RECEIVER: LazyLock<Receiver> =
    LazyLock::new(|| Receiver::new(&PrivateKey::from(SERVER), [PrivateKey::from(CLIENT).public()]));

/// Puts the tag before a body that anybody can who knows the server's public key (knock-spa(7)).
fn tag(datagram: &mut [u8; LEN]) {
    let public = PrivateKey::from(SERVER).public();
    let key = Sha256::new().chain_update(b"knock spa v1 tag").chain_update(public.as_bytes());
    let key = key.finalize();
    let (tag, body) = datagram.split_at_mut(16);
    let mac = Hmac::<Sha256>::new_from_slice(&key).expect("a key of any length");
    tag.copy_from_slice(&mac.chain_update(body).finalize().into_bytes()[..16]);
}

fuzz_target!(|input: &[u8]| {
    let mut input = input;
    let [kind, at, change] = take(&mut input);
    let payload = take::<PAYLOAD_LEN>(&mut input);
    let request = SpaRequest::decode(&payload);
    if let Ok(request) = &request {
        // A whole address can be written in three ways; one of them is the shortest.
        let encoded = request.encode();
        let whole = [0, 32].contains(&payload[20]) && [0, 128].contains(&payload[21]);
        assert_eq!(SpaRequest::decode(&encoded).as_ref(), Ok(request));
        assert_eq!(encoded[0], if whole { 1 } else { 2 });
        assert!(encoded[0] != payload[0] || encoded[22..] == payload[22..]);
        assert!(payload[0] != 1 || encoded == payload);
    }
    let open = |datagram: &[u8; LEN]| {
        let opened = RECEIVER.open(datagram);
        assert_eq!(RECEIVER.has_tag(datagram), opened != Err(SpaError::BadTag));
        opened
    };
    match (kind % 8, request) {
        // What it costs to look at these is two agreements of keys: now and then.
        (0, _) => {
            let mut datagram = take::<LEN>(&mut input);
            tag(&mut datagram);
            assert_eq!(open(&datagram), Err(SpaError::Undecryptable));
        }
        (1, Ok(request)) => {
            let (client, server) = (PrivateKey::from(CLIENT), PrivateKey::from(SERVER).public());
            let mut datagram = seal(&request, &client, &server, [kind | 1; 32]);
            let place = usize::from(at) % LEN;
            datagram[place] = datagram[place].wrapping_add(change);
            if change > 0 && kind >= 0x80 {
                assert_eq!(open(&datagram), Err(SpaError::BadTag));
                tag(&mut datagram);
            }
            match open(&datagram) {
                Ok(opened) => assert_eq!(opened, (client.public(), request)),
                Err(_) => assert_ne!(change, 0),
            }
            // The tag is of the rest: it alone may have been altered and mended again.
            assert!(change == 0 || place < 16 || open(&datagram).is_err());
        }
        _ => {
            let datagram = take::<LEN>(&mut input);
            assert_eq!(open(&datagram), Err(SpaError::BadTag));
        }
    }
});
