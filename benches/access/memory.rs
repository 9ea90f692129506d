//! How much memory a million keys take: resident memory of a process that loads them, less that before. With ten
//! thousand users, whose keys share profiles, and with a user for each key, so that none share.

use super::Failure;
use super::store::{self, Filled, KEYS};
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};
use weir::io::keys::Keys;

/// Names the store to the process that is measured.
pub const STORE: &str = "WEIR_BENCH_STORE";

/// Measures both kinds, each in a process of its own.
pub fn figures(filled: &Filled) -> Result<(), Failure> {
    measured("shared profiles", &filled.path)?;
    let own = filled.path.with_file_name("own.db");
    rusqlite::Connection::open(&filled.path)?.execute("VACUUM INTO ?1", [own.to_string_lossy()])?;
    rusqlite::Connection::open(&own)?.execute("UPDATE api_keys SET user_id = 'user-' || key_id", [])?;
    measured("a profile for each", &own)
}

fn measured(what: &str, path: &Path) -> Result<(), Failure> {
    let output = Command::new(std::env::current_exe()?).env(STORE, path).output()?;
    if !output.status.success() {
        return Err(String::from_utf8_lossy(&output.stderr).into_owned().into());
    }
    print!("memory, {what}: {}", String::from_utf8_lossy(&output.stdout));
    Ok(())
}

/// Loads the store and says what that took.
pub fn child(path: &Path) -> Result<(), Failure> {
    let (clock, pepper) = (store::clock(), store::pepper()?);
    let before = resident("VmRSS:")?;
    let start = Instant::now();
    let keys = Keys::load(&store::settings(path), pepper, Duration::from_secs(3_600), clock)?;
    let took = start.elapsed();
    let after = resident("VmRSS:")?;
    let (held, peak) = (after - before, resident("VmHWM:")? - before);
    let each = held * 1_024.0 * 1_024.0 / KEYS as f64;
    println!("{held:.0} MiB resident ({each:.0} bytes a key), {peak:.0} MiB at most, loaded in {took:.1?}");
    drop(keys);
    Ok(())
}

/// A figure of `/proc/self/status`, in MiB.
fn resident(name: &str) -> Result<f64, Failure> {
    let status = std::fs::read_to_string("/proc/self/status")?;
    let line = status.lines().find_map(|line| line.strip_prefix(name)).ok_or("no such line")?;
    let kib: f64 = line.trim().trim_end_matches("kB").trim().parse()?;
    Ok(kib / 1_024.0)
}
