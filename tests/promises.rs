//! What Abukiks promises, each promise in a file of its own, proved with real processes and a real
//! redis-server. `support` starts and speaks to them; it asserts nothing about Abukiks itself. Only
//! `simulation` has neither, because no process can run in its network, nor `fuzzing`.

#![allow(clippy::expect_used, clippy::unwrap_used, reason = "a test that cannot go on has failed")]

mod crowd;
mod load;
mod machine;
mod podman;
mod proxy;
mod root_folder;
mod support;

mod access;
mod activation;
mod admin;
mod alerts;
mod batching;
mod cluster;
mod collectors;
mod config;
mod contract;
mod cost;
mod counting;
mod dashboard;
mod deploy;
mod documentation;
mod drain;
mod durability;
mod embedding;
mod faults;
mod floors;
mod framing;
mod fuzzing;
mod going_back;
mod http;
mod image;
mod journal_cost;
mod kubernetes;
mod lifecycle;
mod limits;
mod logs;
mod monitors;
mod nix;
mod nixos;
mod outages;
mod packages;
mod page;
mod proxies;
mod redis_url;
mod rename;
mod replication;
mod reproducible;
mod run;
mod sentinel;
mod sessions;
mod simulation;
mod status;
mod switching;
mod systemd;
mod top;
mod twelve_factors;
mod versions;
mod visitors;
mod workflows;
