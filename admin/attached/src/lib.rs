//! The admin processes that need another attached resource than Redis: a store of backups, or a mail server, by
//! its URL.
//!
//! * [`arguments`]: the command lines, which the manual pages are made of too.
//! * [`backup`]: one backup as it is written, and what makes it whole.
//! * [`backups`]: the backups of one counter, in the store that `BACKUP_URL` names.
//! * [`chart`]: the picture of the last reports.
//! * [`letter`]: what a report says, as a mail.
//! * [`mail`]: the mail server that `MAIL_URL` names.
//! * [`reports`]: what was sent, and whose turn it is to send.
//! * [`variables`]: the environment, and the systemd credential for secrets.

pub mod arguments;
pub mod backup;
pub mod backups;
pub mod chart;
pub mod letter;
pub mod mail;
pub mod reports;
pub mod variables;
