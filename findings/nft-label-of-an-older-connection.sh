#!/bin/sh
# nftables 1.0.6-2+deb12u2 (Debian 12) on Linux 6.18: a connection that began before any rule spoke of
# labels can never get one, and nothing says so.
#
# Seen: the kernel makes room for the label of a connection when the connection begins, and only while
# some rule uses `ct label`. `ct label set 91` for a packet of an older connection is passed without
# effect: the rule counts the packet, a rule after it that asks for the label does not match. A
# connection that begins later has the label.
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
nft 'add table inet t; add chain inet t c { type filter hook input priority 0; }'
nft 'add rule inet t c ct state established counter'
# One connection from port 4001 that begins now, one from port 4002 that begins when told to.
mkfifo begin speak
python3 - <<'P' &
import socket
listener = socket.create_server(("127.0.0.1", 4000))
def connected(port):
    client = socket.socket()
    client.bind(("127.0.0.1", port))
    client.connect(("127.0.0.1", 4000))
    return client, listener.accept()[0]
def speaks(client, server):
    client.sendall(b"x")
    server.recv(1)
older = connected(4001)
speaks(*older)
open("begin").read()
later = connected(4002)
speaks(*older)
speaks(*later)
open("speak").read()
P
python=$!
trap 'kill "$python" 2>/dev/null || true' EXIT
sleep 1
nft 'add rule inet t c tcp sport { 4001, 4002 } ct label set 91'
nft 'add rule inet t c tcp sport 4001 counter comment "older, passes"'
nft 'add rule inet t c tcp sport 4001 ct label 91 counter comment "older, labelled"'
nft 'add rule inet t c tcp sport 4002 ct label 91 counter comment "later, labelled"'
echo >begin
sleep 1
echo >speak
nft list chain inet t c
nft list chain inet t c | grep -E 'counter packets [1-9][0-9]* .*"older, passes"'
nft list chain inet t c | grep -E 'counter packets 0 .*"older, labelled"'
nft list chain inet t c | grep -E 'counter packets [1-9][0-9]* .*"later, labelled"'
echo "as described"
