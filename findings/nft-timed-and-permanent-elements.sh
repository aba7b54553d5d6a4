#!/bin/sh
# nftables 1.0.6-2+deb12u2 (Debian 12) on Linux 6.18: adding an element again changes whether it ends,
# but not what its comment says.
#
# Seen, in a set with "flags timeout": `nft add element` of a timed element, without a timeout, makes it
# permanent; of a permanent one, with a timeout, makes it timed, and so takes it away in the end. In
# both cases nft exits with 0 and the comment stays the old one, also where another is given.
# `nft monitor` tells of the change, but not of the end.
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
uname -r
nft add table inet t
nft 'add set inet t s { type ipv4_addr; flags timeout; }'
nft monitor >monitored &
monitor=$!
trap 'kill "$monitor"' EXIT
sleep 0.5
elements() { nft list set inet t s | tr -d '\n\t'; echo; }
nft 'add element inet t s { 192.0.2.1 timeout 1h comment "timed", 192.0.2.2 comment "permanent" }'
nft 'add element inet t s { 192.0.2.1 comment "now permanent" }'
nft 'add element inet t s { 192.0.2.2 timeout 2s comment "now timed" }'
elements | grep -E '192.0.2.1 comment "timed", *192.0.2.2 timeout 2s expires [^ ]* comment "permanent"'
sleep 4
elements | grep -E 'elements = \{ 192.0.2.1 comment "timed" \}'
cat monitored
grep -q 'add element inet t s { 192.0.2.2 timeout 2s' monitored
if grep -q delete monitored; then exit 1; fi
echo "as described"
