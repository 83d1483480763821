//! The admin processes that need another attached resource than Redis: a store of backups, by its URL.
//!
//! * [`arguments`]: the command lines, which the manual pages are made of too.
//! * [`backup`]: one backup as it is written, and what makes it whole.
//! * [`backups`]: the backups of one counter, in the store that `BACKUP_URL` names.
//! * [`variables`]: the environment, and the systemd credential for secrets.

pub mod arguments;
pub mod backup;
pub mod backups;
pub mod variables;
