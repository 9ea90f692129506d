//! `weir keys …`: makes, lists, shows and revokes API keys in the store itself, with or without a running proxy.
//! Decides exit status and what is printed where; what a key is, is `logic::access`.

mod create;
mod error;
mod settings;
mod view;

use crate::domain::ids::KeyId;
use crate::domain::units::WallMicros;
use crate::io::store::Store;
use crate::io::store::error::StoreError;
use crate::logic::access::api_key;
use error::KeysError;
pub use settings::{KeySettings, settings};
use std::io::{self, Write};
use std::process::ExitCode;
use std::time::{SystemTime, UNIX_EPOCH};
use view::{KeyView, Output};

/// `weir keys`
#[derive(clap::Args, Debug)]
pub struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(clap::Subcommand, Debug)]
enum Command {
    /// Make a key; prints it once, nobody can show it again
    Create(create::Args),
    /// List all keys
    List(ListArgs),
    /// Show one key, without its secret
    Show(OneArgs),
    /// End a key for good
    Revoke(OneArgs),
}

#[derive(clap::Args, Debug)]
struct ListArgs {
    #[command(flatten)]
    output: Output,
}

#[derive(clap::Args, Debug)]
struct OneArgs {
    /// The key's id: the 12 letters behind `sk-TAG-`
    #[arg(value_name = "KEY_ID")]
    key_id: String,
    #[command(flatten)]
    output: Output,
}

impl Command {
    fn output(&self) -> &Output {
        match self {
            Self::Create(args) => &args.output,
            Self::List(args) => &args.output,
            Self::Show(args) | Self::Revoke(args) => &args.output,
        }
    }
}

/// Runs the command. Status 0: done, 1: refused or failed (words on standard error).
#[must_use]
pub fn run(args: &Args) -> ExitCode {
    let output = args.command.output();
    let done =
        settings(&settings::config_file(output.config.as_deref())).map_err(KeysError::Config).and_then(|settings| {
            let mut desk =
                Desk { settings: &settings, now: now(), out: &mut io::stdout().lock(), err: &mut io::stderr() };
            desk.run(&args.command)
        });
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error}");
            ExitCode::from(1)
        }
    }
}

fn now() -> WallMicros {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    WallMicros(i64::try_from(since.as_micros()).unwrap_or(i64::MAX))
}

/// Where a command works: tests give it their own clock and outputs.
struct Desk<'a> {
    settings: &'a KeySettings,
    now: WallMicros,
    out: &'a mut dyn Write,
    /// Words for people.
    err: &'a mut dyn Write,
}

impl Desk<'_> {
    fn run(&mut self, command: &Command) -> Result<(), KeysError> {
        match command {
            Command::Create(args) => self.create(args),
            Command::List(args) => self.list(&args.output),
            Command::Show(args) => self.show(args),
            Command::Revoke(args) => self.revoke(args),
        }
    }

    fn create(&mut self, args: &create::Args) -> Result<(), KeysError> {
        let made = create::create(args, self.settings, self.now)?;
        if args.output.json {
            return self.json(&KeyView::of(&made.stored, self.now).with_key(&made.text));
        }
        writeln!(self.out, "{}", made.text.as_str())?;
        self.out.flush()?;
        let (id, tenant) = (&made.stored.key_id, &made.stored.tenant);
        writeln!(self.err, "key {id} of tenant {tenant}: keep it now, it cannot be shown again")?;
        Ok(())
    }

    fn list(&mut self, output: &Output) -> Result<(), KeysError> {
        let rows = self.store()?.list()?;
        for fault in &rows.broken {
            writeln!(self.err, "warning: {fault}")?;
        }
        let keys: Vec<KeyView<'_>> = rows.keys.iter().map(|key| KeyView::of(key, self.now)).collect();
        if output.json {
            return self.json(&serde_json::json!({ "keys": keys }));
        }
        self.out.write_all(view::table(&keys).as_bytes())?;
        Ok(())
    }

    fn show(&mut self, args: &OneArgs) -> Result<(), KeysError> {
        let key_id = key_id(&args.key_id)?;
        let key = self.store()?.find(&key_id)?.ok_or(KeysError::NoSuchKey(key_id))?;
        self.one(&KeyView::of(&key, self.now), &args.output)
    }

    fn revoke(&mut self, args: &OneArgs) -> Result<(), KeysError> {
        let key_id = key_id(&args.key_id)?;
        let key = self.store()?.revoke(&key_id, self.now)?.ok_or(KeysError::NoSuchKey(key_id))?;
        self.one(&KeyView::of(&key, self.now), &args.output)
    }

    fn one(&mut self, view: &KeyView<'_>, output: &Output) -> Result<(), KeysError> {
        if output.json {
            return self.json(view);
        }
        self.out.write_all(view::card(view).as_bytes())?;
        Ok(())
    }

    fn json(&mut self, document: &impl serde::Serialize) -> Result<(), KeysError> {
        serde_json::to_writer(&mut *self.out, document)?;
        writeln!(self.out)?;
        Ok(self.out.flush()?)
    }

    fn store(&self) -> Result<Store, StoreError> {
        Store::open(&self.settings.store)
    }
}

/// Reads an id. What is no id is not repeated: it may be a whole key, and messages end in logs.
fn key_id(text: &str) -> Result<KeyId, KeysError> {
    if api_key::parse_id(text).is_some() {
        return Ok(KeyId::new(text));
    }
    let whole = api_key::parse(text.as_bytes()).is_ok();
    let hint = if whole { ": this is a whole key, name it by the third of its parts" } else { "" };
    Err(KeysError::Refused(format!("a key id is 12 letters or digits{hint}")))
}

#[cfg(test)]
mod tests;
