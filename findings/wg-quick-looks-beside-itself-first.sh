#!/bin/sh
# wireguard-tools 1.0.20210914-1+b1 (Debian 12): wg-quick runs PreUp and its like with a PATH of its own.
#
# Seen: wg-quick puts the directory that it lies in before everything else in PATH, which its hooks
# inherit. Where it is /usr/bin/wg-quick, `PreUp = knock ...` runs /usr/bin/knock even if the shell
# of the same user finds another one first, such as /usr/local/bin/knock.
# Needs root; everything happens in a network namespace of its own. The interface cannot be made there
# without WireGuard in the kernel, which comes after PreUp and is not looked at.
set -eu

if [ -z "${1-}" ]; then
    dir=$(mktemp -d)
    trap 'rm -rf "$dir"' EXIT
    (cd "$dir" && apt-get -qq download wireguard-tools=1.0.20210914-1+b1 2>/dev/null)
    dpkg -x "$dir"/*.deb "$dir"
    unshare --net "$0" "$dir"
    exit
fi

cd "$1"
mkdir first
for place in first usr/bin; do
    printf '#!/bin/sh\necho "%s" >%s/ran\n' "$place" "$PWD" >"$place/knocks"
    chmod +x "$place/knocks"
done
PATH=$PWD/first:$PWD/usr/bin:$PATH
export PATH
knocks
test "$(cat ran)" = first
private=$(wg genkey)
(umask 077; printf '[Interface]\nPrivateKey = %s\nPreUp = knocks\n' "$private" >own0.conf)
WG_QUICK_USERSPACE_IMPLEMENTATION=false wg-quick up "$PWD/own0.conf" || true
test "$(cat ran)" = usr/bin
echo "as described"
