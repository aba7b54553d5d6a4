//! Alerts that a door was opened or closed: `on_open`, `on_close`, mail.
//!
//! What is run here delays no grant and fails none: it has a runner of its own.

use std::collections::HashMap;
use std::fs;
use std::time::Duration;

use jiff::tz::TimeZone;
use tracing::warn;

use crate::config::{
    COMMAND_LIMIT, Config, Door, Email, Holes, Name, NewPrivileges, Opening, Rendered,
};
use crate::firewall::command::{CommandRunner, Job, JobId, JobKind};
use crate::grants::{GrantKey, Origin};
use crate::log::limit::Limit;
use crate::log::{escape, local};
use crate::time::{Monotonic, Now, Wall};

/// How many mails at once, and how often one more.
const MAILS: u32 = 10;
const MAIL_EVERY: Duration = Duration::from_secs(60);
/// How many commands may be under way: a flood of grants starts no flood of processes.
const WAITING: usize = 256;

/// The rules for the commands of a door: how long each may run, and what it may gain.
type CommandRules = (Option<Duration>, NewPrivileges);

/// What holds for most doors.
const COMMAND_RULES: CommandRules = (Some(COMMAND_LIMIT), NewPrivileges::Granted);

/// The hooks and mails under way, and whom they are for.
pub(super) struct Alerts {
    pub(super) runner: CommandRunner,
    mail_to: Option<Email>,
    of_mail: NewPrivileges,
    limit: Limit,
    /// Those that can be open and have something run.
    doors: HashMap<Name, Door>,
    under_way: usize,
    left_out: bool,
}

impl Alerts {
    pub(super) fn new(config: &Config) -> Self {
        let runner = CommandRunner::new(&config.settings.state_dir.join("hooks"));
        let (mail_to, of_mail, doors) = (None, NewPrivileges::Granted, HashMap::new());
        let limit = Limit::new(MAILS, MAIL_EVERY);
        let mut alerts =
            Self { runner, mail_to, of_mail, limit, doors, under_way: 0, left_out: false };
        alerts.reconfigure(config, |_| false);
        alerts
    }

    /// Tells from now on what this configuration wants to be told. A door that is no more still
    /// tells that it closes.
    pub(super) fn reconfigure(&mut self, config: &Config, is_open: impl Fn(&Name) -> bool) {
        self.mail_to.clone_from(&config.settings.alert);
        self.of_mail = config.settings.new_privileges;
        self.doors.retain(|name, _| is_open(name) && config.door(name).is_none());
        let is_special = |door: &&Door| {
            let Opening { on_open, on_close, command_limit, new_privileges, .. } = &door.opening;
            on_open.is_some()
                || on_close.is_some()
                || (*command_limit, *new_privileges) != COMMAND_RULES
        };
        let special = config.doors.iter().filter(is_special);
        self.doors.extend(special.map(|door| (door.name().clone(), door.clone())));
    }

    /// How long a command of a door may run, and whether it may gain privileges.
    pub(super) fn command_rules(&self, door: &Name) -> CommandRules {
        let rules = |door: &Door| (door.opening.command_limit, door.opening.new_privileges);
        self.doors.get(door).map_or(COMMAND_RULES, rules)
    }

    /// Tells that a door is open for somebody, or has closed. `until`: when it closes, where it
    /// does by itself.
    pub(super) fn tell(
        &mut self,
        now: Now,
        key: &GrantKey,
        origin: &Origin,
        is_open: bool,
        until: Option<Wall>,
    ) {
        let hook = self.doors.get(&key.door).and_then(|door| {
            let Opening { on_open, on_close, open_for, .. } = &door.opening;
            let (network, client) = (key.network, origin.client.as_ref());
            let (port, seconds) = (door.opening.single_port(), open_for.as_secs());
            let holes = Holes { network, door: &key.door, client, port, seconds };
            let command = if is_open { on_open } else { on_close };
            command.as_ref().map(|command| command.render(&holes))
        });
        if let Some(hook) = hook {
            self.run(now, &key.door, hook, self.command_rules(&key.door));
        }
        if let Some(to) = &self.mail_to
            && let Some(left_out) = self.limit.pass_after(now.monotonic)
        {
            let what = (if is_open { "opened" } else { "closed" }, until);
            let mail = mail(to, key, origin, what, left_out);
            self.run(now, &key.door, mail, (Some(COMMAND_LIMIT), self.of_mail));
        }
    }

    fn run(&mut self, now: Now, door: &Name, command: Rendered, rules: CommandRules) {
        if self.under_way >= WAITING {
            if !std::mem::replace(&mut self.left_out, true) {
                warn!(door = %door, "too many alerts are under way: some are left out");
            }
            return;
        }
        self.under_way += 1;
        let (limit, new_privileges) = rules;
        let (id, door, kind, tasks) = (JobId(0), door.clone(), JobKind::Open, vec![command.into()]);
        let job = Job { id, door, kind, limit, new_privileges, tasks };
        self.runner.submit(now.monotonic, job);
    }

    pub(super) fn poll(&mut self, now: Monotonic) {
        self.under_way = self.under_way.saturating_sub(self.runner.poll(now).len());
        self.left_out &= self.under_way >= WAITING;
    }

    /// Whether everybody who wants to know has been told what was opened and closed.
    pub(super) const fn is_idle(&self) -> bool {
        self.under_way == 0
    }
}

/// A mail, through the local `sendmail`. What it says stands in the environment, so that no shell
/// reads it. `left_out`: how many the limit has kept back before it.
fn mail(
    to: &Email,
    GrantKey { door, network, .. }: &GrantKey,
    Origin { by, client }: &Origin,
    (what, until): (&str, Option<Wall>),
    left_out: u64,
) -> Rendered {
    let host = fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
    let host = escape(host.trim_end());
    let by = by.as_str();
    let mut text = format!(
        "To: {to}\nSubject: {host}: knockd: {door} {what} for {network}\n\
         Auto-Submitted: auto-generated\n\n\
         {door} was {what} for {network}.\n\nhost: {host}\nopened by: {by}\n"
    );
    let client = client.as_ref().map(|client| format!("client: {client}\n"));
    let until = until.map(|until| {
        local(until, &TimeZone::system()).strftime("until: %Y-%m-%d %H:%M:%S %Z\n").to_string()
    });
    text.extend([client, until].into_iter().flatten());
    if left_out > 0 {
        text.push_str(&format!(
            "Of {left_out} more before this there was no mail; 'knockctl history' has them.\n"
        ));
    }
    let script = "printf '%s' \"$KNOCK_MAIL\" | sendmail -i -- \"$KNOCK_MAIL_TO\"";
    Rendered {
        argv: ["/bin/sh", "-c", script].map(str::to_owned).to_vec(),
        environment: vec![
            ("KNOCK_MAIL".to_owned(), text),
            ("KNOCK_MAIL_TO".to_owned(), to.to_string()),
        ],
    }
}
