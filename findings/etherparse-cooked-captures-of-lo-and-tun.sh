#!/bin/sh
# etherparse 0.21.0: a cooked capture (LINKTYPE_LINUX_SLL) is read only if the device was of a few
# kinds, though its header says in the same way what follows.
#
# Seen: a UDP packet behind an SLL header whose protocol field says IPv4 is found where the device
# was Ethernet. With the ARPHRD numbers of lo (772), ppp (512), tun and WireGuard (65534) or sit (776)
# SlicedPacket::from_linux_sll says UnsupportedArpHardwareId; for a GRE device (778) there is no
# error and no transport. LaxSlicedPacket has no such function. `tcpdump -i any` writes such frames.
# Needs cargo.
set -eu

dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
mkdir "$dir/src"
cat >"$dir/Cargo.toml" <<'END'
[package]
name = "finding"
edition = "2024"

[dependencies]
etherparse = "=0.21.0"
END
cat >"$dir/src/main.rs" <<'END'
use etherparse::{PacketBuilder, SlicedPacket};

fn main() {
    let mut packet = Vec::new();
    let builder = PacketBuilder::ipv4([192, 0, 2, 2], [192, 0, 2, 1], 64).udp(40000, 7000);
    builder.write(&mut packet, &[0]).unwrap();
    for arphrd in [1u16, 772, 512, 65534, 776, 778] {
        // To us, the kind of device, an address of no length, and the EtherType of IPv4.
        let mut frame = vec![0, 0];
        frame.extend(arphrd.to_be_bytes());
        frame.extend([0; 10]);
        frame.extend([0x08, 0x00]);
        frame.extend(&packet);
        let found = match SlicedPacket::from_linux_sll(&frame) {
            Ok(packet) if packet.transport.is_some() => "found".to_owned(),
            Ok(_) => "no transport".to_owned(),
            Err(error) if format!("{error:?}").contains("UnsupportedArpHardwareId") => {
                "unsupported".to_owned()
            }
            Err(error) => format!("{error:?}"),
        };
        println!("{arphrd}: {found}");
    }
}
END
cargo run --quiet --manifest-path "$dir/Cargo.toml" >"$dir/seen"
cat "$dir/seen"
cat >"$dir/expected" <<'END'
1: found
772: unsupported
512: unsupported
65534: unsupported
776: unsupported
778: no transport
END
diff "$dir/expected" "$dir/seen"
echo "as described"
