//! The command lines, apart from what they do: the manual pages and completions are made of them too.

use abukiks::cli;

/// The end of the help of `mail-report`.
const AFTER_REPORT: &str = "\
MAIL_URL names the mail server: smtp://[USER@]HOST[:PORT], where STARTTLS is required (?tls=off forgoes it), or \
smtps://[USER@]HOST[:PORT]. MAIL_PASSWORD is the password, unless the URL holds it. Both may be in a file that \
MAIL_URL_FILE or MAIL_PASSWORD_FILE names, or in the systemd credentials mail-url and mail-password. MAIL_FROM is \
an address, MAIL_TO one or more, with commas. MAIL_CA_FILE names a PEM file with the certificate authorities to \
trust instead of the system's. MAIL_TIMEOUT is the time for sending; default: 30s. MAIL_EVERY is the period; \
default: 1day.
Reads the same environment variables as the service, too; see `abukiks --help`.
Exit status: 0 done or sent already, 64 wrong usage, 65 what stands in Redis cannot be used, 69 Redis or the mail \
server is unreachable or cannot be used, 74 stdout cannot be written to, 75 the mail server refuses for now, 77 the \
mail server refuses for good, 78 a setting is wrong.";

/// The end of the help of `backup-count` and `restore-count`.
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

/// Mails the count, the visits since the last report, and what `check-redis` says.
///
/// Sends one report in each period, however often and on however many hosts it runs. A second host waits until
/// the first one has sent, and sends in its place where that fails. What was sent is kept in Redis.
#[derive(Debug, clap::Parser)]
#[command(name = "mail-report", version = cli::BUILD.as_str(), after_help = AFTER_REPORT)]
pub struct ReportArguments {
    /// Send a further report in a period that has had one.
    #[arg(long, conflicts_with = "dry_run")]
    pub again: bool,
    /// Print the mail that would be sent, and do nothing.
    #[arg(long)]
    pub dry_run: bool,
    /// Print a JSON object.
    #[arg(long)]
    pub json: bool,
}
