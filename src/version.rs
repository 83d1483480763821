//! Which build this is.

/// The version of this build.
pub const VERSION: &str = env!("CARGO_PKG_VERSION");

/// The commit that this build was made from, or `unknown` where the builder named none.
pub const COMMIT: &str = match option_env!("ABUKIKS_COMMIT") {
    Some(commit) => commit,
    None => "unknown",
};
