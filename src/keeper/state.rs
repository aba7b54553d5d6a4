//! The keeper's state: what its loop, its requests and its reloads work on.

use std::collections::HashMap;
use std::time::Duration;

use super::child::ChildProcess;
use super::cli::KnockdCli;
use super::control::{ConnectionId, Control};
use super::daemon::{Launcher, PidFile};
use super::doors::Doors;
use super::fleet::Fleet;
use super::guard_copy::GuardCopy;
use super::one_time_files::OneTimeFiles;
use super::recent_events::RecentEvents;
use super::requests::Recall;
use super::reverse_dns::ReverseDns;
use super::rights::Rights;
use super::trials::Trials;
use super::watchers::Watchers;
use crate::config::MetricsSocket;
use crate::firewall::command::JobId;
use crate::grants::GrantKey;
use crate::sys::signals::Signals;
use crate::time::{Monotonic, Wall};

/// The daemon's privileged process.
pub(super) struct Keeper {
    pub(super) cli: KnockdCli,
    pub(super) since: Wall,
    pub(super) signals: Signals,
    pub(super) watchers: Watchers,
    pub(super) doors: Doors,
    /// The fleet that this gateway is of, if any.
    pub(super) fleet: Option<Fleet>,
    /// The couriers of fleets that it has left, which may not have ended yet.
    pub(super) couriers_left: Vec<ChildProcess>,
    pub(super) control: Control,
    /// Who reads figures, and where they may.
    pub(super) metrics_socket: Option<(MetricsSocket, Control)>,
    /// Whether somebody asks what became of knocks, who waits for what happened before, and that.
    pub(super) explains: bool,
    pub(super) recalls: Vec<Recall>,
    pub(super) memory: RecentEvents,
    /// Doors that somebody opens by hand, and who waits to be told what comes of it.
    pub(super) opening: HashMap<JobId, Vec<(ConnectionId, GrantKey)>>,
    /// Who waits for a status, and until when at most.
    pub(super) asked_status: Vec<ConnectionId>,
    pub(super) status_by: Option<Monotonic>,
    pub(super) names: Option<ReverseDns>,
    /// In the foreground, log lines also go to standard error.
    pub(super) foreground: bool,
    pub(super) left: Option<Launcher>,
    pub(super) started: bool,
    /// When memory that a start or a reload has taken is given back.
    pub(super) give_back_at: Option<Monotonic>,
    pub(super) trials: Trials,
    pub(super) guard_copy: GuardCopy,
    pub(super) lists: OneTimeFiles,
    /// How often the service manager wants to be told that the loop turns, and when next.
    pub(super) watchdog: Option<(Duration, Monotonic)>,
    /// Why the configuration as it is now has not been taken up, in one line.
    pub(super) not_taken_up: Option<String>,
    /// What it has not given up.
    pub(super) rights: Rights,
    // Removed, and unlocked, when the daemon ends.
    pub(super) _pid_file: PidFile,
}
