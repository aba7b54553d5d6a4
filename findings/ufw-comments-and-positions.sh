#!/bin/sh
# ufw 0.36.2-1 (Debian 12): what a comment means depends on the verb, and numbers count one family.
#
# Seen, with ufw enabled: to add a rule that is there under another comment replaces the comment
# ("Rule updated"); to prepend it changes nothing ("Skipping inserting existing rule"). A delete
# with a comment finds only a rule with that very comment, one without finds it under any; to delete
# what is not there exits with 0. "insert 1" of an IPv6 rule is an "Invalid position" as long as
# there is no IPv6 rule, though IPv4 ones fill the list; "prepend" works.
# Needs root, iptables and python3; everything happens in a network namespace of its own.
set -eu

if [ -z "${1-}" ]; then
    dir=$(mktemp -d)
    trap 'rm -rf "$dir"' EXIT
    (cd "$dir" && apt-get -qq download ufw=0.36.2-1 2>/dev/null)
    dpkg -x "$dir"/*.deb "$dir"
    cp "$dir"/usr/share/ufw/*.rules "$dir"/usr/share/ufw/ufw.conf "$dir/etc/ufw"
    unshare --net --mount "$0" "$dir"
    exit
fi

cd "$1"
chmod -R go-w .
ufw() {
    PYTHONPATH=usr/lib/python3/dist-packages /usr/bin/python3 -W ignore usr/sbin/ufw \
        --rootdir="$PWD" --datadir="$PWD" "$@" 2>&1
}
ip link set lo up
mkdir -p run
ufw --force enable | grep active

ufw allow from 192.0.2.2 to any port 22 proto tcp comment mine | grep 'Rule added'
ufw prepend allow from 192.0.2.2 to any port 22 proto tcp comment other |
    grep 'Skipping inserting existing rule'
ufw show added | grep "comment 'mine'"
ufw allow from 192.0.2.2 to any port 22 proto tcp comment other | grep 'Rule updated'
ufw show added | grep "comment 'other'"
if ufw show added | grep "comment 'mine'"; then exit 1; fi

if ufw insert 1 allow from 2001:db8::2 to any port 22 proto tcp >said; then exit 1; fi
grep "Invalid position '1'" said
ufw prepend allow from 2001:db8::2 to any port 22 proto tcp | grep 'Rule added (v6)'

rule='allow from 192.0.2.2 to any port 22 proto tcp'
ufw delete $rule comment mine | grep 'Could not delete non-existent rule'
ufw delete $rule | grep 'Rule deleted'
ufw delete $rule >said
grep 'Could not delete non-existent rule' said
ufw --force disable >/dev/null
echo "as described"
