//! The requests of administrators, each answered by a method of the keeper.

use std::collections::HashMap;
use std::net::IpAddr;
use std::process;
use std::time::Duration;

use super::claim::Claim;
use super::control::{ConnectionId, Follows};
use super::doors::ClaimOutcome;
use super::fleet::news_of;
use super::state::Keeper;
use crate::config::{Door, Name};
use crate::control::{
    ClientStatus, DoorStatus, EventLine, GrantCondition, GrantStatus, HistoryQuery, Reply, Request,
    SandboxStatus, Status, WatcherSandbox, What, seconds,
};
use crate::grants::{Grant, GrantKey, GrantState, OpenedBy, Origin};
use crate::ipc::{ExplainFilter, ToWatcher};
use crate::ledger::Query;
use crate::proto::network::is_a_hosts;
use crate::proto::{Method, Network};
use crate::sys::clock;
use crate::time::{Monotonic, Now, Wall};

/// How much history is told at once: the latest of it.
const MOST_HISTORY: u32 = 10_000;
/// How many grants a status shows.
const MOST_GRANTS: usize = 25_000;
/// How long a status may wait for commands that look what is open.
const TIME_TO_LOOK: Duration = Duration::from_secs(2);

/// How long the watcher may take to tell what it has not told before.
const TIME_TO_RECALL: Duration = Duration::from_millis(100);

const NO_FLEET: &str = "this knockd is of no fleet: write one under 'knockd:', such as\n    \
                        fleet: {name: gw1, store: ..., key_file: ...}";

/// The answer to a request: what has come of it, empty where that is said already, or why nothing.
type Answer = Result<String, String>;

/// Somebody asks what happened lately, of an address or of all, and is told then.
pub(super) struct Recall {
    id: ConnectionId,
    address: Option<IpAddr>,
    pub(super) by: Monotonic,
}

impl Keeper {
    /// Hears what administrators ask, and tells those who follow what has happened.
    pub(super) fn serve(&mut self, now: Now) {
        // Whoever begins to follow now is told of what comes.
        self.pass_on();
        let requests = self.control.poll(now.monotonic, |peer| self.watchers.include(peer));
        if !requests.is_empty() {
            let began = clock::now().monotonic;
            requests.into_iter().for_each(|(id, request)| self.answer(now, id, request));
            self.control.answered(began, clock::now().monotonic);
        }
        for (job, outcome) in std::mem::take(&mut self.doors.ended) {
            for (asked_by, key) in self.opening.remove(&job).unwrap_or_default() {
                let done = self.has_opened(now, asked_by, &key, outcome.clone());
                self.done(asked_by, done);
            }
        }
        if !self.asked_status.is_empty()
            && (!self.doors.is_looking() || self.status_by.is_some_and(|by| by <= now.monotonic))
        {
            self.doors.stop_looking();
            let status = self.status(now);
            self.status_by = None;
            for id in std::mem::take(&mut self.asked_status) {
                self.control.reply(id, &Reply::Status(status.clone()));
                self.done(id, Ok(String::new()));
            }
        }
        self.recall(now);
        self.pass_on();
        let explains = !self.recalls.is_empty()
            || self.control.follows().any(|follows| matches!(follows, Follows::Knocks(_)));
        if std::mem::replace(&mut self.explains, explains) && !explains {
            self.watchers.tell(ToWatcher::Explain { asked: ExplainFilter::Nobody });
        }
    }

    /// Tells those who asked what happened lately, and from now on what happens.
    fn recall(&mut self, now: Now) {
        for Recall { id, address, .. } in self.recalls.extract_if(.., |it| it.by <= now.monotonic) {
            for line in self.memory.about(address) {
                self.control.reply(id, &Reply::Event(line));
            }
            self.control.follow(id, Follows::Knocks(address));
        }
    }

    /// Tells those who follow what has happened.
    fn pass_on(&mut self) {
        for event in std::mem::take(&mut self.doors.logged) {
            self.control.publish(&event);
            self.memory.keep(event);
        }
    }

    pub(super) fn done(&mut self, id: ConnectionId, done: Answer) {
        let reply = match done {
            Ok(text) => Reply::Done { text },
            Err(why) => Reply::Failed { why },
        };
        self.control.reply(id, &reply);
    }

    /// Answers a request, or sees to it that it is answered when it is known what has come of it.
    fn answer(&mut self, now: Now, id: ConnectionId, request: Request) {
        let news = news_of(&request);
        let done = match request {
            Request::Status => return self.look_for_status(now, id),
            Request::Metrics { format } => Ok(self.metrics(now, format)),
            Request::Clients => self.clients(id),
            Request::Fleet => self.fleet(now, id),
            Request::Open { door, address, seconds } => {
                match self.open(now, id, &door, address, seconds).transpose() {
                    None => return,
                    Some(done) => done,
                }
            }
            Request::Close { door, address, cut } => self.close(now, &door, address, cut),
            Request::CloseAll { cut } => {
                let count = self.doors.list().len();
                self.doors.close_all(now, cut, OpenedBy::Knockctl);
                let closes = match count {
                    0 => "nothing is open".to_owned(),
                    1 => "1 open door closes".to_owned(),
                    count => format!("{count} open doors close"),
                };
                self.and_cut(closes)
            }
            Request::Revoke { client, cut } => {
                let closes = match self.doors.close_client(now, &client, cut, OpenedBy::Knockctl) {
                    0 if self.fleet.is_some() => format!("'{client}' has nothing open here"),
                    0 => String::new(),
                    1 => format!("1 door that '{client}' has opened closes"),
                    count => format!("{count} doors that '{client}' has opened close"),
                };
                self.and_cut(closes)
            }
            Request::Unlock { address } => self.unlock(now, address),
            Request::ResetClient { client } => self.reset_client(now, &client),
            Request::Try { seconds, lock } => match self.try_out(now, id, seconds.into(), lock) {
                // Answered when it is in force.
                Ok(()) => return,
                Err(why) => Err(why),
            },
            Request::Confirm => {
                self.confirm(now).map(|()| "confirmed: the configuration stays".to_owned())
            }
            Request::Reload => return self.reload(now, Some(id)),
            Request::Watch => return self.control.follow(id, Follows::Events),
            Request::Explain { address } => return self.explain(now, id, address),
            Request::History(query) => self.history(id, query),
        };
        match news {
            Some(news) => self.tell_others(now, id, news, done),
            None => self.done(id, done),
        }
    }

    /// A status is answered when it is known what is open, in this turn if nothing has to be run.
    fn look_for_status(&mut self, now: Now, id: ConnectionId) {
        self.doors.look(now);
        self.status_by.get_or_insert(now.monotonic + TIME_TO_LOOK);
        self.asked_status.push(id);
    }

    fn clients(&mut self, id: ConnectionId) -> Answer {
        let used = self.doors.journal.ledger.last_uses().map_err(|why| why.to_string())?;
        let clients = self.watchers.config.clients.iter().map(|client| ClientStatus {
            client: client.name.clone(),
            by: Method::ALL.into_iter().filter(|method| client.has(*method)).collect(),
            doors: client.doors.clone(),
            last_used: used.get(&client.name).copied().map(seconds),
            expires: client.expires.map(seconds),
        });
        self.control.reply(id, &Reply::Clients { clients: clients.collect() });
        Ok(String::new())
    }

    fn fleet(&mut self, now: Now, id: ConnectionId) -> Answer {
        let status = self.fleet_status(now).ok_or(NO_FLEET)?;
        self.control.reply(id, &Reply::Fleet(status));
        Ok(String::new())
    }

    /// Opens a door by hand; `Ok(None)`: [`serve`](Self::serve) answers when its commands have
    /// ended.
    fn open(
        &mut self,
        now: Now,
        id: ConnectionId,
        door: &Name,
        address: IpAddr,
        seconds: Option<u64>,
    ) -> Result<Option<String>, String> {
        if !is_a_hosts(address) {
            return Err(format!("no packet comes from {address}"));
        }
        let door = self.find(door)?;
        let open_for = seconds.map(Duration::from_secs);
        let key = GrantKey::new(door.name().clone(), address);
        let claim = Claim::by_administrator(door, address, now.monotonic, open_for);
        let (outcome, job) = match self.doors.carry_out(now, &claim) {
            // Somebody else may have begun to open it.
            Ok(ClaimOutcome::Done) => (Ok(()), self.doors.opened_by(&key)),
            Ok(ClaimOutcome::UnderWay(job)) => (Ok(()), Some(job)),
            Ok(ClaimOutcome::Failed(why)) => (Err(why.to_owned()), None),
            Err(reason) => {
                self.watchers.intake.refused(&claim, reason);
                (Err(reason.to_string()), None)
            }
        };
        if let Some(job) = job {
            self.opening.entry(job).or_default().push((id, key));
            return Ok(None);
        }
        self.has_opened(now, id, &key, outcome).map(Some)
    }

    /// What has come of opening a door by hand.
    fn has_opened(
        &mut self,
        now: Now,
        id: ConnectionId,
        key: &GrantKey,
        outcome: Result<(), String>,
    ) -> Answer {
        let GrantKey { door, network, .. } = key;
        outcome.map_err(|why| format!("{door} could not be opened for {network}: {why}"))?;
        let mut grants = self.doors.list();
        grants.retain(|grant| grant.key == *key);
        if grants.is_empty() {
            return Ok(format!("{door} has nothing to close: what it does is done for {network}"));
        }
        let grant = grants.iter().find(|grant| is_open(grant));
        let Some(grant) = grant.map(|grant| self.grant_status(now, grant)) else {
            return Ok(format!("{door} opens for {network} once what goes on there has ended"));
        };
        self.control.reply(id, &Reply::Opened(grant));
        Ok(String::new())
    }

    fn close(&mut self, now: Now, door: &Name, address: Network, cut: bool) -> Answer {
        let key = GrantKey::new(door.clone(), address);
        let is_open = self.doors.close(now, &key, cut, OpenedBy::Knockctl);
        let closes = is_open.then(|| format!("{door} closes for {address}"));
        let said = self.and_cut(closes.unwrap_or_default())?;
        if said.is_empty() {
            return self.find(door).and(Err(format!("{door} is not open for {address}")));
        }
        Ok(said)
    }

    /// Ends the connections that are to be cut, and says so after what has closed; empty where there
    /// was nothing to do.
    fn and_cut(&mut self, closes: String) -> Answer {
        let cut = self.doors.cut_due()?;
        Ok(match closes.is_empty() {
            true if cut.starts_with("0 ") => closes,
            true => cut,
            false if cut.is_empty() => closes,
            false => format!("{closes}, {cut}"),
        })
    }

    fn unlock(&mut self, now: Now, address: IpAddr) -> Answer {
        if !self.watchers.unlock(now.monotonic, address) {
            return Err(format!("{address} is not locked out"));
        }
        let (at, what) = (clock::now().wall, "listened to again");
        self.doors.log_event(EventLine::new(at, Some(address.into()), None, What::Unlocked, what));
        Ok(format!("{address} is {what}"))
    }

    /// Has the watcher tell what it has not told before: all is told in the order of time.
    fn explain(&mut self, now: Now, id: ConnectionId, address: Option<IpAddr>) {
        // Whoever asks already goes on being told.
        let is_alone = !self.explains && self.recalls.is_empty();
        let asked = address.filter(|_| is_alone).map_or(ExplainFilter::All, ExplainFilter::One);
        self.watchers.tell(ToWatcher::Explain { asked });
        self.recalls.push(Recall { id, address, by: now.monotonic + TIME_TO_RECALL });
    }

    fn history(&mut self, id: ConnectionId, query: HistoryQuery) -> Answer {
        let nanos = |seconds: f64| Wall::from_nanos((seconds.max(0.0) * 1e9) as u64);
        let query = Query {
            door: query.door,
            address: query.address,
            since: query.since.map(nanos),
            limit: MOST_HISTORY,
        };
        let entries = self.doors.journal.ledger.history(&query).map_err(|why| why.to_string())?;
        for entry in entries.iter().rev() {
            self.control.reply(id, &Reply::Event(EventLine::of_history(entry)));
        }
        Ok(String::new())
    }

    fn find(&self, name: &Name) -> Result<Door, String> {
        let door = self.watchers.config.door(name).cloned();
        door.ok_or_else(|| format!("there is no door '{name}'"))
    }

    pub(super) fn status(&self, now: Now) -> Status {
        let config = &self.watchers.config;
        let grants = self.doors.list();
        let (listening, waiting_for) = self.watchers.listening();
        let counts = &self.watchers.intake.counts;
        let mut open: HashMap<&Name, usize> = HashMap::new();
        for grant in grants.iter().filter(|it| is_open(it) && !self.doors.is_gone(it.id)) {
            *open.entry(&grant.key.door).or_default() += 1;
        }
        let lock = self.trials.until().and(self.trials.lock.as_ref());
        let doors = config.doors.iter().map(|door| DoorStatus {
            door: door.name().clone(),
            opens: door.opening.ports.iter().map(ToString::to_string).collect(),
            forwards: door.opening.forwards.clone(),
            via: door.opening.mechanism.to_string(),
            observes: door.opening.is_observed(),
            locked_on_trial: lock.is_some_and(|locked| locked == door.name()),
            open: open.get(door.name()).copied().unwrap_or_default(),
            sequences_left: door.one_time.as_ref().map(|one_time| one_time.left),
        });
        let shown = grants.iter().take(MOST_GRANTS).map(|grant| self.grant_status(now, grant));
        let not_closed = self.doors.not_closed().map(|(key, origin)| {
            grant_status(key, origin, GrantCondition::NotClosed, Duration::ZERO)
        });
        let courier = self.fleet.as_ref().and_then(|it| it.link.sandbox);
        let remaining = |until: Monotonic| seconds(now.wall + until.since(now.monotonic));
        let counters = counts.iter().map(|(reason, &count)| (reason.as_str().to_owned(), count));
        Status {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            pid: process::id(),
            since: seconds(self.since),
            configuration: self.cli.config.clone(),
            on_trial_until: self.trials.until().map(remaining),
            listening,
            waiting_for,
            doors: doors.collect(),
            grants: shown.chain(not_closed).collect(),
            grants_not_shown: grants.len().saturating_sub(MOST_GRANTS),
            counters: counters.collect(),
            dropped: self.watchers.intake.dropped,
            sandbox: SandboxStatus {
                keeper: Some(self.rights.status()),
                watcher: self.watchers.sandbox.map(WatcherSandbox::from),
                courier: courier.map(WatcherSandbox::from),
            },
            fleet: self.fleet_status(now).map(|status| status.link),
            locked_out: self.watchers.intake.lockouts.status(now.monotonic),
        }
    }

    fn grant_status(&self, now: Now, grant: &Grant) -> GrantStatus {
        let condition = match grant.state() {
            GrantState::Starting => GrantCondition::Starting,
            GrantState::Closing => GrantCondition::Closing,
            _ if self.doors.is_gone(grant.id) => GrantCondition::Gone,
            GrantState::Open => GrantCondition::Open,
            GrantState::OpenedWithErrors => GrantCondition::OpenedWithErrors,
        };
        let left = grant.deadline.since(now.monotonic);
        let held_by = grant.held_by();
        GrantStatus { held_by, ..grant_status(&grant.key, &grant.origin, condition, left) }
    }
}

fn is_open(grant: &Grant) -> bool {
    matches!(grant.state(), GrantState::Open | GrantState::OpenedWithErrors)
}

fn grant_status(
    key: &GrantKey,
    origin: &Origin,
    state: GrantCondition,
    left: Duration,
) -> GrantStatus {
    GrantStatus {
        door: key.door.clone(),
        address: key.network,
        source_port: key.source_port,
        client: origin.client.clone(),
        by: origin.by,
        state,
        seconds_left: left.as_secs_f64(),
        held_by: 0,
    }
}
