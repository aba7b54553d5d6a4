//! Frames of every link type: none makes the parser panic, whatever is read stands in the frame,
//! and neither padding nor a cut changes what is read.
#![no_main]

use knock_fuzz::frame::{build, plain};
use knock_fuzz::take;
use libfuzzer_sys::fuzz_target;
use libknock::wire::link::LinkType;
use libknock::wire::{Ignored, Transport, parse};

fuzz_target!(|input: &[u8]| {
    let mut input = input;
    let [kind, at] = take(&mut input);
    let link = LinkType::ALL[usize::from(kind & 0x7f) % LinkType::ALL.len()];
    // As it is, or made of what it says.
    let frame = if kind < 0x80 { input.to_vec() } else { build(link, 7000, input) };
    let read = parse(link, &frame);

    if let Some(naive) = plain(link, &frame) {
        let is_whole = match naive.segment {
            [_, _, _, _, high, low, _, _, rest @ ..] if !naive.is_tcp => {
                let length = usize::from(u16::from_be_bytes([*high, *low]));
                (8..=8 + rest.len()).contains(&length)
            }
            [..] if naive.is_tcp && naive.segment.len() >= 20 => {
                (20..=naive.segment.len()).contains(&(usize::from(naive.segment[12] >> 4) * 4))
            }
            _ => false,
        };
        assert_eq!(read.is_ok(), is_whole && naive.ports[1] != 0, "{read:?}");
        if let Ok((packet, payload)) = read {
            assert_eq!((packet.source, packet.destination), (naive.source, naive.destination));
            let is_tcp = matches!(packet.transport, Transport::Tcp { .. });
            assert_eq!(is_tcp, naive.is_tcp);
            let port = packet.knock().port.get();
            assert_eq!([packet.source_port(), port], naive.ports);
            assert!(naive.segment.get(8..).is_some_and(|rest| rest.starts_with(payload)));
            if let Transport::Tcp { flags, sequence, .. } = packet.transport {
                assert_eq!(flags.0, naive.segment[13]);
                assert_eq!(sequence.to_be_bytes(), naive.segment[4..8]);
            }
        }
    }

    let Ok((packet, payload)) = read else { return };
    // Padding may complete what was cut off, but not change it.
    let padded = [&frame[..], &[0; 8]].concat();
    let (with_padding, longer) = parse(link, &padded).expect("it is read without padding");
    assert_eq!(with_padding, packet);
    assert!(longer.starts_with(payload));
    let cut = &frame[..usize::from(at) % (frame.len() + 1)];
    match parse(link, cut) {
        Ok((cut, shorter)) => {
            assert_eq!(cut, packet);
            assert!(payload.starts_with(shorter));
        }
        Err(why) => assert_eq!(why, Ignored::Truncated),
    }
});
