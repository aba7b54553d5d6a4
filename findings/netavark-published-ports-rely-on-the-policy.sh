#!/bin/sh
# netavark 1.4.0-3 (Debian 12): a published port opens only where the policy of FORWARD is 'accept'.
#
# Seen: of its rules in FORWARD one lets answers to the container through, one what the container
# sends, and none what comes to a published port, though it is translated. Where something else has
# made DROP the policy, as Docker does when it turns forwarding on, the published ports of Podman
# stay closed, without a word; a rule for the bridge opens them.
# Needs root, iptables, iproute2 and python3; everything happens in network namespaces of its own.
set -eu

if [ -z "${1-}" ]; then
    dir=$(mktemp -d)
    trap 'rm -rf "$dir"' EXIT
    (cd "$dir" && apt-get -qq download netavark=1.4.0-3 2>/dev/null)
    dpkg -x "$dir"/*.deb "$dir"
    unshare --net --mount "$0" "$dir"
    exit
fi

cd "$1"
mount -t tmpfs tmpfs /run
ip link set lo up
ip netns add client
ip netns add container
ip link add outside type veth peer name eth0 netns client
ip addr add 192.0.2.1/24 dev outside
ip link set outside up
ip -n client addr add 192.0.2.2/24 dev eth0
ip -n client link set eth0 up

cat >options <<'END'
{"container_id": "0123456789abcdef", "container_name": "one",
 "port_mappings": [{"host_ip": "", "container_port": 80, "host_port": 8080, "range": 1, "protocol": "tcp"}],
 "networks": {"inner": {"static_ips": ["198.51.100.2"], "interface_name": "eth0"}},
 "network_info": {"inner": {"name": "inner", "id": "1234567890abcdef", "driver": "bridge",
   "network_interface": "inner0", "internal": false, "ipv6_enabled": false, "dns_enabled": false,
   "subnets": [{"subnet": "198.51.100.0/24", "gateway": "198.51.100.1"}],
   "ipam_options": {"driver": "host-local"}}}}
END
NETAVARK_FW=iptables usr/lib/podman/netavark --config run setup /run/netns/container <options >/dev/null

serve='import socket
server = socket.create_server(("", 80))
while True: server.accept()[0].close()'
ip netns exec container python3 -c "$serve" &
trap "kill $!" EXIT
sleep 1
answers() {
    ip netns exec client python3 -c 'import socket; socket.create_connection(("192.0.2.1", 8080), 2)' 2>/dev/null
}

answers
iptables -t nat -S | grep -- '--dport 8080 -j DNAT --to-destination 198.51.100.2:80'
iptables -S NETAVARK_FORWARD | grep -- '-d 198.51.100.0/24 -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT'
iptables -P FORWARD DROP
if answers; then exit 1; fi
iptables -I FORWARD -o inner0 -j ACCEPT
answers
echo "as described"
