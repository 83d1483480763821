//! The command lines, apart from what they do: the manual pages and completions are made of them too.

use abukiks::cli;

/// The end of each help.
const AFTER_HELP: &str = "\
BACKUP_URL names the store of backups: s3://BUCKET/PREFIX, gs://BUCKET/PREFIX, az://CONTAINER/PREFIX or \
file:///FOLDER. BACKUP_KEEP is how many are kept; default: 30. The store's own variables are the usual ones \
(AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY, AWS_ENDPOINT_URL, AWS_CA_BUNDLE, GOOGLE_..., AZURE_...). The systemd \
credential backup-env may hold any of them, one NAME=value a line.
Reads the same environment variables as the service, too; see `abukiks --help`.
Exit status: 0 done, 64 wrong usage, 65 the count or the backups cannot be used, 69 Redis or the store of \
backups is unreachable or refuses, 71 the clock is behind the newest backup, 74 stdout cannot be written to, \
78 a setting is wrong.";

/// Writes the count into the store of backups, as a new object.
///
/// Refuses the count of a Redis that has lost data. Then removes the oldest backups, beyond the number to keep.
#[derive(Debug, clap::Parser)]
#[command(name = "backup-count", version = cli::BUILD.as_str(), after_help = AFTER_HELP)]
pub struct BackupArguments {
    /// Print a JSON object.
    #[arg(long)]
    pub json: bool,
}

/// Shows the backups, and sets the count to the newest that is whole.
///
/// Safe while instances count: a visit is counted either before or on top of it. A count that is not lower
/// stays as it is.
#[derive(Debug, clap::Parser)]
#[command(name = "restore-count", version = cli::BUILD.as_str(), after_help = AFTER_HELP)]
pub struct RestoreArguments {
    /// Set the count also where that lowers it.
    #[arg(long)]
    pub down: bool,
    /// Say what would be done, and do nothing.
    #[arg(long)]
    pub dry_run: bool,
    /// Print a JSON object.
    #[arg(long)]
    pub json: bool,
}
