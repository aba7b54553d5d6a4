#!/bin/sh
# fwknop-client 2.6.10-16 (Debian 12): what its options for translation ask for is not what they say.
#
# Seen, by its own --test: `--nat-port 2222` without -N asks for access to port 2222 in place of the one
# of -A, without a word; `-N :22` asks for a host without a name; and where a stanza has NAT_RAND_PORT,
# a `--nat-port` on the command line is passed over, though the command line wins over a stanza's ACCESS.
set -eu

dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
cd "$dir"
apt-get -qq download fwknop-client=2.6.10-16 libfko3=2.6.10-16 2>/dev/null
for package in *.deb; do dpkg -x "$package" .; done
LD_LIBRARY_PATH=$(dirname "$dir"/usr/lib/*/libfko.so.3)
export LD_LIBRARY_PATH HOME="$dir"

cat >rc <<'END'
[default]
[plain]
SPA_SERVER 192.0.2.1
ACCESS tcp/22
ALLOW_IP 192.0.2.2
KEY testkey
HMAC_KEY hmackey
USE_HMAC Y
[led]
SPA_SERVER 192.0.2.1
ACCESS tcp/22
ALLOW_IP 192.0.2.2
KEY testkey
HMAC_KEY hmackey
USE_HMAC Y
NAT_ACCESS 203.0.113.7:22
NAT_RAND_PORT Y
END

# asks STANZA OPTION...: type, message and translation of the request, in one line.
asks() {
    usr/bin/fwknop --test --no-save-args --rc-file rc -n "$@" 2>&1 |
        sed -n -E 's/^ *(Message Type|Message String|Nat Access): //p' | tr '\n' ' '
    echo
}

asks plain --nat-port 2222 | grep -F '1 (Access msg) 192.0.2.2,tcp/2222 <NULL>'
asks plain -N :22 | grep -F '2 (NAT access msg) 192.0.2.2,tcp/22 ,22'
asks led -A tcp/23 --nat-port 2222 >said
cat said
grep -F '203.0.113.7,22' said
if grep -F 'tcp/2222 ' said; then exit 1; fi
asks plain -A tcp/23 | grep -F 'tcp/23'
echo "as described"
