//! What publishes the ports of a container behind a bridge, written as the programs write it that
//! make such rules: Docker 26 and 29, netavark 1.4 and 1.14, the CNI plugin portmap 1.1 and 1.7,
//! kube-proxy 1.33.
//!
//! `BRIDGE` stands for the bridge; `INNER` for the container's address, and `TO` for the same with
//! a port after it; `INSIDE` for its network; `OUTER` for the host's address; `IP` for the word of
//! the family. Lines with 127.0.0.1 are of IPv4 alone.

use super::{BRIDGE, Family};
use crate::support::{Host, command};

/// The program that takes a text of rules.
#[derive(Clone, Copy)]
pub(super) enum Language {
    /// `iptables-restore` and `ip6tables-restore`.
    Iptables,
    Nft,
}

impl Language {
    /// Publishes the container's ports for a family.
    pub(super) fn publish(self, host: &Host, rules: &str, family: &Family) {
        let holes = [
            ("BRIDGE", BRIDGE),
            ("INNER", family.inner),
            ("INSIDE", family.inside),
            ("OUTER", family.server),
            ("TO", if family.is_v6() { "[fd00:30::2]" } else { family.inner }),
            ("MULTICAST", if family.is_v6() { "ff00::/8" } else { "224.0.0.0/4" }),
            ("LOOPBACK", if family.is_v6() { "::1" } else { "127.0.0.0/8" }),
            ("ADDRESS", if family.is_v6() { "ipv6_addr" } else { "ipv4_addr" }),
            ("IP", if family.is_v6() { "ip6" } else { "ip" }),
        ];
        let lines = rules.lines().filter(|line| !family.is_v6() || !line.contains("127.0.0.1"));
        let text = lines.collect::<Vec<_>>().join("\n") + "\n";
        let text = holes.iter().fold(text, |text, (hole, what)| text.replace(hole, what));
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), &text).unwrap();
        let mut program = command("ip");
        program.args(["netns", "exec", &host.name]);
        match self {
            Self::Iptables if family.is_v6() => program.arg("ip6tables-restore"),
            Self::Iptables => program.arg("iptables-restore"),
            Self::Nft => program.args(["nft", "-f"]),
        };
        let output = program.arg(file.path()).output().unwrap();
        assert!(output.status.success(), "{}\n{text}", String::from_utf8_lossy(&output.stderr));
    }
}

/// With `userland-proxy: false`.
pub(super) const DOCKER: &str = "\
*filter
:INPUT ACCEPT [0:0]
:FORWARD DROP [0:0]
:OUTPUT ACCEPT [0:0]
:DOCKER - [0:0]
-A FORWARD -o BRIDGE -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT
-A FORWARD -o BRIDGE -j DOCKER
-A FORWARD -i BRIDGE ! -o BRIDGE -j ACCEPT
-A FORWARD -i BRIDGE -o BRIDGE -j ACCEPT
-A DOCKER -d INNER ! -i BRIDGE -o BRIDGE -p tcp -m tcp --dport 443 -j ACCEPT
-A DOCKER -d INNER ! -i BRIDGE -o BRIDGE -p tcp -m tcp --dport 80 -j ACCEPT
-A DOCKER -d INNER ! -i BRIDGE -o BRIDGE -p udp -m udp --dport 53 -j ACCEPT
COMMIT
*nat
:PREROUTING ACCEPT [0:0]
:INPUT ACCEPT [0:0]
:OUTPUT ACCEPT [0:0]
:POSTROUTING ACCEPT [0:0]
:DOCKER - [0:0]
-A PREROUTING -m addrtype --dst-type LOCAL -j DOCKER
-A OUTPUT -m addrtype --dst-type LOCAL -j DOCKER
-A POSTROUTING -o BRIDGE -m addrtype --src-type LOCAL -j MASQUERADE
-A POSTROUTING -s INSIDE ! -o BRIDGE -j MASQUERADE
-A POSTROUTING -s INNER -d INNER -p tcp -m tcp --dport 443 -j MASQUERADE
-A POSTROUTING -s INNER -d INNER -p tcp -m tcp --dport 80 -j MASQUERADE
-A POSTROUTING -s INNER -d INNER -p udp -m udp --dport 53 -j MASQUERADE
-A DOCKER -p tcp -m tcp --dport 8443 -j DNAT --to-destination TO:443
-A DOCKER -p tcp -m tcp --dport 8080 -j DNAT --to-destination TO:80
-A DOCKER -p udp -m udp --dport 5353 -j DNAT --to-destination TO:53
COMMIT
";

/// With the proxy in user space, which serves the host itself and the container.
pub(super) const DOCKER_AND_PROXY: &str = "\
*filter
:INPUT ACCEPT [0:0]
:FORWARD DROP [0:0]
:OUTPUT ACCEPT [0:0]
:DOCKER - [0:0]
-A FORWARD -o BRIDGE -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT
-A FORWARD -o BRIDGE -j DOCKER
-A FORWARD -i BRIDGE ! -o BRIDGE -j ACCEPT
-A FORWARD -i BRIDGE -o BRIDGE -j ACCEPT
-A DOCKER -d INNER ! -i BRIDGE -o BRIDGE -p tcp -m tcp --dport 443 -j ACCEPT
-A DOCKER -d INNER ! -i BRIDGE -o BRIDGE -p tcp -m tcp --dport 80 -j ACCEPT
-A DOCKER -d INNER ! -i BRIDGE -o BRIDGE -p udp -m udp --dport 53 -j ACCEPT
COMMIT
*nat
:PREROUTING ACCEPT [0:0]
:INPUT ACCEPT [0:0]
:OUTPUT ACCEPT [0:0]
:POSTROUTING ACCEPT [0:0]
:DOCKER - [0:0]
-A PREROUTING -m addrtype --dst-type LOCAL -j DOCKER
-A OUTPUT ! -d LOOPBACK -m addrtype --dst-type LOCAL -j DOCKER
-A POSTROUTING -s INSIDE ! -o BRIDGE -j MASQUERADE
-A DOCKER -i BRIDGE -j RETURN
-A DOCKER ! -i BRIDGE -p tcp -m tcp --dport 8443 -j DNAT --to-destination TO:443
-A DOCKER ! -i BRIDGE -p tcp -m tcp --dport 8080 -j DNAT --to-destination TO:80
-A DOCKER ! -i BRIDGE -p udp -m udp --dport 5353 -j DNAT --to-destination TO:53
COMMIT
";

/// With `firewall-backend: nftables` and `userland-proxy: false`.
pub(super) const DOCKER_NFT: &str = r#"
table IP docker-bridges {
    map filter-forward-in-jumps {
        type ifname : verdict
        elements = { "BRIDGE" : jump filter-forward-in__BRIDGE }
    }
    map filter-forward-out-jumps {
        type ifname : verdict
        elements = { "BRIDGE" : jump filter-forward-out__BRIDGE }
    }
    map nat-postrouting-in-jumps {
        type ifname : verdict
        elements = { "BRIDGE" : jump nat-postrouting-in__BRIDGE }
    }
    map nat-postrouting-out-jumps {
        type ifname : verdict
        elements = { "BRIDGE" : jump nat-postrouting-out__BRIDGE }
    }
    chain filter-forward-in__BRIDGE {
        ct state established,related counter accept
        iifname "BRIDGE" counter accept comment "ICC"
        IP daddr INNER tcp dport 443 counter accept
        IP daddr INNER tcp dport 80 counter accept
        IP daddr INNER udp dport 53 counter accept
        counter drop comment "UNPUBLISHED PORT DROP"
    }
    chain filter-forward-out__BRIDGE {
        ct state established,related counter accept
        counter accept comment "OUTGOING"
    }
    chain nat-postrouting-in__BRIDGE {
        fib saddr type local counter masquerade
        IP saddr INNER IP daddr INNER counter masquerade
    }
    chain nat-postrouting-out__BRIDGE {
        oifname != "BRIDGE" IP saddr INSIDE counter masquerade comment "MASQUERADE"
    }
    chain filter-FORWARD {
        type filter hook forward priority filter; policy accept;
        oifname vmap @filter-forward-in-jumps
        iifname vmap @filter-forward-out-jumps
    }
    chain nat-prerouting-and-output {
        tcp dport 8443 counter dnat to TO:443 comment "DNAT"
        tcp dport 8080 counter dnat to TO:80 comment "DNAT"
        udp dport 5353 counter dnat to TO:53 comment "DNAT"
    }
    chain nat-OUTPUT {
        type nat hook output priority -100; policy accept;
        fib daddr type local counter jump nat-prerouting-and-output
    }
    chain nat-PREROUTING {
        type nat hook prerouting priority dstnat; policy accept;
        fib daddr type local counter jump nat-prerouting-and-output
    }
    chain nat-POSTROUTING {
        type nat hook postrouting priority srcnat; policy accept;
        iifname vmap @nat-postrouting-out-jumps
        oifname vmap @nat-postrouting-in-jumps
    }
    chain raw-PREROUTING {
        type filter hook prerouting priority raw; policy accept;
        IP daddr INNER iifname != "BRIDGE" counter drop comment "DROP DIRECT ACCESS"
    }
}
"#;

pub(super) const NETAVARK: &str = "\
*filter
:INPUT ACCEPT [0:0]
:FORWARD ACCEPT [0:0]
:OUTPUT ACCEPT [0:0]
:NETAVARK_FORWARD - [0:0]
-A FORWARD -j NETAVARK_FORWARD
-A NETAVARK_FORWARD -d INSIDE -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT
-A NETAVARK_FORWARD -s INSIDE -j ACCEPT
COMMIT
*nat
:PREROUTING ACCEPT [0:0]
:INPUT ACCEPT [0:0]
:OUTPUT ACCEPT [0:0]
:POSTROUTING ACCEPT [0:0]
:NETAVARK-1 - [0:0]
:NETAVARK-DN-1 - [0:0]
:NETAVARK-HOSTPORT-DNAT - [0:0]
:NETAVARK-HOSTPORT-MASQ - [0:0]
:NETAVARK-HOSTPORT-SETMARK - [0:0]
-A PREROUTING -m addrtype --dst-type LOCAL -j NETAVARK-HOSTPORT-DNAT
-A OUTPUT -m addrtype --dst-type LOCAL -j NETAVARK-HOSTPORT-DNAT
-A POSTROUTING -j NETAVARK-HOSTPORT-MASQ
-A POSTROUTING -s INSIDE -j NETAVARK-1
-A NETAVARK-1 -d INSIDE -j ACCEPT
-A NETAVARK-1 ! -d MULTICAST -j MASQUERADE
-A NETAVARK-DN-1 -s INSIDE -p tcp -m tcp --dport 8443 -j NETAVARK-HOSTPORT-SETMARK
-A NETAVARK-DN-1 -s 127.0.0.1/32 -p tcp -m tcp --dport 8443 -j NETAVARK-HOSTPORT-SETMARK
-A NETAVARK-DN-1 -p tcp -m tcp --dport 8443 -j DNAT --to-destination TO:443
-A NETAVARK-DN-1 -s INSIDE -p tcp -m tcp --dport 8080 -j NETAVARK-HOSTPORT-SETMARK
-A NETAVARK-DN-1 -s 127.0.0.1/32 -p tcp -m tcp --dport 8080 -j NETAVARK-HOSTPORT-SETMARK
-A NETAVARK-DN-1 -p tcp -m tcp --dport 8080 -j DNAT --to-destination TO:80
-A NETAVARK-DN-1 -s INSIDE -p udp -m udp --dport 5353 -j NETAVARK-HOSTPORT-SETMARK
-A NETAVARK-DN-1 -s 127.0.0.1/32 -p udp -m udp --dport 5353 -j NETAVARK-HOSTPORT-SETMARK
-A NETAVARK-DN-1 -p udp -m udp --dport 5353 -j DNAT --to-destination TO:53
-A NETAVARK-HOSTPORT-DNAT -p tcp -m tcp --dport 8443 -j NETAVARK-DN-1
-A NETAVARK-HOSTPORT-DNAT -p tcp -m tcp --dport 8080 -j NETAVARK-DN-1
-A NETAVARK-HOSTPORT-DNAT -p udp -m udp --dport 5353 -j NETAVARK-DN-1
-A NETAVARK-HOSTPORT-MASQ -m mark --mark 0x2000/0x2000 -j MASQUERADE
-A NETAVARK-HOSTPORT-SETMARK -j MARK --set-xmark 0x2000/0x2000
COMMIT
";

pub(super) const NETAVARK_NFT: &str = "
table inet netavark {
    chain NETAVARK-HOSTPORT-SETMARK {
        meta mark set meta mark | 0x00002000
    }
    chain NETAVARK-ISOLATION-1 {
    }
    chain nv_IP_nm {
        IP daddr INSIDE accept
        IP daddr != MULTICAST masquerade
    }
    chain nv_IP_nm_dnat {
        IP saddr INSIDE tcp dport 8443 jump NETAVARK-HOSTPORT-SETMARK
        ip saddr 127.0.0.1 tcp dport 8443 jump NETAVARK-HOSTPORT-SETMARK
        tcp dport 8443 dnat IP to TO:443
        IP saddr INSIDE tcp dport 8080 jump NETAVARK-HOSTPORT-SETMARK
        ip saddr 127.0.0.1 tcp dport 8080 jump NETAVARK-HOSTPORT-SETMARK
        tcp dport 8080 dnat IP to TO:80
        IP saddr INSIDE udp dport 5353 jump NETAVARK-HOSTPORT-SETMARK
        ip saddr 127.0.0.1 udp dport 5353 jump NETAVARK-HOSTPORT-SETMARK
        udp dport 5353 dnat IP to TO:53
    }
    chain NETAVARK-HOSTPORT-DNAT {
        tcp dport 8443 jump nv_IP_nm_dnat
        tcp dport 8080 jump nv_IP_nm_dnat
        udp dport 5353 jump nv_IP_nm_dnat
    }
    chain FORWARD {
        type filter hook forward priority filter; policy accept;
        ct state invalid drop
        jump NETAVARK-ISOLATION-1
        IP daddr INSIDE ct state established,related accept
        IP saddr INSIDE accept
    }
    chain POSTROUTING {
        type nat hook postrouting priority srcnat; policy accept;
        meta mark & 0x00002000 == 0x00002000 masquerade
        IP saddr INSIDE jump nv_IP_nm
    }
    chain PREROUTING {
        type nat hook prerouting priority dstnat; policy accept;
        fib daddr type local jump NETAVARK-HOSTPORT-DNAT
    }
    chain OUTPUT {
        type nat hook output priority -100; policy accept;
        fib daddr type local jump NETAVARK-HOSTPORT-DNAT
    }
}
";

/// For a `hostPort`, beside what the plugin bridge makes with `ipMasq`.
pub(super) const PORTMAP: &str = "\
*nat
:PREROUTING ACCEPT [0:0]
:INPUT ACCEPT [0:0]
:OUTPUT ACCEPT [0:0]
:POSTROUTING ACCEPT [0:0]
:CNI-1 - [0:0]
:CNI-DN-1 - [0:0]
:CNI-HOSTPORT-DNAT - [0:0]
:CNI-HOSTPORT-MASQ - [0:0]
:CNI-HOSTPORT-SETMARK - [0:0]
-A PREROUTING -m addrtype --dst-type LOCAL -j CNI-HOSTPORT-DNAT
-A OUTPUT -m addrtype --dst-type LOCAL -j CNI-HOSTPORT-DNAT
-A POSTROUTING -j CNI-HOSTPORT-MASQ
-A POSTROUTING -s INNER -j CNI-1
-A CNI-1 -d INSIDE -j ACCEPT
-A CNI-1 ! -d MULTICAST -j MASQUERADE
-A CNI-DN-1 -s INSIDE -p tcp -m tcp --dport 8443 -j CNI-HOSTPORT-SETMARK
-A CNI-DN-1 -s 127.0.0.1/32 -p tcp -m tcp --dport 8443 -j CNI-HOSTPORT-SETMARK
-A CNI-DN-1 -p tcp -m tcp --dport 8443 -j DNAT --to-destination TO:443
-A CNI-DN-1 -s INSIDE -p tcp -m tcp --dport 8080 -j CNI-HOSTPORT-SETMARK
-A CNI-DN-1 -s 127.0.0.1/32 -p tcp -m tcp --dport 8080 -j CNI-HOSTPORT-SETMARK
-A CNI-DN-1 -p tcp -m tcp --dport 8080 -j DNAT --to-destination TO:80
-A CNI-DN-1 -s INSIDE -p udp -m udp --dport 5353 -j CNI-HOSTPORT-SETMARK
-A CNI-DN-1 -s 127.0.0.1/32 -p udp -m udp --dport 5353 -j CNI-HOSTPORT-SETMARK
-A CNI-DN-1 -p udp -m udp --dport 5353 -j DNAT --to-destination TO:53
-A CNI-HOSTPORT-DNAT -p tcp -m multiport --dports 8443,8080 -j CNI-DN-1
-A CNI-HOSTPORT-DNAT -p udp -m multiport --dports 5353 -j CNI-DN-1
-A CNI-HOSTPORT-MASQ -m mark --mark 0x2000/0x2000 -j MASQUERADE
-A CNI-HOSTPORT-SETMARK -j MARK --set-xmark 0x2000/0x2000
COMMIT
";

pub(super) const PORTMAP_NFT: &str = "
table IP cni_hostport {
    chain hostip_hostports {
    }
    chain hostports {
        tcp dport 8443 dnat to TO:443
        tcp dport 8080 dnat to TO:80
        udp dport 5353 dnat to TO:53
    }
    chain prerouting {
        type nat hook prerouting priority dstnat; policy accept;
        jump hostip_hostports
        jump hostports
    }
    chain output {
        type nat hook output priority -100; policy accept;
        jump hostip_hostports
        fib daddr type local jump hostports
    }
    chain masquerading {
        type nat hook postrouting priority srcnat; policy accept;
        IP saddr INNER IP daddr INNER masquerade
        ip saddr 127.0.0.1 ip daddr INNER masquerade
    }
}
table IP cni_plugins_masquerade {
    chain postrouting {
        type nat hook postrouting priority srcnat; policy accept;
        IP saddr INNER IP daddr != INSIDE IP daddr != MULTICAST masquerade
    }
}
";

/// A service with a `NodePort`, of a pod on this node.
pub(super) const KUBE_PROXY: &str = "\
*filter
:INPUT ACCEPT [0:0]
:FORWARD ACCEPT [0:0]
:OUTPUT ACCEPT [0:0]
:KUBE-FORWARD - [0:0]
-A FORWARD -j KUBE-FORWARD
-A KUBE-FORWARD -m conntrack --ctstate INVALID -j DROP
-A KUBE-FORWARD -m mark --mark 0x4000/0x4000 -j ACCEPT
-A KUBE-FORWARD -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT
COMMIT
*nat
:PREROUTING ACCEPT [0:0]
:INPUT ACCEPT [0:0]
:OUTPUT ACCEPT [0:0]
:POSTROUTING ACCEPT [0:0]
:KUBE-EXT-APP - [0:0]
:KUBE-EXT-DNS - [0:0]
:KUBE-EXT-WEB - [0:0]
:KUBE-MARK-MASQ - [0:0]
:KUBE-NODEPORTS - [0:0]
:KUBE-POSTROUTING - [0:0]
:KUBE-SEP-APP - [0:0]
:KUBE-SEP-DNS - [0:0]
:KUBE-SEP-WEB - [0:0]
:KUBE-SERVICES - [0:0]
:KUBE-SVC-APP - [0:0]
:KUBE-SVC-DNS - [0:0]
:KUBE-SVC-WEB - [0:0]
-A PREROUTING -j KUBE-SERVICES
-A OUTPUT -j KUBE-SERVICES
-A POSTROUTING -j KUBE-POSTROUTING
-A POSTROUTING -s INSIDE ! -d INSIDE -j MASQUERADE
-A KUBE-MARK-MASQ -j MARK --set-xmark 0x4000/0x4000
-A KUBE-POSTROUTING -m mark ! --mark 0x4000/0x4000 -j RETURN
-A KUBE-POSTROUTING -j MARK --set-xmark 0x4000/0x0
-A KUBE-POSTROUTING -j MASQUERADE --random-fully
-A KUBE-SERVICES -m addrtype --dst-type LOCAL -j KUBE-NODEPORTS
-A KUBE-NODEPORTS -p tcp -m tcp --dport 8443 -j KUBE-EXT-APP
-A KUBE-NODEPORTS -p tcp -m tcp --dport 8080 -j KUBE-EXT-WEB
-A KUBE-NODEPORTS -p udp -m udp --dport 5353 -j KUBE-EXT-DNS
-A KUBE-EXT-APP -j KUBE-MARK-MASQ
-A KUBE-EXT-APP -j KUBE-SVC-APP
-A KUBE-EXT-WEB -j KUBE-MARK-MASQ
-A KUBE-EXT-WEB -j KUBE-SVC-WEB
-A KUBE-EXT-DNS -j KUBE-MARK-MASQ
-A KUBE-EXT-DNS -j KUBE-SVC-DNS
-A KUBE-SVC-APP -j KUBE-SEP-APP
-A KUBE-SVC-WEB -j KUBE-SEP-WEB
-A KUBE-SVC-DNS -j KUBE-SEP-DNS
-A KUBE-SEP-APP -s INNER -j KUBE-MARK-MASQ
-A KUBE-SEP-APP -p tcp -m tcp -j DNAT --to-destination TO:443
-A KUBE-SEP-WEB -s INNER -j KUBE-MARK-MASQ
-A KUBE-SEP-WEB -p tcp -m tcp -j DNAT --to-destination TO:80
-A KUBE-SEP-DNS -s INNER -j KUBE-MARK-MASQ
-A KUBE-SEP-DNS -p udp -m udp -j DNAT --to-destination TO:53
COMMIT
";

pub(super) const KUBE_PROXY_NFT: &str = "
table IP kube-proxy {
    set nodeport-ips {
        type ADDRESS
        elements = { OUTER }
    }
    map service-nodeports {
        type inet_proto . inet_service : verdict
        elements = { tcp . 8443 : goto external-app, tcp . 8080 : goto external-web,
                     udp . 5353 : goto external-dns }
    }
    chain mark-for-masquerade {
        meta mark set meta mark | 0x00004000
    }
    chain masquerading {
        meta mark & 0x00004000 == 0x00000000 return
        meta mark set meta mark ^ 0x00004000
        masquerade fully-random
    }
    chain endpoint-app {
        IP saddr INNER jump mark-for-masquerade
        meta l4proto tcp dnat to TO:443
    }
    chain endpoint-web {
        IP saddr INNER jump mark-for-masquerade
        meta l4proto tcp dnat to TO:80
    }
    chain endpoint-dns {
        IP saddr INNER jump mark-for-masquerade
        meta l4proto udp dnat to TO:53
    }
    chain service-app {
        numgen random mod 1 vmap { 0 : goto endpoint-app }
    }
    chain service-web {
        numgen random mod 1 vmap { 0 : goto endpoint-web }
    }
    chain service-dns {
        numgen random mod 1 vmap { 0 : goto endpoint-dns }
    }
    chain external-app {
        jump mark-for-masquerade
        goto service-app
    }
    chain external-web {
        jump mark-for-masquerade
        goto service-web
    }
    chain external-dns {
        jump mark-for-masquerade
        goto service-dns
    }
    chain services {
        IP daddr @nodeport-ips meta l4proto . th dport vmap @service-nodeports
    }
    chain nat-prerouting {
        type nat hook prerouting priority dstnat; policy accept;
        jump services
    }
    chain nat-output {
        type nat hook output priority -100; policy accept;
        jump services
    }
    chain nat-postrouting {
        type nat hook postrouting priority srcnat; policy accept;
        jump masquerading
        IP saddr INSIDE IP daddr != INSIDE masquerade
    }
}
";
