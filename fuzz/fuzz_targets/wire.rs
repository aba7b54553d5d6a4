//! No frame makes the parser panic; what it reads, it reads the same with padding behind it.
#![no_main]

use libfuzzer_sys::fuzz_target;
use libknock::wire::link::LinkType;
use libknock::wire::parse;

fuzz_target!(|input: (u8, &[u8])| {
    let (link, frame) = input;
    let link = LinkType::ALL[usize::from(link) % LinkType::ALL.len()];
    if let Ok((packet, _)) = parse(link, frame) {
        let padded = [frame, &[0; 8]].concat();
        // Padding may complete a packet that was cut off, but not change it.
        assert_eq!(parse(link, &padded).map(|(padded, _)| padded.knock()), Ok(packet.knock()));
    }
});
