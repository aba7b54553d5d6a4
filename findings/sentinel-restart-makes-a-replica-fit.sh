#!/bin/bash
# Redis 7.0.15 (Debian 12, redis-tools 5:7.0.15-1~deb12u10): a restart makes a replica fit that Sentinel
# does not promote, and what it then has is older.
#
# Sentinel does not promote a replica that had lost its master for more than ten times
# down-after-milliseconds before the master went: "-failover-abort-no-good-slave", as long as one waits,
# also if there is no other. Seen: once such a replica has been restarted it is promoted, though it has
# not met the master since: a process that never had a link says
# master_link_down_since_seconds:-1, which counts as no time at all. Without persistence (`save ""`) it
# has what came with its first synchronization, which lies on the disk, and nothing of what came after.
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
cd "$1"
PATH=$1/usr/bin:$PATH
LD_LIBRARY_PATH=$(find "$1" -name '*.so*' -printf '%h\n' | sort -u | tr '\n' ':')
export LD_LIBRARY_PATH
ln -sf redis-check-rdb usr/bin/redis-server
ln -sf redis-check-rdb usr/bin/redis-sentinel
mkdir master replica
running=
trap 'kill -9 $running 2>/dev/null || :' EXIT
replica() {
    redis-server --port 7002 --save '' --dir "$1/replica" --replicaof 127.0.0.1 7001 >/dev/null &
    replica=$!
    running="$running $replica"
}
on() { redis-cli -p "$@"; }
# eventually COMMAND...: waits until the command, at a server's port, says the first argument.
eventually() {
    wanted=$1
    shift
    for _ in $(seq 300); do
        ! on "$@" 2>/dev/null | tr -d '\r' | grep -q -e "$wanted" || return 0
        sleep 0.1
    done
    on "$@"
    return 1
}
redis-server --port 7001 --save '' --dir "$1/master" >/dev/null &
master=$!
running=$master
eventually PONG 7001 ping
on 7001 info server | grep redis_version:7.0.15
on 7001 set key first
replica "$1"
eventually first 7002 get key
on 7001 set key second
eventually second 7002 get key
cat >sentinel.conf <<'END'
sentinel monitor one 127.0.0.1 7001 1
sentinel down-after-milliseconds one 300
sentinel failover-timeout one 1000
END
redis-sentinel sentinel.conf --port 7003 >said &
running="$running $!"
eventually 127.0.0.1:7002 7003 sentinel replicas one

# The master goes on, but without the replica, which does not know the password.
on 7003 sentinel set one auth-pass secret
on 7001 config set requirepass secret
REDISCLI_AUTH=secret on 7001 client kill type replica
eventually 'master_link_down_since_seconds:[6-9]' 7002 info replication
kill -9 "$master"
wait "$master" 2>/dev/null || :
sleep 12
on 7002 role | head -n 1 | grep slave
on 7002 get key | grep second
grep -c no-good-slave said
if grep selected-slave said; then exit 1; fi

kill "$replica"
wait "$replica" || :
replica "$1"
eventually 'master_link_down_since_seconds:-1' 7002 info replication
eventually master 7002 role
grep selected-slave said
on 7002 get key | grep first
echo "as described"
