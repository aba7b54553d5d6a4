#!/bin/sh
# Chromium 156.0.8078.114 and Firefox ESR 153.8.0 (Debian 12): what abort() leaves of a connection.
#
# A page fetches from a port whose packets are dropped, and aborts after 800 ms. Until then both have
# sent two SYNs, 250 ms apart and from two source ports: the second is a spare. Firefox then closes
# both sockets. Chromium keeps both, for whoever asks for the same host and port next: the kernel
# goes on sending both SYNs again, after one second, two, three, for about two minutes. So whoever
# watches the port goes on seeing the visit that the page gave up, mixed with those to other ports.
# Needs root, iproute2, nftables, tcpdump and the libraries of both browsers (apt-get install
# chromium firefox-esr brings them); everything happens in a namespace of its own.
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
nft 'add table inet t; add chain inet t i { type filter hook input priority 0; }
     add rule inet t i tcp dport 7000 drop'
cat >page.html <<'PAGE'
<script>
const limit = new AbortController();
setTimeout(() => limit.abort(), 800);
fetch("http://192.0.2.1:7000/", {mode: "no-cors", signal: limit.signal}).catch(() => {});
</script>
PAGE

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
for browser in chromium firefox; do
    tcpdump -i lo -n -S -tt -l -Z root 'tcp dst port 7000' >seen 2>listening &
    capture=$!
    until grep -q listening listening 2>/dev/null; do sleep 0.1; done
    $browser "file://$PWD/page.html" >said 2>&1 &
    visit=$!
    until [ -s seen ] || ! kill -0 "$visit" 2>/dev/null; do sleep 0.1; done
    sleep 6
    kill "$visit" || :
    wait "$visit" 2>/dev/null || :
    kill -INT "$capture"
    wait "$capture" || :
    # The milliseconds since the first, and the source port.
    sed -nE 's/^([0-9.]+) IP [0-9.]+\.([0-9]+) > .*/\1 \2/p' seen |
        awk 'NR == 1 { first = $1 } { printf "%d %s\n", ($1 - first) * 1000, $2 }' >times
    echo "$browser: $(tr '\n' ',' <times)"
    ports=$(cut -d ' ' -f 2 times | sort -u | wc -l)
    later=$(awk '$1 > 600' times | wc -l)
    [ "$ports" -eq 2 ]
    if [ $browser = chromium ]; then [ "$later" -ge 4 ]; else [ "$later" -eq 0 ]; fi
done
echo "as described"
