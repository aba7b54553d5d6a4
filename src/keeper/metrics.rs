//! Figures for monitoring: counts that only they have, and all of them as text.
//!
//! No address and no client is in a label: there are no more series than the configuration has doors
//! and interfaces for, times the methods and reasons that there are.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric, prometheus_text, text};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::counter::ConstCounter;
use prometheus_client::metrics::gauge::ConstGauge;
use prometheus_client::registry::Registry;
use tracing::error;

use super::control::{Control, Language};
use super::daemon::DaemonError;
use super::state::Keeper;
use crate::config::trusted_path::{Leaf, check_path};
use crate::config::{Config, MetricsSocket};
use crate::control::{FleetState, MetricsFormat, Reply, Status};
use crate::sys::clock;
use crate::time::Now;

/// A figure: its name, what it says, and its labels.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Metric(&'static str, &'static str, &'static [&'static str]);

pub(super) const REQUESTS: Metric =
    Metric("requests", "What asked for a door, by what came of it", &["door", "method", "outcome"]);
pub(super) const OPENED: Metric = Metric("grants_opened", "Grants that opened", &["door"]);
pub(super) const CLOSED: Metric = Metric("grants_closed", "Grants that closed", &["door"]);
pub(super) const LOCKOUTS: Metric = Metric(
    "lockouts",
    "Sources that were locked out, at a door or, without one, at all",
    &["door"],
);
pub(super) const SEEN: Metric =
    Metric("packets_seen", "Packets that passed the filter", &["interface"]);
pub(super) const DROPPED: Metric =
    Metric("packets_dropped", "Those of them that the kernel dropped", &["interface"]);
pub(super) const RESTARTS: Metric =
    Metric("watcher_restarts", "Watchers that ended unasked, so that another started", &[]);

/// Counts by figure and values of its labels.
#[derive(Debug, Default)]
pub(super) struct Counts(BTreeMap<(Metric, Vec<String>), u64>);

impl Counts {
    pub(super) fn add(&mut self, figure: Metric, labels: &[&dyn fmt::Display], more: u64) {
        let labels = labels.iter().map(ToString::to_string).collect();
        let count = self.0.entry((figure, labels)).or_default();
        *count = count.saturating_add(more);
    }
}

/// A figure with its values.
#[derive(Debug)]
struct Series(MetricType, Metric, Vec<(Vec<String>, u64)>);

impl Collector for Series {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> fmt::Result {
        let Self(of, Metric(name, help, labels), values) = self;
        let mut metric = encoder.encode_descriptor(name, help, None, *of)?;
        values.iter().try_for_each(|(of_labels, value)| {
            let labels = labels.iter().copied().zip(of_labels.iter().map(String::as_str));
            let labels: Vec<_> = labels.collect();
            let encoder = metric.encode_family(&labels)?;
            match of {
                MetricType::Counter => ConstCounter::new(*value).encode(encoder),
                _ => ConstGauge::new(*value).encode(encoder),
            }
        })
    }
}

impl Keeper {
    /// Has figures be read where this configuration says, or nowhere.
    ///
    /// # Errors
    /// Why they cannot be read there, in words; it has been logged.
    pub(super) fn listen_for_metrics(&mut self, config: &Config) -> Result<(), String> {
        let wanted = config.settings.metrics.as_ref();
        if self.metrics_socket.as_ref().map(|(at, _)| at) == wanted {
            return Ok(());
        }
        // It removes its socket, which the next one may be at.
        self.metrics_socket = None;
        let Some(wanted) = wanted else { return Ok(()) };
        let MetricsSocket { path, group } = wanted;
        let checked = check_path(path, Leaf::Opened, self.cli.options());
        let readers = checked.map_err(|why| why.to_string()).and_then(|()| {
            Control::listen(Language::Http, path, group.as_deref()).map_err(|why| match why {
                // It need not be a knockd.
                DaemonError::Running { path, .. } => {
                    format!("another socket listens at {}: name another file", path.display())
                }
                why => why.to_string(),
            })
        });
        let readers = readers.map_err(|why| {
            format!("no metrics can be read at {}: {}", path.display(), self.rights.explain(why))
        });
        let readers = readers.inspect_err(|why| error!("{why}"))?;
        self.metrics_socket = Some((wanted.clone(), readers));
        Ok(())
    }

    /// Tells figures to those who have asked for them.
    pub(super) fn serve_metrics(&mut self, now: Now) {
        let Some((at, mut readers)) = self.metrics_socket.take() else { return };
        let asked = readers.poll(now.monotonic, |peer| self.watchers.include(peer));
        let began = clock::now().monotonic;
        for (id, _) in asked {
            let text = self.metrics(now, MetricsFormat::OpenMetrics);
            readers.reply(id, &Reply::Done { text });
        }
        readers.answered(began, clock::now().monotonic);
        self.metrics_socket = Some((at, readers));
    }

    /// All figures.
    pub(super) fn metrics(&self, now: Now, format: MetricsFormat) -> String {
        let mut registry = Registry::with_prefix("knockd");
        let mut add = |of, figure, values: Vec<_>| {
            registry.register_collector(Box::new(Series(of, figure, values)));
        };
        let Status { version, since, doors, counters, locked_out, listening, waiting_for, .. } =
            self.status(now);
        // A door that is no more has no figures.
        let names: BTreeSet<_> = doors.iter().map(|it| it.door.to_string()).collect();
        let is_there = |Metric(.., of): &Metric, labels: &[String]| {
            of.first() != Some(&"door") || labels[0].is_empty() || names.contains(&labels[0])
        };
        for figure in [REQUESTS, OPENED, CLOSED, LOCKOUTS, SEEN, DROPPED, RESTARTS] {
            let counts = self.watchers.intake.metrics.0.iter().chain(&self.doors.metrics.0);
            let counts = counts.filter(|((of, labels), _)| *of == figure && is_there(of, labels));
            let counts = counts.map(|((_, labels), &count)| (labels.clone(), count));
            add(MetricType::Counter, figure, counts.collect());
        }
        let rejected = counters.into_iter().map(|(reason, count)| (vec![reason], count)).collect();
        let help = "Packets, sequences and requests that came to nothing";
        add(MetricType::Counter, Metric("rejected", help, &["reason"]), rejected);

        let mut gauge =
            |name, help, labels, values| add(MetricType::Gauge, Metric(name, help, labels), values);
        gauge("build_info", "The version that runs", &["version"], vec![(vec![version], 1)]);
        let open = doors.iter().map(|it| (vec![it.door.to_string()], it.open as u64)).collect();
        gauge("grants_open", "Grants that stand", &["door"], open);
        let listening = listening.into_iter().map(|name| (vec![name], 1));
        let interfaces = listening.chain(waiting_for.into_iter().map(|name| (vec![name], 0)));
        let help = "Whether an interface is listened on";
        gauge("listening", help, &["interface"], interfaces.collect());
        let journal = &self.doors.journal;
        let not_closed = self.doors.not_closed().count() as u64;
        let refused = self.not_taken_up.is_some().into();
        for (name, help, value) in [
            ("start_time_seconds", "When it started, since 1970-01-01 UTC", since as u64),
            ("grants_not_closed", "Grants that no command could close", not_closed),
            ("locked_out", "Sources that are locked out", locked_out.len() as u64),
            ("configuration_refused", "Whether the configuration was not taken up", refused),
            ("ledger_failing", "Whether the ledger cannot be written", journal.is_failing.into()),
        ] {
            gauge(name, help, &[], vec![(Vec::new(), value)]);
        }
        if let Some(fleet) = self.fleet_status(now) {
            let connected = u8::from(fleet.link.state == FleetState::Joined).into();
            let lag = fleet.lag_seconds.unwrap_or_default();
            let heard = fleet.gateways.iter().filter(|it| it.heard_seconds_ago < 10.0).count();
            for (name, help, value) in [
                ("fleet_connected", "Whether the fleet's store answers", connected),
                ("fleet_gateways", "Gateways that spoke in the last 10 s", heard as f64),
                ("fleet_lag_seconds", "How long a word takes to the store and back", lag),
            ] {
                registry.register(name, help, ConstGauge::<f64>::new(value));
            }
            let alone = ConstCounter::new(fleet.alone);
            registry.register("fleet_requests_alone", "Requests decided without the store", alone);
        }
        let times = journal.ledger.write_times.clone();
        registry.register("ledger_write_seconds", "How long writes to the ledger took", times);
        let mut written = String::new();
        // To a text everything can be written.
        let _ = match format {
            MetricsFormat::OpenMetrics => text::encode(&mut written, &registry),
            MetricsFormat::Prometheus => prometheus_text::encode(&mut written, &registry),
        };
        written
    }
}
