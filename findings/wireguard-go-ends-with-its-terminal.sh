#!/bin/sh
# wireguard-tools 1.0.20210914-1+b1, wireguard-go 0.0.20220316-1+b4 (Debian 12): how long it lives.
#
# Where the kernel has no WireGuard, wg-quick starts wireguard-go, which goes to the background but
# stays in wg-quick's session and process group. Seen: where a shell with job control starts wg-quick,
# the interface outlives the shell and its terminal. Where wg-quick is what the terminal was opened
# for, alone or in a script, as with `script -c` or `ssh -t host wg-quick up ...`, the end of that
# command hangs wireguard-go up: wg-quick has said that all went well, the status is 0, and the
# interface is gone with its addresses and routes. What is left is the socket in /run/wireguard.
# `setsid -w wg-quick up ...` keeps it.
# Needs root, iproute2, /dev/net/tun and a kernel without the module wireguard; everything happens in
# namespaces of its own.
set -eu

if [ -z "${1-}" ]; then
    dir=$(mktemp -d)
    trap 'rm -rf "$dir"' EXIT
    (cd "$dir" && apt-get -qq download wireguard-tools=1.0.20210914-1+b1 \
        wireguard-go=0.0.20220316-1+b4 2>/dev/null)
    for package in "$dir"/*.deb; do dpkg -x "$package" "$dir"; done
    unshare --net --mount --pid --fork --kill-child --mount-proc "$0" "$dir"
    exit
fi

cd "$1"
mount -t tmpfs none /run
PATH=$PWD/usr/bin:$PATH
export PATH
private=$(wg genkey)
(umask 077; printf '[Interface]\nPrivateKey = %s\nAddress = 192.0.2.1/24\n' "$private" >own0.conf)
there() {
    ip link show own0 >/dev/null 2>&1
}
# in_terminal COMMAND: runs it in a terminal of its own, which closes when it ends.
in_terminal() {
    script -qec "$1" /dev/null </dev/null >said
    grep -q 'wireguard-go own0' said
    grep -q 'UP,LOWER_UP' said
    sleep 2
}
down() {
    ip link delete own0
    while [ -e /run/wireguard/own0.sock ]; do sleep 0.1; done
}
look='ip link show own0'

in_terminal "wg-quick up $PWD/own0.conf && $look"
if there; then exit 1; fi
[ -S /run/wireguard/own0.sock ]
echo "the terminal's own command: gone"

in_terminal "set -m; wg-quick up $PWD/own0.conf && $look"
there
down
echo "with job control: there"

in_terminal "setsid -w wg-quick up $PWD/own0.conf && $look"
there
down
echo "setsid: there"
echo "as described"
