//! What the process tells of itself: metrics, and log events on their way to the journal or to stdout.

pub mod access_log;
pub mod logging;
pub mod metrics;
pub(crate) mod recent;
pub mod stdout;
