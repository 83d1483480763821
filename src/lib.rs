//! Abukiks counts its visitors: a twelve-factor service, complete and small enough to be copied.
//!
//! # The way of a request
//!
//! [`listener`] takes the socket that systemd hands over, or binds one. [`server`] accepts from it
//! within its limits (in several `workers` if told so) and, at the end, drains what it accepted. `connection` serves one of them and
//! notes what it is doing. `fields` finds what the request says, `framing` refuses what is not quite
//! HTTP; [`routes`] decides who answers the rest. [`counter`] joins the visit to the others that wait (in the room that `waiting` is), [`store`] has Redis count them
//! all with one command (by `resp` on a `stream`, over `tls` for `rediss://`; `sentinel` finds the
//! master), and each gets its own number. `page` says it as text, HTML or JSON, and [`telemetry`] writes one event, which
//! [`output`] takes to stdout.
//!
//! Around it: [`config`] is every setting, [`event_loop`] what a thread waits for, [`lifecycle`] how
//! the process starts and ends, [`metrics`] what it measures, `correlation` what ties a request to its traces elsewhere, and
//! [`admin`] what the one-off processes share.

pub mod admin;
pub mod config;
mod connection;
mod correlation;
pub mod counter;
pub mod event_loop;
mod fields;
mod framing;
pub mod lifecycle;
pub mod listener;
pub mod metrics;
pub mod output;
mod page;
mod resp;
pub mod routes;
mod sentinel;
pub mod server;
pub mod store;
mod stream;
pub mod telemetry;
#[cfg(feature = "tls")]
pub mod tls;
mod waiting;
mod workers;

/// The version of this build.
pub const VERSION: &str = env!("CARGO_PKG_VERSION");

/// The commit that this build was made from, as far as the builder has said.
pub const COMMIT: &str = match option_env!("ABUKIKS_COMMIT") {
    Some(commit) => commit,
    None => "unknown",
};
