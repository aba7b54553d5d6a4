#!/bin/sh
# conntrack 1:1.4.7-1+b2 (Debian 12) on Linux 6.18: `conntrack -F -f ipv6` forgets the connections of
# IPv4 too.
#
# Seen: -D and -L keep to the family that is named; -F takes it, says that all went well, and empties
# the table of both. The reason is the kernel's: where a message deletes without naming a connection,
# it looks at the family only if `version` in its nfgenmsg is not 0, and 0, NFNETLINK_V0, is the only
# version that there is. With version 1 just the connections of the family go; so it is if the
# message names a mark besides.
# Needs root, nftables and python3; everything happens in a network namespace of its own.
set -eu

if [ -z "${1-}" ]; then
    dir=$(mktemp -d)
    trap 'rm -rf "$dir"' EXIT
    (cd "$dir" && apt-get -qq download conntrack=1:1.4.7-1+b2 libnetfilter-conntrack3=1.0.9-3 2>/dev/null)
    for package in "$dir"/*.deb; do dpkg -x "$package" "$dir"; done
    unshare --net "$0" "$dir"
    exit
fi

cd "$1"
LD_LIBRARY_PATH=$(dirname "$PWD"/usr/lib/*/libnetfilter_conntrack.so.3)
export LD_LIBRARY_PATH
conntrack() { usr/sbin/conntrack "$@" 2>/dev/null; }
uname -r
ip link set lo up
nft 'add table inet t; add chain inet t c { type filter hook prerouting priority 0; }
     add rule inet t c ct state new ct mark set 7'
# fill: makes one connection of each family.
fill() {
    conntrack -F
    python3 -c 'import socket
for family, address in (2, "127.0.0.1"), (10, "::1"):
    socket.socket(family, 2).sendto(b"", (address, 9))'
    test "$(left)" = "1 of IPv4, 1 of IPv6"
}
of() { conntrack -L -f "$1" | grep -c udp || :; }
left() { echo "$(of ipv4) of IPv4, $(of ipv6) of IPv6"; }
# deletes FAMILY VERSION [MARK]: asks the kernel to delete whatever is of the family.
deletes() {
    python3 - "$@" <<'END'
import socket, struct, sys
family, version, *mark = map(int, sys.argv[1:])
body = struct.pack("=BBH", family, version, 0)
if mark:
    body += struct.pack("=HH", 8, 8) + struct.pack(">I", mark[0])
netlink = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, 12)  # NETLINK_NETFILTER
netlink.send(struct.pack("=IHHII", 16 + len(body), 1 << 8 | 2, 5, 1, 0) + body)
assert struct.unpack("=i", netlink.recv(4096)[16:20])[0] == 0
END
    echo "deletes $*: left $(left)"
}

fill
conntrack -D -f ipv6
left | grep '1 of IPv4, 0 of IPv6'
fill
conntrack -F -f ipv6
left | grep '0 of IPv4, 0 of IPv6'
fill
deletes 10 0 | grep '0 of IPv4, 0 of IPv6'
fill
deletes 10 1 | grep '1 of IPv4, 0 of IPv6'
fill
deletes 10 0 7 | grep '0 of IPv4, 0 of IPv6'
fill
deletes 10 1 7 | grep '1 of IPv4, 0 of IPv6'
echo "as described"
