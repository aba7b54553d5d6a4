#!/bin/sh
# fwknop-client and fwknop-server 2.6.10-16 (Debian 12): one line, `HMAC_KEY correct horse`, is two keys.
#
# In access.conf the key is the rest of the line. In a stanza of ~/.fwknoprc it ends at the first
# blank or `#`, without a word. Seen: a request by such a stanza is sent, and fwknopd, with the same line,
# finds that its HMAC is wrong; where fwknopd has the first word alone it is right, and so it is where
# the passphrase was given as --key-hmac. --save-rc-stanza writes a stanza with the whole passphrase,
# which the client then reads as its first word: fwknopd takes the request that the stanza was saved
# with, and none that is made from it.
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
mkdir -m 700 run
umask 077
echo 'ENABLE_UDP_SERVER Y;' >fwknopd.conf
cat >access.conf <<'END'
SOURCE ANY
KEY testkey
HMAC_KEY correct horse

SOURCE ANY
KEY testkey
HMAC_KEY battery#staple

SOURCE ANY
KEY testkey
HMAC_KEY paper
END
: >rc
# stanza NAME PORT HMAC_KEY
stanza() {
    printf '[%s]\nSPA_SERVER 127.0.0.1\nALLOW_IP 192.0.2.2\nACCESS tcp/%s\n' "$1" "$2" >>rc
    printf 'KEY testkey\nUSE_HMAC Y\nHMAC_KEY %s\n' "$3" >>rc
}
stanza blank 21 'correct horse'
stanza hash 22 'battery#staple'
stanza another 26 'paper clip'
stanza other 27 'paper#clip'
usr/sbin/fwknopd -f -c fwknopd.conf -a access.conf --run-dir "$PWD/run" -p "$PWD/run/pid" >log 2>&1 &
daemon=$!
trap 'kill "$daemon"' EXIT

# eventually TEXT: waits until fwknopd has said so.
eventually() {
    for _ in $(seq 100); do
        ! grep -e "$1" log || return 0
        sleep 0.1
    done
    cat log
    return 1
}
fwknop() { usr/bin/fwknop --no-save-args --rc-file rc "$@" >/dev/null; }
asks() { fwknop -D 127.0.0.1 -a 192.0.2.2 --key-rijndael testkey "$@"; }
# refused COMMAND...: whether fwknopd finds the HMAC of the request wrong, by each of its stanzas.
refused() {
    before=$(grep -c HMAC_COMPAREFAIL log || :)
    "$@"
    for _ in $(seq 100); do
        [ "$(grep -c HMAC_COMPAREFAIL log)" -ne $((before + 3)) ] || return 0
        sleep 0.1
    done
    return 1
}

eventually 'Kicking off UDP server'
refused fwknop -n blank
refused fwknop -n hash
fwknop -n another
eventually 'tcp/26, expires'
fwknop -n other
eventually 'tcp/27, expires'
asks -A tcp/23 --key-hmac 'correct horse'
eventually 'tcp/23, expires'
asks -A tcp/24 --key-hmac 'battery#staple'
eventually 'tcp/24, expires'
asks -A tcp/25 --key-hmac 'correct horse' --save-rc-stanza -n saved
eventually 'tcp/25, expires'
sed -n '/saved/,$p' rc | grep -E '^HMAC_KEY +correct horse$'
refused fwknop -n saved
[ "$(grep -c 'expires at' log)" -eq 5 ]
echo "as described"
