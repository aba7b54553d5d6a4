//! The variables of `access.conf` and `fwknopd.conf`, and what becomes of each.

/// What becomes of a variable.
#[derive(Clone, Copy, Debug)]
pub(super) enum Fate {
    /// What it says is imported.
    Carried,
    /// It says nothing about who gets in, and why.
    LeftOut(&'static str),
    /// It lets somebody in, or opens something, in a way that there is not here; with what to do
    /// without it.
    Refused(Matters, &'static str),
}

/// The values with which a variable says something.
#[derive(Clone, Copy, Debug)]
pub(super) enum Matters {
    Always,
    WhenOn,
    WhenOff,
}

impl Fate {
    /// What to do without a variable that has this value, if it says something.
    pub(super) fn refuses(self, value: &[u8]) -> Option<&'static str> {
        let Self::Refused(matters, help) = self else { return None };
        let says = match matters {
            Matters::Always => true,
            Matters::WhenOn => is_yes(value),
            Matters::WhenOff => !is_yes(value),
        };
        says.then_some(help)
    }
}

/// A switch as fwknopd reads it.
pub(super) fn is_yes(value: &[u8]) -> bool {
    matches!(value.first(), Some(b'Y' | b'y'))
}

/// Variables by what becomes of them.
pub(super) type VariableTable = [(Fate, &'static str)];

/// The variables of this name, if it is one, and what becomes of it.
pub(super) fn find(table: &VariableTable, name: &str) -> Option<(Fate, &'static str)> {
    names(table).find(|(_, known)| *known == name)
}

pub(super) fn names(table: &VariableTable) -> impl Iterator<Item = (Fate, &'static str)> {
    table.iter().flat_map(|(fate, names)| names.split(' ').map(|name| (*fate, name)))
}

const NO_COMMANDS: &str = "a request brings no command here: make a door with a start_command for \
                           each thing that is to be done";
const NO_NAT: &str = "no door translates addresses here: have the firewall do that";
const NO_GPG: &str = "GnuPG is not read here: give the client a KEY and an HMAC_KEY";

/// Those of `access.conf`.
pub(super) const ACCESS: &VariableTable = &[
    (
        Fate::Carried,
        "SOURCE DESTINATION OPEN_PORTS RESTRICT_PORTS KEY KEY_BASE64 HMAC_KEY HMAC_KEY_BASE64 \
         HMAC_DIGEST_TYPE ENCRYPTION_MODE FW_ACCESS_TIMEOUT MAX_FW_TIMEOUT ACCESS_EXPIRE \
         ACCESS_EXPIRE_EPOCH REQUIRE_USERNAME REQUIRE_SOURCE_ADDRESS REQUIRE_SOURCE \
         CMD_CYCLE_OPEN CMD_CYCLE_CLOSE CMD_CYCLE_TIMER",
    ),
    (Fate::LeftOut("is of LuCI's pages, and decides nothing in fwknopd"), "keytype hkeytype"),
    (Fate::Refused(Matters::WhenOn, NO_COMMANDS), "ENABLE_CMD_EXEC ENABLE_CMD_SUDO_EXEC"),
    (
        Fate::Refused(Matters::Always, NO_COMMANDS),
        "CMD_EXEC_USER CMD_EXEC_GROUP CMD_SUDO_EXEC_USER CMD_SUDO_EXEC_GROUP",
    ),
    (Fate::Refused(Matters::WhenOn, NO_NAT), "FORCE_MASQUERADE FORWARD_ALL DISABLE_DNAT"),
    (Fate::Refused(Matters::Always, NO_NAT), "FORCE_NAT FORCE_SNAT"),
    (
        Fate::Refused(Matters::WhenOn, NO_GPG),
        "GPG_ALLOW_NO_PW GPG_REQUIRE_SIG GPG_DISABLE_SIG GPG_IGNORE_SIG_VERIFY_ERROR",
    ),
    (
        Fate::Refused(Matters::Always, NO_GPG),
        "GPG_HOME_DIR GPG_EXE GPG_DECRYPT_ID GPG_DECRYPT_PW GPG_REMOTE_ID GPG_FINGERPRINT_ID",
    ),
];

const FWKNOPDS_OWN: Fate = Fate::LeftOut("is about fwknopd itself");

/// Those of `fwknopd.conf`.
pub(super) const DAEMON: &VariableTable = &[
    (
        Fate::Carried,
        "ACCESS_FILE ACCESS_FOLDER ENABLE_NFQ_CAPTURE ENABLE_UDP_SERVER MAX_SPA_PACKET_AGE \
         NFQ_PORT PCAP_FILTER PCAP_INTF SYSLOG_FACILITY UDPSERV_PORT VERBOSE",
    ),
    (
        FWKNOPDS_OWN,
        "CMD_EXEC_TIMEOUT CONFIG_FILE DIGEST_DB_FILE DIGEST_FILE ENABLE_FIREWD_COMMENT_CHECK \
         ENABLE_IPT_COMMENT_CHECK ENABLE_NAT_DNS ENABLE_PCAP_PROMISC ENABLE_RULE_PREPEND \
         EXIT_AT_INTF_DOWN FAULT_INJECTION_TAG FIREWALL_EXE FIREWD_DNAT_ACCESS \
         FIREWD_FORWARD_ACCESS FIREWD_INPUT_ACCESS FIREWD_MASQUERADE_ACCESS FIREWD_OUTPUT_ACCESS \
         FIREWD_SNAT_ACCESS FLUSH_FIREWD_AT_EXIT FLUSH_FIREWD_AT_INIT FLUSH_IPT_AT_EXIT \
         FLUSH_IPT_AT_INIT FWKNOP_CONF_DIR FWKNOP_PID_FILE FWKNOP_RUN_DIR GPG_EXE GPG_HOME_DIR \
         IPT_DNAT_ACCESS IPT_FORWARD_ACCESS IPT_INPUT_ACCESS IPT_MASQUERADE_ACCESS \
         IPT_OUTPUT_ACCESS IPT_SNAT_ACCESS LOCALE MAX_SNIFF_BYTES NFQ_CHAIN NFQ_INTERFACE \
         NFQ_LOOP_SLEEP NFQ_QUEUE_NUMBER NFQ_TABLE PCAP_DISPATCH_COUNT PCAP_FILE PCAP_LOOP_SLEEP \
         RULES_CHECK_THRESHOLD SNAT_TRANSLATE_IP SUDO_EXE SYSLOG_IDENTITY TCPSERV_PORT \
         UDPSERV_SELECT_TIMEOUT",
    ),
    (
        Fate::LeftOut("is about a firewall that Linux does not have"),
        "FLUSH_IPFW_AT_EXIT FLUSH_IPFW_AT_INIT IPFW_ACTIVE_SET_NUM IPFW_ADD_CHECK_STATE \
         IPFW_EXPIRE_PURGE_INTERVAL IPFW_EXPIRE_SET_NUM IPFW_MAX_RULES IPFW_START_RULE_NUM \
         PF_ANCHOR_NAME PF_EXPIRE_INTERVAL",
    ),
    (
        Fate::LeftOut("does nothing in any fwknopd yet"),
        "ENABLE_EXT_CMD_PREFIX EXTERNAL_CMD_ALARM EXTERNAL_CMD_CLOSE EXTERNAL_CMD_OPEN \
         EXT_CMD_PREFIX",
    ),
    (
        Fate::Refused(Matters::Always, "the file that it names is not read: put here what it says"),
        "OVERRIDE_CONFIG",
    ),
    (
        Fate::Refused(Matters::WhenOff, "the time of a request counts here, within max_age"),
        "ENABLE_SPA_PACKET_AGING",
    ),
    (
        Fate::Refused(Matters::WhenOff, "a request opens only once here"),
        "ENABLE_DIGEST_PERSISTENCE",
    ),
    (
        Fate::Refused(
            Matters::WhenOn,
            "requests come in UDP datagrams here: have clients send those",
        ),
        "ENABLE_SPA_OVER_HTTP ENABLE_TCP_SERVER ENABLE_X_FORWARDED_FOR ALLOW_ANY_USER_AGENT",
    ),
    (
        Fate::Refused(Matters::WhenOn, NO_NAT),
        "ENABLE_IPT_FORWARDING ENABLE_IPT_LOCAL_NAT ENABLE_IPT_SNAT ENABLE_FIREWD_FORWARDING \
         ENABLE_FIREWD_LOCAL_NAT ENABLE_FIREWD_SNAT",
    ),
    (
        Fate::Refused(Matters::WhenOn, "say it in the rules of your firewall"),
        "ENABLE_IPT_OUTPUT ENABLE_FIREWD_OUTPUT ENABLE_DESTINATION_RULE",
    ),
    (
        Fate::Refused(Matters::WhenOn, "only packets to this host are looked at"),
        "ENABLE_PCAP_ANY_DIRECTION",
    ),
    (
        Fate::Refused(Matters::WhenOn, "give a door start_command and stop_command"),
        "ENABLE_EXTERNAL_CMDS",
    ),
];
