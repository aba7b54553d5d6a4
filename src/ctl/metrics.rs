//! `knockctl metrics`: the figures of a running daemon, for monitoring.

use std::io::{self, Write};
use std::path::PathBuf;

use super::{Error, Target, Timeout};
use crate::control::{MetricsFormat, Request};
use crate::sys::files;

#[derive(Clone, Debug, clap::Args)]
pub(super) struct MetricsArgs {
    /// Replace this file, for the textfile collector of node_exporter
    #[arg(long, value_name = "FILE.prom")]
    textfile: Option<PathBuf>,
}

pub(super) fn run(target: &Target, args: &MetricsArgs) -> Result<(), Error> {
    let ask = |format| target.text(&Request::Metrics { format }, Timeout::Reply);
    let Some(path) = &args.textfile else {
        return Ok(io::stdout().write_all(ask(MetricsFormat::OpenMetrics)?.as_bytes())?);
    };
    let text = ask(MetricsFormat::Prometheus)?;
    // Another user's program reads it.
    let written = files::replace_with_mode(path, text.as_bytes(), 0o644);
    written.map_err(|error| Error::Unfit(format!("cannot write {}: {error}", path.display())))
}
