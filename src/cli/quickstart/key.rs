//! The one key of a quickstart: the one that an earlier run left, if it still works, else a new one.
//!
//! Goes through the `weir keys` command, as any script would, so that this file knows neither store nor pepper.

use std::path::Path;
use std::process::{Command, Stdio};

/// Why there is no key.
#[derive(Debug, thiserror::Error)]
pub enum KeyError {
    /// The command could not be started.
    #[error("cannot run `weir keys`: {0}")]
    Start(#[from] std::io::Error),
    /// The command refused; its own words.
    #[error("`weir keys create` failed: {0}")]
    Refused(String),
    /// The command's output is not what it promises.
    #[error("`weir keys create --json` printed no key: {0}")]
    Shape(serde_json::Error),
}

#[derive(serde::Deserialize)]
struct Created {
    key: String,
}

#[derive(serde::Deserialize)]
struct Shown {
    status: String,
}

/// The key to print: `earlier`, if the store still knows it as active, else a new one.
///
/// # Errors
/// [`KeyError`]
pub fn obtain(exe: &Path, config: &Path, earlier: Option<String>) -> Result<String, KeyError> {
    if let Some(key) = earlier
        && is_active(exe, config, &key)?
    {
        return Ok(key);
    }
    let output = Command::new(exe)
        .args(["keys", "create", "--name", "quickstart", "--json", "-c"])
        .arg(config)
        .stdin(Stdio::null())
        .output()?;
    if !output.status.success() {
        return Err(KeyError::Refused(String::from_utf8_lossy(&output.stderr).trim().to_owned()));
    }
    let created: Created = serde_json::from_slice(&output.stdout).map_err(KeyError::Shape)?;
    Ok(created.key)
}

fn is_active(exe: &Path, config: &Path, key: &str) -> Result<bool, KeyError> {
    let Some(id) = key_id(key) else { return Ok(false) };
    let output =
        Command::new(exe).args(["keys", "show", id, "--json", "-c"]).arg(config).stdin(Stdio::null()).output()?;
    // A store without this key (a wiped directory) refuses: that is an answer, not a failure.
    let shown = serde_json::from_slice::<Shown>(&output.stdout).ok();
    Ok(output.status.success() && shown.is_some_and(|shown| shown.status == "active"))
}

/// The third part of `sk-TAG-ID-SECRET`.
fn key_id(key: &str) -> Option<&str> {
    let mut parts = key.split('-');
    (parts.next() == Some("sk")).then_some(())?;
    parts.nth(1).filter(|id| !id.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::path::PathBuf;

    /// Written by another process: an open write handle of this one, inherited by a test that forks just then, would
    /// make the start fail with "text file busy".
    fn weir(dir: &Path, text: &str) -> PathBuf {
        let path = dir.join("weir");
        let write = "printf '#!/bin/sh\\n%s\\n' \"$1\" > \"$0\" && chmod 755 \"$0\"";
        let status = std::process::Command::new("/bin/sh").args(["-c", write]).arg(&path).arg(text).status();
        assert!(status.expect("a shell").success(), "the directory is writable");
        path
    }

    const NEW: &str = r#"[ "$2" = create ] && echo '{"key":"sk-weir-new-s","key_id":"new"}' && exit 0"#;

    #[test]
    fn the_id_is_the_third_part() {
        assert_eq!(key_id("sk-weir-0123456789ab-secretcrc"), Some("0123456789ab"), "as semantics 4 has it");
        assert_eq!(key_id("pk-weir-0123456789ab-secretcrc"), None, "another kind of thing");
        assert_eq!(key_id("sk-weir"), None, "cut off");
    }

    #[test]
    fn an_earlier_key_is_kept_while_it_is_active_and_replaced_when_it_is_not() {
        let dir = tempfile::tempdir().expect("a directory");
        let earlier = Some("sk-weir-old-s".to_owned());
        for (status, expected) in [("active", "sk-weir-old-s"), ("revoked", "sk-weir-new-s")] {
            let exe = weir(dir.path(), &format!("{NEW}\necho '{{\"status\":\"{status}\"}}'"));
            let key = obtain(&exe, Path::new("x.yaml"), earlier.clone()).expect("a key");
            assert_eq!(key, expected, "the earlier key is {status}");
        }
    }

    #[test]
    fn a_refusal_is_told_in_the_commands_own_words() {
        let dir = tempfile::tempdir().expect("a directory");
        let exe = weir(dir.path(), "echo 'x.yaml:3:1: no such tenant' >&2; exit 1");
        let error = obtain(&exe, Path::new("x.yaml"), None).expect_err("it refused").to_string();
        assert!(error.ends_with("x.yaml:3:1: no such tenant"), "shows why: {error}");
    }
}
