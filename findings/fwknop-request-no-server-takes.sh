#!/bin/sh
# fwknop-client and fwknop-server 2.6.10-16 (Debian 12): the client sends requests that are too long
# for any fwknopd, without a warning.
#
# A request that, with what is cut from it, has 400 characters or more counts as one of GnuPG. With
# the defaults (SHA256 for digest and HMAC) that is so from some 15 ports of three digits on. Seen: for
# 14 ports the client's own --test decodes the request; for 20 it says
# FKO_ERROR_INVALID_DATA_ENCRYPT_TYPE_UNKNOWN, and without --test sends it and exits with 0.
set -eu

dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
cd "$dir"
apt-get -qq download fwknop-client=2.6.10-16 libfko3=2.6.10-16 2>/dev/null
for package in *.deb; do dpkg -x "$package" .; done
LD_LIBRARY_PATH=$(dirname "$dir"/usr/lib/*/libfko.so.3)
export LD_LIBRARY_PATH HOME="$dir"

# request COUNT [OPTION...]: asks for so many ports.
request() {
    ports=$(seq -s, -f 'tcp/%.0f' 100 $((99 + $1)))
    shift
    usr/bin/fwknop -A "$ports" -a 192.0.2.2 -D 127.0.0.1 \
        --key-rijndael testkey --key-hmac hmackey "$@" 2>&1
}

if request 14 --test | grep ENCRYPT_TYPE_UNKNOWN; then exit 1; fi
request 20 --test | grep ENCRYPT_TYPE_UNKNOWN
request 20 >said
[ ! -s said ] || ! grep -i -e warn -e error -e long said
echo "as described: 20 ports are sent without a word"
