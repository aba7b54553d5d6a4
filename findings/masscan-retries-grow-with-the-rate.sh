#!/bin/sh
# masscan 2:1.3.2+ds1-1 (Debian 12): one retry of one port is hundreds of packets, all alike.
#
# masscan(8): --retries is "the number of retries to send, at 1 second intervals". Seen, for one port
# that does not answer: without it one SYN; with `--retries 1` 22 SYNs at --rate 10, and 202 at --rate
# 100, which is (retries + 1) * (1 + retries * rate): each packet is sent twice at once, and the list
# of targets from its beginning again for another second. All have one source port, one sequence
# number and one IP identification. To whoever leaves repeated packets out they are one attempt, to
# whoever counts packets a flood.
# Needs root, iproute2, tcpdump and libpcap; everything happens in namespaces of its own.
set -eu

if [ -z "${1-}" ]; then
    dir=$(mktemp -d)
    trap 'rm -rf "$dir"' EXIT
    (cd "$dir" && apt-get -qq download masscan=2:1.3.2+ds1-1 2>/dev/null)
    dpkg -x "$dir"/*.deb "$dir"
    unshare --net --mount "$0" "$dir"
    exit
fi

cd "$1"
gzip -dc usr/share/man/man8/masscan.8.gz | grep -o 'number of retries to send, at 1 second intervals'
mount -t tmpfs tmpfs /run
ip netns add peer
ip link add veth0 type veth peer name veth1 netns peer
ip addr add 192.0.2.1/24 dev veth0
ip link set veth0 up
ip -n peer addr add 192.0.2.2/24 dev veth1
ip -n peer link set veth1 up
router=$(ip netns exec peer cat /sys/class/net/veth1/address)
# 192.0.2.3 is nobody's, so that there is no answer.
# scan OPTION...: the SYNs of a scan of port 7000, by what distinguishes one from the other.
scan() {
    rm -f listening
    ip netns exec peer tcpdump -i veth1 -U -w - 'tcp dst port 7000' >packets 2>listening &
    capture=$!
    until grep -q listening listening 2>/dev/null; do sleep 0.1; done
    usr/bin/masscan 192.0.2.3 -p 7000 --adapter veth0 --router-mac "$router" --wait 0 "$@" \
        </dev/null >/dev/null 2>&1
    sleep 1
    kill -INT "$capture"
    wait "$capture" || :
    tcpdump -r packets -n -v -t -S 2>/dev/null | paste - - |
        sed -n -E 's/.*(id [0-9]+),.*\.([0-9]+ > [0-9.]+): Flags \[S\],.*(seq [0-9]+),.*/\1 port \2 \3/p' >seen
    sort seen | uniq -c
    [ "$(sort -u seen | wc -l)" -eq 1 ]
}
scan --rate 10
[ "$(wc -l <seen)" -eq 1 ]
scan --rate 10 --retries 1
[ "$(wc -l <seen)" -eq 22 ]
scan --rate 100 --retries 1
[ "$(wc -l <seen)" -eq 202 ]
scan --rate 10 --retries 2
[ "$(wc -l <seen)" -eq 63 ]
echo "as described"
