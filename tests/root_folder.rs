//! Root folders of Debian, each made once and kept in the user's cache. Needs root and mmdebstrap.

use std::fs::{self, File};
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use rustix::fs::FlockOperation;

/// The folder that keeps them; or why none can be made or used here, where these tools are needed.
pub(crate) fn cache(tools: &[&str]) -> Result<PathBuf, String> {
    if !rustix::process::geteuid().is_root() {
        return Err("needs root".to_owned());
    }
    let path = std::env::var_os("PATH").unwrap_or_default();
    let missing: Vec<_> = tools
        .iter()
        .copied()
        .filter(|tool| !std::env::split_paths(&path).any(|folder| folder.join(tool).exists()))
        .collect();
    if !missing.is_empty() {
        return Err(format!("not installed: {}", missing.join(", ")));
    }
    let base = std::env::var_os("XDG_CACHE_HOME")
        .filter(|folder| !folder.is_empty())
        .map(PathBuf::from)
        .or_else(|| Some(PathBuf::from(std::env::var_os("HOME")?).join(".cache")))
        .ok_or("neither XDG_CACHE_HOME nor HOME is set")?;
    let cache = base.join("abukiks");
    remove_leftovers(&cache);
    Ok(cache)
}

/// Makes the root folder, unless an earlier run has: some 200 MB, in a minute or so.
pub(crate) fn make(cache: &Path, suite: &str, packages: &str, hook: Option<&str>) -> io::Result<PathBuf> {
    let root = cache.join(format!("{suite}+{}", packages.replace(',', "+")));
    fs::create_dir_all(cache)?;
    let lock = File::create(cache.join("lock"))?;
    rustix::fs::flock(&lock, FlockOperation::LockExclusive)?;
    if root.exists() {
        return Ok(root);
    }
    let half_made = cache.join("half-made");
    if half_made.exists() {
        fs::remove_dir_all(&half_made)?;
    }
    let _ = writeln!(io::stderr(), "making {} once", root.display());
    let mut command = Command::new("mmdebstrap");
    command
        .args(["--variant=minbase", "--include", packages])
        .args(hook)
        .arg(suite)
        .arg(&half_made)
        .stdin(Stdio::null());
    if let Some(mirror) = mirror() {
        command.arg(format!("deb {mirror} {suite} main"));
    }
    let output = command.output()?;
    if !output.status.success() {
        let log = String::from_utf8_lossy(&output.stderr).into_owned();
        let last = log.lines().last().unwrap_or("mmdebstrap failed").to_owned();
        return Err(io::Error::other(last));
    }
    fs::rename(half_made, &root)?;
    Ok(root)
}

/// Removes what test runs that were killed have left behind.
fn remove_leftovers(cache: &Path) {
    for entry in fs::read_dir(cache).into_iter().flatten().flatten() {
        let name = entry.file_name().to_string_lossy().into_owned();
        let pid = name.strip_prefix("abukiks-").and_then(|rest| rest.split('-').next());
        if pid.is_some_and(|pid| !Path::new("/proc").join(pid).exists()) {
            let _ = fs::remove_dir_all(entry.path());
        }
    }
}

/// Where this machine gets its Debian packages from; mmdebstrap knows a default.
fn mirror() -> Option<String> {
    let sources = fs::read_to_string("/etc/apt/sources.list.d/debian.sources").ok()?;
    let mirror = sources.lines().find_map(|line| line.strip_prefix("URIs:"))?;
    Some(mirror.split_whitespace().next()?.to_owned())
}
