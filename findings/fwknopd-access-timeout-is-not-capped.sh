#!/bin/sh
# fwknop-server 2.6.10-16 (Debian 12): MAX_FW_TIMEOUT caps the time that a client asks for, but not
# the FW_ACCESS_TIMEOUT of a stanza, and fwknopd's UDP mode never knows where a request was sent to.
#
# Seen, with MAX_FW_TIMEOUT 60: a request for 4,000 s opens for 60 s; one that asks for no time, in a
# stanza with FW_ACCESS_TIMEOUT 5000, opens for 5,000 s. A stanza with DESTINATION 127.0.0.1/32 takes
# no request that was sent to 127.0.0.1 in UDP mode: it is seen as sent to 0.0.0.0.
# Needs root, iptables and ip; everything happens in a network namespace of its own.
set -eu

if [ -z "${1-}" ]; then
    dir=$(mktemp -d)
    trap 'rm -rf "$dir"' EXIT
    (cd "$dir" && apt-get -qq download fwknop-server=2.6.10-16 fwknop-client=2.6.10-16 libfko3=2.6.10-16 2>/dev/null)
    for package in "$dir"/*.deb; do dpkg -x "$package" "$dir"; done
    unshare --net --mount "$0" "$dir"
    exit
fi

cd "$1"
LD_LIBRARY_PATH=$(dirname "$PWD"/usr/lib/*/libfko.so.3)
export LD_LIBRARY_PATH HOME="$PWD"
ip link set lo up
mkdir -p run
cat >access.conf <<'END'
SOURCE ANY
KEY testkey
HMAC_KEY hmackey
FW_ACCESS_TIMEOUT 5000
MAX_FW_TIMEOUT 60

SOURCE ANY
DESTINATION 127.0.0.1/32
KEY anotherkey
HMAC_KEY anotherhmackey
END
cat >fwknopd.conf <<'END'
ENABLE_UDP_SERVER Y;
END
usr/sbin/fwknopd -f -c fwknopd.conf -a access.conf --run-dir "$PWD/run" -p "$PWD/run/pid" >log 2>&1 &
daemon=$!
trap 'kill "$daemon"' EXIT

# eventually TEXT: waits until fwknopd has said so.
eventually() {
    for _ in $(seq 100); do
        ! grep -q -e "$1" log || return 0
        sleep 0.1
    done
    cat log
    return 1
}
request() { usr/bin/fwknop -a 192.0.2.2 -D 127.0.0.1 "$@" >/dev/null; }
# seconds PORT: for how long fwknopd said that it opens the port.
seconds() { echo $(($(sed -n "s|.*tcp/$1, expires at ||p" log | head -n 1) - $(date +%s))); }

eventually 'Kicking off UDP server'
request -A tcp/21 --key-rijndael testkey --key-hmac hmackey -f 4000
eventually 'tcp/21, expires'
asked=$(seconds 21)
request -A tcp/22 --key-rijndael testkey --key-hmac hmackey
eventually 'tcp/22, expires'
unasked=$(seconds 22)
echo "asked for 4000 s: $asked s; asked for none: $unasked s"
[ "$asked" -le 60 ]
[ "$unasked" -gt 4900 ]
request -A tcp/23 --key-rijndael anotherkey --key-hmac anotherhmackey
sleep 1
if grep 'tcp/23, expires' log; then exit 1; fi
echo "as described"
