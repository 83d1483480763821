//! HTTP: accepts connections within limits, serves them, and drains them at the end.

pub mod app;
mod badge;
mod client;
mod connection;
mod connections;
mod cookie;
mod cors;
mod drain;
mod negotiation;
mod page;
mod request;
mod request_id;
mod routes;
pub mod server;
mod socket;
mod status;
mod validate;
