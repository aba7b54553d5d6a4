#!/bin/sh
# nftables 1.0.6-2+deb12u2 (Debian 12) on Linux 6.18: what nft lists of a rule on the port before
# translation it does not always read again, so that a saved ruleset does not load.
#
# Seen: `ct original proto-dst` has a type only after a match on the protocol of the packet.
# `meta l4proto tcp ct original proto-dst 22` is taken, listed and read again. With several ports in
# braces it is taken too, but listed as "0x16 [invalid type]", which is a syntax error on input:
# `nft -f` of such a listing loads nothing of it. In a concatenation it is refused at once.
# Needs root; everything happens in a network namespace of its own.
set -eu

if [ -z "${1-}" ]; then
    dir=$(mktemp -d)
    trap 'rm -rf "$dir"' EXIT
    (cd "$dir" && apt-get -qq download nftables=1.0.6-2+deb12u2 libnftables1=1.0.6-2+deb12u2 2>/dev/null)
    for package in "$dir"/*.deb; do dpkg -x "$package" "$dir"; done
    unshare --net "$0" "$dir"
    exit
fi

cd "$1"
LD_LIBRARY_PATH=$(dirname "$PWD"/usr/lib/*/libnftables.so.1)
export LD_LIBRARY_PATH
nft() { usr/sbin/nft "$@"; }
loads() { nft list ruleset >saved && nft flush ruleset && nft -f saved 2>said; }
uname -r
nft 'add table inet t; add chain inet t c { type filter hook input priority 0; }'
nft 'add rule inet t c meta l4proto tcp ct original proto-dst 22 drop'
loads
nft list chain inet t c | grep 'meta l4proto tcp ct original proto-dst 22 drop'
nft 'add rule inet t c meta l4proto tcp ct original proto-dst { 22, 80 } drop'
nft list chain inet t c | grep 'ct original proto-dst { 0x16 \[invalid type\], 0x50 \[invalid type\] } drop'
if loads; then exit 1; fi
cat said
test -z "$(nft list ruleset)"
nft 'add table inet t; add set inet t s { type ipv4_addr . inet_service; }; add chain inet t c'
if nft 'add rule inet t c ip saddr . ct original proto-dst @s drop' 2>said; then exit 1; fi
grep 'can not use variable sized data types' said
echo "as described"
