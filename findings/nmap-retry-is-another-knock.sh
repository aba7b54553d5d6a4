#!/bin/sh
# nmap 7.93+dfsg1-1 (Debian 12): the second SYN to a port that does not answer is no retransmission.
#
# Seen, with -sS on a port whose packets are dropped: two SYNs, from two source ports and with two
# sequence numbers, about a second apart. Whoever tells a repeated packet by ports and sequence
# number takes the scanner's second try for a second, separate attempt to connect.
# Needs root, iproute2, nftables and tcpdump; everything happens in namespaces of its own.
set -eu

if [ -z "${1-}" ]; then
    dir=$(mktemp -d)
    trap 'rm -rf "$dir"' EXIT
    (cd "$dir" && apt-get -qq download nmap=7.93+dfsg1-1 nmap-common=7.93+dfsg1-1 2>/dev/null)
    for package in "$dir"/*.deb; do dpkg -x "$package" "$dir"; done
    unshare --net "$0" "$dir"
    exit
fi

cd "$1"
ip link set lo up
nft 'add table inet t; add chain inet t i { type filter hook input priority 0; }
     add rule inet t i tcp dport 7000 drop'
tcpdump -i lo -n -S -Z root 'tcp dst port 7000' >seen 2>listening &
capture=$!
trap 'kill "$capture" 2>/dev/null || :' EXIT
until grep -q listening listening; do sleep 0.1; done
NMAPDIR=usr/share/nmap usr/bin/nmap -n -Pn -sS -p 7000 127.0.0.1 | grep filtered
sleep 1
kill -INT "$capture"
wait "$capture" || :
trap - EXIT
grep Flags seen
[ "$(grep -c Flags seen)" -eq 2 ]
ports=$(sed -E 's/.* 127\.0\.0\.1\.([0-9]+) > .*/\1/;/^$/d' seen | sort -u | wc -l)
numbers=$(sed -E 's/.* seq ([0-9]+),.*/\1/;/^$/d' seen | sort -u | wc -l)
[ "$ports $numbers" = "2 2" ]
echo "as described"
