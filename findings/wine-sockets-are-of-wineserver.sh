#!/bin/sh
# wine64 8.0~repack-4 (Debian 12): a program's network namespace is wineserver's.
#
# The sockets of a Windows program are made by wineserver, which all programs of a WINEPREFIX share.
# Seen: with a wineserver that was started outside, a program under `unshare --net` sends from the
# namespace outside, though its own has no network at all. With one that was started in a namespace
# without a network, a program outside gets WSAENETUNREACH. So each namespace wants a WINEPREFIX of
# its own, or `wineserver -k -w` in between.
# Needs root, bash, iproute2, nftables and what wine64 depends on (apt-get install wine64 brings it),
# and 1.5 GB for a while; everything happens in namespaces of its own.
set -eu

if [ -z "${1-}" ]; then
    dir=$(mktemp -d)
    trap 'rm -rf "$dir"' EXIT
    (cd "$dir" && apt-get -qq download wine=8.0~repack-4 wine64=8.0~repack-4 libwine=8.0~repack-4 \
        binutils-mingw-w64-x86-64=2.40-2+10.4 mingw-w64-common=10.0.0-3 \
        mingw-w64-x86-64-dev=10.0.0-3 gcc-mingw-w64-x86-64-win32=12.2.0-14+deb12u1+25.2+b1 \
        gcc-mingw-w64-x86-64-win32-runtime=12.2.0-14+deb12u1+25.2+b1 2>/dev/null)
    for package in "$dir"/*.deb; do dpkg -x "$package" "$dir"; rm "$package"; done
    unshare --net --mount --pid --fork --kill-child --mount-proc "$0" "$dir"
    exit
fi

cd "$1"
# Wine finds its parts where they are installed.
mount -t overlay overlay -o lowerdir="$PWD/usr:/usr" /usr
unset DISPLAY
export WINEPREFIX="$PWD/prefix" WINEDEBUG=-all WINEDLLOVERRIDES=mscoree,mshtml=
cat >send.c <<'SOURCE'
#include <winsock2.h>
#include <stdio.h>

int main(void)
{
    WSADATA data;
    WSAStartup(MAKEWORD(2, 2), &data);
    struct sockaddr_in to = { .sin_family = AF_INET, .sin_port = htons(7000) };
    to.sin_addr.s_addr = inet_addr("192.0.2.1");
    SOCKET from = socket(AF_INET, SOCK_DGRAM, 0);
    if (sendto(from, "x", 1, 0, (struct sockaddr *)&to, sizeof to) == 1)
        puts("sent");
    else
        printf("error %d\n", WSAGetLastError());
    return 0;
}
SOURCE
x86_64-w64-mingw32-gcc-win32 -o send.exe send.c -lws2_32
ip link set lo up
ip addr add 192.0.2.1/32 dev lo
nft 'add table inet t; add counter inet t sent
     add chain inet t o { type filter hook output priority 0; }
     add rule inet t o udp dport 7000 counter name sent'
packets() {
    nft list counter inet t sent | sed -n 's/.*packets \([0-9]*\).*/\1/p'
}
# said COMMAND...: what it says. Not through a pipe: Windows' services would hold its other end.
said() {
    timeout -k 5 120 "$@" </dev/null >told 2>/dev/null || :
    tr -d '\r' <told
}
# With a prefix, which takes ten seconds to make, and no server.
timeout -k 5 120 wine-stable wineboot -i </dev/null >made 2>&1
wineserver-stable -k -w || :

# What a program does that is none of Windows': nothing leaves.
if unshare --net bash -c 'echo x >/dev/udp/192.0.2.1/7000' 2>/dev/null; then exit 1; fi
[ "$(packets)" -eq 0 ]

wineserver-stable -p
inside=$(said unshare --net wine-stable send.exe)
echo "wineserver outside, program in an empty namespace: $inside, $(packets) packet outside"
[ "$inside" = sent ]
[ "$(packets)" -eq 1 ]
wineserver-stable -k -w || :

unshare --net wineserver-stable -p
outside=$(said wine-stable send.exe)
echo "wineserver in an empty namespace, program outside: $outside, still $(packets) packet"
[ "$outside" = "error 10051" ]
[ "$(packets)" -eq 1 ]
wineserver-stable -k -w || :
echo "as described"
