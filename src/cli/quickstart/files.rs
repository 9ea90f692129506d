//! The two files of a quickstart: the configuration that runs, and `quickstart.env` for scripts. Decides their
//! text and puts them in place whole; starts nothing.

use super::ports::Ports;
use std::fmt::Write as _;
use std::fs::{self, OpenOptions};
use std::io::{self, Write as _};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

const TEMPLATE: &str = include_str!("template.yaml");

/// The name of the file for scripts, in the state directory.
pub const ENV_FILE: &str = "quickstart.env";

/// What a quickstart is made of, as scripts see it.
#[derive(Clone, Debug)]
pub struct Facts {
    /// Absolute.
    pub state_dir: PathBuf,
    /// Where the two listeners are.
    pub ports: Ports,
    /// Base URLs of the engines.
    pub engines: Vec<String>,
    /// The model that they all serve.
    pub model: String,
}

impl Facts {
    /// The configuration file.
    pub fn config(&self) -> PathBuf {
        self.state_dir.join("quickstart.yaml")
    }

    /// The file for scripts.
    pub fn env_file(&self) -> PathBuf {
        self.state_dir.join(ENV_FILE)
    }

    /// The configuration's text.
    pub fn config_text(&self) -> String {
        let mut backends = String::new();
        for (number, url) in self.engines.iter().enumerate() {
            // Writing to a String cannot fail.
            let _ = writeln!(backends, "      - {{ name: engine-{number}, url: \"{url}\" }}");
        }
        TEMPLATE
            .replace("{STATE_DIR}", &yaml_escaped(&self.state_dir))
            .replace("{PROXY}", &self.ports.proxy.to_string())
            .replace("{ADMIN}", &self.ports.admin.to_string())
            .replace("{MODEL}", &self.model)
            .replace("{BACKENDS}\n", &backends)
    }

    /// The text of `quickstart.env`: `NAME=value`, no quotes.
    pub fn env_text(&self, key: &str) -> String {
        format!(
            "WEIR_BASE_URL=http://{}\nWEIR_ADMIN_URL=http://{}\nWEIR_API_KEY={key}\nWEIR_MODEL={}\n\
             WEIR_USAGE_DB={}\nWEIR_CONFIG={}\nWEIR_ENGINES={}\n",
            self.ports.proxy,
            self.ports.admin,
            self.model,
            self.state_dir.join("usage.db").display(),
            self.config().display(),
            self.engines.join(","),
        )
    }
}

/// A path inside a double-quoted YAML scalar.
fn yaml_escaped(path: &Path) -> String {
    path.display().to_string().replace('\\', "\\\\").replace('"', "\\\"")
}

/// Puts `text` at `path` by a rename, readable by the owner alone (it may hold a key): readers see the old file or
/// the new one, never a half.
///
/// # Errors
/// What the file system says.
pub fn put(path: &Path, text: &str) -> io::Result<()> {
    let draft = path.with_extension(format!("draft-{}", std::process::id()));
    let mut file = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&draft)?;
    file.write_all(text.as_bytes())?;
    file.sync_all()?;
    fs::rename(&draft, path)
}

/// The key that an earlier quickstart left in the state directory, if any.
pub fn earlier_key(state_dir: &Path) -> Option<String> {
    let text = fs::read_to_string(state_dir.join(ENV_FILE)).ok()?;
    text.lines().find_map(|line| line.strip_prefix("WEIR_API_KEY=")).map(str::to_owned)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::quickstart::ports::Ports;

    fn facts(state_dir: &Path) -> Facts {
        let ports = Ports {
            proxy: "127.0.0.1:8080".parse().expect("an address"),
            admin: "127.0.0.1:9901".parse().expect("an address"),
        };
        let engines = vec!["http://127.0.0.1:8000".into(), "http://127.0.0.1:8001".into()];
        Facts { state_dir: state_dir.to_owned(), ports, engines, model: "sim-8b".into() }
    }

    #[test]
    fn the_env_file_holds_the_seven_names_without_quotes() {
        let text = facts(Path::new("/tmp/w")).env_text("sk-weir-x");
        let names: Vec<&str> = text.lines().filter_map(|line| Some(line.split_once('=')?.0)).collect();
        assert_eq!(
            names,
            [
                "WEIR_BASE_URL",
                "WEIR_ADMIN_URL",
                "WEIR_API_KEY",
                "WEIR_MODEL",
                "WEIR_USAGE_DB",
                "WEIR_CONFIG",
                "WEIR_ENGINES"
            ],
            "scripts rely on these names"
        );
        assert!(!text.contains('"'), "values are bare: {text}");
        assert!(text.contains("WEIR_ENGINES=http://127.0.0.1:8000,http://127.0.0.1:8001\n"), "commas: {text}");
        assert!(text.contains("WEIR_USAGE_DB=/tmp/w/usage.db\n"), "an absolute path: {text}");
    }

    #[test]
    fn no_placeholder_survives_in_the_configuration() {
        let text = facts(Path::new("/tmp/w")).config_text();
        let left: Vec<&str> = text.lines().filter(|line| line.contains("{STATE") || line.contains("{B")).collect();
        assert!(left.is_empty(), "every placeholder is filled: {left:?}");
        assert_eq!(text.matches("{ name: engine-").count(), 2, "one backend per engine: {text}");
    }

    #[test]
    fn the_configuration_is_yaml_even_where_the_path_has_quotes() {
        let text = facts(Path::new("/tmp/a \"b\" \\c")).config_text();
        let parsed: serde_yaml::Value = serde_yaml::from_str(&text).expect("valid YAML");
        let state_dir = parsed.get("server").and_then(|s| s.get("state_dir")).and_then(|v| v.as_str());
        assert_eq!(state_dir, Some("/tmp/a \"b\" \\c"), "the path survives quoting");
    }

    #[test]
    fn a_key_written_is_the_key_found_and_only_the_owner_may_read_it() {
        use std::os::unix::fs::PermissionsExt;
        let dir = tempfile::tempdir().expect("a directory");
        assert_eq!(earlier_key(dir.path()), None, "an empty directory has no key");
        let facts = facts(dir.path());
        put(&facts.env_file(), &facts.env_text("sk-weir-x")).expect("the directory is writable");
        assert_eq!(earlier_key(dir.path()).as_deref(), Some("sk-weir-x"), "the key comes back");
        let mode = fs::metadata(facts.env_file()).expect("it is there").permissions().mode();
        assert_eq!(mode & 0o077, 0, "nobody else may read a key: {mode:o}");
        assert_eq!(fs::read_dir(dir.path()).expect("readable").count(), 1, "no draft stays behind");
    }
}
