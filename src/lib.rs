//! Abukiks counts its visitors: a twelve-factor service, complete and small enough to be copied.
//!
//! # The house
//!
//! Imports go down only, from [`cli`] and [`http`] to [`telemetry`] and [`process`], and no files
//! import each other in a circle (`tests/floors.rs`).
//!
//! * [`cli`]: arguments, exit statuses and what all programs of this package share.
//! * [`http`]: accepts connections within limits, serves them, and drains them at the end. The way of a
//!   request is `server`, `connection`, `validate`, `routes`, and back with the answer. `connection`
//!   then logs the request.
//! * [`counter`]: gathers the visits that wait into one batch, has it counted, and gives each visit its
//!   own number.
//! * [`store`]: reaches Redis and counts a batch exactly once, however often it is sent.
//! * [`config`]: every setting in one typed place.
//! * [`telemetry`]: metrics, logs, and the way of log lines to stdout.
//! * [`process`]: sockets from systemd, signals, and messages to the service manager.
//!
//! # Words
//!
//! One noun for each thing, and no other thing has it:
//!
//! * *stream*: bytes to a Redis server and back, over TCP, a unix socket or TLS.
//! * *socket*: what a client comes in by: a listening socket, or one that was accepted from it.
//! * *connection*: an HTTP connection, from accept to close.
//! * *Redis session*: a stream to any Redis server on which this process has logged in.
//! * *visitor session*: what Redis keeps of a visitor who may come back.
//! * *link*: the Redis session with the server that counts, with the keys of the counter.
//! * *store*: the settings by which links are opened.

pub mod cli;
pub mod config;
pub mod counter;
pub mod http;
pub mod process;
pub mod store;
pub mod telemetry;
mod version;

pub use version::{COMMIT, VERSION};
