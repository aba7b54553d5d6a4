#!/bin/sh
# prometheus 2.42.0+ds-5+deb12u1 (Debian 12): `promtool check metrics` takes every text for the older
# format (0.0.4), though Prometheus itself scrapes OpenMetrics.
#
# Valid OpenMetrics calls a counter's family by a name without `_total`, and has the types `info` and
# `stateset`. Seen: such a counter "has no help text" (status 3), though its HELP line is there; the
# type `info` is a parse error (status 1). The same counter in the older format passes. So an exporter
# of OpenMetrics cannot be checked with it, and one that is changed until it passes is none any more.
set -eu

dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
cd "$dir"
apt-get -qq download prometheus=2.42.0+ds-5+deb12u1 2>/dev/null
dpkg -x prometheus_*.deb .

# check STATUS SAYS: what promtool makes of standard input, and its one line.
check() {
    status=0
    usr/bin/promtool check metrics >said 2>&1 || status=$?
    case "$status $(cat said)" in "$1 "*"$2") ;; *) cat said; exit 1 ;; esac
}

check 3 'visits_total no help text' <<'END'
# TYPE visits counter
# HELP visits How many came.
visits_total 1
# EOF
END
check 1 'unknown metric type "info"' <<'END'
# TYPE build info
# HELP build What was built.
build_info{version="1"} 1
# EOF
END
check 0 '' <<'END'
# HELP visits_total How many came.
# TYPE visits_total counter
visits_total 1
END
echo "as described: a help text is missed that is there, and a type is unknown"
