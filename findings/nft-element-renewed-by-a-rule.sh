#!/bin/sh
# nftables 1.0.6-2+deb12u2 (Debian 12) on Linux 6.18: a set whose elements a rule renews for longer
# than they were added for can be listed, but not loaded again.
#
# Seen: an element that was added with `timeout 10s` and that a rule updates with `timeout 60s` is
# listed as `timeout 10s expires 59s...`. `nft -f` of that listing fails with "Numerical result out of
# range", and nothing of the file is loaded: what is saved at a bad moment does not come back. Where
# the element was added with the longer of the two times it is read again.
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
ip link set lo up
nft 'add table inet t
     add set inet t s { type ipv4_addr; flags timeout, dynamic; size 100; }
     add chain inet t c { type filter hook input priority 0; }
     add rule inet t c ip saddr @s update @s { ip saddr timeout 60s }'
renewed() {
    nft "flush set inet t s; add element inet t s { 127.0.0.1 timeout $1 }"
    python3 -c 'import socket; socket.socket(2, 2).sendto(b"", ("127.0.0.1", 9))'
    nft list set inet t s | grep -o '127.*[0-9]ms\|127.*[0-9]s'
    nft list ruleset >saved
}
loads() { nft flush ruleset && nft -f saved 2>said; }
renewed 10s | grep 'timeout 10s expires 59s'
if loads; then exit 1; fi
cat said
grep -q 'out of range' said
test -z "$(nft list ruleset)"
sed 's/ timeout 10s expires [0-9ms]*//' saved >without
nft -f without
renewed 60s | grep 'timeout 1m expires 59s'
loads
echo "as described"
