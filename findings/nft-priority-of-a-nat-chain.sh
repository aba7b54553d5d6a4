#!/bin/sh
# nftables 1.0.6-2+deb12u2 (Debian 12) on Linux 6.18: the priority of a chain of type nat says nothing
# about chains of type filter.
#
# nft(8) has chains of one hook called in the order of their priorities. Chains of type nat are called
# by one hook of the kernel's own, at -100 in prerouting, and their priorities order them among
# themselves only. Seen: a nat chain at -190 that redirects port 1000 to 2000; a filter chain at -150,
# which comes later by the numbers, still sees port 1000 and no translated connection; one at -90 sees
# port 2000. So a lock that wants to see what was translated cannot have it by priority.
# Needs root; everything happens in network namespaces of its own.
set -eu

if [ -z "${1-}" ]; then
    dir=$(mktemp -d)
    trap 'rm -rf "$dir"' EXIT
    (cd "$dir" && apt-get -qq download nftables=1.0.6-2+deb12u2 libnftables1=1.0.6-2+deb12u2 2>/dev/null)
    for package in "$dir"/*.deb; do dpkg -x "$package" "$dir"; done
    unshare --net --mount "$0" "$dir"
    exit
fi

cd "$1"
LD_LIBRARY_PATH=$(dirname "$PWD"/usr/lib/*/libnftables.so.1)
export LD_LIBRARY_PATH
nft() { usr/sbin/nft "$@"; }
uname -r
mount -t tmpfs none /run
ip netns add peer
ip link add veth0 type veth peer name veth1 netns peer
ip addr add 192.0.2.1/24 dev veth0
ip link set veth0 up
ip -n peer addr add 192.0.2.2/24 dev veth1
ip -n peer link set veth1 up

nft -f - <<'END'
table inet t {
    counter before { }
    counter before_translated { }
    counter after { }
    chain translate {
        type nat hook prerouting priority -190
        tcp dport 1000 redirect to :2000
    }
    chain later_by_number {
        type filter hook prerouting priority -150
        tcp dport 1000 ct state new counter name before
        ct status dnat ct state new counter name before_translated
    }
    chain later {
        type filter hook prerouting priority -90
        tcp dport 2000 ct state new counter name after
    }
}
END
# A SYN to a port on which nothing listens is answered at once, and is enough.
ip netns exec peer timeout 5 bash -c ': </dev/tcp/192.0.2.1/1000' 2>/dev/null || true

# packets COUNTER
packets() {
    nft list counter inet t "$1" | sed -n 's/.*packets \([0-9]*\).*/\1/p'
}
seen="$(packets before) $(packets before_translated) $(packets after)"
[ "$seen" = "1 0 1" ] || { echo "seen: $seen"; exit 1; }
echo "as described: a nat chain at -190 translates after a filter chain at -150"
