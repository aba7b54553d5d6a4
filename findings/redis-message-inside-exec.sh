#!/bin/bash
# Redis 7.0.15 (Debian 12, redis-tools 5:7.0.15-1~deb12u10): a message inside the reply to EXEC.
#
# In RESP3 a connection that has subscribed may send any command, and messages come as pushes of
# their own between replies. Where such a connection publishes to its own channel within MULTI, the
# push comes inside the array that answers EXEC, between the replies to the commands: a reader that
# counts elements takes it for one of them, and is off by one from then on. PUBLISH outside of MULTI
# has its push before its reply.
# Needs root: a network namespace of its own.
set -eu

if [ -z "${1-}" ]; then
    dir=$(mktemp -d)
    trap 'rm -rf "$dir"' EXIT
    libraries='libjemalloc2 liblzf1 liblua5.1-0 lua-bitop lua-cjson libatomic1 libhiredis0.14'
    (cd "$dir" && apt-get -qq download redis-tools=5:7.0.15-1~deb12u10 $libraries 2>/dev/null)
    for package in "$dir"/*.deb; do dpkg -x "$package" "$dir"; done
    unshare --net "$0" "$dir"
    exit
fi

ip link set lo up
PATH=$1/usr/bin:$PATH
LD_LIBRARY_PATH=$(find "$1" -name '*.so*' -printf '%h\n' | sort -u | tr '\n' ':')
export LD_LIBRARY_PATH
redis-check-rdb --version >/dev/null 2>&1 || true
ln -sf redis-check-rdb "$1/usr/bin/redis-server"
redis-server --port 7379 --save '' --dir "$1" >/dev/null &
server=$!
trap 'kill "$server"' EXIT
until exec 3<>/dev/tcp/127.0.0.1/7379; do sleep 0.1; done 2>/dev/null

# Sends lines, and gives what comes for a moment.
ask() {
    printf '%s\r\n' "$@" >&3
    timeout 0.5 cat <&3 | tr -d '\r' | tr '\n' ' ' || true
}
ask 'HELLO 3' | grep -q '7.0.15'
ask 'SUBSCRIBE news' >/dev/null
alone=$(ask 'PUBLISH news it')
test "$alone" = '>3 $7 message $4 news $2 it :1 '
within=$(ask MULTI 'SET a 1' 'PUBLISH news it' EXEC)
echo "$within"
test "$within" = '+OK +QUEUED +QUEUED *2 +OK >3 $7 message $4 news $2 it :1 '
echo "as described"
