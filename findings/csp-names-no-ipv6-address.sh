#!/bin/sh
# Chromium 156.0.8078.114 and Firefox ESR 153.8.0 (Debian 12): a Content-Security-Policy cannot name
# an IPv6 address.
#
# `connect-src http://192.0.2.1:*` lets a page connect to just that address. The same with
# `http://[2001:db8::1]:*` is read without a complaint that stops anything, and blocks the address
# that it names: no packet leaves. The grammar of a host source has letters, digits, hyphens and
# dots. What lets a page connect to an IPv6 address is a policy for the whole scheme, `http:`.
# Needs root, iproute2, nftables and the libraries of both browsers (apt-get install chromium
# firefox-esr brings them); everything happens in a namespace of its own.
set -eu

if [ -z "${1-}" ]; then
    dir=$(mktemp -d)
    trap 'rm -rf "$dir"' EXIT
    (cd "$dir" && apt-get -qq download chromium=156.0.8078.114-1~deb12u1 \
        chromium-common=156.0.8078.114-1~deb12u1 firefox-esr=153.8.0esr-1~deb12u1 2>/dev/null)
    for package in "$dir"/*.deb; do dpkg -x "$package" "$dir"; done
    unshare --net "$0" "$dir"
    exit
fi

cd "$1"
ip link set lo up
ip addr add 192.0.2.1/32 dev lo
ip addr add 2001:db8::1/128 dev lo nodad
nft 'add table inet t
     add counter inet t named4; add counter inet t named6; add counter inet t scheme6
     add chain inet t i { type filter hook input priority 0; }
     add rule inet t i tcp dport 7001 tcp flags syn counter name named4
     add rule inet t i tcp dport 7002 tcp flags syn counter name named6
     add rule inet t i tcp dport 7003 tcp flags syn counter name scheme6'

# page POLICY URL...: a page that connects to all of them.
page() {
    printf '<meta http-equiv=Content-Security-Policy content="connect-src %s"><script>' "$1"
    shift
    printf 'fetch("%s", {mode: "no-cors"}).catch(() => {});' "$@"
    echo '</script>'
}
page 'http://192.0.2.1:* http://[2001:db8::1]:*' \
    http://192.0.2.1:7001/ 'http://[2001:db8::1]:7002/' >named.html
page 'http:' 'http://[2001:db8::1]:7003/' >scheme.html

# The browsers, with a page.
chromium() {
    exec timeout -k 5 60 usr/lib/chromium/chromium --headless --no-sandbox --disable-gpu \
        --no-proxy-server --user-data-dir="$PWD/chromium" "$1"
}
firefox() {
    mkdir -p firefox
    echo 'user_pref("network.proxy.type", 0);' >firefox/user.js
    HOME=$PWD/firefox exec timeout -k 5 60 usr/lib/firefox-esr/firefox-esr --headless --no-remote \
        --profile firefox "$1"
}
packets() {
    nft list counter inet t "$1" | sed -n 's/.*packets \([0-9]*\).*/\1/p'
}
# visit BROWSER FILE COUNTER: has a browser show a page until what it may do has been seen.
visit() {
    $1 "file://$PWD/$2" >said 2>&1 &
    visit=$!
    until [ "$(packets "$3")" -gt 0 ] || ! kill -0 "$visit" 2>/dev/null; do sleep 0.1; done
    sleep 2
    kill "$visit" || :
    wait "$visit" 2>/dev/null || :
}
for browser in chromium firefox; do
    nft reset counters table inet t >/dev/null
    visit $browser named.html named4
    visit $browser scheme.html scheme6
    echo "$browser: named: IPv4 $(packets named4), IPv6 $(packets named6); by scheme: $(packets scheme6)"
    [ "$(packets named4)" -gt 0 ]
    [ "$(packets named6)" -eq 0 ]
    [ "$(packets scheme6)" -gt 0 ]
done
echo "as described"
