#!/bin/sh
# fwknop-client 2.6.10-16 (Debian 12): a passphrase for Rijndael may be 32 bytes long, though the
# page fwknop(8) says that 128 are the limit.
#
# Seen: 32 bytes make a request; 33 bytes are "Invalid key length", with and without HMAC.
set -eu

dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
cd "$dir"
apt-get -qq download fwknop-client=2.6.10-16 libfko3=2.6.10-16 2>/dev/null
for package in *.deb; do dpkg -x "$package" .; done
LD_LIBRARY_PATH=$(dirname "$dir"/usr/lib/*/libfko.so.3)
export LD_LIBRARY_PATH HOME="$dir"

request() {
    usr/bin/fwknop --test -A tcp/22 -a 192.0.2.2 -D 127.0.0.1 --key-hmac another "$@" 2>&1 || true
}
key() { head -c "$1" /dev/zero | tr '\0' k; }

page=$(gzip -dc usr/share/man/man8/fwknop.8.gz | grep -c '128 bytes')
[ "$page" -ge 1 ]
request --key-rijndael "$(key 32)" | grep -q 'SPA packet not actually sent'
request --key-rijndael "$(key 33)" | grep 'Invalid key length'
echo "as described"
