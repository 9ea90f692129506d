//! How keys are shown: JSON for scripts (design.md §2: members may be added, never renamed), a table and a card for
//! people. There is no secret in what it shows, but for the one of a key that was just made.

use crate::domain::units::WallMicros;
use crate::io::store::rows::{KeyStatus, StoredKey, StoredSecret};
use serde::Serialize;
use std::path::PathBuf;

/// What every subcommand takes.
#[derive(clap::Args, Debug)]
pub(super) struct Output {
    /// Configuration file [default: conf/weir.yaml, else /etc/weir/weir.yaml]
    #[arg(short = 'c', long = "config", value_name = "FILE")]
    pub(super) config: Option<PathBuf>,
    /// Print one JSON document
    #[arg(long)]
    pub(super) json: bool,
}

/// One key as scripts see it.
#[derive(Serialize)]
pub(super) struct KeyView<'a> {
    #[serde(skip_serializing_if = "Option::is_none")]
    key: Option<&'a str>,
    key_id: &'a str,
    tenant_id: &'a str,
    team_id: Option<&'a str>,
    user_id: Option<&'a str>,
    name: Option<&'a str>,
    models: Option<&'a [String]>,
    plan: Option<&'a str>,
    status: &'static str,
    secret_gen: u32,
    created_at: String,
    expires_at: Option<String>,
    endpoints: Option<&'a [String]>,
    addresses: Option<Vec<String>>,
    roles: Option<&'a [String]>,
    generations: Vec<GenerationView>,
    revoked_at: Option<String>,
    terminate_streams: bool,
}

/// A secret of a key that is good.
#[derive(Serialize)]
pub(super) struct GenerationView {
    secret_gen: u32,
    created_at: String,
    /// Null on the newest.
    valid_until: Option<String>,
}

impl<'a> KeyView<'a> {
    /// A key without its secret.
    pub(super) fn of(key: &'a StoredKey, now: WallMicros) -> Self {
        Self {
            key: None,
            key_id: key.key_id.as_str(),
            tenant_id: &key.tenant,
            team_id: key.team.as_deref(),
            user_id: key.user.as_deref(),
            name: key.name.as_deref(),
            models: key.models.as_deref(),
            plan: key.plan.as_deref(),
            status: key.standing(now),
            secret_gen: key.generation(),
            created_at: stamp(key.created_at),
            expires_at: key.expires_at.map(stamp),
            endpoints: key.endpoints.as_deref(),
            addresses: key.addresses.as_deref().map(|list| list.iter().map(ToString::to_string).collect()),
            roles: key.roles.as_deref(),
            generations: generations(key, now),
            revoked_at: key.revoked_at.map(stamp),
            terminate_streams: key.terminate_streams,
        }
    }

    /// The same with its plaintext; only `create` has it.
    pub(super) fn with_key(self, text: &'a str) -> Self {
        Self { key: Some(text), ..self }
    }

    /// What only the card of one key has room for.
    fn details(&self) -> Vec<(&'static str, String)> {
        let listed = |list: Option<&[String]>, none: &str| {
            list.map_or_else(|| none.to_owned(), |list| list.join(",").escape_debug().to_string())
        };
        let mut cells = vec![
            ("PATHS", listed(self.endpoints, "all")),
            ("FROM", listed(self.addresses.as_deref(), "all")),
            ("ROLES", listed(self.roles, "member")),
        ];
        for secret in &self.generations {
            let until = secret.valid_until.as_ref().map(|end| format!(", good until {end}")).unwrap_or_default();
            cells.push(("SECRET", format!("{}, made {}{until}", secret.secret_gen, secret.created_at)));
        }
        cells
    }

    /// What people see: label and value, `-` where there is none.
    fn cells(&self) -> [(&'static str, String); 10] {
        let or_dash = |text: Option<&str>| text.map_or_else(|| "-".to_owned(), |text| text.escape_debug().to_string());
        [
            ("KEY ID", self.key_id.to_owned()),
            ("NAME", or_dash(self.name)),
            ("TENANT", or_dash(Some(self.tenant_id))),
            ("TEAM", or_dash(self.team_id)),
            ("USER", or_dash(self.user_id)),
            ("MODELS", self.models.map_or_else(|| "all".to_owned(), |list| or_dash(Some(&list.join(","))))),
            ("PLAN", or_dash(self.plan)),
            ("STATUS", self.status.to_owned()),
            ("CREATED", self.created_at.clone()),
            ("EXPIRES", self.expires_at.clone().unwrap_or_else(|| "never".to_owned())),
        ]
    }
}

/// The secrets that are good; none of a revoked key.
fn generations(key: &StoredKey, now: WallMicros) -> Vec<GenerationView> {
    let good = |secret: &&StoredSecret| secret.valid_until.is_none_or(|end| end > now);
    let secrets = if key.status == KeyStatus::Revoked { &[] } else { key.secrets.as_slice() };
    let view = |secret: &StoredSecret| GenerationView {
        secret_gen: secret.generation,
        created_at: stamp(secret.created_at),
        valid_until: secret.valid_until.map(stamp),
    };
    secrets.iter().filter(good).map(view).collect()
}

/// Whole seconds, UTC: `2026-11-20T12:00:00Z`.
pub(super) fn stamp(at: WallMicros) -> String {
    let seconds = at.0.div_euclid(1_000_000);
    // Beyond the year 9999 there is no such text; the number then says it.
    jiff::Timestamp::from_second(seconds).map_or_else(|_| seconds.to_string(), |stamp| stamp.to_string())
}

/// All keys, one a line, columns aligned.
pub(super) fn table(keys: &[KeyView<'_>]) -> String {
    let rows: Vec<_> = keys.iter().map(KeyView::cells).collect();
    let Some(first) = rows.first() else { return "no keys\n".to_owned() };
    let labels: Vec<&str> = first.iter().map(|(label, _)| *label).collect();
    let width = |column: usize| {
        let cells = rows.iter().map(|row| row[column].1.chars().count());
        cells.max().unwrap_or_default().max(labels[column].len())
    };
    let widths: Vec<usize> = (0..labels.len()).map(width).collect();
    let mut text = line(labels.iter().copied(), &widths);
    for row in &rows {
        text.push_str(&line(row.iter().map(|(_, cell)| cell.as_str()), &widths));
    }
    text
}

fn line<'a>(cells: impl Iterator<Item = &'a str>, widths: &[usize]) -> String {
    let padded: Vec<String> = cells.zip(widths).map(|(cell, width)| format!("{cell:<width$}")).collect();
    format!("{}\n", padded.join("  ").trim_end())
}

/// One key, one member a line.
pub(super) fn card(key: &KeyView<'_>) -> String {
    let mut text = String::new();
    for (label, cell) in key.cells().into_iter().chain(key.details()) {
        text.push_str(&format!("{:<8} {cell}\n", label.to_lowercase()));
    }
    text
}
