#!/bin/sh
# nftables 1.0.6-2+deb12u2 (Debian 12) on Linux 6.18: a set of ranges whose elements have all ended can
# stay full for good.
#
# Elements that have ended count towards `size` until the kernel collects them. Seen, with room for two
# and two of 1 s: ten seconds later, as minutes later, a set with the flag `interval` is listed without
# elements, but refuses any new one with "Too many open files in system", also one that was in it; to
# delete those fails, as they are not there. Only `flush set` makes room. A set with room for a third
# takes it, and soon after has room for as many as it should: a change that succeeds is what collects,
# and in a full set none does. A set of single addresses is collected every second.
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
nft 'add table inet t
     add set inet t single { type ipv4_addr; flags timeout; size 2; }
     add set inet t ranges { type ipv4_addr; flags timeout, interval; size 2; }
     add set inet t ports { type ipv4_addr . inet_service; flags timeout, interval; size 2; }
     add set inet t roomy { type ipv4_addr; flags timeout, interval; size 3; }
     add element inet t single { 192.0.2.1 timeout 1s, 192.0.2.2 timeout 1s }
     add element inet t ranges { 192.0.2.1 timeout 1s, 192.0.2.2 timeout 1s }
     add element inet t ports { 192.0.2.1 . 22 timeout 1s, 192.0.2.2 . 22 timeout 1s }
     add element inet t roomy { 192.0.2.1 timeout 1s, 192.0.2.2 timeout 1s }'
[ "$(nft list ruleset | grep -o 192.0.2 | wc -l)" -eq 8 ]
sleep 10
nft list ruleset
if nft list ruleset | grep 192.0.2; then exit 1; fi
# refused SET ELEMENT: whether the element is refused because the set is full.
refused() {
    if nft "add element inet t $1 { $2 }" 2>said; then return 1; fi
    grep 'Too many open files in system' said
}
nft 'add element inet t single { 192.0.2.3 timeout 1h }'
for _ in 1 2 3; do
    refused ranges '192.0.2.3 timeout 1h'
    refused ports '192.0.2.3 . 22 timeout 1h'
    sleep 2
done
refused ranges '192.0.2.1 timeout 1h'
refused ports '192.0.2.1 . 22 timeout 1h'
if nft 'delete element inet t ranges { 192.0.2.2 }' 2>/dev/null; then exit 1; fi
if nft 'delete element inet t ports { 192.0.2.2 . 22 }' 2>/dev/null; then exit 1; fi
nft 'add element inet t roomy { 192.0.2.3 timeout 1h }'
nft 'flush set inet t ranges; flush set inet t ports'
sleep 3
nft 'add element inet t ranges { 192.0.2.3 timeout 1h }
     add element inet t ports { 192.0.2.3 . 22 timeout 1h }
     add element inet t roomy { 192.0.2.4 timeout 1h, 192.0.2.5 timeout 1h }'
echo "as described"
