//! `weir keys …`: makes, lists, shows, changes and revokes API keys in the store itself, with or without a running
//! proxy. Decides exit status and what is printed where; what a key is, is `logic::access`.

mod alter;
mod create;
mod error;
mod settings;
mod view;
mod written;

use crate::domain::ids::KeyId;
use crate::domain::units::WallMicros;
use crate::io::store::Store;
use crate::io::store::error::StoreError;
use crate::io::store::rows::{Actor, KeyFilter, MAX_PAGE, Page, StoredKey};
use crate::logic::access::api_key;
use create::Made;
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
    Create(Box<create::CreateArgs>),
    /// List keys
    List(ListArgs),
    /// Show one key, without its secret
    Show(OneArgs),
    /// Give a key a new secret; the old one stays good for a grace
    Rotate(alter::RotateArgs),
    /// End the grace of a rotated key: its old secret is refused from now on
    EndGrace(OneArgs),
    /// End a key for good
    Revoke(alter::RevokeArgs),
    /// Switch a key off for now
    Disable(OneArgs),
    /// Switch a key on again
    Enable(OneArgs),
    /// Change what is written on a key
    Update(Box<alter::UpdateArgs>),
    /// Take over keys of which only the SHA-256 is known
    Import(Box<create::ImportArgs>),
}

#[derive(clap::Args, Debug)]
struct ListArgs {
    /// Keys of this tenant alone
    #[arg(long, value_name = "T")]
    tenant: Option<String>,
    /// Keys that stand so
    #[arg(long, value_name = "STATUS", value_parser = ["active", "disabled", "expired", "revoked"])]
    status: Option<String>,
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
            Self::Show(args) | Self::EndGrace(args) | Self::Disable(args) | Self::Enable(args) => &args.output,
            Self::Rotate(args) => &args.one.output,
            Self::Revoke(args) => &args.one.output,
            Self::Update(args) => &args.output,
            Self::Import(args) => &args.output,
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

/// Who runs the command, for the audit log.
fn actor() -> Actor {
    let id = ["USER", "LOGNAME"].iter().find_map(|name| std::env::var(name).ok().filter(|user| !user.is_empty()));
    Actor { kind: "cli".to_owned(), id: id.unwrap_or_else(|| "unknown".to_owned()), tenant: None, request_id: None }
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
            Command::Create(args) => self.secret(&create::create(self, args)?, &args.output),
            Command::List(args) => self.list(args),
            Command::Show(args) => self.show(args),
            Command::Rotate(args) => self.secret(&alter::rotate(self, args)?, &args.one.output),
            Command::EndGrace(args) => self.one(&alter::end_grace(self, args)?, &args.output),
            Command::Revoke(args) => self.one(&alter::revoke(self, args)?, &args.one.output),
            Command::Disable(args) => self.one(&alter::switch(self, args, true)?, &args.output),
            Command::Enable(args) => self.one(&alter::switch(self, args, false)?, &args.output),
            Command::Update(args) => self.one(&alter::update(self, args)?, &args.output),
            Command::Import(args) => self.import(args),
        }
    }

    /// Shows a plaintext, this once.
    fn secret(&mut self, made: &Made, output: &Output) -> Result<(), KeysError> {
        if output.json {
            return self.json(&KeyView::of(&made.stored, self.now).with_key(&made.text));
        }
        writeln!(self.out, "{}", made.text.as_str())?;
        self.out.flush()?;
        let (id, tenant) = (&made.stored.key_id, &made.stored.tenant);
        writeln!(self.err, "key {id} of tenant {tenant}: keep it now, it cannot be shown again")?;
        if let Some(end) = made.stored.previous(self.now).and_then(|secret| secret.valid_until) {
            writeln!(self.err, "the secret before it is good until {}", view::stamp(end))?;
        }
        Ok(())
    }

    fn list(&mut self, args: &ListArgs) -> Result<(), KeysError> {
        let mut store = self.store()?;
        let filter = KeyFilter { tenant: args.tenant.clone(), ..KeyFilter::default() };
        let mut page = Page { after: None, limit: MAX_PAGE };
        let mut keys: Vec<StoredKey> = Vec::new();
        loop {
            let found = store.read()?.keys(&filter, &page)?;
            for fault in found.broken {
                writeln!(self.err, "warning: {}", StoreError::BrokenRow(fault))?;
            }
            keys.extend(found.rows);
            page.after = found.next;
            if page.after.is_none() {
                break;
            }
        }
        keys.retain(|key| args.status.as_deref().is_none_or(|status| key.standing(self.now) == status));
        keys.sort_by(|a, b| (a.created_at, &a.key_id).cmp(&(b.created_at, &b.key_id)));
        self.many(&keys, &args.output)
    }

    fn show(&mut self, args: &OneArgs) -> Result<(), KeysError> {
        let key_id = key_id(&args.key_id)?;
        let key = self.store()?.read()?.key(&key_id)?.ok_or(KeysError::NoSuchKey(key_id))?;
        self.one(&key, &args.output)
    }

    fn import(&mut self, args: &create::ImportArgs) -> Result<(), KeysError> {
        let imported = create::import(self, args)?;
        self.many(&imported, &args.output)
    }

    fn many(&mut self, keys: &[StoredKey], output: &Output) -> Result<(), KeysError> {
        let keys: Vec<KeyView<'_>> = keys.iter().map(|key| KeyView::of(key, self.now)).collect();
        if output.json {
            return self.json(&serde_json::json!({ "keys": keys }));
        }
        self.out.write_all(view::table(&keys).as_bytes())?;
        Ok(())
    }

    fn one(&mut self, key: &StoredKey, output: &Output) -> Result<(), KeysError> {
        let view = KeyView::of(key, self.now);
        if output.json {
            return self.json(&view);
        }
        self.out.write_all(view::card(&view).as_bytes())?;
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
