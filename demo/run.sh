#!/usr/bin/env bash
# Shows a door open and close, between two network namespaces that vanish with this script.
#
# usage: demo/run.sh [DIRECTORY]     where knock and knockd are; target/debug if not given
set -euo pipefail
PATH=$PATH:/usr/sbin:/sbin
# knockd takes no configuration that a group could have written.
umask 022

programs=$(realpath "${1:-$(dirname "$0")/../target/debug}")
for program in knock knockd; do
    [ -x "$programs/$program" ] || { echo "There is no $programs/$program: run make demo." >&2; exit 1; }
done

# Everything happens in namespaces of network, mounts and processes that belong to this script alone:
# the machine's own network and files are not touched, and nothing is left behind.
if [ -z "${KNOCK_DEMO_INSIDE:-}" ]; then
    spaces=(--net --mount --pid --fork --kill-child)
    [ "$(id -u)" -eq 0 ] || spaces+=(--user --map-root-user)
    if ! reason=$(unshare "${spaces[@]}" true 2>&1); then
        echo "This needs namespaces of its own, and cannot have them: ${reason:-not permitted}." >&2
        if [ "$(id -u)" -eq 0 ]; then
            echo "In a container: give it CAP_SYS_ADMIN and CAP_NET_ADMIN, or run it outside." >&2
        else
            echo "As root it can:  sudo $(realpath "$0") $programs" >&2
        fi
        exit 1
    fi
    KNOCK_DEMO_INSIDE=1 exec unshare "${spaces[@]}" "$(realpath "$0")" "$programs"
fi

trap 'exit 130' INT
trap 'exit 143' TERM

if [ -t 1 ] && [ -z "${NO_COLOR:-}" ]; then
    bold=$'\e[1m' dim=$'\e[2m' green=$'\e[32m' red=$'\e[31m' plain=$'\e[0m'
else
    bold='' dim='' green='' red='' plain=''
fi

step() { printf '\n%s%s%s\n' "$bold" "$*" "$plain"; }
show() { printf '    %s$ %s%s\n' "$dim" "$*" "$plain"; }
file() { sed "s/^/    $dim| $plain/" "$1"; }

fail() {
    printf '\n%s%s%s\n' "$red" "$*" "$plain"
    [ ! -s /run/demo/log ] || { echo "What knockd said:"; file /run/demo/log; }
    exit 1
} >&2

# The server is this namespace, the client another one; a cable between them.
make_network() {
    mount -t tmpfs tmpfs /run
    mkdir -m 0755 /run/demo
    ip netns add client
    ip link set lo up
    ip link add server type veth peer name client netns client
    ip addr add 192.0.2.1/24 dev server
    ip link set server up
    client ip addr add 192.0.2.2/24 dev client
    client ip link set client up
    client ip link set lo up
}

client() { nsenter --net=/run/netns/client "$@"; }

# What a visitor who cannot even tell that there is a machine would see.
make_firewall() {
    iptables -P INPUT DROP
    iptables -A INPUT -i lo -j ACCEPT
    iptables -A INPUT -m conntrack --ctstate ESTABLISHED,RELATED -j ACCEPT
}

listen_on_22() {
    perl -MIO::Socket::INET -e '
        my $server = IO::Socket::INET->new(
            LocalPort => 22, Proto => "tcp", Listen => 5, ReuseAddr => 1,
        ) or die "port 22: $@\n";
        while (my $visitor = $server->accept) { print $visitor "SSH-2.0-demo\r\n"; close $visitor; }
    ' &
}

# Succeeds if the client gets through to port 22.
port_is_open() {
    # shellcheck disable=SC2016
    client timeout 1 bash -c 'exec 3<>/dev/tcp/192.0.2.1/22 && read -r banner <&3' 2>/dev/null
}

write_configuration() {
    cat >/run/demo/knock.yaml <<'YAML'
doors:
  ssh:
    sequence: [7000, 8000, 9000]
    open: [22/tcp]
    via: iptables
    open_for: 5s
YAML
    file /run/demo/knock.yaml
    # There is but one user in an unprivileged namespace.
    local user=nobody
    [ "$(awk '{ print $3 }' /proc/self/uid_map)" = 4294967295 ] || user=root
    echo "knockd: {user: $user, state_dir: /run/demo/state, run_dir: /run/demo/run}" >>/run/demo/knock.yaml
}

start_knockd() {
    "$programs/knockd" -c /run/demo/knock.yaml >/run/demo/log 2>&1 &
    knockd=$!
    for _ in {1..100}; do
        grep -q 'starting up' /run/demo/log && return
        kill -0 "$knockd" 2>/dev/null || fail "knockd did not start."
        sleep 0.1
    done
    fail "knockd did not start in time."
}

report() { printf '    port 22 is %s%s%s\n' "$2" "$1" "$plain"; }

make_network
make_firewall
listen_on_22

step "A server, 192.0.2.1: its firewall drops everything that comes in."
show iptables -S INPUT
iptables -S INPUT | sed 's/^/    /'

step "knockd runs there, with one door:"
write_configuration
start_knockd

step "A client, 192.0.2.2, tries to connect:"
if port_is_open; then fail "Port 22 was open before any knock."; fi
report "shut: no answer" "$red"

step "It knocks:"
show knock 192.0.2.1 7000 8000 9000
client "$programs/knock" 192.0.2.1 7000 8000 9000 || fail "knock failed."
opened=$SECONDS
for _ in {1..5}; do
    if port_is_open; then was_open=yes; break; fi
done
[ -n "${was_open:-}" ] || fail "Port 22 did not open."
report "open, for this address" "$green"
show iptables -S INPUT
iptables -S INPUT | sed 's/^/    /'

step "Five seconds later the door closes by itself:"
while port_is_open; do
    [ $((SECONDS - opened)) -lt 15 ] || fail "Port 22 stayed open."
    sleep 0.2
done
report "shut again" "$red"

step "What knockd logged:"
kill -TERM "$knockd"
wait "$knockd" || fail "knockd ended with status $?."
file /run/demo/log
echo
